# Reading where some events are in the archive: nobody opens it who needs nothing of it, so
# who holds it up holds up no append, no load of an open aggregate and no reader at the
# tail, and in a store that moved nothing nobody at all; a standby reads both tables,
# so does what it becomes; who waits is woken by an event that has gone there at once.

use strict;
use warnings;

use EventStoreTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_server('primary', init => { allows_streaming => 1 },
	conf => "event_store.write_delay = '20ms'\nmax_connections = 30\n");
$primary->start;
create_store_in($primary, 'shop');
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

sub sql
{
	return $primary->safe_psql('shop', $_[0]);
}

# What a statement gives, or how it failed; what waits for a lock ends with an error.
sub answer
{
	my ($statement, %options) = @_;
	my ($status, $out, $err) = ($options{node} // $primary)->psql('shop', "SET statement_timeout = '15s'; $statement");

	return $status == 0 ? $out : $err;
}

# Moves events to the archive as an owner may.
sub move
{
	my ($where) = @_;

	return qq{
		ALTER TABLE event_store.domain_events DISABLE TRIGGER USER;
		ALTER TABLE event_store.domain_events_archive DISABLE TRIGGER USER;
		WITH gone AS (DELETE FROM event_store.domain_events WHERE $where RETURNING *)
		INSERT INTO event_store.domain_events_archive SELECT * FROM gone;
		INSERT INTO event_store.closed_aggregates (aggregate_type, aggregate_id, state, last_sequence, last_position, last_recorded_at)
		SELECT DISTINCT ON (aggregate_id) aggregate_type, aggregate_id, 'archived', sequence, global_position, recorded_at
		  FROM event_store.domain_events_archive a
		 WHERE NOT EXISTS (SELECT FROM event_store.domain_events e WHERE e.aggregate_id = a.aggregate_id)
		   AND NOT EXISTS (SELECT FROM event_store.closed_aggregates c WHERE c.aggregate_id = a.aggregate_id)
		 ORDER BY aggregate_id, sequence DESC;
		SELECT setval('event_store.archived_position', (SELECT max(global_position) FROM event_store.domain_events_archive)) IS NULL;
		ALTER TABLE event_store.domain_events ENABLE ALWAYS TRIGGER domain_events_append_only, ENABLE ALWAYS TRIGGER domain_events_append_only_row;
		ALTER TABLE event_store.domain_events_archive ENABLE TRIGGER USER;
	};
}

# Of aggregates 'open', 'kept' and 'done' 5 events each, in turns.
sql(q{SELECT event_store.create_subscription('all'), event_store.create_subscription('before');
	SELECT event_store.set_reducer_rules('T', '{"events": {"Added": [{"op": "increment", "path": "$.n", "value": 1}]}}');
	SELECT count(event_store.append_event('T', (ARRAY['kept', 'done', 'open'])[1 + n % 3], NULL, 'Added', '{}', saga_id => 's',
	                                      event_id => ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid))
	  FROM generate_series(0, 14) n});
my $last = sql('SELECT max(global_position) FROM event_store.domain_events');

# What is read, and what it gives however the events are divided.
my @reads = (
	[ "SELECT count(*) FROM event_store.load_events('T', 'open')", 5 ],
	[ "SELECT count(*) FROM event_store.load_events('T', 'open', 3)", 2 ],
	[ "SELECT count(*) FROM event_store.load_events('T', 'open', backward => true)", 5 ],
	[ "SELECT count(*) FROM event_store.load_events('T', 'open', 5)", 0 ],
	[ "SELECT count(*) FROM event_store.load_events('T', 'none')", 0 ],
	[ "SELECT count(*) FROM event_store.load_events('T', 'kept', 3)", 2 ],
	[ "SELECT count(*) FROM event_store.load_events('T', 'kept', backward => true, max_count => 2)", 2 ],
	[ "SELECT count(*) FROM event_store.load_event('00000000-0000-7000-8000-000000000002')", 1 ],
	[ "SELECT event_store.aggregate_sequence('T', 'done')", 5 ],
	[ "SELECT event_count FROM event_store.aggregate_info('T', 'done')", 5 ],
	[ "SELECT event_count FROM event_store.aggregate_info('T', 'kept')", 5 ],
	[ "SELECT state FROM event_store.replay_aggregate('T', 'open')", '{"n": 5}' ],
	[ "SELECT state FROM event_store.replay_aggregate('T', 'open', as_of_time => now())", '{"n": 5}' ],
	[ "SELECT state FROM event_store.replay_aggregate('T', 'open', as_of_sequence => 2)", '{"n": 2}' ],
	[ "SELECT count(*) FROM event_store.read_events($last)", 0 ],
	[ "SELECT count(*) FROM event_store.read_events(0, 1, backward => true)", 1 ],
	[ "SELECT event_store.safe_position()", $last ],
	[ "SELECT event_store.wait_for_events($last, '10ms')", $last ],
	[ "SELECT count(*) > 0 FROM event_store.metrics", 't' ]);
my @more = (
	[ "SELECT count(*) FROM event_store.load_events('T', 'done')", 5 ],
	[ "SELECT count(*) FROM event_store.load_events('T', 'kept')", 5 ],
	[ "SELECT count(*) FROM event_store.load_event('00000000-0000-7000-8000-000000000001')", 1 ],
	[ "SELECT count(*) FROM event_store.load_aggregate_ids('T')", 3 ],
	[ "SELECT count(*) FROM event_store.saga_log('s')", 15 ],
	[ "SELECT state FROM event_store.replay_aggregate('T', 'done')", '{"n": 5}' ],
	[ "SELECT state FROM event_store.replay_aggregate('T', 'kept', as_of_sequence => 2)", '{"n": 2}' ],
	[ "SELECT count(*) FROM event_store.replay_aggregates('T')", 3 ],
	[ "SELECT count(*) FROM event_store.read_events(0)", 15 ],
	[ "SELECT event_store.position_at(now())", $last ]);

sub gives
{
	my ($what, $reads, %options) = @_;

	is(answer($_->[0], %options), $_->[1], "$what: $_->[0]") foreach @$reads;
	return;
}

# ---------- nothing was moved

my $holder = $primary->background_psql('shop');
my $lock = 'BEGIN; LOCK TABLE event_store.domain_events_archive, event_store.closed_aggregates';
$holder->query_safe($lock);
gives('nothing was moved, and the archive is locked', [ @reads, @more ]);
is(answer(q{SELECT lag_events FROM event_store.subscription_status WHERE subscription_name = 'all'}), 15, 'so is what lies ahead of a subscription');
is(answer(q{SELECT count(*) FROM event_store.rebuild_view('V', 'T')}), 1, 'and a view is rebuilt');
is(answer(q{SELECT count(*) FROM event_store.next_events('before', 100)}), 15, 'and a subscription served');
$holder->query_safe('ROLLBACK');

# ---------- some of it was moved, and the archive is locked

sql('BEGIN; ' . move(q{aggregate_id = 'done' OR aggregate_id = 'kept' AND sequence < 4}) . 'COMMIT');
gives('some was moved', [ @reads, @more ]);
is(sql(q{SELECT count(*) FROM event_store.next_events('all', 100)}), 15, 'a subscription gets both');
$holder->query_safe('BEGIN; LOCK TABLE event_store.domain_events_archive');
gives('the archive is locked', \@reads);
is(answer(q{SELECT last_sequence FROM event_store.append_event('T', 'open', 5, 'Added')}), 6, 'an append does not wait');
is(answer(q{SELECT last_sequence FROM event_store.append_event('T', 'new', 0, 'Added')}), 1, 'nor one to a new aggregate');
is(answer(q{SELECT last_sequence FROM event_store.append_event('T', 'kept', NULL, 'Added')}), 6, 'nor one to an aggregate whose first events are there');
is(answer("SELECT count(*) FROM event_store.read_events($last)"), 3, 'a reader at the tail has them');
is(answer(q{SELECT count(*) FROM event_store.next_events('all', 100)}), 3, 'so has a subscription');
$holder->query_safe('ROLLBACK');

# ---------- woken by an event that has gone to the archive at once

sql(q{SELECT event_store.create_subscription('waiting', '{Fleeting}', start_after => event_store.safe_position())});

# How long a consumer that waits at most 5 s takes to get an event that is moved in the
# transaction that appends it; the machine may be slow, so the best of three counts.
sub woken_after
{
	my ($id) = @_;
	my $out = '';
	my $run = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $primary->connstr('shop') . ' application_name=waiting',
		  '-c', q{SELECT string_agg(e.aggregate_id, ' '), extract(epoch FROM clock_timestamp() - now()) FROM event_store.next_events('waiting', 10, '5s') e} ],
		'>&', \$out, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));

	$primary->poll_query_until('postgres',
		q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'waiting' AND wait_event_type = 'Extension'})
	  or die 'nobody waits';
	sql("BEGIN; SELECT event_store.append_event('Fleeting', '$id', 0, 'Added'); " . move("aggregate_id = '$id'") . 'COMMIT');
	$run->finish;
	like($out, qr/^$id\|/, 'who waits is given an event that was moved in the transaction that appended it');
	return (split /\|/, $out)[1];
}
my ($best) = sort { $a <=> $b } map { woken_after("f-$_") } 1 .. 3;
cmp_ok($best, '<', 4.5, 'and is woken by it');
sql(q{BEGIN; } . move(q{aggregate_id IN ('new', 'open')}) . 'COMMIT');

# ---------- a restart, a crash and a standby

$last = sql('SELECT event_store.safe_position()');
my $all = "SELECT count(*), count(DISTINCT event_id) FROM event_store.read_events(0)";
my $ids = "SELECT string_agg(id, ' ') FROM event_store.load_aggregate_ids('T') id";
my $open = "SELECT count(*), (SELECT state FROM event_store.replay_aggregate('T', 'open')) FROM event_store.load_events('T', 'open')";

sub is_whole
{
	my ($node, $what) = @_;

	is($node->safe_psql('shop', $all), '21|21', "$what: the feed is whole");
	is($node->safe_psql('shop', $ids), 'done kept new open', "$what: so is the list of aggregates");
	is($node->safe_psql('shop', $open), '6|{"n": 6}', "$what: and one of them");
	is($node->safe_psql('shop', 'SELECT event_store.safe_position()'), $last, "$what: and the safe position");
	return;
}

is_whole($primary, 'moved');
ok($primary->poll_query_until('shop', "SELECT safe_position = $last FROM event_store.store_state"), 'the position is stored');
# by a commit that is not waited for: what flushes, flushes it too
sql(q{SELECT pg_logical_emit_message(true, 'test', '')});
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
is_whole($standby, 'on a standby');
my $session = $standby->background_psql('shop');
is($session->query_safe($all), '21|21', 'a session on the standby that stays');
sql(q{BEGIN; } . move(q{aggregate_id = 'kept'}) . 'COMMIT');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
is($session->query_safe($all), '21|21', 'reads what was moved since');
is($session->query_safe(q{SELECT count(*) FROM event_store.load_events('T', 'kept')}), 6, 'an aggregate, too');
$session->quit;
$holder->quit;
$primary->restart;
is_whole($primary, 'restarted');
$primary->restart(mode => 'immediate');
is_whole($primary, 'crashed');
$primary->stop;
$standby->promote;
ok($standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()'), 'promoted');
is_whole($standby, 'promoted');
$standby->stop;
done_testing();
