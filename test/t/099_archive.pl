# The archive where the world around it moves: retention by the clock, a restart in the middle, subscriptions
# that have still to get something, a standby and its promotion, a dump.

use strict;
use warnings;

use EventStoreTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('archive', init => { allows_streaming => 1 }, conf => "max_worker_processes = 16\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', join("\n", @_));
}

sub poll
{
	return $node->poll_query_until('shop', $_[0]);
}

# Events of a type, of some aggregates, that were recorded long ago, around the API.
sub write_old
{
	my ($type, $aggregates, $events, $age) = @_;

	sql(qq{INSERT INTO event_store.domain_events (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at)
	       SELECT nextval('old'), '$type', 'o-' || a, s, gen_random_uuid(), CASE WHEN s = $events AND a % 2 = 0 THEN 'Shipped' ELSE 'Placed' END, '{"n": 1}',
	              now() - interval '$age', now() - interval '$age'
	         FROM generate_series(1, $events) s, generate_series(1, $aggregates) a});
	return;
}

sub closed
{
	return sql(q{SELECT coalesce(string_agg(aggregate_type || ' ' || state || ' ' || n, ', ' ORDER BY aggregate_type, state), 'none')
	               FROM (SELECT aggregate_type, state, count(*) AS n FROM event_store.closed_aggregates GROUP BY 1, 2) c});
}

sql('CREATE SEQUENCE old');

# ---------- by age

write_old('Order', 40, 5, '2 years');
write_old('Other', 4, 5, '2 years');
sql(q{SELECT event_store.append_event('Order', 'o-2', 5, 'Returned'); SELECT event_store.append_event('Order', 'n-1', 0, 'Shipped')});
my $last = sql(q{SELECT max(global_position) FROM event_store.domain_events WHERE recorded_at < now() - interval '1 year'});
sql(q{SELECT event_store.set_retention('Order', '1 year', '{Shipped}')});
ok(poll(qq{SELECT position >= $last FROM event_store.retention}), 'the log is walked up to what is not old enough');
is(closed(), 'Order archived 19', 'what ended with such an event is archived; what goes on, ended otherwise, or is of another type is not');
is(sql('SELECT count(*) FROM event_store.domain_events_archive'), '95', 'with all its events');
is(sql(q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_id = 'n-1'}), '1', 'what is young stays');

# one of more events than a step moves, and what a foreign key keeps
write_old('Large', 1, 4500, '2 years');
sql(q{INSERT INTO event_store.domain_events (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at)
      SELECT nextval('old'), 'Large', 'kept', 1, '00000000-0000-7000-8000-000000000001', 'Placed', '{}', now() - interval '2 years', now() - interval '2 years';
      CREATE TABLE reference (event_id uuid REFERENCES event_store.domain_events (event_id));
      INSERT INTO reference VALUES ('00000000-0000-7000-8000-000000000001')});
my $offset = log_offset($node);
sql(q{SELECT event_store.set_retention('Large', '1 year')});
ok(poll(q{SELECT count(*) = 1 FROM event_store.closed_aggregates WHERE aggregate_type = 'Large'}), 'a large one goes over in several transactions');
$node->wait_for_log(qr/aggregate Large\/kept cannot be archived/, $offset);
is(sql(q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_id = 'kept'}), '1', 'what a foreign key keeps is passed over and logged');
cmp_ok(sql(q{SELECT count(DISTINCT xmin::text) FROM event_store.domain_events_archive WHERE aggregate_type = 'Large'}), '>', 3, 'of a bounded size');
sql('DROP TABLE reference');

# ---------- an append that is open is waited for, and taken along

my $appender = $node->background_psql('shop');
$appender->query_safe(q{BEGIN; SELECT event_store.append_event('Open', 'o-1', NULL, 'Placed')});
my $archived = '';
my $archiver = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('shop'), '-c', q{SELECT event_store.archive_aggregate('Open', 'o-1')} ],
	'>', \$archived, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
ok(poll(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%archive_aggregate(''Open%' AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()}),
	'who archives waits for an open append');
$appender->query_safe('COMMIT');
$appender->quit;
$archiver->finish;
is($archived, "1\n", 'and takes it along');
is(sql(q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'Open'}), '0', 'nothing of a closed aggregate is in the log');
sql(q{SELECT event_store.restore_aggregate('Open', 'o-1')});

# ---------- nothing is deleted that somebody has still to get

sql(q{SELECT event_store.create_subscription('slow', '{Order}', start_after => 0)});
sql(q{SELECT event_store.set_retention('Order', '1 year', '{Shipped}', '1 year')});
ok(poll(q{SELECT position > 0 FROM event_store.retention WHERE aggregate_type = 'Order'}), 'the walk begins anew');
is(closed(), 'Large archived 1, Order archived 19', 'nothing is deleted while a subscription has it before it');
sql(q{SELECT event_store.pause_subscription('slow'); SELECT event_store.move_subscription('slow', event_store.safe_position())});
sql(q{SELECT event_store.set_retention('Order', '1 year', '{Shipped}', '1 year')});
ok(poll(q{SELECT count(*) = 19 FROM event_store.closed_aggregates WHERE state = 'deleted' AND reason = 'retention'}), 'once it is past that they are deleted');
is(sql(q{SELECT count(*) FROM event_store.domain_events_archive WHERE aggregate_type = 'Order'}), '0', 'with their events');
is(sql(q{SELECT sum(jsonb_array_length(payload -> 'positions')) FROM event_store.domain_events WHERE event_type = 'Deleted'}), '95', 'and told');
like(error_of($node, 'shop', q{SELECT event_store.append_event('Order', 'o-4', 0, 'Placed')}), qr/VS005/, 'their ids are never new again');

# ---------- a restart: the mark is what it was

my $mark = sql('SELECT last_value FROM event_store.archived_position');
foreach my $mode ('fast', 'immediate')
{
	$node->stop($mode);
	$node->start;
	like(error_of($node, 'shop', q{SELECT event_store.append_event('Large', 'o-1', NULL, 'Placed')}), qr/VS005/, "after a stop ($mode) a closed aggregate is closed");
	is(sql('SELECT last_value FROM event_store.archived_position'), $mark, 'and the mark where it was');
}

# ---------- rows that come into the archive around the API

create_store_in($node, 'copy');
my $session = $node->background_psql('copy');
is($session->query_safe(q{SELECT outcome FROM event_store.append_event('Copy', 'c-1', 0, 'Placed', event_id => '00000000-0000-7000-8000-000000000002')}),
	'appended', 'a session that knows of an empty archive');
$node->safe_psql('copy', q{INSERT INTO event_store.domain_events_archive (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at)
	VALUES (-5, 'Copy', 'c-2', 1, '00000000-0000-7000-8000-000000000003', 'Placed', '{}', now(), now());
	INSERT INTO event_store.closed_aggregates (aggregate_type, aggregate_id, state, last_sequence, last_position, last_recorded_at) VALUES ('Copy', 'c-2', 'archived', 1, -5, now())});
$session->query_safe(q{DO $$BEGIN PERFORM event_store.append_event('Copy', 'c-2', NULL, 'Placed'); EXCEPTION WHEN SQLSTATE 'VS005' THEN NULL; END$$});
is($session->query_safe(q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_id = 'c-2'}), '0', 'hears of what came into it');
$session->quit;

# ---------- a standby, and its promotion

$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('archive_standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
sql(q{SELECT event_store.append_event('Late', 'l-1', 0, 'Placed'); SELECT event_store.archive_aggregate('Late', 'l-1')});
$node->wait_for_catchup($standby);
is($standby->safe_psql('shop', q{SELECT event_store.aggregate_sequence('Late', 'l-1')}), '1', 'a standby knows of what was archived since it knows the store');
sql(q{SELECT event_store.append_event('Late', 'l-2', 0, 'Placed'); SELECT event_store.delete_aggregate('Late', 'l-2', 'test')});
$node->wait_for_catchup($standby);
$node->stop('immediate');
$standby->promote;
like(error_of($standby, 'shop', q{SELECT event_store.append_event('Late', 'l-1', NULL, 'Placed')}), qr/VS005/, 'after its promotion it refuses an append to it');
like(error_of($standby, 'shop', q{SELECT event_store.append_event('Late', 'l-2', NULL, 'Placed')}), qr/VS005/, 'and to what was deleted');
is($standby->safe_psql('shop', q{SELECT event_store.restore_aggregate('Late', 'l-1')}), '1', 'and restores it');
$standby->stop;
done_testing();
