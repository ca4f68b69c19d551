-- a message that comes for the first time
\set n :n + 1
\set a :client_id * 100000000 + :n
SELECT event_store.process_once('bench', :a);
