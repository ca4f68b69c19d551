/*
 * patch.c
 *		An object whose members are changed: one pass to read it, one to write it.
 *
 * A state (state.c) is there to be changed by many events.  Of a payload that rules
 * upcast a few members are changed once, and it is written again at once: for that the
 * hash tables and copies of a state cost several times what is to be done.  Here the
 * members stand in an array in the order that jsonb keeps them in, by length and then by
 * bytes, and their values point to where they came from.
 *
 * The encoded form is jsonb's own, byte for byte as its encoder writes it: a header, an
 * entry for each name and then for each value, each with a length or, every so often,
 * the end of it, and then names and values.  Numbers, arrays and objects are aligned,
 * and what that leaves free belongs to them.  No encoder is called for it, because that
 * of the server takes whole trees only.
 */
#include "postgres.h"

#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "ground/common.h"
#include "ground/compat.h"
#include "replay/patch.h"
#include "replay/state.h"

/* Room for so many new members at first. */
#define NEW_MEMBERS 8

/* ---------- reading ---------- */

/* The value of an entry, whose bytes are those from start to end. */
static void
read_value(JEntry entry, char *data, uint32 start, uint32 end, JsonbValue *value)
{
	uint32 aligned = INTALIGN(start);

	if (JBE_ISSTRING(entry))
	{
		value->type = jbvString;
		value->val.string.val = data + start;
		value->val.string.len = end - start;
	}
	else if (JBE_ISNUMERIC(entry))
	{
		value->type = jbvNumeric;
		value->val.numeric = (Numeric) (data + aligned);
	}
	else if (JBE_ISCONTAINER(entry))
	{
		value->type = jbvBinary;
		value->val.binary.data = (JsonbContainer *) (data + aligned);
		value->val.binary.len = end - aligned;
	}
	else if (JBE_ISNULL(entry))
		value->type = jbvNull;
	else
	{
		value->type = jbvBool;
		value->val.boolean = JBE_ISBOOL_TRUE(entry);
	}
}

void
es_patch_begin(Patch *patch, Jsonb *object)
{
	int count = JsonContainerSize(&object->root);
	JEntry *entries = object->root.children;
	char *data = (char *) &entries[count * 2];
	uint32 start = 0;
	uint32 end = 0;

	Assert(JB_ROOT_IS_OBJECT(object));
	patch->count = count;
	patch->room = count + NEW_MEMBERS;
	patch->members =
		palloc_extended(sizeof(PatchMember) * patch->room, MCXT_ALLOC_HUGE);
	for (int i = 0; i < count; i++)
	{
		JBE_ADVANCE_OFFSET(end, entries[i]);
		patch->members[i].name = data + start;
		patch->members[i].size = end - start;
		start = end;
	}
	for (int i = 0; i < count; i++)
	{
		JEntry entry = entries[count + i];

		JBE_ADVANCE_OFFSET(end, entry);
		read_value(entry, data, start, end, &patch->members[i].value);
		start = end;
	}
}

Patch
es_patch_copy(const Patch *patch)
{
	Patch copy = *patch;

	copy.members =
		palloc_extended(sizeof(PatchMember) * copy.room, MCXT_ALLOC_HUGE);
	memcpy(copy.members, patch->members, sizeof(PatchMember) * copy.count);
	return copy;
}

/* ---------- changing ---------- */

static int
compare_names(const PatchMember *member, MemberName name)
{
	if (member->size != name.size)
		return member->size < name.size ? -1 : 1;
	return memcmp(member->name, name.data, name.size);
}

/* Where a member is, or where it goes if it is not there. */
static int
place_of(const Patch *patch, MemberName name, bool *found)
{
	int low = 0;
	int high = patch->count;

	*found = false;
	while (low < high)
	{
		int middle = low + (high - low) / 2;
		int order = compare_names(&patch->members[middle], name);

		if (order == 0)
		{
			*found = true;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

const JsonbValue *
es_patch_find(const Patch *patch, MemberName name)
{
	bool found;
	int place = place_of(patch, name, &found);

	return found ? &patch->members[place].value : NULL;
}

void
es_patch_set(Patch *patch, MemberName name, const JsonbValue *value)
{
	bool found;
	int place = place_of(patch, name, &found);
	PatchMember *member;

	if (!found)
	{
		if (patch->count == patch->room)
		{
			patch->room += NEW_MEMBERS;
			patch->members =
				repalloc_huge(patch->members, sizeof(PatchMember) * patch->room);
		}
		member = &patch->members[place];
		memmove(member + 1, member,
				sizeof(PatchMember) * (patch->count++ - place));
		member->name = name.data;
		member->size = name.size;
	}
	patch->members[place].value = *value;
}

void
es_patch_remove(Patch *patch, MemberName name)
{
	bool found;
	int place = place_of(patch, name, &found);
	PatchMember *member = &patch->members[place];

	if (found)
		memmove(member, member + 1,
				sizeof(PatchMember) * (--patch->count - place));
}

/* ---------- writing ---------- */

/* The bytes of a value, which are aligned unless it is a string. */
static const void *
bytes_of(const JsonbValue *value, JEntry *kind, uint32 *size)
{
	switch (value->type)
	{
		case jbvString:
			*kind = JENTRY_ISSTRING;
			*size = value->val.string.len;
			return value->val.string.val;
		case jbvNumeric:
			*kind = JENTRY_ISNUMERIC;
			*size = VARSIZE_ANY(value->val.numeric);
			return value->val.numeric;
		case jbvBinary:
			*kind = JENTRY_ISCONTAINER;
			*size = value->val.binary.len;
			return value->val.binary.data;
		case jbvNull:
			*kind = JENTRY_ISNULL;
			break;
		case jbvBool:
			*kind = value->val.boolean ? JENTRY_ISBOOL_TRUE : JENTRY_ISBOOL_FALSE;
			break;
		default:
			elog(ERROR, "unexpected jsonb value of type %d", (int) value->type);
	}
	*size = 0;
	return NULL;
}

/* At most so many bytes follow the entries. */
static uint32
data_size(const Patch *patch)
{
	int64 size = 2 * sizeof(JEntry) * (int64) patch->count;

	for (int i = 0; i < patch->count; i++)
	{
		JEntry kind;
		uint32 bytes;

		(void) bytes_of(&patch->members[i].value, &kind, &bytes);
		size += patch->members[i].size + (int64) INTALIGN(1) + bytes;
	}
	if (size > ES_MAX_PAYLOAD_BYTES)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("payload becomes longer than %d bytes",
							   ES_MAX_PAYLOAD_BYTES)));
	return size;
}

/* The entry of so many bytes that end there; each one that the stride tells has the end. */
static JEntry
entry_of(int place, JEntry kind, uint32 size, uint32 end)
{
	if (place % JB_OFFSET_STRIDE == 0)
		return kind | end | JENTRY_HAS_OFF;
	return kind | size;
}

Jsonb *
es_patch_result(const Patch *patch)
{
	int count = patch->count;
	Size head = offsetof(Jsonb, root.children) + 2 * sizeof(JEntry) * count;
	Jsonb *result = palloc(head + data_size(patch));
	JEntry *entries = result->root.children;
	char *data = (char *) result + head;
	uint32 end = 0;

	result->root.header = count | JB_FOBJECT;
	for (int i = 0; i < count; i++)
	{
		const PatchMember *member = &patch->members[i];

		memcpy(data + end, member->name, member->size);
		end += member->size;
		entries[i] = entry_of(i, JENTRY_ISSTRING, member->size, end);
	}
	for (int i = 0; i < count; i++)
	{
		uint32 start = end;
		JEntry kind;
		uint32 size;
		const void *bytes = bytes_of(&patch->members[i].value, &kind, &size);

		if (kind == JENTRY_ISNUMERIC || kind == JENTRY_ISCONTAINER)
		{
			memset(data + end, 0, INTALIGN(end) - end);
			end = INTALIGN(end);
		}
		if (size > 0)
			memcpy(data + end, bytes, size);
		end += size;
		entries[count + i] = entry_of(count + i, kind, end - start, end);
	}
	SET_VARSIZE(result, head + end);
	return result;
}
