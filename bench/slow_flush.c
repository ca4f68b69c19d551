/*
 * slow_flush.c
 *		Flushes that take as long as they do on a disk in the cloud: preload it into the
 *		server, with SLOW_FLUSH_US in its environment.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

int
fdatasync(int fd)
{
	static int (*real)(int) = NULL;
	const char *us = getenv("SLOW_FLUSH_US");
	long delay = us == NULL ? 0 : atol(us);
	struct timespec pause = {delay / 1000000, delay % 1000000 * 1000};

	if (real == NULL)
		real = (int (*)(int)) dlsym(RTLD_NEXT, "fdatasync");
	if (delay > 0)
		nanosleep(&pause, NULL);
	return real(fd);
}
