# Leases over the life of a server: a stop, a crash, a promotion, a dump; a consumer
# that an event kills every time, by lease and in its transaction.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('leases', init => { allows_streaming => 1 },
	conf => "event_store.retry_initial = '1ms'\nevent_store.retry_max = '1ms'\nmax_connections = 20\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

# A subscription over new events of a type of its own: 100 of ten aggregates.
sub start
{
	my ($name, $more) = @_;

	sql(qq{SELECT event_store.create_subscription('$name', '{$name}', start_after => event_store.safe_position() } . ($more // '') . qq{);
		SELECT count(*) FROM event_store.append_batch(array_fill('$name'::text, ARRAY[100]),
			ARRAY(SELECT (n % 10)::text FROM generate_series(1, 100) n), array_fill('E'::text, ARRAY[100]), NULL)});
	return;
}

# Claims: member and lease, and the numbers of the events, from 1.
sub claim
{
	my ($server, $database, $name, $most) = @_;
	my $row = $server->safe_psql($database, qq{SELECT c.member, c.lease, string_agg((c.global_position - f.first + 1)::text, ' ' ORDER BY c.global_position)
		FROM event_store.claim_events('$name', 'consumer', $most, '1h') c,
		(SELECT min(global_position) AS first FROM event_store.domain_events WHERE aggregate_type = '$name') f GROUP BY 1, 2});
	my ($member, $lease, $events) = split /\|/, $row;

	return { member => $member, lease => $lease, events => [ split / /, $events // '' ] };
}

sub ack
{
	my ($server, $database, $name, $claim) = @_;

	return $server->safe_psql($database, "SELECT event_store.ack_events('$name', $claim->{member}, $claim->{lease})");
}

sub is_lost
{
	my ($server, $database, $name, $lease, $what) = @_;

	like(error_of($server, $database, "SELECT event_store.ack_events('$name', 0, $lease)"), qr/VS007/, $what);
	return;
}

# ---------- a clean stop and a crash

start('Stop');
my $first = claim($node, 'shop', 'Stop', 10);
$node->restart;
is(sql(q{SELECT state FROM event_store.subscription_status}), 'leased', 'a clean stop leaves a lease as it is');
is(scalar @{ claim($node, 'shop', 'Stop', 10)->{events} }, 0, 'and nobody gets its events');
is(ack($node, 'shop', 'Stop', $first), 't', 'it is acknowledged after it');
my $second = claim($node, 'shop', 'Stop', 10);
cmp_ok($second->{lease}, '>', $first->{lease}, 'numbers go up over a restart');
$node->stop('immediate');
$node->start;
is(sql(q{SELECT state FROM event_store.subscription_status}), 'retrying', 'after a crash it counts as expired');
my $third = claim($node, 'shop', 'Stop', 10);
is("@{ $third->{events} }", '11', 'and the next batch is one event');
cmp_ok($third->{lease}, '>', $second->{lease}, 'numbers go up over a crash');
is_lost($node, 'shop', 'Stop', $second->{lease}, 'the lease of before is lost');
is(ack($node, 'shop', 'Stop', $third), 't', 'that of after is good');
is(sql(q{SELECT count(*) FROM event_store.parked_events}), '0', 'nothing was counted of ten events');

# A claim in a database of its own, whose store may be made anew.
sub claim_anew
{
	return $node->safe_psql('anew', q{SELECT event_store.create_subscription('all');
		SELECT count(event_store.append_event('A', 'a', NULL, 'E'));
		SELECT event_store.release_events('all', 0, lease) FROM event_store.claim_events('all', 'c');
		SELECT FROM event_store.claim_events('all', 'c');
		SELECT state FROM event_store.subscription_status});
}
create_store_in($node, 'anew');
claim_anew();

# a claim that a crash takes back gives its number to nobody
my $psql = $node->background_psql('shop');
my $gone = $psql->query_safe(q{BEGIN; SELECT DISTINCT lease FROM event_store.claim_events('Stop', 'gone', 1)});
$node->stop('immediate');
$node->start;
eval { $psql->quit };
cmp_ok(claim($node, 'shop', 'Stop', 1)->{lease}, '>', $gone, 'an open claim is taken back, and its number not given again');
is_lost($node, 'shop', 'Stop', $gone, 'nor good for anything');

# a store that is made anew after it counts anew: its leases are of after the crash
claim_anew();
$node->safe_psql('anew', 'DROP EXTENSION event_store CASCADE; DROP SCHEMA event_store CASCADE;
	CREATE EXTENSION event_store; SELECT event_store.create_store()');
like(claim_anew(), qr/leased$/, 'a store that is made anew after a crash has leases that hold');

# ---------- an event that kills its consumer

# Each way of dying: what becomes of the consumer, or of the server, with event 50 in hand.
sub dies
{
	my ($name, $how, $claim) = @_;

	if ($how eq 'server')
	{
		$node->stop('immediate');
		$node->start;
	}
	else
	{
		sql("SELECT event_store.extend_lease('$name', $claim->{member}, $claim->{lease}, '1us')");
	}
	return;
}

sub killer
{
	my ($name, @ways) = @_;
	my $offers = 0;
	my $calls = 0;

	start($name, ', max_attempts => 3');
	while ($calls++ < 400)
	{
		my $claim = claim($node, 'shop', $name, 100);

		last if !@{ $claim->{events} };
		if (grep { $_ == 50 } @{ $claim->{events} })
		{
			dies($name, $ways[ $offers % @ways ], $claim);
			$offers++;
			next;
		}
		ack($node, 'shop', $name, $claim);
	}
	cmp_ok($offers, '<=', 3 + 7, "$name: event 50 is offered $offers times at most");
	is(sql(qq{SELECT partition_key, state, attempts, error_code, global_position = (SELECT min(global_position) + 49 FROM event_store.domain_events WHERE aggregate_type = '$name')
		FROM event_store.parked_events WHERE subscription_name = '$name'}), "$name/0|parked|3|VS007|t", "$name: only its partition is parked");
	is(sql(qq{SELECT lag_events = 0 FROM event_store.subscription_status WHERE subscription_name = '$name'}) , 't', "$name: all others were given");
	return;
}
killer('Client', 'client');
killer('Server', 'server');
killer('Both', 'client', 'server');

# in the consumer's transaction: only the end of a session with one event counts
start('Fetch', ', max_attempts => 2');
sub fetch_and
{
	my ($most, $end) = @_;
	my $session = $node->background_psql('shop');
	my $got = $session->query_safe("BEGIN; SELECT sequence || '/' || aggregate_id FROM event_store.next_events('Fetch', $most)");

	if ($end eq 'killed')
	{
		my $pid = $session->query_safe('SELECT pg_backend_pid()');
		sql("SELECT pg_terminate_backend($pid, 10000)");
		eval { $session->quit };
	}
	else
	{
		$session->query_safe($end) if $end ne '';
		$session->quit;
	}
	return $got;
}
my $attempts = q{SELECT attempts FROM event_store.subscription_positions WHERE subscription_name = 'Fetch' ORDER BY number DESC LIMIT 1};
is(fetch_and(1, 'ROLLBACK'), '1/1', 'rolled back');
is(sql($attempts), '0', 'a rollback is no attempt');
is(sql(q{SELECT state, attempts FROM event_store.subscription_status WHERE subscription_name = 'Fetch'}), 'retrying|1', 'but it shows');
is(fetch_and(1, 'killed'), '1/1', 'it comes again, and its session is terminated');
ok($node->poll_query_until('shop', "SELECT ($attempts) = 1"), 'the worker stores that as an attempt');
is(sql(q{SELECT last_error FROM event_store.subscription_status WHERE subscription_name = 'Fetch'}), 'the session ended with this event in hand', 'with its reason');
is(fetch_and(1, ''), '1/1', 'it comes again, and the client goes away');
ok($node->poll_query_until('shop', q{SELECT state = 'parked' AND attempts = 2 FROM event_store.parked_events WHERE subscription_name = 'Fetch'}),
	'the last attempt parks it');
is(fetch_and(1, 'COMMIT'), '1/2', 'and the others go on');
is(fetch_and(5, 'killed'), "1/3\n1/4", 'a session ends with two events');
is(fetch_and(1, 'ROLLBACK'), '1/3', 'they come again');
is(sql($attempts), '0', 'and none has an attempt');
is(sql(q{SELECT count(*) FROM event_store.parked_events WHERE subscription_name = 'Fetch'}), '1', 'no other partition is parked');

# ---------- numbers of another log: a promoted standby, a restored dump

start('Log');
start('Again');
my $old = claim($node, 'shop', 'Log', 10);
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
is($standby->safe_psql('shop', q{SELECT state, consumer FROM event_store.subscription_status WHERE subscription_name = 'Log'}), 'leased|consumer', 'a standby shows a lease');
like(error_of($standby, 'shop', q{SELECT FROM event_store.claim_events('Log', 'c')}), qr/25006/, 'and gives none');
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
$node->command_ok([ 'pg_dump', '-Fc', '--file', $dump, $node->connstr('shop') ], 'dumped');
$standby->safe_psql('postgres', 'CHECKPOINT');
# what the standby does not receive any more
$standby->stop;
is(ack($node, 'shop', 'Log', $old), 't', 'acknowledged on the primary');
my $unknown = claim($node, 'shop', 'Log', 10);
my $given = claim($node, 'shop', 'Again', 5);
is(ack($node, 'shop', 'Again', $given), 't', 'as is another one');
$node->stop;
$standby->start;
$standby->promote;
ok($standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()'), 'promoted');
is_lost($standby, 'shop', 'Log', $unknown->{lease}, 'the lease that only the primary gave is lost');
is("@{ claim($standby, 'shop', 'Again', 5)->{events} }", "@{ $given->{events} }", 'what only the primary knew to be acknowledged comes again');
is(ack($standby, 'shop', 'Log', $old), 't', 'the one that it had before is good');
my $new = claim($standby, 'shop', 'Log', 10);
cmp_ok($new->{lease}, '>=', $old->{lease} + 2**32, 'numbers jump with the timeline');
is_lost($standby, 'shop', 'Log', $unknown->{lease}, 'and that lease stays lost');

$standby->safe_psql('postgres', 'CREATE DATABASE restored');
$standby->command_ok([ 'pg_restore', '--exit-on-error', '-d', $standby->connstr('restored'), $dump ], 'restored');
$standby->safe_psql('restored', 'SELECT event_store.create_store()');
is_lost($standby, 'restored', 'Log', $unknown->{lease}, 'in a restored dump it is lost, too');
is(ack($standby, 'restored', 'Log', $old), 't', 'what was dumped is good');
cmp_ok(claim($standby, 'restored', 'Log', 10)->{lease}, '>=', $old->{lease} + 2**32, 'and numbers jump');

$standby->stop;
unlike(slurp_file($_->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed by itself') foreach ($node, $standby);
done_testing();
