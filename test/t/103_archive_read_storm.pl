# Readers of all kinds while aggregates are archived, wholly or in part, and restored, and
# writers go on: each finds events 1 to n of an aggregate, never none and none twice, at
# READ COMMITTED and REPEATABLE READ; a reader of the feed and a subscription have each event
# once.
#
#   ARCHIVE_SECONDS=600 makes it a long one.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('archive_storm',
	conf => "event_store.write_delay = '20ms'\nmax_connections = 60\nsynchronous_commit = off\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

# What a reader finds wrong it notes in "faults".
sql(q{
	CREATE TABLE faults (what text, detail text);
	CREATE TABLE seen (global_position bigint);
	CREATE TABLE moves (kind int);
	SELECT event_store.set_reducer_rules('S', '{"events": {"Added": [{"op": "increment", "path": "$.n", "value": 1}]}}'),
	       event_store.create_subscription('all');
	SELECT count(event_store.append_event('S', 's-' || n % 20, NULL, 'Added', '{}')) FROM generate_series(0, 399) n;

	CREATE FUNCTION note(found boolean, what text, detail text) RETURNS void LANGUAGE sql AS
	$$ INSERT INTO faults SELECT what, detail WHERE found IS DISTINCT FROM false $$;

	CREATE FUNCTION look_at_one(id text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
	    loaded record;
	    last record;
	    folded record;
	    info record;
	BEGIN
	    SELECT count(*) AS n, min(sequence) AS first, max(sequence) AS last INTO loaded FROM event_store.load_events('S', id);
	    PERFORM note(loaded.n < 20 OR loaded.first <> 1 OR loaded.last <> loaded.n, 'load_events', id || loaded::text);
	    SELECT count(*) AS n, min(sequence) AS first, max(sequence) AS last INTO last FROM event_store.load_events('S', id, backward => true, max_count => 15);
	    PERFORM note(last.n <> 15 OR last.last - last.first <> 14 OR last.last < loaded.last, 'backward', id || last::text);
	    SELECT (state -> 'n')::int AS n, sequence INTO folded FROM event_store.replay_aggregate('S', id);
	    PERFORM note(folded.n <> folded.sequence OR folded.sequence < last.last, 'replay_aggregate', id || folded::text);
	    SELECT * INTO info FROM event_store.aggregate_info('S', id);
	    PERFORM note(info.event_count <> info.last_sequence OR info.first_sequence <> 1 OR info.event_count < folded.sequence, 'aggregate_info', id || info::text);
	    PERFORM note(event_store.aggregate_sequence('S', id) < info.last_sequence, 'aggregate_sequence', id);
	END $$;

	CREATE FUNCTION look_at_all() RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
	    feed record;
	BEGIN
	    WITH e AS MATERIALIZED (SELECT * FROM event_store.read_events(0, 1000000))
	    SELECT count(*) AS n, count(DISTINCT event_id) AS events,
	           (SELECT count(*) FROM (SELECT FROM e GROUP BY aggregate_id HAVING count(*) <> max(sequence)) w) AS torn INTO feed FROM e;
	    PERFORM note(feed.n <> feed.events OR feed.n < 400 OR feed.torn > 0, 'read_events', feed::text);
	    PERFORM note(count(*) <> 20 OR bool_or((state -> 'n')::int <> sequence), 'replay_aggregates', count(*)::text) FROM event_store.replay_aggregates('S');
	    PERFORM note(count(*) <> 20, 'load_aggregate_ids', count(*)::text) FROM event_store.load_aggregate_ids('S');
	END $$;

	-- what is refused to who moves, as an archive twice, is none of the readers' faults
	CREATE FUNCTION move(id text, k int) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
	    IF k % 4 = 0 THEN
	        PERFORM event_store.archive_aggregate('S', id);
	    ELSIF k % 4 = 1 THEN
	        PERFORM event_store.archive_aggregate('S', id, 2 + k % 17);
	    ELSE
	        PERFORM event_store.restore_aggregate('S', id);
	    END IF;
	    INSERT INTO moves VALUES (k % 4);
	EXCEPTION WHEN OTHERS THEN
	    NULL;
	END $$;

	CREATE FUNCTION append(id text, staged boolean) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
	    PERFORM event_store.append_event('S', id, NULL, 'Added', '{}', durability => CASE WHEN staged THEN 'staged' ELSE 'durable' END);
	EXCEPTION WHEN SQLSTATE 'VS005' THEN
	    NULL;
	END $$;
});

my $seconds = $ENV{ARCHIVE_SECONDS} // 10;
my $one = '\set n random(0, 19)';

$node->pgbench("--no-vacuum --client=24 --jobs=2 --time=$seconds --max-tries=1000", 0, [qr/actually processed/], [qr/^$|pgbench/],
	'readers, writers and who moves',
	{
		'one@6' => "$one\nSELECT look_at_one('s-' || :n);",
		'repeatable@4' => "$one\nBEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT look_at_one('s-' || :n);\nSELECT look_at_one('s-' || :n);\nCOMMIT;",
		'all@2' => 'SELECT look_at_all();',
		'move@5' => "$one\n\\set k random(0, 99)\nSELECT move('s-' || :n, :k);",
		'append@4' => "$one\n\\set s random(0, 2)\nSELECT append('s-' || :n, :s = 0);",
		'consume@2' => "INSERT INTO seen SELECT global_position FROM event_store.next_events('all', 50);" },
	'shop');
is(sql(q{SELECT what || ': ' || min(detail) FROM faults GROUP BY what}), '', 'every reader found every event once');
is(sql(q{SELECT string_agg(DISTINCT kind::text, ' ' ORDER BY kind::text) FROM moves}), '0 1 2 3', 'while events were archived, in part too, and restored');
ok(flush_all($node, 'shop'), 'what is staged becomes durable');
sql(q{INSERT INTO seen SELECT global_position FROM event_store.next_events('all', 10000)}) foreach 1 .. 5;
is(sql(q{SELECT count(*) = count(DISTINCT s.global_position) AND count(*) = (SELECT count(*) FROM event_store.all_events)
	FROM seen s JOIN event_store.all_events e USING (global_position)}), 't', 'and the subscription has had each event once');
is(sql(q{SELECT count(*) FROM (SELECT FROM event_store.all_events GROUP BY event_id HAVING count(*) > 1) t}), '0', 'no event stands in both tables');
$node->stop;
done_testing();
