# event_store: a native event store for PostgreSQL 15 to 19
#
#   make && make install      builds and installs for the pg_config on the PATH
#   make installcheck         tests against a running server that preloads event_store
#   make -f ../Makefile       builds in another folder
#   scripts/check             everything, with a server of its own
#   make deb, make dist       packages, into dist
#
# Another PostgreSQL: make PG_CONFIG=/path/to/pg_config

# the folder of this file; what is built stands in the current one
HERE := $(dir $(firstword $(MAKEFILE_LIST)))

EXTENSION = event_store
EXTVERSION = 0.2.0
RELEASED = 0.1.0
MODULE_big = event_store

# by floors, the lowest first: ARCHITECTURE.md
OBJS = \
	src/ground/event.o \
	src/ground/settings.o \
	src/ground/arguments.o \
	src/ground/uuid7.o \
	src/ground/iso_time.o \
	src/ground/pair_table.o \
	src/ground/shmem.o \
	src/ground/wait.o \
	src/ground/worker_slot.o \
	src/ground/projector_slot.o \
	src/ground/head_cache.o \
	src/ground/metrics.o \
	src/ground/shape.o \
	src/ground/planning.o \
	src/ground/attached.o \
	src/ground/catalog.o \
	src/ground/lock.o \
	src/ground/transaction.o \
	src/ground/timer_slot.o \
	src/ground/database_process.o \
	src/ground/due_snapshot.o \
	src/ground/log_identity.o \
	src/ground/archive_mark.o \
	src/ground/log_plan.o \
	src/ground/waiter.o \
	src/ground/committer_slot.o \
	src/ground/scrubber_slot.o \
	src/ground/grouped_call.o \
	src/ground/position.o \
	src/ground/fencing.o \
	src/ground/upgrade.o \
	src/ground/repair.o \
	src/ground/kept_error.o \
	src/log/outside_write.o \
	src/log/heap_insert.o \
	src/log/log_change.o \
	src/log/log.o \
	src/log/closed_aggregate.o \
	src/log/archived.o \
	src/log/view_table.o \
	src/log/view_owner.o \
	src/staging/staging_state.o \
	src/staging/drain_state.o \
	src/staging/archived_ids.o \
	src/staging/own_rows.o \
	src/staging/staged_row.o \
	src/staging/staged_scan.o \
	src/staging/head.o \
	src/staging/staged_view.o \
	src/staging/staging.o \
	src/staging/segment.o \
	src/staging/opening.o \
	src/staging/drop_guard.o \
	src/staging/staging_status.o \
	src/staging/drain_set.o \
	src/staging/dead_letter.o \
	src/staging/drain_round.o \
	src/staging/drain_piece.o \
	src/staging/drain_left.o \
	src/staging/drain.o \
	src/staging/flush.o \
	src/replay/state.o \
	src/replay/merge.o \
	src/replay/path.o \
	src/replay/patch.o \
	src/replay/json_value.o \
	src/replay/event_path.o \
	src/replay/condition.o \
	src/replay/operation.o \
	src/replay/rules.o \
	src/replay/json_record.o \
	src/replay/saga_event.o \
	src/replay/saga_state.o \
	src/replay/named_function.o \
	src/replay/reducer.o \
	src/replay/upcast_failure.o \
	src/replay/upcaster.o \
	src/replay/upcast.o \
	src/replay/set_upcaster.o \
	src/replay/fold.o \
	src/replay/snapshot.o \
	src/replay/row_key.o \
	src/replay/event_rows.o \
	src/replay/view_fold.o \
	src/replay/view_definition.o \
	src/replay/sticky.o \
	src/replay/view_batch.o \
	src/replay/replay.o \
	src/replay/rebuild.o \
	src/read/event_load.o \
	src/read/view_load.o \
	src/read/feed_plan.o \
	src/read/waker.o \
	src/read/feed.o \
	src/read/gauges.o \
	src/read/openmetrics.o \
	src/write/event_input.o \
	src/write/cause.o \
	src/write/trace.o \
	src/write/inline_view.o \
	src/write/append_group.o \
	src/write/append.o \
	src/write/grouped_form.o \
	src/write/grouped.o \
	src/write/grouped_round.o \
	src/write/view_write.o \
	src/write/view_group.o \
	src/write/settle.o \
	src/consume/consume.o \
	src/consume/processed.o \
	src/consume/partition.o \
	src/consume/progress.o \
	src/consume/member.o \
	src/consume/aside.o \
	src/consume/parked.o \
	src/consume/stretch.o \
	src/consume/retry.o \
	src/consume/subscription.o \
	src/consume/prune.o \
	src/consume/work.o \
	src/consume/fetches.o \
	src/consume/failure.o \
	src/consume/deaths.o \
	src/consume/lease.o \
	src/consume/ack.o \
	src/consume/serve.o \
	src/consume/fetch.o \
	src/consume/claim.o \
	src/consume/failing.o \
	src/consume/scheduled_event.o \
	src/consume/schedule.o \
	src/consume/unwanted.o \
	src/consume/deadline.o \
	src/consume/deadline_gauges.o \
	src/consume/inline_switch.o \
	src/consume/subscription_admin.o \
	src/consume/resize.o \
	src/consume/lag.o \
	src/consume/subscription_status.o \
	src/consume/subscription_gauges.o \
	src/consume/subscription_wait.o \
	src/consume/projection.o \
	src/consume/handler_call.o \
	src/consume/handler.o \
	src/consume/view_projection.o \
	src/consume/pace.o \
	src/consume/due_projection.o \
	src/consume/project.o \
	src/consume/view_rebuild.o \
	src/consume/projection_admin.o \
	src/consume/projection_status.o \
	src/saga/definition.o \
	src/saga/step_handler.o \
	src/saga/kept_definition.o \
	src/saga/define.o \
	src/saga/machine.o \
	src/saga/circuit.o \
	src/saga/saga_work.o \
	src/saga/saga.o \
	src/saga/saga_clock.o \
	src/saga/saga_start.o \
	src/saga/step_claim.o \
	src/saga/step_report.o \
	src/saga/handled_step.o \
	src/saga/saga_timer.o \
	src/saga/saga_status.o \
	src/saga/saga_gauges.o \
	src/saga/saga_transition.o \
	src/keep/erasure.o \
	src/keep/erased_part.o \
	src/keep/moved_partitions.o \
	src/keep/erased_events.o \
	src/keep/erased_views.o \
	src/keep/erased_copies.o \
	src/keep/erase.o \
	src/keep/life.o \
	src/keep/archive.o \
	src/keep/delete.o \
	src/keep/closing.o \
	src/keep/retention.o \
	src/keep/scrub.o \
	src/keep/scrub_erased.o \
	src/process/process.o \
	src/process/step.o \
	src/process/timer.o \
	src/process/projector.o \
	src/process/committer.o \
	src/process/scrubber.o \
	src/process/job.o \
	src/process/worker.o \
	src/process/worker_status.o \
	src/process/announce.o \
	src/process/launcher.o \
	src/process/database_command.o \
	event_store.o \
	view_store.o \
	module.o

SCHEMA_PARTS = schema/header.sql schema/store.sql schema/event_store.sql schema/archive.sql \
	schema/view_store.sql schema/staging.sql schema/feed.sql schema/reducer.sql schema/upcaster.sql schema/snapshot.sql schema/replay.sql schema/event_rows.sql schema/rebuild.sql schema/processed.sql schema/schedule.sql schema/subscription.sql schema/projection.sql schema/saga.sql schema/erase.sql \
	schema/worker.sql schema/metrics.sql schema/grants.sql

# changes since the last release, in the order of their numbers: schema/upgrade/README.md
UPGRADE_PARTS = schema/upgrade/header.sql $(patsubst $(HERE)%,%,$(sort $(wildcard $(HERE)schema/upgrade/[0-9]*.sql)))

DATA = $(patsubst $(HERE)%,%,$(sort $(wildcard $(HERE)schema/released/*.sql)))
DATA_built = event_store--$(EXTVERSION).sql event_store--$(RELEASED)--$(EXTVERSION).sql

# each test makes what it needs: they run alone, and in any order
REGRESS = $(sort $(patsubst $(HERE)sql/%.sql,%,$(wildcard $(HERE)sql/*.sql)))
REGRESS_OPTS = --inputdir=$(HERE:%/=%) --encoding=UTF8 --load-extension=event_store
ISOLATION = $(sort $(patsubst $(HERE)test/specs/%.spec,%,$(wildcard $(HERE)test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=$(HERE)test --encoding=UTF8 --load-extension=event_store

PG_CPPFLAGS = -I$(srcdir)/src
# calls from one file of ours to another are bound when the library is linked, not through a
# table that each call looks into: an append makes some hundred
override PG_CFLAGS += -MMD -MP -fno-semantic-interposition
EXTRA_CLEAN = $(OBJS:.o=.d)

# what could not be made whole is not taken for made
.DELETE_ON_ERROR:

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

ifeq ($(PORTNAME),linux)
SHLIB_LINK += -Wl,-Bsymbolic-functions
endif

ifneq ($(HERE),./)
$(shell mkdir -p $(sort $(dir $(OBJS))))
endif

# a changed header rebuilds what includes it
$(OBJS:.o=.bc): %.bc: %.o
-include $(OBJS:.o=.d)

event_store--$(EXTVERSION).sql: $(SCHEMA_PARTS)
	cat $^ > $@

event_store--$(RELEASED)--$(EXTVERSION).sql: $(UPGRADE_PARTS) schema/upgrade/current.awk $(SCHEMA_PARTS) schema/upgrade/footer.sql
	cd $(HERE) && { cat $(UPGRADE_PARTS) && awk -f schema/upgrade/current.awk $(SCHEMA_PARTS) && cat schema/upgrade/footer.sql; } > $(CURDIR)/$@

.PHONY: deb dist
deb dist:
	$(HERE)scripts/package $@
