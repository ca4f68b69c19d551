# After the start of the server a worker that finds nothing to do leaves at once,
# and what is staged is not known until one has looked: nothing says 0.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('after_start',
	conf => "event_store.write_delay = '1h'\nmax_logical_replication_workers = 0\n");
$node->start;
create_store_in($node, $_) foreach qw(one two three);

my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'event_store worker'};
my $depth = q{SELECT string_agg(metric || ' ' || coalesce(name, '-') || ' ' || coalesce(value::text, 'unknown'),
	                            ', ' ORDER BY metric, name)
	            FROM event_store.metrics WHERE metric IN ('persistence.queue.depth', 'persistence.queue.age')};
my $looked = 'SELECT staging_epoch IS NOT NULL FROM event_store.staging_status';

# ---------- nothing to do

$node->restart;
my $started = time;
foreach my $database (qw(one two three))
{
	ok($node->poll_query_until($database, $looked), "$database: a worker has looked");
}
ok($node->poll_query_until('postgres', "SELECT ($workers) = 0"), 'the workers leave');
cmp_ok(time - $started, '<', 30, 'at once');
is($node->safe_psql('one', 'SELECT state FROM event_store.worker_status'), 'none', 'there is nothing to do');
is($node->safe_psql('one', 'SELECT staging_dirty FROM event_store.store_state'), 'f', 'staging is closed');
is($node->safe_psql('one', $depth),
	'persistence.queue.age - 0, persistence.queue.depth events 0, persistence.queue.depth views 0',
	'and known to be empty');
is($node->safe_psql('one', q{SELECT durable FROM event_store.append_event('T', 'a', 0, 'x', durability => 'staged')}),
	'f', 'a staged append calls a worker');
ok($node->poll_query_until('postgres', "SELECT ($workers) = 1"), 'which stays');

# ---------- something left, and nobody who has looked

$node->append_conf('postgresql.conf', "max_worker_processes = 1\n");
$node->restart;
is($node->safe_psql('one', $depth),
	'persistence.queue.age - unknown, persistence.queue.depth events unknown, persistence.queue.depth views unknown',
	'what is staged is not known before');
unlike($node->safe_psql('one', 'SELECT event_store.openmetrics()'),
	qr/^event_store_persistence_queue_(depth|age)/m, 'nor shown');
is($node->safe_psql('one', 'SELECT staged_events IS NULL, staged_views IS NULL, oldest_staged_at IS NOT NULL
                              FROM event_store.staging_status'), 't|t|t', 'nor by staging_status');
$node->append_conf('postgresql.conf', "max_worker_processes = 8\n");
$node->restart;
ok($node->poll_query_until('one', $looked), 'a worker has looked');
like($node->safe_psql('one', $depth), qr/age - [\d.e-]+, .*events 1, .*views 0/, 'what is left is known');
ok($node->poll_query_until('postgres', "SELECT ($workers) = 1"), 'its worker stays, the others leave');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
