# Where a good part of the log is in the archive, what reads both tables touches little
# more of a large store than what reads one: both are read in the order of an index and
# merged as far as the caller wants, in a session that knew the store before anything was
# moved as well, and what is read is right.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('archive_plans',
	conf => "event_store.write_delay = '1h'\nevent_store.snapshot_every = 0\n"
	  . "shared_buffers = '256MB'\nfsync = off\nmax_wal_size = '4GB'\ncheckpoint_timeout = '1h'\n");
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop', 'CREATE EXTENSION event_store;
	SELECT event_store.create_store(category_index => true, event_type_index => true);
	SELECT event_store.create_subscription(s) FROM unnest(ARRAY[$$all$$, $$again$$]) s');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

# Types of which there are no events.
sub none
{
	my ($count) = @_;

	return "(SELECT array_agg('None-' || n) FROM generate_series(1, $count) n)";
}

# 1000 aggregates of 100 events, in turns; every thousandth is of a rare type.
sql(q{DO $$
	BEGIN
	    FOR b IN 0 .. 49 LOOP
	        PERFORM count(*)
	          FROM (SELECT array_agg(CASE WHEN n % 1000 = 0 THEN 'Rare' WHEN n % 10 = 0 THEN 'User' ELSE 'Order' END ORDER BY n) AS types,
	                       array_agg('a-' || n % 1000 ORDER BY n) AS ids,
	                       array_agg(CASE WHEN n % 20000 = 5 THEN 'Seldom' WHEN n % 2 = 0 THEN 'Changed' ELSE 'Moved' END ORDER BY n) AS event_types,
	                       array_agg('{"n": 1}'::jsonb) AS payloads,
	                       array_agg(CASE WHEN n % 10000 = 7 THEN 's-1' END ORDER BY n) AS sagas,
	                       array_agg(('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid ORDER BY n) AS event_ids
	                  FROM generate_series(b * 2000, b * 2000 + 1999) n) e,
	               LATERAL event_store.append_batch(e.types, e.ids, e.event_types, e.payloads, saga_ids => e.sagas, event_ids => e.event_ids);
	    END LOOP;
	END $$});

my $order = q{'Order', 'a-17'};

# A call, and how many blocks it may touch at most: about twice as many as of one table.
my @calls = (
	[ "load_events($order)", 400 ],
	[ "load_events($order, 30, 60, 5)", 100 ],
	[ "load_events($order, 30, 60, 5, true)", 100 ],
	[ "load_events('Order', 'a-19')", 250 ],
	[ q{load_event('00000000-0000-7000-8000-000000000017')}, 60 ],
	[ "aggregate_sequence('Order', 'a-19')", 60 ],
	[ "aggregate_info($order)", 200 ],
	[ q{load_aggregate_ids('Order', 'a-2', 20)}, 1000 ],
	[ q{saga_log('s-1')}, 60 ],
	[ "replay_aggregate($order)", 400 ],
	[ "replay_aggregate($order, 50)", 400 ],
	[ q{replay_aggregates('Order', ARRAY['a-17', 'a-18', 'a-19'])}, 900 ],
	[ q{replay_aggregates('Order', ARRAY['a-17', 'a-18'], as_of_sequence => 10)}, 400 ],
	[ q{read_events(30000, 100)}, 300 ],
	[ q{read_events(30000, 100, backward => true)}, 300 ],
	[ q{read_events(99000, 100)}, 150 ],
	[ q{read_events(0, 100, member => 1, members => 3)}, 600 ],
	[ q{read_events(0, 100, ARRAY['Rare'])}, 300 ],
	[ q{read_events(0, 100, ARRAY['Order'])}, 300 ],
	[ q{read_events(0, 100, ARRAY['Rare', 'Order'])}, 500 ],
	[ q{read_events(0, 100, ARRAY['Order'], backward => true)}, 300 ],
	[ q{read_events(0, 100, NULL, ARRAY['Seldom'])}, 200 ],
	[ q{read_events(0, 100, NULL, ARRAY['Moved', 'Changed', 'Seldom'])}, 500 ],
	[ q{read_events(0, 100, ARRAY['Order', 'User'], ARRAY['Seldom'])}, 1000 ],
	[ 'read_events(0, 100, ' . none(20) . " || '{Rare, Order}')", 600 ],
	[ 'read_events(0, 100, ' . none(60) . " || '{Rare, Order}')", 1800 ],
	[ q{position_at('-infinity')}, 60 ],
	[ q{next_events('all', 100)}, 500 ],
	[ q{claim_events('again', 'c', 100)}, 500 ]);

# What a call touches, in blocks; -1 when it is refused.  It is undone.
sub blocks
{
	my ($session, $call) = @_;
	my $plan = $session->query("BEGIN; EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT * FROM event_store.$call; ROLLBACK;");
	my ($buffers) = $plan =~ /Buffers: ([^\n]*)/;
	my $sum = 0;

	return -1 if $plan !~ /actual rows/;
	$sum += $1 while ($buffers // '') =~ /(?:hit|read)=(\d+)/g;
	return $sum;
}

my $old = $node->background_psql('shop', on_error_stop => 0);
blocks($old, $_->[0]) foreach @calls;

# the first 40 events of most, and all of every tenth beginning with a-9
sql(q{BEGIN;
	ALTER TABLE event_store.domain_events DISABLE TRIGGER USER;
	ALTER TABLE event_store.domain_events_archive DISABLE TRIGGER USER;
	WITH gone AS (DELETE FROM event_store.domain_events
	               WHERE sequence <= 40 AND aggregate_id NOT IN ('a-17', 'a-18') OR aggregate_id LIKE '%9' RETURNING *)
	INSERT INTO event_store.domain_events_archive SELECT * FROM gone ORDER BY global_position;
	INSERT INTO event_store.closed_aggregates (aggregate_type, aggregate_id, state, last_sequence, last_position, last_recorded_at)
	SELECT DISTINCT ON (aggregate_type, aggregate_id) aggregate_type, aggregate_id, 'archived', sequence, global_position, recorded_at
	  FROM event_store.domain_events_archive WHERE aggregate_id LIKE '%9' ORDER BY aggregate_type, aggregate_id, sequence DESC;
	SELECT setval('event_store.archived_position', (SELECT max(global_position) FROM event_store.domain_events_archive));
	ALTER TABLE event_store.domain_events ENABLE TRIGGER USER;
	ALTER TABLE event_store.domain_events_archive ENABLE TRIGGER USER;
	COMMIT});
sql('VACUUM ANALYZE event_store.domain_events; VACUUM ANALYZE event_store.domain_events_archive');
is(sql('SELECT count(*) BETWEEN 40000 AND 60000 FROM event_store.domain_events_archive'), 't', 'half of the log is in the archive');

my $fresh = $node->background_psql('shop', on_error_stop => 0);
foreach my $call (@calls)
{
	foreach ([ $old, 'a session that knew the store before' ], [ $fresh, 'a fresh one' ])
	{
		my ($session, $who) = @$_;

		blocks($session, $call->[0]);
		my $touched = blocks($session, $call->[0]);
		cmp_ok($touched, '<=', $call->[1], "$who: $call->[0]");
		cmp_ok($touched, '>=', 0, 'and it is not refused');
	}
}

# ---------- what was read is right

foreach my $case (
	[ 'NULL', 'true' ], [ q{ARRAY['User', 'Rare', 'User', NULL]}, q{aggregate_type IN ('User', 'Rare')} ],
	[ q{NULL, ARRAY['Moved', 'Seldom']}, q{event_type IN ('Moved', 'Seldom')} ],
	[ q{ARRAY['Order'], ARRAY['Seldom', 'Changed']}, q{aggregate_type = 'Order' AND event_type IN ('Seldom', 'Changed')} ],
	[ none(20) . q{ || '{Order, User}'}, q{aggregate_type IN ('Order', 'User')} ],
	[ 'NULL, ' . none(60) . q{ || '{Seldom, Moved}', 1, 3},
		q{event_type IN ('Seldom', 'Moved') AND event_store.aggregate_member(aggregate_type, aggregate_id, 3) = 1} ])
{
	my ($filters, $where) = @$case;

	foreach my $order ('', 'DESC')
	{
		my $backward = $order eq '' ? 'false' : 'true';

		is(sql("SELECT md5(string_agg(global_position::text, ',')), count(*)
		          FROM event_store.read_events(1000, 60000, $filters, backward => $backward)"),
			sql("SELECT md5(string_agg(global_position::text, ',' ORDER BY global_position $order)), count(*)
			       FROM (SELECT global_position FROM event_store.all_events
			              WHERE global_position > 1000 AND ($where)
			              ORDER BY global_position $order LIMIT 60000) e"),
			"$where $order");
	}
}

$_->quit foreach $old, $fresh;
$node->stop;
done_testing();
