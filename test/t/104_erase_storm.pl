# Events that are erased while everybody works with them, with crashes of the server in between:
# test/stress/erase_storm.py.
#
#   EVENT_STORE_LONG=1 has them do it for longer.

use strict;
use warnings;

use EventStoreTest;
use StressPrograms;
use Test::More;

plan skip_all => 'python3-psycopg2 is not installed' unless can_run_programs();

my $long = $ENV{EVENT_STORE_LONG};
my $node = new_server('erase_storm', conf => <<'CONF');
fsync = off
max_connections = 100
restart_after_crash = on
event_store.retry_initial = '10ms'
CONF
$node->start;

storm_passes('erase_storm', $node, 'what is erased is gone, and all else goes on', sub { return ('there', 'erasure', 'erased') },
	'--data', $node->data_dir, '--turns', $long ? 60_000 : 2500, '--patience', $long ? 1500 : 150);

$node->stop;
done_testing();
