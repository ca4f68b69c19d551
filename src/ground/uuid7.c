/*
 * uuid7.c
 *		Event ids made in the server: UUIDv7 of RFC 9562.
 *
 * An id is 48 bits of milliseconds, 12 bits that divide the millisecond
 * further, and 62 random bits.  Ids of one backend strictly increase, so the
 * ids of one call sort as its events do and go to one end of the index on
 * event_id.  Many ids fall into one step of the clock (a 4096th of a
 * millisecond): each of those is its predecessor plus a random amount instead,
 * which keeps order and unpredictability without running ahead of the clock.
 * The same carries on from the last id while the clock is set back.
 *
 * Random bytes are fetched in bulk, since a call of pg_strong_random costs
 * more than an id may.  The state is private to a backend: every backend is
 * forked from the postmaster, which makes no ids, so no two share a byte.
 */
#include "postgres.h"

#include <time.h>

#include "port/pg_bswap.h"
#include "utils/uuid.h"

#include "ground/uuid7.h"

#define RANDOM_WORDS 512 /* 4 kB */
#define STEPS_PER_MS 4096
#define ES_NS_PER_MS 1000000
#define MS_PER_S 1000

/* The random part: all bits below the two of the variant. */
#define TAIL_BITS 62
#define TAIL_MASK ((UINT64CONST(1) << TAIL_BITS) - 1)
/* A successor within one step lies at most this far from its predecessor. */
#define STRIDE_MASK UINT64CONST(0xFFFFFFFF)

#define VERSION_BITS (UINT64CONST(7) << 12)
#define VARIANT_BITS (UINT64CONST(2) << TAIL_BITS)

/* Returns 64 random bits. */
static uint64
random_word(void)
{
	static uint64 words[RANDOM_WORDS];
	static int left = 0;

	if (left == 0)
	{
		if (!pg_strong_random(words, sizeof(words)))
			ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
							errmsg("could not generate random values")));
		left = RANDOM_WORDS;
	}
	return words[--left];
}

/* Returns the time in steps since 1970. */
static uint64
current_step(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return ((uint64) now.tv_sec * MS_PER_S + now.tv_nsec / ES_NS_PER_MS) *
			   STEPS_PER_MS +
		   (uint64) (now.tv_nsec % ES_NS_PER_MS) * STEPS_PER_MS / ES_NS_PER_MS;
}

/*
 * Makes a new id, greater than all that this backend has made before.
 */
pg_uuid_t *
es_uuid7(void)
{
	static uint64 last_step = 0;
	static uint64 last_tail = 0;
	pg_uuid_t *id = palloc(sizeof(pg_uuid_t));
	uint64 random = random_word();
	uint64 step = current_step();
	uint64 tail = random & TAIL_MASK;
	uint64 half;

	if (step <= last_step)
	{
		step = last_step;
		tail = last_tail + (random & STRIDE_MASK) + 1;
		if (tail > TAIL_MASK)
		{
			step++;
			tail = random & TAIL_MASK;
		}
	}
	last_step = step;
	last_tail = tail;

	half = pg_hton64((step / STEPS_PER_MS) << 16 | VERSION_BITS |
					 step % STEPS_PER_MS);
	memcpy(&id->data[0], &half, sizeof(half));
	half = pg_hton64(VARIANT_BITS | tail);
	memcpy(&id->data[8], &half, sizeof(half));
	return id;
}
