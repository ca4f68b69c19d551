# Retention waits for nobody: who holds an aggregate, a row, a table or the setting itself holds up neither due events
# nor other types, and when he lets go it goes on.  A stop of any kind in the middle loses and repeats nothing.
# What it has done is counted.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('retention', conf => "max_worker_processes = 16\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub poll
{
	return $node->poll_query_until('shop', $_[0]);
}

# Events of a type, of some aggregates, that were recorded two years ago; the last ones come in the order of the aggregates.
sub write_old
{
	my ($type, $aggregates, $events) = @_;

	sql(qq{INSERT INTO event_store.domain_events (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at)
	       SELECT nextval('old'), '$type', 'o-' || a, s, gen_random_uuid(), 'Placed', '{"n": 1}', now() - interval '2 years', now() - interval '2 years'
	         FROM generate_series(1, $events) s, generate_series(1, $aggregates) a});
	return;
}

sub closed
{
	my ($type) = @_;

	return sql("SELECT count(*) FROM event_store.closed_aggregates WHERE aggregate_type = '$type'");
}

sub wait_for_closed
{
	my ($type, $count, $state) = @_;

	$state //= 'archived';
	return poll("SELECT count(*) = $count FROM event_store.closed_aggregates WHERE aggregate_type = '$type' AND state = '$state'");
}

# Each event of a type is there once, its sequences without a hole.
sub whole
{
	my ($type, $aggregates, $events) = @_;

	return sql(qq{SELECT count(*), bool_and(sequences = ARRAY(SELECT generate_series(1, $events)::bigint))
	                FROM (SELECT array_agg(sequence ORDER BY sequence) AS sequences FROM event_store.all_events
	                       WHERE aggregate_type = '$type' GROUP BY aggregate_id) a}) eq "$aggregates|t";
}

my $due = 0;

# What is due meanwhile is appended, by the same process.
sub others_go_on
{
	my ($while) = @_;

	$due++;
	sql("SELECT event_store.schedule_event(now(), 'Due', 'd-$due', 'Rang')");
	ok(poll("SELECT event_store.aggregate_sequence('Due', 'd-$due') = 1"), "what is due is appended while $while");
	return;
}

sql('CREATE SEQUENCE old');

# ---------- somebody holds something

my @held = (
	[ 'somebody has locked a row of the log', q{SELECT FROM event_store.domain_events WHERE aggregate_type = '%s' AND aggregate_id = 'o-3' FOR UPDATE} ],
	[ 'a reference to an event is not committed yet', q{INSERT INTO reference SELECT event_id FROM event_store.domain_events
		WHERE aggregate_type = '%s' AND aggregate_id = 'o-3' LIMIT 1} ],
	[ 'somebody appends to an aggregate', q{SELECT event_store.append_event('%s', 'o-3', NULL, 'Placed')} ]);

sql('CREATE TABLE reference (event_id uuid REFERENCES event_store.domain_events (event_id))');
foreach my $case (0 .. $#held)
{
	my ($while, $statement) = @{ $held[$case] };
	my $session = $node->background_psql('shop');
	my $type = "Held-$case";

	write_old($type, 5, 3);
	$session->query_safe('BEGIN');
	$session->query_safe(sprintf $statement, $type);
	sql("SELECT event_store.set_retention('$type', '1 year')");
	ok(wait_for_closed($type, 2), "two go before what is held: $while");
	others_go_on($while);
	write_old("Free-$case", 5, 3);
	sql("SELECT event_store.set_retention('Free-$case', '1 year')");
	ok(wait_for_closed("Free-$case", 5), 'and another type goes');
	is(closed($type), '2', 'the rest has not gone');
	$session->query_safe('ROLLBACK');
	$session->quit;
	ok(wait_for_closed($type, 5), 'when it is let go of, it is archived');
	ok(whole($type, 5, 3), 'as a whole');
}
sql('DROP TABLE reference');

# somebody is just changing what is wanted of a type
my $session = $node->background_psql('shop');

write_old('Changed', 5, 3);
write_old('Unchanged', 5, 3);
sql(q{SELECT event_store.set_retention('Changed', '10 years')});
$session->query_safe(q{BEGIN; SELECT event_store.set_retention('Changed', '1 year')});
sql(q{SELECT event_store.set_retention('Unchanged', '1 year')});
others_go_on('somebody changes what is wanted');
ok(wait_for_closed('Unchanged', 5), 'other types go');
is(closed('Changed'), '0', 'that one is as it was');
$session->query_safe('COMMIT');
$session->quit;
ok(wait_for_closed('Changed', 5), 'and goes when it is changed');

# ---------- types that are renamed

write_old('Renamed', 3, 2);
sql(q{SELECT event_store.set_upcaster('Placed', 1, rules => '{"event_type": "Ended"}', aggregate_type => 'Renamed')});
sql(q{SELECT event_store.set_retention('Renamed', '1 year', '{Placed}')});
ok(poll(q{SELECT position >= (SELECT max(global_position) FROM event_store.domain_events WHERE aggregate_type = 'Renamed')
	  FROM event_store.retention WHERE aggregate_type = 'Renamed'}), 'the walk comes to the end of a type');
is(closed('Renamed'), '0', 'no last version has the name that was written');
sql(q{SELECT event_store.set_retention('Renamed', '1 year', '{Ended}')});
ok(wait_for_closed('Renamed', 3), 'aggregates end with what their last event is in its last version');
ok(whole('Renamed', 3, 2), 'each event is there once');
sql(q{SELECT event_store.set_retention('Renamed', '1 year', '{Placed}', '1 year')});
ok(poll(q{SELECT count(*) = 3 FROM event_store.closed_aggregates WHERE aggregate_type = 'Renamed' AND reason = 'not deleted: its last event is another one'}),
	'and so it is with those that are archived');
sql(q{SELECT event_store.set_retention('Renamed', '1 year', '{Ended}', '1 year')});
ok(wait_for_closed('Renamed', 3, 'deleted'), 'which are deleted then');

write_old('Unreadable', 1, 1);
sql(q{CREATE FUNCTION fails(e event_store.event) RETURNS event_store.event LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RAISE EXCEPTION ''%'', repeat(''no such name '', 9); END';
	SELECT event_store.set_upcaster('Placed', 1, 'fails', aggregate_type => 'Unreadable')});
my $unreadable = log_offset($node);
sql(q{SELECT event_store.set_retention('Unreadable', '1 year', '{Ended}')});
$node->wait_for_log(qr{aggregate Unreadable/o-1 cannot be archived: (no such name ){9}}, $unreadable);
is(closed('Unreadable'), '0', 'what nobody can tell to be closed stays');

# ---------- a stop in the middle

foreach my $mode ('fast', 'immediate')
{
	my $type = "Stopped-$mode";

	write_old($type, 60, 50);
	$session = $node->background_psql('shop');
	$session->query_safe("BEGIN; SELECT event_store.append_event('$type', 'o-40', NULL, 'Placed')");
	sql("SELECT event_store.set_retention('$type', '1 year')");
	ok(wait_for_closed($type, 39), 'up to the one that is held');
	my $position = sql("SELECT position FROM event_store.retention WHERE aggregate_type = '$type'");
	$node->stop($mode);
	eval { $session->quit };
	$node->start;
	ok(wait_for_closed($type, 60), "after a stop ($mode) it goes on");
	ok(whole($type, 60, 50), 'and each event is there once');
	cmp_ok(sql("SELECT position FROM event_store.retention WHERE aggregate_type = '$type'"), '>', $position, 'from where it was');
}

# ---------- what cannot go keeps nothing else

write_old('Refused', 6, 3);
sql(q{CREATE FUNCTION divide() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM 1 / (NEW.sequence - 2); RETURN NEW; END';
	CREATE TRIGGER divide BEFORE INSERT ON event_store.domain_events_archive FOR EACH ROW
	WHEN (NEW.aggregate_type = 'Refused' AND NEW.aggregate_id = 'o-2') EXECUTE FUNCTION divide()});
my $offset = log_offset($node);
sql(q{SELECT event_store.set_retention('Refused', '1 year')});
ok(wait_for_closed('Refused', 5), 'one that a trigger has a fault with is passed over');
$node->wait_for_log(qr{aggregate Refused/o-2 cannot be archived: division by zero}, $offset);
sql('DROP TRIGGER divide ON event_store.domain_events_archive');
sql(q{SELECT event_store.set_retention('Refused', '1 year')});
ok(wait_for_closed('Refused', 6), 'until it is tried anew');

# more archived ones than a step looks at, that nobody may delete
write_old('Referred', 150, 1);
sql(q{SELECT event_store.set_retention('Referred', '1 year')});
ok(wait_for_closed('Referred', 150), 'many are archived');
sql(q{CREATE TABLE reference (event_id uuid REFERENCES event_store.domain_events_archive (event_id));
	INSERT INTO reference SELECT event_id FROM event_store.domain_events_archive WHERE aggregate_type = 'Referred' AND aggregate_id <> 'o-150'});
$offset = log_offset($node);
sql(q{SELECT event_store.set_retention('Referred', '1 year', NULL, '1 year')});
ok(wait_for_closed('Referred', 1, 'deleted'), 'what nobody keeps is deleted');
is(sql(q{SELECT DISTINCT reason FROM event_store.closed_aggregates WHERE aggregate_type = 'Referred' AND state = 'archived'}), 'not deleted: 23503',
	'of the others it is noted why they are not');
others_go_on('nothing can be deleted');
my @told = slurp_file($node->logfile, $offset) =~ /aggregate Referred\/o-\d+ cannot be deleted/g;
is(@told, 149, 'and they are tried once');
sql('DROP TABLE reference');
sql(q{SELECT event_store.set_retention('Referred', '1 year', NULL, '1 year')});
ok(wait_for_closed('Referred', 150, 'deleted'), 'until it is tried anew');

# ---------- what is done is counted

sub metric
{
	return sql("SELECT value FROM event_store.metrics WHERE metric = 'archive.$_[0]'");
}

my ($archived, $deleted) = (metric('archived'), metric('deleted'));
write_old('Counted', 7, 11);
sql(q{SELECT event_store.set_retention('Counted', '1 year')});
ok(wait_for_closed('Counted', 7), 'seven aggregates of eleven events');
is(metric('archived') - $archived, 77, 'are counted as archived');
sql(q{SELECT event_store.set_retention('Counted', '1 year', NULL, '1 year')});
ok(wait_for_closed('Counted', 7, 'deleted'), 'and are deleted');
is(metric('deleted') - $deleted, 77, 'which is counted, too');
is(sql(q{SELECT count(*) FROM event_store.all_events WHERE aggregate_type = 'Counted'}), '0', 'nothing is left of them');

$node->stop;
done_testing();
