# pg_upgrade to the version under test carries a store whole, what is staged with it, and all of it goes on:
# appends and consumers, leases, sagas, schedules, what was parked or has still to be scrubbed.  Positions jump,
# since the old cluster may go on, too.  No process of ours runs, and no call does harm, in a server that
# pg_upgrade starts.

use strict;
use warnings;

use Cwd;
use EventStoreTest;
use File::Basename;
use PostgreSQL::Test::Utils;
use Test::More;

use constant JUMP => 2**32;

my $temp = PostgreSQL::Test::Utils::tempdir();
my ($pg_config, $complaint) = run_command([ dirname(__FILE__) . '/../older_postgres', $temp ]);
die $complaint if $pg_config eq '' && $complaint ne '';
plan skip_all => 'pg_upgrade: no older PostgreSQL is installed with its headers' if $pg_config eq '';

# checksums are the default of some versions only
my %options = (init => { extra => ['--data-checksums'] }, conf => "event_store.write_delay = '1h'\n");
my $old = new_server('older', %options, new => { install_path => dirname(dirname($pg_config)) });
note(join ' -> ', map { qx('$_' --version) =~ s/\n//r } $pg_config, $ENV{PG_CONFIG});
$old->start;
$old->safe_psql('postgres', 'CREATE ROLE keeper LOGIN; ' . join '', map { "CREATE ROLE $_;" } qw(clerk auditor boss watcher));
create_store_in($old, 'shop');

# ---------- a store with something of everything

my $rules = q{{"events": {"Opened": [{"op": "increment", "path": "$.n", "value": 1}], "Moved": [{"op": "increment", "path": "$.n", "value": 1}]}}};
$old->safe_psql('shop', qq{
	CREATE TABLE public.counted (aggregate_id text PRIMARY KEY, n int);
	CREATE FUNCTION public.count_event(event event_store.event) RETURNS void LANGUAGE sql AS \$\$
	    INSERT INTO public.counted VALUES ((event).aggregate_id, 1)
	    ON CONFLICT (aggregate_id) DO UPDATE SET n = public.counted.n OPERATOR(pg_catalog.+) 1 \$\$;
	CREATE FUNCTION public.count_up(state jsonb, event event_store.event) RETURNS jsonb LANGUAGE sql IMMUTABLE
	    RETURN jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1);
	CREATE FUNCTION public.all_upper(event event_store.event) RETURNS event_store.event LANGUAGE sql IMMUTABLE
	    RETURN jsonb_populate_record(event, jsonb_build_object('payload', upper((event).payload::text)::jsonb, 'schema_version', 2));
	SELECT event_store.set_reducer('Counter', 'public.count_up'), event_store.set_reducer_rules('Account', '$rules'),
	       event_store.set_upcaster('Old', 1, 'public.all_upper');
	SELECT event_store.create_view_projection('inline', '{Account}', mode => 'inline'),
	       event_store.create_view_projection('cities', '{Account}', key => '{"sticky": "\$.payload.city"}', rules => '$rules'),
	       event_store.create_projection('counts', 'public.count_event(event_store.event)', aggregate_types => '{Counter}'),
	       event_store.create_subscription('all'), event_store.create_subscription('leased', '{Counter}', members => 2),
	       event_store.create_subscription('parking', '{Order}');
	SELECT event_store.append_event('Order', 'o-1', 0, 'Placed', '{"total": 1}',
	    metadata => '{"by": "test"}', correlation_id => 'cor', causation_id => 'cau', saga_id => 'saga',
	    event_id => '018f3b1c-0000-7000-8000-00000000000a', occurred_at => '2020-02-02 02:02:02+00'),
	       event_store.append_event('Order', 'o-1', 1, 'Signed', payload_bytes => '\\x00ff', schema_version => 3),
	       event_store.append_event('Order', 'o-1', 2, 'Old', '{"a": "b"}'),
	       event_store.append_event('Order', 'o-2', 0, 'Placed'), event_store.append_event('Order', 'o-3', 0, 'Placed'),
	       event_store.append_event('Account', 'a-1', 0, 'Opened', '{"city": "Rome"}'), event_store.append_event('Account', 'a-1', 1, 'Moved'),
	       event_store.append_event('Account', 'a-2', 0, 'Opened', '{"city": "Ann"}');
	SELECT event_store.append_batch((SELECT jsonb_agg(jsonb_build_object('aggregate_type', 'Counter', 'aggregate_id', 'c-' || n % 5,
	    'event_type', 'Counted')) FROM generate_series(1, 250) n));
	SELECT event_store.take_snapshot('Counter', 'c-1'), event_store.save_snapshot('Order', 'o-1', 2, '{"total": 1}'),
	       event_store.put_view('Orders', 'o-1', '{"total": 1}', version => 2),
	       event_store.rebuild_view_step('Counters', 'Counter', 2),
	       event_store.process_once('http', 'r-1'), event_store.record_result('http', 'r-1', '{"id": 1}'),
	       event_store.set_retention('Order', archive_after => '100 years'),
	       event_store.schedule_event('2999-01-01', 'Order', 'o-2', 'Reminded', schedule_id => '018f3b1c-0000-7000-8000-00000000000b');
	SELECT event_store.define_saga('parcel', '{"steps": [{"name": "pack", "compensate": true, "timeout": "10 days"}, {"name": "send", "timeout": "10 days"}]}');
	SELECT event_store.start_saga('parcel', 's-1', '{"to": "ann"}'), event_store.start_saga('parcel', 's-2');
	SELECT event_store.archive_aggregate('Counter', 'c-0'), event_store.archive_aggregate('Counter', 'c-1', 20),
	       event_store.delete_aggregate('Counter', 'c-2', 'test');
	SELECT event_store.grant_access('auditor', 'reader'), event_store.grant_access('clerk', 'writer'), event_store.grant_access('boss', 'admin');
	GRANT USAGE ON SCHEMA event_store TO watcher;
	GRANT SELECT ON event_store.domain_views TO watcher;
	REVOKE EXECUTE ON FUNCTION event_store.openmetrics FROM pg_monitor;
});
$old->safe_psql('shop', qq{SELECT event_store.wait_for_subscription('$_', NULL, '10min')}) foreach qw(counts cities);

# dead letters, one settled and two left
$old->safe_psql('shop', q{
	ALTER TABLE event_store.domain_events ADD CONSTRAINT no_poison CHECK (event_type <> 'Poison');
	SELECT event_store.append_event('Order', 'poison-' || n, 0, 'Poison', durability => 'staged') FROM generate_series(1, 3) n});
ok(flush_all($old, 'shop'), 'staged events become durable or dead letters');
$old->safe_psql('shop', q{
	ALTER TABLE event_store.domain_events DROP CONSTRAINT no_poison;
	SELECT event_store.discard_dead_letters('Order', 'poison-3', 'test')});

# a consumer in the middle, leases of events and of a step, events that are parked, discarded and passed over
is($old->safe_psql('shop', q{SELECT count(*) FROM event_store.next_events('all', 50)}), '50', 'a consumer has some');
my $lease = $old->safe_psql('shop', q{SELECT DISTINCT member, lease FROM event_store.claim_events('leased', 'mailer', 5, '1 day')});
my $step = $old->safe_psql('shop', q{SELECT saga_id, step, lease FROM event_store.claim_steps('parcel', 'packer', lease_time => '1 day')});
$old->safe_psql('shop', q{
	SELECT event_store.fail_events('parking', e.global_position, 'no such customer', 'park')
	  FROM (SELECT global_position FROM event_store.domain_events WHERE aggregate_type = 'Order' AND sequence = 1) e;
	SELECT event_store.discard_parked_events('parking', 'Order/o-3', 'test');
	SELECT event_store.resize_subscription('parking', 3)});

# what is erased, and not yet gone from the disk
my $viewer = $old->background_psql('shop');
$viewer->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM event_store.domain_events;');
is($old->safe_psql('shop', q{SELECT event_store.erase_aggregate('Account', 'a-2', 'request', 'nobody')}), '1', 'something is erased');
$old->psql('shop', 'CALL event_store.scrub_erased()');
is($old->safe_psql('shop', q{SELECT blocked_by ~ '^session' FROM event_store.erasures WHERE scrubbed_at IS NULL}), 't', 'which somebody still sees');

# a store whose owner is no superuser
$old->safe_psql('postgres', 'CREATE DATABASE owned OWNER keeper');
$old->safe_psql('owned', q{
	CREATE EXTENSION event_store;
	SELECT event_store.create_store(owner => 'keeper');
	SET ROLE keeper;
	SELECT event_store.append_event('Order', 'o-1', 0, 'Placed')});

# staged, and left so by the stop
is(stage($old, 'shop', 'staged', 3, 4), '12', 'events are staged');
$old->safe_psql('shop', q{
	SELECT event_store.put_view('Orders', 'staged', '{"total": 2}', durability => 'staged');
	SELECT event_store.append_event('Order', 'o-2', NULL, 'Paid', durability => 'staged')});

# ---------- what there is

# Each table of a store, without what the processes of a server write down for themselves.
my %notes = (
	store_state => '{safe_position,last_drain_at}',
	erasures => '{scrubbed_at,blocked_by}');

sub digests
{
	my ($node, $database) = @_;
	my $tables = $node->safe_psql($database, q{
		SELECT relname FROM pg_class WHERE relnamespace = 'event_store'::regnamespace AND relkind = 'r'});

	return {
		map { split /\|/, $_, 2 } split /\n/,
		$node->safe_psql($database, join ' UNION ALL ', map {
				my $notes = $notes{$_} // '{}';

				qq{SELECT '$_', count(*) || ' ' || md5(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE "C"))
				     FROM (SELECT to_jsonb(r) - '$notes'::text[] FROM event_store.$_ r) t (t)};
			} split /\n/, $tables)
	};
}

# Starts a server as pg_upgrade does, for as long as a function takes.
sub in_upgrade
{
	my ($node, $function) = @_;
	my @pg_ctl = ($node->installed_command('pg_ctl'), '-w', '-s', '-D', $node->data_dir, '-l', $node->logfile);
	my %env = $node->_get_env();

	{
		local %ENV = %env;
		$node->command_ok([ @pg_ctl, '-o', '-b', 'start' ], $node->name . ': a server as pg_upgrade starts it');
	}
	$function->();
	{
		local %ENV = %env;
		$node->command_ok([ @pg_ctl, 'stop' ], $node->name . ': it is still there, and stops');
	}
	return;
}

# What a server has before our processes do anything.
sub same_digests
{
	my ($node, $expected, $what) = @_;

	in_upgrade($node, sub {
			is_deeply(digests($node, $_), $expected->{$_}, "$what: every table of $_ is whole") foreach sort keys %$expected;
		});
	return;
}

my %api = (
	events => q{SELECT string_agg((to_jsonb(e) - '{global_position,recorded_at}'::text[])::text, E'\n') FROM (SELECT DISTINCT aggregate_type AS type, aggregate_id AS id
		FROM event_store.all_events UNION SELECT 'Order', 'staged-' || n FROM generate_series(1, 3) n ORDER BY 1, 2) a,
		event_store.load_events(a.type, a.id) e},
	views => q{SELECT string_agg(v::text, E'\n') FROM unnest('{Orders,Counters,inline,cities}'::text[]) n,
		LATERAL (SELECT l FROM event_store.load_views(n) l) v},
	replay => q{SELECT string_agg(r::text, E'\n') FROM unnest('{Order,Counter,Account}'::text[]) t, event_store.replay_aggregates(t) r},
	feed => q{SELECT string_agg(e::text, E'\n') FROM event_store.read_events(max_count => NULL) e WHERE e.global_position <= 2::numeric ^ 32},
	sagas => q{SELECT string_agg(s::text, E'\n' ORDER BY saga_id) FROM (SELECT saga_id, state, step FROM event_store.saga_status) s},
	letters => q{SELECT string_agg(concat_ws(' ', aggregate_id, event_type), E'\n' ORDER BY id) FROM event_store.dead_letters},
	duplicate => q{SELECT outcome, last_sequence FROM event_store.append_event('Order', 'o-1', 17, 'Placed',
		'{"total": 1}', event_id => '018f3b1c-0000-7000-8000-00000000000a')},
	counted => 'SELECT string_agg(c::text, E\'\n\' ORDER BY aggregate_id) FROM public.counted c',
	extension => q{SELECT string_agg(pg_describe_object(classid, objid, 0), E'\n' ORDER BY pg_describe_object(classid, objid, 0) COLLATE "C") FROM pg_depend
		WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
		  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'event_store')});

sub answers
{
	my ($node) = @_;

	return { map { $_ => $node->safe_psql('shop', $api{$_}) } keys %api };
}

my $new = new_server('newer', %options);

# As the pg_dump of the new version has it, of both.
sub schema_of
{
	my ($node, $database) = @_;
	my ($out, $err) = run_command([ $new->installed_command('pg_dump'), '--schema-only', '-d', $node->connstr($database) ]);

	is($err, '', $node->name . ": pg_dump of $database");
	# a key of psql's restricted mode, another one each time; and comments name the versions
	$out =~ s/^(?:\\(?:un)?restrict|--).*\n//mg;
	# grants to several roles come in the order in which they were made
	$out =~ s/((?:^(?:GRANT|REVOKE) .*\n)+)/join "\n", sort split(\/\n\/, $1), ''/mge;
	return $out;
}

my $answers = answers($old);
my %schema = map { $_ => schema_of($old, $_) } qw(shop owned);
my $last = $old->safe_psql('shop', 'SELECT max(global_position) FROM event_store.all_events');
my $position = $old->safe_psql('shop', q{SELECT position FROM event_store.subscription_status WHERE subscription_name = 'all'});
is($old->safe_psql('shop', 'SELECT count(*) FROM event_store.staging'), '14', 'and is still staged');
my $epoch = $old->safe_psql('shop', 'SELECT staging_epoch FROM event_store.staging_status');
my $examples = $old->safe_psql('shop', q{
	SELECT replace(p.oid::regprocedure::text, 'event_store.', '') || '|' ||
	       (regexp_match(obj_description(p.oid, 'pg_proc'), '\nExample: ([^\n]+);\s*$'))[1]
	  FROM pg_proc p
	 WHERE p.pronamespace = 'event_store'::regnamespace AND obj_description(p.oid, 'pg_proc') ~ '\nExample: '});
$viewer->{run}->kill_kill;
$old->stop;

# ---------- a server as pg_upgrade starts it

# these do not touch the store, or their example finds nothing to call them with
my $works = qr/^(?:provider_name|extension_version|is_available|openmetrics|grant_access|histogram_quantiles|aggregate_member|project)\(|projection/;
my %examples = map { split /\|/, $_, 2 } grep { !/$works/ } split /\n/, $examples;
cmp_ok(scalar(keys %examples), '>', 80, 'there are examples of calls');
my %digests;
in_upgrade($old, sub {
		%digests = map { $_ => digests($old, $_) } qw(shop owned);

		my (undef, $out) = $old->psql('shop', join('', map { "$examples{$_};\n\\echo :SQLSTATE $_\n" } sort keys %examples), on_error_stop => 0);

		cmp_ok(scalar(grep { /^[1-9]\d* [0-9a-f]{32}$/ } values %{ $digests{shop} }), '>=', 15, 'there is something in its tables');
		is($old->safe_psql('shop', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'event_store%'}), '0', 'it has no process of ours');
		is($old->safe_psql('shop', 'SELECT event_store.is_available()'), 'f', 'and no store');
		# PostgreSQL itself refuses to make a table
		is($out, join("\n", map { (/^create_store/ ? '22023' : '55000') . " $_" } sort keys %examples), 'each call is refused');
		# as an older version may have had
		$old->safe_psql('postgres', q{ALTER DATABASE owned SET event_store.no_more = 'on'});
	});

unlike($digests{shop}{$_}, qr/^0 /, "something is in $_") foreach grep { !/^staging_\d$/ } sort keys %{ $digests{shop} };

# ---------- the upgrade

# pg_upgrade leaves a script where it runs
sub upgrade
{
	my ($from, $to, @mode) = @_;
	my $here = getcwd();

	chdir $temp;
	$to->command_ok([ 'pg_upgrade', '--no-sync', '--old-datadir', $from->data_dir, '--new-datadir', $to->data_dir,
			'--old-bindir', $from->config_data('--bindir'), '--new-bindir', $to->config_data('--bindir'),
			'--socketdir', $to->host, '--old-port', $from->port, '--new-port', $to->port, @mode ],
		"pg_upgrade @mode");
	chdir $here;
	return;
}

upgrade($old, $new);
same_digests($new, \%digests, 'the new cluster');
$new->start;
is($new->safe_psql('postgres', q{SELECT setconfig FROM pg_db_role_setting}), '{event_store.no_more=on}', 'a setting that is no more is no hindrance');
$new->safe_psql('postgres', 'ALTER DATABASE owned RESET ALL');
is($new->safe_psql('shop', 'SELECT event_store.is_available()'), 't', 'the store is there');
is_deeply(answers($new), $answers, 'and answers as before, staged rows included');
is(schema_of($new, $_), $schema{$_}, "$_: all objects and grants") foreach qw(shop owned);
$new->safe_psql('shop', 'SELECT event_store.create_store()');
is(schema_of($new, 'shop'), $schema{shop}, 'create_store() changes nothing');

# ---------- what was staged is drained

ok(flush_all($new, 'shop'), 'it becomes durable');
is($new->safe_psql('shop', q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_id LIKE 'staged-%'}), '12', 'all of it');
is($new->safe_psql('shop', 'SELECT staging_epoch FROM event_store.staging_status'), $epoch, 'nothing was lost');
unlike(slurp_file($new->logfile), qr/staging is empty after an unclean stop/, 'and no loss is told of');

# ---------- appends

sub append
{
	my ($node, $database) = @_;

	return $node->safe_psql($database, q{SELECT last_position FROM event_store.append_event('Log', 'l-1', NULL, 'Added')});
}

my $first = $new->safe_psql('shop', q{SELECT min(global_position) FROM event_store.domain_events WHERE aggregate_id LIKE 'staged-%'});
cmp_ok($first, '>=', $last + JUMP, 'positions jump');
my $added = append($new, 'shop');
cmp_ok($added, '<', $first + 1000, 'once');
$new->restart;
my $next = append($new, 'shop');
cmp_ok($next, '>', $added, 'and go on after a restart');
cmp_ok($next, '<', $added + 100_000, 'without a jump');
is($new->safe_psql('shop', q{SELECT first_sequence FROM event_store.append_event('Order', 'o-1', 3, 'Paid')}), '4', 'an aggregate goes on');
is($new->safe_psql('owned', q{SET ROLE keeper; SELECT first_sequence FROM event_store.append_event('Order', 'o-1', 1, 'Paid')}), '2',
	'that of another owner, too');

# ---------- consumers

is($new->safe_psql('shop', q{SELECT array_agg(r.global_position) = (SELECT array_agg(e.global_position ORDER BY e.global_position) FROM event_store.all_events e)
	FROM event_store.read_events(max_count => NULL) r}), 't', 'the feed has each event once');
is($new->safe_psql('shop', "SELECT min(global_position) FROM event_store.read_events($last)"), $first, 'a consumer skips nothing');
is($new->safe_psql('shop', qq{SELECT array_agg(n.global_position) = (SELECT array_agg(e.global_position ORDER BY e.global_position) FROM event_store.all_events e
	WHERE e.global_position > $position) FROM event_store.next_events('all', NULL) n}), 't', 'a subscription goes on where it was');
is($new->safe_psql('shop', q{SELECT count(*) FROM event_store.next_events('all')}), '0', 'and has them all');
my ($member, $number) = split /\|/, $lease;
is($new->safe_psql('shop', "SELECT event_store.ack_events('leased', $member, $number)"), 't', 'a lease still holds');
cmp_ok($new->safe_psql('shop', q{SELECT max(lease) FROM event_store.claim_events('leased', 'mailer', 5)}), '>=', $number + JUMP, 'and the next one is greater');
is($new->safe_psql('shop', q{SELECT string_agg(partition_key || ' ' || state, ', ' ORDER BY partition_key) FROM event_store.parked_events}),
	'Order/o-1 parked, Order/o-2 parked', 'what is parked');
is($new->safe_psql('shop', q{SELECT event_store.retry_parked_events('parking')}), '2', 'can be tried again');
$new->safe_psql('shop', q{SELECT event_store.append_batch((SELECT jsonb_agg(jsonb_build_object('aggregate_type', t, 'aggregate_id', id, 'event_type', e))
	FROM (VALUES ('Counter', 'c-3', 'Counted'), ('Account', 'a-1', 'Moved')) v (t, id, e)))});
is($new->safe_psql('shop', "SELECT event_store.wait_for_subscription('$_', NULL, '10min')"), 't', "projection $_ goes on") foreach qw(counts cities);
is($new->safe_psql('shop', q{SELECT n FROM public.counted WHERE aggregate_id = 'c-3'}), '51', 'each event has its effect once');
is($new->safe_psql('shop', q{SELECT string_agg(view_name || ' ' || view_key || ' ' || view_data, ', ' ORDER BY view_name) FROM event_store.domain_views
	WHERE (view_name, view_key) IN (('inline', 'a-1'), ('cities', 'Rome'))}), 'cities Rome {"n": 3}, inline a-1 {"n": 3}', 'so it has in views');

# ---------- sagas, schedules, dead letters, the archive

is($new->safe_psql('shop', sprintf q{SELECT event_store.report_step('parcel', '%s', '%s', 'succeeded', %d)}, split /\|/, $step),
	'running', 'who has a step reports it');
my $poll = q{WITH c AS MATERIALIZED (SELECT * FROM event_store.claim_steps('parcel', 'packer', max_count => 10)),
	r AS MATERIALIZED (SELECT event_store.report_step('parcel', saga_id, step, 'succeeded', lease) FROM c)
	SELECT (SELECT count(*) FROM r) * 0 = 0 AND count(*) = 2 FROM event_store.sagas WHERE state = 'completed'};
ok($new->poll_query_until('shop', $poll), 'sagas end');
is($new->safe_psql('shop', q{SELECT event_store.reschedule_event('018f3b1c-0000-7000-8000-00000000000b', now())}), 't', 'what is scheduled can be moved');
ok($new->poll_query_until('shop', q{SELECT count(*) = 1 FROM event_store.domain_events WHERE event_type = 'Reminded'}), 'and comes');
is($new->safe_psql('shop', q{SELECT event_store.retry_dead_letters('Order', 'poison-1')}), '1', 'a dead letter becomes an event');
is($new->safe_psql('shop', q{SELECT event_store.restore_aggregate('Counter', 'c-0');
	SELECT first_sequence FROM event_store.append_event('Counter', 'c-0', 50, 'Counted')}), "50\n51", 'an aggregate comes back from the archive');
like(error_of($new, 'shop', q{SELECT event_store.append_event('Counter', 'c-2', NULL, 'Counted')}), qr/VS005/, 'and one that was deleted does not');
ok($new->poll_query_until('shop', q{SELECT count(*) = 0 FROM event_store.erasures WHERE scrubbed_at IS NULL}), 'what was erased goes from the disk');
$new->safe_psql('shop', q{SELECT event_store.rebuild_view('Counters', 'Counter')});
is($new->safe_psql('shop', q{SELECT view_data FROM event_store.load_views('Counters') WHERE view_key = 'c-3'}), '{"n": 51}', 'a view is made anew');

# ---------- rights

is($new->safe_psql('shop', q{SET ROLE clerk; SELECT first_sequence FROM event_store.append_event('Order', 'o-7', 0, 'Placed')}), '1', 'a writer may write');
like(error_of($new, 'shop', q{SET ROLE auditor; SELECT event_store.append_event('Order', 'o-7', 1, 'Placed')}), qr/42501/, 'a reader may not');
is($new->safe_psql('shop', q{SET ROLE auditor; SELECT count(*) FROM event_store.load_events('Order', 'o-7')}), '1', 'but read');
is($new->safe_psql('shop', q{SET ROLE watcher; SELECT count(*) FROM event_store.domain_views WHERE view_name = 'Orders'}), '2', 'a grant by hand holds');
like(error_of($new, 'shop', 'DELETE FROM event_store.domain_events'), qr/VS003/, 'the log is append-only');

# ---------- unlogged tables are emptied by a crash, as ever

is(stage($new, 'shop', 'lost', 2, 2), '4', 'events are staged');
$new->stop('immediate');
$new->start;
ok($new->poll_query_until('shop', "SELECT staging_epoch = $epoch + 1 FROM event_store.staging_status"), 'a loss is told of');
is(stage($new, 'shop', 'kept', 2, 2), '4', 'and staging goes on');
ok(flush_all($new, 'shop'), 'with the worker');
is($new->safe_psql('shop', q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_id ~ '^(lost|kept)-'}), '4', 'what came after it is there');

# ---------- the old cluster can go on in the place of the new one: nothing is given twice

my $given = $new->safe_psql('shop', 'SELECT max(global_position) FROM event_store.domain_events');
$new->stop;
same_digests($old, \%digests, 'the old cluster');
$old->start;
is_deeply(answers($old), $answers, 'and answers as before');
$added = append($old, 'shop');
cmp_ok($added, '>', $last, 'its log goes on');
cmp_ok($added, '<', $first, 'with positions that the new one does not give');
like(error_of($old, 'shop', "SELECT event_store.read_events($given)"), qr/22023.*HINT:  The log is another one/s, 'a consumer of the new one is told');

# ---------- and with links in the place of copies

is($old->safe_psql('shop', 'SELECT count(*) FROM event_store.staging'), '14', 'what was staged is staged');
$old->stop;
in_upgrade($old, sub { %digests = map { $_ => digests($old, $_) } qw(shop owned) });
my $linked = new_server('linked', %options);
upgrade($old, $linked, '--link');
same_digests($linked, \%digests, 'links');
$linked->start;
ok(flush_all($linked, 'shop'), 'what was staged becomes durable');
is($linked->safe_psql('shop', 'SELECT staging_epoch FROM event_store.staging_status'), $epoch, 'nothing was lost');
cmp_ok(append($linked, 'shop'), '>=', $added + JUMP, 'positions jump');
$linked->stop;

done_testing();
