# A snapshot that is older than the drain of what it shows gets those rows or an
# error, never fewer rows: whatever the order of commits, across a restart, and
# across DROP EXTENSION.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

# workers drain only when they are asked to
my $node = new_server('snapshots',
	conf => "event_store.write_delay = '1h'\nevent_store.write_batch_size = 100000\n"
	  . "max_logical_replication_workers = 0\n");
$node->start;
my $database = 'one';
foreach my $name ('one', 'other')
{
	create_store_in($node, $name);
	wait_for_worker($node, $name);
}

sub sql
{
	return $node->safe_psql($database, $_[0]);
}

# Statements that stage three events of an aggregate, and of others as much as
# is not kept for old snapshots: 16 MB and more, which do not compress.
sub three_of
{
	my ($aggregate) = @_;

	return qq{
		SELECT count(*) FROM event_store.append_events('B', '$aggregate', 0,
		    '[{"event_type": "A"}, {"event_type": "A"}, {"event_type": "A"}]', durability => 'staged');};
}

sub many_for
{
	my ($aggregate) = @_;

	return qq{
		SELECT count(*) FROM generate_series(1, 30) i, event_store.append_event('Filler', '$aggregate-' || i, 0, 'A',
		    payload_bytes => (SELECT string_agg(decode(md5(i || '/' || n), 'hex'), NULL)
		                        FROM generate_series(1, 50000) n),
		    durability => 'staged');};
}

sub old_reader
{
	my ($aggregate) = @_;
	my $reader = $node->background_psql($database, on_error_stop => 0);

	$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
	is($reader->query_safe(load($aggregate)), '3|0', "$aggregate: a snapshot shows what is staged");
	return $reader;
}

sub load
{
	my ($aggregate) = @_;

	return "SELECT count(*), count(global_position) FROM event_store.load_events('B', '$aggregate')";
}

# An old snapshot of rows that are gone.
sub is_refused
{
	my ($reader, $aggregate) = @_;
	my $rows = $reader->query(load($aggregate));

	is($rows, '', "$aggregate: the snapshot shows no rows");
	is($reader->query('\echo :LAST_ERROR_SQLSTATE'), '40001', "$aggregate: it is refused");
	$reader->quit;
	is(sql(load($aggregate)), '3|3', "$aggregate: a new snapshot shows all");
	return;
}

# Has the worker run a round, and then give space back.
sub reclaim
{
	sql(q{SELECT count(*) FROM event_store.append_event('Last', 'one', NULL, 'A', durability => 'staged')});
	ok(flush_all($node, $database), 'the worker has a round');
	ok($node->poll_query_until($database, "SELECT drain_state = 'idle' FROM event_store.staging_status"),
		'and does what follows');
	return;
}

# The bytes of the largest segment.
sub largest_segment
{
	return sql(q{SELECT max(pg_relation_size(t.oid) + coalesce(pg_relation_size(nullif(t.reltoastrelid, 0)), 0))
	               FROM pg_class t
	              WHERE t.relnamespace = 'event_store'::regnamespace AND t.relpersistence = 'u' AND t.relkind = 'r'});
}

# ---------- the transaction with the lower id drains last

sql('CREATE TABLE taken (id int)');

# staged in a segment that is no longer written to when they are drained
my @stagers = map { $node->background_psql($database) } (1 .. 2);
$stagers[0]->query_safe("BEGIN; SELECT durable FROM event_store.append_event('B', 'first', 0, 'A', durability => 'staged')");
$stagers[1]->query_safe('BEGIN;' . three_of('x1') . many_for('x1'));
reclaim();
$_->query_safe('COMMIT') foreach @stagers;
$_->quit foreach @stagers;

my $gate = $node->background_psql($database);
$gate->query_safe('SELECT pg_advisory_lock(1)');
my $late = $node->background_psql($database);
$late->query_until(qr/sent/, q{\echo sent
DO $$ BEGIN
    INSERT INTO taken VALUES (1);
    PERFORM pg_advisory_lock(1);
    PERFORM event_store.drain();
END $$;
});
ok($node->poll_query_until($database,
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'advisory'"),
	'a transaction has its id');
is(sql('SELECT event_store.drain(1)'), '1', 'a later one drains before it');
cmp_ok(largest_segment(), '>', 17 * 1024 * 1024, 'much is staged');
my $reader = old_reader('x1');
$gate->query_safe('SELECT pg_advisory_unlock(1)');
$gate->quit;
$late->query_safe('SELECT 1');
$late->quit;
is(sql('SELECT count(*) FROM taken'), '1', 'the earlier one drains the rest');
is(sql(load('x1')), '3|3', 'all is durable');
reclaim();
cmp_ok(largest_segment(), '<', 1024 * 1024, 'the space is given back');
is_refused($reader, 'x1');

# ---------- drained before staging is opened after a restart

# one of two databases has no worker
$node->safe_psql($_, three_of('x2') . many_for('x2')) foreach ('one', 'other');
$node->append_conf('postgresql.conf', "max_worker_processes = 2\n");
$node->restart;
my $who = q{SELECT coalesce(string_agg(datname, ' ' ORDER BY datname), '') FROM pg_stat_activity
             WHERE backend_type = 'event_store worker'};
$node->poll_query_until('postgres', "SELECT ($who) IN ('one', 'other')") or die 'no worker came';
my $served = $node->safe_psql('postgres', $who);
$database = $served eq 'one' ? 'other' : 'one';
ok($node->poll_query_until($database,
		"SELECT state = 'unavailable' FROM event_store.worker_status"),
	'staging is not open');
$reader = old_reader('x2');
cmp_ok(sql('SELECT event_store.drain()'), '>', 30, 'drained in the foreground');
is(sql(load('x2')), '3|3', 'all is durable');
$node->safe_psql('postgres', "DROP DATABASE $served");
wait_for_worker($node, $database);
reclaim();
cmp_ok(largest_segment(), '<', 1024 * 1024, 'the space is given back');
is_refused($reader, 'x2');

# ---------- staging goes with its extension

sql(three_of('x3'));
$reader = old_reader('x3');
ok(flush_all($node, $database), 'flushed');
sql('SET lock_timeout = \'10s\'; DROP EXTENSION event_store; CREATE EXTENSION event_store;');
is_refused($reader, 'x3');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
