-- fold_events: who may have a registered function fold his events

COMMENT ON AGGREGATE event_store.fold_events(event_store.event) IS
$$Folds events, in the order given, into the state after the last of them, by the reducer that is registered for their aggregate_type.
Give the order: fold_events(e ORDER BY e.sequence) for the state, fold_events(e) OVER (ORDER BY e.sequence) for the state after every event; with FILTER and GROUP BY as any aggregate. NULL events are left out; no events give NULL. Rows of domain_events become events by ROW(d.*)::event_store.event. Snapshots are not used.
The events may be made up, so a registered function runs, as its owner, only for callers who have all rights of the owner. The built-in reducer and rules need no right.
Errors: 22004 an event without aggregate_type, aggregate_id, sequence or event_type; 22023 events of several types where one of them has a reducer of its own; 42501 the reducer is a function of a role whose rights the caller has not; otherwise as replay_aggregate.
Example: SELECT e.sequence, event_store.fold_events(e) OVER (ORDER BY e.sequence) FROM event_store.load_events('Order', 'o-1') e;$$;
