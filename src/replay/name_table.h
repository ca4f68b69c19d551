/*
 * name_table.h
 *		A hash table by name: what is kept for each member, or each type of event or of aggregate.
 *
 * To be included once for each table, with NAME_TABLE, what its functions begin with, and
 * NAME_TABLE_ENTRY, a struct with a MemberName "name" and a char "status".  The functions
 * are those of lib/simplehash.h.
 */
#define SH_PREFIX NAME_TABLE
#define SH_ELEMENT_TYPE NAME_TABLE_ENTRY
#define SH_KEY_TYPE MemberName
#define SH_KEY name
#define SH_HASH_KEY(table, k) (k).hash
#define SH_EQUAL(table, a, b) es_same_name(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(table, entry) (entry)->name.hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"
#undef NAME_TABLE
#undef NAME_TABLE_ENTRY
