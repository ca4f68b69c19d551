/*
 * view_owner.h
 *		Views that a projection keeps.
 */
#ifndef ES_VIEW_OWNER_H
#define ES_VIEW_OWNER_H

/*
 * Goes up whenever projections may have changed.  It does so from the first call of
 * es_watch_projections on.
 */
extern uint64 es_projection_changes;
extern void es_watch_projections(void);
/* False where there was never one, which costs no query. */
extern bool es_has_projections(void);
/*
 * Whether a projection keeps the view; VS008 if it does.  Until the transaction ends no
 * projection can begin to.
 */
extern bool es_is_kept_view(Datum view_name);
extern void es_refuse_kept_view(Datum view_name);
/*
 * Called by whoever has changed which views projections keep: all backends look again, once
 * the transaction has committed.
 */
extern void es_note_kept_views(void);

#endif /* ES_VIEW_OWNER_H */
