/*
 * upgrade.c
 *		What an upgrade script cannot say in SQL.
 *
 * PostgreSQL takes every GRANT and REVOKE of an extension's script for the
 * extension's own, together with all that the object grants by then, and
 * pg_dump leaves out what is the extension's own.  The grants that an operator
 * made must stay the operator's when an upgrade carries them over from one
 * function to the next.
 */
#include "postgres.h"

#include "commands/extension.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(es_outside_script);

/*
 * outside_script(statement, run_as): runs a statement as if it stood before or after
 * the script, as this role, if one is named.  It exists while an upgrade script runs.
 */
Datum
es_outside_script(PG_FUNCTION_ARGS)
{
	char *statement = text_to_cstring(PG_GETARG_TEXT_PP(0));
	bool in_script = creating_extension;
	Oid user;
	int security;

	GetUserIdAndSecContext(&user, &security);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	creating_extension = false;
	if (PG_NARGS() > 1)
		SetUserIdAndSecContext(PG_GETARG_OID(1),
							   security | SECURITY_LOCAL_USERID_CHANGE);
	PG_TRY();
	{
		int result = SPI_execute(statement, false, 0);

		if (result != SPI_OK_UTILITY)
			elog(ERROR, "\"%s\" returned %s", statement,
				 SPI_result_code_string(result));
	}
	PG_FINALLY();
	{
		creating_extension = in_script;
	}
	PG_END_TRY();
	SetUserIdAndSecContext(user, security);
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
	PG_RETURN_VOID();
}
