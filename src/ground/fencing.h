/*
 * fencing.h
 *		Fencing numbers: which lease is the newer one.
 */
#ifndef ES_FENCING_H
#define ES_FENCING_H

#include "c.h"

extern void es_share_fencing(void);

/* A number that was never given in this store, and will not be again. */
extern int64 es_take_fencing_number(void);
/* Whether a number was given before the server started after a crash. */
extern bool es_number_is_before_crash(int64 number);

#endif /* ES_FENCING_H */
