# examples/orders: orders as sagas, with executors that die and sleep, a bank that declines and is down, customers who
# never pay; every saga ends, and the books agree.

use strict;
use warnings;

use EventStoreTest;
use File::Basename qw(dirname);
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $example = dirname(__FILE__) . '/../../examples/orders';

plan skip_all => 'node is not installed' unless can_run('node', '--version');
plan skip_all => 'npm cannot install pg'
  unless can_run('node', '-e', "require('pg')") || -e "$example/node_modules/pg"
  || can_run('sh', '-c', "cd '$example' && npm ci --no-audit --no-fund --loglevel=error");

sub can_run
{
	my ($output, $done) = ('');

	$done = eval { IPC::Run::run([@_], '>', \$output, '2>&1') };
	note($output) unless $done;
	return $done;
}

my $node = new_server('orders', conf => "fsync = off\nmax_connections = 100\n");
$node->start;
create_store_in($node, 'shop');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('shop'), '-f', "$example/orchestrated.sql" ], 'what it needs');

my $output = '';
local $ENV{PGHOST} = $node->host;
local $ENV{PGPORT} = $node->port;
local $ENV{PGUSER} = getpwuid $<;
local $ENV{PGDATABASE} = 'shop';
ok(IPC::Run::run([ 'node', "$example/orchestrated.js", 'play', '60' ], '>', \$output, '2>&1'), 'all end, and the books agree');
note($output);
like($output, qr/^ *\Q$_\E +[1-9]/m, "$_") for 'none            completed', 'declined        compensated', 'no stock        compensated',
  'never pays      compensated', 'executor dead   completed', 'executor slow   completed';
like($output, qr/executors died [1-9]\d* times; .* the circuit opened 1 time/, 'executors died, and the circuit opened');
is($node->safe_psql('shop', q{SELECT string_agg(event_type, ' ' ORDER BY global_position) FROM event_store.domain_events
	WHERE saga_id = 'order-9' AND aggregate_type NOT LIKE 'saga:%'}),
	'OrderCreated StockReserved StockReleased OrderCancelled', 'undone in reverse');

$node->stop;
done_testing();
