/*
 * staging_status.h
 *		How staging stands.
 */
#ifndef ES_STAGING_STATUS_H
#define ES_STAGING_STATUS_H

/* What the segments take on disk; -1 = somebody has locked them. */
extern int64 es_staging_size(void);

#endif /* ES_STAGING_STATUS_H */
