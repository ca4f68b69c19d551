/*
 * erased_part.c
 *		What is taken out of an event that is erased: its content, or members of it.
 *
 * A member of an object goes, or its replacement takes its place.  An element of an
 * array becomes null instead, so that the others keep their places: paths that are
 * given again mean the same elements.  What an event does not have is not made.
 *
 * The mark in the metadata says that something is missing, and by which erasure; a
 * retry of such an event can be compared no more (event.c), and reducers pass over an
 * event of which nothing is left.  One whose payload is empty otherwise, since it always
 * was or since its only members are gone, is not one of these, and is marked so.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

#include "ground/arguments.h"
#include "ground/compat.h"
#include "ground/event.h"
#include "keep/erased_part.h"
#include "replay/event_path.h"
#include "replay/json_value.h"
#include "replay/path.h"
#include "replay/state.h"

/* One path. */
typedef struct ErasedPart
{
	EventPath path;
	Datum steps; /* below its column, text[] */
	bool is_element;
} ErasedPart;

struct ErasedParts
{
	int count;
	ErasedPart *parts;
	Jsonb *replacement; /* NULL = none */
};

static const EventColumn erasable_columns[] = {EV_PAYLOAD, EV_METADATA,
											   EV_CORRELATION_ID,
											   EV_CAUSATION_ID, EV_SAGA_ID};

static const char *const marks[] = {ES_ERASED, ES_PARTLY};

/* ---------- reading paths ---------- */

static bool
is_erasable(int column)
{
	for (int i = 0; i < (int) lengthof(erasable_columns); i++)
	{
		if ((int) erasable_columns[i] == column)
			return true;
	}
	return false;
}

/* The steps below the column, as functions of PostgreSQL take them. */
static Datum
steps_below(const RulePath *path)
{
	Datum *steps = palloc(Max(path->count, 1) * sizeof(Datum));

	for (int i = 1; i < path->count; i++)
	{
		const RuleStep *step = &path->steps[i];

		steps[i - 1] =
			step->is_index
				? CStringGetTextDatum(psprintf("%d", step->index))
				: PointerGetDatum(cstring_to_text_with_len(step->name.data,
														   step->name.size));
	}
	return PointerGetDatum(construct_array(steps, Max(path->count - 1, 0),
										   TEXTOID, -1, false, TYPALIGN_INT));
}

static bool
is_mark(const EventPath *path)
{
	const RuleStep *step = path->path.count > 1 ? &path->path.steps[1] : NULL;

	for (int i = 0; path->column == EV_METADATA && i < (int) lengthof(marks); i++)
	{
		if (step != NULL && !step->is_index &&
			step->name.size == (int) strlen(marks[i]) &&
			memcmp(step->name.data, marks[i], step->name.size) == 0)
			return true;
	}
	return false;
}

static void
read_part(const char *text, ErasedPart *part)
{
	JsonbValue string;
	const char *hint =
		"Give paths such as $.payload.customer.name, $.metadata.ip or $.correlation_id.";
	const char *problem;

	es_set_string(&string, pstrdup(text));
	problem = es_event_path_read(&string, false, &part->path, &hint);
	if (problem == NULL && !is_erasable(part->path.column))
		problem = "that column stays";
	if (problem == NULL && is_mark(&part->path))
		problem = "that is the mark of what was erased";
	if (problem != NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid path \"%s\": %s", text, problem),
						errhint("%s", hint)));
	part->steps = steps_below(&part->path.path);
	part->is_element = part->path.path.steps[part->path.path.count - 1].is_index;
}

/* Columns other than payload take a text, and metadata takes an object. */
static void
check_replacement(const ErasedPart *part, const JsonbValue *replacement)
{
	bool whole = part->path.path.count == 1;

	if (whole && part->path.column == EV_METADATA && !es_is_object(replacement))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("metadata is replaced by a JSON object only")));
	if (!whole || part->path.column == EV_PAYLOAD ||
		part->path.column == EV_METADATA)
		return;
	if (replacement->type != jbvString)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s is replaced by a JSON string only",
							   es_event_columns[part->path.column].name)));
	es_check_name(PointerGetDatum(cstring_to_text_with_len(replacement->val
															   .string.val,
														   replacement->val
															   .string.len)),
				  false, es_event_columns[part->path.column].name,
				  " in its replacement", false);
}

ErasedParts *
es_read_erased_parts(ArrayType *paths, Jsonb *replacement)
{
	ErasedParts *read;
	Datum *texts;
	bool *nulls;
	int count;

	if (paths == NULL && replacement != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a replacement takes the place of members: give paths")));
	if (paths == NULL)
		return NULL;
	deconstruct_array(paths, TEXTOID, -1, false, TYPALIGN_INT, &texts, &nulls,
					  &count);
	if (count == 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("paths must not be empty"),
						errhint("NULL means all of the content.")));
	read = palloc0(sizeof(ErasedParts));
	read->count = count;
	read->parts = palloc0(count * sizeof(ErasedPart));
	read->replacement = replacement;
	for (int i = 0; i < count; i++)
	{
		JsonbValue value;

		if (nulls[i])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("paths must not contain null")));
		read_part(TextDatumGetCString(texts[i]), &read->parts[i]);
		if (replacement == NULL)
			continue;
		es_whole_value(replacement, &value);
		check_replacement(&read->parts[i], &value);
	}
	return read;
}

/* The rest of them says what a saga has done, without saying with whom. */
ErasedParts *
es_saga_parts(void)
{
	static const char *const paths[] = {"$.payload.context",
										"$.payload.input",
										"$.payload.result",
										"$.payload.error",
										"$.payload.reason",
										"$.payload.payload",
										"$.metadata"};
	Datum texts[lengthof(paths)];

	for (int i = 0; i < (int) lengthof(paths); i++)
		texts[i] = CStringGetTextDatum(paths[i]);
	return es_read_erased_parts(construct_array(texts, lengthof(paths), TEXTOID,
												-1, false, TYPALIGN_INT),
								NULL);
}

/* ---------- taking them out ---------- */

static Datum
json(const char *text)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(text));
}

/* The metadata of an event without the marks of erasures, an object. */
static Datum
unmarked(const Datum *values, const bool *nulls)
{
	Datum metadata = nulls[EV_METADATA] ? json("{}") : values[EV_METADATA];

	/* nothing can be added to a list or a string */
	if (!JB_ROOT_IS_OBJECT(DatumGetJsonbP(metadata)))
	{
		Datum key = CStringGetTextDatum("metadata");

		return DirectFunctionCall4(jsonb_set, json("{}"),
								   PointerGetDatum(construct_array(&key, 1, TEXTOID,
																   -1, false,
																   TYPALIGN_INT)),
								   metadata, BoolGetDatum(true));
	}
	for (int i = 0; i < (int) lengthof(marks); i++)
		metadata = DirectFunctionCall2(jsonb_delete, metadata,
									   CStringGetTextDatum(marks[i]));
	return metadata;
}

static void
add_mark(const char *mark, Datum *values)
{
	values[EV_METADATA] =
		DirectFunctionCall2(jsonb_concat, values[EV_METADATA], json(mark));
}

/* {"$erased": "id"}, after what the metadata has else. */
static void
mark(Datum erasure, bool partly, Datum *values, bool *nulls)
{
	values[EV_METADATA] = unmarked(values, nulls);
	nulls[EV_METADATA] = false;
	add_mark(psprintf("{\"" ES_ERASED "\": \"%s\"}",
					  DatumGetCString(DirectFunctionCall1(uuid_out, erasure))),
			 values);
	if (partly && es_is_erased(values, nulls))
		add_mark("{\"" ES_PARTLY "\": true}", values);
}

static void
take_content(Datum *values, bool *nulls)
{
	if (!nulls[EV_PAYLOAD])
		values[EV_PAYLOAD] = json("{}");
	else
		values[EV_PAYLOAD_BYTES] =
			DirectFunctionCall1(byteain, CStringGetDatum(""));
	nulls[EV_METADATA] = true;
}

/* A whole column that the event has: what takes its place. */
static bool
take_column(const ErasedPart *part, Jsonb *replacement, Datum *values, bool *nulls)
{
	int column = part->path.column;
	JsonbValue value;

	switch (column)
	{
		case EV_PAYLOAD:
			values[column] =
				replacement != NULL ? JsonbPGetDatum(replacement) : json("{}");
			return true;
		case EV_METADATA:
			nulls[column] = replacement == NULL;
			values[column] = JsonbPGetDatum(replacement);
			return true;
		default:
			nulls[column] = replacement == NULL;
			if (replacement == NULL)
				return true;
			(void) JsonbExtractScalar(&replacement->root, &value);
			values[column] =
				PointerGetDatum(cstring_to_text_with_len(value.val.string.val,
														 value.val.string.len));
			return true;
	}
}

/* Whether what an event has at a path is what is to stand there already. */
static bool
is_taken(const ErasedPart *part, Jsonb *replacement, const JsonbValue *value)
{
	JsonbValue wanted;

	if (replacement != NULL)
	{
		if (JB_ROOT_IS_SCALAR(replacement))
			(void) JsonbExtractScalar(&replacement->root, &wanted);
		else
			es_whole_value(replacement, &wanted);
		return es_same_value(value, &wanted);
	}
	if (part->path.path.count > 1)
		return part->is_element && value->type == jbvNull;
	if (part->path.column == EV_PAYLOAD)
		return es_is_object(value) &&
			   JsonContainerSize(value->val.binary.data) == 0;
	return false;
}

/* Payloads that are bytes have no members that could be named. */
static bool
take_bytes(const ErasedPart *part, Datum *values)
{
	if (part->path.path.count > 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("an event with payload_bytes has no member \"%.*s\"",
							   part->path.path.size, part->path.path.text),
						errhint("Erase all of its payload: $.payload.")));
	if (VARSIZE_ANY_EXHDR(PG_DETOAST_DATUM_PACKED(values[EV_PAYLOAD_BYTES])) == 0)
		return false;
	values[EV_PAYLOAD_BYTES] = DirectFunctionCall1(byteain, CStringGetDatum(""));
	return true;
}

static bool
take_part(const ErasedPart *part, Jsonb *replacement, Datum *values, bool *nulls)
{
	PathEvent event = {.values = values, .nulls = nulls};
	int column = part->path.column;
	JsonbValue value;

	if (column == EV_PAYLOAD && nulls[EV_PAYLOAD])
		return take_bytes(part, values);
	if (!es_event_path_follow(&part->path, &event, &value) ||
		is_taken(part, replacement, &value))
		return false;
	if (part->path.path.count == 1)
		return take_column(part, replacement, values, nulls);
	if (replacement == NULL && !part->is_element)
		values[column] =
			DirectFunctionCall2(jsonb_delete_path, values[column], part->steps);
	else
		values[column] =
			DirectFunctionCall4(jsonb_set, values[column], part->steps,
								replacement != NULL ? JsonbPGetDatum(replacement)
													: json("null"),
								BoolGetDatum(false));
	return true;
}

/* The marks alone are no metadata that could be taken. */
static bool
has_metadata(const Datum *values, const bool *nulls)
{
	int own = 0;

	if (nulls[EV_METADATA])
		return false;
	for (int i = 0; i < (int) lengthof(marks) && es_is_redacted(values, nulls);
		 i++)
		own += es_has_member(values[EV_METADATA], marks[i]) ? 1 : 0;
	return (int) JB_ROOT_COUNT(DatumGetJsonbP(values[EV_METADATA])) > own;
}

/* Whether all of the payload is to go. */
static bool
has_payload(const ErasedParts *parts)
{
	for (int i = 0; i < parts->count; i++)
	{
		const EventPath *path = &parts->parts[i].path;

		if (path->column == EV_PAYLOAD && path->path.count == 1)
			return true;
	}
	return false;
}

bool
es_take_parts(const ErasedParts *parts, Datum erasure, Datum *values, bool *nulls)
{
	bool erased = es_is_erased(values, nulls);
	bool taken = false;

	if (parts == NULL)
	{
		if (erased && !has_metadata(values, nulls))
			return false;
		take_content(values, nulls);
		taken = true;
	}
	for (int i = 0; parts != NULL && i < parts->count; i++)
	{
		const ErasedPart *part = &parts->parts[i];

		if (part->path.column == EV_METADATA && part->path.path.count == 1 &&
			!has_metadata(values, nulls))
			continue;
		taken = take_part(part, parts->replacement, values, nulls) || taken;
	}
	if (taken)
		mark(erasure, parts != NULL && !erased && !has_payload(parts), values,
			 nulls);
	return taken;
}
