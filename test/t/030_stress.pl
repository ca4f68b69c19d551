# Many clients against one store, with their ledgers compared with the log in the
# end: test/stress/stress.py, for a short while; in earnest it is run by hand.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StressPrograms;
use Test::More;

plan skip_all => 'python3-psycopg2 is not installed' unless can_run_programs();

sub stress
{
	my ($node, @arguments) = @_;

	return program_passes('stress', $node, 'postgres', @arguments);
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

$output = stress($node, 'a crash takes whole transactions and tails only',
	qw(--clients 16 --aggregates 8 --seconds 12 --batches --kill-workers),
	'--durability', 'mostly staged', '--crash-cmd', crash_command($node, 'postgres', 'stress client'));
is(count_of($output, 'crashes'), 1, 'the server crashed');

$node->stop;
done_testing();
