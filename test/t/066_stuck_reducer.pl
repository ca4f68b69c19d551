# A registered reducer that cannot be stopped, or leaves something behind, costs its
# own type its snapshots and nobody else anything.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('stuck', conf => "event_store.write_delay = '1ms'\nevent_store.snapshot_every = 10\n");
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

# Appends ten events, so that a snapshot is due.
sub append_ten
{
	my ($type, $id) = @_;

	sql(qq{SELECT FROM event_store.append_events('$type', '$id', NULL,
		(SELECT jsonb_agg('{"event_type": "E"}'::jsonb) FROM generate_series(1, 10)))});
	return;
}

my $taken = q{SELECT count(*) = 1 FROM event_store.snapshots WHERE aggregate_id = '%s' AND source = 'server'};

sql(q{
	CREATE FUNCTION locks(state jsonb, event event_store.event) RETURNS jsonb LANGUAGE plpgsql AS
	$$BEGIN PERFORM pg_advisory_lock(4711); RETURN to_jsonb((event).sequence); END$$;
	SELECT event_store.set_reducer('Locks', 'locks');
	CREATE FUNCTION locks_and_fails(state jsonb, event event_store.event) RETURNS jsonb LANGUAGE plpgsql AS
	$$BEGIN PERFORM pg_advisory_lock(4712); RAISE 'failed'; END$$;
	SELECT event_store.set_reducer('Fails', 'locks_and_fails');
	CREATE FUNCTION stuck(state jsonb, event event_store.event) RETURNS jsonb LANGUAGE plpgsql AS
	$$BEGIN
	    LOOP
	        BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN END;
	    END LOOP;
	END$$;
	SELECT event_store.set_reducer('Stuck', 'stuck');
});

# ---------- what it locks for the session goes with the step

my $free = q{SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' AND objid IN (4711, 4712)};
append_ten('Locks', 'l');
ok(poll(sprintf $taken, 'l'), 'a reducer that locks something');
append_ten('Fails', 'f');
ok(poll(q{SELECT last_error LIKE '%Fails/f: failed' FROM event_store.worker_jobs WHERE job = 'snapshot'}), 'and one that fails');
ok(poll($free), 'neither leaves a lock');
is(worker_pid($node, 'shop'), $worker, 'of the worker');

# ---------- one that catches its cancel ends the worker, and its type rests

my $offset = log_offset($node);
append_ten('Stuck', 's');
append_ten('T', 'behind');
$worker = wait_for_worker($node, 'shop', $worker);
ok($worker, 'the worker ends itself, and there is another');
like(slurp_file($node->logfile, $offset), qr/LOG:.*ends itself: could not take a snapshot of Stuck\/s: the reducer went on/s, 'the log says why');
cmp_ok(sql(q{SELECT value FROM event_store.metrics WHERE metric = 'worker.failures'}), '>=', 1, 'and the metrics count it');
ok(poll(sprintf $taken, 'behind'), 'snapshots of others go on');
append_ten('Stuck', 's');
append_ten('T', 'beside');
ok(poll(sprintf $taken, 'beside'), 'also when one of its type is due again');
is(worker_pid($node, 'shop'), $worker, 'by the same worker: the type rests');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
