# Deadlines in the background: each scheduled event is appended once, whatever ends the process or
# the server; nobody who holds an aggregate, and none that is refused, keeps another from it.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('deadlines', conf => "restart_after_crash = on\nmax_worker_processes = 16\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', join("\n", @_));
}

sub poll
{
	return $node->poll_query_until('shop', $_[0]);
}

my $process = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'event_store projector'};
my $nothing_due = q{SELECT count(*) = 0 FROM event_store.scheduled_events WHERE state = 'scheduled' AND due_at <= clock_timestamp()};

# ---------- who has nothing to do is not there

wait_for_worker($node, 'shop');
is(sql($process), '0', 'where nothing is scheduled there is no process');
sql(q{SELECT event_store.schedule_event('2999-01-01Z', 'T', 'far', 'E')});
ok(poll("SELECT ($process) = 1"), 'where something is, there is one');
# it sleeps: no statement of it begins
my $since = sql(q{SELECT query_start FROM pg_stat_activity WHERE backend_type = 'event_store projector'});
sql(q{SELECT count(event_store.schedule_event('2999-01-02Z', 'T', 'far', 'E')) FROM generate_series(1, 10)});
is(sql(q{SELECT query_start FROM pg_stat_activity WHERE backend_type = 'event_store projector'}),
	$since, 'what is later than the next one does not wake it');
sql(q{SELECT event_store.schedule_event(clock_timestamp() + interval '200 ms', 'T', 'near', 'E')});
ok(poll(q{SELECT event_store.aggregate_sequence('T', 'near') = 1}), 'what is sooner does');
cmp_ok(sql(q{SELECT extract(epoch FROM recorded_at - occurred_at) FROM event_store.load_events('T', 'near')}), '>=', 0, 'not before it is due');

# ---------- the process, and the server, end

sql(q{SELECT count(event_store.schedule_event(clock_timestamp() + n * interval '2 ms', 'Killed', 'k-' || n % 20, 'E'))
        FROM generate_series(1, 1000) n});
for my $turn (1 .. 3)
{
	my $before = sql(q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'Killed'});

	sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'event_store projector'});
	ok(poll("SELECT count(*) > $before OR count(*) = 1000 FROM event_store.domain_events WHERE aggregate_type = 'Killed'"), "terminated ($turn): the next one goes on");
}
ok(poll($nothing_due), 'all are appended');
ok(poll(q{SELECT count(*) = 1000 FROM event_store.domain_events WHERE aggregate_type = 'Killed'}), 'each once');
is(sql(q{SELECT count(*) FROM (SELECT occurred_at < lag(occurred_at) OVER (PARTITION BY aggregate_id ORDER BY sequence) AS bad
                                 FROM event_store.domain_events WHERE aggregate_type = 'Killed') x WHERE bad}), '0', 'in order');

sql(q{SELECT count(event_store.schedule_event(clock_timestamp() + interval '500 ms' + n * interval '1 ms', 'Crashed', 'c-' || n % 20, 'E'))
        FROM generate_series(1, 1000) n});
$node->stop('immediate');
$node->start;
ok(poll(q{SELECT count(*) = 1000 FROM event_store.domain_events WHERE aggregate_type = 'Crashed'}), 'what fell due while the server was down comes at its start');
ok(poll($nothing_due), 'and waits no more');

# ---------- an aggregate that somebody holds

my $holder = $node->background_psql('shop');
$holder->query_safe(q{BEGIN; SELECT event_store.lock_aggregate('Held', 'h-' || n) FROM generate_series(1, 300) n});
sql(q{SELECT count(event_store.schedule_event('2020-01-01Z', 'Held', 'h-' || n, 'First')) FROM generate_series(1, 300) n});
sql(q{SELECT count(event_store.schedule_event('2020-01-02Z', 'Free', 'f-' || n, 'E')) FROM generate_series(1, 3000) n});
ok(poll(q{SELECT count(*) = 3000 FROM event_store.domain_events WHERE aggregate_type = 'Free'}), 'others do not wait for it');
sql(q{SELECT event_store.schedule_event('2020-01-03Z', 'Held', 'h-17', 'Second')});
sql(q{SELECT event_store.schedule_event('2020-01-04Z', 'Free', 'f-1', 'After')});
ok(poll(q{SELECT event_store.aggregate_sequence('Free', 'f-1') = 2}), 'nor those that come later');
is(sql(q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'Held'}), '0', 'it is passed over');
my $gauges = q{SELECT string_agg(CASE metric WHEN 'deadlines.due' THEN value::text ELSE (value > 0)::text END, ' ' ORDER BY metric) FROM event_store.metrics
	WHERE metric IN ('deadlines.age', 'deadlines.due')};
is(sql($gauges), 'true 301', 'and counted as due, since a time that is past');
$holder->query_safe('COMMIT');
ok(poll(q{SELECT count(*) = 301 FROM event_store.domain_events WHERE aggregate_type = 'Held'}), 'until it is free');
is(sql(q{SELECT string_agg(event_type, ' ' ORDER BY sequence) FROM event_store.load_events('Held', 'h-17')}), 'First Second', 'in order');
is(sql($gauges), 'false 0', 'nothing is due any more');
$holder->query_safe('BEGIN; LOCK TABLE event_store.scheduled_events');
is(sql($gauges), '', 'who watches waits for nobody who has locked the table');
$holder->query_safe('COMMIT');

# ---------- one that is cancelled, or moved, while it is due

$holder->query_safe(q{BEGIN; SELECT event_store.schedule_event('2999-01-01Z', 'T', 'moved', 'E', schedule_id => '00000000-0000-7000-8000-000000000001')});
$holder->query_safe('COMMIT');
$holder->query_safe(q{BEGIN; SELECT event_store.reschedule_event('00000000-0000-7000-8000-000000000001', '2020-01-01Z')});
$holder->query_safe('COMMIT; BEGIN');
ok(poll(q{SELECT event_store.aggregate_sequence('T', 'moved') = 1}), 'moved to the past, it comes at once');
$holder->query_safe(q{COMMIT; BEGIN; SELECT event_store.lock_aggregate('T', 'cancelled')});
sql(q{SELECT event_store.schedule_event('2020-01-01Z', 'T', 'cancelled', 'E', schedule_id => '00000000-0000-7000-8000-000000000002')});
$holder->query_safe(q{SELECT event_store.cancel_scheduled_event('00000000-0000-7000-8000-000000000002')});
my $other = $node->background_psql('shop');
$other->query_safe(q{BEGIN; SELECT event_store.lock_aggregate('T', 'rolled back')});
sql(q{SELECT event_store.schedule_event('2020-01-01Z', 'T', 'rolled back', 'E', schedule_id => '00000000-0000-7000-8000-000000000003')});
$other->query_safe(q{SELECT event_store.cancel_scheduled_event('00000000-0000-7000-8000-000000000003')});
$holder->query_safe('COMMIT');
$other->query_safe('ROLLBACK');
ok(poll(q{SELECT event_store.aggregate_sequence('T', 'rolled back') = 1}), 'a cancel that is rolled back did not happen');
is(sql(q{SELECT count(*) = 0 FROM event_store.load_events('T', 'cancelled')}), 't', 'one that is committed did');
ok(poll($nothing_due), 'nothing is left');
$holder->quit;
$other->quit;

# ---------- rows that come around the API

sql(q{INSERT INTO event_store.scheduled_events (schedule_id, due_at, state, aggregate_type, aggregate_id, event_type, schema_version, payload, first_due_at)
      VALUES ('00000000-0000-7000-8000-000000000004', '2020-01-01Z', 'scheduled', 'T', 'inserted', 'E', 1, '{}', '2020-01-01Z')});
ok(poll(q{SELECT event_store.aggregate_sequence('T', 'inserted') = 1}), 'a row that is inserted is appended');

# ---------- many that are refused

sql(q{CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '23514'; END $$;
      CREATE TRIGGER refuse BEFORE INSERT ON event_store.domain_events FOR EACH ROW WHEN (NEW.event_type = 'Refused') EXECUTE FUNCTION public.refuse()});
sql(q{SELECT count(event_store.schedule_event('2020-01-01Z'::timestamptz + n * interval '1 s', 'Many', 'm-' || n % 5000, CASE WHEN n % 70 = 0 THEN 'Refused' ELSE 'E' END))
        FROM generate_series(1, 21000) n});
ok(poll(q{SELECT count(*) = 300 FROM event_store.scheduled_events WHERE state = 'failed'}), '300 that are refused have failed');
ok(poll(q{SELECT count(*) = 20700 FROM event_store.domain_events WHERE aggregate_type = 'Many'}), 'the others are appended');
is(sql(q{SELECT DISTINCT error_code || ' ' || error FROM event_store.scheduled_events WHERE state = 'failed'}), '23514 no', 'and they say why');

# ---------- what is deferred to the end of the transaction

sql(q{DELETE FROM event_store.scheduled_events;
      CREATE TABLE public.known (id text PRIMARY KEY);
      CREATE TABLE public.noted (id text REFERENCES public.known DEFERRABLE INITIALLY DEFERRED);
      CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.noted VALUES (NEW.aggregate_id); RETURN NEW; END $$;
      CREATE TRIGGER note BEFORE INSERT ON event_store.domain_events FOR EACH ROW WHEN (NEW.event_type = 'Noted') EXECUTE FUNCTION public.note()});
sql(q{SELECT count(event_store.schedule_event('2020-01-01Z'::timestamptz + n * interval '1 s', 'Deferred', 'd-' || n, CASE WHEN n % 10 = 0 THEN 'Noted' ELSE 'E' END))
        FROM generate_series(1, 100) n});
ok(poll(q{SELECT count(*) = 90 FROM event_store.domain_events WHERE aggregate_type = 'Deferred'}), 'who is refused at the end keeps no other from it');
ok(poll(q{SELECT count(*) = 10 FROM event_store.scheduled_events WHERE state = 'failed' AND error_code = '23503'}), 'and has failed');

# ---------- a commit that fails, again and again

sql(q{DELETE FROM event_store.scheduled_events;
      CREATE SEQUENCE public.tries;
      CREATE OR REPLACE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
          SET CONSTRAINTS ALL DEFERRED;
          PERFORM nextval('public.tries');
          INSERT INTO public.noted VALUES (NEW.aggregate_id);
          RETURN NEW;
      END $$});
my $log = -s $node->logfile;
sql(q{SELECT event_store.schedule_event('2020-01-01Z', 'Deferred', 'again', 'Noted')});
ok(poll(q{SELECT last_value >= 6 FROM public.tries}), 'is tried again');
my $told = () = slurp_file($node->logfile, $log) =~ /ERROR: .* violates foreign key/g;
cmp_ok($told, '>', 0, 'the log tells of it');
cmp_ok($told, '<=', 4, 'of the first time, the second, the fourth: after pauses that grow');
sql(q{INSERT INTO public.known VALUES ('again')});
ok(poll(q{SELECT event_store.aggregate_sequence('Deferred', 'again') = 1}), 'and it goes through when it can');

$node->stop;
done_testing();
