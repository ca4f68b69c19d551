-- any client appends to any of the aggregates, without an expectation
\set a random_zipfian(1, :aggregates, 1.1)
SELECT * FROM event_store.append_event('Order', :a, NULL, 'OrderPlaced', :payload);
