# The worker's jobs: one that fails is its own failure, shown as such and tried again
# by itself, and the others go on.  What a job runs cannot wait for the worker, which
# would wait for itself.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

# a failure of the drain is not tried again here unless somebody waits
my $node = new_server('jobs',
	conf => "event_store.write_delay = '1ms'\nevent_store.snapshot_every = 10\n"
	  . "event_store.retry_initial = '1h'\nevent_store.retry_max = '1h'\n"
	  . "wal_level = replica\nmax_wal_senders = 1\nmax_logical_replication_workers = 0\n");
$node->start;
create_store_in($node, 'shop');
my $worker = wait_for_worker($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub poll
{
	return $node->poll_query_until('shop', $_[0]);
}

# Appends ten events to a new aggregate, so that a snapshot is due.
sub append_ten
{
	my ($type, $id, $durability) = @_;

	sql(qq{SELECT FROM event_store.append_events('$type', '$id', 0,
		(SELECT jsonb_agg('{"event_type": "E"}'::jsonb) FROM generate_series(1, 10)), durability => '$durability')});
	return;
}

my $taken = q{SELECT count(*) = 1 FROM event_store.snapshots WHERE aggregate_id = '%s' AND source = 'server'};
my $stored = 'SELECT safe_position = event_store.safe_position() FROM event_store.store_state';
my $drain = 'SELECT drain_state, consecutive_failures, last_error IS NULL FROM event_store.worker_status';

# What is shown of a job.
sub job
{
	my ($name) = @_;

	return sql("SELECT state, failures, coalesce(last_error, '') FROM event_store.worker_jobs WHERE job = '$name'");
}

# ---------- all is well

is(sql(q{SELECT string_agg(job, ', ') FROM event_store.worker_jobs}),
	'open staging, drain, reclaim, store position, snapshot, prune positions, prune history, forget processed, count deaths, start projectors, scrub, close staging', 'the jobs');
append_ten('T', 'staged', 'staged');
ok(flush_all($node, 'shop'), 'the drain runs');
ok(poll(sprintf $taken, 'staged'), 'and a snapshot is taken');
ok(poll($stored), 'and the safe position stored');
ok(poll(q{SELECT bool_and(failures = 0 AND last_error IS NULL AND state = 'idle') AND count(last_run_at) = 8
            FROM event_store.worker_jobs}), 'all but the closing have run, and none has failed');

# ---------- one job fails: the safe position cannot be stored

my $offset = log_offset($node);
sql(q{
	CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN RAISE EXCEPTION 'no space here' USING ERRCODE = 'disk_full'; END$$;
	CREATE TRIGGER full_disk BEFORE UPDATE OF safe_position ON event_store.store_state
	    FOR EACH ROW EXECUTE FUNCTION full_disk();
});
append_ten('T', 'durable', 'durable');
ok(poll(q{SELECT state = 'backing_off' FROM event_store.worker_jobs WHERE job = 'store position'}), 'a job fails');
is(job('store position'), 'backing_off|1|no space here', 'and worker_jobs says why');
like(slurp_file($node->logfile, $offset), qr/ERROR:  no space here.*STATEMENT:  store position/s, 'the log names the job');
is(sql($drain), 'idle|0|t', 'it is no failure of the drain');
is(job('drain'), 'idle|0|', 'nor is it shown there');
ok(poll(sprintf $taken, 'durable'), 'snapshots go on');
append_ten('T', 'more', 'staged');
ok(flush_all($node, 'shop'), 'and so does the drain');
is(sql(q{SELECT value FROM event_store.metrics WHERE metric = 'worker.failures'}), '1', 'it is not tried again at once');
is(sql(q{SELECT value FROM event_store.metrics WHERE metric = 'persistence.drain.failures'}), '0', 'for the metrics as well');

# the next worker tries it at once, and counts on
sql("SELECT pg_terminate_backend($worker)");
$worker = wait_for_worker($node, 'shop', $worker);
ok(poll(q{SELECT failures = 2 FROM event_store.worker_jobs WHERE job = 'store position'}), 'failures outlive a worker');
sql('DROP TRIGGER full_disk ON event_store.store_state');
sql("SELECT pg_terminate_backend($worker)");
$worker = wait_for_worker($node, 'shop', $worker);
ok(poll($stored), 'what comes after the cause is gone makes up for it');
ok(poll(q{SELECT failures = 0 FROM event_store.worker_jobs WHERE job = 'store position'}), 'and ends them');
is(job('store position'), 'idle|0|', 'with the error');

# ---------- the drain fails: other jobs go on

sql(q{
	CREATE TRIGGER full_disk BEFORE INSERT ON event_store.domain_events
	    FOR EACH ROW WHEN (NEW.aggregate_id = 'held up') EXECUTE FUNCTION full_disk();
});
append_ten('T', 'held up', 'staged');
ok(poll(q{SELECT drain_state = 'backing_off' FROM event_store.worker_status}), 'the drain backs off');
is(sql('SELECT consecutive_failures, last_error FROM event_store.worker_status'), '1|no space here', 'and says why');
is(job('drain'), 'backing_off|1|no space here', 'as does its job');
append_ten('T', 'beside', 'durable');
ok(poll(sprintf $taken, 'beside'), 'a snapshot is taken meanwhile');
ok(poll($stored), 'and the safe position stored');
is(job('drain'), 'backing_off|1|no space here', 'while it waits');
sql('DROP TRIGGER full_disk ON event_store.domain_events');
sql("SELECT pg_terminate_backend($worker)");
$worker = wait_for_worker($node, 'shop', $worker);
ok(flush_all($node, 'shop'), 'when the cause is gone it goes on');
is(events_in($node, 'shop'), '50', 'with all that was staged');
ok(poll(q{SELECT failures = 0 AND state = 'idle' FROM event_store.worker_jobs WHERE job = 'drain'}), 'and is well');

# ---------- attempts of sessions that ended cannot be counted: nothing else fails

sql(q{
	SELECT event_store.create_subscription('deaths', '{T}');
	CREATE TRIGGER full_disk BEFORE INSERT ON event_store.subscription_positions
	    FOR EACH ROW WHEN (NEW.attempts > 0) EXECUTE FUNCTION full_disk();
});
my $consumer = $node->background_psql('shop');
$consumer->query_safe(q{BEGIN; SELECT FROM event_store.next_events('deaths', 1)});
my $dying = $consumer->query_safe('SELECT pg_backend_pid()');
sql("SELECT pg_terminate_backend($dying, 10000)");
eval { $consumer->quit };
ok(poll(q{SELECT state = 'backing_off' FROM event_store.worker_jobs WHERE job = 'count deaths'}), 'counting fails');
is(job('count deaths'), 'backing_off|1|no space here', 'and says why');
append_ten('T', 'uncounted', 'staged');
ok(flush_all($node, 'shop'), 'the drain goes on');
sql('DROP TRIGGER full_disk ON event_store.subscription_positions');
sql("SELECT pg_terminate_backend($worker)");
$worker = wait_for_worker($node, 'shop', $worker);
ok(poll(q{SELECT attempts = 1 FROM event_store.subscription_positions ORDER BY number DESC LIMIT 1}), 'when the cause is gone it is counted');

# ---------- it cannot be looked for what is to be scrubbed: nothing else fails

my $locker = $node->background_psql('shop');
$locker->query_safe('BEGIN; LOCK TABLE event_store.erasures');
my $scrubbing = $node->background_psql('shop');
$scrubbing->query_until(qr/asked/, "\\echo asked\nCALL event_store.scrub_erased();\n");
ok(poll(q{SELECT state = 'backing_off' FROM event_store.worker_jobs WHERE job = 'scrub'}), 'looking for it fails');
like(job('scrub'), qr/lock timeout/, 'and says why');
append_ten('T', 'unscrubbed', 'staged');
ok(flush_all($node, 'shop'), 'the drain goes on');
$locker->query_safe('COMMIT');
$locker->quit;
sql("SELECT pg_terminate_backend($worker)");
$worker = wait_for_worker($node, 'shop', $worker);
ok(poll(q{SELECT failures = 0 AND state = 'idle' FROM event_store.worker_jobs WHERE job = 'scrub'}), 'when the cause is gone it is looked');
$scrubbing->quit;

# ---------- the history of dead letters cannot be pruned: nothing else fails

sql(q{
	CREATE TRIGGER full_disk BEFORE DELETE ON event_store.dead_letter_history
	    FOR EACH ROW EXECUTE FUNCTION full_disk();
	INSERT INTO event_store.dead_letter_history (letter_id, kind, aggregate_type, aggregate_id, error_code, error_message,
	                                             attempts, failed_at, outcome, settled_by, settled_at)
	SELECT n, 'event', 'T', 'old', '23514', 'refused', 1, now(), 'discarded', 'me', now() - interval '1h' * (n % 2)
	  FROM generate_series(1, 5000) n;
	ALTER DATABASE shop SET event_store.dead_letter_retention = '1min';
});
sql("SELECT pg_terminate_backend($worker)");
$worker = wait_for_worker($node, 'shop', $worker);
ok(poll(q{SELECT state = 'backing_off' FROM event_store.worker_jobs WHERE job = 'prune history'}), 'pruning fails');
is(job('prune history'), 'backing_off|1|no space here', 'and says why');
append_ten('T', 'unpruned', 'staged');
ok(flush_all($node, 'shop'), 'the drain goes on');
ok(poll(sprintf $taken, 'unpruned'), 'and snapshots');
sql('DROP TRIGGER full_disk ON event_store.dead_letter_history');
sql("SELECT pg_terminate_backend($worker)");
$worker = wait_for_worker($node, 'shop', $worker);
ok(poll(q{SELECT count(*) = 2500 AND min(settled_at) > now() - interval '30min' FROM event_store.dead_letter_history}),
	'when the cause is gone what is old goes, step by step');
ok(poll(q{SELECT failures = 0 AND last_error IS NULL AND last_error_at IS NULL
            FROM event_store.worker_jobs WHERE job = 'prune history'}), 'and the error with it');

# ---------- old messages cannot be forgotten: nothing else fails

sql(q{
	CREATE TRIGGER full_disk BEFORE DELETE ON event_store.processed_messages
	    FOR EACH ROW EXECUTE FUNCTION full_disk();
	INSERT INTO event_store.processed_messages (consumer, message_id, processed_at) VALUES ('c', 'old', now() - interval '1h');
	ALTER DATABASE shop SET event_store.processed_retention = '1min';
});
sql("SELECT pg_terminate_backend($worker)");
$worker = wait_for_worker($node, 'shop', $worker);
sql(q{SELECT event_store.process_once('c', 'new')});
ok(poll(q{SELECT state = 'backing_off' FROM event_store.worker_jobs WHERE job = 'forget processed'}), 'forgetting fails');
is(job('forget processed'), 'backing_off|1|no space here', 'and says why');
append_ten('T', 'unforgotten', 'staged');
ok(flush_all($node, 'shop'), 'the drain goes on');
ok(poll(sprintf $taken, 'unforgotten'), 'and snapshots');
sql('DROP TRIGGER full_disk ON event_store.processed_messages');
sql("SELECT pg_terminate_backend($worker)");
$worker = wait_for_worker($node, 'shop', $worker);
ok(poll(q{SELECT string_agg(message_id, ' ') = 'new' FROM event_store.processed_messages}), 'and it is made up for');

# ---------- old positions cannot be deleted: consumers go on

sql(q{
	CREATE TRIGGER full_disk BEFORE DELETE ON event_store.subscription_positions
	    FOR EACH ROW EXECUTE FUNCTION full_disk();
	SELECT count(*) FROM event_store.append_batch(array_fill('Consumed'::text, ARRAY[1100]), array_fill('c'::text, ARRAY[1100]),
	                                              array_fill('E'::text, ARRAY[1100]), NULL);
	SELECT event_store.create_subscription('consumed', '{Consumed}');
});
sql(q{DO $$ BEGIN FOR i IN 1 .. 1050 LOOP PERFORM count(*) FROM event_store.next_events('consumed', 1); COMMIT; END LOOP; END $$});
ok(poll(q{SELECT state = 'backing_off' FROM event_store.worker_jobs WHERE job = 'prune positions'}), 'deleting positions fails');
is(job('prune positions'), 'backing_off|1|no space here', 'and says why');
append_ten('T', 'positions', 'staged');
ok(flush_all($node, 'shop'), 'the drain goes on');
is(sql(q{SELECT count(*) FROM event_store.next_events('consumed')}), '50', 'and so do consumers');
sql('DROP TRIGGER full_disk ON event_store.subscription_positions');
sql("SELECT pg_terminate_backend($worker)");
$worker = wait_for_worker($node, 'shop', $worker);
ok(poll(q{SELECT count(*) < 1000 FROM event_store.subscription_positions}), 'and it is made up for');

# ---------- a job that would have to wait for the drain is told that it cannot

$node->append_conf('postgresql.conf', "event_store.write_delay = '1h'\n");
$node->reload;
ok(poll(q{SELECT current_setting('event_store.write_delay') = '1h'}), 'rows stay staged');
append_ten('Log', 'l', 'staged');
# a reducer that writes where something is staged
sql(q{
	CREATE FUNCTION writing(state jsonb, event event_store.event) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM event_store.append_event('Log', 'l', NULL, 'Seen', durability => 'durable');
		RETURN event.payload;
	END $$;
	SELECT event_store.set_reducer('Writing', 'writing');
});
$offset = log_offset($node);
append_ten('Writing', 'w', 'durable');
$node->wait_for_log(qr/WARNING: .*could not take a snapshot of Writing/, $offset);
like(slurp_file($node->logfile, $offset),
	qr/could not take a snapshot of Writing\/w: the worker cannot wait for itself/, 'a reducer that needs staged rows drained');
ok(poll(q{SELECT last_error LIKE '%Writing/w: the worker cannot wait for itself%' AND failures = 0 AND state = 'idle'
            FROM event_store.worker_jobs WHERE job = 'snapshot'}), 'is shown, and its type rests');
is(sql(q{SELECT count(*) FROM event_store.snapshots WHERE aggregate_id = 'w'}), '0', 'without a snapshot');
is(sql(q{SELECT aggregate_type, failures, consecutive_failures, last_error, last_error_at < rests_until FROM event_store.reducer_status}),
	'Writing|1|1|could not take a snapshot of Writing/w: the worker cannot wait for itself|t', 'as reducer_status says');
my $counted = q{SELECT string_agg(name || ' ' || value, ', ' ORDER BY name) FROM event_store.metrics
                 WHERE metric = 'persistence.snapshot.failures'};
is(sql($counted), '(others) 0, Writing 1', 'and the metrics');
append_ten('T', 'after', 'durable');
ok(poll(sprintf $taken, 'after'), 'others are taken');
is(sql($drain), 'idle|0|t', 'the drain has not failed');
is(sql(q{SELECT last_sequence FROM event_store.append_event('Log', 'l', NULL, 'Seen', durability => 'durable')}),
	'11', 'and goes on for a session that does the same');

# the same in a trigger, by each way to wait
sql(q{
	CREATE TABLE calls (call text);
	CREATE FUNCTION calling() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
	BEGIN
		IF (SELECT a.backend_type FROM pg_stat_activity a WHERE a.pid = pg_backend_pid()) = 'event_store worker' THEN
			EXECUTE (SELECT call FROM public.calls);
		END IF;
		RETURN NEW;
	END $$;
	GRANT SELECT ON calls TO PUBLIC;
	CREATE TRIGGER calling BEFORE UPDATE OF safe_position ON event_store.store_state
	    FOR EACH ROW EXECUTE FUNCTION calling();
});
foreach my $call (
	q{SELECT event_store.append_event('Log', 'm', NULL, 'Seen', durability => 'durable')},
	q{SELECT event_store.put_view('V', 'v', '2', durability => 'durable')},
	q{SELECT event_store.flush('10min')},
	q{SELECT event_store.wait_for_events(1000000, '10min')})
{
	my ($function) = $call =~ /event_store\.(\w+)/;

	sql(q{SELECT FROM event_store.append_event('Log', 'm', NULL, 'E', durability => 'staged');
		SELECT event_store.put_view('V', 'v', '1', durability => 'staged');});
	$offset = log_offset($node);
	sql('DELETE FROM calls; INSERT INTO calls VALUES ($call$' . $call . '$call$)');
	# what was left of the last one is the worker's first work
	sql("SELECT pg_terminate_backend($worker)");
	$worker = wait_for_worker($node, 'shop', $worker);
	append_ten('T', $function, 'durable');
	# before its row was there the trigger had nothing to execute, which is another error
	ok($node->wait_for_log(qr/ERROR:  the worker cannot wait for itself.*STATEMENT:  store position/s, $offset), "$function: refused at once");
}
is(sql($drain), 'idle|0|t', 'none of it is a failure of the drain');

# staged writes that would wait are durable instead
$node->append_conf('postgresql.conf', "event_store.staging_limit = 1\nevent_store.on_staging_full = 'block'\n");
$node->reload;
ok(poll(q{SELECT current_setting('event_store.on_staging_full') = 'block'}), 'staging is full');
$worker = wait_for_worker($node, 'shop', $worker);
sql(q{SELECT FROM event_store.append_event('Log', 'm', NULL, 'E', durability => 'staged')})
  if sql('SELECT staged_events FROM event_store.staging_status') eq '0';
sql(q{DELETE FROM calls; INSERT INTO calls
	VALUES ($$SELECT event_store.append_event('Written', 'n', NULL, 'Seen', durability => 'staged')$$)});
sql("SELECT pg_terminate_backend($worker)");
$worker = wait_for_worker($node, 'shop', $worker);
ok(poll(q{SELECT count(*) > 0 FROM event_store.domain_events WHERE aggregate_type = 'Written'}),
	'a staged write that would wait for space is written through');
sql('DROP TRIGGER calling ON event_store.store_state');
ok(flush_all($node, 'shop'), 'all is drained');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
