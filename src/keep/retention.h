/*
 * retention.h
 *		Aggregates that are archived or deleted by their age.
 */
#ifndef ES_RETENTION_H
#define ES_RETENTION_H

#include "datatype/timestamp.h"

/* When there is something to do, and doing a part of it; as a timer wants it. */
extern TimestampTz es_find_retention(void);
extern TimestampTz es_run_retention(TimestampTz noted);

#endif /* ES_RETENTION_H */
