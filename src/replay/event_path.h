/*
 * event_path.h
 *		Paths in an event.
 */
#ifndef ES_EVENT_PATH_H
#define ES_EVENT_PATH_H

#include "utils/jsonb.h"

#include "ground/event.h"
#include "replay/patch.h"
#include "replay/path.h"

/* The first step of a path names a column of the event, or the item. */
typedef struct EventPath
{
	RulePath path;
	int column; /* an EventColumn, ES_ITEM or ES_DOCUMENT */
} EventPath;

#define ES_ITEM EV_COLUMNS
#define ES_DOCUMENT \
	(EV_COLUMNS + 1) /* the item, without its name in the path */

/* An event in which paths are followed. */
typedef struct PathEvent
{
	const Datum *values; /* in the order of EventColumn */
	const bool *nulls;
	const JsonbValue *item; /* what $.item is; NULL = nothing */
	Jsonb *payload;			/* detoasted when first needed */
	Jsonb *metadata;
	const Patch *patch; /* what the payload is; NULL = what stands in values */
} PathEvent;

/*
 * Reads a path, which refers to the string; returns what is wrong, or NULL.
 * "has_item" allows $.item.  *hint may be left as it is.
 */
extern const char *es_event_path_read(const JsonbValue *string, bool has_item,
									  EventPath *path, const char **hint);
/* The same where $ is the item itself. */
extern const char *es_document_path_read(const JsonbValue *string,
										 EventPath *path);
/* So many columns of an event, from the first, are looked at. */
extern int es_event_path_columns(const EventPath *path);
/* What the event has there; false if nothing.  A JSON null is something. */
extern bool es_event_path_follow(const EventPath *path, PathEvent *event,
								 JsonbValue *value);

#endif /* ES_EVENT_PATH_H */
