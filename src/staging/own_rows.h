/*
 * own_rows.h
 *		What this transaction does to staging.
 */
#ifndef ES_OWN_ROWS_H
#define ES_OWN_ROWS_H

#include "datatype/timestamp.h"
#include "storage/itemptr.h"

#include "ground/catalog.h"
#include "ground/shmem.h"

/* A row this transaction staged. */
typedef struct OwnRow
{
	int64 sid;
	int count; /* events, or 1 view write */
	ItemPointerData tid;
	uint8 segment;
	bool is_event;
	SubTransactionId subtransaction; /* that staged it */
	SubTransactionId moved_in;		 /* that made it durable, or invalid */
} OwnRow;

/*
 * Says that this transaction writes durably, before it does and triggers run;
 * and whether it has, in a subtransaction that was not rolled back.
 */
extern void es_note_durable_write(void);
extern bool es_wrote_durably(void);

extern int64 es_own_txn(int64 sid);
/* Announces rows before they are inserted, or takes that back. */
extern void es_note_staging(SharedDatabase *db, int64 rows);
extern void es_unnote_staging(SharedDatabase *db, int64 rows);
extern void es_note_staged(const OwnRow *row);
extern OwnRow *es_own_rows(int *count);
/* Rows moved, and how many of them from which segment. */
extern void es_note_drained(int64 events, int64 views,
							const int64 rows[ES_SEGMENTS], uint64 request,
							uint64 tried);

/* What is known of staging when it opens; published at commit. */
typedef struct StagingOpening
{
	Oid table;
	int64 epoch;
	int active_segment;
	uint32 used; /* segments that are not empty, a bit each */
	int64 next_sid;
	int64 rows[ES_SEGMENTS];
	int64 events;
	int64 views;
	int64 dead_letters;
	TimestampTz last_drain_at;
	bool closed; /* it is empty, and nobody stages */
} StagingOpening;

/* Whether this transaction is just moving staged rows (and runs triggers). */
extern void es_note_draining(bool draining);
extern bool es_draining(void);
extern void es_note_opening(const StagingOpening *opening);
/* Sends writers to another segment once the transaction has committed. */
extern void es_note_rotation(int segment);

#endif /* ES_OWN_ROWS_H */
