# Without shared_preload_libraries everything durable works, staging says what
# to do, and what a preloaded server left staged is drained in the foreground.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('bare',
	conf => "shared_preload_libraries = ''\nautovacuum = off\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

# ---------- durable writes and reads

is(sql(q{SELECT first_sequence, last_sequence, last_position, durable, outcome, staging_epoch
	      FROM event_store.append_event('Order', 'o-1', 0, 'Placed', '{"total": 1}')}),
	'1|1|1|t|appended|', 'append_event');
is(sql(q{SELECT last_sequence, last_position FROM event_store.append_events('Order', 'o-1', 1,
	      '[{"event_type": "Paid"}, {"event_type": "Shipped"}]')}),
	'3|3', 'append_events');
is(sql(q{SELECT string_agg(sequence || ' ' || global_position || ' ' || outcome, ', ' ORDER BY ordinal)
	      FROM event_store.append_batch(ARRAY['Order', 'Order'], ARRAY['o-2', 'o-1'],
	                                    ARRAY['Placed', 'Closed'], ARRAY['{}', '{}']::jsonb[])}),
	'1 4 appended, 4 5 appended', 'append_batch');
is(sql(q{SELECT string_agg(event_type, ' ' ORDER BY sequence) FROM event_store.load_events('Order', 'o-1')}),
	'Placed Paid Shipped Closed', 'load_events');
is(sql(q{SELECT state, sequence FROM event_store.replay_aggregate('Order', 'o-1')}),
	'{"total": 1}|4', 'replay_aggregate');
is(sql(q{SELECT event_store.put_view('Orders', 'o-1', '{"open": true}')}), 't', 'put_view');
is(sql(q{SELECT event_store.load_view('Orders', 'o-1')}), '{"open": true}', 'load_view');
is(sql(q{SELECT event_store.delete_view('Orders', 'o-1')}), 't', 'delete_view');
like(error_of($node, 'shop',
		q{SELECT event_store.append_event('Order', 'o-1', 1, 'Late')}),
	qr/VS001.*expected 1, actual 4/, 'a conflict is one');

# two writers at once
my @writers = map { $node->background_psql('shop') } (1 .. 2);
$writers[0]->query_safe(
	q{BEGIN; SELECT event_store.append_event('Order', 'o-2', NULL, 'First');});
$writers[1]->query_until(qr/sent/,
	qq{\\echo sent\nSELECT event_store.append_event('Order', 'o-2', NULL, 'Second');\n});
ok($node->poll_query_until('shop',
		q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'}),
	'an append waits for another of the same aggregate');
$writers[0]->query_safe('COMMIT');
$_->quit foreach @writers;
is(sql(q{SELECT string_agg(event_type, ' ' ORDER BY sequence) FROM event_store.load_events('Order', 'o-2')}),
	'Placed First Second', 'and follows it');
is(sql('SELECT count(*) = max(global_position), count(*) = count(DISTINCT global_position)
          FROM event_store.domain_events'), 't|t', 'each has its own position');

# rows that the owner writes into the log, the second in a session that has appended
my $around = q{INSERT INTO event_store.domain_events (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at)
	SELECT max(global_position) + 1, 'Around', $$a-%d$$, 1, gen_random_uuid(), 'Placed', '{}', now(), now() FROM event_store.domain_events;};
my $append = q{SELECT last_sequence, last_position > (SELECT max(global_position) FROM event_store.domain_events) FROM event_store.append_event('Around', $$b-%d$$, 0, 'Placed');};
is(sql(sprintf("$around $append $around", 1, 1, 2) . sprintf(" BEGIN ISOLATION LEVEL REPEATABLE READ; $append COMMIT;", 2)),
	"1|t\n1|t", 'positions go on behind rows that the owner writes');

# ---------- staging

foreach my $staged (
	q{append_event('Order', 'o-3', 0, 'Placed', durability => 'staged')},
	q{append_batch('{"aggregate_type": "Order", "aggregate_id": "o-3", "event_type": "Placed"}', durability => 'staged')},
	q{put_view('Orders', 'o-3', '{}', durability => 'staged')},
	q{delete_view('Orders', 'o-3', durability => 'staged')})
{
	like(error_of($node, 'shop', "SELECT event_store.$staged"),
		qr/55000.*preloaded.*HINT:  Set shared_preload_libraries/s, "refused: $staged");
}
is(sql(q{SELECT event_store.aggregate_sequence('Order', 'o-3')}), '0', 'nothing was written');
like(error_of($node, 'shop', 'SELECT event_store.drain(); SELECT event_store.flush()'),
	qr/^no error: 0\nt$/, 'nothing to drain or flush');
is(sql('SELECT state, pid, launcher_pid FROM event_store.worker_status'),
	'not preloaded||', 'worker_status says why');
is(sql('SELECT event_store.is_available()'), 't', 'is_available');

# settings can be made, and asked for, before the library is loaded
is(sql("SET event_store.durability = 'durable'; SHOW event_store.durability"),
	'durable', 'settings');

# ---------- what a preloaded server left staged

$node->append_conf('postgresql.conf',
	"shared_preload_libraries = 'event_store'\nevent_store.write_delay = '1h'\n");
$node->restart;
my $before = events_in($node, 'shop');
is(stage($node, 'shop', 'left', 30, 4), '120', 'staged while preloaded');
sql(q{SELECT event_store.put_view('Orders', 'left-1', '{"staged": true}', durability => 'staged')});
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;

is(events_in($node, 'shop'), $before, 'none of it is durable yet');
is(sql(q{SELECT count(*), count(global_position) FROM event_store.load_events('Order', 'left-1')}),
	'4|0', 'but it can be loaded');
is(sql(q{SELECT event_store.load_view('Orders', 'left-1')}), '{"staged": true}', 'views too');
is(sql(q{SELECT first_sequence, durable FROM event_store.append_event('Order', 'left-2', 4, 'More')}),
	'5|t', 'a durable append moves what stands before it');
is(sql(q{SELECT string_agg(sequence || ':' || (global_position IS NOT NULL), ' ' ORDER BY sequence)
	       FROM event_store.load_events('Order', 'left-2')}),
	'1:true 2:true 3:true 4:true 5:true', 'in order');
my $rounds = 0;
while (sql('SELECT event_store.drain(50)') > 0)
{
	last if ++$rounds > 100;
}
cmp_ok($rounds, '<=', 100, 'drain() comes to an end');
is(sql('SELECT event_store.flush()'), 't', 'flush() finds nothing left');
is(events_in($node, 'shop'), $before + 121, 'all is durable');
is(sql(q{SELECT view_data FROM event_store.domain_views WHERE view_key = 'left-1'}),
	'{"staged": true}', 'the view as well');
is(sql('SELECT count(*) FROM event_store.staging'), '0', 'staging is empty');

# ---------- preloaded once more: no loss is reported, positions go on

my $offset = log_offset($node);
my $last = sql('SELECT max(global_position) FROM event_store.domain_events');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'event_store'\n");
$node->restart;
wait_for_worker($node, 'shop');
is(sql(qq{SELECT durable, last_position > $last
	        FROM event_store.append_event('Order', 'o-9', 0, 'Placed')}),
	't|t', 'positions go on');
stage($node, 'shop', 'again', 1, 1);
ok(flush_all($node, 'shop'), 'staging works again');
is(sql('SELECT staging_epoch FROM event_store.staging_status'), '1', 'in the same epoch');
unlike(slurp_file($node->logfile, $offset), qr/WARNING/, 'without a warning');

# ---------- left behind: what cannot be written, and nothing else

sql(q{ALTER TABLE event_store.domain_events ADD CONSTRAINT no_poison CHECK (event_type <> 'Poison') NOT VALID});
sql(qq{SELECT durable FROM event_store.append_event('Order', 'poison-$_', 0, 'Poison', durability => 'staged')})
  foreach (1 .. 2);
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
like(error_of($node, 'shop', 'SELECT event_store.drain()'),
	qr/^(?!.*ERROR)(?:.*became a dead letter){2}/s, 'no worker comes back to them: they are dead letters at once');
is(sql('SELECT count(*) FROM event_store.staging'), '0', 'staging is empty');
is(sql(q{SELECT string_agg(aggregate_id || ' ' || error_code || ' ' || attempts, ', ' ORDER BY id) FROM event_store.dead_letters}),
	'poison-1 23514 1, poison-2 23514 1', 'with their error');

# ---------- the archive, which no shared memory knows of

my $id = q{event_id => '00000000-0000-7000-8000-0000000000a1'};
is(sql(qq{SELECT outcome FROM event_store.append_event('Order', 'old', 0, 'Placed', $id); SELECT event_store.archive_aggregate('Order', 'old')}), "appended\n1", 'an aggregate is archived');
like(error_of($node, 'shop', q{SELECT event_store.append_event('Order', 'old', NULL, 'Placed')}), qr/VS005/, 'and closed');
is(sql(qq{SELECT outcome FROM event_store.append_event('Order', 'old', 0, 'Placed', $id)}), 'duplicate', 'a retry is a duplicate');
like(error_of($node, 'shop', qq{SELECT event_store.append_event('Order', 'other', 0, 'Placed', $id)}), qr/VS002/, 'and the id taken');
is(sql(q{SELECT event_store.restore_aggregate('Order', 'old'); SELECT last_sequence FROM event_store.append_event('Order', 'old', 1, 'Paid')}), "1\n2", 'restored, it goes on');

$node->stop;
done_testing();
