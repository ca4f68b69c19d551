/*
 * row_key.h
 *		The key of a view: which rows of it an event belongs to.
 */
#ifndef ES_ROW_KEY_H
#define ES_ROW_KEY_H

#include "nodes/pg_list.h"
#include "pgtime.h"
#include "utils/jsonb.h"

#include "replay/event_path.h"
#include "replay/path.h"
#include "replay/state.h"

typedef enum KeyKind
{
	/* at most one row */
	KEY_PATH,
	KEY_STICKY,
	KEY_DAY,
	KEY_HOUR,
	KEY_MONTH,
	KEY_CONCAT,
	KEY_LOOKUP,
	KEY_VALUE, /* only in a concat */
	/* any number of rows */
	KEY_BY_TYPE,
	KEY_EACH,
	KEY_LIST
} KeyKind;

/* A key, or a part of one. */
typedef struct KeyPart
{
	KeyKind kind;
	EventPath path;			/* of path, sticky, each and times */
	int place;				/* sticky: below the key's number of them */
	pg_tz *zone;			/* of times */
	const char *text;		/* value */
	int size;				/* of the text */
	int count;				/* of the parts: one of each and lookup */
	struct KeyPart **parts; /* by_type: NULL = not in this view */
	MemberName *types;		/* by_type: as many */
	text *view;				/* lookup ... */
	RulePath view_path;		/* ... and what it takes of a row's data */
} KeyPart;

/*
 * Whoever keeps a view asks a key for what it implies:
 *
 *	columns	  so many columns of an event, from the first, must be there
 *	stickies  so many values are kept for each aggregate; 0 = nothing to keep
 *	views	  the names, each a text *, of the views that lookups read
 *	has_item  the rows of an event may have an item: rules may use $.item
 */
typedef struct RowKey
{
	KeyPart *whole;
	int columns;
	int stickies;
	List *views;
	bool has_item;
	bool several_types; /* whoever declares a view says so */
} RowKey;

/*
 * Reads a key, NULL being the aggregate's id, in the current memory context.
 * Reports what is wrong as 22023, naming the place.
 */
extern RowKey *es_row_key_parse(Jsonb *key);
/*
 * Whether each row is that of one aggregate's id: the version of the row is the
 * sequence of its last event then.
 */
extern bool es_row_key_is_aggregate(const RowKey *key);
/*
 * Whether the event itself gives the key, and never more than one: what members can
 * divide the events by, without anything that is kept or read.
 */
extern bool es_row_key_divides(const RowKey *key);

#endif /* ES_ROW_KEY_H */
