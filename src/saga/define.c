/*
 * define.c
 *		The definitions of sagas that are stored, by version.
 *
 * A saga keeps the definition that it was started with, so none is ever changed or
 * dropped.
 */
#include "postgres.h"

#include "access/xact.h"
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
#include "saga/kept_definition.h"
#include "saga/step_handler.h"

PG_FUNCTION_INFO_V1(es_define_saga);

/* Reads the definition of a version, or with 0 the newest, into "context". */
static StoredDefinition
find_definition(Datum name, int version, MemoryContext context)
{
	static KeptPlan plan = {"SELECT d.version, d.definition, d.xmin, d.handler_owner"
							" FROM event_store.saga_definitions d"
							" WHERE d.saga_name OPERATOR(pg_catalog.=) $1"
							" AND d.version OPERATOR(pg_catalog.>=) $2"
							" AND d.version OPERATOR(pg_catalog.<=) $3"
							" ORDER BY d.saga_name DESC, d.version DESC LIMIT 1",
							3,
							{TEXTOID, INT4OID, INT4OID}};
	Datum values[3] = {name, Int32GetDatum(version),
					   Int32GetDatum(version == 0 ? PG_INT32_MAX : version)};
	StoredDefinition found = {0};
	MemoryContext inside;
	Datum columns[4];
	bool isnull;

	if (es_execute_latest(&plan, values, NULL) == 0)
		return found;
	for (int i = 0; i < 4; i++)
		columns[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								   i + 1, &isnull);
	inside = MemoryContextSwitchTo(context);
	found.version = DatumGetInt32(columns[0]);
	found.definition = DatumGetJsonbPCopy(columns[1]);
	found.of_others =
		!TransactionIdIsCurrentTransactionId(DatumGetTransactionId(columns[2]));
	if (!isnull)
		found.handler_owner = TextDatumGetCString(columns[3]);
	MemoryContextSwitchTo(inside);
	return found;
}

/* The number of the newest; 0 = there is none. */
static int
newest_version(Datum name)
{
	static KeptPlan plan = {"SELECT d.version FROM event_store.saga_definitions d"
							" WHERE d.saga_name OPERATOR(pg_catalog.=) $1"
							" ORDER BY d.saga_name DESC, d.version DESC LIMIT 1",
							1,
							{TEXTOID}};
	int version = 0;
	OwnerScope scope;
	bool isnull;

	es_begin(&scope);
	if (es_execute_latest(&plan, &name, NULL) > 0)
		version = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0],
											  SPI_tuptable->tupdesc, 1, &isnull));
	es_end(&scope);
	return version;
}

/* The definition of a version; NULL = there is none. */
static const SagaDefinition *
read_definition(Datum name, int version)
{
	MemoryContext caller = CurrentMemoryContext;
	const SagaDefinition *kept = es_find_kept_definition(name, version);
	StoredDefinition stored;
	OwnerScope scope;

	if (kept != NULL)
		return kept;
	es_begin(&scope);
	stored = find_definition(name, version, caller);
	es_end(&scope);
	return stored.version == 0 ? NULL : es_keep_definition(name, &stored);
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
	int version = newest_version(name);
	const SagaDefinition *definition =
		version == 0 ? NULL : read_definition(name, version);

	if (definition == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("saga \"%s\" is not defined", TextDatumGetCString(name)),
				 errhint("Call define_saga() first.")));
	return definition;
}

static bool
same_owner(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/* Two that define at once: the second sees what the first has done. */
static int
store_definition(Datum name, Jsonb *definition, const char *handler_owner)
{
	static KeptPlan lock = {
		.sql =
			"LOCK TABLE event_store.saga_definitions IN SHARE ROW EXCLUSIVE MODE"};
	static KeptPlan plan = {"INSERT INTO event_store.saga_definitions"
							" (saga_name, version, definition, handler_owner)"
							" VALUES ($1, $2, $3, $4)",
							4,
							{TEXTOID, INT4OID, JSONBOID, TEXTOID}};
	Datum values[4] = {name, (Datum) 0, JsonbPGetDatum(definition)};
	char nulls[4] = {' ', ' ', ' ', handler_owner == NULL ? 'n' : ' '};
	StoredDefinition newest;

	es_execute(&lock, NULL, NULL, false, SPI_OK_UTILITY);
	newest = find_definition(name, 0, CurrentMemoryContext);
	if (newest.version != 0 && same_owner(newest.handler_owner, handler_owner) &&
		compareJsonbContainers(&newest.definition->root, &definition->root) == 0)
		return newest.version;
	values[1] = Int32GetDatum(newest.version + 1);
	if (handler_owner != NULL)
		values[3] = CStringGetTextDatum(handler_owner);
	(void) es_execute_latest(&plan, values, nulls);
	return newest.version + 1;
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
	char *handler_owner;
	OwnerScope scope;
	int version;

	es_begin_call(ES_CALL_DEFINE_SAGA);
	name = es_saga_name_argument(fcinfo);
	if (PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("definition must not be null")));
	definition = PG_GETARG_JSONB_P(1);
	es_begin_consuming("define_saga()");
	handler_owner = es_check_step_handlers(es_saga_definition(definition, 0));
	es_consume_durably();
	es_begin(&scope);
	version = store_definition(name, definition, handler_owner);
	es_end(&scope);
	es_end_call(ES_CALL_DEFINE_SAGA, 0);
	PG_RETURN_INT32(version);
}
