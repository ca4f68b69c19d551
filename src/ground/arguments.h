/*
 * arguments.h
 *		Checking what callers give.
 */
#ifndef ES_ARGUMENTS_H
#define ES_ARGUMENTS_H

#include "datatype/timestamp.h"
#include "fmgr.h"

/*
 * All report the argument by name: 22004 for NULL, 22023 for empty, 22001 for
 * too long.  "where" is NULL or " of event 3", appended to the name.
 */
extern text *es_required_text(FunctionCallInfo fcinfo, int argno,
							  const char *name);
extern void es_check_name(Datum value, bool isnull, const char *name,
						  const char *where, bool required);
/* A number that is not negative; "otherwise" for NULL. */
extern int64 es_number_argument(FunctionCallInfo fcinfo, int argno,
								const char *name, int64 otherwise);
/* One from "least" to "most", which must be there. */
extern int es_bounded_argument(FunctionCallInfo fcinfo, int argno,
							   const char *name, int least, int most);
extern int64 es_limit_argument(FunctionCallInfo fcinfo, int argno,
							   const char *name);
extern void es_check_timeout(const Interval *timeout, const char *name,
							 int64 *milliseconds);
/*
 * A one-dimensional array argument without NULL elements where "nullable" is
 * false, its length equal to *count (or setting *count when that is -1).
 */
extern void es_array_argument(FunctionCallInfo fcinfo, int argno,
							  const char *name, bool nullable, int *count,
							  Datum **values, bool **nulls);
/*
 * Part of an ereport about JSON that must be an array or an object: the hint for a
 * JSON string, which is what an encoder makes of JSON text.
 */
extern int es_hint_encoded_twice(bool is_string);

#endif /* ES_ARGUMENTS_H */
