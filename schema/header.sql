-- event_store: the install script, joined by make from schema/*.sql.

\echo Use "CREATE EXTENSION event_store" to load this file. \quit

SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE FUNCTION event_store.extension_version() RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_extension_version';
COMMENT ON FUNCTION event_store.extension_version() IS
$$Returns the version of the loaded library, as major.minor.patch.
Example: SELECT event_store.extension_version();$$;

-- An older library, still loaded, cannot run what is made below, and whoever may
-- create objects in the schema could put traps into it.
DO $$
DECLARE
    library CONSTANT text := event_store.extension_version();
    wanted CONSTANT text := (SELECT e.extversion FROM pg_catalog.pg_extension e WHERE e.extname = 'event_store');
    owner oid;
    intruder name;
BEGIN
    IF pg_catalog.string_to_array(library, '.')::int[] < pg_catalog.string_to_array(wanted, '.')::int[] THEN
        RAISE EXCEPTION 'library event_store has version %, but the extension shall have version %', library, wanted
            USING ERRCODE = '55000',
                  HINT = 'Restart the server if the library is preloaded, otherwise connect anew.';
    END IF;

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
