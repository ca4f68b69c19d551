/*
 * named_function.c
 *		Functions of users that are kept by name: reducers and upcasters.
 *
 * A function may be dropped and made again, so it is looked up by its name whenever it
 * is used, and its owner is remembered by name: whoever makes a function of that name
 * later has not been asked for.
 *
 * A registered one runs as its owner, and what it gives must not depend on who asks,
 * nor may it run his code: so its search_path is pinned.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "ground/compat.h"
#include "ground/pair_table.h"
#include "replay/named_function.h"

/* What a registered function finds unless it sets a search_path itself. */
#define FUNCTION_SEARCH_PATH "pg_catalog, pg_temp"

char *
es_qualified_name(Oid function)
{
	char *schema = get_namespace_name(get_func_namespace(function));
	char *name = get_func_name(function);

	if (schema == NULL || name == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
						errmsg("function with OID %u does not exist", function)));
	return quote_qualified_identifier(schema, name);
}

Oid
es_function_named(Datum name, const Oid *arguments, int count)
{
	List *parts = textToQualifiedNameList(DatumGetTextPP(name));
	Oid schema = InvalidOid;

	if (list_length(parts) == 2)
		schema = get_namespace_oid(strVal(linitial(parts)), true);
	if (!OidIsValid(schema))
		return InvalidOid;
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
						   CStringGetDatum(strVal(lsecond(parts))),
						   PointerGetDatum(buildoidvector(arguments, count)),
						   ObjectIdGetDatum(schema));
}

Oid
es_function_owner(Oid function)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	return owner;
}

bool
es_is_role_named(Oid role, Datum name)
{
	char *now = GetUserNameFromId(role, true);

	return name == (Datum) 0 ||
		   (now != NULL && es_same_text(CStringGetTextDatum(now), name));
}

Datum
es_register_function(Oid function, const char *as)
{
	char *name = es_qualified_name(function);

	if (isAnyTempNamespace(get_func_namespace(function)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("function %s is temporary and cannot be registered as %s",
						name, as)));
	if (!object_ownercheck(ProcedureRelationId, function, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_FUNCTION, name);
	return CStringGetTextDatum(name);
}

Datum
es_call_as(FunctionCallInfo call, Oid role, int security, bool registered)
{
	Oid user;
	int context;
	int settings = 0;
	Datum result;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(role, security);
	if (registered)
	{
		settings = NewGUCNestLevel();
		(void) set_config_option("search_path", FUNCTION_SEARCH_PATH, PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	}
	result = FunctionCallInvoke(call);
	if (registered)
		AtEOXact_GUC(false, settings);
	SetUserIdAndSecContext(user, context);
	return result;
}
