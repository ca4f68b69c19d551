/*
 * staged_scan.h
 *		Reading staged rows.
 */
#ifndef ES_STAGED_SCAN_H
#define ES_STAGED_SCAN_H

#include "access/sdir.h"
#include "access/skey.h"
#include "storage/lockdefs.h"
#include "utils/snapshot.h"
#include "utils/uuid.h"

#include "staging/staged_row.h"

/*
 * False if no staged row can be visible to a snapshot taken after this call:
 * then staging need not be looked at.
 */
extern bool es_may_have_staged(void);

/*
 * Between these, the active snapshot is one under which staged and durable
 * rows are read together, each exactly once: the one wanted, or a newer one
 * where READ COMMITTED allows that (else 40001); NULL = the latest.  Staged rows
 * cannot be given up meanwhile.
 */
typedef struct StagedRead
{
	uint32 locked; /* segments, a bit each */
	Oid table;	   /* locked, too, or invalid */
} StagedRead;

extern void es_begin_staged_read(StagedRead *read, Snapshot wanted);
/*
 * The latest snapshot, and whether staging has to be looked at at all.  Call it
 * after locking the aggregate or key.  The snapshot is one that sees what is in
 * the durable table that is read even if an ALTER TABLE has just written it anew.
 */
extern bool es_begin_latest_read(StagedRead *read, Oid table);
extern void es_end_staged_read(StagedRead *read);
/*
 * For each event of an aggregate that is read, in order: 40001 where one between
 * it and the previous one is missing from the snapshot.
 */
extern void es_check_follows(int64 previous, int64 sequence);

/*
 * Staged events of an aggregate, or writes of a view key, newest or oldest
 * first, visible in "snapshot"; key = (Datum) 0: all keys of the name, in key
 * order.  A row returned lives in the current memory context.  Of an aggregate
 * that has dead letters there are no staged events.
 */
typedef struct StagedScan StagedScan;
extern StagedScan *es_staged_begin(StagedKind kind, Datum name, Datum key,
								   Snapshot snapshot, bool backward);
extern bool es_staged_next(StagedScan *scan, StagedRow *row);
extern void es_staged_free(StagedRow *row);
extern void es_staged_end(StagedScan *scan);
/* By event id: */
extern bool es_staged_by_event_id(const pg_uuid_t *event_id, Snapshot snapshot,
								  StagedRow *row);

/* The order in which a scan over all segments returns rows: an index each. */
typedef enum StagedOrder
{
	ES_BY_KEY, /* (kind, name, key, ordinal) */
	ES_BY_EVENT_ID,
	ES_BY_TXN /* (txn, sid) */
} StagedOrder;

extern StagedScan *es_staged_scan(StagedOrder order, ScanDirection direction,
								  Snapshot snapshot, int nkeys,
								  const ScanKeyData *keys);
/*
 * Call it when a segment was locked, before its indexes are opened: what this
 * process has cached of them may be of before a truncation.
 */
extern void es_refresh_segment(int segment);
/*
 * For the drain: only segments with rows that are not drained, in the order of
 * transactions.
 */
extern StagedScan *es_staged_scan_live(Snapshot snapshot, LOCKMODE lockmode);
/* Whole rows instead of single events. */
extern bool es_staged_next_row(StagedScan *scan, StagedRow *row);

#endif /* ES_STAGED_SCAN_H */
