/*
 * process.h
 *		What launcher and worker have in common.
 */
#ifndef ES_PROCESS_H
#define ES_PROCESS_H

/* What launcher and worker have in common: signals, sleep. */
extern void es_enter_process(void);
extern void es_heed_signals(void);
/* A negative timeout (ms) means until the latch is set. */
extern void es_sleep_on_latch(long timeout, uint32 wait_event);

#endif /* ES_PROCESS_H */
