# Waiting: one process looks for all who wait, whoever that is and however it ends;
# nobody is woken for nothing, nobody waits for what is there, and the procedure holds no
# snapshot meanwhile.

use strict;
use warnings;

use EventStoreTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StressPrograms;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = new_server('waiting',
	init => { allows_streaming => 1 },
	conf => "max_connections = 150\nevent_store.retry_initial = '3s'\nevent_store.retry_max = '3s'\nrestart_after_crash = on\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub append
{
	my ($type, $id) = @_;

	return sql(sprintf q{SELECT last_position FROM event_store.append_event('%s', '%s', NULL, 'E')}, $type, $id // 'a');
}

sub wake_ups
{
	return sql(q{SELECT value FROM event_store.metrics WHERE metric = 'feed.wake_ups'});
}

# Clients that wait, each in a psql of its own; in the order in which they fell asleep.
my %clients;

sub start_waiting
{
	my ($name, $statement, %options) = @_;
	my $on = $options{on} // $node;
	my $wait = $options{wait} // 'Extension';
	my %client = (name => $name, out => '');

	$client{run} = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $on->connstr('shop') . " application_name=$name", map { ('-c', $_) } split(/; /, $statement) ],
		'>&', \$client{out}, IPC::Run::timeout($options{limit} // 60));
	foreach (1 .. 1000)
	{
		$clients{$name} = \%client
		  if $on->safe_psql('postgres',
			qq{SELECT count(*) FROM pg_stat_activity WHERE application_name = '$name' AND wait_event_type = '$wait'}) eq '1';
		last if $clients{$name} || !$client{run}->pumpable;
		usleep(20_000);
		$client{run}->pump_nb;
	}
	die "$name does not wait: $client{out}" unless $clients{$name};
	return;
}

# What it got; it must not have to wait out its time, which is minutes.
sub answer_of
{
	my ($name) = @_;
	my $client = delete $clients{$name};

	if (!eval { $client->{run}->finish; 1 })
	{
		$client->{out} .= "no answer: $@" if $@ =~ /timeout/;
		$client->{run}->kill_kill;
	}
	chomp $client->{out};
	return $client->{out};
}

sub call
{
	my (@names) = @_;

	return sprintf q{CALL event_store.wait_for_subscriptions('{%s}', '10min')}, join(',', @names);
}

# All there is for them, in transactions of their own.
sub consume
{
	sql("SELECT count(*) FROM event_store.next_events('$_')") foreach @_;
	return;
}

sub is_waiting
{
	my ($name) = @_;

	return sql(qq{SELECT count(*) FROM pg_stat_activity WHERE application_name = '$name' AND wait_event_type = 'Extension'});
}

sub pid_of
{
	my ($name) = @_;

	return sql(qq{SELECT pid FROM pg_stat_activity WHERE application_name = '$name'});
}

# ---------- all kinds of waiters beside writers, thrown out in between

SKIP:
{
	skip 'python3-psycopg2 is not installed', 1 unless can_run_programs();
	my $seconds = $ENV{EVENT_STORE_SECONDS} || 6;
	program_passes('waiting', $node, 'shop', '100 waiters: nobody waits in vain', '--seconds', $seconds);
	is(sql(q{SELECT value FROM event_store.metrics WHERE metric = 'feed.waiters'}), '0', 'all have left');
}

sql(q{
	SELECT event_store.create_subscription(s, ARRAY[s], start_after => event_store.safe_position())
	  FROM unnest(ARRAY['One', 'Two', 'Three', 'Rare']) s;
	CREATE TABLE seen (position bigint);
});

# ---------- the procedure holds neither a snapshot nor a lock of a table

start_waiting('first', call('One'));
start_waiting('second', call('Two', 'Rare'));
start_waiting('third', 'BEGIN; ' . call('Three') . '; COMMIT');
append('Other') foreach 1 .. 3;
my $holds = q{SELECT string_agg(concat_ws(' ', application_name, backend_xmin, backend_xid,
		(SELECT string_agg(relation::regclass::text, ',') FROM pg_locks l WHERE l.pid = a.pid AND relation IS NOT NULL)), ' / ' ORDER BY application_name)
	FROM pg_stat_activity a WHERE application_name IN ('first', 'second')};
is(sql($holds), 'first / second', 'neither who leads nor who does not has a snapshot or a lock');
is(sql(q{SELECT backend_xmin FROM pg_stat_activity WHERE application_name = 'third'}), '', 'nor a snapshot in a transaction');

# the log is not locked by who looked at it for all
sql(q{ALTER TABLE event_store.domain_events SET (fillfactor = 90)});
pass('who changes the log waits for nobody who waits');

# ---------- whoever leads, another one follows

append('Two');
is(answer_of('second'), '{Two}', 'woken by the one that leads, told which');
$node->psql('shop', q{SELECT pg_terminate_backend(} . pid_of('first') . ')');
like(answer_of('first'), qr/terminating/, 'the leader is terminated');
append('Three');
is(answer_of('third'), '{Three}', 'another one leads');
consume('Two', 'Three');

# one that was told and has not looked yet: who follows it looks
start_waiting('first', call('One'));
# what else goes on in a server may wake it after a minute, too
start_waiting('second', call('Three'), limit => 40);
my $stopped = pid_of('first');
kill 'STOP', $stopped;
append('Three');
$node->psql('shop', "SELECT pg_terminate_backend($stopped)");
kill 'CONT', $stopped;
like(answer_of('first'), qr/terminating/, 'the leader is terminated before it has looked');
is(answer_of('second'), '{Three}', 'the one that follows looks at once');
consume('Three');

start_waiting('first', call('One'));
start_waiting('second', call('Two'));
start_waiting('third', call('Three'));
$node->psql('shop', q{SELECT pg_cancel_backend(} . pid_of('first') . ')');
like(answer_of('first'), qr/canceling/, 'the leader is cancelled');
$clients{second}{run}->signal('KILL');
eval { $clients{second}{run}->finish };
delete $clients{second};
ok($node->poll_query_until('shop', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'second'}),
	'the client of the next one is killed, and its backend ends');
append('Three');
is(answer_of('third'), '{Three}', 'and another one leads');

start_waiting('first', call('One'));
start_waiting('second', call('Two'));
my $first = pid_of('first');
kill 'KILL', $first;
answer_of('first');
answer_of('second');
wait_for_server($node, 'postgres');
start_waiting('first', call('Two'));
append('Two');
is(answer_of('first'), '{Two}', 'after a crash there is one again');
consume('Two', 'Three');

# ---------- who looks slowly misses nothing that the leader has looked at meanwhile

my $holder = $node->background_psql('shop');
start_waiting('leader', call('One'));
start_waiting('follower', q{SELECT event_store.wait_for_events(event_store.safe_position(), '10min') > 0});
$holder->query_safe('BEGIN; LOCK TABLE event_store.subscriptions IN ACCESS EXCLUSIVE MODE');
start_waiting('slow', call('Two'), wait => 'Lock');
append('Two');
is(answer_of('follower'), 't', 'the leader has looked');
$holder->query_safe('COMMIT');
is(answer_of('slow'), '{Two}', 'and so does the one that could not');
$node->psql('shop', q{SELECT pg_cancel_backend(} . pid_of('leader') . ')');
answer_of('leader');
consume('Two');

# ---------- nobody is woken for nothing, and what was looked at is not read again

start_waiting("w$_", call('Rare', 'One')) foreach 1 .. 8;
start_waiting("n$_", q{SELECT count(*) FROM event_store.next_events('Rare', 10, '5s')}) foreach 1 .. 2;
my $before = wake_ups();
sql(join(';', map { "SELECT event_store.append_event('Other', 'o$_', NULL, 'E')" } 1 .. 30));
is(wake_ups() - $before, 0, '30 appends of other types wake nobody');
is(answer_of("n$_"), '0', 'who waits in vain gets nothing') foreach 1 .. 2;
is(sql(q{SELECT position = event_store.safe_position() FROM event_store.subscription_status WHERE subscription_name = 'Rare'}),
	't', 'and its member has passed what the leader looked at');

# an idle store: they sleep, all of them
sub switches
{
	my @pids = split(/\n/, sql(q{SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'w_' ORDER BY 1}));

	return join(' ', map { slurp_file("/proc/$_/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m ? $1 : '?' } @pids);
}

SKIP:
{
	skip 'no /proc', 1 unless -r '/proc/self/status';
	my $still;

	foreach (1 .. 20)
	{
		my $then = switches();

		sleep 2;
		$still = $then eq switches();
		last if $still;
	}
	ok($still, 'who waits in an idle store does nothing at all');
}
append('Rare');
is(answer_of("w$_"), '{Rare}', 'each of them is woken for what it waits for') foreach 1 .. 8;
consume('Rare');

# ---------- whatever gives it something wakes

append('One', 'b');
$holder->query_safe(q{BEGIN; INSERT INTO seen SELECT global_position FROM event_store.next_events('One')});
start_waiting('freed', call('One'));
$holder->query_safe('ROLLBACK');
is(answer_of('freed'), '{One}', 'a batch that is rolled back');

$holder->query_safe(q{BEGIN; SAVEPOINT s; SELECT count(*) FROM event_store.next_events('One')});
start_waiting('freed', call('One'));
$holder->query_safe('ROLLBACK TO s');
is(answer_of('freed'), '{One}', 'to a savepoint, too');
$holder->query_safe('COMMIT');

$holder->query_safe(q{BEGIN; SELECT count(*) FROM event_store.next_events('One', 1)});
append('One', 'b');
start_waiting('freed', q{SELECT count(*) FROM event_store.next_events('One', 10, '5s')});
$holder->query_safe('COMMIT');
cmp_ok(answer_of('freed'), '>', 0, 'a batch that is committed, where there is more');
consume('One');

# leases
sub claim
{
	my ($time, $timeout) = @_;

	return sprintf q{SELECT concat_ws(' ', member, lease) FROM event_store.claim_events('One', 'c', 100, '%s', '%s') LIMIT 1}, $time, $timeout // '0';
}

append('One', 'b');
my ($member, $lease) = split(/ /, sql(claim('10min')));
start_waiting('freed', claim('10min', '5s'));
sql("SELECT event_store.release_events('One', $member, $lease)");
($member, $lease) = split(/ /, answer_of('freed'));
ok($lease, 'a lease that is released, who waits to claim');
start_waiting('freed', call('One'));
sql("SELECT event_store.extend_lease('One', $member, $lease, '2s')");
is(answer_of('freed'), '{One}', 'a lease that expires');
consume('One');

# other members
start_waiting('resized', call('Two'));
sql(q{SELECT event_store.resize_subscription('Two', 3)});
my $resized = append('Two', 'resized');
is(answer_of('resized'), '{Two}', 'events of one that was resized meanwhile');
start_waiting('reader', qq{SELECT event_store.wait_for_subscription('Two', $resized, '10min')});
sql(q{SELECT event_store.resize_subscription('Two', 2)});
is(is_waiting('reader'), '1', 'a resize has handled nothing');
consume(('Two') x 6);
is(answer_of('reader'), 't', 'who waits until something is handled, by other members by then');

# one member is taken, the other one has nothing: they sleep, though each looks at the latter
append('Two', 'taken');
$holder->query_safe(q{BEGIN; SELECT count(*) FROM event_store.next_events('Two')});
start_waiting("taken$_", call('Two')) foreach 1, 2;
$before = wake_ups();
append('Other');
is(wake_ups() - $before, 0, 'those who wait for a member do not wake each other');
$holder->query_safe('ROLLBACK');
is(answer_of("taken$_"), '{Two}', 'one of two members, by each of them') foreach 1, 2;
consume('Two');

sql(q{SELECT event_store.pause_subscription('One')});
append('One', 'b');
start_waiting('paused', call('One'));
sql(q{SELECT event_store.resume_subscription('One')});
is(answer_of('paused'), '{One}', 'one that goes on');

my $position = sql(q{SELECT max(global_position) FROM event_store.domain_events});
sql(qq{SELECT event_store.fail_events('One', $position, 'no', 'park')});
consume('One');
start_waiting('parked', call('One'));
sql(q{SELECT event_store.retry_parked_events('One')});
is(answer_of('parked'), '{One}', 'what is retried');
consume('One');

$position = append('One', 'c');
sql(qq{SELECT event_store.fail_events('One', $position, 'no')});
consume('One');
start_waiting('due', call('One'));
is(answer_of('due'), '{One}', 'a retry that is due');
consume('One');

start_waiting('altered', call('Rare'));
sql(q{SELECT event_store.alter_subscription('Rare', '{New}')});
append('New');
is(answer_of('altered'), '{Rare}', 'other types');
consume('Rare');

$holder->query_safe(q{BEGIN; SELECT count(*) FROM event_store.next_events('Rare')});
append('New');
my $mover = $node->background_psql('shop');
$mover->query_safe(q{SET lock_timeout = '100ms'});
$mover->query_safe(q{SELECT event_store.pause_subscription('Rare')});
$mover->query_safe(q{SELECT event_store.resume_subscription('Rare')});
$holder->query_safe('COMMIT');
$holder->query_safe(q{SELECT count(*) FROM event_store.next_events('Rare')});
start_waiting('dropped', call('Rare', 'Two'));
sql(q{SELECT event_store.drop_subscription('Rare')});
like(answer_of('dropped'), qr/does not exist/, 'and one that is dropped, who is told so');
$mover->quit;

# ---------- read your own writes

$position = append('One', 'd');
start_waiting('reader', qq{SELECT event_store.wait_for_subscription('One', $position, '10min')});
$holder->query_safe(q{BEGIN; SELECT count(*) FROM event_store.next_events('One')});
is(is_waiting('reader'), '1', 'not before it is committed');
is(sql(q{SELECT string_agg(relation::regclass::text, ' ') FROM pg_locks WHERE relation IS NOT NULL AND pid = } . pid_of('reader')),
	'', 'and without a lock of a table meanwhile');
$holder->query_safe('COMMIT');
is(answer_of('reader'), 't', 'who waits until it is handled is told');

$position = append('One', 'd');
start_waiting('killed', qq{SELECT event_store.wait_for_subscription('One', $position, '10min')});
start_waiting('reader', qq{SELECT event_store.wait_for_subscription('One', $position, '10min')});
$clients{killed}{run}->signal('KILL');
eval { $clients{killed}{run}->finish };
delete $clients{killed};
ok($node->poll_query_until('shop', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'killed'}),
	'one whose client is killed ends');
consume('One');
is(answer_of('reader'), 't', 'and another one is told');

$holder->query_safe('BEGIN');
$position = $holder->query_safe(q{SELECT last_position FROM event_store.append_event('Two', 'open', NULL, 'E')});
append('Two', 'behind');
start_waiting('reader', qq{SELECT event_store.wait_for_subscription('One', $position, '10min')});
$holder->query_safe('COMMIT');
is(answer_of('reader'), 't', 'also where all it waits for is an open append');

$holder->quit;

# ---------- a standby

consume('One', 'Two', 'Three');
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('waiting_standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
wait_for_worker($node, 'shop');
start_waiting('far', call('Two', 'Three'), on => $standby);
start_waiting('far_too', q{SELECT event_store.wait_for_events(} . sql('SELECT event_store.safe_position()') . q{, '10min')}, on => $standby);
$position = append('Two', 'e');
is(answer_of('far'), '{Two}', 'who waits on a standby is told');
cmp_ok(answer_of('far_too'), '>=', $position, 'each of them');
start_waiting('far', qq{SELECT event_store.wait_for_subscription('Two', $position, '10min')}, on => $standby);
consume('Two');
is(answer_of('far'), 't', 'also when it is handled');

start_waiting('far', call('Three'), on => $standby);
$standby->promote;
$standby->poll_query_until('shop', 'SELECT NOT pg_is_in_recovery()');
$standby->safe_psql('shop', q{SELECT event_store.append_event('Three', 'f', NULL, 'E')});
is(answer_of('far'), '{Three}', 'and after its promotion');

$standby->stop;
$node->stop;
unlike(slurp_file($node->logfile) . slurp_file($standby->logfile), qr/PANIC|TRAP/, 'nothing crashed by itself');
done_testing();
