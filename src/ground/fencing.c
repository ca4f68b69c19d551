/*
 * fencing.c
 *		Fencing numbers: one counter a store, for all leases.
 *
 * A lease that somebody still holds must never be taken for another one, so a
 * number is given once: not again after a rollback, a drop, a restart, a restore or a
 * promotion.  They come from blocks as global positions do (position.c): a
 * sequence holds durably the end of the last block, and a log that goes on from
 * an older state of itself (log_identity.c) jumps far beyond what may have been given
 * elsewhere.  What is noted of that is theirs alone: positions and numbers are not
 * reserved together, and whichever comes first must not hide the jump from the other.
 *
 * What was given since the server started lies from one number on.  So a lease of a
 * lower number was given before, and if that server crashed, by one that crashed.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_control.h"
#include "commands/sequence.h"
#include "common/controldata_utils.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lockdefs.h"
#include "storage/spin.h"
#include "utils/builtins.h"

#include "ground/catalog.h"
#include "ground/fencing.h"
#include "ground/lock.h"
#include "ground/log_identity.h"
#include "ground/shmem.h"

/* Numbers reserved at once; each block costs one flush of the WAL. */
#define FENCING_BLOCK 8192

typedef struct FencingShare
{
	slock_t mutex; /* protects the four below */
	Oid sequence;  /* whose block this is */
	int64 next;
	int64 limit; /* last number of the reserved block */
	int64 first; /* that was reserved since the server started; 0 = none was */
} FencingShare;

static void
initialise_fencing(void *memory)
{
	SpinLockInit(&((FencingShare *) memory)->mutex);
}

static void clear_fencing(SharedDatabase *db);

static DatabasePart part = {sizeof(FencingShare), initialise_fencing,
							clear_fencing};

static void
clear_fencing(SharedDatabase *db)
{
	FencingShare *share = es_part(db, &part);

	SpinLockAcquire(&share->mutex);
	share->sequence = InvalidOid;
	share->next = share->limit = share->first = 0;
	SpinLockRelease(&share->mutex);
}

/* How the server before this one ended. */
typedef struct LastStop
{
	bool crashed;
} LastStop;

static Size
last_stop_size(void)
{
	return sizeof(LastStop);
}

/* The memory is made before recovery begins, which the control file then tells. */
static void
initialise_last_stop(void *memory)
{
	bool intact;
	ControlFileData *control = get_controlfile(DataDir, &intact);

	((LastStop *) memory)->crashed =
		!intact || (control->state != DB_SHUTDOWNED &&
					control->state != DB_SHUTDOWNED_IN_RECOVERY);
	pfree(control);
}

static ClusterPart last_stop_part = {"event_store last stop", last_stop_size,
									 initialise_last_stop};

void
es_share_fencing(void)
{
	es_share_by_database(&part);
	es_share(&last_stop_part);
}

static FencingShare *
my_share(void)
{
	return es_part(es_my_database(), &part);
}

/* Takes a number from the block in shared memory; 0 = none is left. */
static int64
take_from_block(FencingShare *share, Oid sequence)
{
	int64 number = 0;

	SpinLockAcquire(&share->mutex);
	if (share->sequence == sequence && share->next <= share->limit)
		number = share->next++;
	SpinLockRelease(&share->mutex);
	return number;
}

/*
 * Reserves the next block; the lock is held.  Its end is durable before the log is
 * noted: a crash in between costs another jump.
 */
static void
reserve_block(FencingShare *share, Oid sequence)
{
	Oid noted = es_store()->fencing_identity;
	int64 last = nextval_internal(sequence, false) - 1;

	if (es_log_is_another(noted))
		last = es_far_beyond(last);
	DirectFunctionCall2(setval_oid, ObjectIdGetDatum(sequence),
						Int64GetDatum(last + FENCING_BLOCK));
	XLogFlush(XactLastRecEnd);
	es_note_log(noted);

	SpinLockAcquire(&share->mutex);
	/* a store that is made anew counts anew */
	if (share->first == 0 || share->sequence != sequence)
		share->first = last + 1;
	share->sequence = sequence;
	share->next = last + 1;
	share->limit = last + FENCING_BLOCK;
	SpinLockRelease(&share->mutex);
}

int64
es_take_fencing_number(void)
{
	FencingShare *share = my_share();
	Oid sequence = es_store()->fencing_numbers;
	int64 number = take_from_block(share, sequence);
	OwnerScope scope;

	if (number != 0)
		return number;
	es_begin(&scope);
	es_lock_acquire(ES_LOCK_FENCING, ExclusiveLock);
	while ((number = take_from_block(share, sequence)) == 0)
		reserve_block(share, sequence);
	es_lock_release(ES_LOCK_FENCING, ExclusiveLock);
	es_end(&scope);
	return number;
}

bool
es_number_is_before_crash(int64 number)
{
	FencingShare *share = my_share();
	int64 first;

	/* a standby shows what its primary gave */
	if (RecoveryInProgress() || !((LastStop *) last_stop_part.memory)->crashed)
		return false;
	SpinLockAcquire(&share->mutex);
	first = share->first;
	SpinLockRelease(&share->mutex);
	return first == 0 || number < first;
}
