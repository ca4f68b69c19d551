/*
 * view_definition.c
 *		How a view is declared: by a key and rules, or as the states of aggregates.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "ground/catalog.h"
#include "replay/reducer.h"
#include "replay/row_key.h"
#include "replay/rules.h"
#include "replay/view_definition.h"
#include "replay/view_fold.h"

void
es_renew_reducer(ViewDefinition *definition, Datum aggregate_type)
{
	MemoryContext context = CurrentMemoryContext;
	OwnerScope scope;

	es_begin(&scope);
	definition->reducer =
		es_registered_reducer(DatumGetTextPP(aggregate_type), &scope, context);
	es_end(&scope);
}

void
es_stored_view_types(Datum array, Datum **types, int *count)
{
	*types = NULL;
	*count = 0;
	if (array != (Datum) 0)
		deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false,
						  TYPALIGN_INT, types, NULL, count);
}

void
es_declare_view(Datum name, Datum key, Datum rules, int type_count,
				ViewDefinition *definition)
{
	bool of_aggregate;

	/* the owner of the table can have taken them away */
	if (type_count < 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" has no aggregate types, which a view needs",
						TextDatumGetCString(name)),
				 errhint("Drop it and make it again.")));
	memset(definition, 0, sizeof(*definition));
	definition->name = name;
	definition->key =
		es_row_key_parse(key == (Datum) 0 ? NULL : DatumGetJsonbP(key));
	definition->key->several_types = type_count > 1;
	of_aggregate = es_row_key_is_aggregate(definition->key) && type_count == 1;
	definition->by_sequence = of_aggregate;
	if (rules != (Datum) 0)
		definition->rules =
			es_rules_parse(DatumGetJsonbP(rules), definition->key->has_item);
	else if (!of_aggregate)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("rules must be given for a view with a key, or of several aggregate types"),
				 errhint("Without rules a row is an aggregate's state, as the reducer of its type makes it.")));
}

void
es_define_view(Datum name, Datum key, Datum rules, const Datum *aggregate_types,
			   int type_count, ViewDefinition *definition)
{
	es_declare_view(name, key, rules, type_count, definition);
	if (definition->rules == NULL)
		es_renew_reducer(definition, aggregate_types[0]);
}
