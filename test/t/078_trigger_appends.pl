# A trigger on domain_events that appends, while some append durably and some stage: no
# round waits for who waits for it, nobody waits long, and every event has its followers.

use strict;
use warnings;

use EventStoreTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('trigger_appends',
	conf => "event_store.write_delay = '20ms'\nsynchronous_commit = off\nmax_connections = 40\n");
$node->start;
create_store_in($node, 'shop');
wait_for_worker($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

# An order is followed by an entry in one of four journals, and one that has 'self' in
# its id by an event of its own.
sql(<<'SQL');
CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM event_store.append_event('Journal', 'j-' || length(NEW.aggregate_id) % 4, NULL, 'Noted');
    IF NEW.aggregate_id LIKE '%self%' AND NEW.event_type <> 'Own' THEN
        PERFORM event_store.append_event('Order', NEW.aggregate_id, NULL, 'Own');
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER follow AFTER INSERT ON event_store.domain_events
    FOR EACH ROW WHEN (NEW.aggregate_type = 'Order') EXECUTE FUNCTION follow();
SQL

# ---------- one who holds an aggregate, and does nothing

my $holder = $node->background_psql('shop');
$holder->query_safe(q{BEGIN; SELECT event_store.append_event('Journal', 'j-1', NULL, 'Opened', durability => 'durable')});
# length 5: j-1; length 4: j-0
sql(q{SELECT event_store.append_event('Order', 'o-111', NULL, 'x', durability => 'staged');
	SELECT event_store.append_event('Order', 'o-11', NULL, 'x', durability => 'staged');
	SELECT event_store.append_event('Order', 'o-111', NULL, 'y', durability => 'staged');
	BEGIN;
	SELECT event_store.append_event('Order', 'o-22', NULL, 'x', durability => 'staged');
	SELECT event_store.append_event('Order', 'o-111', NULL, 'z', durability => 'staged');
	COMMIT;
	SELECT event_store.append_event('Order', 'o-22', NULL, 'y', durability => 'staged');
	SELECT event_store.append_event('Order', 'o-33', NULL, 'x', durability => 'staged');});
ok($node->poll_query_until('shop', q{SELECT count(*) = 2 FROM event_store.domain_events WHERE aggregate_id IN ('o-11', 'o-33')}),
	'a round goes on with what the holder does not hold up');
is(sql(q{SELECT count(*) FROM event_store.load_events('Order', 'o-111') WHERE global_position IS NULL}), 3, 'and leaves the others');
is(sql(q{SELECT count(*) FROM event_store.load_events('Order', 'o-22') WHERE global_position IS NULL}), 2,
	'with what comes after them');
is(sql(q{SELECT consecutive_failures FROM event_store.staging_status}), 0, 'which is no failure');
is(sql(q{SELECT event_store.flush('100ms')}), 'f', 'flush() says that something is left');
like(error_of($node, 'shop', q{SET event_store.settle_timeout = '300ms';
	SELECT event_store.append_event('Order', 'o-22', NULL, 'z', durability => 'durable')}), qr/55000/, 'who needs it waits for its time');
is(sql(q{SET event_store.settle_timeout = '10s';
	SELECT last_sequence FROM event_store.append_event('Order', 'o-11', NULL, 'z', durability => 'durable')}), 2, 'others go on');
$holder->query_safe('COMMIT');
ok($node->poll_query_until('shop', q{SELECT staged_events = 0 FROM event_store.staging_status}), 'when the holder ends all is drained');
is(sql('SELECT count(*) FROM event_store.dead_letters'), 0, 'nothing was buried');

# ---------- one who holds what the round needs, and waits for the round

$holder->query_safe(q{BEGIN; SELECT event_store.append_event('Journal', 'j-1', NULL, 'Opened', durability => 'durable')});
sql(q{SELECT event_store.append_event('Order', 'o-444', NULL, 'x', durability => 'staged')});
my $started = time;
is($holder->query_safe(q{SELECT last_sequence FROM event_store.append_event('Order', 'o-444', NULL, 'y', durability => 'durable')}), 2,
	'who holds what the round of his rows needs drains himself');
cmp_ok(time - $started, '<', 10, 'at once');
$holder->query_safe('COMMIT');
sql(q{SELECT event_store.append_event('Order', 'self5', NULL, 'x', durability => 'staged')});
is(sql(q{SELECT last_sequence >= 2 FROM event_store.append_event('Order', 'self5', NULL, 'y', durability => 'durable')}), 't',
	'a trigger that appends to the same aggregate');
ok(flush_all($node, 'shop'), 'all is drained');

# ---------- a trigger that catches everything

sql(q{CREATE FUNCTION careless() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM event_store.append_event('Journal', 'careless', NULL, 'Noted');
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;
CREATE TRIGGER careless AFTER INSERT ON event_store.domain_events
    FOR EACH ROW WHEN (NEW.aggregate_type = 'Careless') EXECUTE FUNCTION careless();});
$holder->query_safe(q{BEGIN; SELECT event_store.append_event('Journal', 'careless', NULL, 'Opened', durability => 'durable')});
sql(q{SELECT event_store.append_event('Careless', 'c-1', NULL, 'x', durability => 'staged')});
is(sql(q{SELECT event_store.flush('300ms')}), 'f', 'does not get its event drained without what it appends');
$holder->query_safe('COMMIT');
ok(flush_all($node, 'shop'), 'but when it can');
is(sql(q{SELECT event_store.aggregate_sequence('Journal', 'careless')}), 2, 'it is there');

# ---------- many at a time

sql(<<'SQL');
CREATE TABLE appended (client int, calls int, errors int, longest interval);
CREATE PROCEDURE work(client int, seconds int) LANGUAGE plpgsql AS $$
DECLARE
    calls int := 0;
    errors int := 0;
    longest interval := '0';
    until timestamptz := clock_timestamp() + seconds * interval '1 s';
    started timestamptz;
BEGIN
    WHILE clock_timestamp() < until LOOP
        started := clock_timestamp();
        BEGIN
            PERFORM event_store.append_event('Order', 'mixed-' || (random() * 40)::int || repeat('x', (random() * 3)::int), NULL, 'x',
                durability => CASE WHEN random() < 0.5 THEN 'staged' ELSE 'durable' END);
            calls := calls + 1;
        EXCEPTION WHEN OTHERS THEN
            errors := errors + 1;
            RAISE WARNING '% %', SQLSTATE, SQLERRM;
        END;
        COMMIT;
        longest := greatest(longest, clock_timestamp() - started);
    END LOOP;
    INSERT INTO appended VALUES (client, calls, errors, longest);
END
$$;
SQL
my $before = sql(q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'Order' AND aggregate_id LIKE 'mixed%'});
my @clients = map {
	my $out = '';
	IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('shop'), '-c', "CALL work($_, 10)" ], '>&', \$out)
} 1 .. 16;
$_->finish foreach @clients;
my $calls = sql('SELECT sum(calls) FROM appended');
note("$calls appends in 10 s; the longest took " . sql('SELECT max(longest) FROM appended'));
is(sql('SELECT count(*) FROM appended'), 16, 'all clients came to their end');
is(sql('SELECT sum(errors) FROM appended'), 0, 'without an error');
cmp_ok($calls, '>', 500, 'they get on');
cmp_ok(sql('SELECT extract(epoch FROM max(longest)) FROM appended'), '<', 5, 'nobody waits long');
ok(flush_all($node, 'shop'), 'all becomes durable');
ok($node->poll_query_until('shop', q{SELECT staged_events = 0 FROM event_store.staging_status}), 'what triggers staged, too');
is(sql(q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_id LIKE 'mixed%'}), $calls, 'every event is there');
is(sql(q{SELECT count(*) FROM event_store.domain_events WHERE event_type = 'Noted' AND aggregate_id <> 'careless'}),
	sql(q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'Order'}), 'with its entry in a journal');
is(sql('SELECT count(*) FROM event_store.dead_letters'), 0, 'no dead letters');
is(sql(q{SELECT count(*) FROM (SELECT FROM event_store.domain_events GROUP BY aggregate_type, aggregate_id
	HAVING min(sequence) <> 1 OR max(sequence) <> count(*)) broken}), 0, 'every aggregate is whole');
is(sql(q{SELECT value FROM event_store.metrics WHERE metric = 'worker.failures'}), 0, 'and no round failed');

$holder->quit;
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
