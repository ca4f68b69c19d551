# Subscriptions do what their model says, action by action: all sequences of a few actions, random ones of
# more, and such in whose middle the server crashes.
#
#   EVENT_STORE_LONG=1 takes every sequence of 5 and 20,000 random ones of 8.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use StressPrograms;
use Test::More;

plan skip_all => 'python3-psycopg2 is not installed' unless can_run_programs();

my $long = $ENV{EVENT_STORE_LONG};
my $depth = $long ? 5 : 3;
my $random = $long ? 20000 : 250;
my $crashes = $long ? 50 : 1;

# pauses are so long that none ends by itself: the program ends them
my $node = new_server('model', conf => <<'CONF');
fsync = off
max_connections = 120
restart_after_crash = on
event_store.retry_max = '1h'
event_store.retry_initial = '1h'
CONF
$node->start;
create_store_in($node, 'shop');

program_passes('model_replay', $node, 'shop', "every sequence of $depth actions", '--every', $depth);
program_passes('model_replay', $node, 'shop', "$random random ones of 8", '--random', $random);
program_passes('model_replay', $node, 'shop', 'and some with a crash of the server', '--crashes', $crashes);

$node->stop;
done_testing();
