-- an event whose view is kept by the append; customers of its own each client
\set e :s % 20
\set s :e + 1
\if :s = 1
\set n :n + 1
\set a hash(:client_id * 100000000 + :n, 0)
\endif
\set k random(1, 100) + 100 * :client_id
SELECT * FROM event_store.append_event('Spent', :a, :e, 'Paid', jsonb_build_object('customer', :k::text, 'amount', 5));
