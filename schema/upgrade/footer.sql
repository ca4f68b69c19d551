-- upgrade: what comes after all parts

-- nothing is for everybody
DO $$
DECLARE
    object text;
BEGIN
    FOR object IN
        SELECT m.object FROM upgrade_member m, pg_catalog.aclexplode(m.acl) a
         WHERE m.kind = 'ROUTINE' AND a.grantee = 0
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', object);
    END LOOP;
END
$$;

-- What was set aside comes back, from whom it came; that of a function which is gone
-- goes to those of its name that were not there before.
SELECT event_store.outside_script(
           CASE WHEN g.given
                THEN pg_catalog.format('GRANT %s ON %s %s TO %s%s', g.privilege, m.kind, m.object, g.grantee, g.option)
                ELSE pg_catalog.format('REVOKE %s ON %s %s FROM %s', g.privilege, m.kind, m.object, g.grantee)
           END, CASE WHEN g.grantor = m.owner THEN current_user::pg_catalog.regrole ELSE g.grantor::pg_catalog.regrole END)
  FROM upgrade_grant g
  JOIN upgrade_member m
    ON m.kind = g.kind
       AND (m.object = g.object
            OR (m.name = g.name
                AND NOT EXISTS (SELECT FROM upgrade_member n WHERE n.kind = g.kind AND n.object = g.object)
                AND NOT EXISTS (SELECT FROM upgrade_grant b WHERE b.kind = m.kind AND b.object = m.object)))
 WHERE g.given IS NOT NULL
 ORDER BY g.given, g.after;

DROP VIEW upgrade_member;
DROP TABLE upgrade_grant;
DROP FUNCTION event_store.outside_script(text);
DROP FUNCTION event_store.outside_script(text, regrole);

-- Changes nothing, but sessions that know the store look at it again, and see
-- that it has another version than a library they may have loaded.
ALTER TABLE event_store.staging_0 SET (autovacuum_enabled = false);

-- a store that was there before is looked after from now on
SELECT event_store.announce_store()
 WHERE pg_catalog.to_regclass('event_store.domain_events') IS NOT NULL;
