-- put_view, put_views: a version is expected

DROP FUNCTION event_store.put_view(text, text, jsonb, bigint, text);
DROP FUNCTION event_store.put_views(text, text[], jsonb[], bigint[], text);
