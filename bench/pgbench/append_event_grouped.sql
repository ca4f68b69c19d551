-- one grouped event a call, the expectation given; 20 events an aggregate
\set e :s % 20
\set s :e + 1
\if :s = 1
\set n :n + 1
\set a hash(:client_id * 100000000 + :n, 0)
\endif
SELECT * FROM event_store.append_event('Order', :a, :e, 'OrderPlaced', :payload, durability => 'grouped');
