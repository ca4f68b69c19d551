# Sagas do what their model says, input by input: all sequences of a few inputs, for sagas in a row, in a
# group, with a wait, with what makes no attempt.
#
#   EVENT_STORE_LONG=1 takes every sequence of 9.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use StressPrograms;
use Test::More;

plan skip_all => 'python3-psycopg2 is not installed' unless can_run_programs();

my $depth = $ENV{EVENT_STORE_LONG} ? 9 : 6;

my $node = new_server('saga_model', conf => "fsync = off\n");
$node->start;
create_store_in($node, 'shop');

my $output = program_passes('saga_replay', $node, 'shop', "every sequence of $depth inputs", '--depth', $depth);
cmp_ok(count_of($output, 'transitions'), '>', 1000, 'of which there are many');
is(count_of($output, 'faults'), 0, 'and no fault is found');

$node->stop;
done_testing();
