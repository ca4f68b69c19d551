/*
 * append_group.h
 *		What one transaction appends for several callers.
 */
#ifndef ES_APPEND_GROUP_H
#define ES_APPEND_GROUP_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "ground/event.h"

typedef struct AppendGroup AppendGroup;

extern AppendGroup *es_make_group(int calls);

/* Where an aggregate stands when what the group has so far is written. */
extern bool es_group_head(AppendGroup *group, Datum type, Datum id,
						  int64 *sequence, TimestampTz *recorded_at);
extern void es_set_group_head(AppendGroup *group, Datum type, Datum id,
							  int64 sequence, TimestampTz recorded_at);
/* Whether an event that the group is to write was given this id by its caller. */
extern bool es_is_id_in_group(AppendGroup *group, const pg_uuid_t *id);
/*
 * Ids were looked for when rows had been moved so often (archive_mark.h), and whether some
 * may have been moved since.
 */
extern void es_note_group_moves(AppendGroup *group, uint64 moves);
extern bool es_group_ids_moved(const AppendGroup *group);
/* Adds a row to be written. */
extern void es_add_group_row(AppendGroup *group, EventRow *row, bool id_given);
extern EventRow **es_group_rows(const AppendGroup *group, int *count);
/* Has the end of the transaction tell others of the heads. */
extern void es_note_group_heads(const AppendGroup *group);

#endif /* ES_APPEND_GROUP_H */
