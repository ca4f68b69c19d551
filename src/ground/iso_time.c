/*
 * iso_time.c
 *		Times as ISO 8601 writes them.
 *
 * A time in a JSON list comes from a program, and must mean the same in every
 * session.  timestamptz's own input fills in the session's TimeZone, orders
 * days and months by DateStyle and knows words such as "now"; so this reads the
 * one form that needs none of these:
 *
 *		YYYY-MM-DD T HH:MM [:SS [.fraction]] Z or +HH, +HHMM, +HH:MM
 *
 * T and Z may be small, and T may be a space, as RFC 3339 allows.  What the
 * numbers mean is what they mean to timestamptz: 24:00:00 is the start of the
 * next day, a second 60 the start of the next minute, and a fraction is rounded
 * to microseconds.
 */
#include "postgres.h"

#include <math.h>

#include "datatype/timestamp.h"
#include "pgtime.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "ground/iso_time.h"

/* The longest offset that PostgreSQL takes, in hours. */
#define MAX_OFFSET_HOURS 15

/* What is still to be read. */
typedef struct Rest
{
	const char *next;
	const char *end;
} Rest;

/* Reads exactly "digits" digits as a number from "low" to "high". */
static bool
read_number(Rest *rest, int digits, int low, int high, int *number)
{
	*number = 0;
	if (rest->end - rest->next < digits)
		return false;
	for (int i = 0; i < digits; i++)
	{
		char c = *rest->next++;

		if (c < '0' || c > '9')
			return false;
		*number = *number * 10 + (c - '0');
	}
	return *number >= low && *number <= high;
}

/* Reads one character if it is among those given. */
static bool
read_one_of(Rest *rest, const char *characters)
{
	if (rest->next == rest->end || *rest->next == '\0' ||
		strchr(characters, *rest->next) == NULL)
		return false;
	rest->next++;
	return true;
}

static bool
read_date(Rest *rest, struct pg_tm *tm)
{
	return read_number(rest, 4, 1, 9999, &tm->tm_year) && read_one_of(rest, "-") &&
		   read_number(rest, 2, 1, MONTHS_PER_YEAR, &tm->tm_mon) &&
		   read_one_of(rest, "-") &&
		   read_number(rest, 2, 1, day_tab[isleap(tm->tm_year)][tm->tm_mon - 1],
					   &tm->tm_mday);
}

/* Reads the digits after the point, at least one, as microseconds. */
static bool
read_fraction(Rest *rest, fsec_t *fraction)
{
	double value = 0;
	double unit = USECS_PER_SEC;
	const char *first = rest->next;

	while (rest->next < rest->end && *rest->next >= '0' && *rest->next <= '9')
	{
		unit /= 10;
		value += unit * (*rest->next++ - '0');
	}
	*fraction = (fsec_t) rint(value);
	return rest->next > first;
}

static bool
read_time(Rest *rest, struct pg_tm *tm, fsec_t *fraction)
{
	*fraction = 0;
	tm->tm_sec = 0;
	if (!read_number(rest, 2, 0, HOURS_PER_DAY, &tm->tm_hour) ||
		!read_one_of(rest, ":") ||
		!read_number(rest, 2, 0, MINS_PER_HOUR - 1, &tm->tm_min))
		return false;
	if (read_one_of(rest, ":") &&
		(!read_number(rest, 2, 0, SECS_PER_MINUTE, &tm->tm_sec) ||
		 (read_one_of(rest, ".") && !read_fraction(rest, fraction))))
		return false;
	return !time_overflows(tm->tm_hour, tm->tm_min, tm->tm_sec, *fraction);
}

/* Reads Z or an offset, as seconds west of Greenwich. */
static bool
read_offset(Rest *rest, int *west)
{
	bool east = rest->next < rest->end && *rest->next == '+';
	int hours;
	int minutes = 0;

	*west = 0;
	if (read_one_of(rest, "Zz"))
		return true;
	if (!read_one_of(rest, "+-") ||
		!read_number(rest, 2, 0, MAX_OFFSET_HOURS, &hours))
		return false;
	if (rest->next < rest->end)
	{
		(void) read_one_of(rest, ":");
		if (!read_number(rest, 2, 0, MINS_PER_HOUR - 1, &minutes))
			return false;
	}
	*west = (hours * MINS_PER_HOUR + minutes) * SECS_PER_MINUTE;
	if (east)
		*west = -*west;
	return true;
}

bool
es_read_iso_time(const char *text, int length, TimestampTz *result)
{
	Rest rest = {text, text + length};
	struct pg_tm tm = {0};
	fsec_t fraction;
	int west;

	return read_date(&rest, &tm) && read_one_of(&rest, "Tt ") &&
		   read_time(&rest, &tm, &fraction) && read_offset(&rest, &west) &&
		   rest.next == rest.end &&
		   tm2timestamp(&tm, fraction, &west, result) == 0;
}
