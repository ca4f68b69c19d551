# Consumers in hard cases: savepoints, retries that end elsewhere, a restart behind what was passed over, an
# extension that is dropped, a standby that had not received all.  Each event has one effect.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('cases', init => { allows_streaming => 1 },
	conf => "event_store.retry_initial = '1ms'\nevent_store.retry_max = '1ms'\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sql('CREATE TABLE effects (name text, id text, sequence bigint, PRIMARY KEY (name, id, sequence))');

# A subscription of its own over new events, one letter an aggregate.
sub start
{
	my ($name, $letters, $more) = @_;
	my $count = length $letters;

	sql(qq{SELECT event_store.create_subscription('$name', '{$name}', start_after => event_store.safe_position() $more);
		SELECT count(*) FROM event_store.append_batch(array_fill('$name'::text, ARRAY[$count]), '{@{[ join ',', split //, $letters ]}}', array_fill('E'::text, ARRAY[$count]), NULL)});
	return;
}

sub consuming
{
	my ($name, $most) = @_;

	return "INSERT INTO effects SELECT '$name', aggregate_id, sequence FROM event_store.next_events('$name', $most) RETURNING id || sequence;";
}

# What a consumer gets, pauses being over.
sub consume
{
	my ($name, $most) = @_;

	sql('UPDATE event_store.parked_events SET retry_at = clock_timestamp() WHERE retry_at IS NOT NULL');
	return join ' ', split /\n/, sql(consuming($name, $most));
}

sub failing
{
	my ($name, $id, $sequence, $action) = @_;

	return "SELECT event_store.fail_events('$name', global_position, 'bad', '$action') FROM event_store.domain_events
		WHERE aggregate_type = '$name' AND aggregate_id = '$id' AND sequence = $sequence;";
}

sub effects
{
	my ($name) = @_;

	return sql("SELECT string_agg(id || sequence, ' ' ORDER BY id, sequence) FROM effects WHERE name = '$name'");
}

sub aside
{
	my ($name) = @_;

	return sql("SELECT string_agg(partition_key || ' ' || state || ' ' || attempts, ', ') FROM event_store.parked_events WHERE subscription_name = '$name'");
}

# ---------- passed over, retried, and the server restarts

start('Passed', 'aab', '');
is(sql(failing('Passed', 'a', 1, 'retry')), 'retrying', 'the first one of two fails');
is(consume('Passed', 1), 'b1', 'the other partition goes on, and passes over both');
is(consume('Passed', 1), 'a1', 'they are retried, one');
is(consume('Passed', 1), 'a2', 'by one');
$node->restart(mode => 'immediate');
is(consume('Passed', 1), '', 'and do not come again after a restart');
is(effects('Passed'), 'a1 a2 b1', 'one effect each');

# ---------- back to a savepoint before the fetch

start('Savepoint', 'abab', '');
is(sql('BEGIN; SAVEPOINT s;' . consuming('Savepoint', 9) . 'ROLLBACK TO s;' . failing('Savepoint', 'b', 2, 'retry') . 'COMMIT'), "a1\nb1\na2\nb2\nretrying",
	'the fetch is rolled back, and its last event failed');
is(effects('Savepoint'), '', 'nothing has an effect yet');
1 while consume('Savepoint', 9) ne '';
is(effects('Savepoint'), 'a1 a2 b1 b2', 'no event is without one');

# ---------- retries that are rolled back, and failed from elsewhere

start('Elsewhere', 'aa', ', max_attempts => 4');
my @done = map {
	sql('UPDATE event_store.parked_events SET retry_at = clock_timestamp() WHERE retry_at IS NOT NULL');
	sql('BEGIN;' . consuming('Elsewhere', 9) . 'ROLLBACK');
	sql(failing('Elsewhere', 'a', 1, 'retry'));
} 1 .. 4;
is("@done", 'retrying retrying retrying parked', 'it is parked after exactly max_attempts');
is(aside('Elsewhere'), 'Elsewhere/a parked 4', 'which its row says');
is(consume('Elsewhere', 9), '', 'and waits');

# ---------- an append that is open holds back what comes behind it

start('Open', 'a', '');
my $writer = $node->background_psql('shop');
$writer->query_safe(q{BEGIN; SELECT FROM event_store.append_event('Open', 'b', 0, 'E')});
sql(q{SELECT FROM event_store.append_event('Open', 'c', 0, 'E')});
is(consume('Open', 9), 'a1', 'what lies before it is given');
$writer->query_safe('COMMIT');
$writer->quit;
is(consume('Open', 9), 'b1 c1', 'and then the rest, in order');

# ---------- old positions whose deletion is rolled back

start('Prune-a', 'a', '');
start('Prune-b', 'b', '');
sql(q{
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;
	CREATE TRIGGER refuse BEFORE DELETE ON event_store.subscription_positions FOR EACH ROW WHEN (OLD.subscription_name = 'Prune-b') EXECUTE FUNCTION refuse();
	DO $$
	BEGIN
		FOR i IN 1 .. 600 LOOP
			PERFORM event_store.release_events(s, 0, c.lease) FROM unnest('{Prune-a,Prune-b}'::text[]) s, LATERAL event_store.claim_events(s, 'c', 1) c;
			COMMIT;
		END LOOP;
	END $$});
ok($node->poll_query_until('shop', q{SELECT bool_or(last_error ~ 'not now') FROM event_store.worker_jobs}), 'the worker is refused');
sql('DROP TRIGGER refuse ON event_store.subscription_positions');
ok($node->poll_query_until('shop', q{SELECT count(*) < 4 FROM event_store.subscription_positions WHERE subscription_name ~ 'Prune'}), 'and deletes them all later');

# ---------- a transaction that has events stays open for hours

sql('CREATE TABLE junk AS SELECT n FROM generate_series(1, 10000) n; DELETE FROM junk');
start('Hours', 'abcdefghij', ', members => 2');
my $holder = $node->background_psql('shop');
$holder->query_safe('BEGIN');
my $pid = $holder->query_safe('SELECT pg_backend_pid()');
my $held = $holder->query_safe(q{SELECT count(*) FROM event_store.next_events('Hours')});
cmp_ok($held, '<', 10, 'it has the events of one member');
is(sql("SELECT backend_xmin IS NULL, backend_xid IS NOT NULL FROM pg_stat_activity WHERE pid = $pid"), 't|t', 'it holds no snapshot, but a number, as any transaction that writes');
sql('VACUUM junk');
is(sql(q{SELECT pg_relation_size('junk')}), '0', 'VACUUM removes what was dead before it');
is(sql(q{SELECT last_sequence FROM event_store.append_event('Hours', 'a', 1, 'E', durability => 'staged')}), '2', 'events are staged');
is(sql(q{SELECT event_store.flush(timeout => '60s')}), 't', 'and drained');
is(sql(q{SELECT safe_position = last_position FROM event_store.feed_status}), 't', 'the feed goes on');
my $others = split / /, consume('Hours', 99);
cmp_ok($held + $others, '>=', 10, 'the other member goes on');
is(consume('Hours', 99), '', 'and that is all there is for it');
$holder->query_safe('COMMIT');
$holder->quit;

# ---------- the extension is dropped and made again

start('Dropped', 'aabb', '');
is(consume('Dropped', 1), 'a1', 'one is consumed');
is(sql(failing('Dropped', 'b', 1, 'park')), 'parked', 'one partition is parked');
my $lease = sql(q{SELECT lease FROM event_store.claim_events('Dropped', 'c', 1, '1h')});
sql('DROP EXTENSION event_store CASCADE; CREATE EXTENSION event_store; SELECT event_store.create_store()');
like(error_of($node, 'shop', qq{SELECT event_store.ack_events('Dropped', 0, $lease, failed_positions => '{1}')}), qr/22023/, 'the lease is good');
is(sql("SELECT event_store.release_events('Dropped', 0, $lease)"), 't', 'and can be given back');
is(consume('Dropped', 9), 'a2', 'the subscription goes on where it stood');
is(aside('Dropped'), 'Dropped/b parked 1', 'with what is set aside');

# ---------- a standby that had not received all

start('Failover', 'aabb', '');
is(consume('Failover', 1), 'a1', 'one event, before the standby is cut off');
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
$standby->stop;
is(consume('Failover', 2), 'a2 b1', 'two behind that');
$node->stop('immediate');
# it begins without its primary
$standby->start;
$standby->promote;
$node = $standby;
is(effects('Failover'), 'a1', 'effects went back');
is(consume('Failover', 9), 'a2 b1 b2', 'and so did the position');
is(effects('Failover'), 'a1 a2 b1 b2', 'one effect each');

$node->stop;
done_testing();
