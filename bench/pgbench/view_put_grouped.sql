-- a grouped put_view, 100 hot keys
\set a random(1, 100)
SELECT event_store.put_view('OrderSummary', :a, :payload, durability => 'grouped');
