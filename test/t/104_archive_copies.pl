# Copies of a store of which a part is in the archive: a dump, taken in one go or in parallel while events are moved, gives the
# same store again, marks, settings and closed aggregates with it; a subscriber of logical replication reads what its publisher
# reads, and goes on alone afterwards; standbys know what came into the archive around the API.

use strict;
use warnings;

use EventStoreTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('source', init => { allows_streaming => 'logical' }, conf => "max_worker_processes = 16\n");
my $other = new_server('other', init => { allows_streaming => 'logical' }, conf => "max_worker_processes = 16\n");
$_->start foreach $node, $other;
create_store_in($node, 'shop');

my %api = (
	log => q{SELECT string_agg(e::text, E'\n' ORDER BY e.global_position) FROM event_store.domain_events e},
	archive => q{SELECT string_agg(e::text, E'\n' ORDER BY e.global_position) FROM event_store.domain_events_archive e},
	closed => q{SELECT string_agg(c::text, E'\n' ORDER BY c.aggregate_id) FROM event_store.closed_aggregates c},
	loaded => q{SELECT string_agg(a.id || ' ' || e.sequence || ' ' || e.event_id, E'\n' ORDER BY a.id, e.sequence)
		FROM (SELECT DISTINCT aggregate_id AS id FROM event_store.all_events WHERE aggregate_type = 'Order') a,
		     LATERAL event_store.load_events('Order', a.id) e},
	infos => q{SELECT string_agg(i::text, E'\n' ORDER BY n) FROM generate_series(1, 9) n, LATERAL event_store.aggregate_info('Order', 'o-' || n) i});
my %alone = (
	read => q{SELECT string_agg(e::text, E'\n') FROM event_store.read_events(max_count => NULL) e},
	retention => q{SELECT string_agg(r::text, E'\n' ORDER BY r.aggregate_type) FROM event_store.retention r},
	mark => 'SELECT last_value, is_called FROM event_store.archived_position');

sub all_of
{
	my ($where, $database, %statements) = @_;

	return { map { $_ => $where->safe_psql($database, $statements{$_}) } keys %statements };
}

# What must hold of a store that has gone on from another one.
sub check_closed
{
	my ($where, $database, $on) = @_;

	like(error_of($where, $database, q{SELECT event_store.append_event('Order', 'o-1', NULL, 'Placed')}), qr/VS005/, "$on: what is archived is closed");
	like(error_of($where, $database, q{SELECT event_store.append_event('Order', 'o-3', NULL, 'Placed')}), qr/VS005/, "$on: what is deleted is deleted");
	is($where->safe_psql($database, q{SELECT outcome, last_sequence FROM event_store.append_event('Order', 'o-1', 0, 'Placed', '{"n": 1}',
		event_id => '00000000-0000-7000-8000-000000000001')}), 'duplicate|1', "$on: the id of an archived event is known");
	is($where->safe_psql($database, q{SELECT first_sequence FROM event_store.append_event('Order', 'o-2', 4, 'Placed')}), '5',
		"$on: what is archived in part goes on");
	return;
}

# ---------- a store with something of everything; its newest events are archived

$node->safe_psql('shop', q{
	SELECT count(event_store.append_event('Order', 'o-' || a, s - 1, 'Placed', '{"n": 1}', event_id => ('00000000-0000-7000-8000-00000000000' || s)::uuid))
	  FROM generate_series(1, 1) a, generate_series(1, 4) s;
	SELECT count(event_store.append_event('Order', 'o-' || a, s - 1, 'Placed', '{"n": 1}')) FROM generate_series(2, 9) a, generate_series(1, 4) s;
	SELECT event_store.archive_aggregate('Order', 'o-1');
	SELECT event_store.archive_aggregate('Order', 'o-2', 3);
	SELECT event_store.delete_aggregate('Order', 'o-3', 'test');
	SELECT event_store.archive_aggregate('Order', 'o-4');
	SELECT event_store.restore_aggregate('Order', 'o-4');
	SELECT event_store.set_retention('Order', '100 years', '{Closed}', '200 years');
	SELECT event_store.append_event('Order', 'o-9', 4, 'Placed');
	SELECT event_store.archive_aggregate('Order', 'o-9')});
my $before = all_of($node, 'shop', %api, %alone);
my $last = $node->safe_psql('shop', 'SELECT max(global_position) FROM event_store.all_events');
is($node->safe_psql('shop', 'SELECT max(global_position) = (SELECT last_value FROM event_store.archived_position) FROM event_store.domain_events_archive'),
	't', 'the newest event is in the archive');

# ---------- a dump

my $folder = PostgreSQL::Test::Utils::tempdir();
$node->command_ok([ 'pg_dump', '--file', "$folder/shop.sql", $node->connstr('shop') ], 'pg_dump');
$node->command_ok([ 'pg_dump', '-Fc', '--file', "$folder/shop.dump", $node->connstr('shop') ], 'pg_dump -Fc');
$other->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(plain custom data);
$other->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $other->connstr('plain'), '-f', "$folder/shop.sql" ], 'psql restores it');
$other->command_ok([ 'pg_restore', '--exit-on-error', '-j', '2', '-d', $other->connstr('custom'), "$folder/shop.dump" ], 'pg_restore, two at once');
# into a store that is there
$other->safe_psql('data', 'CREATE EXTENSION event_store; SELECT event_store.create_store(); TRUNCATE event_store.store_state');
$other->command_ok([ 'pg_restore', '--exit-on-error', '--data-only', '-d', $other->connstr('data'), "$folder/shop.dump" ], 'pg_restore --data-only');
foreach my $database (qw(plain custom data))
{
	is_deeply(all_of($other, $database, %api, %alone), $before, "$database: all is as it was");
	check_closed($other, $database, $database);
	cmp_ok($other->safe_psql($database, 'SELECT max(global_position) FROM event_store.domain_events'), '>', $last, "$database: positions go on behind the archive");
	is($other->safe_psql($database, q{SELECT event_store.restore_aggregate('Order', 'o-1')}), '4', "$database: it is restored");
	is($other->safe_psql($database, q{SELECT first_sequence FROM event_store.append_event('Order', 'o-1', 4, 'Placed')}), '5', "$database: and goes on");
	like(error_of($other, $database, 'DELETE FROM event_store.domain_events_archive'), qr/VS003/, "$database: the archive is append-only");
}
# what is wanted of a type is done there as well
$other->safe_psql('plain', q{ALTER TABLE event_store.domain_events DISABLE TRIGGER domain_events_append_only, DISABLE TRIGGER domain_events_append_only_row;
	UPDATE event_store.domain_events SET recorded_at = now() - interval '150 years', event_type = CASE aggregate_id WHEN 'o-8' THEN 'Closed' ELSE event_type END
	 WHERE aggregate_type = 'Order'});
$other->safe_psql('plain', 'SELECT event_store.create_store()');
$other->safe_psql('plain', q{UPDATE event_store.retention SET position = 0});
ok($other->poll_query_until('plain', q{SELECT count(*) = 1 FROM event_store.closed_aggregates WHERE aggregate_id = 'o-8' AND state = 'archived'}),
	'the retention of a dump is carried out where it is restored');

# ---------- a dump while events are moved

$node->safe_psql('shop', 'CREATE TABLE public.at_an_end ()');
my $mover = IPC::Run::start([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('shop'), '-c', q{DO $$
	BEGIN
		WHILE to_regclass('public.at_an_end') IS NOT NULL LOOP
			PERFORM event_store.archive_aggregate('Order', 'o-' || a) FROM generate_series(5, 8) a;
			COMMIT;
			PERFORM event_store.restore_aggregate('Order', 'o-' || a) FROM generate_series(5, 8) a;
			COMMIT;
		END LOOP;
	END $$} ]);
foreach my $time (1 .. 3)
{
	my $moves = "SELECT value FROM event_store.metrics WHERE metric = 'archive.archived'";
	my $moved = $node->safe_psql('shop', $moves);

	ok($node->poll_query_until('shop', "SELECT ($moves) > $moved"), 'events are moved');
	$node->command_ok([ 'pg_dump', '-Fd', '-j', '2', '--file', "$folder/moving-$time", $node->connstr('shop') ], 'pg_dump -j 2');
	$other->safe_psql('postgres', "CREATE DATABASE moving_$time");
	$other->command_ok([ 'pg_restore', '--exit-on-error', '-j', '2', '-d', $other->connstr("moving_$time"), "$folder/moving-$time" ], 'pg_restore -j 2');
	is($other->safe_psql("moving_$time", $api{loaded}), $before->{loaded}, "dump $time: each event is there once");
	is($other->safe_psql("moving_$time", q{SELECT (SELECT count(*) FROM event_store.all_events) = count(*) FROM event_store.read_events(max_count => NULL)}), 't',
		'and is read');
	is($other->safe_psql("moving_$time", q{SELECT count(*) FROM event_store.closed_aggregates c WHERE c.state = 'archived'
		AND EXISTS (SELECT FROM event_store.domain_events e WHERE e.aggregate_id = c.aggregate_id)}), '0', 'what is closed has gone');
	$other->safe_psql('postgres', "DROP DATABASE moving_$time WITH (FORCE)");
}
$node->safe_psql('shop', 'DROP TABLE public.at_an_end');
ok($mover->finish, 'until they are not');
$node->safe_psql('shop', q{SELECT event_store.restore_aggregate('Order', 'o-' || a) FROM generate_series(5, 8) a});

# ---------- publications

create_store_in($other, 'copy');
create_store_in($other, 'kept');
$node->safe_psql('shop', q{
	CREATE PUBLICATION everything FOR TABLE event_store.domain_events, event_store.domain_events_archive, event_store.closed_aggregates;
	CREATE PUBLICATION inserts FOR TABLE event_store.domain_events WITH (publish = 'insert')});
foreach (([ 'copy', 'everything' ], [ 'kept', 'inserts' ]))
{
	my ($database, $publication) = @$_;

	$other->safe_psql($database, "CREATE SUBSCRIPTION $publication CONNECTION '" . $node->connstr . " dbname=shop' PUBLICATION $publication");
	$other->wait_for_subscription_sync($node, $publication, $database);
}
is_deeply(all_of($other, 'copy', %api), all_of($node, 'shop', %api), 'a subscriber begins with what its publisher has');
$node->safe_psql('shop', q{
	SELECT event_store.append_event('Order', 'o-5', 4, 'Placed');
	SELECT event_store.archive_aggregate('Order', 'o-5');
	SELECT event_store.archive_aggregate('Order', 'o-6', 2);
	SELECT event_store.delete_aggregate('Order', 'o-7', 'test')});
$node->wait_for_catchup($_) foreach qw(everything inserts);
is_deeply(all_of($other, 'copy', %api), all_of($node, 'shop', %api), 'and has what is archived and deleted there');
is($other->safe_psql('kept', q{SELECT string_agg(aggregate_id || ' ' || n, ', ' ORDER BY aggregate_id)
		FROM (SELECT aggregate_id, count(*) AS n FROM event_store.domain_events WHERE aggregate_id IN ('o-5', 'o-6', 'o-7') GROUP BY 1) c}),
	'o-5 5, o-6 4, o-7 4', 'one of inserts alone keeps what it has');
$node->safe_psql('shop', q{SELECT event_store.restore_aggregate('Order', 'o-1')});
$node->wait_for_catchup('everything');
is_deeply(all_of($other, 'copy', %api), all_of($node, 'shop', %api), 'and what is restored there');
$node->safe_psql('shop', q{SELECT event_store.archive_aggregate('Order', 'o-1')});
$node->wait_for_catchup('everything');

# ---------- it goes on alone, with a standby

$other->safe_psql('copy', 'DROP SUBSCRIPTION everything');
$other->safe_psql('copy', 'SELECT event_store.create_store()');
is_deeply(all_of($other, 'copy', %api), all_of($node, 'shop', %api), 'after the cut-over it has what it had');
check_closed($other, 'copy', 'after the cut-over');
$other->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($other, 'copy', has_streaming => 1);
$standby->start;
is_deeply(all_of($standby, 'copy', %api), all_of($other, 'copy', %api), 'so has a standby of it');

# rows that come around the API, by statements and by COPY
create_store_in($other, 'hand');
my $columns = 'global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at';
my $rows = sub { "SELECT $_[0], 'Hand', '$_[1]', 1, gen_random_uuid(), 'Placed', '{}'::jsonb, now(), now()" };
my $closed = sub { "INSERT INTO event_store.closed_aggregates (aggregate_type, aggregate_id, state, last_sequence, last_position, last_recorded_at)
	VALUES ('Hand', '$_[0]', 'archived', 1, $_[1], now());" };
$other->safe_psql('hand', q{SELECT event_store.append_event('Hand', 'open', 0, 'Placed')});
$other->safe_psql('hand', "INSERT INTO event_store.domain_events_archive ($columns) " . $rows->(-7, 'h-1') . ';' . $closed->('h-1', -7));
$other->wait_for_catchup($standby);
is($standby->safe_psql('hand', q{SELECT count(*) FROM event_store.load_events('Hand', 'h-1')}), '1', 'a standby hears of rows that are inserted');
$other->safe_psql('hand', "COPY event_store.domain_events_archive ($columns) FROM stdin;\n"
	  . join("\t", 1000, 'Hand', 'h-2', 1, '00000000-0000-7000-8000-000000000009', 'Placed', '{}', 'now', 'now') . "\n\\.\n" . $closed->('h-2', 1000));
$other->wait_for_catchup($standby);
is($standby->safe_psql('hand', q{SELECT count(*) FROM event_store.load_events('Hand', 'h-2')}), '1', 'and copied');
is($other->safe_psql('hand', 'SELECT last_value FROM event_store.archived_position'), '1000', 'up to where they are');

$_->stop foreach $standby, $other, $node;
done_testing();
