/*
 * step_report.h
 *		What is said of a step by who has it.
 */
#ifndef ES_STEP_REPORT_H
#define ES_STEP_REPORT_H

#include "saga/machine.h"
#include "saga/saga.h"

/*
 * Takes a report into a saga that is open, and saves it.  An error is cut to what an event
 * is to hold of it, as by the second.
 */
extern void es_take_report(Saga *saga, StepReport *report, const char *function);
extern void es_clip_error(char *error);

#endif /* ES_STEP_REPORT_H */
