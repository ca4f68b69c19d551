/*
 * grouped_call.c
 *		Calls that are handed over to the committer of their database.
 *
 * A backend hands over one call at a time, so the queue is a list of backends: each has
 * a place with room for a small call, and what is larger goes to a dynamic area, of
 * which all together use no more than the setting says.  The room is needed only until
 * the committer has copied the call: so those that wait there for a lock keep nobody
 * out.
 *
 * Lock protocol: CommitterSlot.lock of the database protects the queue and the state of
 * every call of that database.  The content is written by its owner: the caller until the
 * call is in the queue, and again when its answer was given; in between the committer.
 * The same holds for who frees what is in the dynamic area.  A call that its caller
 * takes back is known by its serial number: an answer to it is dropped.
 *
 * A caller is never left alone with his wait.  While his call is in the queue he sees to it
 * that there is a committer, and does it himself if there is none to be had, or if
 * it does not come to it.  When the committer ends with a call in its hands, the
 * call is marked as lost.  One that is
 * left to the caller stays marked until the end of his transaction, when his locks are
 * free: then the committer goes on with those that wait for the same.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/dsa.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "ground/committer_slot.h"
#include "ground/compat.h"
#include "ground/grouped_call.h"
#include "ground/settings.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "ground/wait.h"

/* A place has room for so much at least. */
#define MIN_PLACE_BYTES 512
/* A caller looks again this often. */
#define WAIT_SLICE_MS 1000
/* So long a call waits for its turn before its caller does it himself. */
#define QUEUE_PATIENCE_MS 1000

typedef struct GroupedCall
{
	GroupedState state;
	Oid database;
	uint32 serial;
	pid_t taker;  /* the committer that has it */
	int previous; /* in the queue: 1 + number; 0 = none */
	int next;
	int level;
	Latch *latch;
	int wakes[2]; /* callers that this one wakes, when it has its answer */
	Size size;
	dsa_pointer large; /* where the content is if it does not fit in */
	char content[FLEXIBLE_ARRAY_MEMBER];
} GroupedCall;

/* In front of the places. */
typedef struct GroupedArea
{
	pg_atomic_uint64 used;	/* of the dynamic area, by calls in the queue */
	ConditionVariable room; /* some of it was given back */
} GroupedArea;

static Size
queue_bytes(void)
{
	return (Size) es_grouped_queue * 1024;
}

static Size
place_bytes(void)
{
	return MAXALIGN(Max(queue_bytes() / MaxBackends, MIN_PLACE_BYTES));
}

static Size
place_size(void)
{
	return CACHELINEALIGN(offsetof(GroupedCall, content) + place_bytes());
}

static Size
dynamic_offset(void)
{
	return CACHELINEALIGN(sizeof(GroupedArea));
}

static Size
places_offset(void)
{
	return dynamic_offset() + CACHELINEALIGN(dsa_minimum_size());
}

static Size
area_size(void)
{
	return add_size(places_offset(), mul_size(MaxBackends, place_size()));
}

static void
initialise_area(void *memory)
{
	GroupedArea *area = memory;
	dsa_area *dynamic;

	pg_atomic_init_u64(&area->used, 0);
	ConditionVariableInit(&area->room);
	dynamic =
		dsa_create_in_place((char *) memory + dynamic_offset(),
							dsa_minimum_size(), es_shared->lock->tranche, NULL);
	dsa_pin(dynamic);
	dsa_detach(dynamic);
}

static ClusterPart area_part = {"event_store grouped calls", area_size,
								initialise_area};

void
es_share_grouped_calls(void)
{
	es_share(&area_part);
}

static GroupedArea *
area(void)
{
	return area_part.memory;
}

static GroupedCall *
call_numbered(int number)
{
	return (GroupedCall *) ((char *) area_part.memory + places_offset() +
							number * place_size());
}

static GroupedCall *
mine(void)
{
	return call_numbered(MyProcNumber);
}

/* The dynamic area, attached when it is first needed. */
static dsa_area *
dynamic(void)
{
	static dsa_area *attached = NULL;

	if (attached == NULL)
	{
		void *place = (char *) area_part.memory + dynamic_offset();
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		attached = dsa_attach_in_place(place, NULL);
		dsa_pin_mapping(attached);
		on_shmem_exit(dsa_on_shmem_exit_release_in_place, PointerGetDatum(place));
		MemoryContextSwitchTo(old);
	}
	return attached;
}

/* ---------- the queue; its lock is held ---------- */

static void
append_call(CommitterSlot *slot, int number)
{
	GroupedCall *call = call_numbered(number);

	call->next = 0;
	call->previous = slot->last;
	if (slot->last != 0)
		call_numbered(slot->last - 1)->next = number + 1;
	else
		slot->first = number + 1;
	slot->last = number + 1;
	slot->length++;
}

static void
remove_call(CommitterSlot *slot, int number)
{
	GroupedCall *call = call_numbered(number);

	if (call->previous != 0)
		call_numbered(call->previous - 1)->next = call->next;
	else
		slot->first = call->next;
	if (call->next != 0)
		call_numbered(call->next - 1)->previous = call->previous;
	else
		slot->last = call->previous;
	slot->length--;
}

/* Whether a call is still the one that the committer was given. */
static bool
is_still(const GroupedCall *call, uint32 serial, GroupedState state)
{
	return call->serial == serial && call->state == state;
}

/* ---------- room for what is large ---------- */

static bool
take_room(Size size)
{
	uint64 used = pg_atomic_read_u64(&area()->used);

	while (used + size <= queue_bytes())
	{
		if (pg_atomic_compare_exchange_u64(&area()->used, &used, used + size))
			return true;
	}
	return false;
}

static void
give_room(Size size)
{
	pg_atomic_fetch_sub_u64(&area()->used, size);
	ConditionVariableBroadcast(&area()->room);
}

static void
wait_for_room(Size size)
{
	static uint32 wait_event = 0;
	TimestampTz start = GetCurrentTimestamp();

	es_begin_wait_on(&area()->room);
	while (!take_room(size))
	{
		if (LockTimeout > 0 &&
			TimestampDifferenceExceeds(start, GetCurrentTimestamp(), LockTimeout))
		{
			es_end_wait();
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("canceling statement due to lock timeout"),
					 errdetail("The queue of grouped appends is full; its size is event_store.grouped_queue.")));
		}
		es_wait_on(&area()->room,
				   LockTimeout > 0 ? Min(LockTimeout, WAIT_SLICE_MS)
								   : WAIT_SLICE_MS,
				   es_wait_event(&wait_event, "EventStoreGroupedQueue"));
	}
	es_end_wait();
}

/* ---------- callers ---------- */

/* What a call gets of the dynamic area. */
typedef struct Piece
{
	Size size;
	dsa_pointer at;
} Piece;

static bool
allocate_piece(void *arg)
{
	Piece *piece = arg;

	piece->at = dsa_allocate_extended(dynamic(), piece->size,
									  DSA_ALLOC_NO_OOM | DSA_ALLOC_HUGE);
	return true;
}

/* Where the content of this backend's next call goes; NULL if there is no memory. */
static char *
make_place(GroupedCall *call, Size size)
{
	Piece piece = {size, InvalidDsaPointer};

	call->size = size;
	call->large = InvalidDsaPointer;
	if (size <= place_bytes())
		return call->content;
	wait_for_room(size);
	/* what the system refuses is an error, and there must be no trace of it */
	if (es_in_subtransaction(allocate_piece, &piece) == NULL &&
		piece.at != InvalidDsaPointer)
	{
		call->large = piece.at;
		return dsa_get_address(dynamic(), call->large);
	}
	give_room(size);
	return NULL;
}

bool
es_hand_over(SharedDatabase *db, const char *content, Size size, int level)
{
	CommitterSlot *slot = es_committer_slot(db);
	GroupedCall *call = mine();
	Latch *latch = NULL;
	char *place;

	if (size > queue_bytes() || !es_ensure_committer(db))
		return false;
	place = make_place(call, size);
	if (place == NULL)
		return false;
	memcpy(place, content, size);
	call->level = level;
	call->latch = &MyProc->procLatch;
	call->database = MyDatabaseId;
	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	call->serial++;
	call->state = ES_GROUPED_WAITING;
	append_call(slot, MyProcNumber);
	if (slot->asleep)
	{
		latch = slot->latch;
		slot->asleep = false;
	}
	LWLockRelease(&slot->lock);
	if (latch != NULL)
		SetLatch(latch);
	return true;
}

/* Who has an answer wakes those who are to hear of theirs from him. */
static void
wake_others(GroupedCall *call)
{
	for (int i = 0; i < 2; i++)
	{
		if (call->wakes[i] != 0)
			SetLatch(call_numbered(call->wakes[i] - 1)->latch);
		call->wakes[i] = 0;
	}
}

/* Takes the call back if it is in this state, or in any: ES_GROUPED_NONE. */
static bool
withdraw_if(SharedDatabase *db, GroupedState wanted)
{
	CommitterSlot *slot = es_committer_slot(db);
	GroupedCall *call = mine();
	GroupedState state;

	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	state = call->state;
	if (wanted != ES_GROUPED_NONE && state != wanted)
	{
		LWLockRelease(&slot->lock);
		return false;
	}
	if (state == ES_GROUPED_WAITING)
		remove_call(slot, MyProcNumber);
	call->state = ES_GROUPED_NONE;
	LWLockRelease(&slot->lock);
	if (state == ES_GROUPED_DONE)
		wake_others(call);
	/* what the committer has taken is its to free */
	if (call->large != InvalidDsaPointer &&
		(state == ES_GROUPED_WAITING || state == ES_GROUPED_DONE))
		dsa_free(dynamic(), call->large);
	if (call->large != InvalidDsaPointer && state == ES_GROUPED_WAITING)
		give_room(call->size);
	return true;
}

void
es_withdraw_call(SharedDatabase *db)
{
	(void) withdraw_if(db, ES_GROUPED_NONE);
}

/*
 * Whether the caller does without the committer: there is none, or it has not come to
 * the call for long.
 */
static bool
is_out_of_patience(SharedDatabase *db, TimestampTz since)
{
	int patience = QUEUE_PATIENCE_MS;

	if (!es_ensure_committer(db))
		return true;
	if (LockTimeout > 0)
		patience = Min(patience, LockTimeout);
	return TimestampDifferenceExceeds(since, GetCurrentTimestamp(), patience);
}

static void
check_lock_timeout(SharedDatabase *db, TimestampTz since)
{
	if (LockTimeout > 0 &&
		TimestampDifferenceExceeds(since, GetCurrentTimestamp(), LockTimeout) &&
		withdraw_if(db, ES_GROUPED_ASIDE))
		ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						errmsg("canceling statement due to lock timeout")));
}

static GroupedState
wait_for_answer(SharedDatabase *db)
{
	static uint32 wait_event = 0;
	volatile GroupedCall *call = mine();
	TimestampTz since = GetCurrentTimestamp();
	long slice =
		LockTimeout > 0 ? Min(LockTimeout, WAIT_SLICE_MS) : WAIT_SLICE_MS;

	for (;;)
	{
		GroupedState state = call->state;

		if (state == ES_GROUPED_DONE || state == ES_GROUPED_ALONE ||
			state == ES_GROUPED_LOST)
		{
			pg_read_barrier();
			if (state == ES_GROUPED_DONE)
				wake_others(mine());
			return state;
		}
		if (state == ES_GROUPED_WAITING && is_out_of_patience(db, since) &&
			withdraw_if(db, ES_GROUPED_WAITING))
			return ES_GROUPED_ALONE;
		if (state == ES_GROUPED_ASIDE)
			check_lock_timeout(db, since);
		es_wait_on(NULL, slice, es_wait_event(&wait_event, "EventStoreGrouped"));
	}
}

static void
withdraw(int code, Datum db)
{
	es_withdraw_call((SharedDatabase *) DatumGetPointer(db));
}

/*
 * When this transaction has let go of its locks, those go on who wait for them.  A call whose
 * answer could not be fetched is over as well.
 */
static void
end_call(ResourceReleasePhase phase, bool committed, bool top, void *arg)
{
	SharedDatabase *db;

	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || !top ||
		mine()->state == ES_GROUPED_NONE)
		return;
	db = es_my_database_if_any();
	es_withdraw_call(db);
	es_wake_committer(db);
}

GroupedState
es_await_answer(SharedDatabase *db)
{
	static bool registered = false;
	GroupedState state;

	if (!registered)
		RegisterResourceReleaseCallback(end_call, NULL);
	registered = true;
	PG_ENSURE_ERROR_CLEANUP(withdraw, PointerGetDatum(db));
	{
		state = wait_for_answer(db);
	}
	PG_END_ENSURE_ERROR_CLEANUP(withdraw, PointerGetDatum(db));
	return state;
}

char *
es_fetch_answer(SharedDatabase *db)
{
	GroupedCall *call = mine();
	char *answer = palloc_extended(call->size, MCXT_ALLOC_HUGE);

	Assert(call->state == ES_GROUPED_DONE);
	if (call->large == InvalidDsaPointer)
		memcpy(answer, call->content, call->size);
	else
		memcpy(answer, dsa_get_address(dynamic(), call->large), call->size);
	es_withdraw_call(db);
	return answer;
}

/* ---------- the committer ---------- */

/*
 * Does what needs memory, which the system may refuse, and returns what that returns, or false
 * after an error: outside of a transaction that would be the end of the process, and in
 * between a commit and the answers to it nobody would know what was committed.
 */
static bool
do_without_raising(bool (*work)(void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	uint32 held = InterruptHoldoffCount;
	volatile bool done = false;

	PG_TRY();
	{
		done = work(arg);
	}
	PG_CATCH();
	{
		/* an error lets go of interrupts, and of no lock */
		InterruptHoldoffCount = held;
		LWLockReleaseAll();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	return done;
}

/* A call that does not stand in its place. */
typedef struct LargeCall
{
	TakenCall *taken;
	dsa_pointer at;
} LargeCall;

static bool
copy_content(void *arg)
{
	LargeCall *call = arg;
	TakenCall *taken = call->taken;

	taken->content = palloc_extended(taken->size, MCXT_ALLOC_HUGE);
	memcpy(taken->content, dsa_get_address(dynamic(), call->at), taken->size);
	return true;
}

static bool
free_content(void *arg)
{
	dsa_free(dynamic(), ((LargeCall *) arg)->at);
	return true;
}

/* Copies it, and gives its room back; false if there is no memory for it. */
static bool
copy_large(TakenCall *taken, dsa_pointer at)
{
	LargeCall call = {taken, at};
	bool copied = do_without_raising(copy_content, &call);

	(void) do_without_raising(free_content, &call);
	give_room(taken->size);
	return copied;
}

/* Copies those that are large, or has their callers do them; returns how many are left. */
static int
copy_calls(SharedDatabase *db, TakenCall **calls, const dsa_pointer *large,
		   int count)
{
	int n = 0;

	for (int i = 0; i < count; i++)
	{
		if (large[i] == InvalidDsaPointer || copy_large(calls[i], large[i]))
		{
			calls[n++] = calls[i];
			continue;
		}
		(void) es_leave_to_caller(db, calls[i]);
		pfree(calls[i]);
		/* nobody else wakes who has not said that he sleeps */
		SetLatch(MyLatch);
	}
	return n;
}

/* A copy of a call, but for what is large; NULL where there is no memory for it. */
static TakenCall *
copy_call(const GroupedCall *call, int number)
{
	TakenCall *taken = palloc_extended(sizeof(TakenCall), MCXT_ALLOC_NO_OOM);

	if (taken == NULL)
		return NULL;
	*taken = (TakenCall){.number = number,
						 .serial = call->serial,
						 .level = call->level,
						 .size = call->size};
	if (call->large != InvalidDsaPointer)
		return taken;
	taken->content = palloc_extended(taken->size, MCXT_ALLOC_NO_OOM);
	if (taken->content == NULL)
	{
		pfree(taken);
		return NULL;
	}
	memcpy(taken->content, call->content, taken->size);
	return taken;
}

/* What it has no memory for it leaves in the queue: an error would keep the lock for ever. */
int
es_take_calls(SharedDatabase *db, TakenCall **calls, int most, Size bytes,
			  bool sleeps)
{
	CommitterSlot *slot = es_committer_slot(db);
	dsa_pointer *large = palloc_array(dsa_pointer, most);
	Size total = 0;
	int count = 0;

	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	while (slot->first != 0 && count < most && total < bytes)
	{
		int number = slot->first - 1;
		GroupedCall *call = call_numbered(number);
		TakenCall *taken = copy_call(call, number);

		if (taken == NULL)
			break;
		remove_call(slot, number);
		call->state = ES_GROUPED_TAKEN;
		call->taker = MyProcPid;
		large[count] = call->large;
		total += taken->size;
		calls[count++] = taken;
	}
	slot->asleep = sleeps && count == 0;
	LWLockRelease(&slot->lock);
	count = copy_calls(db, calls, large, count);
	pfree(large);
	return count;
}

/* Changes the state of a call, and wakes its caller; false if it was withdrawn. */
static bool
change_state(SharedDatabase *db, const TakenCall *taken, GroupedState from,
			 GroupedState to)
{
	CommitterSlot *slot = es_committer_slot(db);
	GroupedCall *call = call_numbered(taken->number);
	bool changed;

	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	changed = is_still(call, taken->serial, from);
	if (changed)
		call->state = to;
	LWLockRelease(&slot->lock);
	if (changed && to != ES_GROUPED_TAKEN)
		SetLatch(call->latch);
	return changed;
}

bool
es_set_call_aside(SharedDatabase *db, const TakenCall *call)
{
	return change_state(db, call, ES_GROUPED_TAKEN, ES_GROUPED_ASIDE);
}

bool
es_leave_to_caller(SharedDatabase *db, const TakenCall *call)
{
	return change_state(db, call, ES_GROUPED_TAKEN, ES_GROUPED_ALONE);
}

bool
es_retake_call(SharedDatabase *db, const TakenCall *call)
{
	return change_state(db, call, ES_GROUPED_ASIDE, ES_GROUPED_TAKEN);
}

bool
es_is_left_to_caller(SharedDatabase *db, int number, uint32 serial)
{
	CommitterSlot *slot = es_committer_slot(db);
	bool left;

	LWLockAcquire(&slot->lock, LW_SHARED);
	left = is_still(call_numbered(number), serial, ES_GROUPED_ALONE);
	LWLockRelease(&slot->lock);
	return left;
}

static bool
place_large(void *arg)
{
	GroupedAnswer *answer = arg;

	answer->large = dsa_allocate_extended(dynamic(), answer->size,
										  DSA_ALLOC_NO_OOM | DSA_ALLOC_HUGE);
	if (answer->large == InvalidDsaPointer)
		return false;
	memcpy(dsa_get_address(dynamic(), answer->large), answer->bytes, answer->size);
	return true;
}

bool
es_place_answer(GroupedAnswer *answer)
{
	answer->given = false;
	answer->large = InvalidDsaPointer;
	return answer->size <= place_bytes() ||
		   do_without_raising(place_large, answer);
}

/* Puts an answer in the place of its call, if that was not withdrawn; locked. */
static void
put_answer(GroupedAnswer *answer)
{
	GroupedCall *call = call_numbered(answer->call->number);

	answer->given = is_still(call, answer->call->serial, ES_GROUPED_TAKEN);
	if (!answer->given)
		return;
	call->size = answer->size;
	call->large = answer->large;
	if (answer->large == InvalidDsaPointer)
		memcpy(call->content, answer->bytes, answer->size);
	call->wakes[0] = call->wakes[1] = 0;
}

/*
 * All get their answers at once, each with those whom it wakes: the first wakes the second
 * and the third, those the next four.
 */
void
es_give_answers(SharedDatabase *db, GroupedAnswer *answers, int count)
{
	CommitterSlot *slot = es_committer_slot(db);
	int n = 0;

	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	for (int i = 0; i < count; i++)
	{
		put_answer(&answers[i]);
		if (answers[i].given)
			answers[n++].caller = answers[i].call->number;
	}
	for (int i = 1; i < n; i++)
		call_numbered(answers[(i - 1) / 2].caller)->wakes[(i - 1) % 2] =
			answers[i].caller + 1;
	/* a caller looks without the lock */
	pg_write_barrier();
	for (int i = 0; i < n; i++)
		call_numbered(answers[i].caller)->state = ES_GROUPED_DONE;
	LWLockRelease(&slot->lock);
	if (n > 0)
		SetLatch(call_numbered(answers[0].caller)->latch);
	for (int i = 0; i < count; i++)
	{
		if (!answers[i].given && answers[i].large != InvalidDsaPointer)
			dsa_free(dynamic(), answers[i].large);
	}
}

/* Callers whose calls wait in the queue look again as well: there may be no committer. */
void
es_lose_calls(SharedDatabase *db)
{
	CommitterSlot *slot = es_committer_slot(db);

	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MaxBackends; i++)
	{
		GroupedCall *call = call_numbered(i);
		bool taken =
			call->state == ES_GROUPED_TAKEN || call->state == ES_GROUPED_ASIDE;

		if (call->database != db->database ||
			(call->state != ES_GROUPED_WAITING && !taken))
			continue;
		if (taken && call->taker != MyProcPid)
			continue;
		if (taken)
			call->state = ES_GROUPED_LOST;
		SetLatch(call->latch);
	}
	LWLockRelease(&slot->lock);
}
