# examples/outbox, a relay from claim_events to a broker: whoever is killed, relay, broker or
# server, every event arrives, none before those ahead of it in its aggregate, and none twice
# unless somebody was killed.

use strict;
use warnings;

use EventStoreTest;
use File::Basename qw(dirname);
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $example = dirname(__FILE__) . '/../../examples/outbox';
my $tmp = $PostgreSQL::Test::Utils::tmp_check;
$ENV{PATH} .= ':/usr/sbin';

plan skip_all => 'nats-server is not installed' unless can_run('nats-server', '--version');
plan skip_all => 'node is not installed' unless can_run('node', '--version');
plan skip_all => 'npm cannot install nats and pg' unless -e "$example/node_modules/nats" || can_run('sh', '-c',
	"cd '$example' && npm ci --no-audit --no-fund --loglevel=error");

sub can_run
{
	my ($output, $done) = ('');

	$done = eval { IPC::Run::run([@_], '>', \$output, '2>&1') };
	note($output) unless $done;
	return $done;
}

my $node = new_server('outbox', conf => "event_store.retry_initial = '1ms'\nevent_store.retry_max = '1ms'\n");
$node->start;
create_store_in($node, 'shop');
sql(q{CREATE ROLE relay LOGIN;
	SELECT event_store.grant_access('relay', 'consumer');
	SELECT event_store.create_subscription('broker', members => 2, max_attempts => 2)});

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

# What has to hold at some time.
sub await
{
	my ($condition, $name) = @_;

	return ok($node->poll_query_until('shop', "SELECT $condition"), $name);
}

# ---------- who takes part

my $port = PostgreSQL::Test::Cluster::get_free_port();
my %settings = (
	PGHOST => $node->host, PGPORT => $node->port, PGUSER => 'relay', PGDATABASE => 'shop',
	NATS_URL => "127.0.0.1:$port", BATCH => 20, LEASE_SECONDS => 1,
	# the broker shall not hide what comes again
	DUPLICATE_WINDOW_MS => 100);

sub start_broker
{
	return IPC::Run::start(
		[ 'nats-server', '-a', '127.0.0.1', '-p', $port, '-js', '-sd', "$tmp/jetstream", '-l', "$tmp/nats.log" ],
		'<', '/dev/null');
}

sub start_relay
{
	local @ENV{ keys %settings } = values %settings;

	return IPC::Run::start([ 'node', "$example/relay.js" ], '<', '/dev/null', '>>', "$tmp/relay.log", '2>&1');
}

sub kill_hard
{
	my ($program) = @_;

	$program->signal('KILL');
	$program->finish;
	return;
}

my $broker = start_broker();
my @relays = map { start_relay() } 1 .. 2;

# Nobody outlives the test.
END
{
	local $?;
	foreach my $program (grep { defined } $broker, @relays)
	{
		eval { kill_hard($program) };
	}
}

# ---------- what is published

# A backlog of 20 aggregates.
sub append_backlog
{
	return stage($node, 'shop', 'o', 20, 100, durability => 'durable');
}

sub await_published
{
	my ($name) = @_;

	return await(q{sum(lag_events) = 0 AND bool_and(state = 'idle') FROM event_store.subscription_status}, $name);
}

# All messages, in the broker's order.
sub received
{
	my $out = '';
	local @ENV{ keys %settings } = values %settings;

	IPC::Run::run([ 'node', "$example/receiver.js" ], '>', \$out, IPC::Run::timeout(120)) or die "the receiver failed\n";
	return split /\n/, $out;
}

# Tests what has arrived, and returns how many came again.
sub check_received
{
	my ($when) = @_;
	my (%seen, %last, @disorder);
	my @messages = received();

	foreach my $message (@messages)
	{
		my ($aggregate, $sequence) = split / /, $message;
		next if $seen{$message}++;
		push @disorder, $message if $sequence != ($last{$aggregate} // 0) + 1;
		$last{$aggregate} = $sequence;
	}
	is_deeply(\@disorder, [], "$when: in order within each aggregate");
	is(join("\n", sort keys %seen), join("\n", sort split /\n/, sql(q{
		SELECT aggregate_type || '/' || aggregate_id || ' ' || sequence || ' ' || event_id
		  FROM event_store.domain_events WHERE aggregate_id <> 'large'})), "$when: all that was appended");
	return @messages - keys %seen;
}

# ---------- nobody is killed

append_backlog();
stage($node, 'shop', 'o', 20, 10);
ok(flush_all($node, 'shop'), 'what is staged is drained');
await_published('everything is published');
is(check_received('nobody is killed'), 0, 'nothing came twice');

# ---------- a message that the broker refuses

sql(q{SELECT event_store.append_event('Order', 'large', NULL, 'Placed', jsonb_build_object('text', repeat('x', 2000000)));
	SELECT event_store.append_event('Order', 'large', NULL, 'Placed');
	SELECT event_store.append_event('Order', 'o-1', NULL, 'Placed')});
await(q{count(*) = 1 FROM event_store.parked_events WHERE state = 'parked' AND attempts = 2}, 'a message too large is parked');
is(sql('SELECT partition_key FROM event_store.parked_events'), 'Order/large', 'with what follows it');
await_published('the others are published');
is(check_received('one is refused'), 0, 'and once');

# ---------- somebody is killed in the middle of a backlog

# Appends, and returns once a good part is published.
sub begin_backlog
{
	my $before = sql('SELECT event_store.safe_position()');

	append_backlog();
	await("sum(position) > $before * count(*) + 400 FROM event_store.subscription_status", 'a backlog is on its way');
	return;
}

begin_backlog();
kill_hard($relays[0]);
await_published('a relay is killed: the other one publishes the rest');
$relays[0] = start_relay();

begin_backlog();
kill_hard($broker);
$broker = start_broker();
await_published('the broker is killed: the rest is published');

begin_backlog();
$node->stop('immediate');
$node->start;
await_published('the server is killed: the rest is published');
my $repeated = check_received('after three kills');
note("$repeated came again");
# each of two relays has one batch in hand
cmp_ok($repeated, '<=', 3 * 2 * 20, 'what came again was in hand');

# ---------- a relay that sleeps over its lease

my $sleeper = $relays[1]->{KIDS}[0]{PID};
my $holds = "count(*) FROM event_store.subscription_status WHERE state = 'leased' AND consumer LIKE '%/$sleeper'";
my $asleep = 0;

begin_backlog();
for (my $try = 0; !$asleep && $try < 200; $try++)
{
	append_backlog() if sql('SELECT sum(lag_events) < 500 FROM event_store.subscription_status') eq 't';
	$relays[1]->signal('STOP');
	$asleep = sql("SELECT $holds");
	$relays[1]->signal('CONT') unless $asleep;
}
ok($asleep, 'a relay falls asleep with a lease');
await_published('the other one publishes the rest');
$relays[1]->signal('CONT');
ok(await_log('lease lost'), 'the sleeper learns that its lease is lost');
$repeated = check_received('a lease is lost');

sub await_log
{
	my ($text) = @_;

	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if slurp_file("$tmp/relay.log") =~ /\Q$text\E/;
		select undef, undef, undef, 0.1;
	}
	return 0;
}

# ---------- nobody is killed any more

append_backlog();
await_published('once more');
is(check_received('nobody is killed any more'), $repeated, 'nothing more came twice');

foreach my $relay (@relays)
{
	$relay->signal('TERM');
	ok($relay->finish, 'a relay ends when it is told to');
}
kill_hard($broker);
diag(slurp_file("$tmp/relay.log")) unless Test::More->builder->is_passing;
$node->stop;
done_testing();
