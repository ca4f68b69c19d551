/*
 * attached.c
 *		What an owner attaches to the tables of the store: triggers, constraints,
 *		rules, policies, columns and indexes of his own, and subscriptions.
 *
 * Nothing here opens a relation: that would wait for whoever alters it, and who
 * only asks how things stand must not wait.  So all is read from the catalogs, by an
 * index on the relation's OID.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup.h"
#include "access/htup_details.h"
#include "access/skey.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/tupdesc.h"
#include "catalog/pg_am.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_index.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_trigger.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/nodes.h"
#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"
#include "nodes/primnodes.h"
#include "storage/lockdefs.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "ground/attached.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/compat.h"
#include "ground/event.h"

bool
es_is_subscribed(Oid relation)
{
	CatCList *subscriptions =
		SearchSysCacheList1(SUBSCRIPTIONRELMAP, ObjectIdGetDatum(relation));
	bool subscribed = subscriptions->n_members > 0;

	ReleaseSysCacheList(subscriptions);
	return subscribed;
}

/*
 * Calls "look" for each row of a catalog that speaks of a relation, until it
 * returns false; returns whether it never did.
 */
static bool
look_at_all(Oid catalog, Oid index, AttrNumber column, Oid relation,
			bool (*look)(HeapTuple tuple, TupleDesc desc, void *arg), void *arg)
{
	Relation rel = table_open(catalog, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;
	bool all = true;

	ScanKeyInit(&key, column, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relation));
	scan = systable_beginscan(rel, index, true, NULL, 1, &key);
	while (all && HeapTupleIsValid(tuple = systable_getnext(scan)))
		all = look(tuple, RelationGetDescr(rel), arg);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return all;
}

/* Whether the columns are ours alone, of core types, and so are the defaults. */
static bool
has_plain_columns(Oid relation, int columns, uint32 defaults)
{
	CatCList *list = SearchSysCacheList1(ATTNUM, ObjectIdGetDatum(relation));
	bool plain = true;

	for (int i = 0; i < list->n_members; i++)
	{
		Form_pg_attribute column =
			(Form_pg_attribute) GETSTRUCT(&list->members[i]->tuple);

		if (column->attnum < 1 || column->attisdropped)
			continue;
		columns--;
		if (column->atttypid >= FirstNormalObjectId ||
			(column->atthasdef && (column->attnum > 32 ||
								   !(defaults & (1u << (column->attnum - 1))))))
			plain = false;
	}
	ReleaseSysCacheList(list);
	return plain && columns == 0;
}

/* Whether an index computes nothing: no expressions, and at most IS NOT NULL. */
static bool
is_plain_index(HeapTuple tuple, TupleDesc desc, void *arg)
{
	bool none;
	Datum predicate;
	ListCell *cell;

	(void) heap_getattr(tuple, Anum_pg_index_indexprs, desc, &none);
	if (!none)
		return false;
	predicate = heap_getattr(tuple, Anum_pg_index_indpred, desc, &none);
	if (none)
		return true;
	foreach (cell,
			 make_ands_implicit(stringToNode(TextDatumGetCString(predicate))))
	{
		NullTest *test = lfirst(cell);

		if (!IsA(test, NullTest) || !IsA(test->arg, Var))
			return false;
	}
	return true;
}

/*
 * Whether a trigger is one of those that keep the log append-only.  Their owner can give
 * another one that name: on another table, or for what we do ourselves, it is his code.
 */
static bool
is_guard(HeapTuple tuple, TupleDesc desc, void *arg)
{
	Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);
	const char *name = NameStr(trigger->tgname);
	const char *table = get_rel_name(trigger->tgrelid);

	return table != NULL && strcmp(table, "domain_events") == 0 &&
		   !TRIGGER_FOR_INSERT(trigger->tgtype) &&
		   (strcmp(name, "domain_events_append_only") == 0 ||
			strcmp(name, "domain_events_append_only_row") == 0);
}

/* Whether an expression has anything that our CHECK constraints do not need. */
static bool
is_foreign_to_checks(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_List:
		case T_Var:
		case T_Const:
		case T_NullTest:
			break;
		case T_OpExpr:
		{
			Oid function = get_opcode(((OpExpr *) node)->opno);

			if (function != F_INT84GT && function != F_BOOLNE)
				return true;
			break;
		}
		default:
			return true;
	}
	return expression_tree_walker(node, is_foreign_to_checks, context);
}

/* Whether a constraint is no CHECK, or runs no code but such as ours need. */
static bool
is_plain_check(HeapTuple tuple, TupleDesc desc, void *arg)
{
	bool none;
	Datum expression;

	if (((Form_pg_constraint) GETSTRUCT(tuple))->contype != CONSTRAINT_CHECK)
		return true;
	expression = heap_getattr(tuple, Anum_pg_constraint_conbin, desc, &none);
	return !none &&
		   !is_foreign_to_checks(stringToNode(TextDatumGetCString(expression)),
								 NULL);
}

/*
 * Whether a table has neither rules nor row security, nor children, which have triggers of
 * their own.
 */
static bool
is_plain_table(Oid relation)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	bool plain;

	if (!HeapTupleIsValid(tuple))
		return false;
	plain = !((Form_pg_class) GETSTRUCT(tuple))->relhasrules &&
			!((Form_pg_class) GETSTRUCT(tuple))->relrowsecurity &&
			!((Form_pg_class) GETSTRUCT(tuple))->relhassubclass;
	ReleaseSysCache(tuple);
	return plain;
}

bool
es_is_plain(Oid relation, int columns, uint32 defaults)
{
	return is_plain_table(relation) &&
		   has_plain_columns(relation, columns, defaults) &&
		   look_at_all(TriggerRelationId, TriggerRelidNameIndexId,
					   Anum_pg_trigger_tgrelid, relation, is_guard, NULL) &&
		   look_at_all(ConstraintRelationId, ConstraintRelidTypidNameIndexId,
					   Anum_pg_constraint_conrelid, relation, is_plain_check,
					   NULL) &&
		   look_at_all(IndexRelationId, IndexIndrelidIndexId,
					   Anum_pg_index_indrelid, relation, is_plain_index, NULL);
}

bool
es_takes_rows_directly(Oid relation, Oid schema, Oid owner)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	Form_pg_class class;
	bool direct;

	if (!HeapTupleIsValid(tuple))
		return false;
	class = (Form_pg_class) GETSTRUCT(tuple);
	direct = class->relkind == RELKIND_RELATION && !class->relispartition &&
			 class->relam == HEAP_TABLE_AM_OID;
	ReleaseSysCache(tuple);
	return direct &&
		   pg_class_aclcheck(relation, owner, ACL_INSERT) == ACLCHECK_OK &&
		   object_aclcheck(NamespaceRelationId, schema, owner, ACL_USAGE) ==
			   ACLCHECK_OK;
}

/*
 * Adds the constraint of a trigger that an INSERT may leave to the end of the
 * transaction; its name may be another than the trigger's.  Of those that keep a
 * key, these have their constraint on this very table.
 */
static bool
list_if_deferrable(HeapTuple tuple, TupleDesc desc, void *arg)
{
	Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);
	StringInfo list = arg;
	char *name;

	if (!trigger->tgdeferrable ||
		(trigger->tgisinternal && trigger->tgfoid != F_UNIQUE_KEY_RECHECK &&
		 trigger->tgfoid != F_RI_FKEY_CHECK_INS))
		return true;
	name = get_constraint_name(trigger->tgconstraint);
	if (name != NULL)
		appendStringInfo(list, "%s" ES_SCHEMA ".%s", list->len > 0 ? ", " : "",
						 quote_identifier(name));
	return true;
}

void
es_list_deferrable(Oid relation, StringInfo list)
{
	(void) look_at_all(TriggerRelationId, TriggerRelidNameIndexId,
					   Anum_pg_trigger_tgrelid, relation, list_if_deferrable,
					   list);
}

bool
es_has_policies_for_owner(Oid relation)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	bool has;

	if (!HeapTupleIsValid(tuple))
		return false;
	has = ((Form_pg_class) GETSTRUCT(tuple))->relrowsecurity &&
		  ((Form_pg_class) GETSTRUCT(tuple))->relforcerowsecurity;
	ReleaseSysCache(tuple);
	return has;
}

bool
es_has_children(Oid relation)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	bool has;

	if (!HeapTupleIsValid(tuple))
		return false;
	has = ((Form_pg_class) GETSTRUCT(tuple))->relhassubclass;
	ReleaseSysCache(tuple);
	return has;
}

static bool
is_btree(Oid index)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(index));
	bool btree = HeapTupleIsValid(tuple) &&
				 ((Form_pg_class) GETSTRUCT(tuple))->relam == BTREE_AM_OID;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return btree;
}

/* Notes an index that lists the rows of each value of a column by their position. */
static bool
note_optional_index(HeapTuple tuple, TupleDesc desc, void *arg)
{
	Form_pg_index form = (Form_pg_index) GETSTRUCT(tuple);
	Store *s = arg;
	bool none;
	Datum collations =
		heap_getattr(tuple, Anum_pg_index_indcollation, desc, &none);

	(void) heap_getattr(tuple, Anum_pg_index_indpred, desc, &none);
	if (!none || !form->indisvalid || form->indnkeyatts < 2 ||
		form->indkey.values[1] != EV_GLOBAL_POSITION + 1 ||
		((oidvector *) DatumGetPointer(collations))->values[0] != C_COLLATION_OID ||
		!is_btree(form->indexrelid))
		return true;
	if (form->indkey.values[0] == EV_AGGREGATE_TYPE + 1)
		s->by_aggregate_type = true;
	if (form->indkey.values[0] == EV_EVENT_TYPE + 1)
		s->by_event_type = true;
	return true;
}

void
es_find_optional_indexes(Store *s)
{
	(void) look_at_all(IndexRelationId, IndexIndrelidIndexId,
					   Anum_pg_index_indrelid, s->events, note_optional_index, s);
}
