# Upcasting, on the real log of a municipality's permit intake: a type that was renamed
# comes to its subscribers once, across a crash, and by the index; sessions that are at
# work hear of a change.

use strict;
use warnings;

use EventStoreTest;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $data = $ENV{EVENT_STORE_DATA} // "$FindBin::RealBin/../../../shared/data";
my $csv = "$data/receipt.csv";
plan skip_all => "$csv is not there; EVENT_STORE_DATA names another folder" unless -r $csv;

my $node = new_server('upcasting');
$node->start;
create_store_in($node, 'permits');

sub sql
{
	return $node->safe_psql('permits', join("\n", @_));
}

my @columns = map { "\"$_\" text" } split /,/, (split /\r?\n/, slurp_file($csv))[0];
sql("CREATE TABLE receipt (line int GENERATED ALWAYS AS IDENTITY, " . join(', ', @columns) . ");",
	"\\copy receipt (" . join(', ', map { /^(".*") text$/ } @columns) . ") FROM '$csv' CSV HEADER",
	q{
	SELECT event_store.create_store(event_type_index => true);
	SELECT count(*)
	  FROM (SELECT array_agg('Permit'::text) AS types, array_agg("case:concept:name" ORDER BY line) AS ids,
	               array_agg("concept:name" ORDER BY line) AS activities,
	               array_agg(jsonb_build_object('resource', "org:resource", 'task', "concept:instance") ORDER BY line) AS payloads
	          FROM receipt) e,
	       LATERAL event_store.append_batch(e.types, e.ids, e.activities, e.payloads) b;
	ANALYZE event_store.domain_events;
	});
my $old = 'T06 Determine necessity of stop advice';
my $written = sql("SELECT count(*) FROM event_store.domain_events WHERE event_type = '$old'");
cmp_ok($written, '>', 1000, 'the log has many events of the type');

# ---------- sessions at work hear of a change

my $reader = $node->background_psql('permits');
my $count = "SELECT count(*) FROM event_store.read_events(event_types => '{StopAdvice}', max_count => NULL);";
is($reader->query($count), '0', 'a session reads before there is an upcaster');
my $repeatable = $node->background_psql('permits');
$repeatable->query('BEGIN; SELECT 1;');
sql(qq{SELECT event_store.set_upcaster('$old', 1, rules => '{"event_type": "StopAdvice",
	"operations": [{"op": "set", "path": "\$.by", "from": "\$.payload.resource"}, {"op": "unset", "path": "\$.resource"}]}')});
is($reader->query($count), $written, 'it finds the events under the new name afterwards');
is($repeatable->query($count), $written, 'and so does one in an open transaction');
$repeatable->query('COMMIT;');
is(sql("SELECT count(*) FROM event_store.read_events(event_types => '{\"$old\"}', max_count => NULL)"), '0',
	'none is left under the old one');
is(sql("SELECT count(*) FROM event_store.domain_events WHERE event_type = '$old'"), $written, 'the log is as it was written');
is(sql(q{SELECT count(*) FROM event_store.read_events(event_types => '{StopAdvice}', max_count => NULL)
	WHERE schema_version = 2 AND payload ? 'by' AND NOT payload ? 'resource'}), $written, 'all have the shape of version 2');

# ---------- each comes once

sql(q{SELECT event_store.create_subscription('new', event_types => '{StopAdvice}', start_after => 0);},
	qq{SELECT event_store.create_subscription('old', event_types => '{"$old"}', start_after => 0);},
	'CREATE TABLE seen (name text, position bigint, PRIMARY KEY (name, position));');

# Takes batches of a subscription until none comes.
sub consume
{
	my ($name) = @_;
	my $stretches = 0;

	do
	{
		$stretches++;
		$name eq 'new' && $stretches == 5 and $node->stop('immediate') and $node->start and wait_for_server($node, 'permits');
	} while (sql("WITH taken AS (INSERT INTO seen SELECT '$name', global_position FROM event_store.next_events('$name', 100) RETURNING 1)
		SELECT count(*) FROM taken") > 0);
	return $stretches;
}
# some are appended while it is consumed, in the old shape and in the new one
sql(qq{SELECT event_store.append_event('Permit', 'late-' || i, 0, '$old', '{"resource": "late"}') FROM generate_series(1, 20) i;
	SELECT event_store.append_event('Permit', 'late-' || i, 1, 'StopAdvice', '{"by": "late"}', schema_version => 2) FROM generate_series(1, 20) i;});
$reader->quit;
$repeatable->quit;
consume('new');
consume('old');
is(sql("SELECT count(*) FROM seen WHERE name = 'new'"), $written + 40, 'a subscription to the new name gets each event once, across a crash');
is(sql(qq{SELECT count(*) FROM seen s JOIN event_store.domain_events e ON e.global_position = s.position
	WHERE e.event_type NOT IN ('$old', 'StopAdvice')}), '0', 'and no other');
is(sql("SELECT count(*) FROM seen WHERE name = 'old'"), '0', 'one to the old name gets none');

# ---------- the index serves

my ($few) = sql(q{EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF)
	SELECT * FROM event_store.read_events(event_types => '{Rare}', max_count => 10)}) =~ /shared hit=(\d+)/;
sql(q{SELECT event_store.set_upcaster('Common', 1, rules => '{"event_type": "Rare"}')});
my ($more) = sql(q{EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF)
	SELECT * FROM event_store.read_events(event_types => '{Rare}', max_count => 10)}) =~ /shared hit=(\d+)/;
my $blocks = sql("SELECT pg_relation_size('event_store.domain_events') / 8192");
cmp_ok($more, '<', $blocks / 2 + $few, 'of a rare type with a type that leads there not half of the log is read');

# one that has some events, under a name that none was written with
my ($seldom, $few_events) = split /\|/, sql('SELECT event_type, count(*) FROM event_store.domain_events GROUP BY 1 ORDER BY 2, 1 LIMIT 1');
sql(qq{SELECT event_store.set_upcaster('$seldom', 1, rules => '{"event_type": "Seldom"}')});
foreach my $archived (0, 1)
{
	sql(qq{SELECT event_store.archive_aggregate(aggregate_type, aggregate_id) FROM event_store.domain_events WHERE event_type = '$seldom' LIMIT 1}) if $archived;
	my $index = 'event_store.domain_events' . ($archived ? '_archive' : '') . '_event_type_idx';

	is(sql('BEGIN', q{; SELECT count(*) FROM event_store.read_events(event_types => '{Seldom}', max_count => NULL);},
			"SELECT pg_stat_get_xact_numscans('$index'::regclass) > 0; COMMIT"), "$few_events\nt",
		'events of the other name are found by ' . ($archived ? 'that of the archive as well' : 'the index of types'));
}

done_testing();
