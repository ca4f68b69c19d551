# A reducer that fails is seen: by its aggregate type, how often, and why; and that it
# is well again.  What is kept of that is bounded, and its sum is right.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('failing', conf => "event_store.snapshot_every = 10\n");
$node->start;
create_store_in($node, 'shop');
my $worker = wait_for_worker($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub poll
{
	return $node->poll_query_until('shop', $_[0]);
}

# A type is named by an expression; so that a snapshot is due, ten events come.
sub append_ten
{
	my ($type, $id) = @_;

	sql(qq{SELECT FROM event_store.append_events($type, '$id', NULL,
		(SELECT jsonb_agg('{"event_type": "E"}'::jsonb) FROM generate_series(1, 10)))});
	return;
}

my $quoted = q{E'Quote"\\\\\\nEnd'};
my $sum = q{SELECT sum(value) = %d FROM event_store.metrics WHERE metric = 'persistence.snapshot.failures'};

is(sql(q{SELECT count(*) FROM event_store.reducer_status}), '0', 'nothing has failed');
is(sql(q{SELECT name, value FROM event_store.metrics WHERE metric = 'persistence.snapshot.failures'}),
	'(others)|0', 'which the metric says from the start');
sql(qq{
	CREATE TABLE sick ();
	GRANT SELECT ON sick TO PUBLIC;
	INSERT INTO sick DEFAULT VALUES;
	CREATE FUNCTION reduce(state jsonb, event event_store.event) RETURNS jsonb LANGUAGE plpgsql AS
	\$\$BEGIN IF EXISTS (SELECT FROM public.sick) THEN RAISE 'it fails at %', event.sequence; END IF; RETURN '1'; END\$\$;
	SELECT event_store.set_reducer(type, 'public.reduce')
	  FROM (SELECT 'Many ' || n FROM generate_series(1, 40) n UNION ALL SELECT $quoted) t (type);
});
append_ten("'Many 1'", 'm-1');
ok(poll(sprintf $sum, 1), 'a snapshot fails');
is(sql(q{SELECT aggregate_type, failures, consecutive_failures, last_error, last_error_at < rests_until, last_error_at <= now()
	       FROM event_store.reducer_status}),
	'Many 1|1|1|could not take a snapshot of Many 1/m-1: it fails at 1|t|t', 'reducer_status says of which type, and why');
is(sql(q{SELECT name, value FROM event_store.metrics WHERE metric = 'persistence.snapshot.failures' ORDER BY name}),
	"(others)|0\nMany 1|1", 'the metric by the name of the type');
is(sql(q{SELECT value FROM event_store.metrics WHERE metric = 'worker.failures'}), '0', 'no step of the worker has failed');

# more types than there is room for
append_ten("'Many $_'", 'm-1') foreach 2 .. 40;
append_ten($quoted, 'q-1');
ok(poll(sprintf $sum, 41), 'many types fail');
is(sql(q{SELECT count(*), sum(failures) FROM event_store.reducer_status}), '32|32', 'those there is room for are known');
is(sql(q{SELECT value FROM event_store.metrics WHERE metric = 'persistence.snapshot.failures' AND name = '(others)'}),
	'9', 'the others are counted');
like(sql('SELECT event_store.openmetrics()'),
	qr/^event_store_persistence_snapshot_failures_total\{database="shop",name="Quote\\"\\\\\\nEnd"\} 1$/m, 'a label is escaped in the text');

# well again
sql('DELETE FROM sick');
ok(poll(q{SELECT count(*) = 0 FROM event_store.reducer_status WHERE rests_until > clock_timestamp()}), 'the types have rested');
append_ten($quoted, 'q-2');
ok(poll(q{SELECT consecutive_failures = 0 AND failures = 1 AND last_error IS NULL AND last_error_at IS NULL AND rests_until IS NULL
            FROM event_store.reducer_status WHERE aggregate_type LIKE 'Quote%'}),
	'the error is over with a snapshot that is taken, and stays counted');
sql('INSERT INTO sick DEFAULT VALUES');
sql(q{SELECT event_store.set_reducer('One more', 'public.reduce')});
append_ten("'One more'", 'm-1');
ok(poll(sprintf $sum, 42), 'another type fails');
is(sql(q{SELECT count(*) FILTER (WHERE aggregate_type LIKE 'Quote%'), count(*) FROM event_store.reducer_status}),
	'0|32', 'that which is well gives way to it');
is(worker_pid($node, 'shop'), $worker, 'all by one worker');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
