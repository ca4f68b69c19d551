/*
 * module.c
 *		The library as PostgreSQL loads it: its entry, and what it says of itself.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "consume/deadline_gauges.h"
#include "consume/deaths.h"
#include "consume/pace.h"
#include "consume/processed.h"
#include "consume/progress.h"
#include "consume/prune.h"
#include "consume/subscription_gauges.h"
#include "ground/archive_mark.h"
#include "ground/catalog.h"
#include "ground/committer_slot.h"
#include "ground/common.h"
#include "ground/due_snapshot.h"
#include "ground/fencing.h"
#include "ground/grouped_call.h"
#include "ground/head_cache.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/position.h"
#include "ground/projector_slot.h"
#include "ground/scrubber_slot.h"
#include "ground/settings.h"
#include "ground/shmem.h"
#include "ground/timer_slot.h"
#include "ground/waiter.h"
#include "ground/worker_slot.h"
#include "log/outside_write.h"
#include "process/database_command.h"
#include "process/launcher.h"
#include "read/gauges.h"
#include "replay/rebuild.h"
#include "saga/circuit.h"
#include "saga/saga_gauges.h"
#include "saga/saga_work.h"
#include "staging/drain_state.h"
#include "staging/staging_state.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(es_is_available);
PG_FUNCTION_INFO_V1(es_extension_version);

void _PG_init(void);

/* Everybody who has a part of shared memory. */
static void (*const share_parts[])(void) =
	{es_share_worker_slots,	 es_share_metrics,	  es_share_heads,
	 es_share_locks,		 es_share_positions,  es_share_fencing,
	 es_share_due_snapshots, es_share_staging,	  es_share_drain_progress,
	 es_share_rebuilds,		 es_share_processed,  es_share_progress,
	 es_share_deaths,		 es_share_pruning,	  es_share_waiters,
	 es_share_pace,			 es_share_projectors, es_share_committers,
	 es_share_grouped_calls, es_share_timers,	  es_share_saga_work,
	 es_share_circuits,		 es_share_scrubbers,  es_share_archive_mark};

/*
 * A server that pg_upgrade starts has the settings, so that none is read that is not
 * there, and nothing else: no shared memory, no hook, no process; and catalog.c
 * refuses every call.
 */
void
_PG_init(void)
{
	es_define_settings();
	if (process_shared_preload_libraries_in_progress && !IsBinaryUpgrade)
	{
		for (int i = 0; i < (int) lengthof(share_parts); i++)
			share_parts[i]();
		es_shmem_define();
		es_register_launcher();
		es_utility_hook_install();
		es_watch_log();
		es_register_subscriptions(es_subscription_gauges);
		es_register_sagas(es_saga_gauges);
		es_register_deadlines(es_deadline_gauges);
	}
}

Datum
es_is_available(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(es_store_if_any() != NULL);
}

Datum
es_extension_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(ES_VERSION));
}
