-- an event of one of so many customers
\set k random(1, :keys)
SELECT FROM event_store.append_event('Spent', 'w-' || :client_id, NULL, 'Paid', jsonb_build_object('customer', CASE WHEN :keys = 1 THEN 'hot' ELSE 'c-' || :k END, 'amount', 5));
