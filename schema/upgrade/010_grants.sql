-- grants: what is granted on the schema and on functions of the store is nothing
-- of the extension's, as they are not its members. It was noted as such, and
-- pg_dump left it out.
DO $$
DECLARE
    object record;
    grantee text;
    statement text;
BEGIN
    FOR object IN
        SELECT x.name, x.owner, x.acl
          FROM (SELECT 'pg_catalog.pg_namespace'::pg_catalog.regclass AS classid, n.oid AS objid,
                       'SCHEMA event_store' AS name, n.nspowner AS owner, n.nspacl AS acl
                  FROM pg_catalog.pg_namespace n WHERE n.nspname = 'event_store'
                UNION ALL
                SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid,
                       'ROUTINE ' || p.oid::pg_catalog.regprocedure::text, p.proowner, p.proacl
                  FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'event_store'::pg_catalog.regnamespace) x
          JOIN pg_catalog.pg_init_privs i ON i.classoid = x.classid AND i.objoid = x.objid AND i.objsubid = 0
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                            WHERE d.classid = x.classid AND d.objid = x.objid AND d.deptype = 'e')
    LOOP
        -- of what grants nothing no role is noted
        FOR grantee IN
            SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::text END
              FROM pg_catalog.aclexplode(object.acl) a
        LOOP
            EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %s CASCADE', object.name, grantee);
        END LOOP;
        FOR statement IN
            SELECT pg_catalog.format('GRANT %s ON %s TO %s%s', a.privilege_type, object.name,
                       CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::text END,
                       CASE WHEN a.is_grantable AND a.grantee <> object.owner THEN ' WITH GRANT OPTION' ELSE '' END)
              FROM pg_catalog.aclexplode(object.acl) a
        LOOP
            PERFORM event_store.outside_script(statement);
        END LOOP;
    END LOOP;
    DELETE FROM pg_catalog.pg_init_privs i
     WHERE pg_catalog.cardinality(i.initprivs) = 0
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                        WHERE d.classid = i.classoid AND d.objid = i.objoid AND d.deptype = 'e')
       AND (i.classoid, i.objoid) IN
           (SELECT 'pg_catalog.pg_namespace'::pg_catalog.regclass::oid, 'event_store'::pg_catalog.regnamespace::oid
            UNION ALL
            SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid
              FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'event_store'::pg_catalog.regnamespace);
END
$$;
