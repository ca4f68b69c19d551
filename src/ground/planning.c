/*
 * planning.c
 *		How kept statements are planned: as for tables that are large, and of
 *		whose contents nothing is known.
 *
 * A session may meet the store while it is empty, and keep its plans until the
 * store holds millions of rows: PostgreSQL plans again when a table has been
 * vacuumed or analysed, which nobody promises.  A plan for few rows then reads all
 * of them at each call.  So the planner is told the same sizes at any time and no
 * statistics, and has no choice but indexes: a plan depends on the shape of the
 * store alone, and neither on what the tables held when it was made nor on the
 * values of the call that made it.  That is right for statements that find rows
 * by their keys or in the order of a key, as nearly all of ours do.
 *
 * Planning happens here, ahead of the execution, because what is set for it must
 * not reach the triggers and reducers that run then.  Where PostgreSQL nevertheless
 * plans for itself, because of a change that came in after that, its plan serves one
 * call.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/namespace.h"
#include "executor/spi.h"
#include "executor/spi_priv.h"
#include "nodes/parsenodes.h"
#include "nodes/pathnodes.h"
#include "nodes/pg_list.h"
#include "utils/guc.h"
#include "utils/plancache.h"
#include "utils/resowner.h"
#include "utils/selfuncs.h"

#include "ground/compat.h"
#include "ground/planning.h"

/* What every table and index is taken for. */
#define PLANNED_ROWS 50e6
#define PLANNED_PAGES 1000000
#define PLANNED_INDEX_PAGES 200000
#define PLANNED_INDEX_HEIGHT 3

static const char *const ways[][2] =
	{{"enable_indexscan", "on"}, {"enable_indexonlyscan", "on"},
	 {"enable_tidscan", "on"},	 {"enable_nestloop", "on"},
	 {"enable_seqscan", "off"},	 {"enable_bitmapscan", "off"},
	 {"enable_hashjoin", "off"}, {"enable_mergejoin", "off"},
	 {"enable_material", "off"}, {"enable_memoize", "off"},
	 {"enable_sort", "off"},	 {"jit", "off"}};

static build_simple_rel_hook_type previous_relation_hook;

/* Gives a relation the sizes that all are planned for. */
static void
take_for_large(ES_RELATION_HOOK_PARAMETERS)
{
	ListCell *cell;

	if (previous_relation_hook != NULL)
		previous_relation_hook(ES_RELATION_HOOK_ARGUMENTS);
	if (rel->rtekind != RTE_RELATION)
		return;
	rel->pages = PLANNED_PAGES;
	rel->tuples = PLANNED_ROWS;
	rel->allvisfrac = 1;
	rel->statlist = NIL;
	foreach (cell, rel->indexlist)
	{
		IndexOptInfo *index = lfirst(cell);

		index->pages = PLANNED_INDEX_PAGES;
		index->tuples = PLANNED_ROWS;
		index->tree_height = PLANNED_INDEX_HEIGHT;
	}
}

/* Says of each column that it has no statistics. */
static bool
know_nothing(PlannerInfo *root, RangeTblEntry *rte, AttrNumber attnum,
			 VariableStatData *vardata)
{
	(void) root;
	(void) rte;
	(void) attnum;
	vardata->statsTuple = NULL;
	return true;
}

void
es_set_for_planning(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

void
es_make_plan(SPIPlanPtr plan)
{
	ReleaseCachedPlan(SPI_plan_get_cached_plan(plan),
					  plan->saved ? CurrentResourceOwner : NULL);
}

void
es_forget_plan(SPIPlanPtr plan)
{
	CachedPlanSource *source = linitial(SPI_plan_get_plan_sources(plan));

	if (source->gplan != NULL)
		source->gplan->is_valid = false;
}

/*
 * Whether the plan that a statement has is the one of that generation, and
 * PostgreSQL will use it.  What is not planned has no search_path.
 */
static bool
has_plan(const CachedPlanSource *source, int generation)
{
	return source->is_valid && source->gplan != NULL &&
		   source->gplan->is_valid && source->generation == generation &&
		   !TransactionIdIsValid(source->gplan->saved_xmin) &&
		   (source->search_path == NULL ||
			SearchPathMatchesCurrentEnvironment(source->search_path));
}

void
es_plan_for_any_size(SPIPlanPtr plan, int *generation)
{
	CachedPlanSource *source = linitial(SPI_plan_get_plan_sources(plan));
	get_relation_stats_hook_type stats_hook = get_relation_stats_hook;
	build_simple_rel_hook_type relation_hook = build_simple_rel_hook;
	int settings;

	if (has_plan(source, *generation))
		return;
	es_forget_plan(plan);
	settings = NewGUCNestLevel();
	/* an index of the owner's may have the planner run a function that comes here */
	if (relation_hook != take_for_large)
		previous_relation_hook = relation_hook;
	PG_TRY();
	{
		build_simple_rel_hook = take_for_large;
		get_relation_stats_hook = know_nothing;
		for (int i = 0; i < (int) lengthof(ways); i++)
			es_set_for_planning(ways[i][0], ways[i][1]);
		es_make_plan(plan);
	}
	PG_FINALLY();
	{
		build_simple_rel_hook = relation_hook;
		get_relation_stats_hook = stats_hook;
	}
	PG_END_TRY();
	AtEOXact_GUC(false, settings);
	*generation = source->generation;
}
