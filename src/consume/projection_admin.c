/*
 * projection_admin.c
 *		Projections of handlers made and begun anew; projections dropped.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "consume/consume.h"
#include "consume/handler.h"
#include "consume/inline_switch.h"
#include "consume/member.h"
#include "consume/pace.h"
#include "consume/projection.h"
#include "consume/subscription.h"
#include "consume/subscription_admin.h"
#include "consume/view_rebuild.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/lock.h"
#include "read/feed.h"
#include "replay/view_batch.h"

#define MAX_BATCH_SIZE 10000

PG_FUNCTION_INFO_V1(es_create_projection);
PG_FUNCTION_INFO_V1(es_drop_projection);
PG_FUNCTION_INFO_V1(es_rebuild_projection);

static Datum
name_argument(FunctionCallInfo fcinfo)
{
	return PointerGetDatum(es_required_text(fcinfo, 0, "projection_name"));
}

/* ---------- making one ---------- */

static int
int_argument(FunctionCallInfo fcinfo, int argno, const char *name, int least,
			 int most)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("%s must not be null", name)));
	if (PG_GETARG_INT32(argno) < least || PG_GETARG_INT32(argno) > most)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must be from %d to %d", name, least, most)));
	return PG_GETARG_INT32(argno);
}

static int64
timeout_argument(FunctionCallInfo fcinfo, int argno)
{
	int64 timeout;

	if (PG_ARGISNULL(argno))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("timeout must not be null")));
	es_check_timeout(PG_GETARG_INTERVAL_P(argno), "timeout", &timeout);
	if (timeout < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("timeout must be at least a millisecond")));
	return timeout;
}

static Datum
array_or_none(FunctionCallInfo fcinfo, int argno)
{
	return PG_ARGISNULL(argno) ? (Datum) 0 : PG_GETARG_DATUM(argno);
}

/* Where its events come from; what is wrong there create_subscription() tells. */
static Source
source_arguments(FunctionCallInfo fcinfo)
{
	return (Source){.aggregate_types = array_or_none(fcinfo, 2),
					.event_types = array_or_none(fcinfo, 3),
					.from_now = PG_ARGISNULL(4),
					.start_after = PG_ARGISNULL(4) ? 0 : PG_GETARG_INT64(4),
					.members = int_argument(fcinfo, 6, "members", 1, 1000),
					.partition_by =
						PointerGetDatum(es_required_text(fcinfo, 7,
														 "partition_by")),
					.on_failure =
						PointerGetDatum(es_required_text(fcinfo, 9, "on_failure")),
					.max_attempts = int_argument(fcinfo, 10, "max_attempts", 0,
												 PG_INT32_MAX)};
}

/* The functions and the role that they run as. */
static void
handler_arguments(FunctionCallInfo fcinfo, Projection *projection)
{
	Oid owner;
	Oid reset_owner;

	if (PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("handler must not be null")));
	projection->handler = es_handler_signature(PG_GETARG_OID(1), false, &owner);
	reset_owner = owner;
	if (!PG_ARGISNULL(11))
		projection->reset =
			es_handler_signature(PG_GETARG_OID(11), true, &reset_owner);
	if (reset_owner != owner)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("handler and reset must belong to the same role")));
	es_check_projector_role(owner);
	projection->handler_owner =
		CStringGetTextDatum(GetUserNameFromId(owner, false));
}

Datum
es_create_projection(PG_FUNCTION_ARGS)
{
	Projection projection = {.kind = "handler", .mode = "async"};
	Source source;

	projection.name = name_argument(fcinfo);
	es_begin_consuming("create_projection()");
	(void) es_feed_database();
	handler_arguments(fcinfo, &projection);
	source = source_arguments(fcinfo);
	projection.batch_size =
		int_argument(fcinfo, 5, "batch_size", 1, MAX_BATCH_SIZE);
	projection.timeout = timeout_argument(fcinfo, 8);
	PG_RETURN_BOOL(es_make_projection(&projection, &source));
}

/* ---------- dropping one ---------- */

Datum
es_drop_projection(PG_FUNCTION_ARGS)
{
	Datum name = name_argument(fcinfo);
	LOCAL_FCINFO(call, 1);
	OwnerScope scope;
	bool removed;

	es_begin_consuming("drop_projection()");
	es_consume_durably();
	es_lock_rebuild(name);
	es_lock_hash(ES_LOCK_SUBSCRIPTION, es_subscription_hash(name), ExclusiveLock);
	(void) es_hold_inline(name);
	es_begin(&scope);
	removed = es_remove_projection(name);
	if (removed)
		es_forget_built(name);
	es_end(&scope);
	if (!removed)
		PG_RETURN_BOOL(false);
	InitFunctionCallInfoData(*call, NULL, 1, InvalidOid, NULL, NULL);
	call->args[0] = (NullableDatum){.value = name};
	PG_RETURN_DATUM(es_drop_subscription(call));
}

/* ---------- beginning anew ---------- */

/* How far back a projection goes, in positions: its members start anew. */
static int64
move_back(const Projection *projection)
{
	static KeptPlan plan = {"UPDATE event_store.projections SET stale = false"
							" WHERE projection_name OPERATOR(pg_catalog.=) $1",
							1,
							{TEXTOID}};
	Subscription subscription;
	OwnerScope scope;
	Datum name = projection->name;
	int64 furthest = projection->start;

	es_begin(&scope);
	es_execute(&plan, &name, NULL, false, SPI_OK_UPDATE);
	es_read_subscription(projection->name, &subscription);
	for (int m = 0; m < subscription.members; m++)
		furthest = Max(furthest, es_newest_member(projection->name, m).position);
	es_move_members(&subscription, projection->start);
	es_end(&scope);
	es_forget_pace(projection->hash);
	return furthest - projection->start;
}

/*
 * A view is made anew beside the live one.  Of a handler's its reset function empties what
 * it has made, and all events come again; the subscription is locked, so nobody takes in
 * any meanwhile.
 */
Datum
es_rebuild_projection(PG_FUNCTION_ARGS)
{
	Datum name = name_argument(fcinfo);
	Projection projection;

	es_begin_consuming("rebuild_projection()");
	(void) es_feed_database();
	es_consume_durably();
	es_lock_rebuild(name);
	es_read_projection(name, &projection);
	if (strcmp(projection.kind, "view") == 0)
		PG_RETURN_INT64(es_rebuild_kept_view(&projection));
	es_lock_hash(ES_LOCK_SUBSCRIPTION, es_subscription_hash(name), ExclusiveLock);
	if (projection.reset == (Datum) 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" has no reset function",
						TextDatumGetCString(name)),
				 errhint("Drop it and make it again with reset, or let a projection of another name catch up and change over.")));
	es_call_reset(&projection);
	PG_RETURN_INT64(move_back(&projection));
}
