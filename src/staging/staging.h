/*
 * staging.h
 *		Admitting and writing.
 */
#ifndef ES_STAGING_H
#define ES_STAGING_H

#include "ground/event.h"
#include "ground/settings.h"
#include "log/view_table.h"

/*
 * Decides how a write of "rows" rows will be done, before it takes any lock:
 * honours write_delay = 0, staging_limit and on_staging_full, waits for space
 * where that is asked for, opens staging if need be.  55000 without preload.
 */
extern Durability es_admit(Durability wanted, int64 rows);

/*
 * Write staged rows; the caller holds the locks of the aggregates or keys.
 * groups[i] < ngroups numbers the aggregate of event i; NULL: all of one.
 */
extern void es_stage_events(EventRow **rows, const int *groups, int ngroups,
							int count);
extern void es_stage_views(const ViewWrite *writes, int count);
extern int64 es_staging_epoch(void);

#endif /* ES_STAGING_H */
