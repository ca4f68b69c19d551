/*
 * named_function.h
 *		Functions of users that are kept by name.
 */
#ifndef ES_NAMED_FUNCTION_H
#define ES_NAMED_FUNCTION_H

#include "fmgr.h"

/* The name of a function with its schema; 42883 where there is none. */
extern char *es_qualified_name(Oid function);
/* The function that a name stands for now; InvalidOid if there is none. */
extern Oid es_function_named(Datum name, const Oid *arguments, int count);
extern Oid es_function_owner(Oid function);
/* Whether a role has this name; also where no name was kept, which is (Datum) 0. */
extern bool es_is_role_named(Oid role, Datum name);
/*
 * The name under which a function is registered as a reducer, say, by its owner;
 * 22023 for a temporary one, 42501 for somebody else's.
 */
extern Datum es_register_function(Oid function, const char *as);
/*
 * Calls a function as a role, in a security context; with a pinned search_path where
 * it is a registered one.
 */
extern Datum es_call_as(FunctionCallInfo call, Oid role, int security,
						bool registered);

#endif /* ES_NAMED_FUNCTION_H */
