/*
 * progress.c
 *		What shared memory knows of members of subscriptions: only what it costs
 *		nothing but time to lose.
 *
 * A small table a database, by the hash of subscription and member.  An entry that finds
 * no room takes the place of the one that was used longest ago.  Progress over
 * events that are not for a member holds for one number of its state (member.c):
 * whatever moves the position stores another state and so makes it void.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "datatype/timestamp.h"
#include "miscadmin.h"
#include "storage/spin.h"
#include "utils/timestamp.h"

#include "consume/progress.h"
#include "ground/shmem.h"

/* Places, and how many of them one key may be in. */
#define PLACES 256
#define PROBES 8
/* Spreads small numbers over all bits. */
#define MIX UINT64CONST(0x9E3779B97F4A7C15)
/* A batch that may grow beyond this has no limit any more. */
#define MAX_LIMIT (INT64CONST(1) << 30)

typedef struct Place
{
	uint64 key; /* 0 = free */
	TimestampTz used;
	Progress progress;
} Place;

typedef struct ProgressShare
{
	slock_t mutex; /* protects the places */
	Place places[PLACES];
} ProgressShare;

static void
initialise_progress(void *memory)
{
	SpinLockInit(&((ProgressShare *) memory)->mutex);
}

static void clear_progress(SharedDatabase *db);

static DatabasePart part = {sizeof(ProgressShare), initialise_progress,
							clear_progress};

static void
clear_progress(SharedDatabase *db)
{
	ProgressShare *share = es_part(db, &part);

	SpinLockAcquire(&share->mutex);
	memset(share->places, 0, sizeof(share->places));
	SpinLockRelease(&share->mutex);
}

void
es_share_progress(void)
{
	es_share_by_database(&part);
}

static ProgressShare *
my_share(void)
{
	return es_part(es_my_database(), &part);
}

uint64
es_progress_key(uint64 subscription, int member)
{
	uint64 key = hash_combine64(subscription, (uint64) (member + 2) * MIX);

	return key == 0 ? 1 : key;
}

/* The place of a key; NULL if it has none and none is to be made. */
static Place *
find_place(ProgressShare *share, uint64 key, bool make, TimestampTz now)
{
	Place *oldest = NULL;

	for (int i = 0; i < PROBES; i++)
	{
		Place *place = &share->places[(key + i) % PLACES];

		if (place->key == key)
		{
			place->used = now;
			return place;
		}
		if (oldest == NULL || place->used < oldest->used)
			oldest = place;
	}
	if (!make)
		return NULL;
	memset(oldest, 0, sizeof(*oldest));
	oldest->key = key;
	oldest->used = now;
	oldest->progress.limit = ES_NO_LIMIT;
	return oldest;
}

/* The same, for a caller who then unlocks the share. */
static Place *
lock_place(ProgressShare *share, uint64 key, bool make)
{
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&share->mutex);
	return find_place(share, key, make, now);
}

Progress
es_read_progress(uint64 key)
{
	ProgressShare *share = my_share();
	Progress progress = {.limit = ES_NO_LIMIT};
	Place *place = lock_place(share, key, false);

	if (place != NULL)
		progress = place->progress;
	SpinLockRelease(&share->mutex);
	return progress;
}

void
es_forget_progress(uint64 key)
{
	ProgressShare *share = my_share();
	Place *place = lock_place(share, key, false);

	if (place != NULL)
		memset(place, 0, sizeof(*place));
	SpinLockRelease(&share->mutex);
}

void
es_note_progress(uint64 key, int64 number, int64 position)
{
	ProgressShare *share = my_share();
	Place *place = lock_place(share, key, true);

	place->progress.number = number;
	place->progress.position = position;
	SpinLockRelease(&share->mutex);
}

void
es_extend_progress(uint64 key, int64 number, int64 from, int64 to)
{
	ProgressShare *share = my_share();
	TimestampTz now = GetCurrentTimestamp();
	Place *place;

	SpinLockAcquire(&share->mutex);
	place = find_place(share, key, false, now);
	if (place != NULL && place->progress.number == number &&
		place->progress.position >= from && place->progress.position < to)
		place->progress.position = to;
	SpinLockRelease(&share->mutex);
}

void
es_note_pruned(uint64 key, int64 number)
{
	ProgressShare *share = my_share();

	lock_place(share, key, true)->progress.pruned = number;
	SpinLockRelease(&share->mutex);
}

void
es_note_turn(uint64 key, bool retried)
{
	ProgressShare *share = my_share();
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&share->mutex);
	find_place(share, key, true, now)->progress.retried = retried;
	SpinLockRelease(&share->mutex);
}

void
es_begin_progress(uint64 key, bool retried)
{
	ProgressShare *share = my_share();
	Place *place = lock_place(share, key, true);

	place->progress.retried = retried;
	place->progress.pid = MyProcPid;
	place->progress.since = place->used;
	SpinLockRelease(&share->mutex);
}

/*
 * A batch that was rolled back is followed by one half as large, so that an event
 * which makes its batch fail is soon alone; they grow again as they succeed.
 */
void
es_end_progress(uint64 key, int64 events, bool committed)
{
	ProgressShare *share = my_share();
	Progress *progress = &lock_place(share, key, true)->progress;

	progress->pid = 0;
	if (!committed)
	{
		progress->limit = Max(1, events / 2);
		progress->aborted++;
	}
	else
	{
		progress->aborted = 0;
		progress->limit =
			progress->limit > MAX_LIMIT ? ES_NO_LIMIT : progress->limit * 2;
	}
	SpinLockRelease(&share->mutex);
}

void
es_add_death(uint64 key, int64 number, int64 position)
{
	ProgressShare *share = my_share();
	TimestampTz now = GetCurrentTimestamp();
	Progress *progress;

	SpinLockAcquire(&share->mutex);
	progress = &find_place(share, key, true, now)->progress;
	if (progress->death_number != number || progress->death_position != position)
		progress->deaths = 0;
	progress->death_number = number;
	progress->death_position = position;
	progress->deaths++;
	SpinLockRelease(&share->mutex);
}

int
es_last_served(uint64 subscription)
{
	return (int) es_read_progress(es_progress_key(subscription, -1)).number;
}

void
es_note_served(uint64 subscription, int member)
{
	es_note_progress(es_progress_key(subscription, -1), member, 0);
}
