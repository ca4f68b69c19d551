/*
 * circuit.c
 *		Circuits: steps that are left alone while they fail.
 *
 * When so many attempts of a step have failed in a row, over all sagas of a name,
 * whatever does the work is down, and asking again does not help it.  So its requests
 * wait (open); after a pause one goes as a trial (half open), whose end closes the
 * circuit or opens it anew.  Compensations pass, since they have to be done.
 *
 * All of it is in shared memory and says nothing that would have to outlive the
 * server: circuits start closed.  Outcomes count from the commit on.  The
 * trial is taken by the claim itself, so that two claims at once do not both
 * have it, and given back if that transaction fails.  A circuit that is closed without a
 * failure needs no place; where all places are taken, one more circuit stays closed.
 *
 * Executors that find a circuit open sleep until its time has come, and are woken when it
 * changes.
 */
#include "postgres.h"

#include "access/xact.h"
#include "nodes/pg_list.h"
#include "storage/condition_variable.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "ground/metrics.h"
#include "ground/pair_table.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "saga/circuit.h"
#include "saga/definition.h"
#include "saga/saga_work.h"

/* So many circuits of a database can have failures at a time. */
#define CIRCUITS 256
/* A clock that goes back by more was set back. */
#define CLOCK_STEP USECS_PER_SEC

typedef struct Circuit
{
	uint64 key; /* 0 = the place is free */
	CircuitState state;
	uint64 trial; /* the saga whose step it is; 0 = none */
	TimestampTz trial_since;
	TimestampTz trial_until;
} Circuit;

typedef struct CircuitShare
{
	slock_t mutex; /* protects all of it */
	Circuit circuits[CIRCUITS];
} CircuitShare;

/* What this transaction does to circuits at its end. */
typedef struct CircuitNote
{
	uint64 key;
	uint64 saga;
	bool trial; /* taken: given back unless it commits */
	bool failed;
	CircuitDefinition definition;
	SubTransactionId subtransaction;
} CircuitNote;

static List *notes = NIL; /* in TopTransactionContext */

static void
initialise(void *memory)
{
	SpinLockInit(&((CircuitShare *) memory)->mutex);
}

static DatabasePart part;

static void
clear(SharedDatabase *db)
{
	CircuitShare *share = es_part(db, &part);

	SpinLockAcquire(&share->mutex);
	memset(share->circuits, 0, sizeof(share->circuits));
	SpinLockRelease(&share->mutex);
}

static DatabasePart part = {sizeof(CircuitShare), initialise, clear};

void
es_share_circuits(void)
{
	es_share_by_database(&part);
}

uint64
es_circuit_key(Datum saga_name, const char *step)
{
	uint64 key = es_pair_hash(saga_name, CStringGetTextDatum(step));

	return key == 0 ? 1 : key;
}

/* The lock is held; NULL = it has no failures, and no place. */
static Circuit *
find_circuit(CircuitShare *share, uint64 key)
{
	for (int i = 0; i < CIRCUITS; i++)
	{
		if (share->circuits[i].key == key)
			return &share->circuits[i];
	}
	return NULL;
}

static CircuitShare *
my_share(void)
{
	SharedDatabase *db = es_my_database();

	return db == NULL ? NULL : es_part(db, &part);
}

CircuitState
es_circuit_state(uint64 key)
{
	CircuitShare *share = my_share();
	CircuitState state = {0};
	const Circuit *circuit;

	if (share == NULL)
		return state;
	SpinLockAcquire(&share->mutex);
	circuit = find_circuit(share, key);
	if (circuit != NULL)
		state = circuit->state;
	SpinLockRelease(&share->mutex);
	return state;
}

/* ---------- claims ---------- */

/* The end of a time that has begun; 0 = it is over.  Where it begins later the clock was set back. */
static TimestampTz
end_of_time(TimestampTz since, TimestampTz until, TimestampTz now)
{
	return now >= until || now < since - CLOCK_STEP ? 0 : until;
}

/* The lock is held. */
static TimestampTz
opens_at(const Circuit *circuit, TimestampTz now)
{
	TimestampTz pause;

	if (circuit == NULL || circuit->state.phase == CIRCUIT_CLOSED)
		return 0;
	pause =
		end_of_time(circuit->state.opened_at, circuit->state.next_trial_at, now);
	if (pause != 0 || circuit->trial == 0)
		return pause;
	return end_of_time(circuit->trial_since, circuit->trial_until, now);
}

TimestampTz
es_circuit_opens_at(uint64 key)
{
	CircuitShare *share = my_share();
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz at;

	if (share == NULL)
		return 0;
	SpinLockAcquire(&share->mutex);
	at = opens_at(find_circuit(share, key), now);
	SpinLockRelease(&share->mutex);
	return at;
}

static void end_circuits(SharedDatabase *db, bool committed);
static void abort_circuits(SubTransactionId id);

static void
add_note(CircuitNote note)
{
	MemoryContext caller = MemoryContextSwitchTo(TopTransactionContext);
	CircuitNote *kept = palloc(sizeof(CircuitNote));

	*kept = note;
	kept->subtransaction = GetCurrentSubTransactionId();
	notes = lappend(notes, kept);
	MemoryContextSwitchTo(caller);
	es_at_end(ES_END_CIRCUITS, end_circuits, abort_circuits);
}

bool
es_circuit_admits(uint64 key, uint64 saga, TimestampTz trial_until)
{
	CircuitShare *share = my_share();
	TimestampTz now = GetCurrentTimestamp();
	Circuit *circuit;
	bool passes;
	bool trial = false;

	if (share == NULL)
		return true;
	SpinLockAcquire(&share->mutex);
	circuit = find_circuit(share, key);
	passes = opens_at(circuit, now) == 0;
	if (passes && circuit != NULL && circuit->state.phase != CIRCUIT_CLOSED)
	{
		trial = true;
		circuit->state.phase = CIRCUIT_HALF_OPEN;
		circuit->trial = saga;
		circuit->trial_since = now;
		circuit->trial_until = trial_until;
	}
	SpinLockRelease(&share->mutex);
	if (trial)
		add_note((CircuitNote){.key = key, .saga = saga, .trial = true});
	return passes;
}

/* ---------- outcomes ---------- */

void
es_note_circuit(uint64 key, uint64 saga, const CircuitDefinition *definition,
				bool failed)
{
	add_note((CircuitNote){.key = key,
						   .saga = saga,
						   .failed = failed,
						   .definition = *definition});
}

/* The lock is held. */
static void
open_circuit(Circuit *circuit, int64 pause, TimestampTz now)
{
	circuit->state.phase = CIRCUIT_OPEN;
	circuit->state.opened_at = now;
	circuit->state.next_trial_at = now + pause;
	circuit->trial = 0;
}

/* The lock is held; true if the circuit opens. */
static bool
count_failure(CircuitShare *share, const CircuitNote *note, TimestampTz now)
{
	Circuit *circuit = find_circuit(share, note->key);

	if (circuit == NULL)
		circuit = find_circuit(share, 0);
	if (circuit == NULL)
		return false;
	circuit->key = note->key;
	circuit->state.failures++;
	if (circuit->state.phase == CIRCUIT_CLOSED
			? circuit->state.failures < note->definition.failures
			: circuit->trial != note->saga)
		return false;
	open_circuit(circuit, note->definition.pause, now);
	return true;
}

/* What a note has done to its circuit. */
typedef enum Change
{
	NOTHING,
	OPENED,
	LETS_PASS
} Change;

/* The lock is held. */
static Change
apply_note(CircuitShare *share, const CircuitNote *note, bool committed,
		   TimestampTz now)
{
	Circuit *circuit = find_circuit(share, note->key);

	if (note->trial)
	{
		if (committed || circuit == NULL || circuit->trial != note->saga)
			return NOTHING;
		circuit->trial = 0;
		circuit->state.phase = CIRCUIT_OPEN;
		return LETS_PASS;
	}
	if (!committed)
		return NOTHING;
	if (note->failed)
		return count_failure(share, note, now) ? OPENED : NOTHING;
	if (circuit == NULL)
		return NOTHING;
	memset(circuit, 0, sizeof(Circuit));
	return LETS_PASS;
}

static void
end_circuits(SharedDatabase *db, bool committed)
{
	TimestampTz now;
	CircuitShare *share;
	int changes[LETS_PASS + 1] = {0};
	ListCell *cell;

	if (notes != NIL && db != NULL)
	{
		now = GetCurrentTimestamp();
		share = es_part(db, &part);
		SpinLockAcquire(&share->mutex);
		foreach (cell, notes)
			changes[apply_note(share, lfirst(cell), committed, now)]++;
		SpinLockRelease(&share->mutex);
		for (int i = 0; i < changes[OPENED]; i++)
			es_count_in(db, ES_COUNT_OPENED_CIRCUITS);
		/* one that opens anew has another time */
		if (changes[OPENED] + changes[LETS_PASS] > 0)
			ConditionVariableBroadcast(es_saga_requests(db));
	}
	notes = NIL;
}

/* What an aborted subtransaction has noted is undone at once. */
static void
abort_circuits(SubTransactionId id)
{
	SharedDatabase *db = notes == NIL ? NULL : es_my_database();
	CircuitShare *share = db == NULL ? NULL : es_part(db, &part);
	Change change = NOTHING;
	ListCell *cell;

	foreach (cell, notes)
	{
		CircuitNote *note = lfirst(cell);

		if (note->subtransaction < id)
			continue;
		if (share != NULL)
		{
			SpinLockAcquire(&share->mutex);
			change = Max(change, apply_note(share, note, false, 0));
			SpinLockRelease(&share->mutex);
		}
		notes = foreach_delete_current(notes, cell);
	}
	if (change == LETS_PASS)
		ConditionVariableBroadcast(es_saga_requests(db));
}
