# Inline views: whoever appends, however, a reader in one snapshot finds each of them to be the
# fold of the log in that snapshot, at every moment; paused and resumed, rebuilt and
# replaced under load, after a crash, too.

use strict;
use warnings;

use EventStoreTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('inline_views',
	conf => "restart_after_crash = on\nmax_worker_processes = 16\nevent_store.retry_initial = '10ms'\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', join("\n", @_));
}

# ---------- writers of all kinds

sql(<<'SQL');
CREATE TABLE running (client text PRIMARY KEY);
CREATE TABLE seen_less (what text);
CREATE TABLE looks (client text);
-- an event: who buys what stands in some only; the first of each order names the customer
CREATE FUNCTION event(n int) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'customer', CASE WHEN random() < 0.4 THEN 'c-' || (random() * 20)::int END, 'amount', (random() * 100)::int,
        'lines', (SELECT jsonb_agg(jsonb_build_object('sku', 's-' || (random() * 5)::int, 'n', i)) FROM generate_series(1, (random() * 3)::int) i)))
$$;
CREATE PROCEDURE work(client text, kind text) LANGUAGE plpgsql AS $$
DECLARE
    ids text[];
BEGIN
    INSERT INTO running VALUES (client);
    COMMIT;
    WHILE EXISTS (SELECT FROM running r WHERE r.client = work.client) LOOP
        ids := ARRAY(SELECT 'o-' || (random() * 60)::int FROM generate_series(1, 8));
        IF kind = 'batch' THEN
            PERFORM event_store.append_batch(array_fill('Order'::text, ARRAY[8]), ids, array_fill('Bought'::text, ARRAY[8]),
                                             ARRAY(SELECT event(n) FROM generate_series(1, 8) n));
        ELSE
            -- one call in a transaction: several can cross on rows
            IF kind = 'durable' THEN
                PERFORM event_store.append_events('Order', ids[1], NULL, (SELECT jsonb_agg(jsonb_build_object(
                    'event_type', (ARRAY['Bought', 'Noted'])[1 + n % 2], 'payload', event(n))) FROM generate_series(1, 3) n));
            ELSE
                PERFORM event_store.append_event('Order', ids[1], NULL, 'Bought', event(1), durability => kind);
            END IF;
        END IF;
        -- now and then in vain
        IF random() < 0.1 THEN
            ROLLBACK;
        ELSE
            COMMIT;
        END IF;
        PERFORM pg_sleep(0.002);
    END LOOP;
END
$$;
-- each inline view is the fold of the log, in the snapshot of one statement
CREATE VIEW differences AS
WITH x AS (
    SELECT 'customers' AS view_name, payload ->> 'customer' AS view_key, jsonb_build_object('amounts', jsonb_agg(payload -> 'amount' ORDER BY global_position)) AS view_data,
           max(global_position) AS version
      FROM event_store.domain_events WHERE event_type = 'Bought' AND payload ? 'customer' GROUP BY 2
    UNION ALL
    SELECT 'sold', l ->> 'sku', jsonb_build_object('n', sum((l ->> 'n')::int)), max(global_position)
      FROM event_store.domain_events, jsonb_array_elements(payload -> 'lines') l WHERE event_type = 'Bought' GROUP BY 2
    UNION ALL
    SELECT 'orders', aggregate_id, jsonb_build_object('amounts', jsonb_agg(payload -> 'amount' ORDER BY sequence)), max(sequence)
      FROM event_store.domain_events WHERE event_type = 'Bought' GROUP BY 2)
SELECT * FROM x FULL JOIN (SELECT * FROM event_store.domain_views WHERE view_name IN ('customers', 'sold', 'orders')) v USING (view_name, view_key, view_data, version)
 WHERE x.view_data IS NULL OR v.created_at IS NULL;
CREATE PROCEDURE watch(client text) LANGUAGE plpgsql AS $$
DECLARE
    n bigint := 0;
BEGIN
    INSERT INTO running VALUES (client);
    COMMIT;
    WHILE EXISTS (SELECT FROM running r WHERE r.client = watch.client) LOOP
        COMMIT;
        SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;
        INSERT INTO seen_less SELECT format('%s/%s', view_name, view_key) FROM differences;
        INSERT INTO looks VALUES (client);
        COMMIT;
    END LOOP;
END
$$;
SQL
my $amounts = q{'{"events": {"Bought": [{"op": "append", "path": "$.amounts", "from": "$.payload.amount"}]}}'};
sub create
{
	my ($name, $key, $rules) = @_;

	return sql(qq{SELECT event_store.create_view_projection('$name', '{Order}', $key, $rules, mode => 'inline')});
}
create('customers', q{'"$.payload.customer"'}, $amounts);
create('sold', q{'{"each": "$.payload.lines", "key": "$.item.sku"}'}, q{'{"events": {"Bought": [{"op": "increment", "path": "$.n", "from": "$.item.n"}]}}'});
create('orders', 'NULL', $amounts);
is(sql("SELECT string_agg(DISTINCT mode, ' ') FROM event_store.projection_status"), 'inline', 'where there are no events a view is inline at once');

my @clients;
my $number = 0;

sub start
{
	my ($call) = @_;
	my $name = 'k' . ++$number;
	my $client = { out => '' };

	$call =~ s/NAME/$name/;
	$client->{run} = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('shop'), '-c', "CALL $call" ],
		'<', '/dev/null', '>', \$client->{out}, '2>', \$client->{out});
	$node->poll_query_until('shop', "SELECT count(*) = 1 FROM running WHERE client = '$name'") or die $client->{out};
	push @clients, $client;
	return;
}

sub start_all
{
	start("work('NAME', '$_')") foreach qw(durable staged batch batch staged);
	start("watch('NAME')") foreach 1, 2;
	return;
}

sub end_all
{
	sql('DELETE FROM running');
	foreach my $client (@clients)
	{
		$client->{run}->finish;
		is($client->{out}, '', 'a client had no trouble');
	}
	@clients = ();
	return;
}

# Waits until so many events more are durable.
sub go_on
{
	my ($events) = @_;
	my $there = events_in($node, 'shop');

	return $node->poll_query_until('shop', "SELECT count(*) >= $there + $events FROM event_store.domain_events");
}

# A view is inline again.
sub inline
{
	my ($name) = @_;

	return $node->poll_query_until('shop', "SELECT mode = 'inline' FROM event_store.projection_status WHERE projection_name = '$name'");
}

sub check
{
	my ($when) = @_;

	is(sql('SELECT count(*) FROM differences'), '0', "$when: each view is the fold of the log");
	cmp_ok(sql(q{SELECT count(DISTINCT view_name) FROM event_store.domain_views}), '>=', 3, "$when: none is empty");
	is(sql('SELECT coalesce(max(what), count(what)::text) FROM seen_less'), '0', "$when: no reader has seen another one");
	cmp_ok(sql('SELECT count(*) FROM looks'), '>', 10, "$when: readers have looked");
	is(sql(q{SELECT count(*) FROM event_store.staging}), '0', "$when: nothing is staged");
	return;
}

start_all();
go_on(300);
# others come and go meanwhile: made while there are events, paused, resumed, replaced, dropped
create('late', q{'"$.payload.customer"'}, $amounts);
ok(inline('late'), 'a view that has caught up is inline');
foreach my $round (1 .. 3)
{
	sql(qq{SELECT event_store.pause_subscription('late')});
	go_on(60);
	is(sql(q{SELECT mode FROM event_store.projection_status WHERE projection_name = 'late'}), 'catching up', 'a view that is paused is left behind');
	sql(qq{SELECT event_store.resume_subscription('late')});
	ok(inline('late'), 'resumed, it catches up and is inline again');
	sql("SELECT event_store.rebuild_projection('$_')") foreach qw(late customers orders);
	go_on(60);
}
is(sql(q{SELECT count(*) FROM (SELECT view_key, view_data, version FROM event_store.domain_views WHERE view_name = 'late'
	EXCEPT SELECT view_key, view_data, version FROM event_store.domain_views WHERE view_name = 'customers') d}), '0', 'it is what the one that was always inline is');
sql(q{SELECT event_store.drop_projection('late')});
end_all();
check('writers, switches and rebuilds');

# an open append delays a switch, and no other append
my $open = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('shop') ], '<', \my $in, '>', \my $out);
$in = "BEGIN; SELECT count(*) FROM event_store.append_event('Other', 'x', NULL, 'E');\n";
$open->pump until $out =~ /1/;
create('behind', q{'"$.payload.customer"'}, $amounts);
ok($node->poll_query_until('shop', q{SELECT attempts > 0 FROM event_store.projection_status WHERE projection_name = 'behind'}), 'an open append delays a switch');
is(sql(q{SET statement_timeout = '5s'; SELECT count(event_store.append_event('Order', 'o-' || n, NULL, 'Bought', '{"customer": "c-3", "amount": 3}')) FROM generate_series(1, 20) n}), '20', '... and no other append');
$in = "COMMIT;\n\\q\n";
$open->finish;
ok(inline('behind'), 'it is inline once that has ended');
is(sql('SELECT count(*) FROM differences'), '0', 'all the same');

start_all();
go_on(200);
$node->stop('immediate');
$_->{run}->finish foreach @clients;
@clients = ();
$node->start;
sql('DELETE FROM running');
check('after a crash');
start_all();
go_on(100);
end_all();
check('and on');

# after a start, with no append since
sql(q{SELECT event_store.pause_subscription('behind')});
sql(q{SELECT event_store.append_event('Order', 'o-1', NULL, 'Bought', '{"customer": "c-3", "amount": 3}')});
$node->stop('immediate');
$node->start;
sql(q{SELECT event_store.resume_subscription('behind')});
ok(inline('behind'), 'a view that is resumed after a crash becomes inline, though nobody appends');
sql(q{SELECT event_store.pause_subscription('behind')});
sql(q{SELECT event_store.append_event('Order', 'o-1', NULL, 'Bought', '{"customer": "c-3", "amount": 4}')});
sql(q{SELECT event_store.resume_subscription('behind')});
ok(inline('behind'), 'and one that was paused then goes on');
is(sql(q{SELECT count(*) FROM (SELECT view_key, view_data, version FROM event_store.domain_views WHERE view_name = 'behind'
	EXCEPT SELECT view_key, view_data, version FROM event_store.domain_views WHERE view_name = 'customers') d}), '0', 'it is what the one that was always inline is');

# all of it in one transaction, as a migration does
$node->safe_psql('postgres', 'CREATE DATABASE migrated');
is($node->safe_psql('migrated', q{
	BEGIN;
	CREATE EXTENSION event_store;
	DO $$ BEGIN PERFORM event_store.create_store(), event_store.create_view_projection('sums', '{Order}', '"$.payload.customer"',
		'{"events": {"*": [{"op": "increment", "path": "$.sum", "from": "$.payload.amount"}]}}', mode => 'inline'); END $$;
	DO $$ BEGIN PERFORM event_store.append_event('Order', 'o-1', 0, 'Bought', '{"customer": "c-1", "amount": 2}'); END $$;
	COMMIT;
	SELECT view_data ->> 'sum' FROM event_store.load_views('sums');}), '2', 'a store, an inline view and an event can be made in one transaction');
$node->stop;
done_testing();
