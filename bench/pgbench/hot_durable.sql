-- all clients append to one aggregate, durable
SELECT * FROM event_store.append_event('Order', '1', NULL, 'OrderPlaced', :payload, durability => 'durable');
