# event_store: a native event store for PostgreSQL 15 to 19

EXTENSION = event_store
EXTVERSION = 0.1.0
MODULE_big = event_store

# ground first, verbs last, as in event_store.h
OBJS = settings.o arguments.o shmem.o catalog.o lock.o transaction.o feed.o \
	staging.o drain.o event_store.o view_store.o replay.o merge.o worker.o

SCHEMA_PARTS = schema/header.sql schema/store.sql schema/event_store.sql \
	schema/view_store.sql schema/staging.sql schema/replay.sql \
	schema/worker.sql schema/grants.sql

DATA_built = event_store--$(EXTVERSION).sql
EXTRA_CLEAN = event_store--*.sql

REGRESS = store event_store view_store staging replay worker arguments grants
REGRESS_OPTS = --inputdir=. --load-extension=event_store
ISOLATION_OPTS =

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

event_store--$(EXTVERSION).sql: $(SCHEMA_PARTS)
	cat $^ > $@
