# Projections in the background: each event has its effect once, whatever ends the projector,
# the server or the primary; a handler of one owner leaves nothing behind for the next; a
# projection that stops or fails stops nothing else.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('projections',
	init => { allows_streaming => 1 },
	conf => "max_worker_processes = 16\nevent_store.retry_initial = '10ms'\nevent_store.retry_max = '100ms'\n"
	  . "event_store.projectors = 1\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub poll
{
	return $node->poll_query_until('shop', @_);
}

# Waits until a projection has taken in all there is.
sub caught_up
{
	my ($name, $where) = @_;

	return ($where // $node)->poll_query_until('shop',
		"SELECT lag_events = 0 AND state IN ('idle', 'running') FROM event_store.projection_status WHERE projection_name = '$name'");
}

sub append
{
	my ($type, $count, $event) = @_;

	$event //= 'E';
	return sql(qq{SELECT count(*) FROM event_store.append_batch(array_fill('$type'::text, ARRAY[$count]),
		(SELECT array_agg('a-' || n % 7) FROM generate_series(1, $count) n), array_fill('$event'::text, ARRAY[$count]), NULL)});
}

sub projectors
{
	return sql(q{SELECT string_agg(usename || '', ' ' ORDER BY usename) FROM pg_stat_activity WHERE backend_type = 'event_store projector' AND datname = 'shop'});
}

sql(q{
	CREATE ROLE ann LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE SCHEMA app;
	GRANT USAGE ON SCHEMA app TO ann, bob;
	SELECT event_store.grant_access('ann', 'admin'), event_store.grant_access('bob', 'admin');
	-- a counter for each aggregate, and the last sequence: a repeated or skipped event shows
	CREATE TABLE app.counter (projection text, id text, events bigint, last bigint, PRIMARY KEY (projection, id));
	CREATE TABLE app.note (who text, said text);
	GRANT ALL ON ALL TABLES IN SCHEMA app TO ann, bob;
	CREATE FUNCTION app.counts(events event_store.event[]) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
	    e event_store.event;
	BEGIN
	    FOREACH e IN ARRAY events LOOP
	        INSERT INTO app.counter AS c VALUES ('counts', e.aggregate_id, 1, e.sequence)
	        ON CONFLICT (projection, id) DO UPDATE SET events = c.events + 1, last = EXCLUDED.last WHERE c.last = EXCLUDED.last - 1;
	        IF NOT FOUND THEN
	            RAISE EXCEPTION 'not the next event';
	        END IF;
	    END LOOP;
	END
	$$;
	ALTER FUNCTION app.counts OWNER TO ann;
	SET ROLE ann;
	SELECT event_store.create_projection('counts', 'app.counts'::regproc, '{Count}');
});

my $right = q{SELECT (SELECT string_agg(id || events, ' ' ORDER BY id) FROM app.counter WHERE projection = 'counts')
	= (SELECT string_agg(aggregate_id || n, ' ' ORDER BY aggregate_id) FROM (SELECT aggregate_id, count(*) n FROM event_store.domain_events WHERE aggregate_type = 'Count' GROUP BY 1) x)};

# ---------- it runs on demand, as its owner

append('Count', 20);
ok(caught_up('counts'), 'the events are taken in');
is(sql($right), 't', 'each of them once');
is(projectors(), 'ann', 'by a process that has connected as the owner of the handler');
append('Count', 1);
ok(caught_up('counts'), 'a commit wakes it');

# ---------- storms: each event once

my $storm = $node->background_psql('shop', on_error_stop => 0);
sub storm_begins
{
	$storm->query_until(qr/begun/, q{
		\echo begun
		DO $$ BEGIN FOR i IN 1 .. 1500 LOOP
			PERFORM event_store.append_event('Count', 'a-' || i % 7, NULL, 'E'); COMMIT;
			PERFORM pg_sleep(0.001);
		END LOOP; END $$;
		});
	return;
}
storm_begins();
for (1 .. 8)
{
	poll(q{SELECT count(*) > 0 FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'event_store projector') x});
}
$storm->query_safe('SELECT 1');
ok(caught_up('counts'), 'a projector that is terminated is followed by another');
is(sql($right), 't', 'and each event has its effect once');

storm_begins();
sleep 1;
$node->stop('immediate');
$node->start;
eval { $storm->quit };
ok(caught_up('counts'), 'after a crash of the server it goes on by itself');
is(sql($right), 't', 'and each event has its effect once');

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
append('Count', 50);
$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
is($standby->safe_psql('shop', q{SELECT count(*) FROM event_store.projection_status}), '1', 'a standby shows it');
$node->stop('immediate');
$standby->promote;
$standby->safe_psql('shop', q{SELECT event_store.append_event('Count', 'a-1', NULL, 'E')});
ok(caught_up('counts', $standby), 'after its promotion a standby goes on');
is($standby->safe_psql('shop', $right), 't', 'and each event has its effect once');
$standby->stop;
$node->start;
ok(caught_up('counts'), 'and so does the old primary, alone');

# ---------- projections of one owner that have turns in one process keep their plans

sql(q{
	CREATE SEQUENCE app.plannings;
	GRANT USAGE ON SEQUENCE app.plannings TO ann;
	-- it is called whenever a statement that names it is planned
	CREATE FUNCTION app.planned() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN nextval('app.plannings') > 0; END $$;
});
foreach my $name ('one', 'other')
{
	sql(qq{
		CREATE FUNCTION app.plans_$name(e event_store.event) RETURNS void LANGUAGE plpgsql AS \$\$ BEGIN INSERT INTO app.note SELECT 'plans', '$name' WHERE app.planned(); END \$\$;
		ALTER FUNCTION app.plans_$name OWNER TO ann;
		SET ROLE ann; SELECT event_store.create_projection('plans $name', 'app.plans_$name'::regproc, '{Plan}'); RESET ROLE;
	});
}
for (1 .. 10)
{
	append('Plan', 1);
	caught_up('plans one') && caught_up('plans other') or die 'they do not go on';
}
is(sql(q{SELECT string_agg(said || ' ' || n, ', ' ORDER BY said) FROM (SELECT said, count(*) AS n FROM app.note WHERE who = 'plans' GROUP BY said) x}), 'one 10, other 10', 'two projections in turns');
cmp_ok(sql('SELECT last_value FROM app.plannings'), '<=', 4, 'plan each statement once');
sql(q{DELETE FROM app.note; SELECT event_store.drop_projection('plans one'), event_store.drop_projection('plans other')});

# ---------- a handler of one owner leaves nothing behind for the next

sql(q{
	CREATE SEQUENCE app.given;
	GRANT USAGE ON SEQUENCE app.given TO ann;
	CREATE TABLE app.parent (id int PRIMARY KEY);
	CREATE TABLE app.child (id int REFERENCES app.parent DEFERRABLE INITIALLY DEFERRED);
	GRANT ALL ON app.parent, app.child TO ann, bob;
	CREATE FUNCTION app.litters(e event_store.event) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
	    PERFORM set_config('work_mem', '77MB', false), set_config('app.left', 'behind', false), pg_advisory_lock(4711), nextval('app.given');
	    IF e.event_type <> 'E' THEN
	        EXECUTE (e.payload ->> 'run');
	    END IF;
	END
	$$;
	CREATE FUNCTION app.looks(e event_store.event) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
	    BEGIN
	        INSERT INTO app.note VALUES ('looks', 'last value ' || lastval());
	    EXCEPTION WHEN object_not_in_prerequisite_state THEN
	        NULL;
	    END;
	    INSERT INTO app.note SELECT 'looks', format('%s %s %s %s %s %s %s', current_user, session_user, current_setting('role'), current_setting('work_mem') = '77MB',
	        coalesce(current_setting('app.left', true), '') = 'behind',
	        (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND pid = pg_backend_pid()),
	        (SELECT count(*) FROM pg_class WHERE relpersistence = 't') + (SELECT count(*) FROM pg_prepared_statements) + (SELECT count(*) FROM pg_cursors WHERE is_holdable));
	END
	$$;
});
foreach my $owner ('ann', 'bob')
{
	sql(qq{
		ALTER FUNCTION app.litters OWNER TO ann; ALTER FUNCTION app.looks OWNER TO $owner;
		SET ROLE ann; SELECT event_store.create_projection('litters', 'app.litters'::regproc, '{Litter}', start_after => NULL, on_failure => 'skip', max_attempts => 1); RESET ROLE;
		SET ROLE $owner; SELECT event_store.create_projection('looks', 'app.looks'::regproc, '{Litter}', start_after => NULL); RESET ROLE;
	});
	append('Litter', 3);
	ok(caught_up('litters') && caught_up('looks'), "a projection of $owner goes on beside one of ann's");
	is(sql('SELECT string_agg(DISTINCT said, chr(10)) FROM app.note'), "$owner $owner none f f 0 0",
		'and finds no role, setting, lock, temporary table, statement, cursor or value of a sequence');
	sql(q{TRUNCATE app.note; SELECT event_store.drop_projection('litters'), event_store.drop_projection('looks')});
}
is(sql(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711}), '0', 'the lock of a session ends with the batch');

# what would be left behind is refused, which is no event's fault; the others go on meanwhile
sql(q{SET ROLE ann; SELECT event_store.create_projection('litters', 'app.litters'::regproc, '{Litter}', start_after => NULL)});
foreach my $case (['SET ROLE postgres', 'role'], ['CREATE TEMPORARY TABLE t (a int)', 'temporary table'],
	['PREPARE p AS SELECT 1', 'PREPARE'], ['LISTEN l', 'LISTEN'], ['DECLARE c CURSOR WITH HOLD FOR SELECT 1', 'cursor'], ['SET SESSION AUTHORIZATION DEFAULT', 'session_authorization'])
{
	sql(qq{SELECT event_store.append_event('Litter', 'l-1', NULL, 'Run', jsonb_build_object('run', '$case->[0]'))});
	ok(poll(qq{SELECT state = 'retrying' AND last_error LIKE '42501: %$case->[1]%' FROM event_store.projection_status WHERE projection_name = 'litters'}),
		"$case->[0] is refused");
	append('Count', 1);
	ok(caught_up('counts'), 'and another projection goes on');
	sql(q{SELECT event_store.fail_events('litters', max(global_position), 'refused', 'skip') FROM event_store.domain_events WHERE event_type = 'Run'});
	ok(caught_up('litters'), 'it goes on behind it');
}
is(sql(q{SELECT count(*) FROM event_store.parked_events}), '0', 'nothing was parked for it');

# deferred: the constraint is looked at within the call
sql(q{SELECT event_store.append_event('Litter', 'l-1', NULL, 'Run', '{"run": "INSERT INTO app.child VALUES (1)"}')});
ok(poll(q{SELECT last_error LIKE '23503: %' FROM event_store.projection_status WHERE projection_name = 'litters'}), 'a deferred constraint fails its event');
sql(q{SELECT event_store.drop_projection('litters')});

# ---------- a projection that fails or stops stops nothing else

sql(q{
	CREATE FUNCTION app.fails(e event_store.event[]) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
	    IF EXISTS (SELECT FROM unnest(e) u WHERE u.event_type = 'Bad') THEN
	        RAISE EXCEPTION 'bad';
	    END IF;
	    INSERT INTO app.note SELECT 'fails', u.event_type FROM unnest(e) u;
	END
	$$;
	CREATE FUNCTION app.ends_never(e event_store.event) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
	    IF e.event_type = 'Bad' THEN
	        LOOP
	            BEGIN
	                PERFORM pg_sleep(3600);
	            EXCEPTION WHEN query_canceled THEN
	                NULL;
	            END;
	        END LOOP;
	    END IF;
	    INSERT INTO app.note VALUES ('ends_never ' || e.aggregate_type, e.event_type);
	END
	$$;
	ALTER FUNCTION app.fails OWNER TO bob;
	ALTER FUNCTION app.ends_never OWNER TO bob;
	SET ROLE bob;
	SELECT event_store.create_projection('fails', 'app.fails'::regproc, '{Fail}', max_attempts => 3);
	SELECT event_store.create_projection('parks', 'app.fails'::regproc, '{Fail}', on_failure => 'park', max_attempts => 2);
	SELECT event_store.create_projection('ends_never', 'app.ends_never'::regproc, '{Fail}', on_failure => 'park', max_attempts => 2, timeout => '50ms');
});
append('Fail', 5);
append('Fail', 1, 'Bad');
append('Fail', 5);
ok(poll(q{SELECT state = 'stopped' AND attempts = 3 AND last_error = 'P0001: bad' FROM event_store.projection_status WHERE projection_name = 'fails'}), 'one stops');
ok(poll(q{SELECT state = 'parked' AND attempts = 2 FROM event_store.parked_events WHERE subscription_name = 'parks'}), 'one parks');
ok(poll(q{SELECT state = 'parked' AND attempts = 2 AND error_message ~ '^57014' FROM event_store.parked_events WHERE subscription_name = 'ends_never'}),
	'one that never ends is ended with its process, and that counts');
# among others in one batch: those before it are not undone with it each time
sql(q{
	SET ROLE bob;
	SELECT event_store.create_projection('behind', 'app.ends_never'::regproc, '{Behind}', on_failure => 'park_event', max_attempts => 1, timeout => '50ms', members => 2);
	SELECT event_store.pause_subscription('behind');
});
append('Behind', 6);
append('Behind', 3, 'Bad');
append('Behind', 6);
sql(q{SELECT event_store.resume_subscription('behind')});
ok(poll(q{SELECT lag_events = 0 AND (SELECT count(*) FROM event_store.parked_events a WHERE a.subscription_name = 'behind') = 3 FROM event_store.projection_status WHERE projection_name = 'behind'}),
	'one that never ends within a batch is found, by each of two members');
sql(q{SELECT event_store.drop_projection('behind')});
append('Count', 3);
ok(caught_up('counts'), 'and another goes on');
is(sql(q{SELECT who || ' ' || count(*) FROM app.note GROUP BY who ORDER BY who}), "ends_never Behind 12\nends_never Fail 9\nfails 14",
	'what is not behind the event was taken in, by the one that stopped up to it');
sql(q{CREATE OR REPLACE FUNCTION app.fails(e event_store.event[]) RETURNS void LANGUAGE sql AS $$ SELECT $$; SELECT event_store.resume_subscription('fails')});
ok(caught_up('fails'), 'resumed, it goes on');

# what is no event's fault: nothing counts, nothing is halved or parked
sql(q{
	CREATE FUNCTION app.unlucky(e event_store.event[]) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
	    IF (SELECT count(*) FROM app.note WHERE who = 'luck') = 0 THEN
	        RAISE EXCEPTION 'no luck' USING ERRCODE = 'disk_full';
	    END IF;
	    INSERT INTO app.note VALUES ('unlucky', cardinality(e));
	END
	$$;
	ALTER FUNCTION app.unlucky OWNER TO bob;
	SET ROLE bob;
	SELECT event_store.create_projection('unlucky', 'app.unlucky'::regproc, '{Luck}', max_attempts => 1);
});
append('Luck', 10);
ok(poll(q{SELECT state = 'retrying' AND attempts > 3 AND last_error = '53100: no luck' FROM event_store.projection_status WHERE projection_name = 'unlucky'}), 'a full disk is tried again');
is(sql(q{SELECT max(attempts) || ' ' || bool_or(stopped) FROM event_store.subscription_positions WHERE subscription_name = 'unlucky'}), '0 false', 'no attempt is counted');
sql(q{INSERT INTO app.note VALUES ('luck', '')});
ok(caught_up('unlucky'), 'until it goes through');
is(sql(q{SELECT said FROM app.note WHERE who = 'unlucky'}), '10', 'in one batch');

# ---------- reactions: each batch ends behind the first

sql(q{
	CREATE FUNCTION app.answers(e event_store.event) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
	    PERFORM event_store.append_event('Answer', e.aggregate_id, NULL, 'Answered');
	END
	$$;
	ALTER FUNCTION app.answers OWNER TO ann;
	SET ROLE ann;
	SELECT event_store.create_projection('answers', 'app.answers'::regproc, '{Question}');
});
append('Question', 10);
ok(caught_up('answers'), 'questions are answered');
is(sql(q{SELECT count(*) || ' ' || count(DISTINCT xmin::text) || ' ' || count(DISTINCT causation_id) FROM event_store.domain_events WHERE aggregate_type = 'Answer'}),
	'10 10 10', 'each once, in a transaction of its own, with its cause');

# ---------- roles, processes

sql(q{
	ALTER ROLE bob NOLOGIN;
	SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'event_store projector';
});
append('Luck', 1);
ok(poll(q{SELECT state = 'retrying' AND last_error ~ 'lacks LOGIN' FROM event_store.projection_status WHERE projection_name = 'unlucky'}), 'a role that may not log in any more holds up its own');
sql(q{ALTER ROLE bob LOGIN});
ok(caught_up('unlucky'), 'until it may again');
append('Count', 1);
ok(caught_up('counts'), 'others go on');

# ---------- DROP DATABASE, with a handler at work

create_store_in($node, 'doomed');
$node->safe_psql('doomed', q{
	CREATE FUNCTION sleeps(e event_store.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(3600); END $$;
	SELECT event_store.create_projection('sleeps', 'sleeps'::regproc, timeout => '10min');
	SELECT event_store.append_event('Any', 'a', NULL, 'E');
});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = 'doomed' AND backend_type = 'event_store projector' AND wait_event = 'PgSleep'}),
	'a handler is at work');
my $began = time;
$node->safe_psql('postgres', 'DROP DATABASE doomed');
ok(time - $began < 2, 'DROP DATABASE ends within 2 s');

# ---------- fast shutdown

append('Count', 100);
$node->stop('fast');
$node->start;
ok(caught_up('counts'), 'after a stop it goes on by itself');
is(sql($right), 't', 'and each event has its effect once');
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed by itself');
done_testing();
