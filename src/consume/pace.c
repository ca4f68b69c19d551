/*
 * pace.c
 *		How fast projections go: what shared memory knows of each.
 *
 * Places by the hash of the subscription, and nothing whose loss costs more than
 * time: a batch begins small again, a pause is cut short, a handler that never ends
 * is given one more chance.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "mb/pg_wchar.h"
#include "storage/spin.h"
#include "utils/timestamp.h"

#include "consume/pace.h"
#include "ground/settings.h"
#include "ground/shmem.h"

/* Places, and how many of them one key may be in. */
#define PLACES 64
#define PROBES 8
/* The first batch of all. */
#define FIRST_SIZE 16
/* The rate is that of about so many seconds. */
#define RATE_SECONDS 10.0
/* No rest is longer. */
#define LONGEST_REST_MS 1000

typedef struct Place
{
	uint64 key; /* 0 = free */
	TimestampTz used;
	Pace pace;
} Place;

typedef struct PaceShare
{
	slock_t mutex; /* protects the places */
	Place places[PLACES];
} PaceShare;

static void
initialise_pace(void *memory)
{
	SpinLockInit(&((PaceShare *) memory)->mutex);
}

static void clear_pace(SharedDatabase *db);

static DatabasePart part = {sizeof(PaceShare), initialise_pace, clear_pace};

static PaceShare *
share_of(SharedDatabase *db)
{
	return es_part(db, &part);
}

static void
clear_pace(SharedDatabase *db)
{
	SpinLockAcquire(&share_of(db)->mutex);
	memset(share_of(db)->places, 0, sizeof(share_of(db)->places));
	SpinLockRelease(&share_of(db)->mutex);
}

void
es_share_pace(void)
{
	es_share_by_database(&part);
}

/* Locks the share and finds the place of a key, made if it has none. */
static Pace *
lock_pace(uint64 subscription, TimestampTz now)
{
	PaceShare *share = share_of(es_my_database());
	uint64 key = subscription == 0 ? 1 : subscription;
	Place *oldest = NULL;

	SpinLockAcquire(&share->mutex);
	for (int i = 0; i < PROBES; i++)
	{
		Place *place = &share->places[(key + i) % PLACES];

		if (place->key == key)
		{
			place->used = now;
			return &place->pace;
		}
		if (oldest == NULL || place->used < oldest->used)
			oldest = place;
	}
	memset(oldest, 0, sizeof(*oldest));
	oldest->key = key;
	oldest->used = now;
	oldest->pace.size = FIRST_SIZE;
	return &oldest->pace;
}

static void
unlock_pace(void)
{
	SpinLockRelease(&share_of(es_my_database())->mutex);
}

void
es_forget_pace(uint64 subscription)
{
	Pace *pace = lock_pace(subscription, GetCurrentTimestamp());

	memset(pace, 0, sizeof(*pace));
	pace->size = FIRST_SIZE;
	unlock_pace();
}

void
es_note_projection_turn(uint64 subscription)
{
	TimestampTz now = GetCurrentTimestamp();
	Pace *pace = lock_pace(subscription, now);

	pace->turn_at = now;
	unlock_pace();
}

/* The part of a rate that is left after a while. */
static double
faded(const Pace *pace, TimestampTz now)
{
	double seconds = (double) (now - pace->rated_at) / USECS_PER_SEC;

	return pace->rate * Max(0.0, 1.0 - seconds / RATE_SECONDS);
}

Pace
es_read_pace(uint64 subscription)
{
	TimestampTz now = GetCurrentTimestamp();
	Pace pace = *lock_pace(subscription, now);

	unlock_pace();
	pace.rate = faded(&pace, now);
	return pace;
}

void
es_note_batch(uint64 subscription, int size, int64 events)
{
	TimestampTz now = GetCurrentTimestamp();
	Pace *pace = lock_pace(subscription, now);

	pace->size = size;
	pace->failures = 0;
	pace->retry_at = 0;
	pace->error[0] = '\0';
	pace->rate = faded(pace, now) + (double) events / RATE_SECONDS;
	pace->rated_at = now;
	unlock_pace();
}

TimestampTz
es_latest_retry(void)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									   Max(es_retry_max, LONGEST_REST_MS));
}

TimestampTz
es_pause_end(TimestampTz retry_at)
{
	return retry_at > es_latest_retry() ? 0 : retry_at;
}

void
es_rest_projection(uint64 subscription, int ms)
{
	TimestampTz now = GetCurrentTimestamp();

	Assert(ms <= LONGEST_REST_MS);
	lock_pace(subscription, now)->retry_at = TimestampTzPlusMilliseconds(now, ms);
	unlock_pace();
}

void
es_note_pause(uint64 subscription, const char *error)
{
	TimestampTz now = GetCurrentTimestamp();
	int length = pg_mbcliplen(error, strlen(error), ES_PACE_ERROR_CHARS - 1);
	double pause = es_retry_initial;
	Pace *pace = lock_pace(subscription, now);

	for (int i = 0; i < pace->failures && pause < es_retry_max; i++)
		pause *= 2;
	pace->failures++;
	pace->retry_at =
		TimestampTzPlusMilliseconds(now, (int64) Min(pause, es_retry_max));
	memcpy(pace->error, error, length);
	pace->error[length] = '\0';
	unlock_pace();
}

void
es_note_overdue(uint64 subscription, int64 position, int count)
{
	Pace *pace = lock_pace(subscription, GetCurrentTimestamp());

	pace->overdue_position = position;
	pace->overdue_count = count;
	unlock_pace();
}

void
es_forget_overdue(uint64 subscription)
{
	lock_pace(subscription, GetCurrentTimestamp())->overdue_position = 0;
	unlock_pace();
}
