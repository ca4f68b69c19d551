/*
 * view_definition.c
 *		How a view is declared: by a key and rules, or as the states of aggregates.
 */
#include "postgres.h"

#include "fmgr.h"
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
es_declare_view(Datum name, Datum key, Datum rules, int type_count,
				ViewDefinition *definition)
{
	bool of_aggregate;

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
