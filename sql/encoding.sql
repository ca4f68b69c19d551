-- encoding: the extension works in databases whose encoding is not UTF8
\pset format unaligned
\t on
SELECT current_database() AS home \gset

CREATE DATABASE regress_encoding TEMPLATE template0 ENCODING 'EUC_JP' LOCALE 'C';
\c regress_encoding
CREATE EXTENSION event_store;
SET client_min_messages = warning;
SELECT event_store.create_store();
SELECT outcome FROM event_store.append_event('Order', 'o-1', 0, 'Placed', '{"total": "19.99"}');
SELECT state, sequence FROM event_store.replay_aggregate('Order', 'o-1');
\c :home
DROP DATABASE regress_encoding WITH (FORCE);

CREATE DATABASE regress_encoding TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C';
\c regress_encoding
CREATE EXTENSION event_store;
SET client_min_messages = warning;
SELECT event_store.create_store();
SELECT outcome FROM event_store.append_event('Order', 'o-1', 0, 'Placed', '{"total": "19.99"}');
SELECT state, sequence FROM event_store.replay_aggregate('Order', 'o-1');
\c :home
DROP DATABASE regress_encoding WITH (FORCE);
