-- the same into a table of the application's
\set n :n + 1
\set a :client_id * 100000000 + :n
INSERT INTO bench.processed (consumer, message_id) VALUES ('bench', :a) ON CONFLICT DO NOTHING;
