/*
 * shape.c
 *		The shape that the store's tables, indexes, types and sequence must have.
 *
 * Rows are read and written here by number and without a look at their types:
 * a bigint where a bytea is expected is an address to read from.  The tables
 * are their owner's, though, and nothing keeps an owner or a superuser from
 * altering them.  So whoever finds the store has it compared with the tables
 * below first, and again after every change of one of its relations (catalog.c
 * sees to that).  What differs is the first thing that does.
 *
 * The rows of domain_events are taken apart by number, but columns behind ours
 * are the owner's; of the tables that only SQL names, columns may stand in any
 * order.  Rows of the segments and values of our types are also put together
 * here, with an entry for each column, so there must be no other.
 *
 * Everything is looked up in the system caches.  That takes no locks, so that a
 * call does not wait for a part of the store that it has nothing to do with;
 * who then opens a table asks for the store once more with the lock in hand.
 */
#include "postgres.h"

#include "access/attnum.h"
#include "access/htup.h"
#include "access/htup_details.h"
#include "catalog/pg_am.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_index.h"
#include "catalog/pg_sequence.h"
#include "catalog/pg_type.h"
#include "nodes/nodes.h"
#include "nodes/primnodes.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/shape.h"

/* What a column must be, besides its type. */
#define REQUIRED 1 /* NOT NULL */
#define BYTEWISE 2 /* in collation "C", not the database's */
#define FILLED \
	4 /* has a default or is an identity, which our INSERTs rely on */
#define KEY (REQUIRED | BYTEWISE)

#define MAX_COLUMNS 32
#define MAX_KEYS 4

typedef struct ColumnShape
{
	const char *name;
	Oid type;
	int marks;
} ColumnShape;

typedef struct IndexShape
{
	const char *name; /* %d = number of the segment */
	const char *keys[MAX_KEYS];
	bool unique;
	bool not_null; /* leaves out rows whose key is NULL */
} IndexShape;

typedef enum ColumnOrder
{
	ANY_ORDER,
	OURS_FIRST,
	OURS_ONLY
} ColumnOrder;

typedef struct RelationShape
{
	const char *name; /* %d = number of the segment */
	char kind;
	char persistence;
	ColumnOrder order;
	/* the columns, or a function that sets them */
	ColumnShape columns[MAX_COLUMNS];
	void (*set_columns)(ColumnShape *columns);
	IndexShape indexes[3];
	bool member; /* of the extension, rather than made by create_store() */
	bool later;	 /* a store of before lacks it, with all others of this kind */
	int copies;	 /* one for each segment; 0 = one without a number */
} RelationShape;

#define DURABLE_TABLE \
	.kind = RELKIND_RELATION, .persistence = RELPERSISTENCE_PERMANENT
#define STAGING_TABLE                                                 \
	.kind = RELKIND_RELATION, .persistence = RELPERSISTENCE_UNLOGGED, \
	.order = OURS_ONLY, .member = true
#define ROW_TYPE                                                             \
	.kind = RELKIND_COMPOSITE_TYPE, .persistence = RELPERSISTENCE_PERMANENT, \
	.order = OURS_ONLY, .member = true

/* Appends the columns of an event from one on. */
static void
set_event_columns(ColumnShape *columns, int first, bool in_log)
{
	for (int i = first; i < EV_COLUMNS; i++)
	{
		const EventColumnInfo *info = &es_event_columns[i];
		int marks = 0;

		if (in_log && info->required)
			marks |= REQUIRED;
		if (in_log && info->type == TEXTOID)
			marks |= BYTEWISE;
		columns[i - first] = (ColumnShape){info->name, info->type, marks};
	}
}

static void
set_log_columns(ColumnShape *columns)
{
	set_event_columns(columns, 0, true);
}

static void
set_type_columns(ColumnShape *columns)
{
	set_event_columns(columns, 0, false);
}

/* Those of a letter of a view write are NULL but for the aggregate. */
static void
set_letter_columns(ColumnShape *columns)
{
	static const ColumnShape others[] = {{"id", INT8OID, REQUIRED | FILLED},
										 {"kind", TEXTOID, KEY},
										 {"view_name", TEXTOID, BYTEWISE},
										 {"view_key", TEXTOID, BYTEWISE},
										 {"view_data", JSONBOID},
										 {"version", INT8OID},
										 {"error_code", TEXTOID, REQUIRED},
										 {"error_message", TEXTOID, REQUIRED},
										 {"attempts", INT4OID, REQUIRED},
										 {"failed_at", TIMESTAMPTZOID,
										  REQUIRED | FILLED}};

	set_event_columns(columns, EV_AGGREGATE_TYPE, true);
	for (int i = EV_SEQUENCE; i < EV_COLUMNS; i++)
		columns[i - EV_AGGREGATE_TYPE].marks &= ~REQUIRED;
	memcpy(columns + EV_COLUMNS - EV_AGGREGATE_TYPE, others, sizeof(others));
}

StaticAssertDecl(EV_COLUMNS + 10 < MAX_COLUMNS, "a letter has few columns");

static const RelationShape relations[] =
	{{"domain_events", DURABLE_TABLE, .order = OURS_FIRST,
	  .set_columns = set_log_columns,
	  .indexes = {{"domain_events_pkey", {"global_position"}, .unique = true},
				  {"domain_events_aggregate_key",
				   {"aggregate_type", "aggregate_id", "sequence"},
				   .unique = true},
				  {"domain_events_event_id_key", {"event_id"}, .unique = true}}},
	 {"domain_views", DURABLE_TABLE,
	  .columns = {{"view_name", TEXTOID, KEY},
				  {"view_key", TEXTOID, KEY},
				  {"view_data", JSONBOID, REQUIRED},
				  {"version", INT8OID},
				  {"created_at", TIMESTAMPTZOID, REQUIRED},
				  {"updated_at", TIMESTAMPTZOID, REQUIRED}},
	  .indexes = {{"domain_views_pkey", {"view_name", "view_key"}, .unique = true}}},
	 {"snapshots", DURABLE_TABLE,
	  .columns = {{"aggregate_type", TEXTOID, KEY},
				  {"aggregate_id", TEXTOID, KEY},
				  {"source", TEXTOID, KEY},
				  {"sequence", INT8OID, REQUIRED},
				  {"state", JSONBOID},
				  {"state_bytes", BYTEAOID},
				  {"reducer_version", INT4OID},
				  {"created_at", TIMESTAMPTZOID, REQUIRED | FILLED}},
	  .indexes = {{"snapshots_pkey",
				   {"aggregate_type", "aggregate_id", "source"},
				   .unique = true}}},
	 {"reducers", DURABLE_TABLE,
	  .columns = {{"aggregate_type", TEXTOID, KEY},
				  {"reducer", TEXTOID},
				  {"rules", JSONBOID},
				  {"reducer_version", INT4OID, REQUIRED},
				  {"updated_at", TIMESTAMPTZOID, REQUIRED | FILLED},
				  {"reducer_owner", TEXTOID, BYTEWISE}},
	  .indexes = {{"reducers_pkey", {"aggregate_type"}, .unique = true}}},
	 {"upcasters", DURABLE_TABLE,
	  .columns = {{"event_type", TEXTOID, KEY},
				  {"from_version", INT4OID, REQUIRED},
				  {"aggregate_type", TEXTOID, KEY | FILLED},
				  {"upcaster", TEXTOID},
				  {"upcaster_owner", TEXTOID, BYTEWISE},
				  {"rules", JSONBOID},
				  {"updated_at", TIMESTAMPTZOID, REQUIRED | FILLED}},
	  .indexes = {{"upcasters_pkey",
				   {"event_type", "from_version", "aggregate_type"},
				   .unique = true}}},
	 {"view_rebuilds", DURABLE_TABLE,
	  .columns = {{"view_name", TEXTOID, KEY},
				  {"aggregate_type", TEXTOID, KEY},
				  {"reducer_version", INT4OID, REQUIRED},
				  {"after_id", TEXTOID, KEY | FILLED},
				  {"done", INT8OID, REQUIRED | FILLED},
				  {"total", INT8OID, REQUIRED | FILLED},
				  {"started_at", TIMESTAMPTZOID, REQUIRED | FILLED},
				  {"updated_at", TIMESTAMPTZOID, REQUIRED | FILLED}},
	  .indexes = {{"view_rebuilds_pkey", {"view_name"}, .unique = true}}},
	 {"view_rebuild_rows", DURABLE_TABLE,
	  .columns = {{"view_name", TEXTOID, KEY},
				  {"view_key", TEXTOID, KEY},
				  {"sequence", INT8OID, REQUIRED},
				  {"state", JSONBOID}},
	  .indexes = {{"view_rebuild_rows_pkey",
				   {"view_name", "view_key"},
				   .unique = true}}},
	 {"dead_letters", DURABLE_TABLE, .set_columns = set_letter_columns,
	  .indexes = {{"dead_letters_pkey", {"id"}, .unique = true}}},
	 {"store_state", DURABLE_TABLE,
	  .columns = {{"id", INT4OID, REQUIRED},
				  {"staging_epoch", INT8OID, REQUIRED},
				  {"staging_dirty", BOOLOID, REQUIRED},
				  {"safe_position", INT8OID, REQUIRED},
				  {"last_drain_at", TIMESTAMPTZOID}},
	  .indexes = {{"store_state_pkey", {"id"}, .unique = true}}},
	 {"subscriptions", DURABLE_TABLE, .order = OURS_FIRST,
	  .columns = {{"subscription_name", TEXTOID, KEY},
				  {"aggregate_types", TEXTARRAYOID},
				  {"event_types", TEXTARRAYOID},
				  {"members", INT4OID, REQUIRED},
				  {"start_after", INT8OID},
				  {"on_failure", TEXTOID, KEY},
				  {"max_attempts", INT4OID, REQUIRED},
				  {"partition_by", TEXTOID, KEY},
				  {"paused", BOOLOID, REQUIRED | FILLED},
				  {"created_at", TIMESTAMPTZOID, REQUIRED | FILLED},
				  {"old_positions", INT8ARRAYOID},
				  {"projection", BOOLOID, REQUIRED | FILLED}},
	  .indexes = {{"subscriptions_pkey", {"subscription_name"}, .unique = true}}},
	 {"projections", DURABLE_TABLE,
	  .columns = {{"projection_name", TEXTOID, KEY},
				  {"kind", TEXTOID, KEY},
				  {"mode", TEXTOID, KEY | FILLED},
				  {"batch_size", INT4OID, REQUIRED},
				  {"start_position", INT8OID, REQUIRED},
				  {"handler", TEXTOID, BYTEWISE},
				  {"reset", TEXTOID, BYTEWISE},
				  {"handler_owner", TEXTOID, BYTEWISE},
				  {"timeout", INTERVALOID},
				  {"key", JSONBOID},
				  {"rules", JSONBOID},
				  {"next_definition", JSONBOID},
				  {"rebuild_done", INT8OID},
				  {"rebuild_total", INT8OID},
				  {"created_at", TIMESTAMPTZOID, REQUIRED | FILLED},
				  {"stale", BOOLOID, REQUIRED | FILLED}},
	  .indexes = {{"projections_pkey", {"projection_name"}, .unique = true}}},
	 {"sticky_keys", DURABLE_TABLE,
	  .columns = {{"projection_name", TEXTOID, KEY},
				  {"place", INT4OID, REQUIRED},
				  {"aggregate_type", TEXTOID, KEY},
				  {"aggregate_id", TEXTOID, KEY},
				  {"value", TEXTOID, KEY}},
	  .indexes = {{"sticky_keys_pkey",
				   {"projection_name", "place", "aggregate_type", "aggregate_id"},
				   .unique = true}}},
	 {"subscription_positions", DURABLE_TABLE, .order = OURS_FIRST,
	  .columns = {{"subscription_name", TEXTOID, KEY},
				  {"member", INT4OID, REQUIRED},
				  {"number", INT8OID, REQUIRED},
				  {"position", INT8OID, REQUIRED},
				  {"stopped", BOOLOID, REQUIRED | FILLED},
				  {"attempts", INT4OID, REQUIRED | FILLED},
				  {"attempt_position", INT8OID, REQUIRED | FILLED},
				  {"retry_at", TIMESTAMPTZOID},
				  {"last_error", TEXTOID},
				  {"lease", INT8OID},
				  {"consumer", TEXTOID, BYTEWISE},
				  {"lease_first", INT8OID},
				  {"lease_last", INT8OID},
				  {"lease_events", INT4OID},
				  {"lease_partition", TEXTOID, BYTEWISE},
				  {"lease_alone", BOOLOID},
				  {"lease_since", TIMESTAMPTZOID},
				  {"lease_until", TIMESTAMPTZOID},
				  {"batch_limit", INT4OID},
				  {"limit_until", INT8OID}},
	  .indexes = {{"subscription_positions_pkey",
				   {"subscription_name", "member", "number"},
				   .unique = true}}},
	 {"dead_letter_history", DURABLE_TABLE,
	  .columns = {{"id", UUIDOID, REQUIRED | FILLED},
				  {"letter_id", INT8OID, REQUIRED},
				  {"kind", TEXTOID, KEY},
				  {"aggregate_type", TEXTOID, KEY},
				  {"aggregate_id", TEXTOID, KEY},
				  {"sequence", INT8OID},
				  {"event_id", UUIDOID},
				  {"event_type", TEXTOID, BYTEWISE},
				  {"view_name", TEXTOID, BYTEWISE},
				  {"view_key", TEXTOID, BYTEWISE},
				  {"error_code", TEXTOID, REQUIRED},
				  {"error_message", TEXTOID, REQUIRED},
				  {"attempts", INT4OID, REQUIRED},
				  {"failed_at", TIMESTAMPTZOID, REQUIRED},
				  {"outcome", TEXTOID, KEY},
				  {"reason", TEXTOID, BYTEWISE},
				  {"settled_by", TEXTOID, KEY},
				  {"settled_at", TIMESTAMPTZOID, REQUIRED | FILLED}},
	  .indexes = {{"dead_letter_history_pkey", {"id"}, .unique = true}}},
	 {"parked_events", DURABLE_TABLE, .order = OURS_FIRST,
	  .columns = {{"subscription_name", TEXTOID, KEY},
				  {"partition_key", TEXTOID, KEY},
				  {"global_position", INT8OID, REQUIRED},
				  {"event_id", UUIDOID, REQUIRED},
				  {"state", TEXTOID, KEY},
				  {"attempts", INT4OID, REQUIRED},
				  {"retry_at", TIMESTAMPTZOID},
				  {"error_code", TEXTOID},
				  {"error_message", TEXTOID},
				  {"parked_at", TIMESTAMPTZOID, REQUIRED | FILLED},
				  {"batch_limit", INT4OID},
				  {"member", INT4OID, REQUIRED}},
	  .indexes = {{"parked_events_pkey",
				   {"subscription_name", "partition_key", "global_position"},
				   .unique = true},
				  {"parked_events_retry_idx",
				   {"subscription_name", "member", "retry_at", "global_position"}},
				  {"parked_events_state_idx",
				   {"subscription_name", "partition_key", "state"}}}},
	 {"subscription_marks", DURABLE_TABLE, .order = OURS_FIRST,
	  .columns = {{"subscription_name", TEXTOID, KEY},
				  {"global_position", INT8OID, REQUIRED}},
	  .indexes = {{"subscription_marks_pkey",
				   {"subscription_name", "global_position"},
				   .unique = true}}},
	 {"discarded_events", DURABLE_TABLE,
	  .columns = {{"subscription_name", TEXTOID, KEY},
				  {"partition_key", TEXTOID, KEY},
				  {"first_position", INT8OID},
				  {"last_position", INT8OID},
				  {"events", INT8OID, REQUIRED},
				  {"reason", TEXTOID, REQUIRED},
				  {"discarded_at", TIMESTAMPTZOID, REQUIRED | FILLED}}},
	 {"processed_messages", DURABLE_TABLE,
	  .columns = {{"consumer", TEXTOID, KEY},
				  {"message_id", TEXTOID, KEY},
				  {"fingerprint", TEXTOID, BYTEWISE},
				  {"result", JSONBOID},
				  {"processed_at", TIMESTAMPTZOID, REQUIRED | FILLED}},
	  .indexes = {{"processed_messages_pkey",
				   {"consumer", "message_id"},
				   .unique = true}}},
	 {"scheduled_events", DURABLE_TABLE,
	  .columns = {{"schedule_id", UUIDOID, REQUIRED},
				  {"due_at", TIMESTAMPTZOID, REQUIRED},
				  {"state", TEXTOID, KEY},
				  {"aggregate_type", TEXTOID, KEY},
				  {"aggregate_id", TEXTOID, KEY},
				  {"event_type", TEXTOID, KEY},
				  {"schema_version", INT4OID, REQUIRED},
				  {"payload", JSONBOID, REQUIRED},
				  {"metadata", JSONBOID},
				  {"correlation_id", TEXTOID, BYTEWISE},
				  {"causation_id", TEXTOID, BYTEWISE},
				  {"saga_id", TEXTOID, BYTEWISE},
				  {"unless_event_types", TEXTARRAYOID},
				  {"unless_after", INT8OID},
				  {"first_due_at", TIMESTAMPTZOID, REQUIRED},
				  {"scheduled_at", TIMESTAMPTZOID, REQUIRED | FILLED},
				  {"error_code", TEXTOID},
				  {"error", TEXTOID},
				  {"failed_at", TIMESTAMPTZOID}},
	  .indexes = {{"scheduled_events_pkey", {"schedule_id"}, .unique = true}}},
	 {"saga_definitions", DURABLE_TABLE,
	  .columns = {{"saga_name", TEXTOID, KEY},
				  {"version", INT4OID, REQUIRED},
				  {"definition", JSONBOID, REQUIRED},
				  {"created_at", TIMESTAMPTZOID, REQUIRED | FILLED},
				  {"handler_owner", TEXTOID, BYTEWISE}},
	  .indexes = {{"saga_definitions_pkey",
				   {"saga_name", "version"},
				   .unique = true}}},
	 {"erasures", DURABLE_TABLE,
	  .columns = {{"erasure_id", UUIDOID, REQUIRED},
				  {"kind", TEXTOID, KEY},
				  {"erased_by", TEXTOID, KEY},
				  {"erased_at", TIMESTAMPTZOID, REQUIRED | FILLED},
				  {"reason", TEXTOID, KEY},
				  {"paths", TEXTARRAYOID},
				  {"positions", INT8ARRAYOID, REQUIRED},
				  {"event_ids", UUIDARRAYOID, REQUIRED},
				  {"renamed", BOOLOID, REQUIRED | FILLED},
				  {"scrubbed_at", TIMESTAMPTZOID},
				  {"blocked_by", TEXTOID, BYTEWISE},
				  {"erased_in", XID8OID}},
	  .indexes = {{"erasures_pkey", {"erasure_id"}, .unique = true}}},
	 {"sagas", DURABLE_TABLE,
	  .columns = {{"saga_name", TEXTOID, KEY},
				  {"saga_id", TEXTOID, KEY},
				  {"version", INT4OID, REQUIRED},
				  {"state", TEXTOID, KEY},
				  {"deadline", TIMESTAMPTZOID},
				  {"started_at", TIMESTAMPTZOID, REQUIRED}},
	  .indexes = {{"sagas_pkey", {"saga_name", "saga_id"}, .unique = true}}},
	 {"saga_steps", DURABLE_TABLE,
	  .columns = {{"saga_name", TEXTOID, KEY},
				  {"saga_id", TEXTOID, KEY},
				  {"step", TEXTOID, KEY},
				  {"kind", TEXTOID, KEY},
				  {"claimable_at", TIMESTAMPTZOID},
				  {"due_at", TIMESTAMPTZOID},
				  {"lease", INT8OID},
				  {"progress", JSONBOID},
				  {"written_at", TIMESTAMPTZOID, REQUIRED | FILLED},
				  {"run_at", TIMESTAMPTZOID},
				  {"run_as", TEXTOID, BYTEWISE}},
	  .indexes = {{"saga_steps_pkey",
				   {"saga_name", "saga_id", "step"},
				   .unique = true}}},
	 {"domain_events_archive", DURABLE_TABLE, .order = OURS_FIRST,
	  .set_columns = set_log_columns,
	  .indexes =
		  {{"domain_events_archive_pkey", {"global_position"}, .unique = true},
		   {"domain_events_archive_aggregate_key",
			{"aggregate_type", "aggregate_id", "sequence"},
			.unique = true},
		   {"domain_events_archive_event_id_key", {"event_id"}, .unique = true}},
	  .later = true},
	 {"closed_aggregates", DURABLE_TABLE, .order = OURS_FIRST,
	  .columns = {{"aggregate_type", TEXTOID, KEY},
				  {"aggregate_id", TEXTOID, KEY},
				  {"state", TEXTOID, KEY},
				  {"last_sequence", INT8OID, REQUIRED},
				  {"last_position", INT8OID, REQUIRED},
				  {"last_recorded_at", TIMESTAMPTZOID, REQUIRED},
				  {"closed_at", TIMESTAMPTZOID, REQUIRED | FILLED},
				  {"reason", TEXTOID, BYTEWISE}},
	  .indexes = {{"closed_aggregates_pkey",
				   {"aggregate_type", "aggregate_id"},
				   .unique = true}},
	  .later = true},
	 {"retention", DURABLE_TABLE,
	  .columns = {{"aggregate_type", TEXTOID, KEY},
				  {"archive_after", INTERVALOID},
				  {"closed_by", TEXTARRAYOID},
				  {"delete_after", INTERVALOID},
				  {"position", INT8OID, REQUIRED | FILLED},
				  {"set_at", TIMESTAMPTZOID, REQUIRED | FILLED}},
	  .indexes = {{"retention_pkey", {"aggregate_type"}, .unique = true}},
	  .later = true},
	 {"archived_position", RELKIND_SEQUENCE, RELPERSISTENCE_PERMANENT,
	  .later = true},
	 {"global_position_seq", RELKIND_SEQUENCE, RELPERSISTENCE_PERMANENT},
	 {"log_identity", RELKIND_SEQUENCE, RELPERSISTENCE_PERMANENT},
	 {"fencing_number_seq", RELKIND_SEQUENCE, RELPERSISTENCE_PERMANENT},
	 {"fencing_identity", RELKIND_SEQUENCE, RELPERSISTENCE_PERMANENT},
	 {"staging_%d", STAGING_TABLE,
	  .columns = {{"sid", INT8OID, REQUIRED},
				  {"txn", INT8OID, REQUIRED},
				  {"kind", INT2OID, REQUIRED},
				  {"name", TEXTOID, KEY},
				  {"key", TEXTOID, KEY},
				  {"ordinal", INT8OID, REQUIRED},
				  {"count", INT4OID, REQUIRED},
				  {"event_id", UUIDOID},
				  {"events", BYTEAOID},
				  {"recorded_at", TIMESTAMPTZOID, REQUIRED},
				  {"view_data", JSONBOID},
				  {"version", INT8OID}},
	  .indexes = {{"staging_%d_key_idx", {"kind", "name", "key", "ordinal"}},
				  {"staging_%d_event_id_idx", {"event_id"}, .not_null = true},
				  {"staging_%d_txn_idx", {"txn", "sid"}}},
	  .copies = ES_SEGMENTS},
	 {"staging_marker", STAGING_TABLE, .columns = {{"epoch", INT8OID, REQUIRED}}},
	 {"event", ROW_TYPE, .set_columns = set_type_columns},
	 {"append_result", ROW_TYPE,
	  .columns = {{"first_sequence", INT8OID},
				  {"last_sequence", INT8OID},
				  {"last_position", INT8OID},
				  {"durable", BOOLOID},
				  {"outcome", TEXTOID},
				  {"staging_epoch", INT8OID}}},
	 {"aggregate_state", ROW_TYPE,
	  .columns = {{"state", JSONBOID}, {"sequence", INT8OID}}},
	 {"snapshot", ROW_TYPE,
	  .columns = {{"aggregate_type", TEXTOID},
				  {"aggregate_id", TEXTOID},
				  {"source", TEXTOID},
				  {"sequence", INT8OID},
				  {"state", JSONBOID},
				  {"state_bytes", BYTEAOID},
				  {"reducer_version", INT4OID},
				  {"created_at", TIMESTAMPTZOID}}},
	 {"aggregate_gate", ROW_TYPE},
	 {"view_key_gate", ROW_TYPE}};

/* ---------- what differs ---------- */

#define HINT_ADD "Run SELECT event_store.create_store();"
#define HINT_UNDO "Change it back, then run SELECT event_store.create_store();"
#define HINT_MEMBER \
	"Change it back, or run DROP EXTENSION event_store; CREATE EXTENSION event_store; SELECT event_store.create_store(); the durable tables stay."

/* Notes a difference; returns false. */
static bool
differs(Shape *shape, const RelationShape *wanted, const char *difference)
{
	shape->difference = pstrdup(difference);
	shape->hint = wanted->member ? HINT_MEMBER : HINT_UNDO;
	return false;
}

/* The same of what create_store() brings back. */
static bool
lacks(Shape *shape, const RelationShape *wanted, const char *difference)
{
	(void) differs(shape, wanted, difference);
	if (!wanted->member)
		shape->hint = HINT_ADD;
	return false;
}

static bool
is_missing(Shape *shape, const RelationShape *wanted, const char *name)
{
	(void) lacks(shape, wanted, psprintf("event_store.%s is missing", name));
	/* there is none, rather than a part of one */
	shape->no_store = wanted == relations;
	return false;
}

static Oid
find_part(Oid schema, const char *name, Shape *shape)
{
	Oid oid = get_relname_relid(name, schema);

	Assert(shape->count < ES_SHAPE_PARTS);
	if (OidIsValid(oid))
		shape->parts[shape->count++] = oid;
	return oid;
}

static const char *
kind_name(char kind)
{
	switch (kind)
	{
		case RELKIND_RELATION:
			return "a table";
		case RELKIND_PARTITIONED_TABLE:
			return "a partitioned table";
		case RELKIND_FOREIGN_TABLE:
			return "a foreign table";
		case RELKIND_VIEW:
			return "a view";
		case RELKIND_MATVIEW:
			return "a materialized view";
		case RELKIND_SEQUENCE:
			return "a sequence";
		case RELKIND_COMPOSITE_TYPE:
			return "a composite type";
		case RELKIND_INDEX:
			return "an index";
		default:
			return "something else";
	}
}

static const char *
persistence_name(char persistence)
{
	return persistence == RELPERSISTENCE_UNLOGGED ? "unlogged" : "logged";
}

/* ---------- columns ---------- */

static Form_pg_attribute
column_named(CatCList *columns, const char *name)
{
	for (int i = 0; i < columns->n_members; i++)
	{
		Form_pg_attribute column =
			(Form_pg_attribute) GETSTRUCT(&columns->members[i]->tuple);

		if (column->attnum > 0 && !column->attisdropped &&
			strcmp(NameStr(column->attname), name) == 0)
			return column;
	}
	return NULL;
}

static char *
collation_name(Oid collation)
{
	char *name = get_collation_name(collation);

	return name != NULL ? name : "?";
}

static const char MAY_BE_NULL[] = "may be null";
static const char HAS_NO_DEFAULT[] = "has no default";

/* What is wrong with a column, as the end of a message; NULL = nothing. */
static const char *
column_fault(Form_pg_attribute column, const ColumnShape *wanted)
{
	Oid collation =
		wanted->marks & BYTEWISE ? C_COLLATION_OID : DEFAULT_COLLATION_OID;

	if (column->atttypid != wanted->type || column->atttypmod != -1)
		return psprintf("has type %s instead of %s",
						format_type_with_typemod(column->atttypid,
												 column->atttypmod),
						format_type_be(wanted->type));
	if (wanted->type == TEXTOID && column->attcollation != collation)
		return psprintf("has collation \"%s\" instead of \"%s\"",
						collation_name(column->attcollation),
						collation_name(collation));
	if (wanted->marks & REQUIRED && !column->attnotnull)
		return MAY_BE_NULL;
	if (wanted->marks & FILLED && !column->atthasdef && column->attidentity == '\0')
		return HAS_NO_DEFAULT;
	if (!(wanted->marks & FILLED) && column->attidentity != '\0')
		return "is an identity";
	if (column->attgenerated != '\0')
		return "is generated";
	return NULL;
}

static bool
compare_columns(CatCList *columns, const RelationShape *relation,
				const char *name, const ColumnShape *wanted, Shape *shape)
{
	int count = 0;

	for (; wanted[count].name != NULL; count++)
	{
		const ColumnShape *w = &wanted[count];
		Form_pg_attribute column = column_named(columns, w->name);
		const char *fault = NULL;
		bool comes_back = false;

		if (column == NULL)
		{
			fault = "is missing";
			/* one of the log has its place */
			comes_back = relation->order == ANY_ORDER;
		}
		else if (relation->order != ANY_ORDER && column->attnum != count + 1)
			fault = psprintf("has number %d instead of %d", column->attnum,
							 count + 1);
		else
		{
			fault = column_fault(column, w);
			comes_back = fault == MAY_BE_NULL || fault == HAS_NO_DEFAULT;
		}
		if (fault == NULL)
			continue;
		fault = psprintf("column %s of event_store.%s %s", w->name, name, fault);
		(void) (comes_back ? lacks : differs)(shape, relation, fault);
		return false;
	}
	for (int i = 0; i < columns->n_members && relation->order == OURS_ONLY; i++)
	{
		Form_pg_attribute column =
			(Form_pg_attribute) GETSTRUCT(&columns->members[i]->tuple);

		if (column->attnum > count)
			return differs(shape, relation,
						   psprintf("event_store.%s has one column too many: %s",
									name,
									column->attisdropped
										? "a dropped one"
										: NameStr(column->attname)));
	}
	return true;
}

/* ---------- indexes ---------- */

/* Whether the predicate of an index is that its key is not null, or there is none. */
static bool
has_predicate(HeapTuple tuple, bool not_null, AttrNumber key)
{
	bool isnull;
	Datum predicate =
		SysCacheGetAttr(INDEXRELID, tuple, Anum_pg_index_indpred, &isnull);
	NullTest *test;

	if (isnull || !not_null)
		return isnull == !not_null;
	test = stringToNode(TextDatumGetCString(predicate));
	return IsA(test, NullTest) && test->nulltesttype == IS_NOT_NULL &&
		   IsA(test->arg, Var) && ((Var *) test->arg)->varattno == key;
}

/* Whether column i of an index is this one, in the order of its type. */
static bool
has_key(HeapTuple tuple, int i, const ColumnShape *column,
		Form_pg_attribute attribute)
{
	Form_pg_index index = (Form_pg_index) GETSTRUCT(tuple);
	bool isnull;
	Datum collations =
		SysCacheGetAttr(INDEXRELID, tuple, Anum_pg_index_indcollation, &isnull);
	Datum classes =
		SysCacheGetAttr(INDEXRELID, tuple, Anum_pg_index_indclass, &isnull);
	Datum options =
		SysCacheGetAttr(INDEXRELID, tuple, Anum_pg_index_indoption, &isnull);
	Oid family =
		lookup_type_cache(column->type, TYPECACHE_BTREE_OPFAMILY)->btree_opf;

	return index->indkey.values[i] == attribute->attnum &&
		   ((oidvector *) DatumGetPointer(collations))->values[i] ==
			   attribute->attcollation &&
		   get_opclass_family(((oidvector *) DatumGetPointer(classes))->values[i]) ==
			   family &&
		   ((int2vector *) DatumGetPointer(options))->values[i] == 0;
}

static const ColumnShape *
column_of(const ColumnShape *columns, const char *name)
{
	while (strcmp(columns->name, name) != 0)
		columns++;
	return columns;
}

/* What is wrong with an index, as the end of a message; NULL = nothing. */
static const char *
index_fault(HeapTuple tuple, Oid table, const IndexShape *wanted,
			const ColumnShape *columns, CatCList *attributes)
{
	Form_pg_index index = (Form_pg_index) GETSTRUCT(tuple);
	int keys = 0;

	while (keys < MAX_KEYS && wanted->keys[keys] != NULL)
		keys++;
	if (index->indrelid != table)
		return "is of another table";
	if (wanted->unique && (!index->indisunique || !index->indimmediate))
		return index->indisunique ? "is deferrable" : "is not unique";
	if (!index->indisvalid || !index->indisready || !index->indislive)
		return "is not valid";
	if (index->indnkeyatts != keys)
		return "has other columns";
	for (int i = 0; i < keys; i++)
	{
		if (!has_key(tuple, i, column_of(columns, wanted->keys[i]),
					 column_named(attributes, wanted->keys[i])))
			return psprintf("does not have %s, in its usual order, as column %d",
							wanted->keys[i], i + 1);
	}
	if (!has_predicate(tuple, wanted->not_null, index->indkey.values[0]))
		return "has another predicate";
	return NULL;
}

static Oid
access_method(Oid relation)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	Oid method = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		method = ((Form_pg_class) GETSTRUCT(tuple))->relam;
		ReleaseSysCache(tuple);
	}
	return method;
}

static bool
compare_index(Oid schema, Oid table, const RelationShape *relation, int copy,
			  const IndexShape *wanted, const ColumnShape *columns,
			  CatCList *attributes, Shape *shape)
{
	char *name = psprintf(wanted->name, copy);
	Oid oid = find_part(schema, name, shape);
	const char *fault = NULL;
	HeapTuple tuple;

	if (!OidIsValid(oid))
	{
		/* create_store() makes those of the extension's tables, too */
		(void) differs(shape, relation,
					   psprintf("index event_store.%s is missing", name));
		shape->hint = HINT_ADD;
		return false;
	}
	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(oid));
	if (!HeapTupleIsValid(tuple) || access_method(oid) != BTREE_AM_OID)
		fault = "is not a btree index";
	else
		fault = index_fault(tuple, table, wanted, columns, attributes);
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	if (fault != NULL)
		return differs(shape, relation,
					   psprintf("index event_store.%s %s", name, fault));
	return true;
}

/* ---------- relations ---------- */

/* What is wrong with a relation as such; NULL = nothing. */
static const char *
relation_fault(Form_pg_class class, const RelationShape *wanted)
{
	if (class->relkind != wanted->kind)
		return psprintf("is %s instead of %s", kind_name(class->relkind),
						kind_name(wanted->kind));
	if (class->relpersistence != wanted->persistence)
		return psprintf("is %s instead of %s",
						persistence_name(class->relpersistence),
						persistence_name(wanted->persistence));
	if (class->relkind == RELKIND_RELATION && wanted->order != ANY_ORDER &&
		class->relam != HEAP_TABLE_AM_OID)
		return "has an access method other than heap";
	return NULL;
}

static bool
compare_relation(Oid oid, const RelationShape *wanted, const char *name,
				 Shape *shape)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(oid));
	const char *fault;

	if (!HeapTupleIsValid(tuple))
		return is_missing(shape, wanted, name);
	fault = relation_fault((Form_pg_class) GETSTRUCT(tuple), wanted);
	ReleaseSysCache(tuple);
	return fault == NULL ||
		   differs(shape, wanted, psprintf("event_store.%s %s", name, fault));
}

/* Positions go up by one, and never round. */
static bool
compare_sequence(Oid oid, const RelationShape *wanted, Shape *shape)
{
	HeapTuple tuple = SearchSysCache1(SEQRELID, ObjectIdGetDatum(oid));
	Form_pg_sequence sequence;
	bool same;

	if (!HeapTupleIsValid(tuple))
		return is_missing(shape, wanted, wanted->name);
	sequence = (Form_pg_sequence) GETSTRUCT(tuple);
	same = sequence->seqtypid == INT8OID && sequence->seqincrement == 1 &&
		   !sequence->seqcycle;
	ReleaseSysCache(tuple);
	return same ||
		   differs(shape, wanted,
				   psprintf("event_store.%s is not a sequence of bigint that goes up by one without a cycle",
							wanted->name));
}

/* Compares a relation, with its columns and indexes. */
static bool
compare(Oid schema, const RelationShape *wanted, int copy, Shape *shape)
{
	char *name = psprintf(wanted->name, copy);
	Oid oid = find_part(schema, name, shape);
	ColumnShape columns[MAX_COLUMNS] = {{0}};
	CatCList *attributes;
	bool same;

	if (!OidIsValid(oid))
		return is_missing(shape, wanted, name);
	if (!compare_relation(oid, wanted, name, shape))
		return false;
	if (wanted->kind == RELKIND_SEQUENCE)
		return compare_sequence(oid, wanted, shape);
	memcpy(columns, wanted->columns, sizeof(columns));
	if (wanted->set_columns != NULL)
		wanted->set_columns(columns);
	attributes = SearchSysCacheList1(ATTNUM, ObjectIdGetDatum(oid));
	same = compare_columns(attributes, wanted, name, columns, shape);
	for (int i = 0; i < (int) lengthof(wanted->indexes) && same; i++)
	{
		if (wanted->indexes[i].name != NULL)
			same = compare_index(schema, oid, wanted, copy, &wanted->indexes[i],
								 columns, attributes, shape);
	}
	ReleaseSysCacheList(attributes);
	return same;
}

/*
 * Whether a store was made before there was an archive: it goes on without one until
 * create_store() is called again.
 */
static bool
is_of_before(Oid schema)
{
	for (int i = 0; i < (int) lengthof(relations); i++)
	{
		if (relations[i].later &&
			OidIsValid(get_relname_relid(relations[i].name, schema)))
			return false;
	}
	return true;
}

bool
es_compare_shape(Oid schema, Shape *shape)
{
	bool of_before = is_of_before(schema);

	memset(shape, 0, sizeof(*shape));
	for (int i = 0; i < (int) lengthof(relations); i++)
	{
		if (relations[i].later && of_before)
			continue;
		for (int copy = 0; copy < Max(relations[i].copies, 1); copy++)
		{
			if (!compare(schema, &relations[i], copy, shape))
				return false;
		}
	}
	return true;
}
