# After an erasure and its scrub no file of the database has the text any more, nor has a standby's,
# nor has one after a crash at once; while somebody can still see it, scrubbed_at says not yet.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_server('primary', init => { allows_streaming => 1 },
	conf => "event_store.write_delay = '10ms'\nautovacuum = off\nwal_level = replica\nmax_prepared_transactions = 2\n");
$primary->start;
create_store_in($primary, 'shop');

sub sql
{
	return $primary->safe_psql('shop', join("\n", @_));
}

# A text that is stored as it is, in TOAST as well: what is compressed has no text that could be looked for.
my $mark = 'AnnaVonEhrenfels';
my $random = join('', map { chr(65 + (($_ * 7919 + ($_ * $_) % 4241) % 26)) } 1 .. 9000);

# In the log and its archive, in payloads, bytes and metadata, in a batch that fills pages, in TOAST, last on a page, staged and drained; in views, a
# snapshot, a result, what is scheduled, an index of the owner's, and in statistics.
my $rules = '{"events": {"Named": [{"op": "increment", "path": "$.events", "value": 1}, {"op": "set", "path": "$.name", "from": "$.payload.name"}]}}';
my $named = q{'Customer', 'c-1', NULL, 'Named', '{"name": "first"}', event_id => '00000000-0000-4e18-8000-000000000001'};
sql(qq{
	SELECT event_store.create_view_projection('inline', '{Customer}', rules => '$rules', mode => 'inline', start_after => 0),
	       event_store.create_view_projection('async', '{Customer}', rules => '$rules', mode => 'async', start_after => 0),
	       event_store.create_subscription('all', '{Customer}', members => 3, partition_by => '\$.payload.name');
	SELECT event_store.set_reducer_rules('Customer', '$rules');
	SELECT count(*) FROM event_store.append_event($named);
	ALTER TABLE event_store.domain_events ALTER payload SET STORAGE EXTERNAL;
	CREATE INDEX owners_idx ON event_store.domain_events ((payload ->> 'name'));
	SELECT count(*) FROM event_store.append_batch(
		array_fill('Customer'::text, '{300}'), array(SELECT 'c-' || i % 3 FROM generate_series(1, 300) i),
		array_fill('Named'::text, '{300}'),
		array(SELECT jsonb_build_object('name', '$mark' || i, 'n', i) FROM generate_series(1, 300) i));
	SELECT count(*) FROM event_store.append_event('Customer', 'c-1', NULL, 'Wrote', jsonb_build_object('letter', '$mark' || '$random'));
	SELECT count(*) FROM event_store.append_event('Customer', 'c-1', NULL, 'Sent', '{}', jsonb_build_object('ip', '$mark'));
	SELECT count(*) FROM event_store.append_event('Customer', 'c-1', NULL, 'Raw', NULL, payload_bytes => '$mark');
	SELECT event_store.schedule_event(now() + '1 day', 'Customer', 'c-1', 'Reminded', jsonb_build_object('name', '$mark'));
	SELECT count(*) FROM event_store.append_event('Customer', 'c-2', NULL, 'Wrote', jsonb_build_object('letter', '$mark'), durability => 'staged');
	SELECT count(*) FROM event_store.append_batch(
		array_fill('Order'::text, '{300}'), array(SELECT 'o-' || i FROM generate_series(1, 300) i),
		array_fill('Placed'::text, '{300}'), array(SELECT jsonb_build_object('n', i) FROM generate_series(1, 300) i));
	SELECT event_store.put_view('customers', 'c-' || i, jsonb_build_object('name', '$mark')) FROM generate_series(0, 2) i;
	SELECT event_store.save_snapshot('Customer', 'c-1', 2, jsonb_build_object('name', '$mark'));
	SELECT event_store.process_once('http', 'r-1');
	SELECT event_store.record_result('http', 'r-1', jsonb_build_object('id', 'c-1', 'name', '$mark'));
});
flush_all($primary, 'shop');
is(sql(q{SELECT event_store.archive_aggregate('Customer', 'c-0', 50)}), '49', 'some are archived');
is(sql(q{SELECT count(event_store.wait_for_subscription('async', event_store.safe_position()))}), '1', 'a projection has taken them in');
is(sql(q{SELECT count(*) FROM event_store.next_events('all', 50)}), '50', 'and a consumer some');
sql(q{ALTER TABLE event_store.domain_events ALTER payload SET STATISTICS 100; ANALYZE event_store.domain_events; CHECKPOINT;});
cmp_ok(scalar(files_with($primary, $mark)), '>=', 4, 'the text is in several files');
my $toast = sql(q{SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE oid = 'event_store.domain_events'::regclass});
is(scalar(grep { /\Q$toast\E$/ } files_with($primary, $mark)), 1, 'that of TOAST is one of them');

$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

# as a REINDEX CONCURRENTLY leaves one that fails
sql(q{CREATE INDEX owners_idx_ccnew ON event_store.domain_events ((payload ->> 'n'));
	UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'event_store.owners_idx_ccnew'::regclass;});

# ---------- somebody can still see it

my $old = $primary->background_psql('shop');
$old->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM event_store.domain_events;');
is(sql(q{SELECT event_store.erase_events('{"aggregate_type": "Customer"}', 'request 1')}), '305', 'erased');
my (undef, undef, $notice) = $primary->psql('shop', 'CALL event_store.scrub_erased()');
my ($code, $out, $err) = $primary->psql('shop', 'CALL event_store.scrub_erased()');
is($code, 0, 'scrub_erased returns');
like($err, qr/still on the disk/, 'and says that something is left');
is(sql(q{SELECT scrubbed_at IS NULL, blocked_by ~ '^session \d+ of ' FROM event_store.erasures}), 't|t', 'the register says what it waits for');
$old->query('COMMIT;');
$old->quit;

# ---------- nobody can

$primary->poll_query_until('shop', q{SELECT scrubbed_at IS NOT NULL AND blocked_by IS NULL FROM event_store.erasures})
  or die 'it was not scrubbed';
is_deeply([ files_with($primary, $mark) ], [], 'no file has it any more');
is(sql(q{SELECT to_regclass('event_store.owners_idx_ccnew') IS NULL, count(*) FROM pg_index WHERE NOT indisvalid}), 't|0', 'nor is an index left that is not valid');
$primary->stop('immediate');
is_deeply([ files_with($primary, $mark) ], [], 'nor has one after a crash');
$primary->start;
is_deeply([ files_with($primary, $mark) ], [], 'nor after recovery');
is(sql(q{SELECT count(*) FROM event_store.read_events(aggregate_types => '{Order}', max_count => NULL)}), '300', 'the others are there');
is(sql(q{SELECT count(*) FROM pg_stats WHERE schemaname = 'event_store' AND attname = 'payload'}), '0', 'there are no statistics of payloads');

$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
$standby->stop;
is_deeply([ files_with($standby, $mark) ], [], 'nor has a standby');

# ---------- everything goes on

is(sql(q{SELECT sequence, state FROM event_store.replay_aggregate('Customer', 'c-1')}), '104|', 'nothing is told of it');
is(sql("SELECT last_sequence, outcome FROM event_store.append_event($named)"), '1|duplicate', 'a retry of what was erased is a duplicate');
is(sql(q{SELECT last_sequence FROM event_store.append_event('Customer', 'c-1', 104, 'Named', '{"name": "Bob"}')}), '105', 'appends go on');
is(sql(q{SELECT sequence, state FROM event_store.replay_aggregate('Customer', 'c-1')}), '105|{"name": "Bob", "events": 1}', 'so does the replay');
is(sql(q{SELECT view_key, view_data, version FROM event_store.domain_views WHERE view_name = 'inline'}), 'c-1|{"name": "Bob", "events": 1}|105', 'and the inline view');
is(sql(q{SELECT count(event_store.wait_for_subscription('async', (SELECT max(global_position) FROM event_store.domain_events)));
	SELECT view_key, view_data, version FROM event_store.domain_views WHERE view_name = 'async'}), "1\nc-1|{\"name\": \"Bob\", \"events\": 1}|105", 'and the projection');
my $given = 50;
my $empty = 0;
while ($empty < 6)
{
	my $count = sql(q{SELECT count(*) FROM event_store.next_events('all', 100)});
	$given += $count;
	$empty = $count == 0 ? $empty + 1 : 0;
}
is($given, 306, 'the subscription has given each event once');

# ---------- an id that says who it is

sql(qq{SELECT count(*) FROM event_store.append_event('Customer', '$mark', 0, 'Named', '{"name": "x"}');
	SELECT event_store.put_view('customers', '$mark', '{}');});
is(sql(qq{SELECT event_store.erase_aggregate('Customer', '$mark', 'request 2', pseudonym => 'gone')}), '1', 'it gets a pseudonym');
is($primary->psql('shop', 'CALL event_store.scrub_erased()'), 0, 'scrubbed');
$primary->poll_query_until('shop', q{SELECT count(*) = 0 FROM event_store.erasures WHERE scrubbed_at IS NULL}) or die 'it was not scrubbed';
is_deeply([ files_with($primary, $mark) ], [], 'no file has the id');

# ---------- who waits for it while it waits for him goes on

sql(q{SELECT count(*) FROM event_store.append_event('Customer', 'held', 0, 'Named', '{}');
	SELECT event_store.erase_aggregate('Customer', 'held', 'request 4', pseudonym => 'gone-2');});
my $changing = $primary->background_psql('shop');
$changing->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1;');
my $scrubbing = $primary->background_psql('shop', on_error_stop => 0);
$scrubbing->query_until(qr/asked/, "\\echo asked\nCALL event_store.scrub_erased();\n");
my $its_locks = q{FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.application_name = 'event_store scrubber'};
$primary->poll_query_until('shop', "SELECT count(*) > 0 $its_locks AND l.locktype = 'virtualxid' AND NOT l.granted")
  or die 'it waits for nobody';
my $table = sql("SELECT min(l.relation)::regclass $its_locks AND l.mode = 'ShareUpdateExclusiveLock' AND l.relation IN (SELECT oid FROM pg_class WHERE relkind = 'r')");
is($changing->query("COMMENT ON TABLE $table IS 'changed'; SELECT 'commented';"), 'commented', 'a command that waits for the scrubber is no deadlock of its own');
$changing->query('ROLLBACK;');
$changing->quit;
$scrubbing->quit;
$primary->poll_query_until('shop', q{SELECT count(*) = 0 FROM event_store.erasures WHERE scrubbed_at IS NULL}) or die 'it was not scrubbed';

# ---------- what a scrub is refused for, and what makes room for a command

like(error_of($primary, 'shop', 'BEGIN; CALL event_store.scrub_erased()'), qr/25001/, 'not in a transaction block');
sql(q{SELECT event_store.erase_events('{"aggregate_type": "Order"}', 'request 3', max_count => 10)});
is($primary->psql('postgres', 'DROP DATABASE shop'), 0, 'the database can be dropped, whatever is scrubbed');

done_testing();
