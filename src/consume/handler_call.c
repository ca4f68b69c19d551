/*
 * handler_call.c
 *		A call of somebody else's function: as its owner, and in its time.
 *
 * It runs as its owner, who was the one to register it, as a security-restricted operation
 * and with a pinned search_path: so it cannot take another role, and leaves no temporary
 * table, cursor or prepared statement to the session.  What it sets ends with the call.
 * Deferred triggers cannot wait for the end of the transaction then, so all constraints
 * are immediate from the first call on, and triggers run in the call that they are due to.
 *
 * Which function that is stands in tables of the store, which their owner can write to
 * himself: he cannot have a superuser's functions run by that, unless he is one.
 *
 * A call has a time.  When that is over it is cancelled, and has failed, also when the
 * function has caught that.  In a projector a call that lasts twice as long ends the
 * process, since no code can catch that; whoever called has it noted.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/timeout.h"

#include "consume/handler_call.h"
#include "ground/catalog.h"
#include "write/cause.h"

/* What a handler finds unless it sets a search_path itself. */
#define HANDLER_SEARCH_PATH "pg_catalog, pg_temp"

/* ---------- the time of a call ---------- */

static TimeoutId cancel_timeout;
static TimeoutId end_timeout;
static bool timeouts_registered = false;
static volatile sig_atomic_t overdue = false;
static volatile sig_atomic_t given_up = false;
static bool ends_process = false;
static const HandlerCall *running = NULL;

static void
cancel_call(void)
{
	overdue = true;
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

/* It did not end when it was cancelled. */
static void
end_call(void)
{
	if (ends_process)
	{
		given_up = true;
		ProcDiePending = true;
	}
	else
		QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

static void
note_given_up(int code, Datum arg)
{
	if (given_up && running != NULL)
		running->given_up(running->what);
}

void
es_let_handlers_end_process(void)
{
	ends_process = true;
	before_shmem_exit(note_given_up, (Datum) 0);
}

bool
es_is_in_handler(void)
{
	return running != NULL;
}

static void
begin_time(int64 ms)
{
	EnableTimeoutParams params[2];

	if (!timeouts_registered)
	{
		cancel_timeout = RegisterTimeout(USER_TIMEOUT, cancel_call);
		end_timeout = RegisterTimeout(USER_TIMEOUT, end_call);
		timeouts_registered = true;
	}
	overdue = false;
	params[0] = (EnableTimeoutParams){.id = cancel_timeout,
									  .type = TMPARAM_AFTER,
									  .delay_ms = (int) ms};
	params[1] = (EnableTimeoutParams){.id = end_timeout,
									  .type = TMPARAM_AFTER,
									  .delay_ms = (int) (2 * ms)};
	enable_timeouts(params, 2);
}

static void
end_time(void)
{
	const DisableTimeoutParams params[2] = {{.id = cancel_timeout},
											{.id = end_timeout}};

	disable_timeouts(params, 2);
	/* what was to cancel the call must not cancel what comes after it */
	if (overdue)
		QueryCancelPending = false;
}

/* ---------- calling ---------- */

void
es_make_constraints_immediate(void)
{
	AfterTriggerSetState(makeNode(ConstraintsSetStmt));
}

bool
es_is_above_store(Oid role)
{
	return superuser_arg(role) && !superuser_arg(es_store()->owner);
}

void
es_refuse_above_store(Oid role)
{
	if (es_is_above_store(role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("a handler of role \"%s\", a superuser, cannot run in a store of role \"%s\", who is none",
						GetUserNameFromId(role, false),
						GetUserNameFromId(es_store()->owner, false)),
				 errdetail("The owner of the store can write to the table that says which function runs."),
				 errhint("Give the function to another role.")));
}

Datum
es_call_as_owner(HandlerCall *call)
{
	LOCAL_FCINFO(arguments, ES_HANDLER_ARGUMENTS);
	FmgrInfo function;
	int settings = NewGUCNestLevel();
	char lock_timeout[32];
	Datum result;
	Oid user;
	int security;

	es_refuse_above_store(call->owner);
	fmgr_info(call->function, &function);
	InitFunctionCallInfoData(*arguments, &function, call->count, InvalidOid,
							 NULL, NULL);
	for (int i = 0; i < call->count; i++)
		arguments->args[i] = (NullableDatum){.value = call->arguments[i]};
	/* who waits for a lock has not failed: it gives up before its time is over */
	snprintf(lock_timeout, sizeof(lock_timeout), "%lld",
			 (long long) Max(call->timeout / 2, 1));
	(void) set_config_option("lock_timeout", lock_timeout, PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("search_path", HANDLER_SEARCH_PATH, PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(call->owner, security | SECURITY_LOCAL_USERID_CHANGE |
											SECURITY_RESTRICTED_OPERATION);
	result = FunctionCallInvoke(arguments);
	call->isnull = arguments->isnull;
	SetUserIdAndSecContext(user, security);
	AtEOXact_GUC(false, settings);
	return result;
}

Datum
es_call_in_time(HandlerCall *call)
{
	volatile Datum result = (Datum) 0;

	running = call;
	es_set_cause(call->cause, call->several);
	begin_time(call->timeout);
	PG_TRY();
	{
		result = es_call_as_owner(call);
	}
	PG_FINALLY();
	{
		end_time();
		*call->overdue = overdue;
		es_set_cause(NULL, false);
		running = NULL;
	}
	PG_END_TRY();
	if (overdue)
		ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED),
						errmsg("the handler has taken longer than its timeout")));
	CommandCounterIncrement();
	return result;
}
