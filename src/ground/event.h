/*
 * event.h
 *		The columns of an event.
 */
#ifndef ES_EVENT_H
#define ES_EVENT_H

/*
 * The columns of domain_events and of the type event, in table order,
 * counted from 0.  A row on its way in or out is a Datum array in this order.
 */
typedef enum EventColumn
{
	EV_GLOBAL_POSITION,
	EV_AGGREGATE_TYPE,
	EV_AGGREGATE_ID,
	EV_SEQUENCE,
	EV_EVENT_ID,
	EV_EVENT_TYPE,
	EV_SCHEMA_VERSION,
	EV_PAYLOAD,
	EV_PAYLOAD_BYTES,
	EV_METADATA,
	EV_CORRELATION_ID,
	EV_CAUSATION_ID,
	EV_SAGA_ID,
	EV_OCCURRED_AT,
	EV_RECORDED_AT,
	EV_COLUMNS
} EventColumn;

/* Selects the columns of an event, in that order, from domain_events as e. */
#define ES_EVENT_SELECT "SELECT {event e} FROM event_store.domain_events e"

typedef struct EventRow
{
	Datum values[EV_COLUMNS];
	bool nulls[EV_COLUMNS];
} EventRow;


/* Names are at most ES_MAX_NAME_CHARS long. */
typedef enum NameLimit
{
	ES_NOT_A_NAME,
	ES_NAME_OPTIONAL,
	ES_NAME_REQUIRED
} NameLimit;

typedef struct EventColumnInfo
{
	const char *name;
	Oid type;
	NameLimit limit;
	int key;			/* its place among the keys of a JSON list; 0 = none */
	int argument;		/* of append_event; 0 = none */
	const char *array;	/* the argument of append_batch, NULL = none ... */
	int array_argument; /* ... and its number */
	bool packed; /* stands in the packed form of a staged event, not beside it */
	bool rare;	 /* most events leave it NULL */
	bool content;  /* a repeated event must have the same */
	bool required; /* never NULL in the log */
} EventColumnInfo;

extern const EventColumnInfo es_event_columns[];

/* Whether values of the type of a column can be long, and stored out of line. */
extern bool es_is_varlena(Oid type);
/* About the bytes of an event's large values. */
extern Size es_event_size(const EventRow *row);
/*
 * Whether an event has the same content as one that stands: whether it repeats it.  What
 * was erased of that one nobody can compare.
 */
extern bool es_same_content(const EventRow *a, const EventRow *standing);
/*
 * The members of the metadata of an event of which something was erased; the second where its
 * payload is empty, but not because it was erased as a whole.
 */
#define ES_ERASED "$erased"
#define ES_PARTLY "$partly"
/* Whether a document is an object that has a member. */
extern bool es_has_member(Datum jsonb, const char *name);
/* Whether something of an event was erased; whether nothing of its payload is left. */
extern bool es_is_redacted(const Datum *values, const bool *nulls);
extern bool es_is_erased(const Datum *values, const bool *nulls);
/* A statement with the sets of columns put in that it names in braces. */
extern char *es_event_sql(const char *sql);

/* Where a statement on domain_events looks instead. */
typedef enum LogTables
{
	ES_BOTH_TABLES, /* into domain_events and domain_events_archive, as one table */
	ES_ARCHIVE_ALONE
} LogTables;

#define ES_LOG_TABLES 2

/* A SELECT on domain_events, its sets of columns still in braces, on these tables. */
extern char *es_log_sql(const char *sql, LogTables tables);

#endif /* ES_EVENT_H */
