# Real input: the events of a municipality's permit intake go through
# append_batch in random chunks, durable and staged, and every case is proven
# against the CSV with plain SQL.

use strict;
use warnings;

use EventStoreTest;
use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

my $data = $ENV{EVENT_STORE_DATA} // "$FindBin::RealBin/../../../shared/data";
my $csv = "$data/receipt.csv";
plan skip_all => "$csv is not there; EVENT_STORE_DATA names another folder" unless -r $csv;

my $seed = $ENV{EVENT_STORE_SEED} // time;
srand $seed;
note "EVENT_STORE_SEED=$seed";

# what is staged waits for a flush or for a durable append to the same case
my $node = new_server('receipt', conf => "event_store.write_delay = '1h'\n");
$node->start;
create_store_in($node, 'receipt');
my $sql = sub { return $node->safe_psql('receipt', join("\n", @_)); };

# ---------- the input, numbered by the time that the events occurred

my @columns = map { "\"$_\" text" } split /,/, (split /\r?\n/, slurp_file($csv))[0];
$sql->(
	"CREATE TABLE receipt (line int GENERATED ALWAYS AS IDENTITY, " . join(', ', @columns) . ");",
	"\\copy receipt (" . join(', ', map { /^(".*") text$/ } @columns) . ") FROM '$csv' CSV HEADER",
	# Half of the payloads mention what is empty, as null: a merge forgets it.
	q{
CREATE TABLE expected AS
SELECT row_number() OVER (ORDER BY "time:timestamp"::timestamptz, line)::int AS n,
       row_number() OVER (PARTITION BY "case:concept:name" ORDER BY "time:timestamp"::timestamptz, line) AS sequence,
       "case:concept:name" AS aggregate_id, "concept:name" AS event_type,
       "time:timestamp"::timestamptz AS occurred_at, md5(line::text)::uuid AS event_id,
       CASE WHEN line % 2 = 0 THEN payload ELSE jsonb_strip_nulls(payload) END AS payload,
       jsonb_build_object('line', line) AS metadata
  FROM receipt r, LATERAL (SELECT to_jsonb(r) - ARRAY['line', 'case:concept:name', 'concept:name', 'time:timestamp'] AS payload) p;
ALTER TABLE expected ADD PRIMARY KEY (n);
CREATE TABLE result (n int, event_id uuid, sequence bigint, global_position bigint, outcome text, staged boolean);
CREATE TABLE changes AS
SELECT aggregate_id, sequence, key, value FROM expected, LATERAL jsonb_each(payload);
CREATE VIEW loaded AS
SELECT e.sequence, c.aggregate_id, e.event_type, e.occurred_at, e.event_id, e.payload, e.metadata, e.global_position
  FROM (SELECT DISTINCT aggregate_id FROM expected) c, LATERAL event_store.load_events('Permit', c.aggregate_id) e;
ANALYZE;
});
my ($events, $cases) = split /\|/, $sql->('SELECT count(*), count(DISTINCT aggregate_id) FROM expected;');
is($events, (scalar split /\r?\n/, slurp_file($csv)) - 1, 'every line of the CSV is expected');
is("$events $cases", '8577 1434', 'the input is the known one');

# ---------- appended in random chunks

sub append
{
	my ($from, $to, $durability, $expectation) = @_;

	return qq{
INSERT INTO result
SELECT $from - 1 + b.ordinal, b.event_id, b.sequence, b.global_position, b.outcome, '$durability' = 'staged'
  FROM (SELECT array_agg('Permit'::text) AS types, array_agg(aggregate_id ORDER BY n) AS ids,
               array_agg(event_type ORDER BY n) AS event_types, array_agg(payload ORDER BY n) AS payloads,
               array_agg($expectation ORDER BY n) AS expectations, array_agg(metadata ORDER BY n) AS metadata,
               array_agg(event_id ORDER BY n) AS event_ids, array_agg(occurred_at ORDER BY n) AS times
          FROM expected WHERE n BETWEEN $from AND $to) e,
       LATERAL event_store.append_batch(e.types, e.ids, e.event_types, e.payloads, e.expectations, e.metadata,
                                        e.event_ids, occurred_at => e.times, durability => '$durability') b;};
}

sub append_all
{
	my ($expectation) = @_;
	my %count = (durable => 0, staged => 0);
	my @script;
	my $from = 1;

	while ($from <= $events)
	{
		# mostly small, some large; the last chunk stays staged
		my $size = 1 + int(rand(rand() < 0.1 ? 1000 : 100));
		my $to = $from + $size - 1 < $events ? $from + $size - 1 : $events;
		my $durability = rand() < 0.5 && $to < $events ? 'durable' : 'staged';

		push @script, append($from, $to, $durability, $expectation);
		$count{$durability}++;
		$from = $to + 1;
	}
	my $last = pop @script;
	$sql->('TRUNCATE result;', @script);
	# a round that is under way, or asked for, would take the last one as well: this one comes after them
	$sql->(q{SELECT event_store.flush('10min');});
	$node->poll_query_until('receipt',
		q{SELECT drain_state IN ('idle', 'stopped') FROM event_store.staging_status})
	  or die 'the drain goes on';
	$sql->($last);
	note "$count{durable} durable and $count{staged} staged chunks";
	return;
}

append_all('sequence - 1');
is($sql->('SELECT outcome, count(*) FROM result GROUP BY 1;'), "appended|$events", 'every event was appended');
is($sql->('SELECT count(*) FROM result JOIN expected USING (n, sequence, event_id);'),
	$events, 'and reported with its sequence and event_id, in the order given');
is($sql->('SELECT count(*) FROM result WHERE staged = (global_position IS NULL);'),
	$events, 'durable ones with a position, staged ones without');
isnt($sql->('SELECT staged_events FROM event_store.staging_status;'), '0', 'some are still staged');

sub same_as_expected
{
	my ($source) = @_;
	my $columns = 'sequence, aggregate_id, event_type, occurred_at, event_id, payload, metadata';

	return $sql->("
SELECT (SELECT count(*) FROM (SELECT $columns FROM expected EXCEPT ALL SELECT $columns FROM $source) missing),
       (SELECT count(*) FROM (SELECT $columns FROM $source EXCEPT ALL SELECT $columns FROM expected) surplus);");
}

# The state after k events: of each key the last value, unless that is null.
sub same_states
{
	my ($k) = @_;

	return $sql->("
WITH ends AS (
    SELECT aggregate_id, $k AS k, max(sequence) AS total FROM expected GROUP BY aggregate_id),
last AS (
    SELECT DISTINCT ON (aggregate_id, key) aggregate_id, key, value
      FROM changes JOIN ends USING (aggregate_id) WHERE sequence <= k ORDER BY aggregate_id, key, sequence DESC),
states AS (
    SELECT e.aggregate_id, e.k, COALESCE(jsonb_object_agg(l.key, l.value) FILTER (WHERE l.value <> 'null'), '{}') AS state
      FROM ends e LEFT JOIN last l USING (aggregate_id) GROUP BY 1, 2)
SELECT count(*) FROM states s, LATERAL event_store.replay_aggregate('Permit', s.aggregate_id, s.k) r
 WHERE r.state = s.state AND r.sequence = s.k;");
}

is(same_as_expected('loaded'), '0|0', 'every case loads as it is in the CSV, staged or durable');
is(same_states('max(sequence)'), $cases, 'and replays to the last value of every key');

# ---------- made durable

is($sql->("SELECT event_store.flush('10min');"), 't', 'flushed');
is(same_as_expected('event_store.domain_events'), '0|0', 'the log has all events of the CSV, each once');
is(same_as_expected('loaded'), '0|0', 'and every case loads as before');
is($sql->('SELECT count(*) FROM loaded WHERE global_position IS NULL;'), '0', 'all durable');
is($sql->('SELECT count(DISTINCT global_position) FROM event_store.domain_events;'), $events, 'positions are unique');
is( $sql->('
SELECT count(*) FROM (SELECT global_position > lag(global_position, 1, 0::bigint) OVER w AS ordered,
                             recorded_at >= lag(recorded_at, 1, recorded_at) OVER w AS later
                        FROM event_store.domain_events
                      WINDOW w AS (PARTITION BY aggregate_id ORDER BY sequence)) e WHERE ordered AND later;'),
	$events, 'positions and times rise within every case');
is($sql->("SELECT count(*) FROM event_store.load_aggregate_ids('Permit');"), $cases, 'every case is listed');
is($sql->('SELECT count(*) FROM result r JOIN event_store.domain_events e USING (event_id)
            WHERE r.global_position IS DISTINCT FROM e.global_position AND NOT r.staged;'),
	'0', 'the positions reported are those in the log');
is(same_states('max(sequence)'), $cases, 'every case replays to the last value of every key');
is(same_states('1 + max(sequence) / 2'), $cases, 'and to those of its first half');

# ---------- the same again, in other chunks and with other expectations

append_all('NULLIF(n % 3, 2)');
is($sql->('SELECT outcome, count(*) FROM result GROUP BY 1;'), "duplicate|$events", 'all of it again is a duplicate');
is($sql->('SELECT count(*) FROM result r JOIN event_store.domain_events e USING (event_id, sequence, global_position);'),
	$events, 'reported with the original sequences and positions');
is($sql->('SELECT count(*) FROM event_store.domain_events;'), $events, 'and written once');
is($sql->('SELECT staged_events FROM event_store.staging_status;'), '0', 'nor staged');

$node->stop;
done_testing();
