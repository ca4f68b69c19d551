# Real input folded by rules: the state of every case of a municipality's
# permit intake, after every single event, against plain SQL over the CSV.

use strict;
use warnings;

use EventStoreTest;
use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

my $data = $ENV{EVENT_STORE_DATA} // "$FindBin::RealBin/../../../shared/data";
my $csv = "$data/receipt.csv";
plan skip_all => "$csv is not there; EVENT_STORE_DATA names another folder" unless -r $csv;

# what is staged stays so: the replay reads it where it is
my $node = new_server('receipt_rules', conf => "event_store.write_delay = '1h'\nevent_store.snapshot_every = 0\n");
$node->start;
create_store_in($node, 'receipt');
my $sql = sub { return $node->safe_psql('receipt', join("\n", @_)); };

# ---------- the input, with a price and a weight made of the line's number

my @columns = map { "\"$_\" text" } split /,/, (split /\r?\n/, slurp_file($csv))[0];
$sql->(
	"CREATE TABLE receipt (line int GENERATED ALWAYS AS IDENTITY, " . join(', ', @columns) . ");",
	"\\copy receipt (" . join(', ', map { /^(".*") text$/ } @columns) . ") FROM '$csv' CSV HEADER",
	q{
CREATE TABLE input AS
SELECT row_number() OVER (ORDER BY "time:timestamp"::timestamptz, line)::int AS n,
       row_number() OVER (PARTITION BY "case:concept:name" ORDER BY "time:timestamp"::timestamptz, line) AS sequence,
       "case:concept:name" AS id, "concept:name" AS activity, "time:timestamp"::timestamptz AS occurred_at,
       "org:resource" AS resource, "concept:instance" AS task, "case:channel" AS channel,
       ((line * 37 % 10000) / 100.0)::numeric(10, 2) AS cost, line % 5 AS weight,
       -- half of them mention what is empty, as null: a merge forgets it
       CASE WHEN line % 2 = 0 THEN attributes ELSE jsonb_strip_nulls(attributes) END AS attributes
  FROM receipt, LATERAL (
       SELECT jsonb_build_object('group', "case:group", 'ended', "case:enddate", 'performer', "org:group",
                                 'responsible', "case:responsible", 'line', CASE WHEN line % 3 > 0 THEN line END) AS attributes) a;
ALTER TABLE input ADD PRIMARY KEY (n), ADD UNIQUE (id, sequence);
ANALYZE input;
CREATE FUNCTION append(first int, last int, durability text) RETURNS bigint
BEGIN ATOMIC
    SELECT count(*)
      FROM (SELECT array_agg('Permit'::text) AS types, array_agg(id ORDER BY n) AS ids,
                   array_agg(activity ORDER BY n) AS activities, array_agg(occurred_at ORDER BY n) AS times,
                   array_agg(jsonb_build_object('resource', resource, 'task', task, 'channel', channel,
                                                'cost', cost::text, 'weight', weight, 'attributes', attributes,
                                                'entry', jsonb_build_object('resource', resource, 'task', task)) ORDER BY n) AS payloads
              FROM input WHERE n BETWEEN first AND last) e,
           LATERAL event_store.append_batch(e.types, e.ids, e.activities, e.payloads, occurred_at => e.times,
                                            durability => append.durability) b
     WHERE b.outcome = 'appended';
END;
});
my ($events, $cases) = split /\|/, $sql->('SELECT count(*), count(DISTINCT id) FROM input;');
is("$events $cases", '8577 1434', 'the input is the known one');

# ---------- the rules: what all activities do, then what some do besides

$sql->(q{
SELECT event_store.set_reducer_rules('Permit', jsonb_build_object(
    'unknown', 'error',
    'initial', '{"work": []}'::jsonb,
    'events', (SELECT jsonb_object_agg(activity, '[
        {"op": "set", "path": "$.channel", "from": "$.payload.channel"},
        {"op": "set", "path": "$.last.resource", "from": "$.payload.resource"},
        {"op": "set", "path": "$.last.at", "from": "$.occurred_at"},
        {"op": "increment", "path": "$.activities", "key": "$.event_type", "value": 1},
        {"op": "increment", "path": "$.cost", "from": "$.payload.cost"},
        {"op": "increment", "path": "$.debt", "from": "$.payload.cost", "times": ["$.payload.weight", -1]},
        {"op": "append", "path": "$.tasks", "from": "$.payload.task"},
        {"op": "append", "path": "$.work", "from": "$.payload.entry"},
        {"op": "put_into", "path": "$.resources", "key": "$.payload.resource", "from": "$.payload.entry"},
        {"op": "merge", "path": "$.attributes", "from": "$.payload.attributes"}]'::jsonb || CASE
            WHEN activity = 'Confirmation of receipt' THEN '[
                {"op": "set", "path": "$.confirmed", "value": {"confirmed": true}}]'::jsonb
            WHEN activity LIKE 'T05%' THEN '[
                {"op": "append", "path": "$.sent", "from": "$.sequence"}]'
            WHEN activity LIKE 'T06%' THEN '[
                {"op": "remove", "path": "$.work", "member": "resource", "from": "$.payload.resource"}]'
            WHEN activity LIKE 'T10%' THEN '[
                {"op": "unset", "path": "$.attributes"},
                {"op": "unset", "path": "$.resources", "key": "$.payload.resource"},
                {"op": "remove", "path": "$.sent", "value": 4}]'
            ELSE '[]' END)
        FROM (SELECT DISTINCT activity FROM input) a) || '{"*": [
            {"op": "set_once", "path": "$.first", "from": "$.payload.resource"},
            {"op": "min", "path": "$.cheapest", "from": "$.payload.cost"},
            {"op": "max", "path": "$.highest.task", "from": "$.payload.task"},
            {"op": "increment", "path": "$.costly", "value": 1, "when": {"path": "$.payload.cost", "greater": "49.995"}},
            {"op": "increment", "path": "$.near", "from": "$.payload.weight", "when": [
                {"path": "$.payload.channel", "in": ["Internet", "Desk"]}, {"path": "$.payload.attributes.line", "exists": true},
                {"path": "$.payload.attributes.line", "is_not": null}, {"path": "$.payload.task", "less": "task-44"}]}]}'::jsonb));
});

# ---------- what plain SQL says of every case at every sequence

$sql->(q{
SET timezone = 'UTC';
CREATE TABLE expected AS
SELECT k.id, k.sequence, jsonb_build_object(
           'channel', k.channel,
           'last', jsonb_build_object('resource', k.resource, 'at', k.occurred_at),
           'activities', (SELECT jsonb_object_agg(activity, c) FROM (
               SELECT activity, count(*) AS c FROM input i WHERE i.id = k.id AND i.sequence <= k.sequence GROUP BY 1) x),
           'cost', sum(i.cost)::text,
           'debt', (-sum(i.cost * i.weight))::text,
           'first', (array_agg(i.resource ORDER BY i.sequence))[1],
           'cheapest', min(i.cost)::text,
           'highest', jsonb_build_object('task', max(i.task COLLATE "C")),
           'tasks', jsonb_agg(i.task ORDER BY i.sequence),
           'work', coalesce(jsonb_agg(jsonb_build_object('resource', i.resource, 'task', i.task) ORDER BY i.sequence)
                            FILTER (WHERE NOT EXISTS (
               SELECT FROM input r WHERE r.id = i.id AND r.resource = i.resource AND r.activity LIKE 'T06%'
                                     AND r.sequence BETWEEN i.sequence AND k.sequence)), '[]'),
           'resources', coalesce((SELECT jsonb_object_agg(resource, jsonb_build_object('resource', resource, 'task', task)) FROM (
               SELECT DISTINCT ON (resource) * FROM input i WHERE i.id = k.id AND i.sequence <= k.sequence
                ORDER BY resource, sequence DESC) l WHERE activity NOT LIKE 'T10%'), '{}'))
       || jsonb_strip_nulls(jsonb_build_object(
           'costly', nullif(count(*) FILTER (WHERE i.cost > 49.995), 0),
           'near', sum(i.weight) FILTER (WHERE i.channel IN ('Internet', 'Desk') AND i.attributes ->> 'line' IS NOT NULL AND i.task < 'task-44' COLLATE "C")))
       || CASE WHEN bool_or(i.activity = 'Confirmation of receipt') THEN '{"confirmed": {"confirmed": true}}'::jsonb ELSE '{}' END
       || coalesce((SELECT jsonb_build_object('sent', coalesce(jsonb_agg(sequence ORDER BY sequence) FILTER (
                               WHERE NOT (sequence = 4 AND EXISTS (SELECT FROM input r WHERE r.id = k.id AND r.activity LIKE 'T10%'
                                                                      AND r.sequence BETWEEN 5 AND k.sequence))), '[]'))
                      FROM input i WHERE i.id = k.id AND i.sequence <= k.sequence AND activity LIKE 'T05%' HAVING count(*) > 0), '{}')
       || CASE WHEN k.activity LIKE 'T10%' THEN '{}'
               ELSE jsonb_build_object('attributes', coalesce((
                   SELECT jsonb_object_agg(key, value) FILTER (WHERE value <> 'null') FROM (
                       SELECT DISTINCT ON (key) key, value FROM input i, LATERAL jsonb_each(attributes)
                        WHERE i.id = k.id AND i.sequence <= k.sequence
                          AND i.sequence > ALL (SELECT r.sequence FROM input r WHERE r.id = k.id AND r.activity LIKE 'T10%'
                                                                                 AND r.sequence <= k.sequence)
                        ORDER BY key, i.sequence DESC) a), '{}')) END AS state
  FROM input k JOIN input i ON i.id = k.id AND i.sequence <= k.sequence
 GROUP BY k.n;
ALTER TABLE expected ADD PRIMARY KEY (id, sequence);
});
is($sql->('SELECT count(*), count(DISTINCT state) > 8500 FROM expected;'), "$events|t", 'SQL computes a state for every event');
is( $sql->(q{SELECT bool_and(n > 0) FROM (
        SELECT count(*) AS n FROM expected WHERE state ? 'sent' AND state -> 'sent' = '[]'
        UNION ALL SELECT count(*) FROM expected WHERE state -> 'resources' = '{}'
        UNION ALL SELECT count(*) FROM expected WHERE state -> 'work' <> '[]' AND jsonb_array_length(state -> 'work') < sequence
        UNION ALL SELECT count(*) FROM expected WHERE NOT state ? 'attributes'
        UNION ALL SELECT count(*) FROM expected WHERE state -> 'attributes' ? 'group'
        UNION ALL SELECT count(*) FROM expected WHERE NOT state -> 'attributes' ? 'group') x;}),
	't', 'and every operation leaves something to see');

# ---------- replayed

# How many states differ, to the last digit of their text, and of how many.
my $differences = q{
SET timezone = 'Asia/Kolkata';
SELECT count(*) FILTER (WHERE r.state::text IS DISTINCT FROM e.state::text OR r.sequence <> e.sequence), count(*)
  FROM expected e, LATERAL event_store.replay_aggregate('Permit', e.id, e.sequence) r
 WHERE (e.id, e.sequence) IN (SELECT aggregate_id, sequence FROM loaded);};

$sql->(q{
CREATE VIEW loaded AS
SELECT e.aggregate_id, e.sequence
  FROM (SELECT DISTINCT id FROM input) c, LATERAL event_store.load_events('Permit', c.id) e;});
is($sql->("SELECT append(1, 4000, 'durable');"), '4000', 'some events are durable');
is($sql->($differences), '0|4000', 'the state after each of them is what SQL computes');
is( $sql->(q{SELECT count(*) > 500 AND bool_and(event_store.take_snapshot('Permit', id)) FROM (
                 SELECT DISTINCT id FROM input WHERE n <= 4000) i;}),
	't', 'snapshots are taken');
is($sql->("SELECT append(4001, 7000, 'durable');"), '3000', 'more are durable');
is($sql->("SELECT append(7001, $events, 'staged');"), $events - 7000, 'the rest is staged');
is($sql->($differences), "0|$events",
	'the state of every case after every event is what SQL computes, from snapshots and staged events too');
is( $sql->(q{
SELECT count(*) FROM event_store.replay_aggregates('Permit') r
  JOIN (SELECT DISTINCT ON (id) * FROM expected ORDER BY id, sequence DESC) e ON e.id = r.aggregate_id
 WHERE r.state::text = e.state::text AND r.sequence = e.sequence;}),
	$cases, 'and so it is for all cases in one scan');

$node->stop;
done_testing();
