/*
 * catalog.c
 *		The store of this database: where its tables are, whose they are, and
 *		how SQL is run on them.
 *
 * The extension owns functions and staging; the durable tables belong to the
 * role that ran create_store().  Both can come and go independently (DROP
 * EXTENSION keeps the tables), so every entry point asks es_store() first,
 * which looks both up by name and remembers them until the relation cache
 * says that something changed.
 *
 * All SQL runs as the owner of domain_events: callers need EXECUTE on the
 * functions and no privilege on the tables, so that nobody can go around the
 * sequence check.  Statements are prepared once per backend and kept
 * (planning.c).
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup.h"
#include "access/htup_details.h"
#include "access/skey.h"
#include "access/table.h"
#include "access/tupdesc.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/params.h"
#include "nodes/pg_list.h"
#include "optimizer/cost.h"
#include "storage/lmgr.h"
#include "storage/lockdefs.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "ground/attached.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/compat.h"
#include "ground/event.h"
#include "ground/head_cache.h"
#include "ground/planning.h"
#include "ground/shape.h"
#include "ground/shmem.h"

/* Memory for the rows of a load, in kB. */
#define RESULT_KB (32 * 1024)
/* The first block of it, in bytes. */
#define RESULT_BLOCK (512 * 1024)

/* Columns of domain_views, and those of them with a default. */
#define VIEW_COLUMNS 6
#define VIEW_DEFAULTS ((1 << 4) | (1 << 5))
#define PROCESSED_COLUMNS 5
#define PROCESSED_DEFAULTS (1 << 4)

static Store store_cache;
static Oid store_parts[ES_SHAPE_PARTS];
static int store_part_count = 0;
static bool store_valid = false;
static uint64 changes = 0; /* invalidations heard of */
static uint64 finds = 0;   /* how often the store was looked up */
static bool callback_registered = false;
static char *fire_at_once = NULL; /* see find_attached; NULL = none */

/* Forgets the store when one of its relations changed. */
static void
store_changed(Datum arg, Oid relid)
{
	const Store *s = &store_cache;

	/* store_cache.events stays known while the rest is looked up anew */
	changes++;
	if (OidIsValid(s->events) && (relid == InvalidOid || relid == s->events))
		es_raise_head_generation(es_my_database_if_any());
	if (!store_valid)
		return;
	if (relid == InvalidOid)
		store_valid = false;
	for (int i = 0; i < store_part_count && store_valid; i++)
	{
		if (relid == store_parts[i])
			store_valid = false;
	}
}

/*
 * Forgets the store when what is known of it and is not in its tables may have
 * changed: whether a table is subscribed, the rights on the schema, and those that its
 * owner has as a superuser or by a role whose member he is.
 */
static void
surroundings_changed(Datum arg, SysCacheIdentifier cache, uint32 hash)
{
	changes++;
	store_valid = false;
}

/* Reads the installed version of the extension; NULL when there is none. */
static char *
installed_version(Oid *extension)
{
	Relation rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;
	char *version = NULL;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum(ES_SCHEMA));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool isnull;
		Datum d = heap_getattr(tuple, Anum_pg_extension_extversion,
							   RelationGetDescr(rel), &isnull);

		*extension = ((Form_pg_extension) GETSTRUCT(tuple))->oid;
		if (!isnull)
			version = TextDatumGetCString(d);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return version;
}

static Oid
relation_named(Oid schema, const char *format, int n)
{
	return get_relname_relid(n < 0 ? format : psprintf(format, n), schema);
}

/* The durable tables that code of an owner may be attached to. */
static const char *const written_tables[] = {"domain_events",
											 "domain_views",
											 "snapshots",
											 "reducers",
											 "dead_letters",
											 "view_rebuilds",
											 "view_rebuild_rows",
											 "store_state",
											 "processed_messages",
											 "subscriptions",
											 "subscription_positions",
											 "dead_letter_history",
											 "parked_events",
											 "subscription_marks",
											 "discarded_events",
											 "projections",
											 "sticky_keys",
											 "scheduled_events",
											 "saga_definitions",
											 "sagas",
											 "saga_steps",
											 "upcasters",
											 "domain_events_archive",
											 "closed_aggregates",
											 "erasures",
											 "retention"};

StaticAssertDecl(lengthof(written_tables) == ES_WRITTEN_TABLES,
				 "the store has a place for each of these tables");

/*
 * What an owner can attach to any of the tables: the statement that has deferrable
 * constraints fire at the end of each statement, if there are any, and whether code
 * of his may run when a table is read.
 */
static void
find_attached(Store *s)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < ES_WRITTEN_TABLES; i++)
	{
		s->written[i] = relation_named(s->schema, written_tables[i], -1);
		if (!OidIsValid(s->written[i]) ||
			get_rel_relkind(s->written[i]) != RELKIND_RELATION)
			continue;
		es_list_deferrable(s->written[i], &list);
		if (es_has_policies_for_owner(s->written[i]))
			s->policies = true;
		if (es_has_children(s->written[i]))
			s->children = true;
	}
	if (fire_at_once != NULL)
		pfree(fire_at_once);
	fire_at_once = NULL;
	if (list.len > 0)
		fire_at_once =
			MemoryContextStrdup(TopMemoryContext,
								psprintf("SET CONSTRAINTS %s IMMEDIATE",
										 list.data));
	pfree(list.data);
}

static const char *const by_subscription[ES_BY_SUBSCRIPTION][2] =
	{[ES_SUBSCRIPTIONS] = {"subscriptions", "subscriptions_pkey"},
	 [ES_PARKED_EVENTS] = {"parked_events", "parked_events_pkey"},
	 [ES_SUBSCRIPTION_MARKS] = {"subscription_marks", "subscription_marks_pkey"}};

/* Looks up what is known to be there, by name. */
static void
find_parts(Store *s)
{
	s->events = relation_named(s->schema, "domain_events", -1);
	s->events_by_aggregate =
		relation_named(s->schema, "domain_events_aggregate_key", -1);
	s->events_by_id = relation_named(s->schema, "domain_events_event_id_key", -1);
	s->events_by_position = relation_named(s->schema, "domain_events_pkey", -1);
	s->archive = relation_named(s->schema, "domain_events_archive", -1);
	s->archive_by_aggregate =
		relation_named(s->schema, "domain_events_archive_aggregate_key", -1);
	s->archive_by_id =
		relation_named(s->schema, "domain_events_archive_event_id_key", -1);
	s->archive_by_position =
		relation_named(s->schema, "domain_events_archive_pkey", -1);
	s->archived_position = relation_named(s->schema, "archived_position", -1);
	s->closed_aggregates = relation_named(s->schema, "closed_aggregates", -1);
	s->closed_by_key = relation_named(s->schema, "closed_aggregates_pkey", -1);
	s->views = relation_named(s->schema, "domain_views", -1);
	s->aggregate_gate = relation_named(s->schema, "aggregate_gate", -1);
	s->view_key_gate = relation_named(s->schema, "view_key_gate", -1);
	s->positions = relation_named(s->schema, "global_position_seq", -1);
	s->log_identity = relation_named(s->schema, "log_identity", -1);
	s->fencing_numbers = relation_named(s->schema, "fencing_number_seq", -1);
	s->fencing_identity = relation_named(s->schema, "fencing_identity", -1);
	s->dead_letters = relation_named(s->schema, "dead_letters", -1);
	s->store_state = relation_named(s->schema, "store_state", -1);
	s->processed_messages = relation_named(s->schema, "processed_messages", -1);
	s->projections = relation_named(s->schema, "projections", -1);
	s->upcasters = relation_named(s->schema, "upcasters", -1);
	s->positions_of_members =
		relation_named(s->schema, "subscription_positions", -1);
	s->positions_by_member =
		relation_named(s->schema, "subscription_positions_pkey", -1);
	for (int i = 0; i < ES_BY_SUBSCRIPTION; i++)
	{
		NamedTable *t = &s->by_subscription[i];

		t->table = relation_named(s->schema, by_subscription[i][0], -1);
		t->by_key = relation_named(s->schema, by_subscription[i][1], -1);
	}
	s->parked_by_retry = relation_named(s->schema, "parked_events_retry_idx", -1);
	s->parked_by_state = relation_named(s->schema, "parked_events_state_idx", -1);
	s->event_type =
		GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("event"),
						ObjectIdGetDatum(s->schema));
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		StagingSegment *g = &s->segments[i];

		g->table = relation_named(s->schema, "staging_%d", i);
		g->by_key = relation_named(s->schema, "staging_%d_key_idx", i);
		g->by_event_id = relation_named(s->schema, "staging_%d_event_id_idx", i);
		g->by_txn = relation_named(s->schema, "staging_%d_txn_idx", i);
	}
}

/*
 * Finds the store.  Returns false when a part is missing or differs from ours,
 * which "shape" tells, or the extension has another version than ours; *version
 * tells which, NULL = none.
 */
static bool
find_store(Store *s, char **version, Shape *shape)
{
	HeapTuple tuple;

	memset(s, 0, sizeof(*s));
	memset(shape, 0, sizeof(*shape));
	*version = installed_version(&s->extension);
	s->schema = get_namespace_oid(ES_SCHEMA, true);
	if (*version == NULL || strcmp(*version, ES_VERSION) != 0 ||
		!OidIsValid(s->schema) || !es_compare_shape(s->schema, shape))
		return false;
	find_parts(s);
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(s->events));
	if (!HeapTupleIsValid(tuple))
		return false;
	s->owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	s->plain = es_is_plain(s->events, EV_COLUMNS, 1 << EV_SCHEMA_VERSION);
	s->direct =
		s->plain && es_takes_rows_directly(s->events, s->schema, s->owner);
	s->plain = s->plain && es_is_plain(s->views, VIEW_COLUMNS, VIEW_DEFAULTS);
	s->plain_processed = es_is_plain(s->processed_messages, PROCESSED_COLUMNS,
									 PROCESSED_DEFAULTS);
	s->subscribed = es_is_subscribed(s->events);
	es_find_optional_indexes(s);
	find_attached(s);
	return true;
}

/* Whether a version of the extension came before that of the library. */
static bool
is_older(const char *version)
{
	int theirs[3] = {0};
	int ours[3] = {0};

	(void) sscanf(version, "%d.%d.%d", &theirs[0], &theirs[1], &theirs[2]);
	(void) sscanf(ES_VERSION, "%d.%d.%d", &ours[0], &ours[1], &ours[2]);
	for (int i = 0; i < 3; i++)
	{
		if (theirs[i] != ours[i])
			return theirs[i] < ours[i];
	}
	return false;
}

/* Another version's functions and tables are not ours to work with. */
static void
refuse_version(const char *version)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("library event_store has version %s, but the extension has version %s",
					ES_VERSION, version),
			 is_older(version)
				 ? errhint("Run ALTER EXTENSION event_store UPDATE; SELECT event_store.create_store();")
				 : errhint("Install the library of version %s; where it is preloaded restart the server, elsewhere connect anew.",
						   version)));
}

/* Raises what keeps us from working with this database. */
static void
refuse_store(const char *version, const Shape *shape)
{
	if (version != NULL && strcmp(version, ES_VERSION) != 0)
		refuse_version(version);
	if (shape->difference != NULL && !shape->no_store)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s", shape->difference), errhint("%s", shape->hint)));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 version == NULL
				 ? errmsg("extension event_store is not installed in this database")
				 : errmsg("there is no event store in this database"),
			 version == NULL
				 ? errhint("Run CREATE EXTENSION event_store; SELECT event_store.create_store();")
				 : errhint("%s", shape->hint != NULL
									 ? shape->hint
									 : "Run SELECT event_store.create_store();")));
}

/* Who takes a store of another shape for none does not raise it: logs it once. */
static void
log_difference(const Shape *shape)
{
	static char last[256];

	if (shape->difference == NULL || shape->no_store ||
		strncmp(last, shape->difference, sizeof(last) - 1) == 0)
		return;
	strlcpy(last, shape->difference, sizeof(last));
	ereport(LOG, (errmsg("the event store of database \"%s\" cannot be used: %s",
						 get_database_name(MyDatabaseId), shape->difference),
				  errhint("%s", shape->hint)));
}

/*
 * In a server that pg_upgrade starts what is written is lost, or in the way of what
 * pg_upgrade brings.
 */
static void
refuse_in_upgrade(void)
{
	if (IsBinaryUpgrade)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the event store cannot be used while pg_upgrade runs"),
				 errhint("Start the server as usual when pg_upgrade has ended.")));
}

/*
 * The work of es_store and es_store_if_any.  Looking up may itself process
 * invalidations; then it is done again.
 */
static const Store *
get_store(bool missing_ok)
{
	char *version = NULL;
	Store found;
	Shape shape;
	uint64 seen;
	bool complete;

	if (store_valid)
		return &store_cache;
	if (IsBinaryUpgrade && missing_ok)
		return NULL;
	refuse_in_upgrade();
	if (!callback_registered)
	{
		CacheRegisterRelcacheCallback(store_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(SUBSCRIPTIONRELMAP, surroundings_changed,
									  (Datum) 0);
		CacheRegisterSyscacheCallback(NAMESPACEOID, surroundings_changed,
									  (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHOID, surroundings_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, surroundings_changed,
									  (Datum) 0);
		callback_registered = true;
	}

	do
	{
		seen = changes;
		complete = find_store(&found, &version, &shape);
	} while (seen != changes);
	if (!complete && missing_ok)
	{
		log_difference(&shape);
		return NULL;
	}
	if (!complete)
		refuse_store(version, &shape);
	if (!OidIsValid(store_cache.events))
		es_raise_head_generation(es_my_database());
	found.number = ++finds;
	store_cache = found;
	memcpy(store_parts, shape.parts, sizeof(store_parts));
	store_part_count = shape.count;
	store_valid = true;
	return &store_cache;
}

const Store *
es_store(void)
{
	return get_store(false);
}

const Store *
es_own_store(void)
{
	const Store *store = es_store();

	if (store->subscribed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("domain_events is fed by a subscription of logical replication"),
				 errhint("Append and follow the feed at the publisher, or go on here: DROP SUBSCRIPTION, then SELECT event_store.create_store();")));
	return store;
}

const Store *
es_store_if_any(void)
{
	return get_store(true);
}

TupleDesc
es_event_desc(void)
{
	TupleDesc desc = lookup_rowtype_tupdesc_copy(es_store()->event_type, -1);

	/* looking up locks the type, and heeds what became of it before */
	(void) es_store();
	return desc;
}

bool
es_try_lock_table(Oid table)
{
	Relation relation;
	List *indexes;
	ListCell *cell;
	bool locked = true;

	if (!ConditionalLockRelationOid(table, AccessShareLock))
		return false;
	relation = RelationIdGetRelation(table);
	if (!RelationIsValid(relation))
		return false;
	indexes = RelationGetIndexList(relation);
	foreach (cell, indexes)
		locked = locked &&
				 ConditionalLockRelationOid(lfirst_oid(cell), AccessShareLock);
	RelationClose(relation);
	return locked;
}

const char *
es_sql_version(void)
{
	Oid extension;

	return installed_version(&extension);
}

void
es_check_version(void)
{
	Oid extension;
	char *version;

	if (store_valid)
		return;
	refuse_in_upgrade();
	version = installed_version(&extension);
	if (version != NULL && strcmp(version, ES_VERSION) != 0)
		refuse_version(version);
}

const Store *
es_lock_store(void)
{
	const Store *store = es_store_if_any();
	Oid extension;

	if (store == NULL)
		return NULL;
	extension = store->extension;
	LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
	/* what was dropped while we waited has been invalidated by now */
	store = es_store_if_any();
	return store != NULL && store->extension == extension ? store : NULL;
}

void
es_become_owner(void)
{
	Oid user;
	int security;

	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(es_store()->owner,
						   security | SECURITY_LOCAL_USERID_CHANGE);
}

/*
 * What the owner attached shall run with his rights and the search_path that is
 * pinned here, and with nobody else's.  At COMMIT there is the caller's path, and
 * with it, before PostgreSQL 18, the caller's rights, and since then the owner's.
 */
static void
fire_triggers_at_once(void)
{
	char *statement;

	if (fire_at_once == NULL || IsInParallelMode())
		return;
	/* triggers that are pending may have the store looked up anew */
	statement = pstrdup(fire_at_once);
	if (SPI_execute(statement, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "\"%s\" failed", statement);
	pfree(statement);
}

/*
 * What code of the owner could leave behind to run later with the caller's rights, or
 * under his search_path, is refused: a deferred trigger of another table, a cursor WITH
 * HOLD, a temporary view in the place of a table.  It is refused everywhere, since code
 * may run where none is known to be: PostgreSQL computes what is constant in the
 * constraints of child tables, and in expressions of their indexes, when it makes a plan.
 */
static void
begin(OwnerScope *scope, bool runs_code)
{
	Oid owner = es_store()->owner;
	int restriction;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	GetUserIdAndSecContext(&scope->user, &scope->security);
	restriction = scope->user != owner ? SECURITY_RESTRICTED_OPERATION : 0;
	SetUserIdAndSecContext(owner, scope->security | SECURITY_LOCAL_USERID_CHANGE |
									  restriction);
	scope->guc_level = 0;
	if (runs_code)
	{
		scope->guc_level = NewGUCNestLevel();
		(void) set_config_option("search_path", "pg_catalog, pg_temp",
								 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
								 true, 0, false);
	}
}

void
es_begin(OwnerScope *scope)
{
	begin(scope, true);
	fire_triggers_at_once();
}

void
es_begin_write(OwnerScope *scope)
{
	if (es_store()->plain)
		begin(scope, false);
	else
		es_begin(scope);
}

void
es_begin_processed(OwnerScope *scope)
{
	if (es_store()->plain_processed)
		begin(scope, false);
	else
		es_begin(scope);
}

void
es_begin_read(OwnerScope *scope)
{
	/* set like that, it computes the constraints of every table */
	bool computes = constraint_exclusion == CONSTRAINT_EXCLUSION_ON;

	begin(scope, computes || es_store()->policies || es_store()->children);
}

void
es_end(const OwnerScope *scope)
{
	if (scope->guc_level != 0)
		AtEOXact_GUC(false, scope->guc_level);
	SetUserIdAndSecContext(scope->user, scope->security);
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
}

/* A plan of a statement that ends with the SPI connection. */
static SPIPlanPtr
prepare(const KeptPlan *statement)
{
	char *sql = es_event_sql(statement->sql);
	int options = statement->kind == ES_PLAN_FOR_VALUES
					  ? CURSOR_OPT_CUSTOM_PLAN
					  : CURSOR_OPT_GENERIC_PLAN;
	SPIPlanPtr plan = SPI_prepare_cursor(sql, statement->nargs,
										 (Oid *) statement->argtypes, options);
	ListCell *cell;

	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql,
			 SPI_result_code_string(SPI_result));
	/* the tables are locked now */
	(void) es_store();
	/* nor may a later plan give what its reader does not take it for */
	foreach (cell, SPI_plan_get_plan_sources(plan))
		((CachedPlanSource *) lfirst(cell))->fixed_result = true;
	pfree(sql);
	return plan;
}

/* The plan of a statement, prepared when this backend first needs it. */
SPIPlanPtr
es_plan(KeptPlan *kept)
{
	if (kept->plan == NULL)
	{
		SPIPlanPtr plan = prepare(kept);

		if (SPI_keepplan(plan) != 0)
			elog(ERROR, "SPI_keepplan failed");
		kept->plan = plan;
	}
	if (kept->kind == ES_PLAN_BY_KEY)
		es_plan_for_any_size(kept->plan, &kept->generation);
	else if (kept->kind == ES_PLAN_FOR_VALUES)
		es_forget_plan(kept->plan);
	return kept->plan;
}

uint64
es_execute(KeptPlan *kept, Datum *values, const char *nulls, bool read_only,
		   int expected_result)
{
	int result = SPI_execute_plan(es_plan(kept), values, nulls, read_only, 0);

	if (result != expected_result)
		elog(ERROR, "\"%s\" returned %s", kept->sql,
			 SPI_result_code_string(result));
	return SPI_processed;
}

uint64
es_execute_latest(KeptPlan *kept, Datum *values, const char *nulls)
{
	int result;

	PushActiveSnapshot(GetLatestSnapshot());
	result =
		SPI_execute_snapshot(es_plan(kept), values, nulls, GetActiveSnapshot(),
							 InvalidSnapshot, false, true, 0);
	PopActiveSnapshot();
	if (result < 0)
		elog(ERROR, "\"%s\" returned %s", kept->sql,
			 SPI_result_code_string(result));
	return SPI_processed;
}

uint64
es_execute_to(KeptPlan *kept, Datum *values, const char *nulls,
			  DestReceiver *receiver)
{
	SPIExecuteOptions options;
	ParamListInfo params = makeParamList(kept->nargs);
	int result;

	for (int i = 0; i < kept->nargs; i++)
	{
		params->params[i].value = values[i];
		params->params[i].isnull = nulls != NULL && nulls[i] == 'n';
		params->params[i].pflags = PARAM_FLAG_CONST;
		params->params[i].ptype = kept->argtypes[i];
	}
	memset(&options, 0, sizeof(options));
	options.params = params;
	options.read_only = true;
	options.dest = receiver;
	result = SPI_execute_plan_extended(es_plan(kept), &options);
	if (result != SPI_OK_SELECT)
		elog(ERROR, "\"%s\" returned %s", kept->sql,
			 SPI_result_code_string(result));
	return SPI_processed;
}

uint64
es_execute_into(KeptPlan *kept, Datum *values, const char *nulls,
				Tuplestorestate *into)
{
	DestReceiver *receiver = CreateDestReceiver(DestTuplestore);
	uint64 rows;

	SetTuplestoreDestReceiverParams(receiver, into, CurrentMemoryContext, false,
									NULL, NULL);
	rows = es_execute_to(kept, values, nulls, receiver);
	receiver->rDestroy(receiver);
	return rows;
}

/*
 * Loads are mostly read once and thrown away, and are far slower through a
 * temporary file; what a page of a few ten thousand events takes stays in
 * memory even where work_mem is smaller.  The rows are freed in the order in
 * which they came, which a generation context does at less cost; its first block
 * holds a page, since the C library keeps one block for the next call, where it
 * gives many of growing sizes back to the kernel, which clears them anew.  One context
 * serves all calls of a query, each of which ends its result before the next.
 */
void
es_begin_result(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext rows = fcinfo->flinfo->fn_extra;
	MemoryContext caller;

	InitMaterializedSRF(fcinfo, 0);
	/* it has the descriptor of a type that may have changed before that */
	(void) es_store();
	tuplestore_end(rsinfo->setResult);
	if (rows == NULL)
		rows = fcinfo->flinfo->fn_extra =
			GenerationContextCreate(fcinfo->flinfo->fn_mcxt, "event_store result",
									ALLOCSET_DEFAULT_MINSIZE, RESULT_BLOCK,
									ALLOCSET_DEFAULT_MAXSIZE);
	caller = MemoryContextSwitchTo(rows);
	rsinfo->setResult = tuplestore_begin_heap((rsinfo->allowedModes &
											   SFRM_Materialize_Random) != 0,
											  false, Max(work_mem, RESULT_KB));
	MemoryContextSwitchTo(caller);
}

Datum
es_return_rows(FunctionCallInfo fcinfo, KeptPlan *kept)
{
	OwnerScope scope;
	Datum none[1] = {0};

	(void) es_store();
	es_begin_result(fcinfo);
	es_begin_read(&scope);
	(void) es_execute_into(kept, none, NULL,
						   ((ReturnSetInfo *) fcinfo->resultinfo)->setResult);
	es_end(&scope);
	return (Datum) 0;
}
