/*
 * pace.h
 *		How fast projections go.
 */
#ifndef ES_PACE_H
#define ES_PACE_H

#include "datatype/timestamp.h"

/* Of the message of an error so much is shown. */
#define ES_PACE_ERROR_CHARS 128

/*
 * Of a projection: how many events its next batch has at most; when it last had
 * a turn; what keeps it from going on, with the time of its next try; how many
 * events it takes in a second; and the batch whose handler had to be ended
 * together with its process.
 */
typedef struct Pace
{
	int size;
	TimestampTz turn_at;
	int failures; /* in a row */
	TimestampTz retry_at;
	char error[ES_PACE_ERROR_CHARS]; /* "" = none */
	double rate;
	TimestampTz rated_at;
	int64 overdue_position; /* 0 = none */
	int overdue_count;
} Pace;

extern void es_share_pace(void);

/* By the hash of the subscription.  Without a place: as of one just made. */
extern Pace es_read_pace(uint64 subscription);
extern void es_forget_pace(uint64 subscription);
/* It has its turn now. */
extern void es_note_projection_turn(uint64 subscription);
/* What a batch came to: the size of the next one, and how many were taken in. */
extern void es_note_batch(uint64 subscription, int size, int64 events);
/*
 * When a pause that begins now can end at the latest; and when one ends that was begun
 * before: 0 where more is left of it than that, since the clock was set back.
 */
extern TimestampTz es_latest_retry(void);
extern TimestampTz es_pause_end(TimestampTz retry_at);
/* It is not looked at for so long. */
extern void es_rest_projection(uint64 subscription, int ms);
/* What keeps it from going on is none of its events' fault: it pauses. */
extern void es_note_pause(uint64 subscription, const char *error);
/* The process ends because of the handler, called with so many events from one on. */
extern void es_note_overdue(uint64 subscription, int64 position, int count);
/* That call was dealt with. */
extern void es_forget_overdue(uint64 subscription);

#endif /* ES_PACE_H */
