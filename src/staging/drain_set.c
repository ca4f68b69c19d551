/*
 * drain_set.c
 *		Which staged rows a round of draining moves: a closed set.
 *
 * If the set has a transaction that appended to an aggregate after another, it
 * has that other one too.  It is found like this.  Rows are read in the order of
 * (first sid of the transaction, sid) until there are enough; let c be the
 * first sid of the transaction at which reading stopped.  Every visible
 * transaction that began below c has then been read, and the set takes those
 * whose last sid is below c.  It is closed since the lock of the aggregate made
 * the earlier transaction commit, with all its sids, before the later one took
 * its first sid for that aggregate.  A transaction left open delays only its own
 * rows.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lockdefs.h"
#include "utils/snapshot.h"

#include "ground/metrics.h"
#include "staging/drain_set.h"
#include "staging/staged_row.h"
#include "staging/staged_scan.h"

/* A transaction while rows are collected. */
typedef struct DrainTxn
{
	int64 txn;
	int64 last_sid;
	int first_row; /* in collection order */
	int nrows;
} DrainTxn;

static int
compare_rows(const void *a, const void *b)
{
	const DrainRow *x = a;
	const DrainRow *y = b;

	return x->sid < y->sid ? -1 : x->sid > y->sid ? 1 : 0;
}

static int
compare_txns(const void *a, const void *b)
{
	const DrainTxn *x = a;
	const DrainTxn *y = b;

	return x->last_sid < y->last_sid ? -1 : x->last_sid > y->last_sid ? 1 : 0;
}

/* What has been read so far. */
typedef struct Collected
{
	DrainRow *rows;
	int nrows;
	int maxrows;
	DrainTxn *txns;
	int ntxns;
	int maxtxns;
	int64 count; /* events and view writes in the rows */
} Collected;

static void
collect_row(Collected *c, const StagedRow *row)
{
	DrainTxn *txn;
	DrainRow *r;

	if (c->ntxns == 0 || c->txns[c->ntxns - 1].txn != row->txn)
	{
		if (c->ntxns == c->maxtxns)
		{
			c->maxtxns *= 2;
			c->txns = repalloc_huge(c->txns, c->maxtxns * sizeof(DrainTxn));
		}
		txn = &c->txns[c->ntxns++];
		txn->txn = row->txn;
		txn->first_row = c->nrows;
		txn->nrows = 0;
	}
	txn = &c->txns[c->ntxns - 1];
	txn->last_sid = row->sid;
	txn->nrows++;
	if (c->nrows == c->maxrows)
	{
		c->maxrows *= 2;
		c->rows = repalloc_huge(c->rows, c->maxrows * sizeof(DrainRow));
	}
	r = &c->rows[c->nrows++];
	r->sid = row->sid;
	r->tid = row->tid;
	r->segment = row->segment;
	r->is_event = row->kind == ES_KIND_EVENT;
	r->count = row->count;
	r->rank = 0;
	c->count += row->count;
}

/* Whether some transaction read so far ended below c. */
static bool
any_ended_below(const Collected *collected, int64 c)
{
	for (int i = 0; i < collected->ntxns; i++)
	{
		if (collected->txns[i].last_sid < c)
			return true;
	}
	return false;
}

/*
 * Keeps the transactions that ended below c, ranks them, sorts the rows, which
 * stay where they are: there may be many.
 */
static void
choose(Collected *collected, int64 c, DrainSet *set)
{
	int ntxns = 0;

	for (int i = 0; i < collected->ntxns; i++)
	{
		if (collected->txns[i].last_sid < c)
			collected->txns[ntxns++] = collected->txns[i];
		else
		{
			for (int j = 0; j < collected->txns[i].nrows; j++)
				collected->rows[collected->txns[i].first_row + j].rank = -1;
		}
	}
	qsort(collected->txns, ntxns, sizeof(DrainTxn), compare_txns);
	for (int i = 0; i < ntxns; i++)
	{
		for (int j = 0; j < collected->txns[i].nrows; j++)
			collected->rows[collected->txns[i].first_row + j].rank = i;
	}
	for (int i = 0; i < collected->nrows; i++)
	{
		const DrainRow *row = &collected->rows[i];

		if (row->rank < 0)
			continue;
		if (row->is_event)
			set->events += row->count;
		else
			set->views++;
		set->in_segment[row->segment] += row->count;
		collected->rows[set->nrows++] = *row;
	}
	set->ntxns = ntxns;
	set->rows = collected->rows;
	qsort(set->rows, set->nrows, sizeof(DrainRow), compare_rows);
}

bool
es_collect_set(Snapshot snapshot, int64 max_rows, DrainSet *set)
{
	Collected collected = {0};
	StagedScan *scan;
	StagedRow row;

	set->stopped_at = PG_INT64_MAX;
	collected.maxrows = 1024;
	collected.rows = palloc(collected.maxrows * sizeof(DrainRow));
	collected.maxtxns = 1024;
	collected.txns = palloc(collected.maxtxns * sizeof(DrainTxn));
	scan = es_staged_scan_live(snapshot, RowExclusiveLock);
	while (es_staged_next_row(scan, &row))
	{
		CHECK_FOR_INTERRUPTS();
		es_staged_free(&row);
		/* rows of the transaction that drains: see es_drain_own_rows */
		if (row.own)
			continue;
		if (max_rows > 0 && collected.count >= max_rows &&
			collected.txns[collected.ntxns - 1].txn != row.txn &&
			any_ended_below(&collected, row.txn))
		{
			set->stopped_at = row.txn;
			es_count_left_behind(row.staged_at);
			break;
		}
		collect_row(&collected, &row);
	}
	es_staged_end(scan);
	choose(&collected, set->stopped_at, set);
	pfree(collected.txns);
	return set->stopped_at != PG_INT64_MAX;
}
