-- one staged event a call, the expectation given, 20 events an aggregate; with every tenth a staged view
\set e :s % 20
\set s :e + 1
\if :s = 1
\set n :n + 1
\set a hash(:client_id * 100000000 + :n, 0)
\endif
SELECT * FROM event_store.append_event('Order', :a, :e, 'OrderPlaced', :payload, durability => 'staged');
\if :e % 10 = 9
SELECT event_store.put_view('OrderSummary', :a, :payload, durability => 'staged');
\endif
