-- all clients append to one aggregate, staged
SELECT * FROM event_store.append_event('Order', '1', NULL, 'OrderPlaced', :payload, durability => 'staged');
