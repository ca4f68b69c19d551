# On a hot standby every durable read works and writes are refused; no worker
# runs until it is promoted.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_server(
	'primary',
	init => { allows_streaming => 1 },
	conf => "event_store.write_delay = '1h'\nmax_connections = 20\n");
$primary->start;
create_store_in($primary, 'shop');
$primary->safe_psql('shop', q{
	SELECT event_store.append_events('Order', 'o-1', 0, '[{"event_type": "Placed"}, {"event_type": "Paid"}]');
	SELECT event_store.put_view('Orders', 'o-1', '{"open": true}');
	SELECT event_store.save_snapshot('Order', 'o-1', 1, '{"n": 1}');
});
stage($primary, 'shop', 'staged', 2, 2);

$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$primary->safe_psql('shop',
	q{SELECT event_store.append_event('Order', 'o-1', 2, 'Shipped')});
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));

# ---------- reads

is($standby->safe_psql('shop', q{
		SELECT string_agg(event_type || ' ' || global_position, ', ' ORDER BY sequence)
		  FROM event_store.load_events('Order', 'o-1')}),
	'Placed 1, Paid 2, Shipped 3', 'load_events');
is($standby->safe_psql('shop', q{SELECT event_store.aggregate_sequence('Order', 'o-1')}),
	'3', 'aggregate_sequence');
is($standby->safe_psql('shop', q{SELECT count(*) FROM event_store.load_aggregate_ids('Order')}),
	'1', 'load_aggregate_ids knows nothing of what is staged elsewhere');
is($standby->safe_psql('shop', q{SELECT event_store.load_view('Orders', 'o-1')}),
	'{"open": true}', 'load_view');
is($standby->safe_psql('shop', q{SELECT count(*) FROM event_store.load_views('Orders')}),
	'1', 'load_views');
is($standby->safe_psql('shop', q{SELECT sequence FROM event_store.replay_aggregate('Order', 'o-1')}),
	'3', 'replay_aggregate');
is($standby->safe_psql('shop', q{SELECT sequence FROM event_store.load_snapshot('Order', 'o-1')}),
	'1', 'load_snapshot');
is($standby->safe_psql('shop', 'SELECT event_store.is_available()'), 't', 'is_available');
is($standby->safe_psql('shop', 'SELECT state, pid, launcher_pid FROM event_store.worker_status'),
	'none||', 'worker_status: no launcher, no worker');
is($standby->safe_psql('shop', 'SELECT count(*) FROM event_store.staging_status'),
	'1', 'staging_status');

# ---------- writes

foreach my $write (
	q{append_event('Order', 'o-1', 3, 'Closed')},
	q{append_event('Order', 'o-1', 3, 'Closed', durability => 'staged')},
	q{append_events('Order', 'o-1', 3, '{"event_type": "Closed"}')},
	q{append_batch('{"aggregate_type": "Order", "aggregate_id": "o-1", "event_type": "Closed"}')},
	q{put_view('Orders', 'o-1', '{}')},
	q{put_view('Orders', 'o-1', '{}', durability => 'staged')},
	q{delete_view('Orders', 'o-1')},
	q{clear_view('Orders')},
	q{save_snapshot('Order', 'o-1', 3, '{}')},
	q{drain()})
{
	like(error_of($standby, 'shop', "SELECT event_store.$write"), qr/25006/, "refused: $write");
}

# ---------- promotion

my $offset = log_offset($standby);
$standby->promote;
wait_for_worker($standby, 'shop');
pass('a worker comes up unasked');
ok($standby->poll_query_until('shop',
		'SELECT staging_epoch = 2 FROM event_store.staging_status'),
	'what was staged on the primary is known to be lost');
like(slurp_file($standby->logfile, $offset),
	qr/WARNING:  staging is empty after an unclean stop/, 'and reported');
is($standby->safe_psql('shop', q{
		SELECT first_sequence, last_position > 3
		  FROM event_store.append_event('Order', 'o-1', 3, 'Closed')}),
	'4|t', 'appends go on, with higher positions');
is(stage($standby, 'shop', 'staged', 2, 2), '4', 'staging works');
ok(flush_all($standby, 'shop'), 'and is drained');

$standby->stop;
$primary->stop;
done_testing();
