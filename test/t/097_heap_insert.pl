# Events go into the log without a statement: what other sessions change between two appends
# of a session, or of the process that commits those of many, or while one waits for the table,
# counts; indexes that are made meanwhile miss no row; decoding sees them as it sees an INSERT's.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('heap_insert', init => { allows_streaming => 'logical' });
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

my $session = $node->background_psql('shop', on_error_stop => 0);
my $durability = 'durable';

# What the session, which keeps what it has prepared, says of an append.
sub append
{
	my ($type, $more) = @_;

	$session->{stderr} = '';
	my $out = $session->query("SELECT last_sequence > 0 FROM event_store.append_event('Order', 'o', NULL, '$type', durability => '$durability'" . ($more // '') . ')');
	return $session->{stderr} ne '' ? $session->{stderr} : $out;
}

# ---------- between two appends, and while one waits for the table

sub check_changes
{
	is(append('Made', ", causation_id => 'x'"), 't', 'a session appends');
	sql('ALTER TABLE event_store.domain_events ADD CONSTRAINT none CHECK (causation_id IS NULL) NOT VALID');
	like(append('Made', ", causation_id => 'x'"), qr/violates check constraint "none"/, 'a constraint that another adds counts');
	is(append('Made'), 't', 'and nothing else changed');
	sql('ALTER TABLE event_store.domain_events DROP CONSTRAINT none');
	is(append('Made', ", causation_id => 'x'"), 't', 'until it is dropped');

	sql(q{DROP TABLE IF EXISTS seen;
		CREATE TABLE seen (type text);
		CREATE OR REPLACE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO public.seen SELECT event_type FROM added; RETURN NULL; END $$});
	my $owner = $node->background_psql('shop');

	$owner->query_safe(q{BEGIN; CREATE TRIGGER note AFTER INSERT ON event_store.domain_events
		REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION note()});
	$session->query_until(qr/begun/, qq{\\echo begun\nSELECT event_store.append_event('Order', 'o', NULL, 'Waited', durability => '$durability');\n});
	ok($node->poll_query_until('shop', q{SELECT count(*) = 1 FROM pg_locks
		WHERE relation = 'event_store.domain_events'::regclass AND NOT granted}), 'an append waits for who attaches a trigger');
	$owner->query_safe('COMMIT');
	like(append('Behind'), qr/^t$/m, 'the session goes on');
	is(sql('SELECT string_agg(type, $$ $$ ORDER BY type) FROM seen'), 'Behind Waited', 'and the trigger has seen both events');
	sql('DROP TRIGGER note ON event_store.domain_events');
	is(append('Unseen'), 't', 'without the trigger');
	is(sql('SELECT count(*) FROM seen'), 2, 'nobody sees the next');
	$owner->quit;
	return;
}

check_changes();
$durability = 'grouped';
check_changes();

# ---------- indexes that are made while sessions append

my $script = "$PostgreSQL::Test::Utils::tmp_check/append.sql";
append_to_file($script, q{\set n random(1, 50)
SELECT event_store.append_event('Shared', 's-' || :n, NULL, 'Changed', correlation_id => 'c-' || :n);
SELECT count(*) FROM event_store.append_batch(array_fill('Shared'::text, ARRAY[20]), array_fill('b-' || :n, ARRAY[20]),
	array_fill('Changed'::text, ARRAY[20]), NULL);});
my $clients = IPC::Run::start(
	[ $node->installed_command('pgbench'), '-n', '-c', '4', '-T', '600', '-h', $node->host, '-p', $node->port, '-f', $script, 'shop' ],
	'>', \my $out, '2>', \my $err);
ok($node->poll_query_until('shop', q{SELECT count(*) > 100 FROM event_store.domain_events WHERE aggregate_type = 'Shared'}), 'four clients append');
foreach my $round (1 .. 3)
{
	sql("CREATE INDEX CONCURRENTLY made_$round ON event_store.domain_events (correlation_id) WHERE correlation_id IS NOT NULL");
	sql("REINDEX INDEX CONCURRENTLY event_store.made_$round");
}
$clients->kill_kill;
sql('CREATE EXTENSION amcheck');
my $trees = q{FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam AND a.amname = 'btree'
	WHERE i.indrelid = 'event_store.domain_events'::regclass};
is(sql("SELECT count(bt_index_check(i.indexrelid, true)) $trees"), sql("SELECT count(*) $trees"), 'no index misses a row');
is(sql("SELECT count(*) $trees AND c.relname ~ '^made_.\$'"), 3, 'those made meanwhile are among them');

# ---------- logical decoding

sql(q{SELECT pg_create_logical_replication_slot('decoded', 'test_decoding')});
sub decoded
{
	return sql(q{SELECT regexp_replace(data, '(global_position|event_id|aggregate_id|occurred_at|recorded_at)\[[^]]*\]:(''[^'']*''|\S+) ?', '', 'g')
		FROM pg_logical_slot_get_changes('decoded', NULL, NULL, 'include-xids', '0') WHERE data LIKE 'table%domain_events%'});
}
my @calls = (
	q{SELECT event_store.append_event('Decoded', :'id', NULL, 'One', '{"n": 1}', saga_id => 's')},
	q{SELECT event_store.append_events('Decoded', :'id', NULL, jsonb_build_array('{"event_type": "Two"}'::jsonb,
		jsonb_build_object('event_type', 'Large', 'payload', jsonb_build_object('t', repeat('text', 100000)))))});
sub both { sql(join ';', map { s/:'id'/'$_[0]'/r } @calls); return decoded(); }
my $direct = both('direct');
sql(q{CREATE TRIGGER note AFTER INSERT ON event_store.domain_events
	REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION note()});
is(length($direct) > 400000, 1, 'all of it is decoded');
is(both('statement'), $direct, 'and looks like what an INSERT wrote');

$session->quit;
$node->stop;
done_testing();
