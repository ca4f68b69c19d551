/*
 * process.c
 *		What the launcher and the workers have in common: signals and sleep.
 */
#include "postgres.h"

#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"

#include "process/process.h"

void
es_enter_process(void)
{
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
}

/* Sleeps on the latch; a negative timeout means: until it is set. */
void
es_sleep_on_latch(long timeout, uint32 wait_event)
{
	int events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;

	if (timeout >= 0)
		events |= WL_TIMEOUT;
	WaitLatch(MyLatch, events, timeout, wait_event);
	ResetLatch(MyLatch);
}

void
es_heed_signals(void)
{
	/* a cancel that comes between steps has nothing to cancel */
	QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}
