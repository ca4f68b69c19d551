/*
 * definition.c
 *		What a saga's steps are: read, checked as a whole, with what is not given.
 *
 * A definition is read by tables of its keys, so that whatever is not in them is
 * refused by name: a misspelt "max_attempt" would else be three.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "ground/arguments.h"
#include "ground/common.h"
#include "ground/compat.h"
#include "replay/condition.h"
#include "replay/json_value.h"
#include "replay/saga_event.h"
#include "replay/state.h"
#include "saga/definition.h"

/* A saga has at most so many steps, and a step so many attempts. */
#define MAX_STEPS 1000
#define MAX_ATTEMPTS 1000
/* No time of a definition is longer. */
#define MAX_DAYS 3650

#define SECOND USECS_PER_SEC

/* Where a message is about. */
typedef struct Place
{
	const char *step; /* NULL = the definition itself */
	const char *part; /* NULL = the step itself, else "compensation" and so on */
} Place;

typedef struct Key
{
	const char *name;
	void (*read)(const Place *place, const char *key, const JsonbValue *value,
				 void *into);
	Size offset;
} Key;

/* ---------- what is wrong ---------- */

static const char *
of_place(const Place *place)
{
	if (place->step == NULL)
		return "the definition";
	if (place->part == NULL)
		return psprintf("step \"%s\"", place->step);
	return psprintf("%s of step \"%s\"", place->part, place->step);
}

pg_noreturn static void
refuse(const Place *place, const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("bad saga definition: %s %s", of_place(place), problem)));
	pg_unreachable();
}

/* ---------- values ---------- */

static void
read_text(const Place *place, const char *key, const JsonbValue *value, void *into)
{
	if (value->type != jbvString || value->val.string.len == 0)
		refuse(place, psprintf("has a \"%s\" that is not a string", key));
	if (pg_mbstrlen_with_len(value->val.string.val, value->val.string.len) >
		ES_MAX_NAME_CHARS)
		refuse(place, psprintf("has a \"%s\" of more than %d characters", key,
							   ES_MAX_NAME_CHARS));
	*(char **) into = pnstrdup(value->val.string.val, value->val.string.len);
}

/* The name of a function with its schema; JSON null is none. */
static void
read_handler(const Place *place, const char *key, const JsonbValue *value,
			 void *into)
{
	char *name;
	List *parts;

	*(char **) into = NULL;
	if (value->type == jbvNull)
		return;
	if (value->type == jbvString)
		name = pnstrdup(value->val.string.val, value->val.string.len);
	if (value->type != jbvString ||
		!SplitIdentifierString(pstrdup(name), '.', &parts) ||
		list_length(parts) != 2)
		refuse(place,
			   psprintf("has a \"%s\" that is not the name of a function with its schema, such as \"shop.confirm\"",
						key));
	*(char **) into = name;
}

static void
read_bool(const Place *place, const char *key, const JsonbValue *value, void *into)
{
	if (value->type != jbvBool)
		refuse(place, psprintf("has a \"%s\" that is not true or false", key));
	*(bool *) into = value->val.boolean;
}

static void
read_count(const Place *place, const char *key, const JsonbValue *value, void *into)
{
	double number = 0;

	if (value->type == jbvNumeric)
		number =
			DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
											   NumericGetDatum(value->val.numeric)));
	if (number < 1 || number > MAX_ATTEMPTS || number != (int) number)
		refuse(place, psprintf("has a \"%s\" that is not a number from 1 to %d",
							   key, MAX_ATTEMPTS));
	*(int *) into = (int) number;
}

/*
 * An interval in microseconds; -1 where the text is none.  A definition means the same in
 * every session that reads it, whatever its IntervalStyle makes of a sign.
 */
static double
interval_microseconds(char *text)
{
	MemoryContext context = CurrentMemoryContext;
	int style = IntervalStyle;
	volatile double microseconds = -1;

	IntervalStyle = INTSTYLE_POSTGRES;
	PG_TRY();
	{
		Interval *interval =
			DatumGetIntervalP(DirectFunctionCall3(interval_in,
												  CStringGetDatum(text),
												  ObjectIdGetDatum(InvalidOid),
												  Int32GetDatum(-1)));

		microseconds =
			(double) interval->time +
			((double) interval->month * DAYS_PER_MONTH + interval->day) *
				(double) USECS_PER_DAY;
	}
	PG_CATCH();
	{
		IntervalStyle = style;
		if (ERRCODE_TO_CATEGORY(geterrcode()) != ERRCODE_DATA_EXCEPTION)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	IntervalStyle = style;
	return microseconds;
}

/* A time as an interval is written; JSON null is none. */
static void
read_time(const Place *place, const char *key, const JsonbValue *value, void *into)
{
	double time = -1;

	if (value->type == jbvNull)
	{
		*(int64 *) into = 0;
		return;
	}
	if (value->type == jbvString)
		time = interval_microseconds(pnstrdup(value->val.string.val,
											  value->val.string.len));
	if (time < 1 || time > (double) MAX_DAYS * USECS_PER_DAY)
		refuse(place,
			   psprintf("has a \"%s\" that is not a time above 0, such as \"10s\"",
						key));
	*(int64 *) into = (int64) time;
}

/* ---------- parts ---------- */

/* Reads the members of an object by a table of keys. */
static void
read_keys(const Place *place, const JsonbValue *object, const Key *keys,
		  int count, void *into)
{
	JsonbIterator *iterator = JsonbIteratorInit(object->val.binary.data);
	JsonbIteratorToken token;
	JsonbValue name;
	JsonbValue value;

	while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
	{
		int i = 0;

		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &value, true);
		while (i < count && !es_is_string(&name, keys[i].name))
			i++;
		if (i == count)
			refuse(place, psprintf("has an unknown key \"%.*s\"",
								   name.val.string.len, name.val.string.val));
		if (keys[i].read != NULL)
			keys[i].read(place, keys[i].name, &value,
						 (char *) into + keys[i].offset);
	}
}

static void
check_object(const Place *place, const char *key, const JsonbValue *value)
{
	if (!es_is_object(value))
		refuse(place, psprintf("has a \"%s\" that is not an object", key));
}

#define PACE_KEY(name, read)                  \
	{                                         \
#name, read, offsetof(StepPace, name) \
	}

static const Key pace_keys[] = {PACE_KEY(timeout, read_time),
								PACE_KEY(queue_timeout, read_time),
								PACE_KEY(max_attempts, read_count),
								PACE_KEY(retry_initial, read_time),
								PACE_KEY(retry_max, read_time),
								PACE_KEY(handler, read_handler)};

/* It stands in for what is not given of the step's. */
static void
read_compensation(const Place *place, const char *key, const JsonbValue *value,
				  void *into)
{
	Place part = {place->step, key};

	check_object(place, key, value);
	read_keys(&part, value, pace_keys, lengthof(pace_keys), into);
}

static void
read_condition(const Place *place, const JsonbValue *value, Condition *condition)
{
	const char *hint;
	const char *problem = es_document_condition_read(value, condition, &hint);

	if (problem != NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("bad saga definition: \"when\" of step \"%s\": %s",
							   place->step, problem),
						errhint("%s", hint)));
}

/* One comparison, or a list of them. */
static void
read_when(const Place *place, const char *key, const JsonbValue *value, void *into)
{
	StepDefinition *step = into;

	step->conditions =
		es_is_array(value) ? (int) JsonContainerSize(value->val.binary.data) : 1;
	step->when = palloc0(Max(step->conditions, 1) * sizeof(Condition));
	for (int i = 0; i < step->conditions; i++)
		read_condition(place,
					   es_is_array(value)
						   ? getIthJsonbValueFromContainer(value->val.binary.data, i)
						   : value,
					   &step->when[i]);
}

static void
read_on_timeout(const Place *place, const char *key, const JsonbValue *value,
				void *into)
{
	if (!es_is_string(value, "fail") && !es_is_string(value, "continue"))
		refuse(place,
			   psprintf("has an \"%s\" that is neither \"fail\" nor \"continue\"",
						key));
	*(bool *) into = es_is_string(value, "continue");
}

#define STEP_KEY(name, read, field)                 \
	{                                               \
		name, read, offsetof(StepDefinition, field) \
	}

static const Key wait_keys[] = {STEP_KEY("signal", read_text, signal),
								STEP_KEY("timeout", read_time, wait_timeout),
								STEP_KEY("on_timeout", read_on_timeout,
										 wait_continues)};

static void
read_wait(const Place *place, const char *key, const JsonbValue *value, void *into)
{
	Place part = {place->step, key};
	StepDefinition *step = into;

	check_object(place, key, value);
	read_keys(&part, value, wait_keys, lengthof(wait_keys), step);
	if (step->signal == NULL)
		refuse(&part, "has no \"signal\"");
	if (step->wait_timeout == 0 && step->wait_continues)
		refuse(&part, "has an \"on_timeout\" and no \"timeout\"");
}

static const Key circuit_keys[] = {STEP_KEY("failures", read_count,
											circuit.failures),
								   STEP_KEY("pause", read_time, circuit.pause)};

static void
read_circuit(const Place *place, const char *key, const JsonbValue *value,
			 void *into)
{
	Place part = {place->step, key};
	StepDefinition *step = into;

	check_object(place, key, value);
	read_keys(&part, value, circuit_keys, lengthof(circuit_keys), step);
	if (step->circuit.failures == 0 || step->circuit.pause == 0)
		refuse(&part, "needs both \"failures\" and \"pause\"");
}

/* ---------- steps ---------- */

/* "name" and "compensation" are read before and behind the others. */
static const Key step_keys[] =
	{STEP_KEY("name", NULL, name),
	 STEP_KEY("compensate", read_bool, compensate),
	 STEP_KEY("timeout", read_time, paces[KIND_STEP].timeout),
	 STEP_KEY("queue_timeout", read_time, paces[KIND_STEP].queue_timeout),
	 STEP_KEY("max_attempts", read_count, paces[KIND_STEP].max_attempts),
	 STEP_KEY("retry_initial", read_time, paces[KIND_STEP].retry_initial),
	 STEP_KEY("retry_max", read_time, paces[KIND_STEP].retry_max),
	 STEP_KEY("handler", read_handler, paces[KIND_STEP].handler),
	 STEP_KEY("compensation", NULL, paces[KIND_COMPENSATION]),
	 {"when", read_when, 0},
	 STEP_KEY("optional", read_bool, optional),
	 STEP_KEY("group", read_text, group),
	 {"wait", read_wait, 0},
	 {"circuit", read_circuit, 0},
	 STEP_KEY("delay", read_time, delay)};

static void
read_name(const SagaDefinition *definition, int number,
		  const JsonbValue *object, StepDefinition *step)
{
	Place place = {psprintf("%d", number + 1), NULL};
	JsonbValue value;

	if (!es_is_object(object))
		refuse(&place, "is not an object");
	if (!es_find_member(object, "name", &value))
		refuse(&place, "has no \"name\"");
	read_text(&place, "name", &value, &step->name);
	for (int i = 0; i < number; i++)
	{
		if (strcmp(definition->steps[i].name, step->name) == 0)
			refuse(&(Place){step->name, NULL}, "is there twice");
	}
}

/*
 * A compensation has an hour to be claimed; what else is not said is the step's, but for
 * the handler, which does the one and not the other.
 */
static void
complete_compensation(const Place *place, const JsonbValue *object,
					  StepDefinition *step)
{
	StepPace *pace = &step->paces[KIND_COMPENSATION];
	JsonbValue value;
	JsonbValue handler;
	bool given = es_find_member(object, "compensation", &value);

	*pace = step->paces[KIND_STEP];
	pace->queue_timeout = 3600 * SECOND;
	pace->handler = NULL;
	if (given && !step->compensate)
		refuse(place, "has a \"compensation\", but not \"compensate\": true");
	if (given)
		read_compensation(place, "compensation", &value, pace);
	/* else it would wait for an executor that nobody thought of */
	if (step->compensate && step->paces[KIND_STEP].handler != NULL &&
		!(given && es_find_member(&value, "handler", &handler)))
		refuse(place,
			   "has a \"handler\", and its \"compensation\" does not say which \"handler\" undoes it (null: executors do)");
}

/* What does not go together. */
static void
check_step(const SagaDefinition *definition, const Place *place,
		   const StepDefinition *step)
{
	for (int kind = 0; kind <= KIND_COMPENSATION; kind++)
	{
		const StepPace *pace = &step->paces[kind];
		Place part = {step->name,
					  kind == KIND_COMPENSATION ? "compensation" : NULL};

		if (pace->timeout == 0)
			refuse(&part, "has no \"timeout\"");
		if (pace->retry_initial > pace->retry_max)
			refuse(&part, "has a \"retry_initial\" above its \"retry_max\"");
	}
	if (step->signal != NULL && step->compensate)
		refuse(place, "waits for a signal, which nothing can compensate");
	if (step->signal != NULL && step->circuit.failures > 0)
		refuse(place, "waits for a signal, and has no use for a \"circuit\"");
	if (step->signal != NULL && step->paces[KIND_STEP].handler != NULL)
		refuse(place, "waits for a signal, and has no use for a \"handler\"");
	if (step->signal != NULL && step->delay > 0)
		refuse(place, "has both a \"wait\" and a \"delay\"");
	if (definition->timeout == 0)
		return;
	if (step->delay >= definition->timeout)
		refuse(place, "has a \"delay\" that is not below the saga's \"timeout\"");
	if (step->wait_timeout >= definition->timeout)
		refuse(place, "has a \"wait\" that is not below the saga's \"timeout\"");
}

/* The steps of a group follow each other. */
static void
check_group(const SagaDefinition *definition, int number)
{
	const char *group = definition->steps[number].group;

	if (group == NULL || number == 0)
		return;
	if (definition->steps[number - 1].group != NULL &&
		strcmp(definition->steps[number - 1].group, group) == 0)
		return;
	for (int i = 0; i < number; i++)
	{
		if (definition->steps[i].group != NULL &&
			strcmp(definition->steps[i].group, group) == 0)
			refuse(&(Place){definition->steps[number].name, NULL},
				   "belongs to a group whose other steps do not stand beside it");
	}
}

static void
read_step(SagaDefinition *definition, int number, const JsonbValue *object)
{
	StepDefinition *step = &definition->steps[number];
	Place place = {NULL, NULL};

	read_name(definition, number, object, step);
	place.step = step->name;
	step->paces[KIND_STEP] = (StepPace){.timeout = 10 * SECOND,
										.max_attempts = 3,
										.retry_initial = SECOND / 2,
										.retry_max = 10 * SECOND};
	read_keys(&place, object, step_keys, lengthof(step_keys), step);
	complete_compensation(&place, object, step);
	check_step(definition, &place, step);
	check_group(definition, number);
}

/* ---------- a definition ---------- */

static const Key definition_keys[] = {{"steps", NULL, 0},
									  {"timeout", read_time,
									   offsetof(SagaDefinition, timeout)}};

SagaDefinition *
es_saga_definition(Jsonb *json, int version)
{
	SagaDefinition *definition = palloc0(sizeof(SagaDefinition));
	Place place = {NULL, NULL};
	JsonbValue root;
	JsonbValue steps;

	es_whole_value(json, &root);
	if (!es_is_object(&root))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("bad saga definition: it is not an object"),
						es_hint_encoded_twice(root.type == jbvString)));
	definition->version = version;
	read_keys(&place, &root, definition_keys, lengthof(definition_keys),
			  definition);
	if (!es_find_member(&root, "steps", &steps) || !es_is_array(&steps) ||
		JsonContainerSize(steps.val.binary.data) == 0)
		refuse(&place, "has no list of \"steps\"");
	if (JsonContainerSize(steps.val.binary.data) > MAX_STEPS)
		refuse(&place, psprintf("has more than %d steps", MAX_STEPS));
	definition->count = (int) JsonContainerSize(steps.val.binary.data);
	definition->steps = palloc0(definition->count * sizeof(StepDefinition));
	for (int i = 0; i < definition->count; i++)
		read_step(definition, i,
				  getIthJsonbValueFromContainer(steps.val.binary.data, i));
	return definition;
}

int
es_find_step(const SagaDefinition *definition, const char *name)
{
	for (int i = 0; i < definition->count; i++)
	{
		if (strcmp(definition->steps[i].name, name) == 0)
			return i;
	}
	return -1;
}
