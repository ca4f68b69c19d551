/*
 * process.c
 *		What the launcher and the workers have in common: signals and sleep.
 *
 * SIGTERM comes from a stop of the server, from a database command that needs
 * the worker gone, or from an administrator.  A process that sleeps leaves
 * without a word.  One that is busy may be waiting for a lock, or run somebody
 * else's code, and is terminated as any backend: that is a FATAL in the log.
 * But a stop of the server is no error, and the worker has work to finish then;
 * so it has a time of grace, and is terminated only after that.
 *
 * What the postmaster is up to it tells nobody but the file postmaster.pid: it
 * writes there that it stops before it signals anybody.
 */
#include "postgres.h"

#include <fcntl.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <signal.h>
#include <unistd.h>

#include "datatype/timestamp.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/pidfile.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "process/process.h"
#include "write/grouped.h"

/* In the data directory, which is where every process works. */
#define POSTMASTER_FILE "postmaster.pid"
/* Freed memory up to this stays with a process; a batch of 10,000 events takes some 40 MB. */
#define KEPT_BYTES (64 * 1024 * 1024)
/* Pieces up to this come out of it: the most that glibc takes. */
#define KEPT_PIECE_BYTES (32 * 1024 * 1024)
/* The file is a few short lines. */
#define POSTMASTER_FILE_BYTES 4096
/* What is busy is looked after so often, and has so long to end when canceled. */
#define GRACE_CHECK_MS 1000

/* A process that comes up is busy until it says otherwise. */
static volatile sig_atomic_t busy = true;
static volatile sig_atomic_t finishing = true;
static const int *grace = NULL;
static volatile TimestampTz grace_end = 0; /* 0 = the server goes on */
static TimeoutId grace_timeout;

/* Called from a signal handler, too. */
bool
es_server_stops(void)
{
	char file[POSTMASTER_FILE_BYTES];
	int fd = open(POSTMASTER_FILE, O_RDONLY, 0);
	ssize_t length = fd < 0 ? 0 : read(fd, file, sizeof(file) - 1);
	char *line = file;

	if (fd >= 0)
		close(fd);
	file[Max(length, 0)] = '\0';
	for (int i = 1; i < LOCK_FILE_LINE_PM_STATUS && line != NULL; i++)
	{
		line = strchr(line, '\n');
		if (line != NULL)
			line++;
	}
	return line != NULL &&
		   strncmp(line, PM_STATUS_STOPPING, strlen(PM_STATUS_STOPPING)) == 0;
}

TimestampTz
es_grace_end(void)
{
	return grace_end;
}

/* Ends what is busy at the next chance, whatever code runs. */
static void
end_process(void)
{
	ProcDiePending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

static void
handle_sigterm(SIGNAL_ARGS)
{
	int save_errno = errno;

	ShutdownRequestPending = true;
	SetLatch(MyLatch);
	if (grace != NULL && es_server_stops())
	{
		if (grace_end == 0)
			grace_end =
				TimestampTzPlusMilliseconds(GetCurrentTimestamp(), *grace);
		if (busy && !finishing)
			QueryCancelPending = InterruptPending = true;
	}
	else if (busy)
		end_process();
	errno = save_errno;
}

/* Something has been busy for a while: has its grace ended? */
static void
check_grace(void)
{
	if (busy && grace_end != 0 &&
		GetCurrentTimestamp() >=
			TimestampTzPlusMilliseconds(grace_end, GRACE_CHECK_MS))
		end_process();
}

static void
watch_grace(void)
{
	enable_timeout_every(grace_timeout,
						 TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													 GRACE_CHECK_MS),
						 GRACE_CHECK_MS);
}

/*
 * A batch frees what the next one takes again.  Without this glibc gives every large
 * piece back at once, and a fifth of a projector's time is the kernel clearing pages.
 */
static void
keep_freed_memory(void)
{
#ifdef __GLIBC__
	(void) mallopt(M_MMAP_THRESHOLD, KEPT_PIECE_BYTES);
	(void) mallopt(M_TRIM_THRESHOLD, KEPT_BYTES);
#endif
}

void
es_enter_process(const int *grace_ms)
{
	keep_freed_memory();
	grace = grace_ms;
	if (grace != NULL)
	{
		grace_timeout = RegisterTimeout(USER_TIMEOUT, check_grace);
		watch_grace();
	}
	es_hand_nothing_over();
	pqsignal(SIGTERM, handle_sigterm);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	/* a SIGHUP of the time when this process ignored it, as the server starts it */
	ProcessConfigFile(PGC_SIGHUP);
}

void
es_begin_busy(bool worth_finishing)
{
	finishing = worth_finishing;
	busy = true;
	if (grace != NULL)
		watch_grace();
	/* it may have come after the last look */
	if (ShutdownRequestPending && grace_end == 0)
		end_process();
}

void
es_end_busy(void)
{
	busy = false;
	if (grace != NULL)
		disable_timeout(grace_timeout, false);
}

bool
es_asked_to_leave(void)
{
	return ShutdownRequestPending;
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

bool
es_heed_signals(void)
{
	/* a cancel that comes between steps has nothing to cancel */
	QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();
	if (!ConfigReloadPending)
		return false;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	return true;
}

void
es_pin_settings(int lock_timeout)
{
	static const char *const pinned[][2] =
		{{"search_path", "pg_catalog, pg_temp"},
		 {"default_transaction_isolation", "read committed"},
		 {"default_transaction_read_only", "off"},
		 {"default_transaction_deferrable", "off"},
		 {"statement_timeout", "0"},
		 {"idle_in_transaction_session_timeout", "0"},
		 {"transaction_timeout", "0"},
		 {"row_security", "on"}};
	char limit[16];

	for (int i = 0; i < (int) lengthof(pinned); i++)
	{
		/* not every version has all of them */
		if (GetConfigOption(pinned[i][0], true, false) != NULL)
			SetConfigOption(pinned[i][0], pinned[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	}
	snprintf(limit, sizeof(limit), "%d", lock_timeout);
	SetConfigOption("lock_timeout", limit, PGC_SUSET, PGC_S_OVERRIDE);
}
