/*
 * define.c
 *		The definitions of sagas that are stored, by version.
 *
 * A saga keeps the definition that it was started with, so none is ever changed or
 * dropped.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "consume/consume.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/compat.h"
#include "ground/metrics.h"
#include "replay/saga_event.h"
#include "saga/define.h"
#include "saga/definition.h"

PG_FUNCTION_INFO_V1(es_define_saga);

/*
 * Reads the definition of a version, or with 0 the newest, into "context"; returns its
 * version, 0 where there is none.
 */
static int
find_definition(Datum name, int version, MemoryContext context, Jsonb **definition)
{
	static KeptPlan plan = {"SELECT d.version, d.definition FROM event_store.saga_definitions d"
							" WHERE d.saga_name OPERATOR(pg_catalog.=) $1"
							" AND d.version OPERATOR(pg_catalog.>=) $2"
							" AND d.version OPERATOR(pg_catalog.<=) $3"
							" ORDER BY d.saga_name DESC, d.version DESC LIMIT 1",
							3,
							{TEXTOID, INT4OID, INT4OID}};
	Datum values[3] = {name, Int32GetDatum(version),
					   Int32GetDatum(version == 0 ? PG_INT32_MAX : version)};
	MemoryContext inside;
	bool isnull;
	Datum found;

	*definition = NULL;
	if (es_execute_latest(&plan, values, NULL) == 0)
		return 0;
	version = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0],
										  SPI_tuptable->tupdesc, 1, &isnull));
	found =
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull);
	inside = MemoryContextSwitchTo(context);
	*definition = DatumGetJsonbPCopy(found);
	MemoryContextSwitchTo(inside);
	return version;
}

/* The same, read; NULL = there is none. */
static const SagaDefinition *
read_definition(Datum name, int version)
{
	MemoryContext caller = CurrentMemoryContext;
	OwnerScope scope;
	Jsonb *json;

	es_begin(&scope);
	version = find_definition(name, version, caller, &json);
	es_end(&scope);
	return json == NULL ? NULL : es_saga_definition(json, version);
}

const SagaDefinition *
es_stored_definition(Datum name, int version)
{
	const SagaDefinition *definition = read_definition(name, version);

	if (definition == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("version %d of the definition of saga \"%s\" is missing",
						version, TextDatumGetCString(name))));
	return definition;
}

const SagaDefinition *
es_newest_definition(Datum name)
{
	const SagaDefinition *definition = read_definition(name, 0);

	if (definition == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("saga \"%s\" is not defined", TextDatumGetCString(name)),
				 errhint("Call define_saga() first.")));
	return definition;
}

/* Two that define at once: the second sees what the first has done. */
static int
store_definition(Datum name, Jsonb *definition)
{
	static KeptPlan lock = {
		.sql =
			"LOCK TABLE event_store.saga_definitions IN SHARE ROW EXCLUSIVE MODE"};
	static KeptPlan plan = {"INSERT INTO event_store.saga_definitions"
							" (saga_name, version, definition) VALUES ($1, $2, $3)",
							3,
							{TEXTOID, INT4OID, JSONBOID}};
	Datum values[3] = {name, (Datum) 0, JsonbPGetDatum(definition)};
	Jsonb *newest;
	int version;

	es_execute(&lock, NULL, NULL, false, SPI_OK_UTILITY);
	version = find_definition(name, 0, CurrentMemoryContext, &newest);
	if (newest != NULL &&
		compareJsonbContainers(&newest->root, &definition->root) == 0)
		return version;
	values[1] = Int32GetDatum(version + 1);
	(void) es_execute_latest(&plan, values, NULL);
	return version + 1;
}

Datum
es_saga_name_argument(FunctionCallInfo fcinfo)
{
	text *name = es_required_text(fcinfo, 0, "saga_name");
	int room = ES_MAX_NAME_CHARS - (int) strlen(ES_SAGA_PREFIX);

	if (pg_mbstrlen_with_len(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)) > room)
		ereport(ERROR, (errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
						errmsg("saga_name is longer than %d characters", room)));
	return PointerGetDatum(name);
}

Datum
es_define_saga(PG_FUNCTION_ARGS)
{
	Datum name;
	Jsonb *definition;
	OwnerScope scope;
	int version;

	es_begin_call(ES_CALL_DEFINE_SAGA);
	name = es_saga_name_argument(fcinfo);
	if (PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("definition must not be null")));
	definition = PG_GETARG_JSONB_P(1);
	es_begin_consuming("define_saga()");
	(void) es_saga_definition(definition, 0);
	es_consume_durably();
	es_begin(&scope);
	version = store_definition(name, definition);
	es_end(&scope);
	es_end_call(ES_CALL_DEFINE_SAGA, 0);
	PG_RETURN_INT32(version);
}
