/*
 * saga_clock.h
 *		The times of sagas' steps when the clock is set back.
 */
#ifndef ES_SAGA_CLOCK_H
#define ES_SAGA_CLOCK_H

/*
 * Before times of saga_steps are compared with the clock: where it was set back they go
 * back with it.  True if any was moved, and is locked by this transaction.
 */
extern bool es_heed_saga_clock(void);
/* Whether that may have to be done. */
extern bool es_is_saga_clock_behind(void);

#endif /* ES_SAGA_CLOCK_H */
