-- event_store: the upgrade script, joined by make from schema/upgrade/*.sql.

\echo Use "ALTER EXTENSION event_store UPDATE" to load this file. \quit

SET LOCAL search_path TO pg_catalog, pg_temp;

-- An older library, still loaded, cannot run what is made below, and whoever may
-- create objects in the schema could put traps into it.
DO $$
DECLARE
    library CONSTANT text := event_store.extension_version();
    wanted CONSTANT text := (SELECT e.extversion FROM pg_catalog.pg_extension e WHERE e.extname = 'event_store');
    schema_owner oid;
    intruder name;
BEGIN
    IF pg_catalog.string_to_array(library, '.')::int[] < pg_catalog.string_to_array(wanted, '.')::int[] THEN
        RAISE EXCEPTION 'library event_store has version %, but the extension shall have version %', library, wanted
            USING ERRCODE = '55000',
                  HINT = 'Restart the server if the library is preloaded, otherwise connect anew.';
    END IF;

    SELECT n.nspowner INTO schema_owner
      FROM pg_catalog.pg_namespace n
     WHERE n.nspname = 'event_store';
    IF schema_owner <> (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)
       AND NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.oid = schema_owner)
    THEN
        RAISE EXCEPTION 'schema event_store belongs to role %',
                        pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(schema_owner))
            USING ERRCODE = '55000', HINT = 'Give it to a superuser, who must run ALTER EXTENSION.';
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

-- What operators granted and revoked is set aside, so that the parts find the
-- privileges that the extension itself gives; the footer puts it back.
CREATE FUNCTION event_store.outside_script(statement text) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_outside_script';
CREATE FUNCTION event_store.outside_script(statement text, run_as regrole) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_outside_script';

-- the functions and relations that are members, with their privileges and with
-- those that the extension gave
CREATE TEMPORARY VIEW upgrade_member AS
WITH member AS (
    SELECT d.classid, d.objid
      FROM pg_catalog.pg_depend d
      JOIN pg_catalog.pg_extension e
        ON d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = e.oid
     WHERE e.extname = 'event_store' AND d.deptype = 'e'
), privileged AS (
    SELECT m.classid, m.objid, 'ROUTINE' AS kind, p.oid::pg_catalog.regprocedure::text AS object, p.proname AS name,
           p.proowner AS owner, p.proacl AS acl, pg_catalog.acldefault('f', p.proowner) AS default_acl
      FROM member m
      JOIN pg_catalog.pg_proc p ON m.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND m.objid = p.oid
    UNION ALL
    SELECT m.classid, m.objid, 'TABLE', c.oid::pg_catalog.regclass::text, c.relname,
           c.relowner, c.relacl, pg_catalog.acldefault('r', c.relowner)
      FROM member m
      JOIN pg_catalog.pg_class c ON m.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND m.objid = c.oid
     WHERE c.relkind IN ('r', 'v')
)
SELECT p.kind, p.object, p.name, p.owner, COALESCE(p.acl, p.default_acl) AS acl,
       COALESCE(i.initprivs, p.default_acl) AS initial_acl
  FROM privileged p
  LEFT JOIN pg_catalog.pg_init_privs i ON i.classoid = p.classid AND i.objoid = p.objid AND i.objsubid = 0;

-- one row at least for each of them; "given" tells a grant from a revoke, and "after"
-- counts the roles between the owner and who granted it
CREATE TEMPORARY TABLE upgrade_grant AS
WITH RECURSIVE grantor (kind, object, role, after) AS (
    SELECT m.kind, m.object, m.owner, 0 FROM upgrade_member m
    UNION
    SELECT g.kind, g.object, a.grantee, g.after + 1
      FROM grantor g
      JOIN upgrade_member m ON m.kind = g.kind AND m.object = g.object,
           pg_catalog.aclexplode(m.acl) a
     WHERE a.grantor = g.role AND a.grantee <> g.role AND a.is_grantable AND g.after < 100
)
SELECT m.kind, m.object, m.name, d.given, d.privilege_type AS privilege,
       CASE d.grantee WHEN 0 THEN 'PUBLIC' ELSE d.grantee::pg_catalog.regrole::text END AS grantee,
       CASE WHEN d.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS option,
       CASE WHEN pg_catalog.has_schema_privilege(d.grantor, 'event_store', 'USAGE') THEN d.grantor ELSE m.owner END AS grantor,
       (SELECT pg_catalog.max(g.after) FROM grantor g
         WHERE g.kind = m.kind AND g.object = m.object AND g.role = d.grantor) AS after
  FROM upgrade_member m
  LEFT JOIN LATERAL (
       (SELECT true AS given, a.grantor, a.grantee, a.privilege_type, a.is_grantable FROM pg_catalog.aclexplode(m.acl) a
        EXCEPT
        SELECT true, a.grantor, a.grantee, a.privilege_type, a.is_grantable FROM pg_catalog.aclexplode(m.initial_acl) a)
       UNION ALL
       (SELECT false, a.grantor, a.grantee, a.privilege_type, a.is_grantable FROM pg_catalog.aclexplode(m.initial_acl) a
        EXCEPT
        SELECT false, a.grantor, a.grantee, a.privilege_type, a.is_grantable FROM pg_catalog.aclexplode(m.acl) a)) d
       ON d.grantee <> m.owner;

SELECT event_store.outside_script(
           CASE WHEN g.given
                THEN pg_catalog.format('REVOKE %s ON %s %s FROM %s CASCADE', g.privilege, g.kind, g.object, g.grantee)
                ELSE pg_catalog.format('GRANT %s ON %s %s TO %s%s', g.privilege, g.kind, g.object, g.grantee, g.option)
           END)
  FROM upgrade_grant g
 WHERE g.given IS NOT NULL
 ORDER BY g.given DESC;
