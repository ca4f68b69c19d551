# Staging that is full: what a staged write does then, and that it never waits where
# others would have to wait for it.  When rows become durable: at once, when a batch is
# full, when somebody asks.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('staging_full',
	conf => "event_store.write_delay = '1h'\nevent_store.staging_limit = 100\nsynchronous_commit = off\n");
$node->start;
create_store_in($node, 'shop');
wait_for_worker($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub configure
{
	my ($name, $value) = @_;

	$node->append_conf('postgresql.conf', "event_store.$name = $value\n");
	$node->reload;
	# the postmaster has told its children when it has told a new one
	$node->poll_query_until('shop', "SELECT setting = '$value' FROM pg_settings WHERE name = 'event_store.$name'")
	  or die "$name was not read";
	return;
}

sub metric
{
	my ($name) = @_;

	return sql("SELECT value::bigint FROM event_store.metrics WHERE metric = 'persistence.queue.$name'");
}

sub staged
{
	return sql('SELECT staged_events + staged_views FROM event_store.staging_status');
}

sub append
{
	my ($id, $full) = @_;

	return qq{SET event_store.on_staging_full = '$full';
		SELECT durable FROM event_store.append_event('T', '$id', NULL, 'x', durability => 'staged');};
}

# A trigger behind which the drain waits as long as somebody holds the gate.
sql(<<'SQL');
CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1) FROM pg_stat_activity
      WHERE pid = pg_backend_pid() AND backend_type = 'event_store worker';
    RETURN NULL;
END
$$;
CREATE TRIGGER gate BEFORE INSERT ON event_store.domain_events FOR EACH STATEMENT EXECUTE FUNCTION gate();
SQL
my $gate = $node->background_psql('shop');

sub close_gate
{
	$gate->query_safe('SELECT pg_advisory_lock(1)');
	return;
}

sub open_gate
{
	$gate->query_safe('SELECT pg_advisory_unlock(1)');
	return;
}

my $at_gate = q{SELECT count(*) = 1 FROM pg_stat_activity
	WHERE backend_type = 'event_store worker' AND wait_event = 'advisory'};

# Sessions that wait for space.
my $blocked = q{SELECT value = %d FROM event_store.metrics WHERE metric = 'persistence.queue.waiting'};

sub wait_for_blocked
{
	my ($count) = @_;

	return $node->poll_query_until('shop', sprintf($blocked, $count));
}

sub start
{
	my ($statements) = @_;
	my $session = $node->background_psql('shop', on_error_stop => 0);

	$session->query_until(qr/started/, "\\echo started\n$statements\n");
	return $session;
}

# What a session said last, and what it was refused with.
sub end
{
	my ($session) = @_;
	my $said = $session->query('SELECT') . $session->{stderr};

	$session->quit;
	return $said =~ s/^\s+|\s+$//gr;
}

# ---------- full: refused, or durable

is(stage($node, 'shop', 'fill', 10, 10), '100', 'staging is filled');
is(staged(), '100', 'to the limit');
like(error_of($node, 'shop', append('e', 'error')), qr/VS004/, 'error: refused');
like(error_of($node, 'shop', q{SET event_store.on_staging_full = 'error'; SELECT event_store.put_view('V', 'v', '1', durability => 'staged')}),
	qr/VS004/, 'also a view');
is(metric('refused'), '2', 'and counted');
is(sql(append('d', 'durable')), 't', 'durable: written through');
is(sql(q{SELECT event_store.put_view('V', 'v', '1', durability => 'staged')}), 't', 'also a view');
is(sql(q{SELECT count(*) FROM event_store.domain_views}), '1', 'which is durable');
is(metric('bypassed'), '2', 'and counted');
is(staged(), '100', 'nothing was added');
is(sql(append('e', 'error') =~ s/'staged'/'durable'/r), 't', 'durable appends are not concerned');

# ---------- block: waits for space, holding nothing

is(metric('blocked'), '0', 'nobody has waited yet');
close_gate();
my @waiting = map { start(append("b-$_", 'block')) } (1 .. 3);
ok(wait_for_blocked(3), 'three sessions wait for space');
ok($node->poll_query_until('shop', $at_gate), 'and have asked for a drain');
is(sql(q{SELECT string_agg(DISTINCT wait_event_type || ' ' || wait_event, ',') FROM pg_stat_activity
	      WHERE query LIKE '%''b-_''%' AND pid <> pg_backend_pid()}) =~ s/EventStoreSpace/Extension/r,
	'Extension Extension', 'on a condition variable');
is(sql(q{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
	      WHERE a.query LIKE '%''b-_''%' AND a.pid <> pg_backend_pid() AND l.locktype = 'advisory'}),
	'0', 'without a lock on their aggregates');
is(sql(q{SELECT durable FROM event_store.append_event('T', 'b-1', NULL, 'x', durability => 'durable')}),
	't', 'so others append to them');

# they can be cancelled, and have timeouts
my $victim = start(append('cancelled', 'block'));
ok(wait_for_blocked(4), 'a fourth one');
is(sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%''cancelled''%' AND pid <> pg_backend_pid()}),
	't', 'is cancelled');
like(end($victim), qr/canceling statement due to user request/, 'and says so');
ok(wait_for_blocked(3), 'it waits no more');
like(error_of($node, 'shop', q{SET statement_timeout = '100ms';} . append('timeout', 'block')),
	qr/57014.*statement timeout/, 'statement_timeout ends the wait');
$victim = start(append('terminated', 'block'));
ok(wait_for_blocked(4), 'another one');
is(sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%''terminated''%' AND pid <> pg_backend_pid()}),
	't', 'is terminated');
ok(wait_for_blocked(3), 'which ends its wait');
undef $victim;
# it is no lock that is waited for
is(sql(q{SET lock_timeout = '1ms'; SET event_store.on_staging_full = 'block'; SET statement_timeout = '50ms';
	DO $$BEGIN PERFORM event_store.append_event('T', 'lock-timeout', NULL, 'x', durability => 'staged');
	EXCEPTION WHEN query_canceled THEN CREATE TEMP TABLE state AS SELECT SQLSTATE; END$$;
	TABLE state}),
	'57014', 'lock_timeout does not');

# ---------- never in a transaction that holds the lock of an aggregate

my $holder = $node->background_psql('shop');
like($holder->query_safe(q{SET event_store.on_staging_full = 'block'; BEGIN;
	SELECT outcome FROM event_store.append_batch(ARRAY['T'], ARRAY['held'], ARRAY['x'], NULL, ARRAY[7], on_conflict => 'report', durability => 'durable');
	SELECT durable FROM event_store.append_event('T', 'other', NULL, 'x', durability => 'staged');
	SELECT event_store.put_view('V', 'other', '1', durability => 'staged');}),
	qr/^conflict\s+f\s+t$/, 'who holds a lock is let in');
$holder->query_safe('COMMIT');
is(staged(), '102', 'above the limit');
is($holder->query_safe(q{SET event_store.on_staging_full = 'error'; BEGIN;
	SELECT event_store.put_view('V', 'held', '1', durability => 'durable');
	SELECT event_store.put_view('V', 'another', '2', durability => 'staged'); COMMIT}), "t\nt", 'what follows a durable write is durable, however full staging is');
is(staged(), '102', 'and not staged');
$holder->quit;

# ---------- when there is space they go on

open_gate();
is(end($_), 'f', 'who waited is staged') foreach @waiting;
ok(wait_for_blocked(0), 'nobody waits');
cmp_ok(metric('blocked'), '>=', '6', 'and all waits were counted');
is(sql(q{SELECT event_store.aggregate_sequence('T', 'b-1')}), '2', 'behind the one who did not wait');
is(sql(q{SELECT string_agg(event_store.aggregate_sequence('T', id)::text, ' ') FROM unnest(ARRAY['cancelled', 'timeout', 'terminated', 'lock-timeout']) id}),
	'0 0 0 0', 'those that gave up left nothing');
ok(flush_all($node, 'shop'), 'all is drained');

# ---------- many writers against a small limit: all get through, the limit holds

configure('staging_limit', 20);
my @writers = map {
	start("SET event_store.on_staging_full = 'block';" . join '', map {
		"SELECT FROM event_store.append_event('Crowd', 'c-' || $_ % 7, NULL, 'x', durability => 'staged');"
	} (1 .. 150))
} (1 .. 4);
my $most = 0;
while (sql(q{SELECT count(*) FROM event_store.load_aggregate_ids('Crowd') id, LATERAL event_store.load_events('Crowd', id)}) < 600)
{
	my $now = staged();
	$most = $now if $now > $most;
}
end($_) foreach @writers;
cmp_ok($most, '<=', 24, 'the limit is passed by a row a session at most');
ok(flush_all($node, 'shop'), 'drained');
is(sql(q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'Crowd'}), '600', 'nothing is lost');
configure('staging_limit', 1000000);

# ---------- flush() is a barrier, and waits for no tick

close_gate();
is(stage($node, 'shop', 'barrier', 5, 5), '25', 'rows wait for write_delay');
ok($node->poll_query_until('shop', "SELECT drain_state = 'idle' FROM event_store.staging_status"), 'of an hour');
is(sql(q{SELECT event_store.flush('50ms')}), 'f', 'flush() that is over too early says so');
my $flush = start(q{SELECT event_store.flush('5min');});
ok($node->poll_query_until('shop', $at_gate), 'flush() starts a round');
# what comes later does not hold it up
stage($node, 'shop', 'later', 5, 5);
open_gate();
is(end($flush), 't', 'and returns when that is done');
is(sql(q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_id LIKE 'barrier-%'}), '25', 'with all that was committed before');
is(sql(q{SELECT event_store.flush()}), 't', 'the rest');
is(staged(), '0', 'is drained as well');
my $rounds = sql(q{SELECT value FROM event_store.metrics WHERE metric = 'persistence.drain.rounds'});
is(sql(q{SELECT event_store.flush() FROM generate_series(1, 3)}), "t\nt\nt", 'with nothing staged flush() returns at once');
is(sql(q{SELECT value FROM event_store.metrics WHERE metric = 'persistence.drain.rounds'}), $rounds, 'and asks nobody');

# an open transaction is not waited for
my $open = $node->background_psql('shop');
$open->query_safe(q{BEGIN; SELECT FROM event_store.append_event('T', 'open', 0, 'x', durability => 'staged')});
stage($node, 'shop', 'beside', 2, 2);
is(sql(q{SELECT event_store.flush()}), 't', 'flush() does not wait for open transactions');
is(sql(q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_id LIKE 'beside-%'}), '4', 'nor does the drain');
$open->query_safe('COMMIT');
$open->quit;
is(staged(), '1', 'whose rows come after');
like(error_of($node, 'shop', 'BEGIN; SELECT event_store.flush()'), qr/25001/, 'not in a transaction block');
like(error_of($node, 'shop', 'BEGIN; SELECT event_store.drain()'), qr/25001/, 'neither');
like(error_of($node, 'shop', q{SELECT event_store.flush('11min')}), qr/22023/, 'a timeout without a unit');

# ---------- drain(): a round in the foreground

is(sql('SELECT event_store.drain()'), '1', 'drain() moves what is there');
sql(q{SELECT event_store.append_event('T', 'one-by-one', NULL, 'x', durability => 'staged')}) foreach (1 .. 10);
is(sql('SELECT event_store.drain(3)'), '3', 'about as much as it is told');
is(sql('SELECT event_store.drain(100)'), '7', 'or all');
is(sql('SELECT event_store.drain()'), '0', 'or nothing');
stage($node, 'shop', 'whole', 10, 10);
is(sql('SELECT event_store.drain(1)'), '100', 'but whole transactions');

# ---------- a full batch is drained at once

configure('write_batch_size', 50);
stage($node, 'shop', 'batch', 7, 7);
is(staged(), '49', 'a batch that is not full waits');
sql(q{SELECT event_store.put_view('V', 'fills', '1', durability => 'staged')});
ok($node->poll_query_until('shop', 'SELECT staged_events + staged_views = 0 FROM event_store.staging_status'),
	'one that is full is drained though write_delay is an hour');
stage($node, 'shop', 'large', 20, 20);
ok($node->poll_query_until('shop', 'SELECT staged_events = 0 FROM event_store.staging_status'), 'as is a larger one');

# ---------- write_delay = 0: written through; staging_limit = 0: off

configure('write_delay', 0);
is(sql(append('through', 'error')), 't', 'write_delay = 0: durable');
is(sql(q{SELECT count(*) FILTER (WHERE global_position IS NOT NULL) FROM event_store.append_batch(
	    '[{"aggregate_type": "T", "aggregate_id": "through", "event_type": "x"}]', durability => 'staged')}), '1', 'also a batch');
configure('write_delay', 3600000);
configure('staging_limit', 0);
is(sql(append('off', 'error')), 't', 'staging_limit = 0: durable, and no error');
is(sql(append('off', 'block')), 't', 'nor does anybody wait');
configure('staging_limit', 1000000);
is(sql(append('on', 'error')), 'f', 'and back again');
ok(flush_all($node, 'shop'), 'all is drained');
is(sql(q{SELECT count(*) FROM (SELECT FROM event_store.domain_events GROUP BY aggregate_type, aggregate_id
	      HAVING min(sequence) <> 1 OR max(sequence) <> count(*)) broken}), '0', 'every aggregate is whole');
is(sql('SELECT count(*) FROM event_store.dead_letters'), '0', 'no dead letters');

$gate->quit;
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
