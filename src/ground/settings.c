/*
 * settings.c
 *		Every setting of event_store, and the one argument that overrides one.
 *
 * Owns the variables behind event_store.*.  All of them are of level user,
 * superuser or sighup: they can be defined by any backend that loads the library,
 * so an installation without shared_preload_libraries has the same settings as
 * one with it.  Those that size shared memory are of level postmaster where
 * there is some.  Code that acts on a setting reads its variable
 * each time, so a reload takes effect with the next write or round; what is set
 * for a database is read when a session or a worker starts.
 */
#include "postgres.h"

#include <limits.h>

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"

#include "ground/common.h"
#include "ground/compat.h"
#include "ground/event.h"
#include "ground/settings.h"

#define DEFAULT_DRAIN_AT_SHUTDOWN_MS (5 * 1000)
#define MIN_DRAIN_AT_SHUTDOWN_MS 0
#define MAX_DRAIN_AT_SHUTDOWN_MS (60 * 60 * 1000)
#define DEFAULT_PROCESSED_RETENTION_S 0
#define MIN_PROCESSED_RETENTION_S 0
#define MAX_PROCESSED_RETENTION_S INT_MAX

#define DEFAULT_GROUPED_QUEUE_KB 1024
#define MIN_GROUPED_QUEUE_KB 64
#define MAX_GROUPED_QUEUE_KB (1024 * 1024)

#define DEFAULT_MAX_DATABASES 128
#define MIN_MAX_DATABASES 1
#define MAX_MAX_DATABASES 8192

#define DEFAULT_MAX_HOPS 32
#define MIN_MAX_HOPS 1
#define MAX_MAX_HOPS 1000000

#define DEFAULT_MAX_WORKERS 0
#define MIN_MAX_WORKERS 0
#define MAX_MAX_WORKERS 262143

#define DEFAULT_PROJECTORS 1
#define MIN_PROJECTORS 0
#define MAX_PROJECTORS 8

#define DEFAULT_DEAD_LETTER_RETENTION_S 0
#define MIN_DEAD_LETTER_RETENTION_S 0
#define MAX_DEAD_LETTER_RETENTION_S INT_MAX

#define DEFAULT_RETRY_INITIAL_MS 1000
#define DEFAULT_RETRY_MAX_MS (60 * 1000)
#define MIN_RETRY_MS 1
#define MAX_RETRY_MS (60 * 60 * 1000)

#define DEFAULT_SETTLE_TIMEOUT_MS (30 * 1000)
#define MIN_SETTLE_TIMEOUT_MS 1
#define MAX_SETTLE_TIMEOUT_MS (60 * 60 * 1000)

#define DEFAULT_SNAPSHOT_EVERY 100
#define MIN_SNAPSHOT_EVERY 0
#define MAX_SNAPSHOT_EVERY INT_MAX

#define DEFAULT_STAGING_LIMIT 1000000
#define MIN_STAGING_LIMIT 0
#define MAX_STAGING_LIMIT INT_MAX

#define DEFAULT_WRITE_BATCH_SIZE 1000
#define MIN_WRITE_BATCH_SIZE 1
#define MAX_WRITE_BATCH_SIZE 1000000

#define DEFAULT_WRITE_DELAY_MS 1000
#define MIN_WRITE_DELAY_MS 0
#define MAX_WRITE_DELAY_MS (60 * 60 * 1000)

char *es_correlation_id = NULL;
char *es_causation_id = NULL;
char *es_metadata = NULL;
Jsonb *es_metadata_members = NULL;
int es_drain_at_shutdown = DEFAULT_DRAIN_AT_SHUTDOWN_MS;
int es_dead_letter_retention = DEFAULT_DEAD_LETTER_RETENTION_S;
int es_durability = ES_DURABLE;
int es_grouped_queue = DEFAULT_GROUPED_QUEUE_KB;
int es_max_databases = DEFAULT_MAX_DATABASES;
int es_max_hops = DEFAULT_MAX_HOPS;
int es_max_workers = DEFAULT_MAX_WORKERS;
int es_on_staging_full = ES_FULL_DURABLE;
bool es_require_expected_sequence = false;
int es_processed_retention = DEFAULT_PROCESSED_RETENTION_S;
int es_projectors = DEFAULT_PROJECTORS;
int es_retry_initial = DEFAULT_RETRY_INITIAL_MS;
int es_retry_max = DEFAULT_RETRY_MAX_MS;
int es_settle_timeout = DEFAULT_SETTLE_TIMEOUT_MS;
int es_snapshot_every = DEFAULT_SNAPSHOT_EVERY;
int es_staging_limit = DEFAULT_STAGING_LIMIT;
int es_write_batch_size = DEFAULT_WRITE_BATCH_SIZE;
int es_write_delay = DEFAULT_WRITE_DELAY_MS;

static const struct config_enum_entry durability_options[] = {
	{"durable", ES_DURABLE, false},
	{"grouped", ES_GROUPED, false},
	{"staged", ES_STAGED, false},
	{NULL, 0, false},
};

static const struct config_enum_entry on_staging_full_options[] = {
	{"durable", ES_FULL_DURABLE, false},
	{"block", ES_FULL_BLOCK, false},
	{"error", ES_FULL_ERROR, false},
	{NULL, 0, false},
};

/*
 * A first pause above the longest one is refused where a statement gives one of
 * them: ALTER SYSTEM, for which the other counts as the files have it by now.
 * What the files say is checked value by value as well when they are read, in the
 * order of their lines, each against the other's value of before: nothing can be
 * told from that, so the pair that is in force then is looked at, by
 * es_warn_of_settings().
 */
static bool all_defined = false;

/* What a setting in ms will be after the next reload, as far as files say so. */
static int
pending_ms(const char *name, int in_force)
{
	const char *const files[] = {ConfigFileName, PG_AUTOCONF_FILENAME};
	int result = in_force;

	for (int i = 0; i < (int) lengthof(files); i++)
	{
		ConfigVariable *head = NULL;
		ConfigVariable *tail = NULL;

		(void) ParseConfigFile(files[i], false, NULL, 0, 0, LOG, &head, &tail);
		for (ConfigVariable *line = head; line != NULL; line = line->next)
		{
			int value;

			if (line->name != NULL && pg_strcasecmp(line->name, name) == 0 &&
				parse_int(line->value, &value, GUC_UNIT_MS, NULL))
				result = value;
		}
		FreeConfigVariables(head);
	}
	return result;
}

static bool
check_pauses(int initial, int longest)
{
	if (initial <= longest)
		return true;
	GUC_check_errdetail("event_store.retry_initial, %d ms, would be above event_store.retry_max, %d ms.",
						initial, longest);
	GUC_check_errhint("Set the other one first.");
	return false;
}

static bool
check_retry_initial(int *value, void **extra, GucSource source)
{
	return !all_defined || ActivePortal == NULL ||
		   check_pauses(*value, pending_ms("event_store.retry_max", es_retry_max));
}

static bool
check_retry_max(int *value, void **extra, GucSource source)
{
	return !all_defined || ActivePortal == NULL ||
		   check_pauses(pending_ms("event_store.retry_initial", es_retry_initial),
						*value);
}

/* Whether a name fits into its column of an event. */
static bool
check_name(char **value, void **extra, GucSource source)
{
	if (pg_mbstrlen(*value) <= ES_MAX_NAME_CHARS)
		return true;
	GUC_check_errdetail("It is longer than %d characters.", ES_MAX_NAME_CHARS);
	return false;
}

/* Reads JSON; NULL with GUC's detail set if it is none. */
static Jsonb *
read_json(const char *value)
{
	MemoryContext context = CurrentMemoryContext;
	Jsonb *volatile result = NULL;

	PG_TRY();
	{
		result =
			DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(value)));
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		if (ERRCODE_TO_CATEGORY(geterrcode()) != ERRCODE_DATA_EXCEPTION)
			PG_RE_THROW();
		error = CopyErrorData();
		FlushErrorState();
		GUC_check_errdetail("%s", error->detail != NULL ? error->detail
														: error->message);
		FreeErrorData(error);
	}
	PG_END_TRY();
	return result;
}

/* Keeps the object that was read beside the value. */
static bool
check_metadata(char **value, void **extra, GucSource source)
{
	Jsonb *members;

	if ((*value)[0] == '\0')
		return true;
	members = read_json(*value);
	if (members == NULL)
		return false;
	if (!JB_ROOT_IS_OBJECT(members))
	{
		GUC_check_errdetail("It must be a JSON object.");
		return false;
	}
	if (es_has_member(JsonbPGetDatum(members), ES_ERASED))
	{
		GUC_check_errdetail("The key \"%s\" is given by the store to what was erased.",
							ES_ERASED);
		return false;
	}
	*extra = guc_malloc(LOG, VARSIZE(members));
	if (*extra == NULL)
		return false;
	memcpy(*extra, members, VARSIZE(members));
	pfree(members);
	return true;
}

static void
assign_metadata(const char *value, void *extra)
{
	es_metadata_members = extra;
}

int
es_first_pause(void)
{
	return Min(es_retry_initial, es_retry_max);
}

void
es_warn_of_settings(void)
{
	if (es_retry_initial > es_retry_max)
		ereport(WARNING,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event_store.retry_initial, %d ms, is above event_store.retry_max, %d ms: every pause is %d ms",
						es_retry_initial, es_retry_max, es_retry_max)));
}

/*
 * Defines all settings, in alphabetical order, and reserves their prefix, so
 * that a misspelt event_store.* setting is reported.
 */
/* Where an append or a put goes, and what it waits for. */
static void
define_writes(void)
{
	DefineCustomEnumVariable("event_store.durability",
							 "Durability of appends and puts that do not name one.",
							 "durable: committed like any row. "
							 "grouped: committed at once, together with what others append. "
							 "staged: written to unlogged staging and made durable soon after.",
							 &es_durability, ES_DURABLE, durability_options,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("event_store.on_staging_full",
							 "What a staged write does once staging_limit is reached.",
							 "durable: it is written durably. "
							 "block: it waits for space. "
							 "error: it is refused with VS004.",
							 &es_on_staging_full, ES_FULL_DURABLE,
							 on_staging_full_options, PGC_USERSET, 0, NULL,
							 NULL, NULL);
	DefineCustomIntVariable("event_store.projectors",
							"Number of processes that run handlers of projections in a database at a time.",
							"Each works for one role; 0 leaves handlers to project().",
							&es_projectors, DEFAULT_PROJECTORS, MIN_PROJECTORS,
							MAX_PROJECTORS, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("event_store.require_expected_sequence",
							 "Refuses appends whose expected_sequence is NULL.",
							 "Any sequence is then expected with -2.",
							 &es_require_expected_sequence, false, PGC_USERSET,
							 0, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.settle_timeout",
							"Longest time that a durable write waits for staged rows to become durable.",
							"It waits for those of the same aggregate or view key. "
							"A number without unit is in milliseconds.",
							&es_settle_timeout, DEFAULT_SETTLE_TIMEOUT_MS,
							MIN_SETTLE_TIMEOUT_MS, MAX_SETTLE_TIMEOUT_MS,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.staging_limit",
							"Number of committed rows that staging holds before on_staging_full applies.",
							"Counted in rows; 0 turns staging off.",
							&es_staging_limit, DEFAULT_STAGING_LIMIT,
							MIN_STAGING_LIMIT, MAX_STAGING_LIMIT, PGC_SUSET, 0,
							NULL, NULL, NULL);
}

/* What events get whose call does not say. */
static void
define_tracing(void)
{
	DefineCustomStringVariable("event_store.causation_id",
							   "The causation_id of events whose call gives none.",
							   NULL, &es_causation_id, "", PGC_USERSET, 0,
							   check_name, NULL, NULL);
	DefineCustomStringVariable("event_store.correlation_id",
							   "The correlation_id of events whose call gives none.",
							   NULL, &es_correlation_id, "", PGC_USERSET, 0,
							   check_name, NULL, NULL);
	DefineCustomStringVariable("event_store.metadata",
							   "Members of the metadata of events whose call does not give them.",
							   "A JSON object.", &es_metadata, "", PGC_USERSET,
							   0, check_metadata, assign_metadata, NULL);
}

/* When staged rows become durable. */
static void
define_drain(void)
{
	DefineCustomIntVariable(
		"event_store.drain_at_shutdown",
		"Longest time that the server takes at a fast or smart stop to make staged rows durable.",
		"A number without unit is in milliseconds; 0 leaves them staged for the next start.",
		&es_drain_at_shutdown, DEFAULT_DRAIN_AT_SHUTDOWN_MS,
		MIN_DRAIN_AT_SHUTDOWN_MS, MAX_DRAIN_AT_SHUTDOWN_MS, PGC_SIGHUP,
		GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.retry_initial",
							"Time before a failed job of the worker, the drain above all, is first tried again.",
							"It doubles with every further failure, up to retry_max. "
							"A number without unit is in milliseconds.",
							&es_retry_initial, DEFAULT_RETRY_INITIAL_MS,
							MIN_RETRY_MS, MAX_RETRY_MS, PGC_SIGHUP, GUC_UNIT_MS,
							check_retry_initial, NULL, NULL);
	DefineCustomIntVariable("event_store.retry_max",
							"Longest time before a failed job of the worker is tried again.",
							"A number without unit is in milliseconds.",
							&es_retry_max, DEFAULT_RETRY_MAX_MS, MIN_RETRY_MS,
							MAX_RETRY_MS, PGC_SIGHUP, GUC_UNIT_MS,
							check_retry_max, NULL, NULL);
	DefineCustomIntVariable(
		"event_store.write_batch_size",
		"Number of staged rows that one drain transaction makes durable.",
		"Counted in rows; a transaction's rows are never split over two batches.",
		&es_write_batch_size, DEFAULT_WRITE_BATCH_SIZE, MIN_WRITE_BATCH_SIZE,
		MAX_WRITE_BATCH_SIZE, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"event_store.write_delay",
		"Longest time that staged rows are gathered before they are made durable.",
		"A number without unit is in milliseconds; 0 writes staged rows through at once.",
		&es_write_delay, DEFAULT_WRITE_DELAY_MS, MIN_WRITE_DELAY_MS,
		MAX_WRITE_DELAY_MS, PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
}

/* How many processes and databases there are, and what the workers keep. */
static void
define_upkeep(void)
{
	DefineCustomIntVariable("event_store.dead_letter_retention",
							"How long dead_letter_history keeps what became of a dead letter.",
							"A number without unit is in seconds; 0 keeps it for ever.",
							&es_dead_letter_retention,
							DEFAULT_DEAD_LETTER_RETENTION_S,
							MIN_DEAD_LETTER_RETENTION_S,
							MAX_DEAD_LETTER_RETENTION_S, PGC_SUSET, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.grouped_queue",
							"Shared memory in which sessions hand grouped appends over.",
							"A number without unit is in kilobytes. What is larger than all of it is committed by its session.",
							&es_grouped_queue, DEFAULT_GROUPED_QUEUE_KB,
							MIN_GROUPED_QUEUE_KB, MAX_GROUPED_QUEUE_KB,
							process_shared_preload_libraries_in_progress
								? PGC_POSTMASTER
								: PGC_SIGHUP,
							GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.max_databases",
							"Number of databases that have their store in shared memory.",
							"Each takes some 150 kB. In others a store works as without preload.",
							&es_max_databases, DEFAULT_MAX_DATABASES,
							MIN_MAX_DATABASES, MAX_MAX_DATABASES,
							process_shared_preload_libraries_in_progress
								? PGC_POSTMASTER
								: PGC_SIGHUP,
							0, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.max_hops",
							"Number of events in a row that handlers append in reaction to each other.",
							"The next append of a handler is refused with VS010.",
							&es_max_hops, DEFAULT_MAX_HOPS, MIN_MAX_HOPS,
							MAX_MAX_HOPS, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"event_store.max_workers",
		"Number of background workers that the stores of all databases share.",
		"0: as many as max_worker_processes has room for. Who has waited longest is next.",
		&es_max_workers, DEFAULT_MAX_WORKERS, MIN_MAX_WORKERS, MAX_MAX_WORKERS,
		PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.processed_retention",
							"How long the worker keeps what process_once was told.",
							"A number without unit is in seconds; 0 keeps it for ever.",
							&es_processed_retention, DEFAULT_PROCESSED_RETENTION_S,
							MIN_PROCESSED_RETENTION_S, MAX_PROCESSED_RETENTION_S,
							PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.snapshot_every",
							"Number of events of an aggregate after which the worker saves a new snapshot.",
							"Counted in events; 0 saves no snapshots.",
							&es_snapshot_every, DEFAULT_SNAPSHOT_EVERY,
							MIN_SNAPSHOT_EVERY, MAX_SNAPSHOT_EVERY, PGC_SUSET,
							0, NULL, NULL, NULL);
}

void
es_define_settings(void)
{
	define_writes();
	define_tracing();
	define_drain();
	define_upkeep();
	/* what pg_upgrade carries over may name a setting that is no more */
	if (!IsBinaryUpgrade)
		MarkGUCPrefixReserved("event_store");
	all_defined = true;
}

/*
 * Returns the durability that argument "argno" asks for, or the setting's if
 * it is NULL.
 */
Durability
es_durability_argument(FunctionCallInfo fcinfo, int argno)
{
	text *word;
	const struct config_enum_entry *option;

	if (PG_ARGISNULL(argno))
		return (Durability) es_durability;

	word = PG_GETARG_TEXT_PP(argno);
	for (option = durability_options; option->name != NULL; option++)
	{
		if (strlen(option->name) == VARSIZE_ANY_EXHDR(word) &&
			memcmp(option->name, VARDATA_ANY(word), VARSIZE_ANY_EXHDR(word)) == 0)
			return (Durability) option->val;
	}

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid durability: \"%s\"", text_to_cstring(word)),
			 errhint("Give 'durable', 'grouped', 'staged', or NULL for the setting event_store.durability.")));
}
