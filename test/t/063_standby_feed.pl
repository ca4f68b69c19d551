# The feed of a hot standby follows the primary's: what is safe to read is stored
# by the primary's worker, however the events came to be, and never goes beyond
# what is still open.

use strict;
use warnings;

use EventStoreTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use StressPrograms;
use Test::More;

my $primary = new_server(
	'primary',
	init => { allows_streaming => 1 },
	conf => "event_store.write_delay = '20ms'\nmax_connections = 100\n");
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

sub append
{
	my ($id) = @_;

	return sql("SELECT last_position FROM event_store.append_event('Feed', '$id', NULL, 'Added')");
}

# A session with a transaction that has appended; returns it with its position.
sub open_append
{
	my ($id) = @_;
	my $session = $primary->background_psql('shop');

	$session->query_safe('BEGIN');
	return ($session, $session->query_safe(
			"SELECT last_position FROM event_store.append_event('Feed', '$id', NULL, 'Added')"));
}

sub end
{
	my ($session, $how) = @_;

	$session->query_safe($how);
	$session->quit;
	return;
}

# Until the standby may read just so far.
sub follows_to
{
	my ($position, $what) = @_;

	return ok($standby->poll_query_until('shop',
			"SELECT event_store.safe_position() = $position"), $what);
}

sub readable
{
	my ($level) = @_;
	my $begin = defined $level ? "BEGIN ISOLATION LEVEL $level; SELECT;" : '';

	return $standby->safe_psql('shop', "$begin
		SELECT coalesce(string_agg(aggregate_id, ' '), '')
		  FROM (SELECT aggregate_id FROM event_store.read_events(0)) e");
}

# ---------- durable appends, nothing else: no flush, no staged row

my $last = append('a');
follows_to($last, 'the standby follows a durable append');
is(readable(), 'a', 'and reads it');
is($standby->safe_psql('shop', 'SELECT safe_position, last_position, in_flight FROM event_store.feed_status'),
	"$last|$last|0", 'feed_status says how far');
is(sql('SELECT safe_position FROM event_store.store_state'), $last, 'from store_state');

# ---------- what is open on the primary holds the standby back

my ($first, $first_position) = open_append('b');
my ($second, $second_position) = open_append('c');
my $third_position = append('d');
cmp_ok($second_position, '<', $third_position, 'a later position is committed before two earlier ones');
end($first, 'COMMIT');
# the worker has looked after d was there: it has stored b
follows_to($first_position, 'the standby comes up to the one that is still open');
is(readable(), 'a b', 'and not to what follows it');
is($standby->safe_psql('shop', "SELECT event_store.wait_for_events($first_position, '0s')"),
	$first_position, 'a waiter is told the same');
my $waiter = $standby->background_psql('shop');
$waiter->query_until(qr/waiting/,
	"\\echo waiting\nSELECT 'woken at ' || event_store.wait_for_events($first_position, '10min');\n");
end($second, 'ROLLBACK');
like($waiter->query_until(qr/woken at \d+/, ''), qr/woken at $third_position/,
	'a waiter is woken when that one is rolled back');
$waiter->quit;
is(readable(), 'a b d', 'and the rest can be read');
is(readable('REPEATABLE READ'), 'a b d', 'at every isolation level');

# ---------- a transaction with an old snapshot reads up to date

my $old = $standby->background_psql('shop');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
$old->query_safe('SELECT count(*) FROM event_store.domain_events');
$last = append('e');
follows_to($last, 'the standby goes on');
is($old->query_safe('SELECT event_store.safe_position()'), $last, 'also under an old snapshot');
is($old->query_safe("SELECT aggregate_id FROM event_store.read_events($third_position)"), 'e', 'which reads it');
$old->query_safe('COMMIT');
$old->quit;

# ---------- staged appends, when they are durable

sql(q{SELECT event_store.append_event('Feed', 'f', 0, 'Added', durability => 'staged')});
ok($standby->poll_query_until('shop',
		"SELECT aggregate_id = 'f' FROM event_store.read_events($last)"),
	'the standby follows the drain');

# ---------- the worker terminated, the primary stopped: nothing is forgotten

my $worker = worker_pid($primary, 'shop');
$last = append('g');
sql("SELECT pg_terminate_backend($worker)");
follows_to($last, 'a terminated worker is no obstacle');
$last = append('h');
$primary->stop('immediate');
$primary->start;
$last = sql('SELECT event_store.safe_position()');
follows_to($last, 'nor is a crash right after an append');
is(readable(), 'a b d e f g h', 'all is there');

# ---------- no worker can be had: who commits stores it

$primary->append_conf('postgresql.conf',
	"max_worker_processes = 1\nmax_logical_replication_workers = 0\n");
$primary->restart;
ok($primary->poll_query_until('shop',
		"SELECT state = 'unavailable' FROM event_store.worker_status"),
	'no worker can be had');
$last = append('i');
follows_to($last, 'the standby follows without a worker');
($first, $first_position) = open_append('j');
($second, $second_position) = open_append('k');
$third_position = append('l');
follows_to($first_position - 1, 'up to what is open');
is(readable(), 'a b d e f g h i', 'and shows nothing beyond it');
end($first, 'COMMIT');
follows_to($second_position - 1, 'and on when it is committed');
end($second, 'ROLLBACK');
$last = append('m');
follows_to($last, 'and when the rest is rolled back, with the next commit');
is(readable(), 'a b d e f g h i j l m', 'all is there');
foreach my $level ('REPEATABLE READ', 'SERIALIZABLE')
{
	$last = sql("BEGIN ISOLATION LEVEL $level;
		SELECT count(*) >= 0 FROM event_store.domain_events;
		SELECT last_position FROM event_store.append_event('Feed', 'n', NULL, 'Added');
		COMMIT") =~ s/.*\n//sr;
	$last = append('o') if $level eq 'SERIALIZABLE';
	follows_to($last, "$level");
}

# one that can store nothing any more commits all the same
is(sql(q{BEGIN;
		SELECT first_sequence FROM event_store.append_event('Feed', 'read-only', 0, 'Added');
		SET TRANSACTION READ ONLY;
		COMMIT;
		SELECT count(*) FROM event_store.load_events('Feed', 'read-only')}),
	"1\n1", 'a transaction that has become read-only');

# what the transaction itself has dropped is no obstacle
create_store_in($primary, 'gone');
is($primary->safe_psql('gone', q{
		BEGIN;
		SELECT first_sequence FROM event_store.append_event('Feed', 'gone', 0, 'Added');
		DROP EXTENSION event_store;
		COMMIT;
		SELECT count(*) FROM event_store.domain_events}),
	"1\n1", 'an append and the end of the extension in one transaction');
$primary->safe_psql('postgres', 'DROP DATABASE gone');

# who holds the row, or the table, is not waited for
my $holder = $primary->background_psql('shop');
my $writer = $primary->background_psql('shop');
$writer->query_safe(q{SELECT event_store.append_event('Feed', 'p', NULL, 'Added')});
$holder->query_safe('BEGIN');
$holder->query_safe('SELECT 1 FROM event_store.store_state FOR UPDATE');
$last = append('q');
$holder->query_safe('LOCK TABLE event_store.store_state');
cmp_ok($writer->query_safe(q{SELECT last_position FROM event_store.append_event('Feed', 'p', NULL, 'Added')}),
	'>', $last, 'nobody waits for the row or the table');
$writer->quit;
end($holder, 'ROLLBACK');
$last = append('r');
follows_to($last, 'and the next commit stores what they left');

# many at once: all succeed, and the standby is shown whole prefixes of the log
my $looker = $standby->background_psql('shop');
my $before_many = $last;
$primary->pgbench(
	'-n -c 8 -j 2 -t 60 shop', 0, [qr/actually processed: 480\/480/], [qr/^/],
	'many commits without a worker',
	{ '063_append' => q{
		\set n random(1, 5)
		BEGIN ISOLATION LEVEL REPEATABLE READ;
		SELECT event_store.append_event('Many', 'a-' || :client_id, NULL, 'Added');
		SELECT pg_sleep(0.001 * :n);
		COMMIT;} });
$primary->pgbench(
	'-n -c 24 -j 2 -t 400 shop', 0, [qr/actually processed: 9600\/9600/], [qr/^/],
	'many more, without a pause: none meets what another has just stored',
	{ '063_hurry' => q{
		BEGIN ISOLATION LEVEL REPEATABLE READ;
		SELECT event_store.append_event('Hurry', 'h-' || :client_id, NULL, 'Added');
		COMMIT;} });
$last = append('s');
follows_to($last, 'the next commit stores what the many left');
is($looker->query_safe("SELECT count(*) FROM event_store.read_events($before_many, NULL)"),
	'10081', 'and all is there');
$looker->quit;
$primary->append_conf('postgresql.conf', "max_worker_processes = 8\n");
$primary->restart;
follows_to(sql('SELECT event_store.safe_position()'), 'a worker stores what is left');

# ---------- many writers, readers on both servers

SKIP:
{
	skip 'python3-psycopg2 is not installed', 2 unless can_run_programs();
	my $output = program_passes('feed', $primary, 'shop',
		'every reader gets each committed event once and in order, on both servers',
		'--standby', $standby->connstr('shop'), qw(--writers 16 --seconds 12 --kill-workers));
	cmp_ok(count_of($output, 'looks that found it held back'), '>', 0,
		'while later events had been committed before earlier ones');
}

# ---------- promoted, the feed goes on from there

my $before = sql('SELECT event_store.safe_position()');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
$primary->stop('immediate');
my $client = $standby->background_psql('shop');
$client->query_until(qr/waiting/,
	"\\echo waiting\nSELECT 'woken at ' || event_store.wait_for_events($before, '10min');\n");
$standby->promote;
wait_for_worker($standby, 'shop');
$last = $standby->safe_psql('shop',
	q{SELECT last_position FROM event_store.append_event('Feed', 'promoted', NULL, 'Added')});
cmp_ok($last, '>', $before, 'positions go on after the promotion');
like($client->query_until(qr/woken at \d+/, ''), qr/woken at $last/,
	'a session that waited on the standby gets the first event of the new primary');
$client->quit;
ok($standby->poll_query_until('shop',
		"SELECT safe_position = $last FROM event_store.store_state"),
	'which stores its own safe position');

$standby->stop;
done_testing();
