/*
 * staged_view.c
 *		The staged writes of one view key.
 */
#include "postgres.h"

#include "utils/snapmgr.h"

#include "staging/staged_row.h"
#include "staging/staged_scan.h"
#include "staging/staged_view.h"

bool
es_find_staged_view(Datum view_name, Datum view_key, bool newest, StagedRow *row)
{
	StagedScan *scan = es_staged_begin(ES_KIND_VIEW, view_name, view_key,
									   GetActiveSnapshot(), newest);
	bool found = es_staged_next(scan, row);

	es_staged_end(scan);
	return found;
}
