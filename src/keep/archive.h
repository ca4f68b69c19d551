/*
 * archive.h
 *		The events of an aggregate into the archive.
 */
#ifndef ES_ARCHIVE_H
#define ES_ARCHIVE_H

#include "keep/life.h"

/* Moves all events of an aggregate, and closes it; returns how many there were. */
extern int64 es_archive_whole(const Life *life);

#endif /* ES_ARCHIVE_H */
