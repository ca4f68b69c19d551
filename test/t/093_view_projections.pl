# View projections in the background: whoever writes, however, and whatever ends the projector or
# the server, a view is in the end the fold of the log, as independent SQL computes it; rebuilt
# while all this goes on, no reader sees less of it than before. On real data, too.

use strict;
use warnings;

use EventStoreTest;
use FindBin;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('view_projections',
	conf => "restart_after_crash = on\nmax_worker_processes = 16\nevent_store.retry_initial = '10ms'\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', join("\n", @_));
}

sub caught_up
{
	return $node->poll_query_until('shop',
		q{SELECT count(*) = 0 FROM event_store.projection_status WHERE lag_events > 0 OR state NOT IN ('idle', 'running')});
}

# ---------- writers of all kinds

sql(<<'SQL');
CREATE TABLE running (client text PRIMARY KEY);
-- writers go no further: what is written while the test does something else must not be more the slower the machine is
CREATE TABLE allowed AS SELECT 0::bigint AS position;
CREATE TABLE seen_less (what text);
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
        IF event_store.safe_position() > (SELECT position FROM allowed) THEN
            COMMIT;
            PERFORM pg_sleep(0.01);
            CONTINUE;
        END IF;
        ids := ARRAY(SELECT 'o-' || (random() * 60)::int FROM generate_series(1, 8));
        IF kind = 'batch' THEN
            PERFORM event_store.append_batch(array_fill('Order'::text, ARRAY[8]), ids, array_fill('Bought'::text, ARRAY[8]),
                                             ARRAY(SELECT event(n) FROM generate_series(1, 8) n));
        ELSE
            PERFORM event_store.append_event('Order', ids[1], NULL, (ARRAY['Bought', 'Noted'])[1 + n % 2], event(n), durability => kind)
               FROM generate_series(1, 3) n;
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
-- what is in a view never becomes less, whatever is rebuilt
CREATE PROCEDURE watch(client text) LANGUAGE plpgsql AS $$
DECLARE
    before bigint := 0;
    now bigint;
BEGIN
    INSERT INTO running VALUES (client);
    COMMIT;
    WHILE EXISTS (SELECT FROM running r WHERE r.client = watch.client) LOOP
        SELECT sum(jsonb_array_length(view_data -> 'amounts')) INTO now FROM event_store.domain_views WHERE view_name = 'customers';
        IF now < before THEN
            INSERT INTO seen_less VALUES (format('%s after %s', now, before));
        END IF;
        before := now;
        COMMIT;
    END LOOP;
END
$$;
SQL
my $amounts = q{'{"events": {"Bought": [{"op": "append", "path": "$.amounts", "from": "$.payload.amount"}]}}'};
sql(qq{
	SELECT event_store.create_view_projection('customers', '{Order}', '"\$.payload.customer"', $amounts, members => 3);
	SELECT event_store.create_view_projection('sticky', '{Order}', '{"sticky": "\$.payload.customer"}', $amounts, batch_size => 7);
	SELECT event_store.create_view_projection('moves', '{Order}', '{"concat": [{"sticky": "\$.payload.customer"}, {"value": "/"}, "\$.aggregate_id"]}', $amounts);
	SELECT event_store.create_view_projection('sold', '{Order}', '{"each": "\$.payload.lines", "key": "\$.item.sku"}',
	    '{"events": {"Bought": [{"op": "increment", "path": "\$.n", "from": "\$.item.n"}]}}');
	SELECT event_store.create_view_projection('states', '{Order}');
});

# The same folds, by SQL that knows nothing of projections: the rows that differ.
my $expected = <<'SQL';
WITH e AS (
    SELECT *, last_value(customer) OVER w AS at_last FROM (
        SELECT *, max(given) OVER (PARTITION BY aggregate_id ORDER BY sequence) AS since FROM (
            SELECT *, payload ->> 'customer' AS own, CASE WHEN payload ->> 'customer' IS NOT NULL THEN sequence END AS given
              FROM event_store.domain_events WHERE aggregate_type = 'Order') a) b,
        LATERAL (SELECT p.payload ->> 'customer' AS customer FROM event_store.domain_events p
                  WHERE p.aggregate_type = 'Order' AND p.aggregate_id = b.aggregate_id AND p.sequence = b.since) c
    WINDOW w AS (PARTITION BY aggregate_id ORDER BY sequence ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)),
x AS (
    SELECT 'customers' AS view_name, own AS view_key, jsonb_build_object('amounts', jsonb_agg(payload -> 'amount' ORDER BY global_position)) AS view_data,
           max(global_position) AS version
      FROM e WHERE event_type = 'Bought' AND own IS NOT NULL GROUP BY own
    UNION ALL
    SELECT 'sticky', customer, jsonb_build_object('amounts', jsonb_agg(payload -> 'amount' ORDER BY global_position)), max(global_position)
      FROM e WHERE event_type = 'Bought' GROUP BY customer
    UNION ALL
    SELECT 'sold', l ->> 'sku', jsonb_build_object('n', sum((l ->> 'n')::int)), max(global_position)
      FROM e, jsonb_array_elements(payload -> 'lines') l WHERE event_type = 'Bought' GROUP BY 2
    UNION ALL
    SELECT 'moves', at_last || '/' || aggregate_id, jsonb_build_object('amounts', jsonb_agg(payload -> 'amount' ORDER BY global_position)), NULL
      FROM e WHERE event_type = 'Bought' GROUP BY at_last, aggregate_id
    UNION ALL
    SELECT 'states', aggregate_id, (event_store.replay_aggregate('Order', aggregate_id)).state, max(sequence) FROM e GROUP BY aggregate_id)
SELECT count(*) FROM (
    (SELECT view_name, view_key, view_data, version FROM x
     EXCEPT SELECT view_name, view_key, view_data, CASE WHEN view_name <> 'moves' THEN version END FROM event_store.domain_views)
    UNION ALL
    (SELECT view_name, view_key, view_data, CASE WHEN view_name <> 'moves' THEN version END FROM event_store.domain_views
     EXCEPT SELECT view_name, view_key, view_data, version FROM x)) d
SQL
# lateral on a NULL sequence drops events before the first customer, which are in no row
my $states_of_none = q{SELECT count(*) FROM event_store.domain_views v WHERE view_name = 'states'
	AND NOT EXISTS (SELECT FROM event_store.domain_events e WHERE e.aggregate_id = v.view_key AND e.payload ? 'customer')};

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
	start("watch('NAME')");
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

	sql("UPDATE allowed SET position = event_store.safe_position() + $events + 2000");
	return $node->poll_query_until('shop', "SELECT count(*) >= $there + $events FROM event_store.domain_events");
}

sub check
{
	my ($when) = @_;

	ok(flush_all($node, 'shop'), "$when: all becomes durable");
	ok(caught_up(), "$when: all projections catch up");
	is(sql($states_of_none), '0', "$when: each order has named a customer");
	is(sql($expected), '0', "$when: each view is the fold of the log");
	cmp_ok(sql(q{SELECT count(DISTINCT view_name) FROM event_store.domain_views}), '==', 5, "$when: none is empty");
	is(sql('SELECT count(*) FROM seen_less'), '0', "$when: no reader has seen less than before");
	return;
}

# each order names a customer first, so that none is in no row
sql(q{SELECT count(event_store.append_event('Order', 'o-' || n, NULL, 'Bought', '{"customer": "c-1", "amount": 1}')) FROM generate_series(0, 60) n});
start_all();
go_on(300);
foreach my $round (1 .. 4)
{
	sql(q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'event_store projector'});
	go_on(150);
	sql("SELECT event_store.rebuild_projection('$_')") foreach qw(customers moves);
	sql("SELECT event_store.rebuild_projection_step('sticky', 100)");
	go_on(100);
}
end_all();
check('writers and rebuilds');

start_all();
go_on(300);
sql("SELECT event_store.rebuild_projection_step('sold', 100)");
$node->stop('immediate');
$_->{run}->finish foreach @clients;
@clients = ();
$node->start;
sql('DELETE FROM running');
check('after a crash');
is(sql(q{SELECT rebuild_done > 0 FROM event_store.projection_status WHERE projection_name = 'sold'}), 't', 'a rebuild goes on from its last step');
sql("SELECT event_store.rebuild_projection_step('sold', 1000000)");
sql("SELECT event_store.rebuild_projection_step('sticky', 1000000)");
sql("SELECT event_store.rebuild_projection('$_')") foreach qw(customers states moves);
check('rebuilt');

# ---------- real data: by department, across cases

my $csv = ($ENV{EVENT_STORE_DATA} // "$FindBin::RealBin/../../../shared/data") . '/receipt.csv';
SKIP:
{
	skip "$csv is not there", 2 unless -r $csv;
	my @columns = map { "\"$_\" text" } split /,/, (split /\r?\n/, slurp_file($csv))[0];

	sql("CREATE TABLE receipt (line int GENERATED ALWAYS AS IDENTITY, " . join(', ', @columns) . ");",
		"\\copy receipt (" . join(', ', map { /^(".*") text$/ } @columns) . ") FROM '$csv' CSV HEADER",
		q{
		SELECT event_store.create_view_projection('departments', '{Permit}', '"$.payload.department"', '{"events": {"*": [
		    {"op": "increment", "path": "$.events", "value": 1}, {"op": "append", "path": "$.cases", "from": "$.aggregate_id"},
		    {"op": "max", "path": "$.last", "from": "$.payload.line"}, {"op": "set_once", "path": "$.first", "from": "$.payload.line"}]}}', members => 2);
		SELECT count(*) FROM (SELECT event_store.append_batch(array_agg('Permit'::text), array_agg("case:concept:name" ORDER BY line), array_agg("concept:name" ORDER BY line),
		           array_agg(jsonb_build_object('department', "case:department", 'line', line) ORDER BY line),
		           durability => CASE WHEN line / 97 % 3 = 0 THEN 'durable' ELSE 'staged' END)
		  FROM receipt GROUP BY line / 97 ORDER BY line / 97) b;});
	flush_all($node, 'shop');
	ok(caught_up(), 'receipt.csv: the projection catches up');
	is(sql(q{
		WITH x AS (
		    SELECT "case:department" AS view_key, jsonb_build_object('events', count(*), 'cases', jsonb_agg("case:concept:name" ORDER BY global_position),
		               'last', max(line), 'first', (array_agg(line ORDER BY global_position))[1]) AS view_data
		      FROM receipt r JOIN event_store.domain_events e ON e.aggregate_type = 'Permit' AND (e.payload ->> 'line')::int = r.line
		     GROUP BY 1)
		SELECT count(*) > 1 AND bool_and(x.view_data = v.view_data) FROM x FULL JOIN (SELECT * FROM event_store.domain_views WHERE view_name = 'departments') v USING (view_key)}),
		't', 'receipt.csv: by department across cases it equals plain SQL over the CSV');
}
$node->stop;
done_testing();
