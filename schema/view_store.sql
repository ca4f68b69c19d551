-- event_store: writing and loading views

CREATE FUNCTION event_store.put_view(
    view_name text, view_key text, view_data jsonb, version bigint DEFAULT NULL,
    durability text DEFAULT NULL, expected_version bigint DEFAULT NULL)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_put_view';
COMMENT ON FUNCTION event_store.put_view(text, text, jsonb, bigint, text, bigint) IS
$$Sets the value of one key of a view. Returns false, and changes nothing, if the version is not newer than the known one.
view_name, view_key: 1 to 255 characters. view_data: any JSON value, up to 256 MB. version: any number that grows with the value, such as the sequence of the last event in it; NULL = none: the value always wins, and so does the next one. durability: durable, grouped (a transaction of its own, committed together with what others write), staged or NULL = event_store.durability. expected_version: the row, staged or durable, must have this version, 0 = there must be no row; else VS001 and nothing is written. A row without a version is never the expected one, and 0 is never that of a row: give versions from 1 on. NULL = no check. The key stays locked until the transaction ends.
Errors: VS001 version conflict, its detail a JSON object with view_name, view_key, expected and actual (0 = no row, null = a row without version), VS004 staging full, VS008 a projection keeps the view, 22004 NULL, 22023 empty or unknown durability, 22001 too long, 25001 grouped by the argument in a transaction block, 40001 at REPEATABLE READ and above when another transaction has written the key since, 54000 larger than 256 MB, 25006, 55000.
Example: SELECT event_store.put_view('OrderSummary', 'o-1', '{"total": "19.99"}', 1);$$;

CREATE FUNCTION event_store.put_views(
    view_name text, view_keys text[], view_data jsonb[], versions bigint[] DEFAULT NULL,
    durability text DEFAULT NULL, expected_versions bigint[] DEFAULT NULL)
    RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_put_views';
COMMENT ON FUNCTION event_store.put_views(text, text[], jsonb[], bigint[], text, bigint[]) IS
$$Sets the values of many keys of a view in one call, each as put_view does; returns how many were accepted. Of a repeated key only the last one counts.
view_keys, view_data, versions: arrays of one dimension and equal length; only versions and expected_versions may contain NULL, or be NULL as a whole. expected_versions: as in put_view; one conflict refuses all. With it a key may come several times: each element is judged by the row as the elements before it leave it, the last one accepted stays, and the key counts once. Empty arrays write nothing. Each key takes one lock until the transaction ends; raise max_locks_per_transaction for calls of many thousands.
Errors: as put_view; 22004 NULL inside view_keys or view_data; 22023 arrays of different length or more than one dimension.
Example: SELECT event_store.put_views('OrderSummary', ARRAY['o-1', 'o-2'], ARRAY['{"total": "19.99"}', '{"total": "5.00"}']::jsonb[], ARRAY[2, 1]);$$;

CREATE FUNCTION event_store.load_view(
    view_name text, view_key text, for_update boolean DEFAULT false)
    RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_load_view';
COMMENT ON FUNCTION event_store.load_view(text, text, boolean) IS
$$Returns the value of one key of a view, staged or durable; NULL when there is none.
view_name, view_key: 1 to 255 characters. for_update: locks the key, whether it has a row or not, until the transaction ends, and returns its latest value: who puts or deletes it, or loads it for update, waits. To change a value, load it for update and put it in one transaction, or put it with expected_version; several keys are loaded for update in one order, else 40P01. It needs EXECUTE on put_view.
Errors: 22004 NULL, 22023 empty, 22001 too long, 55000; for update also 40001 at REPEATABLE READ and above when another transaction has written the key since, 40P01, 42501, 25006.
Example: SELECT event_store.load_view('OrderSummary', 'o-1');$$;

CREATE FUNCTION event_store.load_views(
    view_name text, view_keys text[] DEFAULT NULL, after_key text DEFAULT NULL,
    max_count int DEFAULT NULL)
    RETURNS TABLE (view_key text, view_data jsonb, version bigint, updated_at timestamptz)
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', 'es_load_views';
COMMENT ON FUNCTION event_store.load_views(text, text[], text, int) IS
$$Returns the rows of a view, staged or durable, in the order of their keys' bytes (collation "C").
view_keys: only these keys; those without a row are left out; NULL = all. after_key: only keys behind this one, to page with; NULL = from the first. max_count: at most this many rows; NULL = all. updated_at is the time of the last put, staged or not.
Errors: 22004 view_name NULL or NULL inside view_keys, 22023 empty view_name, view_keys of more than one dimension or negative max_count, 22001 view_name too long, 55000.
Example: SELECT * FROM event_store.load_views('OrderSummary', max_count => 10);$$;

CREATE FUNCTION event_store.load_view_keys(view_name text) RETURNS SETOF text
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', 'es_load_view_keys';
COMMENT ON FUNCTION event_store.load_view_keys(text) IS
$$Returns the keys of a view, staged or durable, in the order of their bytes (collation "C").
view_name: 1 to 255 characters.
Errors: 22004 NULL, 22023 empty, 22001 too long, 55000.
Example: SELECT * FROM event_store.load_view_keys('OrderSummary');$$;

CREATE FUNCTION event_store.delete_view(
    view_name text, view_key text, durability text DEFAULT NULL)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_delete_view';
COMMENT ON FUNCTION event_store.delete_view(text, text, text) IS
$$Deletes one key of a view; returns whether there was a row, staged or durable. After it any version is accepted again.
view_name, view_key: 1 to 255 characters. durability: durable, grouped (a transaction of its own, committed together with what others write), staged or NULL = event_store.durability. The key stays locked until the transaction ends.
Errors: as put_view.
Example: SELECT event_store.delete_view('OrderSummary', 'o-2');$$;

CREATE FUNCTION event_store.clear_view(view_name text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_clear_view';
COMMENT ON FUNCTION event_store.clear_view(text) IS
$$Deletes all rows of a view, durably, and returns how many there were. Staged rows become durable first and are counted; what others put while it runs may stay.
view_name: 1 to 255 characters.
Errors: VS008 a projection keeps the view, 22004 NULL, 22023 empty, 22001 too long, 40001 at REPEATABLE READ and above when another transaction has written the view since, 25006, 55000.
Example: SELECT event_store.clear_view('OrderSummary');$$;
