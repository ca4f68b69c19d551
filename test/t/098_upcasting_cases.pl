# Upcasting where somebody else is at work: sessions and standbys hear of a change, what is
# folded and stored meanwhile is not of another version than it says, and each safeguard that
# keeps that so.

use strict;
use warnings;

use EventStoreTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('cases', init => { allows_streaming => 1 }, conf => "event_store.write_delay = '1h'\nevent_store.snapshot_every = 0\n");
$node->start;
create_store_in($node, 'shop');
sql('CREATE ROLE keeper; CREATE ROLE reader;',
	q{SELECT event_store.grant_access('keeper', 'admin'); SELECT event_store.grant_access('reader', 'reader'); GRANT CREATE ON SCHEMA public TO keeper;});

sub sql
{
	return $node->safe_psql('shop', join("\n", @_));
}

sub refused
{
	my ($code, $statement, $what) = @_;

	like(error_of($node, 'shop', $statement), qr/ERROR:  $code/s, $what);
	return;
}

sub set_rules
{
	my ($type, $rules, %more) = @_;
	my $of = defined $more{of} ? "'$more{of}'" : 'NULL';

	return "SELECT event_store.set_upcaster('$type', 1, rules => '$rules', aggregate_type => $of);";
}

# A session that runs a statement while others go on; its comment names it.
sub begin_session
{
	my ($statement, $database) = @_;
	my $session = { out => '' };

	$session->{run} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($database // 'shop'), '-c', $statement ],
		'<', '/dev/null', '>', \$session->{out}, '2>', \$session->{out});
	return $session;
}

sub end_session
{
	my ($session) = @_;

	$session->{run}->finish;
	chomp $session->{out};
	return $session->{out};
}

# Whether a session that begins so comes to wait for a lock.
sub waits
{
	my ($comment) = @_;

	return $node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '/* $comment */%' AND wait_event_type = 'Lock'");
}

sub open_transaction
{
	my (@statements) = @_;
	my $session = $node->background_psql('shop');

	$session->query_safe($_) foreach 'SET client_min_messages = warning', 'BEGIN', @statements;
	return $session;
}

sub commit
{
	my ($session) = @_;

	$session->query_safe('COMMIT');
	$session->quit;
	return;
}

# ---------- sessions and standbys at work hear of a change

sql(q{SELECT event_store.append_event('Heard', 'a', 0, 'Old', '{"n": 1}');});
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
my $load = q{SELECT event_type, payload FROM event_store.load_events('Heard', 'a');};
my $here = $node->background_psql('shop');
my $there = $standby->background_psql('shop');

sub heard
{
	my ($wanted, $what) = @_;

	is($here->query_safe($load), $wanted, $what);
	$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
	is($there->query_safe($load), $wanted, "$what, on a standby, too");
	return;
}
heard('Old|{"n": 1}', 'before there is an upcaster');
sql(set_rules('Old', '{"event_type": "New", "operations": [{"op": "set", "path": "$.up", "value": true}]}'));
heard('New|{"n": 1, "up": true}', 'a session at work hears of it');
sql(set_rules('Old', '{"event_type": "Other"}'));
heard('Other|{"n": 1}', 'and of another one');
sql(q{CREATE FUNCTION public.to_new(event event_store.event) RETURNS event_store.event LANGUAGE plpgsql IMMUTABLE
	AS $$ BEGIN event.payload := '{"by": "function"}'; RETURN event; END $$;
	SELECT event_store.set_upcaster('Old', 1, 'public.to_new');});
heard('Old|{"by": "function"}', 'and of a function');
sql(q{CREATE OR REPLACE FUNCTION public.to_new(event event_store.event) RETURNS event_store.event LANGUAGE plpgsql IMMUTABLE
	AS $$ BEGIN event.payload := '{"by": "another"}'; RETURN event; END $$;});
heard('Old|{"by": "another"}', 'and of its next body');
sql(q{DROP FUNCTION public.to_new(event_store.event);
	CREATE FUNCTION public.to_new(event event_store.event) RETURNS event_store.event LANGUAGE plpgsql IMMUTABLE
	AS $$ BEGIN event.payload := '{"by": "third"}'; RETURN event; END $$;});
heard('Old|{"by": "third"}', 'and that it was made again');
sql('DROP FUNCTION public.to_new(event_store.event);',
	set_rules('Old', '[{"op": "set", "path": "$.m", "from": "$.payload.n"}, {"op": "set", "path": "$.n", "from": "$.payload.m", "default": 2}]'));
heard('Old|{"m": 1, "n": 2}', 'and of rules, which take what was written');
sql(q{SELECT event_store.drop_upcaster('Old', 1);});
heard('Old|{"n": 1}', 'and that there is none');
$_->quit foreach $here, $there;
$standby->stop;

# ---------- what a function must be, and may change

sql(q{
	CREATE FUNCTION public.free(event event_store.event) RETURNS event_store.event LANGUAGE plpgsql IMMUTABLE AS $$
	BEGIN
		RETURN (99, 'X', 'x', 99, gen_random_uuid(), 'Freed', 99, jsonb_build_object('who', current_user), NULL, '{"m": 1}', 'c', 'c', 's', now(), now())::event_store.event;
	END $$;
	ALTER FUNCTION public.free(event_store.event) OWNER TO keeper;
	SELECT event_store.append_event('Free', 'f', 0, 'Bound', '{}', event_id => '018f3b1c-0018-7000-8000-0000000000f1', occurred_at => '2020-02-02Z');});
my $free = q{SET ROLE keeper; SELECT event_store.set_upcaster('Bound', 1, 'public.free');};
sql(q{CREATE ROLE boss; SELECT event_store.grant_access('boss', 'admin');});
refused('42501', q{SET ROLE boss; SELECT event_store.set_upcaster('Bound', 1, 'public.free');}, 'only its owner registers a function');
sql('ALTER FUNCTION public.free(event_store.event) STABLE');
refused('42P17', $free, 'only an IMMUTABLE one');
sql('ALTER FUNCTION public.free(event_store.event) IMMUTABLE;', $free);
is(sql(q{SELECT aggregate_type, aggregate_id, sequence, event_id, correlation_id IS NULL, causation_id IS NULL, saga_id IS NULL, occurred_at = '2020-02-02Z', recorded_at < now(),
		event_type, schema_version, payload, metadata, global_position < 99 FROM event_store.load_events('Free', 'f')}),
	'Free|f|1|018f3b1c-0018-7000-8000-0000000000f1|t|t|t|t|t|Freed|2|{"who": "keeper"}|{"m": 1}|t',
	'the server keeps what no upcaster changes, and runs it as its owner');
is(sql(q{SET ROLE reader; SELECT payload FROM event_store.load_events('Free', 'f')}), '{"who": "keeper"}', 'whoever reads');
refused('42501', q{SET ROLE reader; SELECT event_store.upcast(e) FROM event_store.load_events('Free', 'f', upcast => false) e}, 'but not on what a reader makes up');
sql('ALTER FUNCTION public.free(event_store.event) VOLATILE');
refused('42P17', q{SELECT * FROM event_store.load_events('Free', 'f')}, 'it is IMMUTABLE whenever it is used');
sql('ALTER FUNCTION public.free(event_store.event) IMMUTABLE; ALTER FUNCTION public.free(event_store.event) OWNER TO boss');
refused('42501.*does not belong to role "keeper"', q{SELECT * FROM event_store.load_events('Free', 'f')}, 'and of the one who registered it');
sql('ALTER FUNCTION public.free(event_store.event) OWNER TO keeper');

# dropped and made again: nobody loses an event by it
sql(q{SELECT event_store.create_subscription('free', aggregate_types => '{Free}', start_after => 0, max_attempts => 1, on_failure => 'skip');});
my $body = sql(q{SELECT pg_get_functiondef('public.free(event_store.event)'::regprocedure)});
sql('DROP FUNCTION public.free(event_store.event)');
refused('42883.*HINT:  Create the function public.free\(event_store.event\) again', q{SELECT * FROM event_store.load_events('Free', 'f')}, 'a dropped one is missed by loads');
refused('42883', q{SELECT * FROM event_store.next_events('free')}, 'and by subscriptions');
is(sql(q{SELECT payload FROM event_store.load_events('Free', 'f', upcast => false)}), '{}', 'what was written is read');
is(sql(q{SELECT attempts, state, lag_events FROM event_store.subscription_status WHERE subscription_name = 'free'}), '0|idle|1', 'no event is blamed, and it is still counted');
like(sql('SELECT event_store.openmetrics()'), qr/subscription/, 'metrics are told meanwhile');
sql("$body; ALTER FUNCTION public.free(event_store.event) OWNER TO keeper;");
is(sql(q{SELECT event_type FROM event_store.next_events('free')}), 'Freed', 'made again, it serves');

# ---------- types are those of the last version

sql(q{SELECT event_store.append_event(CASE i % 3 WHEN 0 THEN 'Few' ELSE 'Many' END, 'x-' || i, 0, 'Plain', '{}') FROM generate_series(1, 30) i;},
	set_rules('Plain', '{"event_type": "Renamed"}', of => 'Few'),
	q{SELECT event_store.create_subscription(t, event_types => ARRAY[t], start_after => 0) FROM unnest('{Plain,Renamed}'::text[]) t;});
foreach my $one ([ 'Renamed', 10, 'Few' ], [ 'Plain', 20, 'Many' ])
{
	my ($type, $count, $aggregates) = @$one;

	is(sql(qq{SELECT count(*), min(aggregate_type), max(aggregate_type) FROM event_store.read_events(event_types => '{$type}', max_count => NULL)}),
		"$count|$aggregates|$aggregates", "$type: reads");
	is(sql(qq{SELECT count(*), min(aggregate_type), max(aggregate_type) FROM event_store.next_events('$type', 100)}), "$count|$aggregates|$aggregates", "$type: a subscription");
}

# ---------- one that fails ends the batch

sql(set_rules('Fails', '[{"op": "increment", "path": "$.n", "value": 1}]'),
	q{SELECT event_store.append_event('Fail', CASE i WHEN 4 THEN 'f-3' ELSE 'f-' || i END, NULL, 'Fails', CASE i WHEN 3 THEN '{"n": "none"}' ELSE '{"n": 1}' END::jsonb) FROM generate_series(1, 5) i;
	SELECT event_store.create_subscription('fails', aggregate_types => '{Fail}', start_after => 0, max_attempts => 1, on_failure => 'park');});
my $next = q{SELECT string_agg(aggregate_id || ' ' || (payload ->> 'n'), ', ') FROM event_store.next_events('fails', 100)};
is(sql($next), 'f-1 2, f-2 2', 'a batch ends before the event that cannot be upcast');
is(sql($next), 'f-5 2', 'which is parked with its partition, and the others go on');
is(sql(q{SELECT string_agg(partition_key || ' ' || state, ', ') FROM event_store.parked_events WHERE subscription_name = 'fails'}), 'Fail/f-3 parked', 'with what follows in it');
sql(set_rules('Fails', '[{"op": "set", "path": "$.n", "value": 7}]'), q{SELECT event_store.retry_parked_events('fails');});
is(sql($next), 'f-3 7, f-3 7', 'mended and retried, it comes in its order, as its last version has it');
is(sql(q{SELECT count(*) FROM event_store.next_events('fails', 100)}), '0', 'and all came once');

# ---------- a handler gets what a reader gets

sql(q{CREATE TABLE handled (event_type text, payload jsonb);
	CREATE FUNCTION public.handle(event event_store.event) RETURNS void LANGUAGE sql AS $$ INSERT INTO public.handled VALUES (event.event_type, event.payload) $$;
	SELECT event_store.create_projection('handler', 'public.handle(event_store.event)', '{Few}', event_types => '{Renamed}', start_after => 0);});
$node->poll_query_until('shop', q{SELECT count(*) = 10 FROM handled}) or die 'not handled';
is(sql(q{SELECT count(*), min(event_type), max(event_type) FROM handled}), '10|Renamed|Renamed', 'a handler gets the last version');

# ---------- snapshots are of the upcasters that they say

sql(q{SELECT event_store.append_event('Shot', 's', 0, 'Taken', '{"n": 1}'); SELECT event_store.take_snapshot('Shot', 's');});
my $replay = q{SELECT state FROM event_store.replay_aggregate('Shot', 's')};
is(sql($replay), '{"n": 1}', 'a snapshot before');
sql(set_rules('Taken', '[{"op": "set", "path": "$.up", "value": 1}]'));
is(sql($replay), '{"n": 1, "up": 1}', 'an older snapshot is not used');
my $holder = open_transaction(q{SELECT event_store.take_snapshot('Shot', 's')});
my $setter = begin_session('/* snapshot */ ' . set_rules('Taken', '[{"op": "set", "path": "$.up", "value": 2}]'));
ok(waits('snapshot'), 'an upcaster is not set while a snapshot is being taken');
commit($holder);
unlike(end_session($setter), qr/ERROR/, 'it is when that is there');
is(sql($replay), '{"n": 1, "up": 2}', 'and the snapshot is older then');

# ---------- rebuilds are of one version

my $view = q{'{"events": {"Shown": [{"op": "set", "path": "$.by", "from": "$.payload.by"}]}}'};
sql(q{SELECT event_store.append_event('View', 'v-' || i, 0, 'Shown', '{}') FROM generate_series(1, 20) i;},
	set_rules('Shown', '[{"op": "set", "path": "$.by", "value": 1}]', of => 'View'),
	"SELECT event_store.create_view_projection('shown', '{View}', NULL, $view);");
$node->poll_query_until('shop', q{SELECT count(*) = 20 FROM event_store.load_views('shown')}) or die 'not projected';
my $shown = q{SELECT string_agg(DISTINCT view_data::text, ' '), count(*) FROM event_store.load_views('shown')};
is(sql($shown), '{"by": 1}|20', 'a view');
$holder = open_transaction(q{SELECT event_store.rebuild_projection_step('shown', 5)});
$setter = begin_session('/* rebuild */ ' . set_rules('Shown', '[{"op": "set", "path": "$.by", "value": 2}]', of => 'View'));
ok(waits('rebuild'), 'an upcaster is not set within a step of a rebuild');
commit($holder);
like(end_session($setter), qr/NOTICE:  projections are stale: .*shown/, 'it is between two');
is(sql(q{SELECT stale FROM event_store.projection_status WHERE projection_name = 'shown'}), 't', 'the view is stale');
sql(q{DO $$ BEGIN WHILE NOT event_store.rebuild_projection_step('shown', 5) LOOP COMMIT; END LOOP; END $$;});
is(sql($shown), '{"by": 2}|20', 'which begins anew, with the new one alone');
is(sql(q{SELECT stale FROM event_store.projection_status WHERE projection_name = 'shown'}), 'f', 'and is stale no longer');

$holder = open_transaction(q{SELECT event_store.rebuild_view_step('by aggregate', 'View', 5)});
$setter = begin_session('/* step */ ' . set_rules('Shown', '[{"op": "set", "path": "$.by", "value": 3}]', of => 'View'));
ok(waits('step'), 'nor within a step of rebuild_view_step');
commit($holder);
like(end_session($setter), qr/stale/, 'but between two');
sql(q{DO $$ BEGIN WHILE NOT event_store.rebuild_view_step('by aggregate', 'View', 5) LOOP COMMIT; END LOOP; END $$;});
is(sql(q{SELECT string_agg(DISTINCT view_data::text, ' '), count(*) FROM event_store.load_views('by aggregate')}), '{"by": 3}|20', 'which begins anew as well');

# ---------- an append folds an inline view by the upcasters that there are

sql("SELECT event_store.create_view_projection('inline', '{Line}', NULL, $view, mode => 'inline');");
$node->poll_query_until('shop', q{SELECT mode = 'inline' FROM event_store.projections WHERE projection_name = 'inline'}) or die 'not inline';
$holder = open_transaction(q{SELECT event_store.append_event('Line', 'open', 0, 'Shown', '{"by": 0}')});
$setter = begin_session('/* open append */ ' . set_rules('Shown', '[{"op": "set", "path": "$.by", "value": 1}]', of => 'Line'));
ok(waits('open append'), 'an upcaster is not set while an append is open that folds a view');
commit($holder);
like(end_session($setter), qr/stale: .*inline/, 'it is afterwards');
$holder = open_transaction(set_rules('Shown', '[{"op": "set", "path": "$.by", "value": 2}]', of => 'Line'));
my @appends = map { begin_session("/* append $_ */ BEGIN ISOLATION LEVEL $_; SELECT 1 FROM event_store.domain_views LIMIT 1;
	SELECT last_sequence FROM event_store.append_event('Line', '$_', 0, 'Shown', '{\"by\": 0}'); COMMIT") } 'READ COMMITTED', 'REPEATABLE READ';
ok(waits('append READ COMMITTED') && waits('append REPEATABLE READ'), 'an append waits for one that is being set');
commit($holder);
is(end_session($_), "1\n1", 'and goes on') foreach @appends;
is(sql(q{SELECT string_agg(view_key || ' ' || view_data, ', ' ORDER BY view_key COLLATE "C") FROM event_store.load_views('inline')}),
	'READ COMMITTED {"by": 2}, REPEATABLE READ {"by": 2}, open {"by": 0}', 'with what was set');

# many appends, each of which folds by the upcasters of its place in the log
sql('CREATE TABLE going AS SELECT');
my @writers = map { begin_session("/* writer */ DO \$\$ DECLARE i int := 0; BEGIN WHILE EXISTS (SELECT FROM going) LOOP i := i + 1;
	PERFORM event_store.append_event('Line', 'w-$_-' || i, 0, 'Shown', '{\"by\": 0}'); COMMIT; END LOOP; END \$\$") } 1 .. 4;
foreach my $version (3 .. 12)
{
	my $events = events_in($node, 'shop');

	$node->poll_query_until('shop', "SELECT count(*) > $events + 20 FROM event_store.domain_events") or die 'no writer goes on';
	sql(set_rules('Shown', qq{[{"op": "set", "path": "\$.by", "value": $version}]}, of => 'Line'));
}
sql('DELETE FROM going');
is(end_session($_), '', 'a writer had no trouble') foreach @writers;
my $appended = sql(q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'Line'});
my ($older, $folded, $versions) = split /\|/, sql(q{
	SELECT count(*) FILTER (WHERE "by" < before), count(*), count(DISTINCT "by")
	  FROM (SELECT (v.view_data ->> 'by')::int AS "by", lag((v.view_data ->> 'by')::int) OVER (ORDER BY e.global_position) AS before
	          FROM event_store.load_views('inline') v JOIN event_store.domain_events e ON e.aggregate_type = 'Line' AND e.aggregate_id = v.view_key) s});
is($older, '0', 'behind the first event of an upcaster none is folded by an older one');
is($folded, $appended, 'and each is folded');
cmp_ok($versions, '>=', 11, 'by all that there were');
sql(q{SELECT event_store.rebuild_projection('inline')});
is(sql(q{SELECT string_agg(DISTINCT view_data::text, ' '), count(*) FROM event_store.load_views('inline')}), qq{{"by": 12}|$appended}, 'a rebuild makes one of all');

# ---------- next_events in a transaction that is older than an upcaster

sql(q{SELECT event_store.create_subscription('seen', aggregate_types => '{Seen}', event_types => '{Before,After}', start_after => event_store.safe_position());
	SELECT event_store.append_event('Seen', 's-' || i, 0, 'Before', '{}') FROM generate_series(1, 6) i;});
my $old = $node->background_psql('shop');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM event_store.domain_events LIMIT 1;');
my $given = $old->query_safe(q{SELECT string_agg(aggregate_id || ' ' || event_type, ', ') FROM event_store.next_events('seen', 3);});
is($given, 's-1 Before, s-2 Before, s-3 Before', 'a batch before');
sql(set_rules('Before', '{"event_type": "After"}', of => 'Seen'));
is($old->query_safe(q{SELECT string_agg(aggregate_id || ' ' || event_type, ', ') FROM event_store.next_events('seen', 2);}),
	's-4 After, s-5 After', 'and one behind, in the same transaction');
$old->query_safe('COMMIT;');
$old->quit;
is(sql(q{SELECT string_agg(aggregate_id || ' ' || event_type, ', ') FROM event_store.next_events('seen', 10)}), 's-6 After', 'each event comes once');

# ---------- dump and restore

my $temp = PostgreSQL::Test::Utils::tempdir();
my $all = q{SELECT string_agg(e::text, E'\n') FROM event_store.read_events(aggregate_types => '{Free,Few,Many,Fail,Shot,Line,Seen}', max_count => NULL) e};
my $before = sql($all);
$node->command_ok([ 'pg_dump', '-Fc', '--file', "$temp/dump", $node->connstr('shop') ], 'a store with upcasters is dumped');
$node->safe_psql('postgres', 'CREATE DATABASE copy; CREATE DATABASE taken_over');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('copy'), "$temp/dump" ], 'and restored');
is($node->safe_psql('copy', $all), $before, 'with functions and rules');
is($node->safe_psql('copy', q{SELECT string_agg(concat_ws(' ', event_type, aggregate_type, upcaster, upcaster_owner, rules), ', ' ORDER BY event_type, aggregate_type) FROM event_store.upcasters}),
	sql(q{SELECT string_agg(concat_ws(' ', event_type, aggregate_type, upcaster, upcaster_owner, rules), ', ' ORDER BY event_type, aggregate_type) FROM event_store.upcasters}),
	'and owners');
$node->command_ok([ 'pg_restore', '--no-owner', '--exit-on-error', '-d', $node->connstr('taken_over'), "$temp/dump" ], 'restored without owners');
my $first = q{SELECT payload ->> 'who' <> 'keeper' FROM event_store.load_events('Free', 'f')};
like(error_of($node, 'taken_over', $first), qr/42501.*does not belong to role "keeper".*HINT:  .*set_upcaster/s, 'a function of another owner is not run');
$node->safe_psql('taken_over', q{SELECT event_store.set_upcaster('Bound', 1, 'public.free')});
is($node->safe_psql('taken_over', $first), 't', 'until that one registers it');

$node->stop;
done_testing();
