# Sagas outlive the server, and executors that wait are told at once: a lease holds over a crash, an attempt
# is not counted anew, and what falls due is done, also what fell due while the server was down.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('sagas', conf => "restart_after_crash = on\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub poll
{
	return $node->poll_query_until('shop', $_[0]);
}

# Claims what there is; returns the step, its kind, attempt and lease.  Who has just done something to the saga
# in the background may still hold it for a moment.
sub claim
{
	my ($lease_time) = @_;

	return split /\|/,
	  sql("SELECT saga_id, kind, attempt, lease FROM event_store.claim_steps('short', 'e', lease_time => '$lease_time', timeout => '5s')");
}

sub crash
{
	$node->stop('immediate');
	$node->start;
	return;
}

sql(q{SELECT event_store.define_saga('short', '{"steps": [{"name": "a", "max_attempts": 2, "compensate": true, "timeout": "1h",
	"compensation": {"timeout": "1h"}}]}')});

# ---------- the executor comes back after the crash

sql(q{SELECT event_store.start_saga('short', 'back')});
my (undef, undef, undef, $lease) = claim('1h');
crash();
is(sql("SELECT event_store.report_step('short', 'back', 'a', 'succeeded', $lease, '{\"n\": 1}')"), 'completed', 'its report is taken');
is(sql("SELECT event_store.report_step('short', 'back', 'a', 'succeeded', $lease, '{\"n\": 1}')"), 'completed', 'and again');
is(sql(q{SELECT state, context FROM event_store.saga_status WHERE saga_id = 'back'}), 'completed|{"a": {"n": 1}}', 'and known');

# ---------- it does not

sql(q{SELECT event_store.start_saga('short', 'gone')});
is((claim('1s'))[2], '1', 'the first attempt');
crash();
ok(poll(q{SELECT count(*) = 1 FROM event_store.saga_steps WHERE saga_id = 'gone' AND claimable_at IS NOT NULL}),
	'the lease is over after the start');
is((claim('1s'))[2], '2', 'the second attempt');
ok(poll(q{SELECT state = 'compensating' FROM event_store.sagas WHERE saga_id = 'gone'}), 'there is no third');
my ($id, $kind, $attempt, $back) = claim('1h');
is("$id $kind $attempt", 'gone compensation 1', 'what may have been done is undone');
crash();
is(sql("SELECT event_store.report_step('short', 'gone', 'a', 'compensated', $back)"), 'compensated', 'over a crash');
is(sql(q{SELECT count(*) FROM event_store.load_events('saga:short', 'gone') WHERE event_type = 'StepClaimed' AND payload ->> 'kind' = 'step'}),
	'2', 'two claims in all');

# ---------- an executor that waits is told

my $executor = $node->background_psql('shop');
for my $n (1 .. 3)
{
	$executor->query_until(qr/waits/, qq{\\echo waits\nSELECT 'got ' || saga_id FROM event_store.claim_steps('short', 'waiting', timeout => '5s');\n});
	ok(poll(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%''waiting''%' AND wait_event_type = 'Extension' AND pid <> pg_backend_pid()}),
		'it waits');
	sql("SELECT event_store.start_saga('short', 'told $n')");
	my $started = time;
	$executor->query_until(qr/got told $n/, '');
	cmp_ok(time - $started, '<', 4, 'and is told');
}

# ---------- as one is who waits behind an open circuit when that closes

sql(q{SELECT event_store.define_saga('broken', '{"steps": [{"name": "a", "timeout": "1h", "retry_initial": "1us", "retry_max": "1us", "circuit": {"failures": 1, "pause": "1us"}}]}');
	SELECT event_store.start_saga('broken', 'first');
	SELECT event_store.report_step('broken', saga_id, step, 'retry', lease) FROM event_store.claim_steps('broken', 'e');
	CREATE TABLE trial AS SELECT saga_id, step, lease FROM event_store.claim_steps('broken', 'e');
	SELECT event_store.start_saga('broken', 'second')});
is(sql(q{SELECT count(*) FROM event_store.claim_steps('broken', 'e', max_count => 2)}), '0', 'while a trial is on there is nothing');
$executor->query_until(qr/waits/, qq{\\echo waits\nSELECT 'got ' || saga_id FROM event_store.claim_steps('broken', 'waiting', timeout => '5s');\n});
ok(poll(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%''waiting''%' AND wait_event_type = 'Extension' AND pid <> pg_backend_pid()}),
	'it waits');
sql(q{SELECT event_store.report_step('broken', saga_id, step, 'succeeded', lease) FROM trial});
my $closed = time;
$executor->query_until(qr/got second/, '');
cmp_ok(time - $closed, '<', 4, 'and is told that the circuit has closed');
$executor->quit;

# ---------- the process stays for what is due later

sql(q{SELECT event_store.define_saga('later', '{"timeout": "3s", "steps": [{"name": "a"}]}')});
sql(q{SELECT event_store.start_saga('later', 'due')});
ok(poll(q{SELECT state = 'failed' FROM event_store.sagas WHERE saga_id = 'due'}), 'the time of a saga is over');

# ---------- one that cannot go on holds up no other

sql(q{
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'not this one'; END$$;
	SELECT event_store.start_saga('later', 'held ' || n) FROM generate_series(1, 150) n;
	CREATE TRIGGER refuse BEFORE INSERT ON event_store.domain_events
	    FOR EACH ROW WHEN (NEW.aggregate_id LIKE 'held %') EXECUTE FUNCTION refuse();
	SELECT event_store.start_saga('later', 'free')});
ok(poll(q{SELECT state = 'failed' FROM event_store.sagas WHERE saga_id = 'free'}), 'others go on');
sql('DROP TRIGGER refuse ON event_store.domain_events');
ok(poll(q{SELECT count(*) = 150 FROM event_store.sagas WHERE saga_id LIKE 'held %' AND state = 'failed'}), 'and they, when they can');

# ---------- nor one that meets a row of a view that somebody holds

sql(q{
	SELECT event_store.define_saga('viewed', '{"timeout": "2s", "steps": [{"name": "a"}]}');
	SELECT event_store.create_view_projection('ends', '{saga:viewed}', '"$.event_type"',
		'{"events": {"SagaFailed": [{"op": "increment", "path": "$.n", "value": 1}]}}', 'inline');
	SELECT event_store.start_saga('viewed', 'held'), event_store.start_saga('viewed', 'blocked')});
my $holder = $node->background_psql('shop');
$holder->query_safe(q{BEGIN; SELECT event_store.cancel_saga('viewed', 'held', 'test')});
sql(q{SELECT event_store.start_saga('later', 'not blocked')});
ok(poll(q{SELECT state = 'failed' FROM event_store.sagas WHERE saga_id = 'not blocked'}), 'others do not wait for it');
is(sql(q{SELECT state FROM event_store.sagas WHERE saga_id = 'blocked'}), 'running', 'while it does');
$holder->query_safe('COMMIT');
$holder->quit;
ok(poll(q{SELECT state = 'failed' FROM event_store.sagas WHERE saga_id = 'blocked'}), 'and it goes on then');
is(sql(q{SELECT view_data FROM event_store.domain_views WHERE view_name = 'ends' AND view_key = 'SagaFailed'}), '{"n": 2}', 'as the view has it');

# ---------- sagas that run when the database is dumped go on where it is restored

sql(q{SELECT event_store.define_saga('moving', '{"steps": [{"name": "a", "timeout": "1h"}]}')});
my %carried;
for my $saga ([ 'carried', '1h' ], [ 'lapsed', '2s' ])
{
	sql("SELECT event_store.start_saga('moving', '$saga->[0]')");
	$carried{$saga->[0]} = sql("SELECT lease FROM event_store.claim_steps('moving', 'e', lease_time => '$saga->[1]')");
}
my $dump = PostgreSQL::Test::Utils::tempdir() . '/shop.sql';
$node->command_ok([ 'pg_dump', '--file', $dump, $node->connstr('shop') ], 'pg_dump');
my $other = new_server('other');
$other->start;
$other->safe_psql('postgres', 'CREATE DATABASE copy');
$other->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $other->connstr('copy') ], 'and restored elsewhere');
$other->safe_psql('copy', 'SELECT event_store.create_store()');
ok($other->poll_query_until('copy', q{SELECT count(*) = 1 FROM event_store.saga_steps WHERE saga_id = 'lapsed' AND claimable_at IS NOT NULL}),
	'a lease ends there');
is($other->safe_psql('copy', "SELECT event_store.report_step('moving', 'carried', 'a', 'succeeded', $carried{carried})"), 'completed',
	'one that has not is good for a report');
is($other->safe_psql('copy', "SELECT attempt, lease > $carried{lapsed} FROM event_store.claim_steps('moving', 'e', timeout => '5s')"), '2|t', 'and what lapsed is claimed by a newer one');
is($other->safe_psql('copy', q{SELECT event_store.start_saga('moving', 'carried')}), '1', 'starting one again is still no second start');
$other->stop;

$node->stop;
done_testing();
