-- event_store: the install script, joined by make from schema/*.sql.

\echo Use "CREATE EXTENSION event_store" to load this file. \quit

SET LOCAL search_path TO pg_catalog, pg_temp;

-- Whoever may create objects in the schema could put traps into it.
DO $$
DECLARE
    owner oid;
    intruder name;
BEGIN
    SELECT n.nspowner INTO owner
      FROM pg_catalog.pg_namespace n
     WHERE n.nspname = 'event_store';
    IF owner <> (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)
       AND NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.oid = owner)
    THEN
        RAISE EXCEPTION 'schema event_store belongs to role %', pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(owner))
            USING ERRCODE = '55000',
                  HINT = 'Drop that schema or give it to a superuser, who must run CREATE EXTENSION.';
    END IF;

    SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(a.grantee) END
      INTO intruder
      FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
     WHERE n.nspname = 'event_store'
       AND a.privilege_type = 'CREATE'
       AND a.grantee <> n.nspowner
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = a.grantee AND r.rolsuper)
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% may create objects in schema event_store', pg_catalog.quote_ident(intruder)
            USING ERRCODE = '55000',
                  HINT = 'Run REVOKE CREATE ON SCHEMA event_store for that role first.';
    END IF;
END
$$;
