/*
 * view_definition.h
 *		How a view is declared.
 */
#ifndef ES_VIEW_DEFINITION_H
#define ES_VIEW_DEFINITION_H

#include "replay/view_fold.h"

/*
 * How a view is made by a key and rules, both jsonb or (Datum) 0, of the events of these
 * types, in the current memory context.  Reports what is wrong as 22023, and 55000 where there
 * are no types.  Outside of an owner's scope.
 */
extern void es_define_view(Datum name, Datum key, Datum rules,
						   const Datum *aggregate_types, int type_count,
						   ViewDefinition *definition);
/* The same, but that the reducer of a view without rules is not looked up. */
extern void es_declare_view(Datum name, Datum key, Datum rules, int type_count,
							ViewDefinition *definition);
/* Takes the types apart that a row has: none where it has NULL. */
extern void es_stored_view_types(Datum array, Datum **types, int *count);
/* Looks the reducer up of a view that has no rules, or looks it up anew. */
extern void es_renew_reducer(ViewDefinition *definition, Datum aggregate_type);

#endif /* ES_VIEW_DEFINITION_H */
