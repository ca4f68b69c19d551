/*
 * grouped_form.c
 *		Calls and answers as they are handed over through shared memory.
 *
 * A call is one piece of memory that can stand anywhere: a head, and each event with the
 * values that it has, in the order of the columns.  An answer says of each event where it
 * stands, or is an error with all that its caller is told.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/elog.h"
#include "utils/uuid.h"

#include "ground/compat.h"
#include "ground/event.h"
#include "log/view_table.h"
#include "write/append.h"
#include "write/event_input.h"
#include "write/grouped_form.h"
#include "write/view_group.h"
#include "write/view_write.h"

/* In front of a call. */
typedef struct CallHead
{
	bool puts;
	int count;
	OnConflict on_conflict;
	bool single; /* all of one aggregate; or rows are expected as they are */
} CallHead;

/* In front of an event. */
typedef struct EventHead
{
	int64 expected;
	uint32 given; /* a bit for each column that has a value */
	bool expects;
	bool id_given;
} EventHead;

/* In front of a write of a view. */
typedef struct WriteHead
{
	int64 version;
	int64 expected;
	bool has_version;
	bool expects;
	bool has_data;
} WriteHead;

StaticAssertDecl(EV_COLUMNS <= 32, "a bit for each column");

typedef enum AnswerKind
{
	ANSWER_WRITTEN,
	ANSWER_REFUSED,
	ANSWER_ERROR
} AnswerKind;

/* In front of an answer. */
typedef struct AnswerHead
{
	AnswerKind kind;
	int refused;
	int64 actual;
	int64 written;
	int conflicts;
	int sqlstate;
	KnownView known;
} AnswerHead;

typedef struct AnsweredEvent
{
	int64 sequence;
	int64 position; /* 0 = none */
	Outcome outcome;
} AnsweredEvent;

/* ---------- writing ---------- */

static void
add_bytes(StringInfo to, const void *bytes, Size size)
{
	appendBinaryStringInfoNT(to, bytes, (int) size);
	while (to->len != (int) MAXALIGN(to->len))
		appendStringInfoCharMacro(to, '\0');
}

static void
add_value(StringInfo to, Oid type, Datum value)
{
	if (es_is_varlena(type))
		add_bytes(to, DatumGetPointer(value), VARSIZE_ANY(DatumGetPointer(value)));
	else if (type == UUIDOID)
		add_bytes(to, DatumGetUUIDP(value), sizeof(pg_uuid_t));
	else
		add_bytes(to, &value, sizeof(value));
}

static void
add_event(StringInfo to, const NewEvent *event)
{
	EventHead head = {.expected = event->expected,
					  .expects = event->expects,
					  .id_given = event->id_given};

	for (int i = 0; i < EV_COLUMNS; i++)
	{
		if (!event->row.nulls[i])
			head.given |= UINT32_C(1) << i;
	}
	add_bytes(to, &head, sizeof(head));
	for (int i = 0; i < EV_COLUMNS; i++)
	{
		if (!event->row.nulls[i])
			add_value(to, es_event_columns[i].type, event->row.values[i]);
	}
}

char *
es_form_append(const AppendCall *append, bool single, Size most, Size *size)
{
	StringInfoData call;
	CallHead head;

	memset(&head, 0, sizeof(head));
	head.count = append->list.count;
	head.on_conflict = append->on_conflict;
	head.single = single;
	initStringInfo(&call);
	add_bytes(&call, &head, sizeof(head));
	add_bytes(&call, append->function, strlen(append->function) + 1);
	for (int i = 0; i < append->list.count; i++)
	{
		add_event(&call, &append->list.events[i]);
		if ((Size) call.len <= most)
			continue;
		pfree(call.data);
		return NULL;
	}
	*size = call.len;
	return call.data;
}

char *
es_form_put(const PutCall *put, Size most, Size *size)
{
	StringInfoData call;
	CallHead head;

	memset(&head, 0, sizeof(head));
	head.puts = true;
	head.count = put->count;
	head.single = put->expected != NULL;
	initStringInfo(&call);
	add_bytes(&call, &head, sizeof(head));
	add_value(&call, TEXTOID, put->writes[0].view_name);
	for (int i = 0; i < put->count; i++)
	{
		const ViewWrite *write = &put->writes[i];
		WriteHead of = {.version = write->version,
						.has_version = write->has_version,
						.has_data = write->view_data != (Datum) 0};

		if (put->expected != NULL)
		{
			of.expects = put->expected[i].given;
			of.expected = put->expected[i].version;
		}
		add_bytes(&call, &of, sizeof(of));
		add_value(&call, TEXTOID, write->view_key);
		if (of.has_data)
			add_value(&call, JSONBOID, write->view_data);
		if ((Size) call.len <= most)
			continue;
		pfree(call.data);
		return NULL;
	}
	*size = call.len;
	return call.data;
}

char *
es_form_append_answer(const AppendCall *append, Size *size)
{
	StringInfoData answer;
	AnswerHead head;
	bool refused = append->verdict == ES_VERDICT_REFUSED;

	memset(&head, 0, sizeof(head));
	head.kind = refused ? ANSWER_REFUSED : ANSWER_WRITTEN;
	head.refused = append->refused;
	head.actual = append->actual;
	head.written = append->to_write;
	head.conflicts = append->conflicts;
	initStringInfo(&answer);
	add_bytes(&answer, &head, sizeof(head));
	for (int i = 0; i < append->list.count && !refused; i++)
	{
		const EventRow *row = &append->list.events[i].row;
		const Aggregate *aggregate =
			&append->aggregates[append->list.events[i].aggregate];
		AnsweredEvent event = {.outcome = aggregate->outcome};

		if (aggregate->outcome == OUTCOME_CONFLICT)
			event.sequence = aggregate->head.sequence;
		else
		{
			event.sequence = DatumGetInt64(row->values[EV_SEQUENCE]);
			event.position = DatumGetInt64(row->values[EV_GLOBAL_POSITION]);
		}
		add_bytes(&answer, &event, sizeof(event));
	}
	*size = answer.len;
	return answer.data;
}

char *
es_form_put_answer(const PutCall *put, Size *size)
{
	StringInfoData answer;
	AnswerHead head;

	memset(&head, 0, sizeof(head));
	head.kind =
		put->verdict == ES_VERDICT_REFUSED ? ANSWER_REFUSED : ANSWER_WRITTEN;
	head.refused = put->refused;
	head.known = put->actual;
	head.written = put->changed;
	initStringInfo(&answer);
	add_bytes(&answer, &head, sizeof(head));
	*size = answer.len;
	return answer.data;
}

/* The texts of an error, in an order that both sides know. */
#define ERROR_TEXTS 9

static char **
error_text(ErrorData *error, int number)
{
	char **const texts[ERROR_TEXTS] =
		{&error->message,	  &error->detail,		 &error->hint,
		 &error->context,	  &error->schema_name,	 &error->table_name,
		 &error->column_name, &error->datatype_name, &error->constraint_name};

	return texts[number];
}

char *
es_form_error(const ErrorData *error, Size *size)
{
	StringInfoData answer;
	AnswerHead head;

	memset(&head, 0, sizeof(head));
	head.kind = ANSWER_ERROR;
	head.sqlstate = error->sqlerrcode;
	initStringInfo(&answer);
	add_bytes(&answer, &head, sizeof(head));
	for (int i = 0; i < ERROR_TEXTS; i++)
	{
		const char *text = *error_text(unconstify(ErrorData *, error), i);
		bool there = text != NULL;

		add_bytes(&answer, &there, sizeof(there));
		if (there)
			add_bytes(&answer, text, strlen(text) + 1);
	}
	*size = answer.len;
	return answer.data;
}

/* ---------- reading ---------- */

static void *
next_bytes(char **from, Size size)
{
	void *bytes = *from;

	*from += MAXALIGN(size);
	return bytes;
}

static Datum
next_value(char **from, Oid type)
{
	if (es_is_varlena(type))
		return PointerGetDatum(next_bytes(from, VARSIZE_ANY(*from)));
	if (type == UUIDOID)
		return UUIDPGetDatum(next_bytes(from, sizeof(pg_uuid_t)));
	return *(Datum *) next_bytes(from, sizeof(Datum));
}

static void
read_event(char **from, NewEvent *event)
{
	const EventHead *head = next_bytes(from, sizeof(EventHead));

	memset(event, 0, sizeof(*event));
	event->expected = head->expected;
	event->expects = head->expects;
	event->id_given = head->id_given;
	for (int i = 0; i < EV_COLUMNS; i++)
	{
		event->row.nulls[i] = (head->given & (UINT32_C(1) << i)) == 0;
		if (!event->row.nulls[i])
			event->row.values[i] = next_value(from, es_event_columns[i].type);
	}
}

static void
read_append(char *content, const CallHead *head, AppendCall *append)
{
	append->function = content;
	(void) next_bytes(&content, strlen(content) + 1);
	append->on_conflict = head->on_conflict;
	append->list.count = head->count;
	append->list.events =
		palloc_extended(head->count * sizeof(NewEvent), MCXT_ALLOC_HUGE);
	for (int i = 0; i < head->count; i++)
		read_event(&content, &append->list.events[i]);
	es_find_aggregates(append, head->single);
}

static void
read_put(char *content, const CallHead *head, PutCall *put)
{
	Datum view_name = next_value(&content, TEXTOID);
	ViewWrite *writes = palloc_extended(head->count * sizeof(ViewWrite),
										MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	ViewExpectation *expected =
		palloc_extended(head->count * sizeof(ViewExpectation), MCXT_ALLOC_HUGE);

	for (int i = 0; i < head->count; i++)
	{
		const WriteHead *of = next_bytes(&content, sizeof(WriteHead));

		writes[i].view_name = view_name;
		writes[i].has_version = of->has_version;
		writes[i].version = of->version;
		expected[i].given = of->expects;
		expected[i].version = of->expected;
		writes[i].view_key = next_value(&content, TEXTOID);
		if (of->has_data)
			writes[i].view_data = next_value(&content, JSONBOID);
	}
	put->writes = writes;
	put->expected = head->single ? expected : NULL;
	put->count = head->count;
}

void
es_read_request(char *content, GroupedRequest *request)
{
	const CallHead *head = next_bytes(&content, sizeof(CallHead));

	memset(request, 0, sizeof(*request));
	request->puts = head->puts;
	if (head->puts)
		read_put(content, head, &request->put);
	else
		read_append(content, head, &request->append);
}

static void
raise_error(char *from, int sqlstate)
{
	ErrorData error;

	memset(&error, 0, sizeof(error));
	error.elevel = ERROR;
	error.sqlerrcode = sqlstate;
	error.assoc_context = CurrentMemoryContext;
	for (int i = 0; i < ERROR_TEXTS; i++)
	{
		if (!*(bool *) next_bytes(&from, sizeof(bool)))
			continue;
		*error_text(&error, i) = from;
		(void) next_bytes(&from, strlen(from) + 1);
	}
	ThrowErrorData(&error);
}

void
es_read_append_answer(char *answer, AppendCall *append)
{
	const AnswerHead *head = next_bytes(&answer, sizeof(AnswerHead));

	if (head->kind == ANSWER_ERROR)
		raise_error(answer, head->sqlstate);
	if (head->kind == ANSWER_REFUSED)
		es_refuse_event(append, head->refused, head->actual);
	append->to_write = (int) head->written;
	append->conflicts = head->conflicts;
	for (int i = 0; i < append->list.count; i++)
	{
		const AnsweredEvent *event = next_bytes(&answer, sizeof(AnsweredEvent));
		EventRow *row = &append->list.events[i].row;
		Aggregate *aggregate =
			&append->aggregates[append->list.events[i].aggregate];

		aggregate->outcome = event->outcome;
		aggregate->head.sequence = event->sequence;
		row->values[EV_SEQUENCE] = Int64GetDatum(event->sequence);
		row->nulls[EV_SEQUENCE] = false;
		row->values[EV_GLOBAL_POSITION] = Int64GetDatum(event->position);
		row->nulls[EV_GLOBAL_POSITION] = event->position == 0;
	}
}

int64
es_read_put_answer(char *answer, const PutCall *put)
{
	const AnswerHead *head = next_bytes(&answer, sizeof(AnswerHead));

	if (head->kind == ANSWER_ERROR)
		raise_error(answer, head->sqlstate);
	if (head->kind == ANSWER_REFUSED)
		es_refuse_version(&put->writes[head->refused],
						  put->expected[head->refused].version, &head->known);
	return head->written;
}
