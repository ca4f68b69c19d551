# What belongs to whom: pg_dump carries the store whole, DROP EXTENSION leaves
# it, and CREATE EXTENSION brings the functions back.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('source', conf => "event_store.write_delay = '1h'\n");
$node->start;
create_store_in($node, 'shop');

my %api = (
	events => q{SELECT string_agg(e::text, E'\n' ORDER BY e.global_position)
		FROM event_store.domain_events e},
	views => q{SELECT string_agg(v::text, E'\n' ORDER BY v.view_name, v.view_key)
		FROM event_store.domain_views v},
	snapshots => q{SELECT string_agg(s::text, E'\n' ORDER BY s.aggregate_id, s.source)
		FROM event_store.snapshots s},
	reducers => q{SELECT string_agg(r::text, E'\n' ORDER BY r.aggregate_type)
		FROM event_store.reducers r},
	replay => q{SELECT event_store.replay_aggregate('Counter', 'c-1')},
	snapshot => q{SELECT s FROM event_store.load_snapshot('Order', 'o-1') s},
	duplicate => q{SELECT outcome, last_sequence FROM event_store.append_event('Order', 'o-1', 17, 'Placed',
		'{"total": 1}', event_id => '018f3b1c-0000-7000-8000-00000000000a')});

sub all_of
{
	my ($where, $database) = @_;

	return { map { $_ => $where->safe_psql($database, $api{$_}) } keys %api };
}

# ---------- a store with something of everything

$node->safe_psql('postgres', 'CREATE ROLE clerk LOGIN; CREATE ROLE auditor LOGIN');
$node->safe_psql('shop', q{
	CREATE FUNCTION public.count_up(state jsonb, event event_store.event) RETURNS jsonb
	    LANGUAGE sql IMMUTABLE
	    RETURN jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1);
	SELECT event_store.set_reducer('Counter', 'public.count_up');
	SELECT event_store.append_event('Order', 'o-1', 0, 'Placed', '{"total": 1}',
	    metadata => '{"by": "test"}', correlation_id => 'cor', causation_id => 'cau', saga_id => 'saga',
	    event_id => '018f3b1c-0000-7000-8000-00000000000a', occurred_at => '2020-02-02 02:02:02+00');
	SELECT event_store.append_event('Order', 'o-1', 1, 'Signed', payload_bytes => '\x00ff', schema_version => 3);
	SELECT event_store.append_batch((SELECT jsonb_agg(jsonb_build_object(
	    'aggregate_type', 'Counter', 'aggregate_id', 'c-1', 'event_type', 'Counted'))
	    FROM generate_series(1, 250)));
	SELECT event_store.replay_aggregate('Counter', 'c-1');
	SELECT event_store.save_snapshot('Order', 'o-1', 2, '{"total": 1}');
	SELECT event_store.put_view('Orders', 'o-1', '{"total": 1}', version => 2);
	SELECT event_store.grant_access('clerk', 'writer');
	SELECT event_store.grant_access('auditor', 'reader');
});
stage($node, 'shop', 'drained', 5, 5);
ok(flush_all($node, 'shop'), 'a store with staged and durable events');
my $before = all_of($node, 'shop');
like($before->{replay}, qr/^\("\{""n"": 250\}",250\)$/, 'a reducer counted');
is($before->{duplicate}, 'duplicate|1', 'an event id is known');
my $last = $node->safe_psql('shop', 'SELECT max(global_position) FROM event_store.domain_events');
stage($node, 'shop', 'not-drained', 2, 2);

# ---------- dump and restore, into a new database and onto a new server

my $dump = PostgreSQL::Test::Utils::tempdir() . '/shop.sql';
$node->command_ok([ 'pg_dump', '--file', $dump, $node->connstr('shop') ], 'pg_dump');
unlike(slurp_file($dump), qr/not-drained|staging_0/, 'staging is not in the dump');
$node->safe_psql('postgres', 'CREATE DATABASE copy');

my $other = new_server('other');
$other->start;
$other->safe_psql('postgres', 'CREATE ROLE clerk LOGIN; CREATE ROLE auditor LOGIN; CREATE DATABASE copy');

foreach my $where ($node, $other)
{
	my $on = 'on ' . $where->name;

	$where->command_ok(
		[ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $where->connstr('copy'), '-f', $dump ],
		"$on: psql restores it");
	is_deeply(all_of($where, 'copy'), $before, "$on: everything is there");
	is($where->safe_psql('copy', qq{
			SELECT first_sequence, last_position > $last
			  FROM event_store.append_event('Order', 'o-1', 2, 'Paid')}),
		'3|t', "$on: appends go on, with higher positions");
	stage($where, 'copy', 'new', 3, 3);
	ok(flush_all($where, 'copy'), "$on: staging works");
	is($where->safe_psql('copy', q{
			SET ROLE clerk;
			SELECT first_sequence FROM event_store.append_event('Order', 'o-2', 0, 'Placed')}),
		'1', "$on: a writer may write");
	like(error_of($where, 'copy', q{SET ROLE auditor;
			SELECT event_store.append_event('Order', 'o-2', 1, 'Paid')}),
		qr/42501/, "$on: a reader may not");
	is($where->safe_psql('copy',
			q{SET ROLE auditor; SELECT count(*) FROM event_store.load_events('Order', 'o-2')}),
		'1', "$on: but read");
	like(error_of($where, 'copy', 'DELETE FROM event_store.domain_events'),
		qr/VS003/, "$on: the log is append-only");
	$where->safe_psql('copy', 'SELECT event_store.create_store()');
	like(error_of($where, 'copy', 'TRUNCATE event_store.domain_events'),
		qr/VS003/, "$on: create_store() may be repeated");
}
$other->stop;

# ---------- DROP EXTENSION and back

like(error_of($node, 'shop', 'DROP EXTENSION event_store'),
	qr/55000.*HINT:  Run SELECT event_store\.flush\(\)/s,
	'DROP EXTENSION is refused while rows are staged');
is($node->safe_psql('shop', q{SELECT count(*) FROM event_store.load_events('Order', 'not-drained-1')}),
	'2', 'they are still there');
ok(flush_all($node, 'shop'), 'after a flush');
like(error_of($node, 'shop', 'DROP EXTENSION event_store'),
	qr/2BP01.*count_up/s, 'a function over our type stands in the way');
$node->safe_psql('shop', 'DROP FUNCTION public.count_up');
my $all = $node->safe_psql('shop', $api{events});
$node->safe_psql('shop', 'DROP EXTENSION event_store');
pass('without CASCADE it is dropped');
is($node->safe_psql('shop', $api{events}), $all, 'every event stays');
foreach my $change ('UPDATE event_store.domain_events SET event_type = event_type',
	'DELETE FROM event_store.domain_events', 'TRUNCATE event_store.domain_events')
{
	like(error_of($node, 'shop', $change), qr/VS003/, "$change is still refused");
	like(error_of($node, 'shop', "SET session_replication_role = replica; $change"),
		qr/VS003/, 'in replica mode too');
}
ok($node->poll_query_until('shop',
		q{SELECT count(*) = 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		   WHERE a.backend_type = 'event_store worker' AND l.relation IS NOT NULL
		     AND a.datname = 'shop'}),
	'the worker holds on to nothing');

# ---------- a dump of a store that does not stage: nothing was lost

create_store_in($node, 'calm');
wait_for_worker($node, 'calm');
$node->safe_psql('calm', q{SELECT event_store.append_event('Order', 'calm', 0, 'Placed')});
$node->safe_psql('calm', q{SELECT event_store.flush()});
$node->command_ok([ 'pg_dump', '--file', $dump, $node->connstr('calm') ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE calm_copy');
my $offset = log_offset($node);
$node->command_ok(
	[ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('calm_copy'), '-f', $dump ], 'and restored');
is($node->safe_psql('calm_copy', q{SELECT durable, staging_epoch
		FROM event_store.append_event('Order', 'calm', 1, 'Paid', durability => 'staged')}),
	'f|1', 'the restored store stages in the same epoch');
unlike(slurp_file($node->logfile, $offset), qr/staging is empty after an unclean stop/, 'and tells of no loss');

# ---------- CREATE EXTENSION

$node->safe_psql('shop', 'CREATE EXTENSION event_store');
is($node->safe_psql('shop', q{
		SELECT (SELECT count(*) FROM event_store.load_events('Counter', 'c-1')),
		       (SELECT count(*) FROM event_store.load_events('Order', 'not-drained-2'))}),
	'250|2', 'CREATE EXTENSION brings the functions back to the same events');
is($node->safe_psql('shop', $api{duplicate}), 'duplicate|1', 'their ids are known');
is($node->safe_psql('shop', q{
		SELECT first_sequence, last_position > (SELECT max(global_position) FROM event_store.domain_events)
		  FROM event_store.append_event('Order', 'o-1', 2, 'Paid')}),
	'3|t', 'appends go on');
is(stage($node, 'shop', 'back', 2, 2), '4', 'staging too');
ok(flush_all($node, 'shop'), 'and the worker drains it');
is($node->safe_psql('shop',
		q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_id LIKE 'back-%'}),
	'4', 'into the log');
is($node->safe_psql('shop', 'SELECT staging_epoch FROM event_store.staging_status'),
	'1', 'nothing was lost, so the epoch is the same');

# grants on functions went with them
like(error_of($node, 'shop', q{SET ROLE clerk;
		SELECT event_store.append_event('Order', 'o-2', 0, 'Placed')}),
	qr/42501/, 'grants on functions are made again');
$node->safe_psql('shop', q{SELECT event_store.grant_access('clerk', 'writer')});
is($node->safe_psql('shop', q{SET ROLE clerk;
		SELECT first_sequence FROM event_store.append_event('Order', 'o-2', 0, 'Placed')}),
	'1', 'by grant_access');

# what was granted on the schema before CREATE EXTENSION is not the extension's
$node->command_ok([ 'pg_dump', '--file', $dump, $node->connstr('shop') ], 'pg_dump after CREATE EXTENSION');
$node->safe_psql('postgres', 'CREATE DATABASE again');
$node->command_ok(
	[ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('again'), '-f', $dump ], 'and restored');
is($node->safe_psql('again', q{SET ROLE clerk;
		SELECT first_sequence FROM event_store.append_event('Order', 'o-2', 1, 'Paid')}),
	'2', 'a writer may write there, too');
is($node->safe_psql('again', q{SELECT has_function_privilege('auditor', 'event_store.refuse_change()', 'EXECUTE')}),
	'f', 'and the guard is nobody else\'s');

$node->stop;
done_testing();
