# event_store: a native event store for PostgreSQL 15 to 19
#
#   make && make install      builds and installs for the pg_config on the PATH
#   make installcheck         tests against a running server that preloads event_store
#   scripts/check             everything, with a server of its own
#
# Another PostgreSQL: make PG_CONFIG=/path/to/pg_config

EXTENSION = event_store
EXTVERSION = 0.2.0
RELEASED = 0.1.0
MODULE_big = event_store

# ground first, verbs last, as in event_store.h
OBJS = event.o settings.o arguments.o uuid7.o event_input.o shmem.o worker_slot.o head_cache.o metrics.o catalog.o lock.o \
	transaction.o due_snapshot.o position.o feed.o pair_table.o log.o view_table.o staged_row.o staging_state.o drain_state.o own_rows.o staged_scan.o head.o staged_view.o staging.o dead_letter.o view_load.o \
	drain_set.o drain.o segment.o flush.o append.o view_write.o settle.o event_store.o view_store.o event_load.o state.o merge.o path.o operation.o \
	rules.o reducer.o fold.o snapshot.o replay.o rebuild.o \
	gauges.o openmetrics.o database_command.o worker.o launcher.o upgrade.o module.o

SCHEMA_PARTS = schema/header.sql schema/store.sql schema/event_store.sql \
	schema/view_store.sql schema/staging.sql schema/feed.sql schema/reducer.sql schema/snapshot.sql schema/replay.sql schema/rebuild.sql \
	schema/worker.sql schema/metrics.sql schema/grants.sql

# changes since the last release, in the order of their numbers: schema/upgrade/README.md
UPGRADE_PARTS = schema/upgrade/header.sql $(sort $(wildcard schema/upgrade/[0-9]*.sql))

DATA = $(sort $(wildcard schema/released/*.sql))
DATA_built = event_store--$(EXTVERSION).sql event_store--$(RELEASED)--$(EXTVERSION).sql

# the store's own test comes first, the others are in no order
REGRESS = store $(filter-out store,$(sort $(patsubst sql/%.sql,%,$(wildcard sql/*.sql))))
REGRESS_OPTS = --inputdir=. --encoding=UTF8 --load-extension=event_store
ISOLATION = $(sort $(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test --encoding=UTF8 --load-extension=event_store

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS) $(OBJS:.o=.bc): event_store.h compat.h

event_store--$(EXTVERSION).sql: $(SCHEMA_PARTS)
	cat $^ > $@

event_store--$(RELEASED)--$(EXTVERSION).sql: $(UPGRADE_PARTS) schema/upgrade/replace.sed $(SCHEMA_PARTS) schema/upgrade/footer.sql
	{ cat $(UPGRADE_PARTS) && sed -n -E -f schema/upgrade/replace.sed $(SCHEMA_PARTS) && cat schema/upgrade/footer.sql; } > $@
