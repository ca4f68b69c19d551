/*
 * repair.c
 *		repair_table(), by which create_store() adds to a table what it lacks.
 *
 * A superuser repairs a store that belongs to somebody else.  ALTER TABLE runs what its
 * owner may have put there, with the rights of whoever calls it: casts of a column's type in a
 * CHECK that is added, and what is constant in his own constraints, when PostgreSQL
 * looks whether these say already that a column is not NULL.  So it is the owner
 * who alters it, as a security-restricted operation.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(es_repair_table);

static Oid
owner_of(Oid relation)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	Oid owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("relation with OID %u does not exist", relation)));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * repair_table(damaged, statement): runs a statement as the owner of a table, whose
 * rights the caller must have.
 */
Datum
es_repair_table(PG_FUNCTION_ARGS)
{
	Oid damaged = PG_GETARG_OID(0);
	char *statement = text_to_cstring(PG_GETARG_TEXT_PP(1));
	Oid owner = owner_of(damaged);
	int settings = NewGUCNestLevel();
	Oid user;
	int security;

	GetUserIdAndSecContext(&user, &security);
	if (!has_privs_of_role(user, owner))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(damaged));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	SetUserIdAndSecContext(owner, security | SECURITY_LOCAL_USERID_CHANGE |
									  (user != owner ? SECURITY_RESTRICTED_OPERATION
													 : 0));
	if (SPI_execute(statement, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "\"%s\" is no utility statement", statement);
	SetUserIdAndSecContext(user, security);
	AtEOXact_GUC(false, settings);
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
	PG_RETURN_VOID();
}
