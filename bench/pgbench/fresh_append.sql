-- an event of one of 10,000 customers
\set k random(1, 10000)
SELECT FROM event_store.append_event('Spent', 'w-' || :client_id, NULL, 'Paid', jsonb_build_object('customer', 'c-' || :k, 'amount', 5));
