# How far the feed has come never falls, whatever became of its last events: they were
# removed by hand, or given to a transaction that was rolled back; the server was
# restarted, crashed, was promoted or restored.  Who stands at the end goes on.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_server('primary', init => { allows_streaming => 1 },
	conf => "event_store.write_delay = '1h'\nmax_connections = 20\nrestart_after_crash = on\n");
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

sub safe
{
	my ($node, $database) = @_;

	return $node->safe_psql($database // 'shop', 'SELECT event_store.safe_position()');
}

sub append
{
	my ($node, $id, $database) = @_;

	return $node->safe_psql($database // 'shop',
		"SELECT last_position FROM event_store.append_event('Log', '$id', NULL, 'Added')");
}

# What the subscription gets next.
sub next_events
{
	my ($node, $database) = @_;

	return $node->safe_psql($database // 'shop',
		"SELECT coalesce(string_agg(aggregate_id, ' ' ORDER BY global_position), '') FROM event_store.next_events('end', 100)");
}

# As an owner may, with the guard taken away.
sub remove
{
	my ($id) = @_;

	sql("BEGIN;
		ALTER TABLE event_store.domain_events DISABLE TRIGGER USER;
		DELETE FROM event_store.domain_events WHERE aggregate_id = '$id';
		ALTER TABLE event_store.domain_events ENABLE ALWAYS TRIGGER domain_events_append_only, ENABLE ALWAYS TRIGGER domain_events_append_only_row;
		COMMIT");
	return;
}

# Until what stands in the log is stored for standbys.
sub is_stored
{
	my ($position, $what) = @_;

	ok($primary->poll_query_until('shop', "SELECT safe_position >= $position FROM event_store.store_state"), $what);
	# by a commit that is not waited for: what flushes, flushes it too
	sql(q{SELECT pg_logical_emit_message(true, 'test', '')});
	return;
}

# The same position as before, and the subscription goes on with the next event.
sub goes_on
{
	my ($node, $before, $what, $database) = @_;

	cmp_ok(safe($node, $database), '>=', $before, "$what: the safe position has not fallen");
	is(next_events($node, $database), '', "$what: who stands at the end gets nothing again");
	cmp_ok(append($node, $what, $database), '>', $before, "$what: positions go on");
	is(next_events($node, $database), $what, "$what: and who stands there");
	return;
}

sql(q{SELECT event_store.create_subscription('end');
	SELECT count(*) FROM event_store.append_batch((SELECT jsonb_agg(jsonb_build_object(
	    'aggregate_type', 'Log', 'aggregate_id', 'old', 'event_type', 'Added')) FROM generate_series(1, 150)))});
my $last = append($primary, 'newest');
is(sql("SELECT count(*) FROM event_store.next_events('end', 1000)"), 151, 'a subscription stands at the end');
is_stored($last, 'which is stored');
remove('newest');
is(safe($primary), $last, 'the newest aggregate is removed by hand');
$primary->restart;
is(safe($primary), $last, 'after a restart the safe position is what it was');
is(sql("SELECT count(*) FROM event_store.read_events($last)"), 0, 'and a position that is none of an event is no error');
is(sql("SELECT event_store.wait_for_events($last, '10ms')"), $last, 'a waiter waits there');
goes_on($primary, $last, 'restarted');

# ---------- positions that were rolled back

my $lost = sql(q{BEGIN; SELECT last_position FROM event_store.append_event('Log', 'lost', NULL, 'Added'); ROLLBACK});
is(safe($primary), $lost, 'the last position is that of a transaction that was rolled back');
is_stored($lost, 'which is stored');
$primary->restart;
is(safe($primary), $lost, 'after a restart it is still safe to read up to there');
goes_on($primary, $lost, 'rolled_back');

# ---------- a crash

$last = append($primary, 'crashed_upon');
is(next_events($primary), 'crashed_upon', 'the newest one is read');
is_stored($last, 'and stored');
remove('crashed_upon');
$primary->restart(mode => 'immediate');
goes_on($primary, $last, 'crashed');

# ---------- by the store itself

# Who has had all of it stands at the end, and what the newest event was is archived or deleted.
sub put_away
{
	my ($call, $id) = @_;

	append($primary, $id);
	is(next_events($primary), $id, "$call: the newest one is read");
	sql("SELECT event_store.$call");
	# a deletion is told by an event
	next_events($primary);
	my $safe = safe($primary);
	is_stored($safe, "$call: and stored");
	return $safe;
}

foreach my $mode ('fast', 'immediate')
{
	foreach my $kind ('archived', 'deleted')
	{
		my $id = "${kind}_$mode";

		$last = put_away($kind eq 'archived' ? "archive_aggregate('Log', '$id')" : "delete_aggregate('Log', '$id', 'test')", $id);
		is(sql("SELECT count(*) FROM event_store.domain_events WHERE aggregate_id = '$id'"), 0, "$id: it is not in the log");
		$primary->restart(mode => $mode);
		goes_on($primary, $last, "after_$id");
	}
}

# ---------- while somebody has locked the log, or what is stored

$last = append($primary, 'locked_out');
is(next_events($primary), 'locked_out', 'the newest one is read');
is_stored($last, 'and stored');
remove('locked_out');
$primary->restart;
my $holder = $primary->background_psql('shop');
$holder->query_safe('BEGIN; LOCK TABLE event_store.domain_events');
is(safe($primary), $last, 'while somebody has locked the log, what is stored tells');
$holder->query_safe('ROLLBACK; BEGIN; LOCK TABLE event_store.store_state');
cmp_ok(safe($primary), '<=', $last, 'while he has locked that, the log has to do');
$holder->query_safe('ROLLBACK');
$holder->quit;
is(safe($primary), $last, 'afterwards the position is what it was');

# ---------- a dump

my $dump = PostgreSQL::Test::Utils::tempdir() . '/shop.sql';
$primary->command_ok([ 'pg_dump', '--file', $dump, $primary->connstr('shop') ], 'pg_dump');
$primary->safe_psql('postgres', 'CREATE DATABASE restored');
$primary->command_ok([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $primary->connstr('restored'), '-f', $dump ], 'and restore');
goes_on($primary, $last, 'restored', 'restored');

# ---------- a standby

put_away("delete_aggregate('Log', 'deleted_promoted', 'test')", 'deleted_promoted');
$last = put_away("archive_aggregate('Log', 'archived_promoted')", 'archived_promoted');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
is(safe($standby), $last, 'a standby can read as far');
$primary->stop;
$standby->promote;
ok($standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()'), 'it is promoted');
goes_on($standby, $last, 'promoted');

$standby->stop;
done_testing();
