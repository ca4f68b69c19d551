-- message-db: all clients write to one stream
SELECT message_store.write_message(gen_random_uuid()::text, 'order-1', 'OrderPlaced', :payload);
