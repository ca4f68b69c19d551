# A crash takes nothing that a grouped append was answered, and who repeats a call without an
# answer is told what became of it: test/stress/grouped.py, with few crashes; in earnest it is
# run by hand, with 200.

use strict;
use warnings;

use EventStoreTest;
use StressPrograms;
use Test::More;

plan skip_all => 'python3-psycopg2 is not installed' unless can_run_programs();

my $node = new_server('grouped_crash', conf => "max_connections = 60\nrestart_after_crash = on\n");
$node->start;
create_store_in($node, 'shop');

my $output = program_passes('grouped', $node, 'shop', 'writers are told the truth over many crashes',
	'--writers', 16, '--kills', $ENV{ES_KILLS} // 8);
cmp_ok(count_of($output, 'crashes'), '>=', 8, 'the server crashed');
cmp_ok(count_of($output, 'calls repeated'), '>', 8, 'calls without an answer were repeated');
cmp_ok(count_of($output, 'answers appended'), '>', 100, 'and others were answered');

$node->stop;
done_testing();
