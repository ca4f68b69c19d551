/*
 * arguments.c
 *		Checks of single arguments: names, timeouts and arrays.
 *
 * The SQL functions are not STRICT, because a NULL in the wrong place must be
 * reported by its name rather than answered with NULL.  So every verb passes
 * its arguments through here before it looks at the store, and all of them
 * refuse the same mistake with the same SQLSTATE and wording: 22004 for NULL,
 * 22001 for too long, 22023 for any other bad value.
 *
 * Lengths are limits on characters.  Characters are counted only when the
 * bytes alone do not settle the question, which for real names is never.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/lsyscache.h"

#include "ground/arguments.h"
#include "ground/common.h"
#include "ground/compat.h"

/*
 * Checks a type, id or key: not NULL and not empty if "required", and never
 * longer than ES_MAX_NAME_CHARS.  The value must not be toasted.
 */
void
es_check_name(Datum value, bool isnull, const char *name, const char *where,
			  bool required)
{
	text *given;
	int bytes;

	if (where == NULL)
		where = "";
	if (isnull)
	{
		if (!required)
			return;
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("%s%s must not be null", name, where)));
	}

	given = (text *) DatumGetPointer(value);
	bytes = VARSIZE_ANY_EXHDR(given);
	if (bytes == 0 && required)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s%s must not be empty", name, where)));
	if (bytes > ES_MAX_NAME_CHARS &&
		pg_mbstrlen_with_len(VARDATA_ANY(given), bytes) > ES_MAX_NAME_CHARS)
		ereport(ERROR, (errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
						errmsg("%s%s is longer than %d characters", name, where,
							   ES_MAX_NAME_CHARS)));
}

/* Returns a required type, id or key, detoasted. */
text *
es_required_text(FunctionCallInfo fcinfo, int argno, const char *name)
{
	text *value = NULL;

	if (!PG_ARGISNULL(argno))
		value = PG_GETARG_TEXT_PP(argno);
	es_check_name(PointerGetDatum(value), value == NULL, name, NULL, true);
	return value;
}

/*
 * Converts a timeout to milliseconds, rounded up so that a positive one never
 * becomes zero.  Days and months count by their usual length, as in interval
 * comparison; infinite intervals have the largest fields of all and fall out
 * of the range like any other.
 */
void
es_check_timeout(const Interval *timeout, const char *name, int64 *milliseconds)
{
	/* a double is exact far beyond the longest timeout allowed */
	double microseconds =
		(double) timeout->time +
		((double) timeout->month * DAYS_PER_MONTH + timeout->day) *
			(double) USECS_PER_DAY;

	if (microseconds < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must not be negative", name)));
	if (microseconds > (double) ES_MAX_TIMEOUT_MS * 1000)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must not be longer than %d minutes", name,
							   ES_MAX_TIMEOUT_MS / 60000),
						errhint("Give a unit, as in '5s'.")));
	*milliseconds = ((int64) microseconds + 999) / 1000;
}

/*
 * Takes an array argument apart.  The elements point into the array, which
 * lives as long as the call.  "nulls" may be NULL where "nullable" is false.
 */
void
es_array_argument(FunctionCallInfo fcinfo, int argno, const char *name,
				  bool nullable, int *count, Datum **values, bool **nulls)
{
	ArrayType *array;
	bool *isnull;
	int length;
	int16 typlen;
	bool typbyval;
	char typalign;

	if (PG_ARGISNULL(argno))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("%s must not be null", name)));

	array = PG_GETARG_ARRAYTYPE_P(argno);
	if (ARR_NDIM(array) > 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must have one dimension, not %d", name,
							   ARR_NDIM(array))));

	get_typlenbyvalalign(ARR_ELEMTYPE(array), &typlen, &typbyval, &typalign);
	deconstruct_array(array, ARR_ELEMTYPE(array), typlen, typbyval, typalign,
					  values, &isnull, &length);

	if (*count >= 0 && length != *count)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("arrays must have the same length"),
				 errdetail("%s has length %d, the arrays before it have length %d.",
						   name, length, *count)));
	if (!nullable && ARR_HASNULL(array))
	{
		for (int i = 0; i < length; i++)
		{
			if (isnull[i])
				ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
								errmsg("%s[%d] must not be null", name, i + 1)));
		}
	}

	*count = length;
	if (nulls != NULL)
		*nulls = isnull;
	else
		pfree(isnull);
}

int64
es_number_argument(FunctionCallInfo fcinfo, int argno, const char *name,
				   int64 otherwise)
{
	if (PG_ARGISNULL(argno))
		return otherwise;
	if (PG_GETARG_INT64(argno) < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must not be negative", name)));
	return PG_GETARG_INT64(argno);
}

int
es_bounded_argument(FunctionCallInfo fcinfo, int argno, const char *name,
					int least, int most)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("%s must not be null", name)));
	if (PG_GETARG_INT32(argno) < least || PG_GETARG_INT32(argno) > most)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must be from %d to %d", name, least, most)));
	return PG_GETARG_INT32(argno);
}

/* The most that a call gives or takes in; NULL = no limit. */
int64
es_limit_argument(FunctionCallInfo fcinfo, int argno, const char *name)
{
	if (PG_ARGISNULL(argno))
		return PG_INT64_MAX;
	if (PG_GETARG_INT32(argno) < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must not be negative", name)));
	return PG_GETARG_INT32(argno);
}

int
es_hint_encoded_twice(bool is_string)
{
	if (!is_string)
		return 0;
	return errhint("It is a JSON string, as comes of JSON text that is encoded once more: "
				   "give the driver the array or object itself, or cast the parameter to text and that to jsonb.");
}
