# Aggregates that go to the archive and back while everybody works with them, with crashes of the server in
# between: test/stress/archive_storm.py.
#
#   EVENT_STORE_LONG=1 has them do it for longer.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
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

foreach my $crashes (0, 1)
{
	my $database = $crashes ? 'crashed' : 'calm';

	create_store_in($node, $database);
	my $output = program_passes('archive_storm', $node, $database, 'each event is once where it belongs' . ($crashes ? ', across crashes' : ''),
		'--turns', $long ? 100_000 : 4000, '--patience', $long ? 1200 : 150,
		$crashes ? ('--crash-cmd', crash_command($node, $database, 'archive storm')) : ());
	cmp_ok(count_of($output, $_), '>', 0, "there were some of $_") for 'there', 'refused', 'followed', 'consumed', $crashes ? () : ('archive.archived', 'archive.restored');
}
like(slurp_file($node->logfile), qr/was terminated by signal 9/, 'the server crashed');

$node->stop;
done_testing();
