/*
 * view_owner.c
 *		Views that a projection keeps, which nobody else writes.
 *
 * Each backend knows their names until it hears, by an invalidation of table projections, that
 * they have changed.  Invalidations are heard when a lock of a table is taken.  Every
 * writer of views passes the gate of view keys, and whoever makes a projection closes it
 * to the end of his transaction: so a writer that passes it later has heard.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/pair_table.h"
#include "log/view_owner.h"

/* The names, and whether they are known; NULL = there are none. */
static MemoryContext names_context = NULL;
static PairTable *names = NULL;
static bool known = false;
static Oid projections = InvalidOid;
uint64 es_projection_changes = 0;

static void
projections_changed(Datum arg, Oid relid)
{
	if (relid != InvalidOid && relid != projections)
		return;
	known = false;
	es_projection_changes++;
}

void
es_watch_projections(void)
{
	static bool listening = false;

	if (!listening)
		CacheRegisterRelcacheCallback(projections_changed, (Datum) 0);
	listening = true;
	projections = es_store()->projections;
}

bool
es_has_projections(void)
{
	Relation table = table_open(es_store()->projections, AccessShareLock);
	BlockNumber blocks = RelationGetNumberOfBlocks(table);

	table_close(table, AccessShareLock);
	return blocks > 0;
}

/* Makes a table of the names that were found. */
static void
keep_names(SPITupleTable *table, uint64 count)
{
	MemoryContext caller;
	bool found;
	bool isnull;

	if (names_context == NULL)
		names_context =
			AllocSetContextCreate(TopMemoryContext, "event_store kept views",
								  ALLOCSET_SMALL_SIZES);
	MemoryContextReset(names_context);
	names = NULL;
	if (count == 0)
		return;
	caller = MemoryContextSwitchTo(names_context);
	names = es_pair_table((int64) count);
	for (uint64 i = 0; i < count; i++)
	{
		Datum name = SPI_getbinval(table->vals[i], table->tupdesc, 1, &isnull);

		*es_pair_enter(names, name, name, &found) = 1;
	}
	MemoryContextSwitchTo(caller);
}

static void
look_up_names(void)
{
	static KeptPlan plan = {"SELECT p.projection_name FROM event_store.projections p"
							" WHERE p.kind OPERATOR(pg_catalog.=) 'view'"};
	OwnerScope scope;
	uint64 count;

	es_watch_projections();
	if (!es_has_projections())
	{
		keep_names(NULL, 0);
		known = true;
		return;
	}
	es_begin_read(&scope);
	while (!known)
	{
		uint64 heard = es_projection_changes;

		PushActiveSnapshot(GetLatestSnapshot());
		count = es_execute(&plan, NULL, NULL, true, SPI_OK_SELECT);
		keep_names(SPI_tuptable, count);
		PopActiveSnapshot();
		known = heard == es_projection_changes;
	}
	es_end(&scope);
}

bool
es_is_kept_view(Datum view_name)
{
	LockRelationOid(es_store()->view_key_gate, RowExclusiveLock);
	if (!known)
		look_up_names();
	return names != NULL && es_pair_find(names, view_name, view_name);
}

void
es_refuse_kept_view(Datum view_name)
{
	if (!es_is_kept_view(view_name))
		return;
	ereport(ERROR,
			(errcode(ES_ERRCODE_VIEW_KEPT),
			 errmsg("view \"%s\" is kept by a projection",
					TextDatumGetCString(view_name)),
			 errhint("Its rows come from events. rebuild_projection() makes them anew; after drop_projection() they are anybody's.")));
}

void
es_note_kept_views(void)
{
	CacheInvalidateRelcacheByRelid(es_store()->projections);
}
