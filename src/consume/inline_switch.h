/*
 * inline_switch.h
 *		Views that begin to be folded by appends, and that cease to.
 */
#ifndef ES_INLINE_SWITCH_H
#define ES_INLINE_SWITCH_H

/* Modes, as they stand in table projections; the third is to become the second. */
#define ES_MODE_ASYNC "async"
#define ES_MODE_INLINE "inline"
#define ES_MODE_CATCHING_UP "catching up"

/*
 * Whether a view is folded by appends.  If so, no append is open, and none can begin
 * until this transaction ends.  Outside of an owner's scope, as all here.
 */
extern bool es_hold_inline(Datum name);
/* Closes the gate of appends; waits for those that are open (lock_timeout counts). */
extern void es_hold_appends(void);
/* The same in one try. */
extern bool es_try_hold_appends(void);
/* 0A000 for a view that is inline, or is to become so. */
extern void es_refuse_inline(Datum name, const char *what);
/* Whether there are events of these types, text[], in the log. */
extern bool es_has_events(Datum types);
/* Appends fold it from now on; all that there is has been folded. */
extern void es_begin_inline(Datum name);
/* A projector takes it up from now on, behind all that there is. */
extern void es_end_inline(Datum name);

#endif /* ES_INLINE_SWITCH_H */
