# The feed: readers that follow it while writers finish in any order get each
# committed event once and in order; another database's transactions do not
# matter; backends that die and servers that crash or restart leave it right.
#
#   FEED_SECONDS=600 makes the run of test/stress/feed.py a long one.

use strict;
use warnings;

use EventStoreTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use StressPrograms;
use Test::More;

my $node = new_server('feed', conf => "restart_after_crash = on\nmax_connections = 100\n");
$node->start;
create_store_in($node, 'shop');
create_store_in($node, 'elsewhere');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

# A session that stays: its statements are run one by one with ask().
sub open_session
{
	my ($database) = @_;
	my $session = { in => '', out => '' };

	$session->{run} = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $node->connstr($database) ],
		'<', \$session->{in}, '>', \$session->{out}, '2>', \$session->{out},
		IPC::Run::timeout(10 * $PostgreSQL::Test::Utils::timeout_default));
	return $session;
}

sub ask
{
	my ($session, $statement) = @_;

	$session->{out} = '';
	$session->{in} .= "$statement;\n\\echo == done\n";
	$session->{run}->pump until $session->{out} =~ /^== done\n/m;
	my $answer = $session->{out};
	$answer =~ s/\n?== done\n.*//s;
	return $answer;
}

sub end_session
{
	my ($session) = @_;

	$session->{in} .= "\\q\n";
	eval { $session->{run}->finish; };
	return;
}

# Appends one event and returns its position.
sub append
{
	my ($id) = @_;

	return sql("SELECT last_position FROM event_store.append_event('Feed', '$id', NULL, 'Added')");
}

# What is read after a position, and how the feed stands.
sub read_after
{
	my ($position) = @_;

	return sql("SELECT coalesce(string_agg(aggregate_id, ' ' ORDER BY global_position), '')
	              FROM event_store.read_events($position)");
}

sub state
{
	return sql('SELECT in_flight, last_position - safe_position FROM event_store.feed_status');
}

# ---------- nothing was appended yet

is(sql('SELECT event_store.safe_position()'), '0', 'an empty store');
is(read_after(0), '', 'has nothing to read');
is(state(), '0|0', 'and nothing in flight');

# ---------- a transaction of another database, open all the time

my $stranger = open_session('elsewhere');
ask($stranger, 'BEGIN');
is(ask($stranger, "SELECT last_position FROM event_store.append_event('Feed', 'a', NULL, 'Added')"),
	'1', 'a transaction of another database has appended');
is($node->safe_psql('elsewhere', 'SELECT in_flight FROM event_store.feed_status'), '1', 'and is in flight there');
append('a');
append('b');
is(read_after(0), 'a b', 'it delays nobody here');
is(state(), '0|0', 'and is not in flight here');

# ---------- many writers, and readers that follow

SKIP:
{
	skip 'python3-psycopg2 is not installed', 6 unless can_run_programs();

	my $output = program_passes('feed', $node, 'shop', 'every reader gets each committed event once and in order',
		'--seconds', $ENV{FEED_SECONDS} // 12, '--kill-backends', '--kill-workers');
	cmp_ok(count_of($output, 'looks that found it held back'), '>', 0,
		'later events had been committed before earlier ones');
	cmp_ok(count_of($output, 'backends terminated'), '>', 0, 'writers lost their backends');
	is(state(), '0|0', 'nothing is in flight in the end');

	# one backend of the writers dies, and with it all
	$output = program_passes('feed', $node, 'shop', 'also when the server crashes in between',
		qw(--seconds 8 --crash-cmd), crash_command($node, 'shop', 'feed writer'));
	is(count_of($output, 'crashes'), 1, 'it crashed');
}
end_session($stranger);

# ---------- backends that die with positions in flight

my $start = append('c');
my $session = open_session('shop');
my $pid = ask($session, 'SELECT pg_backend_pid()');
ask($session, 'BEGIN');
my $lost = ask($session, "SELECT last_position FROM event_store.append_event('Feed', 'lost', NULL, 'Added')");
append('d');
is(read_after($start), '', 'an open transaction holds back what follows');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 60000)");
is(read_after($start), 'd', 'until its backend is terminated');
is(state(), '0|0', 'and nothing is in flight');
end_session($session);

$session = open_session('shop');
$pid = ask($session, 'SELECT pg_backend_pid()');
ask($session, 'BEGIN');
$lost = ask($session, "SELECT last_position FROM event_store.append_event('Feed', 'lost', NULL, 'Added')");
my $kept = append('e');
my $offset = log_offset($node);
kill 'KILL', $pid;
$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
wait_for_server($node, 'shop');
end_session($session);
is(read_after($start), 'd e', 'after a crash the feed has what was committed');
is(state(), '0|0', 'and nothing in flight');
is(sql("SELECT event_store.wait_for_events($kept - 1, '10min')"), $kept, 'the safe position is that of the last event');
my $next = append('f');
cmp_ok($next, '>', $kept, 'positions go on');
cmp_ok($next, '>', $lost, 'and none is given again');
is(read_after($kept), 'f', 'a reader goes on where it was');

# ---------- a waiter at rest is woken by the first append

$node->restart;
is(read_after($start), 'd e f', 'after a restart nothing is missing');
is(sql('SELECT event_store.safe_position()'), $next, 'the safe position is where it was');
$session = open_session('shop');
$pid = ask($session, 'SELECT pg_backend_pid()');
$session->{out} = '';
$session->{in} .= "SELECT 'woken at ' || event_store.wait_for_events($next, '10min');\n";
$session->{run}->pump_nb;
ok($node->poll_query_until('shop',
		"SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $pid AND state = 'active'"),
	'a waiter sleeps');
my $first = append('g');
$session->{run}->pump until $session->{out} =~ /woken at (\d+)/;
is($1, $first, 'and is woken');
end_session($session);
cmp_ok($first, '>', $next, 'by a position that is new');
is(read_after($next), 'g', 'which it can read');

# ---------- without the library in shared_preload_libraries

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
foreach my $call ('event_store.read_events()', 'event_store.safe_position()',
	"event_store.wait_for_events(0, '1s')", 'event_store.feed_status')
{
	like(error_of($node, 'shop', "SELECT * FROM $call"),
		qr/ERROR:  55000: .*preloaded\nHINT:  Set shared_preload_libraries/, "$call says what to do");
}
my $bare = append('h');
cmp_ok($bare, '>', $first, 'appends work');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'event_store'\n");
$node->restart;
is(read_after($first), 'h', 'and are in the feed later on');
my $last = append('i');
cmp_ok($last, '>', $bare, 'positions go on');
is(read_after($first), 'h i', 'so does the feed');

$node->stop;
done_testing();
