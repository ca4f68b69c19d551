# No position is given twice: a log that goes on from an older state of itself
# jumps beyond what may have been given after that state, and a consumer whose
# position was never given is told so.  What the owner writes around the API is
# passed over, too.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

use constant JUMP => 2**32;

my $primary = new_server(
	'primary',
	init => { allows_streaming => 1, has_archiving => 1 },
	conf => "event_store.write_delay = '1h'\nmax_connections = 20\n");
$primary->start;
create_store_in($primary, 'shop');

sub append
{
	my ($node, $database, $count) = @_;

	return $node->safe_psql($database, q{
		SELECT max(global_position) FROM event_store.append_batch((SELECT jsonb_agg(jsonb_build_object(
		    'aggregate_type', 'Log', 'aggregate_id', 'l-' || n, 'event_type', 'Added'))
		    FROM generate_series(1, } . ($count // 1) . ') n))');
}

# What an append gets there first, and that what follows comes right after it.
sub jumps
{
	my ($node, $database, $given, $what) = @_;
	my $first = append($node, $database);

	cmp_ok($first, '>=', $given + JUMP, "$what: positions jump");
	is(append($node, $database), $first + 1, "$what: once");
	$node->restart;
	my $next = append($node, $database);
	cmp_ok($next, '>', $first, "$what: after a restart they go on");
	cmp_ok($next, '<', $first + 100_000, "$what: without a jump");
	return $next;
}

sub refused
{
	my ($node, $database, $position, $what) = @_;

	foreach my $call ("read_events($position)", "wait_for_events($position, '10s')")
	{
		like(error_of($node, $database, "SELECT event_store.$call"),
			qr/22023.*HINT:  The log is another one/s, "$what: $call is refused");
	}
	return;
}

# ---------- point-in-time recovery and a standby that was behind

$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
my $kept = append($primary, 'shop', 3);
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
$standby->stop;

# what the primary gives now is lost, more than was ever reserved on the standby
my $lost = append($primary, 'shop', 40_000);
my $dump = PostgreSQL::Test::Utils::tempdir() . '/shop.sql';
$primary->command_ok([ 'pg_dump', '--file', $dump, $primary->connstr('shop') ], 'pg_dump');
my $after_dump = append($primary, 'shop', 40_000);
refused($primary, 'shop', $after_dump + 1, 'the log itself');
my $rolled_back = $primary->safe_psql('shop', q{
	BEGIN;
	SELECT last_position FROM event_store.append_event('Log', 'l-1', NULL, 'Added');
	ROLLBACK});
cmp_ok($rolled_back, '>', $after_dump, 'a position is given to a transaction that is rolled back');
ok($primary->poll_query_until('shop', "SELECT safe_position = $rolled_back FROM event_store.store_state"), 'it is stored');
$primary->restart;
is($primary->safe_psql('shop', "SELECT count(*) FROM event_store.read_events($rolled_back)"),
	0, 'it is not refused after a restart, of which the log knows nothing');
is($primary->safe_psql('shop', "SELECT event_store.wait_for_events($rolled_back, '10ms')"),
	$rolled_back, 'a waiter waits');

$standby->start;
is($standby->safe_psql('shop', "SELECT count(*) FROM event_store.read_events($lost)"),
	0, 'a standby may only be behind: nothing to read');
is($standby->safe_psql('shop', "SELECT event_store.wait_for_events($lost, '10ms') < $lost"),
	't', 'and a waiter waits');
$standby->promote;
refused($standby, 'shop', $lost, 'a standby that was behind');
my $jumped = jumps($standby, 'shop', $lost, 'a standby that was behind');
cmp_ok($standby->safe_psql('shop', "SELECT count(*) FROM event_store.read_events($lost)"),
	'>', 0, 'a consumer of the lost events skips nothing');
$standby->stop;

# the backup knows of no event
my $pitr = PostgreSQL::Test::Cluster->new('pitr');
$pitr->init_from_backup($primary, 'base', has_restoring => 1, standby => 0);
$pitr->append_conf('postgresql.conf', "recovery_target = 'immediate'\nrecovery_target_action = 'promote'\n");
$pitr->start;
$pitr->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()');
is(events_in($pitr, 'shop'), 0, 'a base backup, restored');
jumps($pitr, 'shop', $lost, 'point-in-time recovery');
$pitr->stop;

# ---------- a dump, in the same cluster and elsewhere; a copied database

my $bare = PostgreSQL::Test::Cluster->new('bare');
$bare->init;
$bare->start;
foreach my $where ($primary, $bare)
{
	my $what = 'a dump restored on ' . $where->name;

	$where->safe_psql('postgres', 'CREATE DATABASE restored');
	$where->command_ok(
		[ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $where->connstr('restored'), '-f', $dump ], $what);
	if ($where == $primary)
	{
		refused($where, 'restored', $after_dump, $what);
		is($where->safe_psql('restored', "SELECT count(*) FROM event_store.read_events($lost)"),
			0, "$what: the last position in it is not refused");
	}
	jumps($where, 'restored', $lost, $what);
}
$bare->stop;

$primary->safe_psql('postgres', q{
	UPDATE pg_database SET datallowconn = false WHERE datname = 'shop';
	SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'shop'});
$primary->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'shop'});
$primary->safe_psql('postgres', 'CREATE DATABASE copied TEMPLATE shop');
$primary->safe_psql('postgres', 'ALTER DATABASE shop ALLOW_CONNECTIONS true');
$primary->safe_psql('postgres', 'ALTER DATABASE copied ALLOW_CONNECTIONS true');
jumps($primary, 'copied', $after_dump, 'a copy of the database');

# ---------- the log itself goes on

my $next = append($primary, 'shop');
cmp_ok($next, '>', $after_dump, 'the log itself goes on');
cmp_ok($next, '<', $after_dump + 100_000, 'without a jump');

# ---------- rows that the owner writes around the API

$primary->safe_psql('shop', sprintf(q{
	INSERT INTO event_store.domain_events (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at)
	VALUES (%d, 'Log', 'around', 1, gen_random_uuid(), 'Added', '{}', now(), now())}, $next + 1));
is(eval { append($primary, 'shop') }, $next + 2, 'an append goes on behind a row that the owner writes');

$primary->stop;
done_testing();
