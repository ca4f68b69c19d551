# Aggregates that go to the archive and back while everybody works with them, with crashes of the server in
# between: test/stress/archive_storm.py.
#
#   EVENT_STORE_LONG=1 has them do it for longer.

use strict;
use warnings;

use EventStoreTest;
use StressPrograms;
use Test::More;

plan skip_all => 'python3-psycopg2 is not installed' unless can_run_programs();

my $long = $ENV{EVENT_STORE_LONG};
my $node = new_server('archive_storm', conf => <<'CONF');
fsync = off
max_connections = 100
restart_after_crash = on
CONF
$node->start;

# what is moved is counted in shared memory, which a crash empties
storm_passes('archive_storm', $node, 'each event is once where it belongs',
	sub { return ('there', 'refused', 'followed', 'consumed', $_[0] ? () : ('archive.archived', 'archive.restored')) },
	'--turns', $long ? 100_000 : 4000, '--patience', $long ? 1200 : 150);

$node->stop;
done_testing();
