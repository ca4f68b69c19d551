# event_store: a native event store for PostgreSQL 15 to 19
#
#   make && make install      builds and installs for the pg_config on the PATH
#   make installcheck         tests against a running server that preloads event_store
#   scripts/check             everything, with a server of its own
#
# Another PostgreSQL: make PG_CONFIG=/path/to/pg_config

EXTENSION = event_store
EXTVERSION = 0.1.0
MODULE_big = event_store

# ground first, verbs last, as in event_store.h
OBJS = settings.o arguments.o uuid7.o event_input.o shmem.o head_cache.o metrics.o catalog.o lock.o \
	transaction.o feed.o pair_table.o staged_row.o staged_scan.o staging.o log.o dead_letter.o view_store.o view_load.o \
	drain_set.o drain.o segment.o flush.o event_store.o event_load.o state.o merge.o path.o operation.o \
	rules.o reducer.o fold.o snapshot.o replay.o rebuild.o \
	openmetrics.o database_command.o worker.o launcher.o

SCHEMA_PARTS = schema/header.sql schema/store.sql schema/event_store.sql \
	schema/view_store.sql schema/staging.sql schema/feed.sql schema/reducer.sql schema/snapshot.sql schema/replay.sql schema/rebuild.sql \
	schema/worker.sql schema/metrics.sql schema/grants.sql

DATA_built = event_store--$(EXTVERSION).sql
EXTRA_CLEAN = event_store--*.sql

# each test makes what it needs: they run alone, and in any order
REGRESS = $(sort $(patsubst sql/%.sql,%,$(wildcard sql/*.sql)))
REGRESS_OPTS = --inputdir=. --encoding=UTF8 --load-extension=event_store
ISOLATION = $(sort $(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test --encoding=UTF8 --load-extension=event_store

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS) $(OBJS:.o=.bc): event_store.h compat.h

event_store--$(EXTVERSION).sql: $(SCHEMA_PARTS)
	cat $^ > $@
