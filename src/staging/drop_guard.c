/*
 * drop_guard.c
 *		The extension is not dropped while rows are staged: guard_drop().
 *
 * However it is dropped: by itself, with its schema or with all that a role owns.
 * When nothing is staged, nothing can be any more before the drop has ended.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup.h"
#include "access/htup_details.h"
#include "access/sdir.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "storage/lmgr.h"
#include "storage/lockdefs.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/snapshot.h"
#include "utils/syscache.h"

#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/compat.h"
#include "ground/shmem.h"
#include "staging/segment.h"
#include "staging/staged_row.h"
#include "staging/staged_scan.h"
#include "staging/staging_state.h"

PG_FUNCTION_INFO_V1(es_guard_drop);

/*
 * What a drop must have for itself: the extension, as part 0, and all that
 * writers hold to commit, the gates and the segments.
 */
#define DROP_PARTS (3 + ES_SEGMENTS)

static Oid
relation_of_part(int part)
{
	const Store *store = es_store();

	switch (part)
	{
		case 1:
			return store->aggregate_gate;
		case 2:
			return store->view_key_gate;
		default:
			return store->segments[part - 3].table;
	}
}

static bool
lock_part(int part, bool wait)
{
	Oid extension = es_store()->extension;

	if (part == 0 && wait)
		LockDatabaseObject(ExtensionRelationId, extension, 0, AccessExclusiveLock);
	else if (part == 0)
		return ConditionalLockDatabaseObject(ExtensionRelationId, extension, 0,
											 AccessExclusiveLock);
	else if (wait)
		LockRelationOid(relation_of_part(part), AccessExclusiveLock);
	else
		return ConditionalLockRelationOid(relation_of_part(part),
										  AccessExclusiveLock);
	return true;
}

static void
unlock_part(int part)
{
	if (part == 0)
		UnlockDatabaseObject(ExtensionRelationId, es_store()->extension, 0,
							 AccessExclusiveLock);
	else
		UnlockRelationOid(relation_of_part(part), AccessExclusiveLock);
}

/*
 * Takes them all.  A writer that holds one may want another, or wait for the
 * worker, which wants the extension, where no deadlock detector sees it; so
 * while this waits for one part it holds none of the others.
 */
static void
lock_for_drop(void)
{
	bool held[DROP_PARTS] = {false};
	int missing = 0;

	while (missing < DROP_PARTS)
	{
		held[missing] = lock_part(missing, true);
		for (missing = 0; missing < DROP_PARTS; missing++)
		{
			if (!held[missing])
				held[missing] = lock_part(missing, false);
			if (!held[missing])
				break;
		}
		for (int i = 0; i < DROP_PARTS && missing < DROP_PARTS; i++)
		{
			if (held[i])
				unlock_part(i);
			held[i] = false;
		}
	}
}

/*
 * Makes sure that nothing is staged and nothing can be any more, and says so
 * in store_state; raises if something is.
 */
static void
prepare_drop(void)
{
	static KeptPlan clean = {
		"UPDATE event_store.store_state SET staging_dirty = false"};
	static const SharedSegment nothing;
	SharedDatabase *db = es_my_database();
	Snapshot snapshot;
	StagedScan *scan;
	StagedRow row;
	OwnerScope scope;

	lock_for_drop();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = es_staged_scan(ES_BY_TXN, ForwardScanDirection, snapshot, 0, NULL);
	if (es_staged_next_row(scan, &row))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot drop extension event_store while events or views are staged"),
				 errhint("Run SELECT event_store.flush(); first.")));
	es_staged_end(scan);
	UnregisterSnapshot(snapshot);
	/* an old snapshot may show rows that went with the segments */
	if (db != NULL)
		es_note_lost(db, &nothing);
	es_begin(&scope);
	es_execute(&clean, NULL, NULL, false, SPI_OK_UPDATE);
	es_end(&scope);
}

/* Whether a segment holds a row, whatever its columns are. */
static bool
has_any_row(Oid segment)
{
	Relation table = table_open(segment, AccessExclusiveLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan =
		systable_beginscan(table, InvalidOid, false, snapshot, 0, NULL);
	bool found = HeapTupleIsValid(systable_getnext(scan));

	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(table, NoLock);
	return found;
}

/*
 * What is staged in a store of another shape can be made durable once that is
 * mended, so it must not go by the way.
 */
static void
refuse_unreadable_rows(void)
{
	Oid schema = get_namespace_oid(ES_SCHEMA, true);

	if (!OidIsValid(get_relname_relid("domain_events", schema)))
		return;
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		Oid segment = get_relname_relid(psprintf("staging_%d", i), schema);

		if (OidIsValid(segment) &&
			get_rel_relkind(segment) == RELKIND_RELATION && has_any_row(segment))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot drop extension event_store while events or views are staged"),
					 errdetail("The store has another shape, so they cannot be made durable."),
					 errhint("Mend the store and run SELECT event_store.flush(); or TRUNCATE the tables event_store.staging_0 to staging_%d, which loses them.",
							 ES_SEGMENTS - 1)));
	}
}

/* Whether one of the roles owns what the extension consists of. */
static bool
owns_extension(List *roles)
{
	Oid segment =
		get_relname_relid("staging_0", get_namespace_oid(ES_SCHEMA, true));
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(segment));
	Oid owner;
	ListCell *cell;

	if (!HeapTupleIsValid(tuple))
		return false;
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	foreach (cell, roles)
	{
		if (get_rolespec_oid(lfirst_node(RoleSpec, cell), true) == owner)
			return has_privs_of_role(GetUserId(), owner);
	}
	return false;
}

/*
 * Whether a command drops the extension, by itself or with its schema or with
 * all that a role owns, and may do so.
 */
static bool
drops_extension(Node *command)
{
	Oid extension = get_extension_oid(ES_SCHEMA, true);
	DropStmt *drop;
	ListCell *cell;

	if (!OidIsValid(extension))
		return false;
	if (IsA(command, DropOwnedStmt))
		return owns_extension(((DropOwnedStmt *) command)->roles);
	if (!IsA(command, DropStmt))
		return false;
	drop = (DropStmt *) command;
	if (drop->removeType != OBJECT_EXTENSION &&
		(drop->removeType != OBJECT_SCHEMA || drop->behavior != DROP_CASCADE))
		return false;
	foreach (cell, drop->objects)
	{
		if (strcmp(strVal(lfirst(cell)), ES_SCHEMA) == 0)
			return drop->removeType == OBJECT_EXTENSION
					   ? object_ownercheck(ExtensionRelationId, extension,
										   GetUserId())
					   : object_ownercheck(NamespaceRelationId,
										   get_namespace_oid(ES_SCHEMA, false),
										   GetUserId());
	}
	return false;
}

/* Event trigger: refuses to drop the extension while rows are staged. */
Datum
es_guard_drop(PG_FUNCTION_ARGS)
{
	EventTriggerData *trigger;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("guard_drop can only be called as an event trigger")));
	trigger = (EventTriggerData *) fcinfo->context;
	if (drops_extension(trigger->parsetree))
	{
		/* whether another version has rows staged is not known here */
		es_check_version();
		if (es_store_if_any() != NULL)
			prepare_drop();
		else
			refuse_unreadable_rows();
	}
	PG_RETURN_VOID();
}
