/*
 * wait.c
 *		Waiting on a condition variable, or for a time.
 *
 * PostgreSQL notices that a client has gone when it reads from it or writes to
 * it.  A call that waits for minutes does neither, and would keep its backend,
 * its locks and its place in the connection limit for nobody.  So who waits here
 * waits for the end of the connection as well.
 *
 * That uses the set of events with which the backend waits for its client.  On a
 * platform that cannot tell the end of a connection from what a client sends, a
 * wait goes on to its timeout.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/timeout.h"

#include "ground/compat.h"
#include "ground/wait.h"

/* Who waits for a lock looks this often whether the client is there. */
#define CLIENT_CHECK_MS 1000

/*
 * From libpq/libpq.h, which cannot be included: it needs the headers of Kerberos
 * where the server was built with it.
 */
extern PGDLLIMPORT WaitEventSet *FeBeWaitSet;
#define FeBeWaitSetSocketPos 0

/* Workers have no client. */
static bool
has_client(void)
{
	return MyProcPort != NULL && FeBeWaitSet != NULL &&
		   WaitEventSetCanReportClosed();
}

/* As the server does where client_connection_check_interval is set. */
static void
end_for_lack_of_client(void)
{
	ClientConnectionLost = true;
	InterruptPending = true;
	CHECK_FOR_INTERRUPTS();
}

/* Until the latch is set, the time is over or the client has gone. */
static void
wait_beside_client(long timeout, uint32 wait_event)
{
	WaitEvent event;

	ModifyWaitEvent(FeBeWaitSet, FeBeWaitSetSocketPos, WL_SOCKET_CLOSED, NULL);
	if (WaitEventSetWait(FeBeWaitSet, timeout, &event, 1, wait_event) == 0)
		return;
	if (event.events & WL_POSTMASTER_DEATH)
		proc_exit(1);
	if (event.events & WL_SOCKET_CLOSED)
		end_for_lack_of_client();
}

void
es_begin_wait_on(ConditionVariable *variable)
{
	ConditionVariablePrepareToSleep(variable);
}

void
es_wait_on(ConditionVariable *variable, long timeout, uint32 wait_event)
{
	bool client = has_client();

	if (variable != NULL && client)
	{
		/* without time it only sees to it that we are woken, or were */
		if (!ConditionVariableTimedSleep(variable, 0, wait_event))
			return;
		wait_beside_client(timeout, wait_event);
		(void) ConditionVariableTimedSleep(variable, 0, wait_event);
		return;
	}
	if (variable != NULL)
	{
		(void) ConditionVariableTimedSleep(variable, timeout, wait_event);
		return;
	}
	if (client)
		wait_beside_client(timeout, wait_event);
	else
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 timeout, wait_event);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

void
es_end_wait(void)
{
	ConditionVariableCancelSleep();
}

int
es_begin_lock_wait(void)
{
	int interval = client_connection_check_interval;

	if (has_client() && (interval == 0 || interval > CLIENT_CHECK_MS))
	{
		client_connection_check_interval = CLIENT_CHECK_MS;
		enable_timeout_after(CLIENT_CONNECTION_CHECK_TIMEOUT, CLIENT_CHECK_MS);
	}
	return interval;
}

void
es_end_lock_wait(int interval)
{
	if (client_connection_check_interval == interval)
		return;
	client_connection_check_interval = interval;
	disable_timeout(CLIENT_CONNECTION_CHECK_TIMEOUT, false);
	if (interval > 0)
		enable_timeout_after(CLIENT_CONNECTION_CHECK_TIMEOUT, interval);
}
