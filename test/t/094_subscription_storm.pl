# Subscriptions of 1, 4 and 16 members, and such that are resized, under 24 writers, consumed in both ways by
# consumers that fail, come too late, are cancelled and terminated, with a crash of the server in the middle:
# test/stress/subscription_storm.py.
#
#   EVENT_STORE_LONG=1 lets it go on for two minutes.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use StressPrograms;
use Test::More;

plan skip_all => 'python3-psycopg2 is not installed' unless can_run_programs();

my $node = new_server('storm', conf => <<'CONF');
fsync = off
max_connections = 100
restart_after_crash = on
event_store.write_delay = '50ms'
event_store.retry_initial = '10ms'
event_store.retry_max = '200ms'
CONF
$node->start;
create_store_in($node, 'shop');

my $output = program_passes('subscription_storm', $node, 'shop', 'each event has its effect, in order, and nothing goes back',
	'--seconds', $ENV{EVENT_STORE_LONG} ? 120 : 15, '--crash-cmd', crash_command($node, 'shop', 'storm consumer'));
cmp_ok(count_of($output, 'events'), '>', 0, 'there were events');
cmp_ok(count_of($output, 'repeated'), '>', 0, 'leases were lost');
cmp_ok(count_of($output, 'resizes'), '>', 0, 'members were made more and fewer');
like(slurp_file($node->logfile), qr/was terminated by signal 9/, 'the server crashed');

$node->stop;
done_testing();
