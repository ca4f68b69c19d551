# No plan depends on what the tables held when it was made, nor on the values of
# another call: every function that a level of access may call reads as few blocks
# of a large store in a session that met it empty as in a fresh one, analysed or
# not, and filtered reads of the feed are cheap for rare and frequent types alike.

use strict;
use warnings;

use EventStoreTest;
use List::Util 'min';
use PostgreSQL::Test::Utils;
use Test::More;

# No worker drains, takes snapshots or stores positions while blocks are counted.
my $node = new_server('plans',
	conf => "event_store.write_delay = '1h'\nevent_store.snapshot_every = 0\n"
	  . "shared_buffers = '256MB'\nfsync = off\nmax_wal_size = '4GB'\ncheckpoint_timeout = '1h'\n");
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop', 'CREATE EXTENSION event_store;
	SELECT event_store.create_store(category_index => true, event_type_index => true)');
wait_for_worker($node, 'shop');

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

my $order = q{'Order', 'a-17'};
my $event = q{'[{"event_type": "Moved"}]'};

# Name of the function, the call, and how many blocks it may touch at most; 'log' and
# 'values' are planned at each use, for the size of the log or what is asked for.  A
# rebuild that begins counts its aggregates: no more than a fresh session touches.
my @calls = (
	[ load_events => "load_events($order)", 200 ],
	[ load_events => "load_events($order, 50, 60, 5, true)", 50 ],
	[ load_event => q{load_event('00000000-0000-7000-8000-000000000017')}, 30 ],
	[ aggregate_sequence => "aggregate_sequence($order)", 30 ],
	[ aggregate_info => "aggregate_info($order)", 200 ],
	[ lock_aggregate => "lock_aggregate($order)", 60 ],
	[ assert_sequence => "assert_sequence($order, -4)", 60 ],
	[ load_aggregate_ids => q{load_aggregate_ids('Order', 'a-2', 20)}, 700 ],
	[ saga_log => q{saga_log('p-1')}, 60 ],
	[ load_view => q{load_view('Large', 'k-17')}, 30 ],
	[ load_view => q{load_view('Large', 'k-17', for_update => true)}, 60 ],
	[ load_views => q{load_views('Large', ARRAY['k-17', 'k-90000'])}, 50 ],
	[ load_views => q{load_views('Large', NULL, 'k-17', 20)}, 60 ],
	[ load_view_keys => q{load_view_keys('Small')}, 60 ],
	[ load_snapshot => "load_snapshot($order)", 30 ],
	[ replay_aggregate => "replay_aggregate($order)", 60 ],
	[ replay_aggregate => "replay_aggregate($order, 50)", 200 ],
	[ replay_aggregates => q{replay_aggregates('Order', ARRAY['a-17', 'a-18', 'a-19'])}, 120 ],
	[ replay_aggregate => "replay_aggregate($order, as_of_position => 400000)", 200 ],
	[ replay_aggregates => q{replay_aggregates('Rare')}, 200, 'log' ],
	[ replay_aggregates => q{replay_aggregates('Order', ARRAY['a-17', 'a-18', 'a-19'], as_of_position => 10000000)}, 130 ],
	[ replay_aggregates => q{replay_aggregates('Order', ARRAY['a-17', 'a-18'], as_of_sequence => 10)}, 200 ],
	[ replay_aggregates => q{replay_aggregates('Rare', as_of_position => 400000)}, 200, 'log' ],
	[ view_keys => q{view_keys(NULL, NULL)}, 5 ],
	[ fold_events => "(SELECT event_store.fold_events(e ORDER BY e.sequence) FROM event_store.load_events($order) e)", 200 ],
	[ read_events => q{read_events(100000, 100)}, 150 ],
	[ read_events => q{read_events(100000, 100, backward => true)}, 150 ],
	[ read_events => q{read_events(0, 100, member => 1, members => 3)}, 150 ],
	[ read_events => q{read_events(0, 100, ARRAY['Rare'])}, 150 ],
	[ read_events => q{read_events(0, 100, ARRAY['Order'])}, 150 ],
	[ read_events => q{read_events(0, 100, ARRAY['Rare', 'Order'])}, 250 ],
	[ read_events => q{read_events(0, 100, ARRAY['Rare', 'Rare', NULL, 'None'])}, 150 ],
	[ read_events => q{read_events(0, 100, ARRAY['Order'], backward => true)}, 150 ],
	[ read_events => q{read_events(0, 100, NULL, ARRAY['Seldom'])}, 100 ],
	[ read_events => q{read_events(0, 100, NULL, ARRAY['Moved'])}, 200 ],
	[ read_events => q{read_events(0, 100, NULL, ARRAY['Moved', 'Changed', 'Seldom'])}, 250 ],
	[ read_events => q{read_events(0, 100, ARRAY['Rare'], ARRAY['Moved', 'Changed'])}, 500 ],
	[ read_events => q{read_events(0, 100, ARRAY['Order', 'User'], ARRAY['Seldom'])}, 500 ],
	[ read_events => q{read_events(0, 100, ARRAY['Order'], ARRAY['Moved'])}, 700 ],
	[ read_events => q{read_events(0, 100, ARRAY['Rare'], ARRAY['Moved'], 0, 1, backward => true)}, 500 ],
	[ read_events => 'read_events(0, 100, ' . none(20) . " || '{Rare, Order}')", 300 ],
	[ read_events => 'read_events(0, 100, ' . none(60) . " || '{Rare, Order}')", 900 ],
	[ read_events => 'read_events(0, 100, NULL, ' . none(60) . " || '{Seldom}')", 300 ],
	[ position_at => q{position_at('-infinity')}, 30 ],
	[ position_at => q{position_at(now())}, undef, 'values' ],
	[ safe_position => 'safe_position()', 10 ],
	[ wait_for_events => 'wait_for_events(0)', 10 ],
	[ is_available => 'is_available()', 10 ],
	[ provider_name => 'provider_name()', 10 ],
	[ extension_version => 'extension_version()', 10 ],
	[ metrics_state => 'metrics_state()' ],
	[ metrics_series_state => 'metrics_series_state()' ],
	[ openmetrics => 'openmetrics()' ],
	[ append_event => "append_event($order, NULL, 'Moved')", 100 ],
	[ append_event => q{append_event('Order', 'a-18', NULL, 'Moved', durability => 'staged')}, 100 ],
	[ append_events => "append_events($order, NULL, $event)", 100 ],
	[ append_batch => q{append_batch('[{"aggregate_type": "Order", "aggregate_id": "a-19", "event_type": "Moved"},
		{"aggregate_type": "User", "aggregate_id": "a-20", "event_type": "Moved"}]')}, 200 ],
	[ put_view => q{put_view('Large', 'k-17', '1')}, 60 ],
	[ put_view => q{put_view('Large', 'none', '1', 1, expected_version => 0)}, 60 ],
	[ put_views => q{put_views('Large', ARRAY['k-18', 'k-19'], ARRAY['1', '2']::jsonb[])}, 100 ],
	[ delete_view => q{delete_view('Large', 'k-17')}, 60 ],
	[ process_once => q{process_once('c', 'm-17')}, 60 ],
	[ process_once => q{process_once('c', 'new')}, 60 ],
	[ record_result => q{record_result('c', 'm-17', '{}')}, 60 ],
	[ processed_result => q{processed_result('c', 'm-17')}, 30 ],
	[ forget_processed => q{forget_processed('c', '1 day')}, 600 ],
	[ schedule_event => q{schedule_event('2999-01-01Z', 'Large', 'a-1', 'Due', unless_event_types => '{Seldom}')}, 100 ],
	[ reschedule_event => q{reschedule_event('00000000-0000-7000-8000-000000000017', '2999-01-02Z')}, 60 ],
	[ cancel_scheduled_event => q{cancel_scheduled_event('00000000-0000-7000-8000-000000000018')}, 60 ],
	[ cancel_scheduled_events => q{cancel_scheduled_events('Large', 'a-19')}, 100 ],
	[ create_subscription => q{create_subscription('new')}, 80 ],
	[ alter_subscription => q{alter_subscription('all', max_attempts => 3)}, 80 ],
	[ pause_subscription => q{pause_subscription('all')}, 60 ],
	[ resume_subscription => q{resume_subscription('paused')}, 60 ],
	[ move_subscription => q{move_subscription('paused', 100)}, 80 ],
	[ create_projection => q{create_projection('handled', 'public.handle(event_store.event)', '{Rare}')}, 300 ],
	[ create_view_projection => q{create_view_projection('folded', '{Rare}', NULL, '{"events": {}}')}, 400 ],
	[ drop_projection => q{drop_projection('kept')}, 200 ],
	[ project => q{project('kept')} ],
	[ projection_state => q{projection_state()}, 200 ],
	[ rebuild_projection => q{rebuild_projection('kept')} ],
	[ rebuild_projection_step => q{rebuild_projection_step('kept', 10)} ],
	[ replace_projection => q{replace_projection('kept', '{Rare}', NULL, '{"events": {}}')} ],
	[ resize_subscription => q{resize_subscription('paused', 3)}, 120 ],
	[ next_events => q{next_events('all', 100)}, 250 ],
	[ next_events => q{next_events('all', 100, '0')}, 250 ],
	[ wait_for_subscription => q{wait_for_subscription('all', 17, '0')}, 80 ],
	[ fail_events => q{fail_events('all', 1017, 'test')}, 250 ],
	[ claim_events => q{claim_events('all', 'c', 100)}, 250 ],
	[ ack_events => q{ack_events('leased', 0, (SELECT max(lease) FROM event_store.subscription_positions))}, 80 ],
	[ release_events => q{release_events('leased', 0, (SELECT max(lease) FROM event_store.subscription_positions))}, 80 ],
	[ extend_lease => q{extend_lease('leased', 0, (SELECT max(lease) FROM event_store.subscription_positions))}, 80 ],
	[ retry_parked_events => q{retry_parked_events('all')}, 80 ],
	[ discard_parked_events => q{discard_parked_events('all', 'Order/a-17', 'test')}, 120 ],
	[ subscription_state => 'subscription_state()' ],
	[ drop_subscription => q{drop_subscription('paused')}, 80 ],
	[ define_saga => q{define_saga('plan', '{"steps": [{"name": "b"}]}')}, 80 ],
	[ start_saga => q{start_saga('plan', 'new')}, 150 ],
	[ claim_steps => q{claim_steps('plan', 'e')}, 250 ],
	[ extend_step => q{extend_step('plan', 'p-1', 'a', LEASE)}, 250 ],
	[ report_step => q{report_step('plan', 'p-1', 'a', 'succeeded', LEASE)}, 300 ],
	[ signal_saga => q{signal_saga('plan', 'p-1', 's')}, 150 ],
	[ resolve_step => q{resolve_step('plan', 'p-3', 'a', 'skip', 'test')}, 200 ],
	[ cancel_saga => q{cancel_saga('plan', 'p-1', 'test')}, 150 ],
	[ fire_saga_timers => 'fire_saga_timers(10)', 60 ],
	[ run_saga_handlers => 'run_saga_handlers(10)', 60 ],
	[ saga_states => 'saga_states()' ],
	[ circuit_states => 'circuit_states()', 60 ],
	[ saga_detail => q{saga_detail('plan', 'p-1')}, 80 ],
	[ all_event_rows => 'all_event_rows()' ],
	[ set_retention => q{set_retention('Rare', '1 year')}, 30 ],
	[ flush => 'flush()', 10 ],
	[ save_snapshot => "save_snapshot($order, 100, '{}')", 80 ],
	[ delete_snapshot => "delete_snapshot($order)", 60 ],
	[ drain => 'drain()', 100 ],
	[ retry_dead_letters => q{retry_dead_letters('Dead', 'd-17')}, 200 ],
	[ discard_dead_letters => q{discard_dead_letters('Dead', 'd-17', 'test')}, 60 ],
	[ set_reducer => q{set_reducer('None', NULL)}, 60 ],
	[ set_reducer_rules => q{set_reducer_rules('None', '{"events": {"Moved": [{"op": "set", "path": "$.n", "from": "$.payload.n"}]}}')}, 60 ],
	[ set_upcaster => q{set_upcaster('None', 1, rules => '[]', aggregate_type => 'None')}, 120 ],
	[ drop_upcaster => q{drop_upcaster('None', 1)}, 100 ],
	[ upcast => q{upcast(NULL)}, 30 ],
	[ take_snapshot => "take_snapshot($order)", 200 ],
	[ rebuild_view => q{rebuild_view('Small', 'Rare')}, 900, 'values' ],
	[ rebuild_view_step => q{rebuild_view_step('Small', 'Order', 3)} ],
	[ rebuild_state => 'rebuild_state()', 30 ],
	[ clear_view => q{clear_view('Small')}, 300 ],
	[ staged_rows => 'staged_rows()', 30 ],
	[ staging_state => 'staging_state()', 30 ],
	[ worker_state => 'worker_state()', 30 ],
	[ worker_jobs_state => 'worker_jobs_state()', 30 ],
	[ reducer_state => 'reducer_state()', 30 ],
	[ drain_wait => 'drain_wait()', 30 ],
	[ dead_letter_state => 'dead_letter_state()' ],
	[ parked_event_state => 'parked_event_state()', 30 ],
	[ prune_dead_letter_history => q{prune_dead_letter_history('1 day')}, 60 ],
	[ feed_state => 'feed_state()', 30 ]);

# They look for what they change, and are called last: that something was moved is known
# from the first try on, undone or not.
my @changes = (
	[ archive_aggregate => q{archive_aggregate('Order', 'a-18')}, 3500 ],
	[ restore_aggregate => q{(SELECT event_store.restore_aggregate('Order', 'a-18') FROM event_store.archive_aggregate('Order', 'a-18'))}, 8000 ],
	[ delete_aggregate => q{delete_aggregate('Order', 'a-18', 'test')}, 2500 ],
	[ redact_events => q{redact_events('{00000000-0000-7000-8000-000000000018}', 'test')}, 1300 ],
	[ erase_aggregate => q{erase_aggregate('Order', 'a-18', 'test')}, 8000 ],
	[ erase_events => q{erase_events('{"aggregate_type": "Order", "aggregate_id": "a-18", "event_types": ["Moved"]}', 'test')}, 400 ]);

my %called = map { $_->[0] => 1 } @calls, @changes;
my @missing = grep { !$called{$_} } split /\n/, sql(q{
	SELECT DISTINCT p.proname
	  FROM event_store.access_levels() a, unnest(a.routines) r (name)
	  JOIN pg_catalog.pg_proc p ON p.proname = r.name AND p.pronamespace = 'event_store'::regnamespace
	 WHERE a.level <> 'owner'
	   AND p.prokind = 'f'  -- EXPLAIN takes no CALL
});
is("@missing", '', 'every function that a level may call is called here');

# that of step a of saga p-1: whatever a subquery would read is not the call's
my $lease;

sub statement
{
	my ($call) = @_;

	$call =~ s/LEASE/$lease/;
	return $call =~ /^\(/ ? "SELECT $call" : "SELECT * FROM event_store.$call";
}

# What a call touches, in blocks; -1 when it is refused.  It is undone, but for
# what runs outside of a transaction block.
sub blocks
{
	my ($session, $call) = @_;
	my $explain = 'EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) ' . statement($call) . ';';
	my $plan = $session->query($call =~ /^(?:flush|drain)/ ? $explain : "BEGIN; $explain ROLLBACK;");
	my ($buffers) = $plan =~ /Buffers: ([^\n]*)/;
	my $sum = 0;

	return -1 if $plan !~ /actual rows/;
	$sum += $1 while ($buffers // '') =~ /(?:hit|read)=(\d+)/g;
	return $sum;
}

# ---------- sessions that meet an empty store

# vacuumed and analysed as it is, so that its emptiness is no guess
sql('VACUUM ANALYZE event_store.domain_events; VACUUM ANALYZE event_store.domain_views;
	VACUUM ANALYZE event_store.snapshots; VACUUM ANALYZE event_store.dead_letters;
	VACUUM ANALYZE event_store.processed_messages');
my $old = $node->background_psql('shop', on_error_stop => 0);
sql(q{SELECT event_store.create_subscription('all'), event_store.create_subscription('paused'), event_store.create_subscription('leased');
	SELECT event_store.pause_subscription('paused');
	CREATE FUNCTION public.handle(event event_store.event) RETURNS void LANGUAGE sql AS 'SELECT';
	BEGIN;
	SELECT event_store.create_view_projection('kept', '{Rare}', NULL, '{"events": {"Moved": [{"op": "increment", "path": "$.n", "value": 1}]}}');
	SELECT event_store.pause_subscription('kept');
	COMMIT;
	SELECT event_store.define_saga('plan', '{"steps": [{"name": "a", "timeout": "10 days", "compensate": true, "compensation": {"max_attempts": 1}}, {"name": "b"}]}');
	SELECT event_store.start_saga('plan', 'p-3');
	SELECT event_store.report_step('plan', saga_id, step, 'succeeded', lease) FROM event_store.claim_steps('plan', 'e');
	SELECT event_store.cancel_saga('plan', 'p-3', 'test');
	SELECT event_store.report_step('plan', saga_id, step, 'failed', lease) FROM event_store.claim_steps('plan', 'e');
	SELECT event_store.start_saga('plan', 'p-1');
	SELECT saga_id FROM event_store.claim_steps('plan', 'e', lease_time => '10 days');
	SELECT event_store.start_saga('plan', 'p-2')});
$lease = sql(q{SELECT lease FROM event_store.saga_steps WHERE saga_id = 'p-1'});
blocks($old, $_->[1]) foreach @calls;

# ---------- the store grows

sql(q{SELECT count(event_store.schedule_event('2999-01-01Z', 'Large', 'a-' || n, 'Due',
	                                      schedule_id => ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid))
	    FROM generate_series(1, 20000) n;
	ANALYZE event_store.scheduled_events});
sql(q{
	SELECT sum(a.n)
	  FROM generate_series(0, 249) b
	 CROSS JOIN LATERAL (SELECT array_agg(CASE WHEN n % 25000 = 0 THEN 'Rare' WHEN n % 10 = 0 THEN 'User'
	                                           ELSE 'Order' END ORDER BY n) AS types,
	                            array_agg('a-' || n % 5000 ORDER BY n) AS ids,
	                            array_agg(CASE WHEN n % 50000 = 5 THEN 'Seldom' WHEN n % 2 = 0 THEN 'Changed'
	                                           ELSE 'Moved' END ORDER BY n) AS event_types,
	                            array_agg('{"n": 1}'::jsonb) AS payloads,
	                            array_agg(('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid ORDER BY n) AS event_ids
	                       FROM generate_series(b * 2000, b * 2000 + 1999) n) e
	 CROSS JOIN LATERAL (SELECT count(*) AS n
	                       FROM event_store.append_batch(e.types, e.ids, e.event_types, e.payloads,
	                                                     event_ids => e.event_ids)) a;
	INSERT INTO event_store.domain_views (view_name, view_key, view_data)
	SELECT 'Large', 'k-' || n, '{}' FROM generate_series(1, 100000) n;
	INSERT INTO event_store.domain_views (view_name, view_key, view_data)
	SELECT 'Small', 'k-' || n, '{}' FROM generate_series(1, 20) n;
	INSERT INTO event_store.snapshots (aggregate_type, aggregate_id, source, sequence, state, reducer_version)
	SELECT 'Order', 'a-' || n, 'server', 95, '{"n": 1}', 0 FROM generate_series(0, 4999) n WHERE n % 10 <> 0;
	INSERT INTO event_store.snapshots (aggregate_type, aggregate_id, source, sequence, state, reducer_version)
	SELECT 'Other', 'o-' || n, 'client', 1, '{}', 0 FROM generate_series(1, 20000) n;
	INSERT INTO event_store.sagas (saga_name, saga_id, version, state, deadline, started_at)
	SELECT 'plan', 'o-' || n, 1, 'running', now() + interval '10 days', now() FROM generate_series(1, 20000) n;
	INSERT INTO event_store.saga_steps (saga_name, saga_id, step, kind, claimable_at, due_at)
	SELECT 'plan', 'o-' || n, 'a', 'step', now() + interval '1 day', now() + interval '10 days' FROM generate_series(1, 20000) n;
	INSERT INTO event_store.processed_messages (consumer, message_id) SELECT 'c', 'm-' || n FROM generate_series(1, 20000) n;
	INSERT INTO event_store.dead_letters (kind, aggregate_type, aggregate_id, sequence, event_id, event_type,
	       schema_version, payload, occurred_at, recorded_at, error_code, error_message, attempts)
	SELECT 'event', 'Dead', 'd-' || n, 1, gen_random_uuid(), 'Moved', 1, '{}', now(), now(), '23514', 'no', 1
	  FROM generate_series(1, 20000) n});
is(sql(q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_type NOT LIKE 'saga:%'}), '500000', 'a large store');
is(sql(q{SELECT count(*) FROM event_store.claim_events('leased', 'plans', 100, '1 day')}), '100', 'a batch of it is leased');

# ---------- and is read

# Counts blocks of every call in a session, not of the first time, because what is looked
# up in catalogs then is not the plan's; and once more, since autovacuum has a session
# look it up again at any time.
sub counted
{
	my ($session) = @_;

	blocks($session, $_->[1]) foreach @calls;
	my @counts = map { blocks($session, $_->[1]) } @calls;
	return map { min($counts[$_], blocks($session, $calls[$_][1])) } 0 .. $#calls;
}

sub compare
{
	my ($when, $mine, $fresh) = @_;

	foreach my $i (0 .. $#calls)
	{
		my ($name, $call, $limit) = @{ $calls[$i] };
		my $allowed = 1.2 * $fresh->[$i] + 20;

		$allowed = $limit if defined $limit && $limit < $allowed;
		cmp_ok($mine->[$i], '<=', $allowed, "$when: $call");
		cmp_ok($mine->[$i], '>=', 0, "$when: $call is not refused");
	}
	return;
}

my $fresh = $node->background_psql('shop', on_error_stop => 0);
my @of_fresh = counted($fresh);
my @of_old = counted($old);
compare('before ANALYZE, session that met it empty', \@of_old, \@of_fresh);
sql('VACUUM ANALYZE');
my $later = $node->background_psql('shop', on_error_stop => 0);
my @of_later = counted($later);
compare('before ANALYZE, fresh session', \@of_fresh, \@of_fresh);
compare('analysed, session that met it empty', [ counted($old) ], \@of_later);
compare('analysed, fresh session', \@of_later, \@of_later);

# what others set for themselves changes nothing where there is one right plan
@calls = grep { @$_ < 4 } @calls;
@of_later = counted($later);
$later->query('SET enable_indexscan = off; SET enable_nestloop = off; SET random_page_cost = 10000;
	SET search_path = public');
compare('settings of the session', [ counted($later) ], \@of_later);
foreach my $change (@changes)
{
	my ($name, $call, $limit) = @$change;

	blocks($fresh, $call);
	my $touched = blocks($fresh, $call);
	cmp_ok($touched, '<=', $limit, $call);
	cmp_ok($touched, '>=', 0, "$call is not refused");
}

# ---------- what was read is right

sub same
{
	my ($filters, $where, $what) = @_;

	foreach my $order ('', 'DESC')
	{
		my $backward = $order eq '' ? 'false' : 'true';

		is(sql("SELECT md5(string_agg(global_position::text, ',')), count(*)
		          FROM event_store.read_events(1000, 500, $filters, backward => $backward)"),
			sql("SELECT md5(string_agg(global_position::text, ',' ORDER BY global_position $order)), count(*)
			       FROM (SELECT global_position FROM event_store.domain_events
			              WHERE global_position > 1000 AND ($where)
			              ORDER BY global_position $order LIMIT 500) e"),
			"$what $order");
	}
	return;
}

same(q{ARRAY['User', 'Rare', 'User', NULL]}, q{aggregate_type IN ('User', 'Rare')}, 'two types, given twice, and NULL');
same(q{NULL, ARRAY['Moved', 'Seldom']}, q{event_type IN ('Moved', 'Seldom')}, 'event types');
same(q{ARRAY['Order'], ARRAY['Seldom', 'Changed']}, q{aggregate_type = 'Order' AND event_type IN ('Seldom', 'Changed')}, 'both');
same(q{ARRAY['Rare'], ARRAY['Moved', 'Changed'], 0, 2},
	q{aggregate_type = 'Rare' AND event_type IN ('Moved', 'Changed') AND event_store.aggregate_member(aggregate_type, aggregate_id, 2) = 0},
	'both, and a member');
same(none(20) . q{ || '{Order, User}'}, q{aggregate_type IN ('Order', 'User')}, '22 types');
same('NULL, ' . none(60) . q{ || '{Seldom, Moved}', 1, 3},
	q{event_type IN ('Seldom', 'Moved') AND event_store.aggregate_member(aggregate_type, aggregate_id, 3) = 1}, '62 types and a member');
same(q{ARRAY[]::text[]}, 'false', 'no types');

# ---------- a type that was renamed is found by the names that it had

my $seldom = sql(q{SELECT md5(string_agg(global_position::text, ',' ORDER BY global_position)), count(*) FROM event_store.domain_events WHERE event_type = 'Seldom'});
sql(q{SELECT event_store.set_upcaster('Seldom', 1, rules => '{"event_type": "Second"}'); SELECT event_store.set_upcaster('Second', 2, rules => '{"event_type": "Third"}')});
foreach my $call (q{read_events(0, 100, NULL, ARRAY['Third'])}, q{read_events(0, 100, NULL, ARRAY['Third'], backward => true)},
	q{read_events(0, 100, NULL, ARRAY['Seldom'])}, q{read_events(0, 100, NULL, ARRAY['Third', 'None'])})
{
	blocks($later, $call);
	cmp_ok(blocks($later, $call), '<=', 150, "with upcasters: $call");
}
is(sql(q{SELECT md5(string_agg(global_position::text, ',')), count(*) FROM event_store.read_events(0, NULL, NULL, ARRAY['Third'])}), $seldom, 'and all of them are found');

# ---------- a log whose positions begin far beyond 1, as after a jump

$node->safe_psql('postgres', 'CREATE DATABASE late');
$node->safe_psql('late', q{CREATE EXTENSION event_store;
	SELECT event_store.create_store();
	INSERT INTO event_store.domain_events (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type,
	                                       payload, occurred_at, recorded_at)
	SELECT (1::bigint << 32) + n, 'Order', 'a-1', n, gen_random_uuid(), 'Moved', '{}', '2026-01-01', '2026-01-01'::timestamptz + n * interval '1 second'
	  FROM generate_series(1, 20000) n});
my $late = $node->background_psql('late', on_error_stop => 0);
blocks($late, q{position_at('2026-01-01 00:00:10')});
cmp_ok(blocks($late, q{position_at('2026-01-01 00:00:10')}), '<=', 60, 'the middle of a log is looked for where the log is');

$_->quit foreach $old, $fresh, $later, $late;
$node->stop;
done_testing();
