/*
 * attached.h
 *		What an owner attaches to the tables of the store.
 */
#ifndef ES_ATTACHED_H
#define ES_ATTACHED_H

#include "lib/stringinfo.h"

#include "ground/catalog.h"

/*
 * Whether writing to a table, and to domain_events inserting alone, runs nothing but what
 * create_store() put there: no triggers but the guard of the log, no rules, no children,
 * no columns or defaults beyond our own, no CHECK constraints that are of
 * another kind, no indexes that compute something.  "defaults" has a bit for
 * each column that has one.
 */
extern bool es_is_plain(Oid relation, int columns, uint32 defaults);
/*
 * Whether a plain table gets by a mere insertion into heap and indexes all that an
 * INSERT of its owner would do to it: it is an ordinary heap and no partition, and the
 * owner may INSERT into it and use its schema.
 */
extern bool es_takes_rows_directly(Oid relation, Oid schema, Oid owner);
/* Adds the constraints that an INSERT may leave to the end of the transaction. */
extern void es_list_deferrable(Oid relation, StringInfo list);
/* Whether policies of row security hold for the owner of a table, too. */
extern bool es_has_policies_for_owner(Oid relation);
/* Whether a table has child tables: making a plan may compute what their constraints hold. */
extern bool es_has_children(Oid relation);
/* Whether a subscription of logical replication writes to a table. */
extern bool es_is_subscribed(Oid relation);
/* Looks for the optional indexes of domain_events, whatever their names. */
extern void es_find_optional_indexes(Store *s);

#endif /* ES_ATTACHED_H */
