-- rebuild: views made anew from events

CREATE FUNCTION event_store.rebuild_view(view_name text, aggregate_type text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_rebuild_view';
COMMENT ON FUNCTION event_store.rebuild_view(text, text) IS
$$Makes a view anew from the events of all aggregates of a type: a row for each, with view_key = aggregate_id, view_data = its state and version = the sequence of its last event. Returns how many rows were written.
All at once: readers see the old rows until the transaction commits and the new ones after it. Rows of aggregates that have no events or whose state is NULL are removed. A row that was put meanwhile stays if its version is that of an event which the rebuild has not seen. What is staged becomes durable first.
It goes on from the steps of rebuild_view_step, if there are any, and from the start after set_reducer. Writers of the view wait only while its rows are exchanged, until the end of the transaction. rebuild_status shows how far it is.
Errors: VS008 a projection keeps the view; 22004, 22023, 22001 as usual; 25006; 40001 at REPEATABLE READ and above when another transaction has written the view since; 55000; whatever the reducer raises, with the event in the context.
Example: SELECT event_store.rebuild_view('OrderSummary', 'Order');$$;

CREATE FUNCTION event_store.rebuild_view_step(view_name text, aggregate_type text, max_count int)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_rebuild_view_step';
COMMENT ON FUNCTION event_store.rebuild_view_step(text, text, int) IS
$$Does a part of rebuild_view: folds the next max_count aggregates and keeps their states aside. When fewer are left it completes the rebuild, with what has been appended since, and returns true.
Call it until it returns true, each time in a transaction of its own: what has committed is not folded again, not after a cancel or a crash either. rebuild_view completes what steps have begun, as well.
Errors: as rebuild_view; 22004 max_count is NULL, 22023 it is not positive.
Example: SELECT event_store.rebuild_view_step('OrderSummary', 'Order', 1000);$$;

CREATE FUNCTION event_store.rebuild_state(
        OUT view_name text, OUT aggregate_type text, OUT done bigint, OUT total bigint,
        OUT rate double precision, OUT started_at timestamptz, OUT pid int)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_rebuild_state';
COMMENT ON FUNCTION event_store.rebuild_state() IS
'Internal: the rows of the view rebuild_status.';

CREATE VIEW event_store.rebuild_status AS
SELECT r.view_name, r.aggregate_type, r.done, r.total, r.rate, r.started_at, r.pid
  FROM event_store.rebuild_state() r;
COMMENT ON VIEW event_store.rebuild_status IS
$$Rebuilds of views that run now, up to 16 at a time, and those whose steps have begun and not ended.
done and total: aggregates; what is appended meanwhile may add to total. rate: aggregates a second since started_at; NULL, as pid, while no call runs. Running ones are seen when the library is preloaded.
Example: SELECT view_name, done, total, rate FROM event_store.rebuild_status;$$;
