# A store whose owner is no superuser and owns no more than its database: made for it
# by a superuser, kept and granted by itself, dumped, restored, given away.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('source');
$node->start;
$node->safe_psql('postgres', q{
	CREATE ROLE shop LOGIN; CREATE ROLE clerk LOGIN; CREATE ROLE heir LOGIN; CREATE ROLE stranger LOGIN;
	CREATE DATABASE shop OWNER shop; CREATE DATABASE copy OWNER shop; CREATE DATABASE other});
$node->safe_psql('shop', 'CREATE EXTENSION event_store');

# What a role gets: the rows, or the SQLSTATE, message and hint of an error.
sub as
{
	my ($role, $statement, $database) = @_;
	my ($status, $out, $err) = $node->psql($database // 'shop', $statement,
		extra_params => [ '-U', $role, '-v', 'VERBOSITY=verbose' ]);

	return $status == 0 ? $out : $err;
}

# ---------- made

like(as('shop', 'SELECT event_store.create_store()'), qr/42501/, 'an owner of a database cannot make a store by himself');
$node->safe_psql('shop', q{SELECT event_store.create_store(owner => 'shop')});
is($node->safe_psql('shop', q{
		SELECT DISTINCT pg_get_userbyid(c.relowner) FROM pg_class c
		 WHERE c.relnamespace = 'event_store'::regnamespace
		   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('e', 'i', 'a'))
		   AND c.relkind IN ('r', 'S')}),
	'shop', 'a superuser makes it for him');
is($node->safe_psql('shop', q{SELECT has_schema_privilege('shop', 'event_store', 'CREATE')}), 'f', 'who may create nothing in the schema');
like(as('shop', q{SELECT outcome FROM event_store.append_event('Order', 'o-1', 0, 'Placed')}), qr/^appended$/, 'he appends');
like(as('shop', q{SET event_store.durability = 'staged'; SELECT outcome FROM event_store.append_event('Order', 'o-1', 1, 'Paid')}),
	qr/^appended$/, 'and stages');
is(as('shop', 'SELECT event_store.flush()'), 't', 'which the worker makes durable');
is(as('shop', 'SELECT event_store.create_store()'), '', 'he may run create_store() again');
is(as('shop', q{SELECT event_store.grant_access('clerk', 'writer')}), '', 'and grant access');
is(as('clerk', q{SELECT outcome FROM event_store.append_event('Order', 'o-1', 2, 'Sent')}), 'appended', 'which is enough to append');
like(as('clerk', q{SELECT event_store.grant_access('stranger', 'reader')}), qr/42501/, 'but not to grant it');

# ---------- what a superuser has to do says so

$node->safe_psql('shop', 'ALTER TABLE event_store.domain_events DROP CONSTRAINT domain_events_aggregate_key');
like(as('shop', 'SELECT event_store.create_store()'), qr/55000.*HINT:  What is missing a superuser brings back/s, 'what was dropped he cannot bring back');
$node->safe_psql('shop', 'SELECT event_store.create_store()');
is(as('shop', 'SELECT event_store.is_available()'), 't', 'a superuser can');
like($node->safe_psql('shop', q{SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'domain_events_aggregate_key'}),
	qr/^shop$/, 'and it is his');
like(as('postgres', q{SELECT event_store.create_store(owner => 'stranger')}), qr/55000.*belongs to role shop/s, 'a store has one owner');

# ---------- what could not be restored is refused when it is made

$node->safe_psql('other', 'CREATE EXTENSION event_store; ALTER SCHEMA event_store OWNER TO shop');
like(as('postgres', 'SELECT event_store.create_store()', 'other'),
	qr/55000.*schema event_store belongs to role shop.*HINT:.*owner => 'shop'/s, 'in the schema of another role');
$node->safe_psql('other', q{GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA event_store TO shop});
like(as('shop', 'SELECT event_store.create_store()', 'other'), qr/55000.*schema event_store belongs to role shop/s, 'that role included');

# ---------- dumped and restored

my $dump = PostgreSQL::Test::Utils::tempdir() . '/shop.sql';
$node->command_ok([ 'pg_dump', '--file', $dump, $node->connstr('shop') ], 'pg_dump');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('copy'), '-f', $dump ], 'psql restores it');
is(as('clerk', q{SELECT outcome, sequence FROM event_store.append_event('Order', 'o-1', 3, 'Returned'), event_store.aggregate_sequence('Order', 'o-1') sequence}, 'copy'),
	'appended|3', 'what was granted is granted there');
is(as('shop', q{SELECT event_store.create_store(); SELECT event_store.grant_access('stranger', 'reader')}, 'copy'), "\n", 'the owner is its owner there');
is(as('stranger', q{SELECT count(*) FROM event_store.load_events('Order', 'o-1')}, 'copy'), '4', 'and what he grants there counts');

# the data alone he dumps and restores himself, into a store that was made for him
$node->safe_psql('postgres', 'CREATE DATABASE moved OWNER shop');
$node->safe_psql('moved', q{CREATE EXTENSION event_store; SELECT event_store.create_store(owner => 'shop')});
$node->command_ok([ 'pg_dump', '-U', 'shop', '-Fc', '--data-only', '--exclude-table-data=event_store.store_state', '--file', "$dump.data", $node->connstr('shop') ],
	'pg_dump --data-only by the owner');
$node->command_ok([ 'pg_restore', '-U', 'shop', '--exit-on-error', '-d', $node->connstr('moved'), "$dump.data" ], 'pg_restore by the owner');
is(as('shop', q{SELECT count(*) FROM event_store.load_events('Order', 'o-1')}, 'moved'), '3', 'all is there');
is(as('shop', q{SELECT last_sequence, last_position > 1000000 FROM event_store.append_event('Order', 'o-1', 3, 'Moved')}, 'moved'), '4|t', 'and positions go on beyond');

# ---------- a store of the released version that was given to him is updated

$node->safe_psql('postgres', 'CREATE DATABASE aged');
$node->safe_psql('aged', q{
	CREATE EXTENSION event_store VERSION '0.1.0';
	SELECT event_store.create_store();
	SELECT format('ALTER %s %s OWNER TO shop', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass) FROM pg_class c
	 WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'S')
	   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('e', 'i', 'a')) \gexec
	GRANT USAGE ON SCHEMA event_store TO shop, clerk;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA event_store TO shop WITH GRANT OPTION;
	SET ROLE shop;
	GRANT EXECUTE ON FUNCTION event_store.load_events TO clerk;
	RESET ROLE;
	ALTER EXTENSION event_store UPDATE;
	SELECT event_store.create_store()});
is($node->safe_psql('aged', q{
		SELECT DISTINCT pg_get_userbyid(c.relowner) FROM pg_class c
		 WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'S')
		   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('e', 'i', 'a'))}),
	'shop', 'what has come is his as well');
is(as('shop', q{SELECT outcome FROM event_store.append_event('Order', 'o-1', 0, 'Placed')}, 'aged'), 'appended', 'he appends');
is(as('clerk', q{SELECT count(*) FROM event_store.load_events('Order', 'o-1')}, 'aged'), '1', 'what he had granted is granted');
as('shop', 'REVOKE EXECUTE ON FUNCTION event_store.load_events FROM clerk', 'aged');
like(as('clerk', q{SELECT count(*) FROM event_store.load_events('Order', 'o-1')}, 'aged'), qr/42501/, 'and he can take it back');

# ---------- given away

$node->safe_psql('shop', q{
	REASSIGN OWNED BY shop TO heir;
	SELECT event_store.create_store();
	DROP OWNED BY shop CASCADE});
is($node->safe_psql('shop', q{SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'event_store.domain_events'::regclass}), 'heir', 'REASSIGN OWNED');
is(as('heir', q{SELECT event_store.create_store(); SELECT event_store.grant_access('clerk', 'writer')}), "\n", 'who has it now keeps and grants it');
is(as('clerk', q{SELECT outcome FROM event_store.append_event('Order', 'o-1', 3, 'Closed')}), 'appended', 'and it goes on');

$node->stop;
done_testing();
