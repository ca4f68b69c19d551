# What replay does on its own and over time: the worker's snapshots, a rebuild
# seen while it runs, cancelled, and gone on with after a crash.

use strict;
use warnings;

use EventStoreTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('replay', conf => "event_store.snapshot_every = 10\n");
$node->start;
create_store_in($node, 'shop');

sub shop
{
	my ($statement) = @_;
	return $node->safe_psql('shop', $statement);
}

# Appends "count" events to an aggregate, one transaction each.
sub append
{
	my ($type, $id, $count, $durability) = @_;

	shop(qq{SELECT event_store.append_event('$type', '$id', NULL, 'Counted', '{"n": 1}', durability => '$durability');}
		  x $count);
	return;
}

sub snapshot_of
{
	my ($type, $id) = @_;
	return shop(
		qq{SELECT sequence FROM event_store.snapshots WHERE aggregate_type = '$type' AND aggregate_id = '$id' AND source = 'server'}
	);
}

sub wait_for_snapshot
{
	my ($type, $id, $sequence, $title) = @_;

	ok( $node->poll_query_until(
			'shop',
			qq{SELECT EXISTS (SELECT FROM event_store.snapshots WHERE aggregate_type = '$type'
				AND aggregate_id = '$id' AND source = 'server' AND sequence >= $sequence)}),
		$title);
	return;
}

# Every snapshot is the state at its sequence.
sub snapshots_are_right
{
	my ($title) = @_;

	is( shop(
			q{SELECT count(*) FROM event_store.snapshots s
			WHERE s.state IS DISTINCT FROM (SELECT event_store.fold_events(e ORDER BY e.sequence)
				FROM event_store.load_events(s.aggregate_type, s.aggregate_id, up_to_sequence => s.sequence) e)}),
		'0', $title);
	return;
}

# --- snapshots by the worker

append('Order', 'few', 9, 'durable');
append('Order', 'many', 10, 'durable');
wait_for_snapshot('Order', 'many', 10, 'the worker takes a snapshot of an aggregate of snapshot_every events');
is(snapshot_of('Order', 'few'), '', 'and none of one that has fewer');
append('Order', 'many', 10, 'durable');
wait_for_snapshot('Order', 'many', 20, 'and the next one after as many again');

shop(q{SELECT event_store.append_events('Batch', 'b-' || i, 0, (SELECT jsonb_agg('{"event_type": "E"}'::jsonb) FROM generate_series(1, 35)))
	FROM generate_series(1, 20) i});
wait_for_snapshot('Batch', "b-$_", 35, "an aggregate of one large transaction ($_)") for (1, 20);

$node->safe_psql('postgres', q{ALTER SYSTEM SET event_store.write_delay = '1h'});
$node->reload;
append('Staged', 's', 15, 'staged');
append('Order', 'after', 10, 'durable');
wait_for_snapshot('Order', 'after', 10, 'while others are staged');
is(snapshot_of('Staged', 's'), '', 'staged events are in no snapshot');
flush_all($node, 'shop');
wait_for_snapshot('Staged', 's', 15, 'drained ones are');
$node->safe_psql('postgres', q{ALTER SYSTEM RESET event_store.write_delay});
$node->reload;
snapshots_are_right('every snapshot is the state at its sequence');

# rolled back, whole or in part
shop(q{BEGIN; SELECT event_store.append_events('Order', 'gone', 0, (SELECT jsonb_agg('{"event_type": "E"}'::jsonb) FROM generate_series(1, 10))); ROLLBACK});
shop(q{BEGIN; SAVEPOINT s;
	SELECT event_store.append_events('Order', 'part', 0, (SELECT jsonb_agg('{"event_type": "E"}'::jsonb) FROM generate_series(1, 10)));
	ROLLBACK TO s;
	SELECT event_store.append_events('Order', 'part', 0, (SELECT jsonb_agg('{"event_type": "E"}'::jsonb) FROM generate_series(1, 20)));
	COMMIT});
wait_for_snapshot('Order', 'part', 20, 'a rolled back part of a transaction');

# --- a reducer that fails

my $log = -s $node->logfile;
shop(q{CREATE FUNCTION boom(state jsonb, event event_store.event) RETURNS jsonb LANGUAGE plpgsql
	AS $$ BEGIN RAISE EXCEPTION 'boom %', event.aggregate_id; END $$;
	SELECT event_store.set_reducer('Failing', 'boom')});
append('Failing', "f-$_", 10, 'durable') for (1 .. 3);
append('Order', 'beside', 10, 'durable');
wait_for_snapshot('Order', 'beside', 10, 'a failing reducer keeps no other aggregate waiting');
my $said = slurp_file($node->logfile, $log);
my @warnings = $said =~ /WARNING:.*could not take a snapshot of (.*)/g;
is_deeply(\@warnings, ['Failing/f-1: boom f-1'], 'and is logged once');
like($said, qr/reducer public\.boom at event 1 \(Counted\) of Failing\/f-1/, 'with the event');
is(shop('SELECT consecutive_failures FROM event_store.worker_status'), '0', 'the worker has not failed');
isnt(worker_pid($node, 'shop'), '', 'and is there');

# --- a failing type is left alone for longer each time

# A reducer writes down when it began: what a sequence counts is not rolled back.
shop(q{CREATE SEQUENCE attempts; CREATE SEQUENCE at_1; CREATE SEQUENCE at_2; CREATE SEQUENCE at_3; CREATE SEQUENCE at_4;
	CREATE FUNCTION failing(state jsonb, event event_store.event) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM setval(format('public.at_%s', nextval('public.attempts')), (1000 * extract(epoch FROM clock_timestamp()))::bigint);
		PERFORM pg_sleep(0.03);
		RAISE EXCEPTION 'again';
	END $$;
	SELECT event_store.set_reducer('Again', 'failing')});
append('Again', 'a', 10, 'durable') until shop('SELECT is_called FROM at_4') eq 't';
my @at = map { shop("SELECT last_value FROM at_$_") } 1 .. 4;
cmp_ok($at[1] - $at[0], '>=', 299, 'after a failure a type rests nine times as long as that took');
cmp_ok($at[2] - $at[1], '>=', 569, 'after the next one twice as long');
cmp_ok($at[3] - $at[2], '>=', 1109, 'and again');

# --- a slow type keeps no other waiting, be its snapshots taken or not

shop(q{CREATE FUNCTION slow_reducer(state jsonb, event event_store.event) RETURNS jsonb LANGUAGE plpgsql
	AS $$ BEGIN PERFORM pg_sleep(0.2); RETURN event.payload; END $$;
	SELECT event_store.set_reducer('Slow', 'slow_reducer')});
my $both = q{SELECT FROM event_store.append_events('%1$s', '%2$s', 0, (SELECT jsonb_agg('{"event_type": "E"}'::jsonb) FROM generate_series(1, 10)));
	SELECT FROM event_store.append_events('Quick', '%2$s', 0, (SELECT jsonb_agg('{"event_type": "E"}'::jsonb) FROM generate_series(1, 10)));};
shop('BEGIN;' . sprintf($both, 'Slow', 's') . 'COMMIT');
wait_for_snapshot('Quick', 's', 10, 'a snapshot behind a slow one');
is(snapshot_of('Slow', 's'), '10', 'which is taken');
cmp_ok(shop(q{SELECT extract(epoch FROM q.created_at - s.created_at) FROM event_store.snapshots q, event_store.snapshots s
	WHERE q.aggregate_type = 'Quick' AND s.aggregate_type = 'Slow'}), '<', 9, 'is taken soon after');

shop(q{CREATE FUNCTION slow_failure(state jsonb, event event_store.event) RETURNS jsonb LANGUAGE plpgsql
	AS $$ BEGIN PERFORM pg_sleep(2); RAISE EXCEPTION 'slow'; END $$;
	SELECT event_store.set_reducer('SlowFailing', 'slow_failure')});
my $before = shop('SELECT clock_timestamp()');
shop('BEGIN;' . join('', map { sprintf($both, 'SlowFailing', "f-$_") } 1 .. 3) . 'COMMIT');
wait_for_snapshot('Quick', "f-$_", 10, "a snapshot behind a slow failure ($_)") for (1 .. 3);
is(shop(q{SELECT max(created_at) - '} . $before . q{' < '11s' FROM event_store.snapshots WHERE aggregate_type = 'Quick'}),
	't', 'and soon');

# --- one that takes longer than the worker has for it

shop(q{CREATE FUNCTION slower(state jsonb, event event_store.event) RETURNS jsonb LANGUAGE plpgsql
	AS $$ BEGIN PERFORM pg_sleep(1.1); RETURN event.payload; END $$;
	SELECT event_store.set_reducer('Slower', 'slower');
	SELECT FROM event_store.append_events('Slower', 's', 0, (SELECT jsonb_agg('{"event_type": "E"}'::jsonb) FROM generate_series(1, 10)))});
wait_for_snapshot('Slower', 's', 1, 'what takes too long gets a snapshot on its way');
cmp_ok(snapshot_of('Slower', 's'), '<', 10, 'and not at its end');

# --- never

$node->safe_psql('postgres', 'ALTER SYSTEM SET event_store.snapshot_every = 0');
$node->reload;
ok($node->poll_query_until('shop', q{SELECT current_setting('event_store.snapshot_every') = '0'}), 'snapshot_every = 0');
append('Order', 'never', 30, 'durable');
$node->safe_psql('postgres', 'ALTER SYSTEM SET event_store.snapshot_every = 10');
$node->reload;
ok($node->poll_query_until('shop', q{SELECT current_setting('event_store.snapshot_every') = '10'}), 'snapshot_every = 10');
append('Order', 'again', 10, 'durable');
wait_for_snapshot('Order', 'again', 10, 'taken again');
is(snapshot_of('Order', 'never'), '', 'none is taken at 0');

# --- large snapshots are taken into memory one by one

SKIP:
{
	skip 'this system does not tell the memory of a process', 2 unless -r '/proc/self/status';
	shop(q{
		SELECT count(*) FROM event_store.append_batch((SELECT jsonb_agg(jsonb_build_object('aggregate_type', 'Large',
			'aggregate_id', 'l-' || i % 1000, 'event_type', 'E', 'payload', to_jsonb(i))) FROM generate_series(1, 2000) i));
		INSERT INTO event_store.snapshots (aggregate_type, aggregate_id, source, sequence, state, reducer_version)
			SELECT 'Large', 'l-' || i, 'server', 1, jsonb_build_object('x', repeat('x', 500000)), 0 FROM generate_series(0, 999) i});
	my ($count, $high) = split /\|/, shop(q{
		SELECT count(*), substring(pg_read_file('/proc/self/status') FROM 'VmHWM:\s*(\d+)')::int / 1024
			FROM event_store.replay_aggregates('Large') WHERE state::int > 1000});
	is($count, '1000', 'aggregates go on from large snapshots');
	cmp_ok($high, '<', 300, 'which are not all in memory at once');
}

# --- a rebuild while it runs

shop(q{SELECT count(*) FROM (SELECT event_store.append_event('View', 'v-' || i, 0, 'Made', jsonb_build_object('n', i))
	FROM generate_series(1, 50) i) a});
shop(q{CREATE FUNCTION waiting(state jsonb, event event_store.event) RETURNS jsonb LANGUAGE plpgsql
	AS $$ BEGIN IF event.aggregate_id = 'v-30' THEN PERFORM pg_advisory_xact_lock(7); END IF; RETURN event.payload; END $$;
	SELECT event_store.set_reducer('View', 'waiting')});

# A psql that keeps its session: what it answered lies in {out}.
sub session
{
	my ($name) = @_;
	my $session = { in => '', out => '' };

	$session->{run} = IPC::Run::start(
		[ 'psql', '-XAt', '-d', $node->connstr('shop') . " application_name=$name" ],
		'<', \$session->{in}, '>', \$session->{out}, '2>', \$session->{out},
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return $session;
}

sub send_to
{
	my ($session, $statement) = @_;

	$session->{in} .= "$statement\n";
	$session->{run}->pump_nb;
	return;
}

sub wait_for_answer
{
	my ($session, $pattern) = @_;

	$session->{run}->pump until $session->{out} =~ $pattern;
	return;
}

my $holder = session('holder');
send_to($holder, q{SELECT 'locked' FROM (SELECT pg_advisory_lock(7)) l;});
wait_for_answer($holder, qr/^locked$/m);
my $rebuilder = session('rebuilder');
send_to($rebuilder, q{SELECT 'rows ' || event_store.rebuild_view('V', 'View');});
my $at_lock = q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'rebuilder' AND wait_event = 'advisory'};
ok($node->poll_query_until('shop', $at_lock), 'a rebuild has come half way');
is( shop(q{SELECT view_name, aggregate_type, done, total, rate > 0, started_at <= now(), pid IS NOT NULL FROM event_store.rebuild_status}),
	'V|View|23|50|t|t|t', 'how far it is is seen while it runs');
is($node->safe_psql('postgres', 'CREATE DATABASE other; '), '', 'another database');
$node->safe_psql('other', 'CREATE EXTENSION event_store; SELECT event_store.create_store()');
is($node->safe_psql('other', 'SELECT count(*) FROM event_store.rebuild_status'), '0', 'but not there');
is(shop(q{SELECT event_store.put_view('V', 'v-1', '"put"', 1)}), 't', 'and nobody waits for it');

# cancelled: its reducer waits, and the statement ends
is(shop(q{SELECT pg_cancel_backend(pid) FROM event_store.rebuild_status}), 't', 'a rebuild is cancelled');
wait_for_answer($rebuilder, qr/canceling statement/);
like($rebuilder->{out}, qr/reducer public\.waiting at event 1 \(Made\) of View\/v-30/, 'and says where it was');
is(shop('SELECT count(*) FROM event_store.rebuild_status'), '0', 'nothing of it is left');
is(shop(q{SELECT view_key, view_data FROM event_store.load_views('V')}), 'v-1|"put"', 'nor in the view');

# killed: the same
send_to($rebuilder, q{SELECT 'rows ' || event_store.rebuild_view('V', 'View');});
ok($node->poll_query_until('shop', $at_lock), 'half way again');
is(shop(q{SELECT pg_terminate_backend(pid) FROM event_store.rebuild_status}), 't', 'a rebuild is ended');
ok($node->poll_query_until('shop', 'SELECT count(*) = 0 FROM event_store.rebuild_status'), 'nothing of it is left');
$rebuilder->{run}->finish;
send_to($holder, '\q');
$holder->{run}->finish;

# a long fold without a waiting call
shop(q{CREATE FUNCTION slow(state jsonb, event event_store.event) RETURNS jsonb LANGUAGE plpgsql
	AS $$ BEGIN LOOP END LOOP; END $$});
for my $call (q{replay_aggregate('View', 'v-1', reducer => 'slow')})
{
	like(error_of($node, 'shop', "SET statement_timeout = '50ms'; SELECT event_store.$call"),
		qr/57014.*canceling statement/s, "$call is cancelled");
}

# --- in steps, over a crash

is(shop(q{SELECT event_store.rebuild_view_step('V', 'View', 10)}), 'f', 'a step');
is(shop(q{SELECT event_store.rebuild_view_step('V', 'View', 10)}), 'f', 'and another');
shop(q{UPDATE event_store.view_rebuild_rows SET state = '"kept"' WHERE view_key = 'v-10'});
$node->stop('immediate');
$node->start;
is(shop('SELECT view_name, done, total FROM event_store.rebuild_status'), 'V|20|50', 'are there after a crash');
is(shop(q{SELECT event_store.rebuild_view('V', 'View')}), '50', 'and a rebuild goes on from them');
is(shop(q{SELECT count(*) FILTER (WHERE view_data = '"kept"'), count(*) FROM event_store.load_views('V')}), '1|50', 'without folding them again');
is(shop('SELECT count(*) FROM event_store.view_rebuild_rows'), '0', 'and leaves nothing behind');

$node->stop;
done_testing();
