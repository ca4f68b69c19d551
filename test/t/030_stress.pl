# Many clients against one store, with their ledgers compared with the log in the
# end: test/stress/stress.py, for a short while; in earnest it is run by hand.

use strict;
use warnings;

use File::Basename qw(dirname);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $python = '/usr/bin/python3';
system("$python -c 'import psycopg2' >/dev/null 2>&1") == 0
  or plan skip_all => 'python3-psycopg2 is not installed';

my $stress = dirname(__FILE__) . '/../stress/stress.py';

# Runs the clients; what they print is shown when something is wrong.
sub stress
{
	my ($node, $name, @arguments) = @_;
	my $output = '';
	local $ENV{TMPDIR} = $PostgreSQL::Test::Utils::tmp_check;

	my $passed = IPC::Run::run(
		[ $python, $stress, '--dsn', $node->connstr('postgres'), @arguments ],
		'>', \$output, '2>&1');
	ok($passed, $name);
	diag($output) unless $passed;
	return $output;
}

sub count_of
{
	my ($output, $what) = @_;

	return $output =~ /^\s+\Q$what\E\s+(\d+)$/m ? $1 : 0;
}

my $node = PostgreSQL::Test::Cluster->new('stress');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'event_store'
max_connections = 100
restart_after_crash = on
event_store.write_delay = '50ms'
event_store.write_batch_size = 200
CONF
$node->start;

my $output = stress($node, 'ledgers and log agree while workers and backends are terminated',
	qw(--clients 16 --aggregates 8 --seconds 20 --batches),
	qw(--kill-workers --kill-backends --cancel));
cmp_ok(count_of($output, 'workers terminated'), '>', 0, 'workers were terminated');
cmp_ok(count_of($output, 'loads that saw staged events'), '>', 0, 'loads met staged events');
cmp_ok(count_of($output, 'events delivered by the feed'), '>', 0, 'the feed was followed');

stress($node, 'single calls do not deadlock',
	qw(--clients 16 --aggregates 4 --seconds 8 --batches --single));

# a crash has more to take when the drain comes seldom
$node->adjust_conf('postgresql.conf', 'event_store.write_delay', "'1s'");
$node->adjust_conf('postgresql.conf', 'event_store.write_batch_size', '20000');
$node->reload;

my $crash = $PostgreSQL::Test::Utils::tmp_check . '/crash';
append_to_file($crash, <<"SCRIPT");
#!/bin/sh
kill -9 \$(psql -XAtqc "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'stress client%' LIMIT 1" "@{[ $node->connstr('postgres') ]}")
SCRIPT
chmod 0700, $crash;
$output = stress($node, 'a crash takes whole transactions and tails only',
	qw(--clients 16 --aggregates 8 --seconds 12 --batches --kill-workers),
	'--durability', 'mostly staged', '--crash-cmd', $crash);
is(count_of($output, 'crashes'), 1, 'the server crashed');

$node->stop;
done_testing();
