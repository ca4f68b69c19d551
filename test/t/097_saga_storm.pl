# Sagas under executors that fail, come too late and die, with crashes of the server in between:
# test/stress/saga_storm.py.
#
#   EVENT_STORE_LONG=1 takes 10,000 of them.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use StressPrograms;
use Test::More;

plan skip_all => 'python3-psycopg2 is not installed' unless can_run_programs();

my $long = $ENV{EVENT_STORE_LONG};
my $node = new_server('saga_storm', conf => <<'CONF');
fsync = off
max_connections = 100
restart_after_crash = on
CONF
$node->start;
create_store_in($node, 'shop');

my $output = program_passes('saga_storm', $node, 'shop', 'every saga ends once, as its events say',
	'--sagas', $long ? 10000 : 200, '--patience', $long ? 1200 : 180,
	'--crash-cmd', crash_command($node, 'shop', 'saga storm Executor'));
cmp_ok(count_of($output, $_), '>', 0, "there were some of $_")
  for 'StepTimedOut', 'CompensationSucceeded', 'SagaStuck', 'SagaCompleted', 'SagaFailed';
like(slurp_file($node->logfile), qr/was terminated by signal 9/, 'the server crashed');

$node->stop;
done_testing();
