# Staging gives its space back however old the oldest snapshot is, however long a
# writer stays idle in its transaction, and while tables are dumped.  Whoever would
# need rows that are gone gets 40001, or reads again, and never a wrong answer.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('given_up',
	conf => "event_store.write_delay = '1h'\nsynchronous_commit = off\nmax_wal_size = '2GB'\n"
	  . "shared_buffers = '256MB'\n");
$node->start;
create_store_in($node, 'shop');
wait_for_worker($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

# What readers ask: every way to read staged rows, with the answer in the beginning.
my %questions = (
	'load_events' => [
		q{SELECT string_agg(sequence || event_type, ' ') FROM event_store.load_events('T', 't-1')},
		'1a 2b 3c'
	],
	'load_event' => [
		q{SELECT count(*)::text FROM event_store.load_event('00000000-0000-7000-8000-000000000001')},
		'1'
	],
	'aggregate_sequence' => [ q{SELECT event_store.aggregate_sequence('T', 't-1')::text}, '3' ],
	'load_aggregate_ids' => [ q{SELECT string_agg(id, ' ') FROM event_store.load_aggregate_ids('T') id}, 't-1 t-2' ],
	'replay_aggregate' => [ q{SELECT (event_store.replay_aggregate('T', 't-1')).state::text}, '{"n": 3}' ],
	'replay_aggregates' => [ q{SELECT string_agg(sequence::text, ' ') FROM event_store.replay_aggregates('T')}, '3 1' ],
	'load_view' => [ q{SELECT event_store.load_view('V', 'v-1')::text}, '1' ],
	'load_views' => [ q{SELECT string_agg(view_key, ' ') FROM event_store.load_views('V')}, 'v-1 v-2' ],
	'load_view_keys' => [ q{SELECT string_agg(k, ' ') FROM event_store.load_view_keys('V') k}, 'v-1 v-2' ],
);

sql(<<'SQL');
CREATE FUNCTION ask(question text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text;
BEGIN
    EXECUTE question INTO answer;
    RETURN coalesce(answer, 'nothing');
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END
$$;

-- Some megabytes: 2,000 large events in batches, 5,000 small ones one by one, views.
CREATE PROCEDURE load(turn int) LANGUAGE plpgsql AS $$
BEGIN
    FOR batch IN 1 .. 2 LOOP
        PERFORM count(*) FROM event_store.append_batch(
            array_fill('Load'::text, ARRAY[1000]),
            ARRAY(SELECT 'l-' || n % 50 FROM generate_series(1, 1000) n),
            array_fill('Loaded'::text, ARRAY[1000]),
            ARRAY(SELECT jsonb_build_object('turn', turn, 'text', repeat('x', 1000)) FROM generate_series(1, 1000)),
            durability => 'staged');
        PERFORM event_store.put_view('Load', 'l-' || batch, to_jsonb(turn), durability => 'staged');
        COMMIT;
    END LOOP;
    FOR n IN 1 .. 5000 LOOP
        PERFORM event_store.append_event('Load', 'l-' || n % 50, NULL, 'Loaded', '{"text": "small"}', durability => 'staged');
        IF n % 100 = 0 THEN
            COMMIT;
        END IF;
    END LOOP;
END
$$;
SQL

my $loaded = 0;    # events
my $turns = 0;
my $backlog = 0;    # bytes that the rows of one turn take
my $most = 0;    # bytes seen

# Stages a few megabytes, makes them durable, and looks at the size of staging.
sub load
{
	my ($turns_wanted) = @_;

	foreach my $turn (1 .. $turns_wanted)
	{
		sql('CALL load(' . ++$turns . ')');
		my $staged = sql('SELECT staged_bytes FROM event_store.staging_status');
		sql(q{SELECT event_store.flush('1min')}) eq 't' or die 'flush() gave up';
		my $drained = sql('SELECT staged_bytes FROM event_store.staging_status');
		$backlog = $staged if $backlog == 0;
		$most = $staged if $staged > $most;
		$most = $drained if $drained > $most;
		$loaded += 7000;
	}
	return;
}

# A transaction that keeps its first snapshot.
sub begin
{
	my ($level) = @_;
	my $session = $node->background_psql('shop', on_error_stop => 0);

	$session->query_safe("BEGIN ISOLATION LEVEL $level; SELECT");
	return $session;
}

# What a session is told, question by question.
sub answers
{
	my ($session) = @_;

	return {
		map { $_ => $session->query_safe("SELECT ask(\$\$$questions{$_}[0]\$\$)") }
		  keys %questions
	};
}

my $expected = { map { $_ => $questions{$_}[1] } keys %questions };
my $refused = { map { $_ => '40001' } keys %questions };

# ---------- what is staged, and who looks at it

sql(q{BEGIN;
	SELECT event_store.append_events('T', 't-1', 0, '[
	    {"event_type": "a", "event_id": "00000000-0000-7000-8000-000000000001", "payload": {"n": 1}},
	    {"event_type": "b", "payload": {"n": 2}}, {"event_type": "c", "payload": {"n": 3}}]', durability => 'staged');
	SELECT event_store.append_event('T', 't-2', 0, 'a', durability => 'staged');
	SELECT event_store.put_view('V', 'v-1', '1', durability => 'staged');
	SELECT event_store.put_view('V', 'v-2', '1', durability => 'staged');
	COMMIT;});
my %old = map { $_ => begin($_) } ('REPEATABLE READ', 'SERIALIZABLE', 'SERIALIZABLE READ ONLY');
foreach my $level (sort keys %old)
{
	is_deeply(answers($old{$level}), $expected, "$level: staged rows are seen");
}

# READ COMMITTED: a statement that waits with its snapshot, and reads then
sql('CREATE TABLE gate ()');
my $gate = $node->background_psql('shop');
$gate->query_safe('SELECT pg_advisory_lock(1)');
my @waiting;
foreach my $question (sort keys %questions)
{
	my $session = $node->background_psql('shop');

	# the subquery is computed with the row that comes after the wait
	$session->query_until(qr/asked/, qq{\\echo asked
		SELECT ($questions{$question}[0]) FROM (SELECT pg_advisory_lock_shared(1) OFFSET 0) l;\n});
	push @waiting, [ $question, $session ];
}
ok($node->poll_query_until('shop',
		"SELECT count(*) = ${\ scalar @waiting} FROM pg_stat_activity
		  WHERE wait_event = 'advisory' AND backend_xmin IS NOT NULL"),
	'statements wait with a snapshot');

# ---------- drained: still to be seen under the old snapshots

load(1);
foreach my $level (sort keys %old)
{
	is_deeply(answers($old{$level}), $expected, "$level: drained rows are seen");
}

# ---------- a dump begins

my $dump = $node->background_psql('shop');
$dump->query_safe(q{BEGIN ISOLATION LEVEL REPEATABLE READ;
	SELECT count(*) FROM event_store.domain_events;
	DO $$DECLARE t regclass; BEGIN
	    FOR t IN SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	              WHERE c.relkind IN ('r', 'p') AND n.nspname IN ('public', 'event_store')
	                AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
	                                                          AND d.objid = c.oid AND d.deptype = 'e')
	    LOOP EXECUTE format('LOCK TABLE %s IN ACCESS SHARE MODE', t); END LOOP;
	END$$;});

# ---------- much more: their rows are given up

load(8);
foreach my $level (sort keys %old)
{
	is_deeply(answers($old{$level}), $refused, "$level: who would miss rows is told so");
	is($old{$level}->query_safe('SELECT count(*) FROM event_store.domain_events'),
		'0', "$level: the table can be read");
	is($old{$level}->query_safe('SELECT count(*) FROM event_store.domain_views'), '0', "$level: so can the views");
}

# ---------- writers that stay idle in their transaction

sub begin_writing
{
	my ($name) = @_;
	my $session = $node->background_psql('shop');

	$session->query_safe(qq{BEGIN;
		SELECT event_store.append_event('Idle', '$name', 0, 'Begun', durability => 'staged');
		SELECT event_store.put_view('Idle', '$name', '1', durability => 'staged');});
	return $session;
}

my @writers = (begin_writing('w-1'));
load(8);
push @writers, begin_writing('w-2');

# its snapshot is older than all that comes next, and what it shows stays where the
# idle writer is
my $before = begin('REPEATABLE READ');
my $sees = $before->query_safe(q{SELECT event_store.aggregate_sequence('Load', 'l-1') || ' ' ||
                                        event_store.aggregate_sequence('Idle', 'w-1')});
load(16);
cmp_ok($turns * $backlog, '>', 64 * 1024 * 1024 + 2 * $backlog + 32 * 1024 * 1024,
	sprintf('%d MB went through staging', $turns * $backlog / 1024 / 1024));
cmp_ok($most, '<', 64 * 1024 * 1024 + 2 * $backlog,
	sprintf('which took at most %d MB, with %d MB to be drained at once', $most / 1024 / 1024, $backlog / 1024 / 1024));

is($before->query_safe(q{SELECT ask($$SELECT event_store.aggregate_sequence('Load', 'l-1') || ' ' ||
                                             event_store.aggregate_sequence('Idle', 'w-1')$$)}),
	$sees, 'a snapshot that was there before those rows misses none');

foreach my $level (sort keys %old)
{
	is_deeply(answers($old{$level}), $refused, "$level: the old ones are told so still");
}
my $fresh = begin('REPEATABLE READ');
is_deeply(answers($fresh), $expected, 'a fresh transaction sees everything');
is(sql(q{SELECT count(*) FROM generate_series(0, 49) a, LATERAL event_store.load_events('Load', 'l-' || a)}),
	$loaded, 'to the last event');

# the statements that waited read again
$gate->query_safe('SELECT pg_advisory_unlock(1)');
foreach my $waiting (@waiting)
{
	my ($question, $session) = @$waiting;
	my $answer = $session->query_safe('SELECT');

	$answer =~ s/^\s+|\s+$//g;
	is($answer, $questions{$question}[1], "READ COMMITTED: $question is right");
	$session->quit;
}

# ---------- the old ones go: hardly anything stays

$_->quit foreach values %old, $before, $fresh, $dump;
is($node->safe_psql('shop', q{SELECT event_store.aggregate_sequence('Idle', 'w-1') || ' ' ||
                                     event_store.aggregate_sequence('Idle', 'w-2')}),
	'0 0', 'nobody saw what the idle writers staged');
$_->query_safe('COMMIT') foreach @writers;
is(sql(q{SELECT staged_events || ' ' || staged_views FROM event_store.staging_status}), '2 2', 'until they commit');
is(sql(q{SELECT event_store.flush('1min')}), 't', 'which is drained');
is(sql(q{SELECT string_agg(aggregate_id || event_type, ' ' ORDER BY aggregate_id)
	       FROM event_store.domain_events WHERE aggregate_type = 'Idle'}),
	'w-1Begun w-2Begun', 'nothing of it is lost');
is(sql(q{SELECT string_agg(view_key, ' ' ORDER BY view_key) FROM event_store.domain_views WHERE view_name = 'Idle'}),
	'w-1 w-2', 'nor of the views');
ok($node->poll_query_until('shop',
		'SELECT staged_bytes < 32 * 1024 * 1024 FROM event_store.staging_status'),
	'what the old snapshots needed is given back');
is(events_in($node, 'shop'), $loaded + 6, 'every event is durable, once');
is(sql('SELECT count(*) FROM event_store.dead_letters'), '0', 'and none a dead letter');

$_->quit foreach @writers, $gate;
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
