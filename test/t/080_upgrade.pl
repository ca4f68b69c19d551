# A store of the released version: another library's calls are refused without
# harm, ALTER EXTENSION UPDATE and create_store() make it what a new one is, and
# its dump restores into the present version.

use strict;
use warnings;

use EventStoreTest;
use File::Find;
use PostgreSQL::Test::Utils;
use Test::More;

my $released = '0.1.0';
my $temp = PostgreSQL::Test::Utils::tempdir();
my @roles = qw(clerk auditor boss helper watcher);

my $node = new_server('upgrade', conf => "event_store.write_delay = '1h'\n");
$node->start;
$node->safe_psql('postgres', join '', map { "CREATE ROLE $_;" } @roles);
$node->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(old restored);

sub sql
{
	my ($database, $statements) = @_;

	return $node->safe_psql($database, $statements);
}

sub lines_of
{
	my ($database, $query) = @_;

	return split /\n/, sql($database, $query);
}

# What only one of two lists has; '' when they are alike.
sub differences
{
	my ($left, $right) = @_;
	my (%left, %right);

	$left{$_}++ foreach @$left;
	$right{$_}++ foreach @$right;
	return join "\n",
	  (map { "< $_" } grep { !$right{$_} } sort keys %left),
	  (map { "> $_" } grep { !$left{$_} } sort keys %right);
}

# ---------- what an operator does, in every version

my $reducer = q{
	CREATE FUNCTION public.count_up(state jsonb, event event_store.event) RETURNS jsonb
	    LANGUAGE sql IMMUTABLE
	    RETURN jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1);};
my $levels = q{
	SELECT event_store.grant_access('auditor', 'reader');
	SELECT event_store.grant_access('clerk', 'writer');
	SELECT event_store.grant_access('boss', 'admin');};
my $by_hand = q{
	GRANT EXECUTE ON FUNCTION event_store.load_events, event_store.replay_aggregate TO helper WITH GRANT OPTION;
	GRANT USAGE ON SCHEMA event_store TO helper, watcher;
	SET ROLE helper;
	GRANT EXECUTE ON FUNCTION event_store.load_events, event_store.replay_aggregate TO watcher WITH GRANT OPTION;
	SET ROLE watcher;
	GRANT EXECUTE ON FUNCTION event_store.load_events TO clerk;
	RESET ROLE;
	GRANT SELECT ON event_store.staging_status, event_store.feed_status TO watcher;
	REVOKE EXECUTE ON FUNCTION event_store.openmetrics FROM pg_monitor;};

# ---------- what there is: everything in the schema and of the extension, a line each

my $catalog = q{
	WITH ours (classid, objid) AS (
	    SELECT 'pg_class'::regclass::oid, oid FROM pg_class WHERE relnamespace = 'event_store'::regnamespace
	    UNION SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace = 'event_store'::regnamespace
	    UNION SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typnamespace = 'event_store'::regnamespace
	    UNION SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE connamespace = 'event_store'::regnamespace
	    UNION SELECT 'pg_trigger'::regclass, t.oid FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
	           WHERE c.relnamespace = 'event_store'::regnamespace
	    UNION SELECT 'pg_event_trigger'::regclass, oid FROM pg_event_trigger
	    UNION SELECT 'pg_namespace'::regclass, oid FROM pg_namespace WHERE nspname = 'event_store'
	    UNION SELECT 'pg_extension'::regclass, oid FROM pg_extension WHERE extname = 'event_store'
	    UNION SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
	           WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype IN ('e', 'x') AND e.extname = 'event_store'
	), acls (classid, objid, objsubid, acl) AS (
	    SELECT 'pg_class'::regclass::oid, oid, 0,
	           coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)) FROM pg_class
	    UNION ALL SELECT 'pg_class'::regclass, attrelid, attnum, attacl FROM pg_attribute
	    UNION ALL SELECT 'pg_proc'::regclass, oid, 0, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc
	    UNION ALL SELECT 'pg_type'::regclass, oid, 0, coalesce(typacl, acldefault('T', typowner)) FROM pg_type
	    UNION ALL SELECT 'pg_namespace'::regclass, oid, 0, nspacl FROM pg_namespace
	), found (classid, objid, objsubid, line) AS (
	    SELECT classid, objid, 0, 'is there' FROM ours
	    UNION ALL
	    SELECT d.classid, d.objid, d.objsubid, 'depends on the extension: ' || d.deptype::text
	      FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
	     WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype IN ('e', 'x') AND e.extname = 'event_store'
	    UNION ALL
	    SELECT classoid, objoid, objsubid, 'has the comment ' || description FROM pg_description
	    UNION ALL
	    SELECT a.classid, a.objid, a.objsubid,
	           concat_ws(' ', 'grants', x.grantor::regrole, x.grantee::regrole, x.privilege_type, x.is_grantable)
	      FROM acls a, aclexplode(a.acl) x
	    UNION ALL
	    SELECT i.classoid, i.objoid, i.objsubid,
	           concat_ws(' ', 'first granted', x.grantor::regrole, x.grantee::regrole, x.privilege_type, x.is_grantable)
	      FROM pg_init_privs i LEFT JOIN LATERAL aclexplode(i.initprivs) x ON true
	    UNION ALL
	    SELECT 'pg_extension'::regclass, oid, 0,
	           concat_ws(' ', 'is', extversion, extowner::regrole, extnamespace::regnamespace, extrelocatable, extconfig, extcondition)
	      FROM pg_extension
	    UNION ALL
	    SELECT 'pg_proc'::regclass, oid, 0,
	           concat_ws(' ', 'is', proowner::regrole, prokind, provolatile, proparallel, proisstrict, proleakproof, procost, prorows,
	                     CASE WHEN prokind <> 'a' THEN pg_get_functiondef(oid) END)
	      FROM pg_proc WHERE pronamespace = 'event_store'::regnamespace
	    UNION ALL
	    SELECT 'pg_proc'::regclass, aggfnoid, 0, 'aggregates by ' || (to_jsonb(a) - 'aggtranstype' - 'aggmtranstype')::text
	           || ' ' || aggtranstype::regtype || ' ' || aggmtranstype::regtype
	      FROM pg_aggregate a
	    UNION ALL
	    SELECT 'pg_class'::regclass, oid, 0,
	           concat_ws(' ', 'is', relowner::regrole, relkind, relpersistence, relreplident, relrowsecurity, relforcerowsecurity,
	                     reloptions, (SELECT amname FROM pg_am WHERE oid = relam),
	                     CASE WHEN relkind = 'v' THEN pg_get_viewdef(oid) WHEN relkind = 'i' THEN pg_get_indexdef(oid) END)
	      FROM pg_class WHERE relnamespace = 'event_store'::regnamespace
	    UNION ALL
	    SELECT 'pg_class'::regclass, a.attrelid, 0,
	           concat_ws(' ', 'has column', row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum), a.attname,
	                     format_type(a.atttypid, a.atttypmod), nullif(a.attcollation, 0)::regcollation, a.attnotnull, a.attidentity,
	                     a.attgenerated, a.attstorage, a.attcompression, pg_get_expr(d.adbin, d.adrelid))
	      FROM pg_attribute a LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
	     WHERE a.attnum > 0 AND NOT a.attisdropped
	    UNION ALL
	    SELECT 'pg_class'::regclass, seqrelid, 0, (to_jsonb(s) - 'seqrelid' - 'seqtypid')::text || seqtypid::regtype
	      FROM pg_sequence s
	    UNION ALL
	    SELECT 'pg_type'::regclass, t.oid, 0, concat_ws(' ', 'is', t.typowner::regrole, t.typtype, t.typcategory,
	           (SELECT string_agg(enumlabel, ' ' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid))
	      FROM pg_type t
	    UNION ALL
	    SELECT 'pg_constraint'::regclass, oid, 0, concat_ws(' ', 'is', convalidated, pg_get_constraintdef(oid)) FROM pg_constraint
	    UNION ALL
	    SELECT 'pg_trigger'::regclass, oid, 0, concat_ws(' ', 'is', tgenabled, pg_get_triggerdef(oid)) FROM pg_trigger
	    UNION ALL
	    SELECT 'pg_event_trigger'::regclass, oid, 0,
	           concat_ws(' ', 'is', evtowner::regrole, evtevent, evtfoid::regproc, evtenabled, evttags) FROM pg_event_trigger
	)
	SELECT replace(concat_ws(' ', o.type, o.identity, f.line), E'\n', ' ')
	  FROM ours
	  JOIN found f ON (f.classid, f.objid) = (ours.classid, ours.objid),
	       pg_identify_object(f.classid, f.objid, f.objsubid) o
	 ORDER BY 1};

sub schema_dump
{
	my ($database) = @_;
	my ($out, $err) =
	  run_command([ 'pg_dump', '--schema-only', '-d', $node->connstr($database) ]);

	is($err, '', "$database: pg_dump --schema-only");
	# a key of psql's restricted mode, another one each time
	$out =~ s/^\\(?:un)?restrict .*\n//mg;
	# grants to several roles come in the order in which they were made
	$out =~ s/((?:^(?:GRANT|REVOKE) .*\n)+)/join "\n", sort split(\/\n\/, $1), ''/mge;
	return [ split /\n/, $out ];
}

sub same_as_fresh
{
	my ($database) = @_;

	is(differences([ lines_of($database, $catalog) ], [ lines_of('fresh', $catalog) ]),
		'', "$database: the catalog of a fresh install");
	is_deeply(schema_dump($database), schema_dump('fresh'), "$database: the dump of a fresh install");
	return;
}

create_store_in($node, 'fresh');
sql('fresh', $reducer . $levels . $by_hand);
cmp_ok(scalar(grep { /^function .* is there$/ } lines_of('fresh', $catalog)),
	'>=', 50, 'a fresh install to compare with');

# ---------- a store with something of everything, staged rows included

create_store_in($node, 'source');
sql('source', $reducer . q{
	SELECT event_store.set_reducer('Counter', 'public.count_up');
	SELECT event_store.set_reducer_rules('Account', '{"events": {"Opened": [{"op": "set", "path": "$.open", "value": true}]}}');
	SELECT event_store.append_event('Order', 'o-1', 0, 'Placed', '{"total": 1}',
	    metadata => '{"by": "test"}', correlation_id => 'cor', causation_id => 'cau', saga_id => 'saga',
	    event_id => '018f3b1c-0000-7000-8000-00000000000a', occurred_at => '2020-02-02 02:02:02+00');
	SELECT event_store.append_event('Order', 'o-1', 1, 'Signed', payload_bytes => '\x00ff', schema_version => 3);
	SELECT event_store.append_batch((SELECT jsonb_agg(jsonb_build_object(
	    'aggregate_type', 'Counter', 'aggregate_id', 'c-' || n % 3, 'event_type', 'Counted'))
	    FROM generate_series(1, 150) n));
	SELECT event_store.append_event('Account', 'a-1', 0, 'Opened');
	SELECT event_store.take_snapshot('Counter', 'c-1');
	SELECT event_store.save_snapshot('Order', 'o-1', 2, '{"total": 1}');
	SELECT event_store.put_view('Orders', 'o-1', '{"total": 1}', version => 2);
	SELECT event_store.rebuild_view_step('Counters', 'Counter', 2);
	ALTER TABLE event_store.domain_events ADD CONSTRAINT no_poison CHECK (event_type <> 'Poison');
	SELECT event_store.append_event('Order', 'poison', 0, 'Poison', durability => 'staged');
	SELECT event_store.put_view('Orders', 'poison', '{}', durability => 'staged');
});
ok(flush_all($node, 'source'), 'a store is filled');
sql('source', 'ALTER TABLE event_store.domain_events DROP CONSTRAINT no_poison');
stage($node, 'source', 'staged', 3, 4);
sql('source', q{SELECT event_store.put_view('Orders', 'staged', '{"total": 2}', durability => 'staged')});

is(sql('source', 'SELECT count(*) FROM event_store.staging'), '13', 'something is staged');

# ---------- the same store as the released version has it

sql('old', "CREATE EXTENSION event_store VERSION '$released'; SELECT event_store.create_store()");
sql('old', $reducer . $levels . $by_hand);
my %columns = map { split /\|/ } lines_of('old', q{
	SELECT c.relname, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
	  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	 WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind = 'r'
	 GROUP BY c.relname});
foreach my $table (sort keys %columns)
{
	cmp_ok(sql('source', "SELECT count(*) FROM event_store.$table"), '>', 0, "something is in $table")
	  unless $table =~ /^staging_\d$/;
	sql('source', "COPY (SELECT $columns{$table} FROM event_store.$table) TO '$temp/$table'");
	sql('old', "DELETE FROM event_store.$table") if $table =~ /^(?:store_state|staging_marker)$/;
	sql('old', "COPY event_store.$table ($columns{$table}) FROM '$temp/$table'");
}
foreach my $sequence (lines_of('old', q{SELECT relname FROM pg_class
	 WHERE relnamespace = 'event_store'::regnamespace AND relkind = 'S'}))
{
	my $last = sql('source', "SELECT last_value || ', ' || is_called FROM event_store.$sequence");

	sql('old', "SELECT setval('event_store.$sequence', $last)");
}

# Rows and a checksum for each durable table, in the columns of the released
# version.  store_state is left out: the worker keeps its own notes in it.
sub data_of
{
	my ($database) = @_;
	my %data;

	foreach my $table (grep { !/^staging_|^store_state$/ } keys %columns)
	{
		$data{$table} = sql($database, qq{
			SELECT count(*) || ' ' || md5(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE "C"))
			  FROM (SELECT $columns{$table} FROM event_store.$table) t});
	}
	return \%data;
}

my $data = data_of('source');
is_deeply(data_of('old'), $data, 'the released version has it, too');

# What each role of ours may do with which functions and views, whatever their arguments.
my $grants = qq{
	SELECT DISTINCT concat_ws(' ', o.name, x.grantee::regrole, x.privilege_type, x.is_grantable)
	  FROM (SELECT proname, proacl FROM pg_proc WHERE pronamespace = 'event_store'::regnamespace
	        UNION ALL
	        SELECT relname, relacl FROM pg_class WHERE relnamespace = 'event_store'::regnamespace) o (name, acl),
	       aclexplode(o.acl) x
	 WHERE x.grantee IN (SELECT oid FROM pg_roles WHERE rolname IN ('@{[join q{', '}, @roles]}'))};
my @granted = lines_of('old', $grants);

# name, C function, arguments and result of each function
my $signatures = q{
	SELECT prosrc || '|' || concat_ws(' ', proargtypes::regtype[], proallargtypes::regtype[], prorettype::regtype)
	  FROM pg_proc
	 WHERE pronamespace = 'event_store'::regnamespace AND prolang = (SELECT oid FROM pg_language WHERE lanname = 'c')};
my @signatures = lines_of('old', $signatures);

# ---------- before the update: no call goes wrong

sub refused
{
	my ($call) = @_;

	like(error_of($node, 'old', $call),
		qr/55000.*version.*HINT:  Run ALTER EXTENSION event_store UPDATE; SELECT event_store\.create_store\(\);/s,
		"refused: $call");
	return;
}

# these do not touch the store
my $works = qr/^(?:create_store|grant_access|provider_name|extension_version|is_available|openmetrics)\(/;
my %examples = map { split /\|/, $_, 2 } lines_of('old', q{
	SELECT replace(p.oid::regprocedure::text, 'event_store.', '') || '|' ||
	       (regexp_match(obj_description(p.oid, 'pg_proc'), '\nExample: ([^\n]+);\s*$'))[1]
	  FROM pg_proc p
	 WHERE p.pronamespace = 'event_store'::regnamespace AND obj_description(p.oid, 'pg_proc') ~ '\nExample: '});
cmp_ok(scalar(keys %examples), '>', 30, 'the released functions have examples');
refused($examples{$_}) foreach grep { !/$works/ } sort keys %examples;
refused("SELECT * FROM event_store.$_") foreach qw(staging staging_status feed_status rebuild_status);
# at once, and not after they have waited for a worker to open staging
refused("SET statement_timeout = '5s'; SELECT event_store.$_")
  foreach q{append_event('Order', 'o-2', 0, 'Placed', durability => 'staged')},
  q{put_view('Orders', 'o-2', '{}', durability => 'staged')}, q{delete_view('Orders', 'o-2', durability => 'staged')};
refused('DROP EXTENSION event_store');
refused('DROP SCHEMA event_store CASCADE');
is(sql('old', 'SELECT event_store.is_available(), event_store.provider_name()'), 'f|PostgreSQL', 'a health check');
is(sql('old', q{SELECT event_store.extension_version() = extversion FROM pg_extension WHERE extname = 'event_store'}),
	'f', 'which tells the versions');
is(sql('old', "SELECT count(*) FROM event_store.$_") > 0, 1, "$_ can be looked at")
  foreach qw(worker_status metrics openmetrics());
is(sql('old', q{SELECT event_store.aggregate_member('Order', 'o-1', 3), event_store.histogram_quantiles('{0.001}', '{0.5}')}),
	sql('source', q{SELECT event_store.aggregate_member('Order', 'o-1', 3), event_store.histogram_quantiles('{0.001}', '{0.5}')}),
	'pure functions work');
is_deeply(data_of('old'), $data, 'nothing has changed');

my $dump = "$temp/old.dump";
$node->command_ok([ 'pg_dump', '-Fc', '--file', $dump, $node->connstr('old') ], 'it can be dumped');

# ---------- the update

my ($status, $out, $err) = $node->psql('old', q{
	BEGIN;
	ALTER EXTENSION event_store UPDATE;
	SELECT event_store.create_store();
	SELECT count(*) FROM event_store.load_events('Order', 'o-1');
	ROLLBACK;
	SELECT event_store.load_events('Order', 'o-1');
	ALTER EXTENSION event_store UPDATE;
	SELECT event_store.create_store();
	SELECT count(*) FROM event_store.load_events('Order', 'o-1');}, on_error_stop => 0);
is($out, "\n2\n\n2", 'ALTER EXTENSION UPDATE and create_store(), rolled back and again');
like($err, qr/\A[^\n]*ERROR: [^\n]*version 0[^\n]*\n[^\n]*HINT:[^\n]*\z/, 'refused once more in between');

is_deeply(data_of('old'), $data, 'the data is whole');
is(sql('old', 'SELECT count(*) FROM event_store.staging'), '13', 'what was staged is still staged');
my %there = map { $_ => 1 } lines_of('fresh', q{
	SELECT proname FROM pg_proc WHERE pronamespace = 'event_store'::regnamespace
	UNION SELECT relname FROM pg_class WHERE relnamespace = 'event_store'::regnamespace});
is(differences([ grep { $there{ (split / /)[0] } } @granted ], [ lines_of('old', $grants) ]),
	'', 'every role has what it had');
sql('old', $levels);
same_as_fresh('old');

my %api = (
	events => q{SELECT string_agg(e::text, E'\n' ORDER BY e.aggregate_id, e.sequence) FROM (VALUES
		('Order', 'o-1'), ('Counter', 'c-1'), ('Account', 'a-1'), ('Order', 'staged-1'), ('Order', 'staged-3')) a (type, id),
		event_store.load_events(a.type, a.id) e},
	views => q{SELECT string_agg(v::text, E'\n') FROM event_store.load_views('Orders') v},
	snapshots => q{SELECT s FROM event_store.load_snapshot('Counter', 'c-1') s},
	replay => q{SELECT string_agg(r::text, E'\n') FROM unnest(ARRAY['Order', 'Counter', 'Account']) t,
		event_store.replay_aggregates(t) r},
	feed => q{SELECT string_agg(e::text, E'\n') FROM event_store.read_events() e},
	letters => q{SELECT event_store.discard_dead_letters('Order', 'poison', 'test')},
	rebuild => q{SELECT event_store.rebuild_view('Counters', 'Counter'); SELECT view_key, view_data, version
		FROM event_store.load_views('Counters')},
	duplicate => q{SELECT outcome, last_sequence FROM event_store.append_event('Order', 'o-1', 17, 'Placed',
		'{"total": 1}', event_id => '018f3b1c-0000-7000-8000-00000000000a')});
is(sql('old', $api{$_}), sql('source', $api{$_}), "through the API: $_") foreach sort keys %api;

my $last = sql('old', 'SELECT max(global_position) FROM event_store.domain_events');
wait_for_worker($node, 'old');
ok(flush_all($node, 'old'), 'and becomes durable');
is(sql('old', q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_id LIKE 'staged-%'}), '12', 'all of it');
is(sql('old', 'SELECT staging_epoch FROM event_store.staging_status'), '1', 'nothing was lost');
is(sql('old', qq{SELECT first_sequence, last_position > $last FROM event_store.append_event('Order', 'o-1', 2, 'Paid')}),
	'3|t', 'appends go on');
is(stage($node, 'old', 'more', 2, 2), '4', 'staging goes on');
ok(flush_all($node, 'old'), 'with the worker');
is(sql('old', q{SET ROLE clerk; SELECT first_sequence FROM event_store.append_event('Order', 'o-2', 0, 'Placed')}),
	'1', 'a writer may write');

# ---------- grants that outlived the update are still the operator's

sql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'pg_dump', '-Fc', '--file', "$temp/new.dump", $node->connstr('old') ], 'the updated store is dumped');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('copy'), "$temp/new.dump" ], 'and restored');
same_as_fresh('copy');

# ---------- a dump of the released version, restored into the present one

my ($stdout, $stderr) =
  run_command([ 'pg_restore', '-d', $node->connstr('restored'), $dump ]);
# a grant on a function that has other arguments by now is made again
is(join('', grep { !/could not execute query: ERROR:  function event_store\.\w+\(.*\) does not exist$/ }
			$stderr =~ /^pg_restore: error: .*\n/mg),
	'', 'the dump of the released version is restored');
isnt(sql('restored', q{SELECT extversion FROM pg_extension WHERE extname = 'event_store'}),
	$released, 'into the present version');
is_deeply(data_of('restored'), $data, 'the data is whole');
sql('restored', 'SELECT event_store.create_store()');
sql('restored', $levels . $by_hand);
same_as_fresh('restored');
is(sql('restored', $api{duplicate}), 'duplicate|1', 'an event id is known');
is(sql('restored', qq{SELECT first_sequence, last_position > $last - 12
	  FROM event_store.append_event('Order', 'o-1', 2, 'Paid')}), '3|t', 'appends go on');
is(stage($node, 'restored', 'more', 2, 2), '4', 'staging goes on');
ok(flush_all($node, 'restored'), 'with the worker');

# ---------- the way back leads over DROP EXTENSION, and forth again

my $all = data_of('old');
sql('old', "DROP FUNCTION public.count_up; DROP EXTENSION event_store; CREATE EXTENSION event_store VERSION '$released'");
sql('old', 'SELECT event_store.create_store()');
refused(q{SELECT event_store.load_events('Order', 'o-1')});
is_deeply(data_of('old'), $all, 'the data is whole on the way back');
sql('old', "ALTER EXTENSION event_store UPDATE; SELECT event_store.create_store(); $reducer $levels $by_hand");
same_as_fresh('old');
is_deeply(data_of('old'), $all, 'and forth');

# what stood in the log before there were subscriptions is given by one
sql('old', q{SELECT event_store.create_subscription('all')});
cmp_ok(sql('old', q{SELECT count(*) FROM event_store.next_events('all', 1)}), '==', 1, 'a subscription begins');
my $position = sql('old', 'SELECT position FROM event_store.subscription_status');
is(sql('old', qq{SELECT array_agg(n.global_position) = (SELECT array_agg(e.global_position ORDER BY e.global_position) FROM event_store.domain_events e
		WHERE e.global_position > $position) FROM event_store.next_events('all', 10000) n}), 't', 'and goes on over all of them');

# nor is what was written then of the last version
sql('old', q{SELECT event_store.set_upcaster('Placed', 1, rules => '[{"op": "set_once", "path": "$.currency", "value": "EUR"}]')});
is(sql('old', q{SELECT schema_version, payload FROM event_store.load_events('Order', 'o-1', max_count => 1)}), '2|{"total": 1, "currency": "EUR"}',
	'old events are upcast');

# ---------- what the released version did not have works in its store, and is in the dump of it

sql('old', q{
	SELECT event_store.append_event('Account', 'a-2', 0, 'Opened', '{"name": "ann"}');
	SELECT event_store.archive_aggregate('Counter', 'c-0'), event_store.archive_aggregate('Counter', 'c-1', 20);
	SELECT event_store.delete_aggregate('Counter', 'c-2', 'test');
	SELECT event_store.erase_aggregate('Account', 'a-2', 'test', 'nobody');
	SELECT event_store.redact_events(ARRAY['018f3b1c-0000-7000-8000-00000000000a'::uuid], 'test', '{$.payload.total}');
	SELECT event_store.set_retention('Order', archive_after => '100 years');
	SELECT event_store.schedule_event('2999-01-01', 'Order', 'o-1', 'Reminded');
	SELECT event_store.define_saga('parcel', '{"steps": [{"name": "pack", "compensate": true}, {"name": "send"}]}');
	SELECT event_store.start_saga('parcel', 's-1', '{"to": "ann"}'), event_store.start_saga('parcel', 's-2');
	SELECT event_store.report_step('parcel', c.saga_id, c.step, 'succeeded', c.lease, '{"kg": 2}')
	  FROM event_store.claim_steps('parcel', 'packer', max_count => 2) c;
	SELECT event_store.create_view_projection('accounts', '{Account}', mode => 'inline');
});
my $counted = q{SELECT (SELECT string_agg(concat_ws(' ', i, (SELECT count(*) FROM event_store.load_events('Counter', 'c-' || i))), ', ')
	FROM generate_series(0, 2) i)};
is(sql('old', $counted), '0 50, 1 50, 2 0', 'archived, in part, and deleted');
is(sql('old', q{SELECT string_agg(payload::text, ' ') FROM event_store.load_events('Account', 'nobody')}), '{}', 'erased');
is(sql('old', q{SELECT string_agg(concat_ws(' ', saga_id, state, step), ', ' ORDER BY saga_id) FROM event_store.saga_status}),
	's-1 running send, s-2 running send', 'sagas');
# while the scrubber builds indexes anew there are two of each
ok($node->poll_query_until('old', 'SELECT bool_and(scrubbed_at IS NOT NULL) FROM event_store.erasures'), 'scrubbed');
same_as_fresh('old');

# what is the same in a store and its copy, whatever its processes do
my @later = qw(domain_events domain_events_archive closed_aggregates erasures retention upcasters scheduled_events
  saga_definitions sagas saga_steps subscriptions projections);
sub later_data
{
	my ($database) = @_;

	return { map { $_ => sql($database, qq{
		SELECT string_agg(t::text, E'\\n' ORDER BY t::text COLLATE "C")
		  FROM (SELECT to_jsonb(r) - '{scrubbed_at,blocked_by,position}'::text[] FROM event_store.$_ r) t}) } @later };
}
my $later = later_data('old');
isnt($later->{$_}, '', "something is in $_") foreach @later;
sql('postgres', 'CREATE DATABASE later');
$node->command_ok([ 'pg_dump', '-Fc', '--file', "$temp/later.dump", $node->connstr('old') ], 'all of it is dumped');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('later'), "$temp/later.dump" ], 'and restored');
is_deeply(later_data('later'), $later, 'whole');
same_as_fresh('later');
is(sql('later', $counted), '0 50, 1 50, 2 0', 'the archive is read there');
is(sql('later', q{SELECT string_agg(event_store.report_step('parcel', c.saga_id, c.step, 'succeeded', c.lease), ' ')
	FROM event_store.claim_steps('parcel', 'sender', max_count => 2) c}), 'completed completed', 'and its sagas end');
is(sql('later', q{SELECT event_store.restore_aggregate('Counter', 'c-0'); SELECT first_sequence FROM event_store.append_event('Counter', 'c-0', 50, 'Counted')}),
	"50\n51", 'an aggregate comes back, and goes on');
like(error_of($node, 'later', q{SELECT event_store.append_event('Counter', 'c-2', NULL, 'Counted')}), qr/VS005/, 'and one that was deleted does not');

# ---------- and a version that this library does not know yet

sql('old', q{UPDATE pg_extension SET extversion = '9.10.0' WHERE extname = 'event_store'});
like(error_of($node, 'old', q{SELECT event_store.load_events('Order', 'o-1')}),
	qr/55000.*HINT:  Install the library of version 9\.10\.0/s, 'refused: an extension newer than the library');
# as each script does before anything else
chomp(my $extensions = `pg_config --sharedir`);
my $present = sql('fresh', 'SELECT event_store.extension_version()');
foreach my $script ("event_store--$present.sql", "event_store--$released--$present.sql")
{
	my ($block) = slurp_file("$extensions/extension/$script") =~ /^(DO \$\$\n.*?^\$\$;\n)/ms;

	like(error_of($node, 'old', $block),
		qr/55000.*library event_store has version \Q$present\E, but the extension shall have version 9\.10\.0.*HINT:  Restart the server/s, "and $script");
}

# ---------- a function with other arguments looks at the version before at those

my %sources;
find(
	{
		no_chdir => 1,
		wanted => sub {
			return unless /\.c$/;
			my $text = slurp_file($_);

			$sources{$1} = $2 while $text =~ /^(\w+)\(PG_FUNCTION_ARGS\)\n\{\n(.*?)^\}/msg;
		}
	},
	'.');
my %present = map { $_ => 1 } lines_of('fresh', $signatures);
my %known = map { (split /\|/)[0] => 1 } keys %present;
ok(exists $sources{es_append_event}, 'the sources are here');
foreach my $signature (grep { !$present{$_} } @signatures)
{
	my ($function) = split /\|/, $signature;

	next unless $known{$function};
	# answers before the update as well, as was seen above: it takes no arguments and
	# gives the first columns, as many as are asked for
	next if $function eq 'es_worker_state';
	like($sources{$function} // '', qr/\A(?:(?!PG_GETARG|PG_ARGISNULL|fcinfo(?!->resultinfo)).)*es_(?:check_version|store)\(\)/s,
		"$function() looks at the version first");
}

# ---------- one version everywhere, and what each takes

my $version = sql('fresh', 'SELECT event_store.extension_version()');
is(join(' ', slurp_file('META.json') =~ /"version": "(\d+\.\d+\.\d+)"/g), "$version $version 1.0.0", 'META.json');
is(sql('fresh', q{SELECT extversion FROM pg_extension WHERE extname = 'event_store'}), $version, 'the control file');
my ($title, %entries) = split /^## (\S+) .*\n/m, slurp_file('CHANGELOG.md');
like(slurp_file('CHANGELOG.md'), qr/\A# Changelog\n\n## \Q$version\E /, 'CHANGELOG.md begins with it');
foreach my $entry (sort keys %entries)
{
	is(join(', ', $entries{$entry} =~ /^\| ([^|]+?) \| [^|]*\w[^|]* \|$/mg),
		'Restart, ALTER EXTENSION, create_store(), grant_access, Way back', "what $entry takes");
}

unlike(slurp_file($node->logfile), qr/was terminated by signal|PANIC|TRAP/, 'no crash');
$node->stop;
done_testing();
