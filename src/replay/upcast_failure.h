/*
 * upcast_failure.h
 *		What an upcast that fails says of its event, and whose fault it is.
 */
#ifndef ES_UPCAST_FAILURE_H
#define ES_UPCAST_FAILURE_H

/* An event that is upcast, as it was written. */
typedef struct UpcastEvent
{
	const Datum *values;
	const bool *nulls;
	ErrorContextCallback callback;
} UpcastEvent;

/* In between, whatever is raised gets the event as its DETAIL. */
extern void es_begin_upcasting(UpcastEvent *event);
extern void es_end_upcasting(const UpcastEvent *event);
/* Whether an upcaster is at work, which must not lose what it stands in. */
extern bool es_is_upcasting(void);

/* Whether an error is the fault of the event; what is no fault may pass. */
extern bool es_is_fault_of_event(int sqlerrcode);
/* Whether it is that of an upcaster, which is not what it should be; of one, or of the event. */
extern bool es_is_fault_of_upcaster(int sqlerrcode);
extern bool es_is_upcast_failure(int sqlerrcode);

#endif /* ES_UPCAST_FAILURE_H */
