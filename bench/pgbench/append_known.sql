-- one durable event a call, with an id of the caller's; 20 events an aggregate
\set e :s % 20
\set s :e + 1
\if :s = 1
\set n :n + 1
\set a hash(:client_id * 100000000 + :n, :seed)
\endif
SELECT * FROM event_store.append_event('Known', :a, :e, 'OrderPlaced', :payload, event_id => gen_random_uuid());
