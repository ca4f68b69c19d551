# A drain that fails.  Errors of the world: the worker backs off, says so, and nothing
# is lost or buried.  Errors of a row: it becomes a dead letter with what depends on it,
# and everything else goes on.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('backoff',
	conf => "event_store.write_delay = '1ms'\nsynchronous_commit = off\nlog_line_prefix = '%n %b: '\nlog_min_messages = debug1\n"
	  . "event_store.retry_initial = '10ms'\nevent_store.retry_max = '40ms'\n");
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

sub configure
{
	my ($name, $value) = @_;

	$node->append_conf('postgresql.conf', "event_store.$name = $value\n");
	$node->reload;
	$node->poll_query_until('shop', "SELECT setting = '$value' FROM pg_settings WHERE name = 'event_store.$name'")
	  or die "$name was not read";
	return;
}

# What the table faults says goes wrong: an event_type, or a view_key, and how.
sql(<<'SQL');
CREATE TABLE faults (what text PRIMARY KEY, code text);
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wanted text;
BEGIN
    SELECT f.code INTO wanted FROM public.faults f
     WHERE f.what IN ('everything', CASE TG_TABLE_NAME WHEN 'domain_events' THEN to_jsonb(NEW) ->> 'event_type'
                                         ELSE to_jsonb(NEW) ->> 'view_key' END);
    IF FOUND THEN
        RAISE EXCEPTION 'fault %', wanted USING ERRCODE = wanted;
    END IF;
    RETURN NEW;
END
$$;
GRANT SELECT ON faults TO PUBLIC;
CREATE TRIGGER fail BEFORE INSERT ON event_store.domain_events FOR EACH ROW EXECUTE FUNCTION fail();
CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON event_store.domain_views FOR EACH ROW EXECUTE FUNCTION fail();
-- the events of an aggregate, staged or durable
CREATE FUNCTION events(id text) RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(string_agg(event_type || CASE WHEN global_position IS NULL THEN '?' ELSE '' END, ' '), '')
      FROM event_store.load_events('T', id) $$;
-- in the order of dead_letters
CREATE FUNCTION letters() RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(string_agg(concat_ws(' ', aggregate_id, event_type, view_key, error_code), ', ' ORDER BY id), '')
      FROM event_store.dead_letters $$;
SQL

# Statements of one transaction: events "aggregate type", views "=key".
sub transaction
{
	return "BEGIN;\n"
	  . join('', map {
			/^=(.*)/
			  ? "SELECT FROM event_store.put_view('V', '$1', '1', durability => 'staged');\n"
			  : /^(\S+) (\S+)$/
			  ? "SELECT FROM event_store.append_event('T', '$1', NULL, '$2', durability => 'staged');\n"
			  : die $_
		} @_)
	  . "COMMIT;\n";
}

# ---------- errors of the world, each in every class

my $events = 0;
foreach my $code (qw(08006 40001 40P01 53100 53200 53300 55006 55P03 57014 57P03 58030 58P01 XX000 42501 0A000 25006))
{
	my $id = "world-$code";

	sql(qq{INSERT INTO faults VALUES ('everything', '$code');} . transaction("$id a", "$id b", "=$id"));
	ok(poll(q{SELECT consecutive_failures >= 3 AND drain_state = 'backing_off' FROM event_store.staging_status}),
		"$code: the worker backs off");
	is(sql(q{SELECT last_error || ' ' || staged_events || ' ' || staged_views FROM event_store.staging_status}),
		"fault $code 2 1", "$code: and says why, and keeps the rows");
	is(sql(qq{SELECT events('$id') || event_store.load_view('V', '$id') || letters()}), 'a? b?1', "$code: to be seen as before");
	sql('DELETE FROM faults');
	ok(poll(q{SELECT staged_events + staged_views = 0 AND drain_state = 'idle' AND consecutive_failures = 0
	            FROM event_store.staging_status}), "$code: it goes on by itself");
	$events += 2;
	is(sql(qq{SELECT events('$id') || (SELECT view_data::text FROM event_store.domain_views WHERE view_key = '$id') || letters()}),
		'a b1', "$code: with everything");
}
is(sql(q{SELECT value FROM event_store.metrics WHERE metric = 'persistence.drain.failures'}), '0', 'the metric is down again');
cmp_ok(sql(q{SELECT value FROM event_store.metrics WHERE metric = 'worker.failures'}), '>=', 16 * 3, 'and all failures were counted');
is(worker_pid($node, 'shop'), $worker, 'in one process');

# ---------- the pauses grow, up to retry_max, with jitter

configure('retry_initial', 20);
configure('retry_max', 80);
# what the worker does after a reload, it does with the new settings
sql(transaction('paced a'));
ok(flush_all($node, 'shop'), 'new settings');
my $offset = log_offset($node);
sql(q{INSERT INTO faults VALUES ('everything', '53100');} . transaction('paced b'));
ok(poll('SELECT consecutive_failures >= 20 FROM event_store.staging_status'), 'it fails again and again');
my @at = slurp_file($node->logfile, $offset) =~ /^([0-9.]+) event_store worker: (?:ERROR|DEBUG):  .*fault 53100$/mg;
my @pauses = map { 1000 * ($at[$_] - $at[ $_ - 1 ]) } 1 .. $#at;
# the log tells milliseconds
cmp_ok($pauses[0], '>=', 19, 'the first pause');
cmp_ok($pauses[1], '>=', 39, 'the second is twice as long');
cmp_ok($pauses[2], '>=', 79, 'and the third');
my @short = grep { $_ < 79 } @pauses[ 2 .. $#pauses ];
is(scalar(@short), 0, 'none is shorter then');
my $sum = 0;
$sum += $_ foreach @pauses[ 3 .. 18 ];
# 100 to 125 percent, by chance
cmp_ok($sum / 16, '>', 80 * 1.05, sprintf('jitter makes them longer: %.1f ms', $sum / 16));
cmp_ok(scalar(keys %{ { map { int($_ / 4) => 1 } @pauses[ 3 .. 18 ] } }), '>', 1, 'not all alike');
sql('DELETE FROM faults');
ok(flush_all($node, 'shop'), 'flush() waits for no long pause');
is(sql(q{SELECT events('paced')}), 'a b', 'all is there');

# ---------- errors of a row

configure('write_delay', 3600000);
foreach my $code (qw(22012 22P02 23505 23514 54000 P0001))
{
	my $id = "row-$code";

	# four transactions in one round, and one after it
	sql("INSERT INTO faults VALUES ('Poison', '$code');"
		  . transaction("$id a", "$id-1 a", "=$id-0")
		  . transaction("$id-2 a", "$id Poison", "$id b", "$id-1 b", "=$id-1")
		  . transaction("$id-1 c", "=$id-2")
		  . transaction("$id c", "$id-2 b", "=$id-1"));
	is(sql('SELECT event_store.drain()'), '13', "$code: a round moves all");
	is(sql(q{SELECT letters()}),
		"$id Poison $code, $id b VS006, $id $id-1 VS006, $id c VS006, $id $id-1 VS006",
		"$code: the row, the later ones of its aggregate, their views");
	is(sql(qq{SELECT events('$id') || ', ' || events('$id-1') || ', ' || events('$id-2')}),
		'a, a b c, a b', "$code: the others go on");
	is(sql(qq{SELECT string_agg(view_key, ' ' ORDER BY view_key) FROM event_store.domain_views WHERE view_key LIKE '$id%'}),
		"$id-0 $id-2", "$code: so do the views");
	is(sql(q{SELECT DISTINCT attempts || ' ' || (error_message <> '') || ' ' || (failed_at <= now()) FROM event_store.dead_letters}),
		'1 true true', "$code: at the first attempt");
	like(error_of($node, 'shop', transaction("$id d")), qr/VS006/, "$code: the aggregate takes nothing more");
	like(error_of($node, 'shop', "SELECT event_store.append_event('T', '$id', NULL, 'd')"), qr/VS006/, "$code: durable or staged");
	like(error_of($node, 'shop', "SELECT event_store.retry_dead_letters('T', '$id')"), qr/$code.*fault/,
		"$code: tried again it fails again");
	sql('DELETE FROM faults');
	is(sql("SELECT event_store.retry_dead_letters('T', '$id')"), '5', "$code: until the cause is gone");
	is(sql(qq{SELECT events('$id') || letters()}), 'a Poison b c', "$code: in order");
	is(sql(qq{SELECT string_agg(view_key, ' ' ORDER BY view_key) FROM event_store.domain_views WHERE view_key LIKE '$id%'}),
		"$id-0 $id-1 $id-2", "$code: with its views");
}
is(sql('SELECT consecutive_failures FROM event_store.staging_status'), '0', 'none of this is a failure of the worker');

# what was staged already when its aggregate died follows in a later round
sql(q{INSERT INTO faults VALUES ('Poison', '22012');} . transaction('late a') . transaction('late Poison', '=late') . transaction('late b', 'beside a', '=after'));
is(join(' ', map { sql('SELECT event_store.drain(1)') } 1 .. 3), '1 2 3', 'round by round');
is(sql('SELECT letters()'), 'late Poison 22012, late late VS006, late b VS006, late after VS006', 'what comes later follows');
is(sql(q{SELECT events('late') || ', ' || events('beside')}), 'a, a', 'what does not depend on it goes on');
is(sql(q{SELECT event_store.discard_dead_letters('T', 'late', 'a test')}), '4', 'discarded');
is(sql(q{SELECT event_store.aggregate_sequence('T', 'late') || letters()}), '1', 'it never happened');
sql(q{DELETE FROM faults;} . transaction('late c'));
is(sql(q{SELECT event_store.drain() || events('late')}), '1a c', 'and the aggregate goes on');

# a view that fails by itself
sql(q{INSERT INTO faults VALUES ('bad', '23514');} . transaction('viewed a', '=bad', '=good'));
is(sql('SELECT event_store.drain()'), '3', 'a view that cannot be written');
is(sql(q{SELECT letters() || '; ' || events('viewed') || '; ' || (event_store.load_view('V', 'good') IS NOT NULL)}),
	'bad bad 23514; a; true', 'takes nothing along');
sql('DELETE FROM faults');
is(sql(q{SELECT event_store.retry_dead_letters('V', 'bad')}), '1', 'retried by its own name');

# ---------- errors of different rows are theirs; the same for all is the world's

sql(q{INSERT INTO faults VALUES ('Poison', '22012'), ('Venom', '23514');} . transaction('one Poison') . transaction('two Venom'));
is(sql('SELECT event_store.drain()'), '2', 'two rows, two errors');
is(sql('SELECT letters()'), 'one Poison 22012, two Venom 23514', 'both are buried at once');
is(sql(q{SELECT event_store.discard_dead_letters('T', id, 'a test') FROM unnest(ARRAY['one', 'two']) id}), "1\n1", 'discarded');

configure('retry_initial', 3600000);
configure('retry_max', 3600000);
sql(transaction('three Poison', '=three') . transaction('four Poison') . transaction('five Poison'));
is(sql(q{SELECT event_store.flush('200ms')}), 'f', 'rows that all fail in one way');
ok(poll(q{SELECT drain_state = 'backing_off' AND consecutive_failures = 1 AND last_error = 'fault 22012'
            FROM event_store.staging_status}), 'are taken for an error of the world');
is(sql(q{SELECT s.last_error_at = w.last_error_at AND s.last_error_at > now() - interval '1h' AND s.last_error = w.last_error
           FROM event_store.staging_status s, event_store.worker_status w}), 't', 'which has its time');
is(sql(q{SELECT staged_events || ' ' || staged_views || letters() FROM event_store.staging_status}), '3 1', 'and stay');
# with one that does not fail they are not
sql(transaction('six a'));
is(sql('SELECT event_store.drain()'), '5', 'a round in which another row goes through');
is(sql('SELECT letters()'), 'three Poison 22012, three three VS006, four Poison 22012, five Poison 22012', 'tells that the rows are to blame');
is(sql(q{SELECT sum(event_store.discard_dead_letters('T', id, 'a test')) FROM unnest(ARRAY['three', 'four', 'five']) id}), '4', 'discarded');
configure('retry_initial', 5);
configure('retry_max', 5);
my $buried = log_offset($node);
sql(transaction('seven Poison') . transaction('eight Poison'));
ok(flush_all($node, 'shop'), 'in the end flush() comes through');
is(sql(q{SELECT letters() || '; ' || string_agg(DISTINCT attempts::text, ' ') FROM event_store.dead_letters}),
	'seven Poison 22012, eight Poison 22012; 5', 'since nothing is tried for ever');
ok(poll(q{SELECT consecutive_failures = 0 AND drain_state = 'idle' AND last_error IS NULL AND last_error_at IS NULL
            FROM event_store.staging_status}), 'and the worker is well again');
is(sql(q{SELECT value FROM event_store.metrics WHERE metric = 'persistence.dead_letters'}), '2', 'the metric counts them');
my @logged = slurp_file($node->logfile, $buried) =~ /became a dead letter: .*\n.*DETAIL:  It is T\/(\w+), 1/g;
is("@logged", 'seven eight', 'and each was logged once, when it was one');

# attempts are counted beyond the end of a worker
configure('retry_initial', 3600000);
configure('retry_max', 3600000);
sql(transaction('twelve Poison') . transaction('thirteen Poison'));
is(sql(q{SELECT event_store.flush('200ms')}), 'f', 'rows that all fail in one way');
foreach my $attempt (1 .. 4)
{
	my $pid = wait_for_worker($node, 'shop');

	ok(poll("SELECT consecutive_failures = $attempt AND drain_state = 'backing_off' FROM event_store.staging_status"), "attempt $attempt");
	is(sql("SELECT pg_terminate_backend($pid)"), 't', 'and the worker is terminated');
	wait_for_worker($node, 'shop', $pid);
}
ok(poll(q{SELECT consecutive_failures = 0 AND drain_state = 'idle' AND staged_events = 0 FROM event_store.staging_status}),
	'the fifth, by another worker, is the last');
is(sql(q{SELECT string_agg(concat_ws(' ', aggregate_id, attempts), ', ' ORDER BY id) FROM event_store.dead_letters WHERE aggregate_id LIKE 't%'}),
	'twelve 5, thirteen 5', 'which buries them');
is(sql(q{SELECT sum(event_store.discard_dead_letters('T', id, 'a test')) FROM unnest(ARRAY['twelve', 'thirteen']) id}), '2', 'discarded');
configure('retry_initial', 5);
configure('retry_max', 5);

# a row that fails while another error holds up the round
sql(q{UPDATE faults SET code = '53100' WHERE what = 'Venom';} . transaction('nine Poison') . transaction('ten Venom') . transaction('eleven a'));
like(error_of($node, 'shop', 'SELECT event_store.drain()'), qr/53100.*fault 53100/, 'an error of the world ends a round');
is(sql(q{SELECT staged_events || ' ' || events('eleven') || letters() FROM event_store.staging_status}),
	'3 a?seven Poison 22012, eight Poison 22012', 'in which nothing is buried');
sql('DELETE FROM faults');
ok(flush_all($node, 'shop'), 'when it is gone');
is(sql(q{SELECT concat_ws(', ', events('nine'), events('ten'), events('eleven'))}), 'Poison, Venom, a', 'all go on');
is(sql(q{SELECT count(*) FROM (SELECT FROM event_store.domain_events GROUP BY aggregate_type, aggregate_id
	      HAVING min(sequence) <> 1 OR max(sequence) <> count(*)) broken}), '0', 'every aggregate is whole');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
