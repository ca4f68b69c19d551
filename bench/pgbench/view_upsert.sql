-- the baseline of views: a durable upsert, 100 hot keys
\set a random(1, 100)
INSERT INTO bench.raw_views (view_name, view_key, view_data) VALUES ('OrderSummary', :a, :payload) ON CONFLICT (view_name, view_key) DO UPDATE SET view_data = excluded.view_data, updated_at = clock_timestamp();
