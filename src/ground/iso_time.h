/*
 * iso_time.h
 *		Times as ISO 8601 writes them.
 */
#ifndef ES_ISO_TIME_H
#define ES_ISO_TIME_H

#include "datatype/timestamp.h"

/*
 * Reads a date, a time and Z or an offset; false when it is anything else.
 * Nothing that a session has set plays a part.
 */
extern bool es_read_iso_time(const char *text, int length, TimestampTz *result);

#endif /* ES_ISO_TIME_H */
