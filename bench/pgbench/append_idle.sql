-- one durable event a call, of a type that nobody waits for; 20 events an aggregate
\set e :s % 20
\set s :e + 1
\if :s = 1
\set n :n + 1
\endif
\set a hash(:client_id * 100000000 + :n, 0)
SELECT FROM event_store.append_event('Order', :a::text, NULL, 'OrderPlaced');
