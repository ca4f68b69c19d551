/*
 * upcaster.c
 *		What makes events of one version those of the next: which upcasters there are.
 *
 * An upcaster makes of an event of one version one of the next, by a function or by
 * rules.  It belongs to an event type and a version of it, for all aggregate types or
 * for one, and one for the aggregate type goes before a general one.  Events go from
 * upcaster to upcaster until their version has none.  So an event that was upcast is
 * upcast no further, and whoever is not sure upcasts again.
 *
 * Each backend knows all upcasters until table upcasters is invalidated.  Where there
 * are none that is a test of two variables, on a standby, too.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/parallel.h"
#include "access/table.h"
#include "access/tupmacs.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/lockdefs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/uuid.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/compat.h"
#include "ground/event.h"
#include "ground/pair_table.h"
#include "replay/json_value.h"
#include "replay/named_function.h"
#include "replay/rules.h"
#include "replay/saga_event.h"
#include "replay/state.h"
#include "replay/upcast_failure.h"
#include "replay/upcaster.h"

/* Those of one event type, in the order of versions, the general ones last. */
typedef struct TypeUpcasters
{
	MemberName name; /* the event type */
	int count;
	int room;
	Upcaster *upcasters;
	char status; /* of the hash table */
} TypeUpcasters;

#define NAME_TABLE upcasters
#define NAME_TABLE_ENTRY TypeUpcasters
#include "replay/name_table.h"

/* All there are, and whether they are known; NULL = there are none. */
static MemoryContext kept_context = NULL;
static struct upcasters_hash *kept = NULL;
static const TypeUpcasters *last_found = NULL;
static uint64 marks = 0;	/* of the types that have any: see mark_of */
static bool of_all = false; /* whether one is for all aggregate types */
static bool known = false;
static uint64 heard = 0;
static Oid table_of_upcasters = InvalidOid;

/*
 * One of 64 marks that a type may have.  Most events have a type without upcasters, and
 * of these most have a mark that no type with any has.
 */
static inline uint64
mark_of(const char *name, int size)
{
	uint32 sum = size;

	if (size > 0)
		sum += 31 * (unsigned char) name[0] + 7 * (unsigned char) name[size - 1];
	return UINT64CONST(1) << (sum % 64);
}

/* ---------- which there are ---------- */

static void
table_changed(Datum arg, Oid relid)
{
	if (relid != InvalidOid && relid != table_of_upcasters)
		return;
	known = false;
	heard++;
}

/* A function was made, dropped or altered: it may be one of them. */
static void
function_changed(Datum arg, SysCacheIdentifier cache, uint32 hash)
{
	if (kept == NULL)
		return;
	known = false;
	heard++;
}

static void
listen_for_changes(void)
{
	static bool listening = false;

	if (!listening)
	{
		CacheRegisterRelcacheCallback(table_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(PROCOID, function_changed, (Datum) 0);
	}
	listening = true;
	table_of_upcasters = es_store()->upcasters;
}

void
es_note_upcasters(void)
{
	CacheInvalidateRelcacheByRelid(es_store()->upcasters);
}

void
es_hold_upcasters(void)
{
	LockRelationOid(es_store()->upcasters, RowShareLock);
}

static Datum
kept_value(HeapTuple row, TupleDesc desc, int column)
{
	bool isnull;
	Datum value = SPI_getbinval(row, desc, column, &isnull);

	return isnull ? (Datum) 0 : PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
}

static MemberName
name_of(Datum type)
{
	text *name = DatumGetTextPP(type);

	return es_member_name(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
}

static void
keep_upcaster(HeapTuple row, TupleDesc desc)
{
	Datum type = kept_value(row, desc, 1);
	bool found;
	bool isnull;
	TypeUpcasters *entry = upcasters_insert(kept, name_of(type), &found);
	Datum rules = kept_value(row, desc, 6);
	Upcaster *upcaster;

	marks |= mark_of(entry->name.data, entry->name.size);
	if (!found)
	{
		entry->count = 0;
		entry->room = 4;
		entry->upcasters = palloc0(sizeof(Upcaster) * entry->room);
	}
	else if (entry->count == entry->room)
	{
		entry->room *= 2;
		entry->upcasters =
			repalloc(entry->upcasters, sizeof(Upcaster) * entry->room);
	}
	upcaster = &entry->upcasters[entry->count++];
	memset(upcaster, 0, sizeof(Upcaster));
	upcaster->from_version = DatumGetInt32(SPI_getbinval(row, desc, 2, &isnull));
	upcaster->aggregate_type = kept_value(row, desc, 3);
	if (VARSIZE_ANY_EXHDR(DatumGetPointer(upcaster->aggregate_type)) == 0)
		of_all = true;
	upcaster->name = kept_value(row, desc, 4);
	upcaster->owner = kept_value(row, desc, 5);
	if (rules == (Datum) 0)
		return;
	upcaster->rules =
		es_read_upcaster_rules(DatumGetJsonbP(rules), type, &upcaster->type);
	upcaster->flat =
		upcaster->rules != NULL && es_rules_are_flat(upcaster->rules);
}

static void
keep_upcasters(SPITupleTable *table, uint64 count)
{
	MemoryContext caller;

	if (kept_context == NULL)
		kept_context =
			AllocSetContextCreate(TopMemoryContext, "event_store upcasters",
								  ALLOCSET_SMALL_SIZES);
	kept = NULL;
	last_found = NULL;
	marks = 0;
	of_all = false;
	MemoryContextReset(kept_context);
	if (count == 0)
		return;
	caller = MemoryContextSwitchTo(kept_context);
	kept = upcasters_create(kept_context, 16, NULL);
	for (uint64 i = 0; i < count; i++)
		keep_upcaster(table->vals[i], table->tupdesc);
	MemoryContextSwitchTo(caller);
}

/* Where there was never one no query is needed to know it. */
static bool
has_blocks(void)
{
	Relation table = table_open(table_of_upcasters, AccessShareLock);
	BlockNumber blocks = RelationGetNumberOfBlocks(table);

	table_close(table, AccessShareLock);
	return blocks > 0;
}

static void
look_up(void)
{
	static KeptPlan plan = {
		"SELECT u.event_type, u.from_version, u.aggregate_type, u.upcaster,"
		" u.upcaster_owner, u.rules FROM event_store.upcasters u"
		" ORDER BY u.event_type, u.from_version, u.aggregate_type DESC"};
	OwnerScope scope;

	listen_for_changes();
	if (!has_blocks())
	{
		keep_upcasters(NULL, 0);
		known = true;
		return;
	}
	es_begin_read(&scope);
	while (!known)
	{
		uint64 before = heard;
		uint64 count;

		/* a parallel worker cannot take a snapshot of its own */
		PushActiveSnapshot(IsInParallelMode() ? GetActiveSnapshot()
											  : GetLatestSnapshot());
		count = es_execute(&plan, NULL, NULL, true, SPI_OK_SELECT);
		keep_upcasters(SPI_tuptable, count);
		PopActiveSnapshot();
		known = before == heard;
	}
	es_end(&scope);
}

bool
es_upcasts(void)
{
	if (!known && !es_is_upcasting())
		look_up();
	return kept != NULL;
}

/* ---------- finding one ---------- */

/* Events of one type mostly come together, so the last one is remembered. */
static const TypeUpcasters *
upcasters_of(Datum event_type)
{
	text *name = DatumGetTextPP(event_type);
	int size = VARSIZE_ANY_EXHDR(name);

	if (kept == NULL || (marks & mark_of(VARDATA_ANY(name), size)) == 0)
		return NULL;
	if (last_found != NULL && last_found->name.size == size &&
		memcmp(last_found->name.data, VARDATA_ANY(name), size) == 0)
		return last_found;
	last_found = upcasters_lookup(kept, es_member_name(VARDATA_ANY(name), size));
	return last_found;
}

/* Most stores have upcasters for all aggregate types, and this is no loop then. */
bool
es_upcasts_type(Datum aggregate_type)
{
	upcasters_iterator iterator;
	TypeUpcasters *entry;

	if (!es_upcasts() || of_all)
		return kept != NULL;
	upcasters_start_iterate(kept, &iterator);
	while ((entry = upcasters_iterate(kept, &iterator)) != NULL)
	{
		for (int i = 0; i < entry->count; i++)
		{
			if (es_same_text(entry->upcasters[i].aggregate_type, aggregate_type))
				return true;
		}
	}
	return false;
}

Upcaster *
es_find_upcaster(const Datum *values)
{
	const TypeUpcasters *all = upcasters_of(values[EV_EVENT_TYPE]);
	int version;

	if (all == NULL)
		return NULL;
	version = DatumGetInt32(values[EV_SCHEMA_VERSION]);
	for (int i = 0; i < all->count; i++)
	{
		Upcaster *upcaster = &all->upcasters[i];

		if (upcaster->from_version == version &&
			(VARSIZE_ANY_EXHDR(DatumGetPointer(upcaster->aggregate_type)) == 0 ||
			 es_same_text(upcaster->aggregate_type, values[EV_AGGREGATE_TYPE])))
			return es_is_saga_type(values[EV_AGGREGATE_TYPE]) ? NULL : upcaster;
	}
	return NULL;
}

bool
es_is_old_version(const Datum *values)
{
	return es_find_upcaster(values) != NULL;
}

/*
 * Whether a row may have a type with upcasters.  To take it apart up to the type is a
 * twentieth of a load, so it is looked for where the columns of the log have it: none
 * of those before can be NULL.  Where the columns are others than those of the log, the
 * executor has made another kind of slot.
 */
static bool
may_be_old(TupleTableSlot *slot)
{
	HeapTupleHeader header;
	char *data;
	uint32 at = sizeof(int64);

	if (!TTS_IS_BUFFERTUPLE(slot))
		return true;
	header = ((BufferHeapTupleTableSlot *) slot)->base.tuple->t_data;
	data = (char *) header + header->t_hoff;
	for (int i = EV_AGGREGATE_TYPE; i <= EV_AGGREGATE_ID; i++)
	{
		at = att_align_pointer(at, TYPALIGN_INT, -1, data + at);
		at += VARSIZE_ANY(data + at);
	}
	at = att_align_nominal(at, TYPALIGN_DOUBLE) + sizeof(int64) + UUID_LEN;
	at = att_align_pointer(at, TYPALIGN_INT, -1, data + at);
	return (marks &
			mark_of(VARDATA_ANY(data + at), VARSIZE_ANY_EXHDR(data + at))) != 0;
}

StaticAssertDecl(EV_GLOBAL_POSITION == 0 && EV_AGGREGATE_TYPE == 1 &&
					 EV_AGGREGATE_ID == 2 && EV_SEQUENCE == 3 &&
					 EV_EVENT_ID == 4 && EV_EVENT_TYPE == 5,
				 "may_be_old knows where the type of an event is");

bool
es_is_old_row(TupleTableSlot *slot)
{
	if (!may_be_old(slot))
		return false;
	slot_getsomeattrs(slot, EV_SCHEMA_VERSION + 1);
	return es_is_old_version(slot->tts_values);
}

/* ---------- functions ---------- */

void
es_check_upcaster(Oid function)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid event = es_store()->event_type;
	Form_pg_proc form;
	bool good;
	bool immutable;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
						errmsg("function with OID %u does not exist", function)));
	form = (Form_pg_proc) GETSTRUCT(tuple);
	good = form->prokind == PROKIND_FUNCTION && !form->proretset &&
		   form->prorettype == event && form->pronargs == 1 &&
		   form->proargtypes.values[0] == event;
	immutable = form->provolatile == PROVOLATILE_IMMUTABLE;
	ReleaseSysCache(tuple);
	if (!good)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("function %s cannot be an upcaster",
						format_procedure(function)),
				 errdetail("An upcaster is a function (event event_store.event) RETURNS event_store.event.")));
	if (!immutable)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("upcaster %s must be IMMUTABLE",
						format_procedure(function)),
				 errdetail("An event must be the same whoever reads it, and whenever.")));
}

void
es_find_upcaster_function(Upcaster *upcaster)
{
	Oid event = es_store()->event_type;
	Oid function;
	char *name = TextDatumGetCString(upcaster->name);

	if (OidIsValid(upcaster->call.fn_oid))
		return;
	function = es_function_named(upcaster->name, &event, 1);
	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("upcaster %s does not exist", name),
				 errhint("Create the function %s(event_store.event) again, or register another one with event_store.set_upcaster().",
						 name)));
	es_check_upcaster(function);
	upcaster->user = es_function_owner(function);
	if (!es_is_role_named(upcaster->user, upcaster->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("upcaster %s does not belong to role \"%s\"", name,
						TextDatumGetCString(upcaster->owner)),
				 errdetail("That role owned the function when it was registered."),
				 errhint("If the function is to be used, register it again with event_store.set_upcaster().")));
	fmgr_info_cxt(function, &upcaster->call, kept_context);
}

/* ---------- rules ---------- */

#define RULES_HINT \
	"Rules are an array of operations, or {\"event_type\": \"NewName\", \"operations\": [...]}, such as [{\"op\": \"set\", \"path\": \"$.name\", \"from\": \"$.payload.title\"}]."

static void
refuse_rules(const char *problem)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("rules %s", problem), errhint(RULES_HINT)));
}

/* The keys of rules that are an object; operations are left as they are. */
static void
read_keys(Jsonb *given, JsonbValue *operations, Datum *event_type)
{
	JsonbIterator *iterator = JsonbIteratorInit(&given->root);
	JsonbIteratorToken token;
	JsonbValue name;
	JsonbValue value;

	while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &value, true);
		if (es_is_string(&name, "operations"))
			*operations = value;
		else if (!es_is_string(&name, "event_type"))
			refuse_rules(psprintf("have an unknown key \"%.*s\"",
								  name.val.string.len, name.val.string.val));
		else if (value.type != jbvString)
			refuse_rules("have an \"event_type\" that is not a string");
		else
		{
			*event_type =
				PointerGetDatum(cstring_to_text_with_len(value.val.string.val,
														 value.val.string.len));
			es_check_name(*event_type, false, "event_type", " of rules", true);
		}
	}
}

Rules *
es_read_upcaster_rules(Jsonb *given, Datum type, Datum *event_type)
{
	JsonbValue operations = {.type = jbvNull};

	*event_type = (Datum) 0;
	if (JB_ROOT_IS_SCALAR(given))
		refuse_rules("must be a JSON array or object");
	if (JB_ROOT_IS_ARRAY(given))
		es_whole_value(given, &operations);
	else
	{
		read_keys(given, &operations, event_type);
		if (operations.type == jbvNull && *event_type == (Datum) 0)
			refuse_rules("have neither \"event_type\" nor \"operations\"");
		if (operations.type == jbvNull)
			return NULL;
	}
	if (!es_is_array(&operations))
		refuse_rules("have \"operations\" that are not an array");
	return es_rules_of_type(type, &operations);
}

/* ---------- filters ---------- */

/* Adds a type to a set, and whether it was in it. */
static bool
add_type(PairTable *set, Datum type)
{
	bool found;

	(void) es_pair_enter(set, type, type, &found);
	return !found;
}

/* Whether one of the upcasters of a type may give events of a type of the set. */
static bool
leads_to(const TypeUpcasters *all, PairTable *set)
{
	for (int i = 0; i < all->count; i++)
	{
		const Upcaster *upcaster = &all->upcasters[i];

		/* what a function gives nobody can tell */
		if (upcaster->name != (Datum) 0 ||
			(upcaster->type != (Datum) 0 &&
			 es_pair_find(set, upcaster->type, upcaster->type)))
			return true;
	}
	return false;
}

Datum
es_stored_types(Datum event_types)
{
	ArrayBuildState *all = NULL;
	PairTable *set;
	Datum *given;
	bool *nulls;
	int count;
	bool more = true;

	deconstruct_array(DatumGetArrayTypeP(event_types), TEXTOID, -1, false,
					  TYPALIGN_INT, &given, &nulls, &count);
	if (count == 0 || kept == NULL)
		return event_types;
	set = es_pair_table(count + kept->members);
	for (int i = 0; i < count; i++)
	{
		if (!nulls[i] && add_type(set, given[i]))
			all = accumArrayResult(all, given[i], false, TEXTOID,
								   CurrentMemoryContext);
	}
	while (more && all != NULL)
	{
		upcasters_iterator iterator;
		TypeUpcasters *entry;

		more = false;
		upcasters_start_iterate(kept, &iterator);
		while ((entry = upcasters_iterate(kept, &iterator)) != NULL)
		{
			Datum type =
				PointerGetDatum(cstring_to_text_with_len(entry->name.data,
														 entry->name.size));

			CHECK_FOR_INTERRUPTS();
			if (!leads_to(entry, set) || !add_type(set, type))
				continue;
			all = accumArrayResult(all, type, false, TEXTOID,
								   CurrentMemoryContext);
			more = true;
		}
	}
	return all == NULL ? event_types : makeArrayResult(all, CurrentMemoryContext);
}
