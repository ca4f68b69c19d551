/*
 * scrub.c
 *		What was erased is made unreadable on disk.
 *
 * What is overwritten or deleted stays in its page until VACUUM takes it out, and then in the page's
 * free space until something else is written there.  So a pass waits until no snapshot can
 * see what was before, has the tables vacuumed, makes indexes anew that have content in
 * their keys (a key may live on as a separator on any level), and walks over all pages: the
 * space between the line pointers and the tuples is cleared, which is logged, and what is
 * cleared is written to disk.
 *
 * VACUUM passes over pages that somebody has pinned.  The walk notices the tuples that it left, and
 * the erasure waits for the next pass.
 *
 * Statistics have values of columns.  create_store() has none gathered of content; what was
 * gathered before is taken out first.
 *
 * Erasures are told apart from what came later by the transaction in which they were erased.  What
 * is noted in their rows meanwhile makes them no younger: where somebody has a snapshot at any time they
 * would never be old enough.
 */
#include "postgres.h"

#include "access/generic_xlog.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/heap.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_statistic.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/lockdefs.h"
#include "storage/procarray.h"
#include "storage/smgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"
#include "utils/xid8.h"

#include "ground/catalog.h"
#include "keep/scrub.h"

/* ---------- the tables ---------- */

/* Where content, or an id, of what was erased may have been. */
#define TABLES                                                               \
	"'{domain_events,domain_events_archive,domain_views,snapshots,"          \
	"dead_letters,dead_letter_history,scheduled_events,sticky_keys,"         \
	"processed_messages,parked_events,subscription_positions,"               \
	"discarded_events,saga_steps,view_rebuild_rows,closed_aggregates,"       \
	"staging_0,staging_1,staging_2,staging_3,staging_4,staging_5,staging_6," \
	"staging_7}'"
/* A column with content; a state that is a word is none. */
#define IS_CONTENT                                                               \
	"(a.attname OPERATOR(pg_catalog.=) ANY ("                                    \
	"'{payload,payload_bytes,metadata,view_data,state,state_bytes,"              \
	"result,progress,value,error_message,last_error,error}'::pg_catalog.name[])" \
	" AND NOT (a.attname OPERATOR(pg_catalog.=) 'state'"                         \
	" AND a.atttypid OPERATOR(pg_catalog.=) 'pg_catalog.text'::pg_catalog.regtype))"

#define OUR_RELATIONS                                            \
	" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n" \
	" ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"            \
	" AND n.nspname OPERATOR(pg_catalog.=) 'event_store'"        \
	" WHERE c.relkind OPERATOR(pg_catalog.=) 'r'"                \
	" AND c.relname OPERATOR(pg_catalog.=) ANY (" TABLES "::pg_catalog.name[])"

/* ---------- statistics ---------- */

/*
 * Takes out what was gathered of columns with content, and of indexes that compute something;
 * returns whether there was anything.
 */
static bool
remove_statistics(void)
{
	static const char query[] =
		"SELECT s.starelid, s.staattnum::pg_catalog.int4"
		" FROM pg_catalog.pg_statistic s"
		" JOIN pg_catalog.pg_attribute a"
		" ON a.attrelid OPERATOR(pg_catalog.=) s.starelid"
		" AND a.attnum OPERATOR(pg_catalog.=) s.staattnum"
		" WHERE (s.starelid OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT c.oid" OUR_RELATIONS
		")) AND " IS_CONTENT ")"
		" OR s.starelid OPERATOR(pg_catalog.=) ANY (ARRAY("
		"SELECT i.indexrelid FROM pg_catalog.pg_index i"
		" WHERE i.indexprs IS NOT NULL"
		" AND i.indrelid OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT c.oid" OUR_RELATIONS
		"))))";
	uint64 count;

	if (SPI_execute(query, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read statistics");
	count = SPI_processed;
	for (uint64 i = 0; i < count; i++)
	{
		bool isnull;
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;

		RemoveStatistics(DatumGetObjectId(SPI_getbinval(row, desc, 1, &isnull)),
						 (AttrNumber) DatumGetInt32(SPI_getbinval(row, desc, 2,
																  &isnull)));
	}
	return count > 0;
}

/* ---------- what is to be scrubbed ---------- */

bool
es_has_unscrubbed(void)
{
	static KeptPlan plan = {"SELECT FROM event_store.erasures e"
							" WHERE e.scrubbed_at IS NULL LIMIT 1"};

	return es_execute(&plan, NULL, NULL, false, SPI_OK_SELECT) > 0;
}

/* Who has the oldest snapshot; NULL = nobody that can be named. */
static char *
find_blocker(void)
{
	static const char query[] =
		"SELECT b.who FROM ("
		"SELECT pg_catalog.concat('session ', a.pid, ' of ',"
		" COALESCE(a.usename::pg_catalog.text, a.backend_type)),"
		" GREATEST(pg_catalog.age(a.backend_xmin), pg_catalog.age(a.backend_xid))"
		" FROM pg_catalog.pg_stat_activity a"
		" WHERE a.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()"
		" UNION ALL SELECT pg_catalog.concat('prepared transaction ', p.gid),"
		" pg_catalog.age(p.transaction) FROM pg_catalog.pg_prepared_xacts p"
		" UNION ALL SELECT pg_catalog.concat('replication slot ', s.slot_name),"
		" pg_catalog.age(s.xmin) FROM pg_catalog.pg_replication_slots s"
		" UNION ALL SELECT pg_catalog.concat('standby ', r.application_name),"
		" pg_catalog.age(r.backend_xmin) FROM pg_catalog.pg_stat_replication r)"
		" b (who, age) WHERE b.age IS NOT NULL ORDER BY b.age DESC LIMIT 1";

	if (SPI_execute(query, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look for old snapshots");
	if (SPI_processed == 0)
		return NULL;
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

/* Says what those wait for that are not scrubbed, but for some. */
static void
note_blocked(Datum but_for, const char *why)
{
	static KeptPlan plan = {"UPDATE event_store.erasures SET blocked_by = $2"
							" WHERE scrubbed_at IS NULL"
							" AND NOT (erasure_id OPERATOR(pg_catalog.=) ANY ($1))"
							" AND blocked_by IS DISTINCT FROM $2",
							2,
							{UUIDARRAYOID, TEXTOID}};
	Datum values[2] = {but_for, CStringGetTextDatum(why == NULL ? "an old snapshot"
																: why)};
	OwnerScope scope;

	es_begin(&scope);
	(void) es_execute_latest(&plan, values, NULL);
	es_end(&scope);
}

/* Statistics that have just gone are like what was erased in this transaction. */
static void
note_statistics(void)
{
	static KeptPlan plan = {"UPDATE event_store.erasures"
							" SET erased_in = pg_catalog.pg_current_xact_id(),"
							" blocked_by = 'statistics of columns, just removed'"
							" WHERE scrubbed_at IS NULL"};
	OwnerScope scope;

	es_begin(&scope);
	(void) es_execute_latest(&plan, NULL, NULL);
	es_end(&scope);
}

/*
 * The transaction of an erasure; none where it is of long ago, or of the server that a dump came
 * from.
 */
static TransactionId
transaction_of(Datum erased_in, bool isnull)
{
	uint64 next = U64FromFullTransactionId(ReadNextFullTransactionId());
	uint64 xid =
		isnull ? next
			   : U64FromFullTransactionId(DatumGetFullTransactionId(erased_in));

	if (xid >= next || next - xid > MaxTransactionId / 2)
		return InvalidTransactionId;
	return (TransactionId) xid;
}

/* Whether everybody sees what a transaction has done, and nothing from before it. */
static bool
is_seen_by_all(TransactionId xid, TransactionId horizon)
{
	return !TransactionIdIsNormal(xid) || TransactionIdPrecedes(xid, horizon);
}

/* Finds the erasures that can be scrubbed. */
static void
find_ready(Scrub *scrub, MemoryContext context)
{
	static KeptPlan plan = {
		"SELECT e.erasure_id, e.erased_in FROM event_store.erasures e"
		" WHERE e.scrubbed_at IS NULL"};
	Relation log = table_open(es_store()->events, AccessShareLock);
	TransactionId horizon = GetOldestNonRemovableTransactionId(log);
	Datum *ids;
	uint64 count;
	OwnerScope scope;

	table_close(log, AccessShareLock);
	es_begin(&scope);
	count = es_execute(&plan, NULL, NULL, false, SPI_OK_SELECT);
	ids = palloc(Max(count, 1) * sizeof(Datum));
	for (uint64 i = 0; i < count; i++)
	{
		bool isnull;
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		Datum erased_in = SPI_getbinval(row, desc, 2, &isnull);
		TransactionId xid = transaction_of(erased_in, isnull);

		if (!is_seen_by_all(xid, horizon))
		{
			scrub->left = true;
			continue;
		}
		ids[scrub->count++] = SPI_getbinval(row, desc, 1, &isnull);
		if (TransactionIdIsNormal(xid) &&
			(!TransactionIdIsValid(scrub->limit) ||
			 TransactionIdFollowsOrEquals(xid, scrub->limit)))
		{
			scrub->limit = xid;
			TransactionIdAdvance(scrub->limit);
		}
	}
	MemoryContextSwitchTo(context);
	scrub->ids = PointerGetDatum(construct_array(ids, scrub->count, UUIDOID,
												 UUID_LEN, false, TYPALIGN_CHAR));
	es_end(&scope);
}

/* ---------- the plan ---------- */

static void
add_commands(Scrub *scrub, MemoryContext context, const char *query)
{
	if (SPI_execute(query, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the catalogs");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext caller = MemoryContextSwitchTo(context);

		scrub->commands =
			lappend(scrub->commands, SPI_getvalue(SPI_tuptable->vals[i],
												  SPI_tuptable->tupdesc, 1));
		MemoryContextSwitchTo(caller);
	}
}

/* What a REINDEX CONCURRENTLY that failed has left. */
static const char leftover_query[] =
	"SELECT pg_catalog.format('DROP INDEX CONCURRENTLY %s',"
	" i.indexrelid::pg_catalog.regclass) FROM pg_catalog.pg_index i"
	" JOIN pg_catalog.pg_class x ON x.oid OPERATOR(pg_catalog.=) i.indexrelid"
	" WHERE NOT i.indisvalid"
	" AND (x.relname OPERATOR(pg_catalog.~) '_cc(new|old)[0-9]*$')"
	" AND i.indrelid OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT c.oid" OUR_RELATIONS
	"))";

/*
 * Indexes that depend on a column with content, or whose rows have another id now.  Of
 * jsonb_path_ops there are hashes alone.
 */
static const char reindex_query[] =
	"SELECT DISTINCT pg_catalog.format('REINDEX INDEX CONCURRENTLY %s',"
	" i.indexrelid::pg_catalog.regclass) FROM pg_catalog.pg_index i"
	" JOIN pg_catalog.pg_class x ON x.oid OPERATOR(pg_catalog.=) i.indexrelid"
	" WHERE i.indisvalid AND i.indrelid OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT c.oid" OUR_RELATIONS
	" AND c.relpersistence OPERATOR(pg_catalog.=) 'p'))"
	" AND (x.relname OPERATOR(pg_catalog.!~) '^domain_events_(archive_)?payload_idx$')"
	" AND (EXISTS (SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attribute a"
	" ON a.attrelid OPERATOR(pg_catalog.=) d.refobjid"
	" AND a.attnum OPERATOR(pg_catalog.=) d.refobjsubid"
	" WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass"
	" AND d.objid OPERATOR(pg_catalog.=) i.indexrelid"
	" AND d.refobjid OPERATOR(pg_catalog.=) i.indrelid"
	" AND " IS_CONTENT ")"
	" OR EXISTS (SELECT FROM event_store.erasures e WHERE e.scrubbed_at IS NULL"
	" AND (e.renamed OR e.paths OPERATOR(pg_catalog.&&)"
	" '{$.correlation_id,$.causation_id,$.saga_id}')"
	" AND x.relname OPERATOR(pg_catalog.!~)"
	" '^domain_events_(archive_)?(pkey|event_id_key|recorded_at_idx|event_type_idx|category_idx)$'))";

static const char vacuum_query[] =
	"SELECT pg_catalog.format('VACUUM (INDEX_CLEANUP ON, TRUNCATE OFF) event_store.%I',"
	" c.relname)" OUR_RELATIONS
	" UNION ALL SELECT 'VACUUM (INDEX_CLEANUP ON, TRUNCATE OFF) pg_catalog.pg_statistic'";

static void
add_relations(Scrub *scrub, MemoryContext context)
{
	static const char query[] =
		"SELECT r.oid FROM (SELECT c.oid, c.reltoastrelid" OUR_RELATIONS
		" UNION ALL SELECT p.oid, p.reltoastrelid FROM pg_catalog.pg_class p"
		" WHERE p.oid OPERATOR(pg_catalog.=)"
		" 'pg_catalog.pg_statistic'::pg_catalog.regclass) t,"
		" LATERAL (VALUES (t.oid), (t.reltoastrelid)) r (oid)"
		" WHERE r.oid OPERATOR(pg_catalog.<>) 0::pg_catalog.oid";

	if (SPI_execute(query, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the catalogs");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext caller = MemoryContextSwitchTo(context);
		bool isnull;

		scrub->relations =
			lappend_oid(scrub->relations,
						DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
													   SPI_tuptable->tupdesc, 1,
													   &isnull)));
		MemoryContextSwitchTo(caller);
	}
}

void
es_plan_scrub(Scrub *scrub)
{
	MemoryContext context = CurrentMemoryContext;

	memset(scrub, 0, sizeof(Scrub));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (remove_statistics())
	{
		note_statistics();
		scrub->left = true;
	}
	else
	{
		find_ready(scrub, context);
		if (scrub->left)
			note_blocked(scrub->ids, find_blocker());
	}
	if (scrub->count > 0)
	{
		add_commands(scrub, context, leftover_query);
		add_commands(scrub, context, vacuum_query);
		add_commands(scrub, context, reindex_query);
		add_relations(scrub, context);
	}
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
	MemoryContextSwitchTo(context);
}

/* ---------- pages ---------- */

/* Whether the free space of a page has anything but zeros. */
static bool
has_remains(Page page)
{
	PageHeader header = (PageHeader) page;

	if (PageIsNew(page) || header->pd_lower < SizeOfPageHeaderData ||
		header->pd_lower > header->pd_upper || header->pd_upper > BLCKSZ)
		return false;
	for (int i = header->pd_lower; i < header->pd_upper; i++)
	{
		if (page[i] != 0)
			return true;
	}
	return false;
}

/* Whether a page has tuples that went in one of the transactions before a limit. */
static bool
has_dead_tuples(Relation relation, Buffer buffer, TransactionId limit)
{
	Page page = BufferGetPage(buffer);
	HeapTupleData tuple = {.t_tableOid = RelationGetRelid(relation)};

	if (PageIsNew(page) || !TransactionIdIsValid(limit))
		return false;
	for (OffsetNumber i = FirstOffsetNumber; i <= PageGetMaxOffsetNumber(page);
		 i++)
	{
		ItemId item = PageGetItemId(page, i);

		if (!ItemIdIsNormal(item))
			continue;
		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple.t_len = ItemIdGetLength(item);
		ItemPointerSet(&tuple.t_self, BufferGetBlockNumber(buffer), i);
		if (HeapTupleSatisfiesVacuum(&tuple, limit, buffer) == HEAPTUPLE_DEAD &&
			HeapTupleHeaderXminCommitted(tuple.t_data))
			return true;
	}
	return false;
}

/* Clears the free space; a generic record has a standby clear it, too. */
static void
clear(Relation relation, Buffer buffer)
{
	GenericXLogState *state = GenericXLogStart(relation);
	Page page = GenericXLogRegisterBuffer(state, buffer, 0);
	PageHeader header = (PageHeader) page;

	memset(page + header->pd_lower, 0, header->pd_upper - header->pd_lower);
	GenericXLogFinish(state);
}

static bool
scrub_page(Relation relation, BlockNumber block, BufferAccessStrategy strategy,
		   TransactionId limit)
{
	Buffer buffer =
		ReadBufferExtended(relation, MAIN_FORKNUM, block, RBM_NORMAL, strategy);
	bool remains;
	bool dead;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	remains = has_remains(BufferGetPage(buffer));
	dead = has_dead_tuples(relation, buffer, limit);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	if (remains)
	{
		LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
		if (has_remains(BufferGetPage(buffer)))
			clear(relation, buffer);
		LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	}
	ReleaseBuffer(buffer);
	return !dead;
}

bool
es_scrub_relation(Oid oid, TransactionId limit)
{
	Relation relation = try_table_open(oid, ShareUpdateExclusiveLock);
	BufferAccessStrategy strategy;
	BlockNumber blocks;
	bool clean = true;

	if (relation == NULL)
		return true;
	if (relation->rd_rel->relam != HEAP_TABLE_AM_OID)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("%s is no heap, and cannot be scrubbed",
							   RelationGetRelationName(relation))));
	strategy = GetAccessStrategy(BAS_VACUUM);
	blocks = RelationGetNumberOfBlocks(relation);
	for (BlockNumber block = 0; block < blocks; block++)
	{
		CHECK_FOR_INTERRUPTS();
		clean = scrub_page(relation, block, strategy, limit) && clean;
	}
	FreeAccessStrategy(strategy);
	FlushRelationBuffers(relation);
	smgrimmedsync(RelationGetSmgr(relation), MAIN_FORKNUM);
	table_close(relation, ShareUpdateExclusiveLock);
	return clean;
}

void
es_note_unscrubbed(void)
{
	note_blocked(PointerGetDatum(construct_empty_array(UUIDOID)),
				 "a page that was in use");
}

void
es_note_scrubbed(const Scrub *scrub)
{
	static KeptPlan plan = {"UPDATE event_store.erasures"
							" SET scrubbed_at = pg_catalog.clock_timestamp(), blocked_by = NULL"
							" WHERE erasure_id OPERATOR(pg_catalog.=) ANY ($1)",
							1,
							{UUIDARRAYOID}};
	Datum value = scrub->ids;
	OwnerScope scope;

	es_begin(&scope);
	(void) es_execute_latest(&plan, &value, NULL);
	es_end(&scope);
}
