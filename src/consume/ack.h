/*
 * ack.h
 *		Acknowledging events of a lease.
 */
#ifndef ES_ACK_H
#define ES_ACK_H

#include "consume/lease.h"

/*
 * All of the batch is handled; in memory, the caller stores the state.  In an
 * owner's scope.
 */
extern void es_acknowledge_all(LeaseCall *call);

#endif /* ES_ACK_H */
