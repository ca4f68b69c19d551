/*
 * kept_error.c
 *		Errors that are kept to be looked at later, and who sees how much of them.
 *
 * The status views are for those too who may see nothing of what events and views hold.
 * But a message may quote it: a value that a reducer could not cast, a row that a trigger
 * refused.  Who may not read the log sees the SQLSTATE alone.
 *
 * In shared memory that stands before each message.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/elog.h"
#include "utils/lsyscache.h"

#include "ground/common.h"
#include "ground/kept_error.h"

#define CODE_CHARS 5
#define PREFIX_CHARS (CODE_CHARS + 2)

/* What is shown in the place of an error without a code. */
#define HIDDEN "hidden"

char *
es_kept_error(int sqlstate, const char *message)
{
	return psprintf("%s: %s", unpack_sql_state(sqlstate),
					message == NULL ? "" : message);
}

const char *
es_kept_message(const char *kept)
{
	return kept[0] == '\0' ? kept : kept + PREFIX_CHARS;
}

/* Also where the store is of another version, or not whole. */
bool
es_may_read_events(Oid role)
{
	Oid schema = get_namespace_oid(ES_SCHEMA, true);
	Oid events = OidIsValid(schema) ? get_relname_relid("domain_events", schema)
									: InvalidOid;

	if (!OidIsValid(events))
		return superuser_arg(role);
	return pg_class_aclcheck(events, role, ACL_SELECT) == ACLCHECK_OK;
}

static bool
begins_with_code(const char *error)
{
	return strspn(error, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == CODE_CHARS &&
		   error[CODE_CHARS] == ':';
}

Datum
es_shown_kept_error(const char *kept, Oid role)
{
	if (kept[0] == '\0')
		return (Datum) 0;
	if (es_may_read_events(role))
		return CStringGetTextDatum(es_kept_message(kept));
	return PointerGetDatum(cstring_to_text_with_len(kept,
													strnlen(kept, CODE_CHARS)));
}

Datum
es_shown_error(Datum error, Oid role)
{
	char *whole;

	if (es_may_read_events(role))
		return error;
	whole = TextDatumGetCString(error);
	return begins_with_code(whole)
			   ? PointerGetDatum(cstring_to_text_with_len(whole, CODE_CHARS))
			   : CStringGetTextDatum(HIDDEN);
}
