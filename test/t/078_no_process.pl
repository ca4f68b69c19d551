# Where not even the launcher could be registered a staged call says at once what
# is wrong, and is written through.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('no_process');
$node->start;
create_store_in($node, 'shop');
# logical replication's launcher is registered first
$node->append_conf('postgresql.conf', "max_worker_processes = 1\n");
$node->restart;
my $started = time;
my ($status, $out, $err) = $node->psql('shop',
	q{SELECT durable FROM event_store.append_event('Order', 'o-1', 0, 'Placed', durability => 'staged');
	  SELECT durable FROM event_store.append_event('Order', 'o-1', 1, 'Paid', durability => 'staged')});
is($out, "t\nt", 'staged appends are written through');
cmp_ok(time - $started, '<', 5, 'at once');
like($err, qr/WARNING:  event_store has no worker for database "shop".*HINT:  .*max_worker_processes/s,
	'the caller is told why');
my $times = () = $err =~ /WARNING/g;
is($times, 1, 'once');
is($node->safe_psql('shop', q{SELECT string_agg(metric || ' ' || value, ', ' ORDER BY metric) FROM event_store.metrics
                               WHERE metric IN ('worker.bypassed', 'worker.unavailable', 'worker.wanted')}),
	'worker.bypassed 2, worker.unavailable 1, worker.wanted 1', 'the metrics say so');
$node->stop;
done_testing();
