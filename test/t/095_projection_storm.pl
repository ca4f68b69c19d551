# A storm over projections: writers of all kinds append the lines of a real log, each line
# once, while projectors are terminated, views change between inline and async and are rebuilt, the
# server crashes and a standby is promoted.  A reader in REPEATABLE READ finds each inline view
# to be the fold of the log in his snapshot, all the time.  In the end inline, async and rebuilt views
# are one and the same, and what plain SQL makes of the lines; a handler has counted each
# event once.  Single calls meet no 40P01, unless a transaction of several calls crosses them.

use strict;
use warnings;

use EventStoreTest;
use FindBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('storm',
	init => { allows_streaming => 1 },
	conf => "restart_after_crash = on\nmax_worker_processes = 16\nevent_store.retry_initial = '10ms'\ndeadlock_timeout = '100ms'\n");
$node->start;
create_store_in($node, 'permits');

sub sql
{
	return $node->safe_psql('permits', join("\n", @_));
}

sub poll
{
	return $node->poll_query_until('permits', $_[0]);
}

# ---------- the lines: those of receipt.csv, or as many that look like them

my $csv = ($ENV{EVENT_STORE_DATA} // "$FindBin::RealBin/../../../shared/data") . '/receipt.csv';
if (-r $csv)
{
	my @columns = split /,/, (split /\r?\n/, slurp_file($csv))[0];

	sql('CREATE TABLE receipt (n int GENERATED ALWAYS AS IDENTITY, ' . join(', ', map { "\"$_\" text" } @columns) . ');',
		'\copy receipt (' . join(', ', map { "\"$_\"" } @columns) . ") FROM '$csv' CSV HEADER");
	sql(q{CREATE TABLE entry AS SELECT n, "case:concept:name" AS id, "concept:name" AS event_type, "case:department" AS department,
	             "org:group" AS team, "org:resource" AS resource, "time:timestamp"::timestamptz AS at FROM receipt});
}
else
{
	note "$csv is not there; EVENT_STORE_DATA names another folder";
	sql(q{CREATE TABLE entry AS SELECT n, 'case-' || n / 6 AS id, 'T' || n % 27 AS event_type, 'department ' || n % 5 AS department,
	             'team ' || n % 11 AS team, 'resource ' || n % 31 AS resource, '2011-10-01'::timestamptz + n * interval '17 min' AS at
	        FROM generate_series(1, 8577) n});
}
my $lines = sql('SELECT count(*) FROM entry');
sql(<<'SQL');
ALTER TABLE entry ADD payload jsonb;
-- who is at it stands in some events only, but in the first of each case
UPDATE entry SET payload = jsonb_strip_nulls(jsonb_build_object('n', n, 'department', department,
    'team', CASE WHEN n % 3 = 0 OR n IN (SELECT min(n) FROM entry GROUP BY id) THEN team END,
    'marks', (SELECT jsonb_agg(jsonb_build_object('of', 'mark ' || (n + i) % 7, 'points', i)) FROM generate_series(1, n % 4) i)));
ALTER TABLE entry ADD PRIMARY KEY (n);
CREATE TABLE running (client text PRIMARY KEY);
-- what is not appended yet; who appends takes it out in the same transaction
CREATE TABLE todo AS SELECT n FROM entry;
ALTER TABLE todo ADD PRIMARY KEY (n);
-- so many are left for later
CREATE TABLE rest (n bigint);
INSERT INTO rest VALUES (0);
CREATE TABLE crossed (kind text);
CREATE TABLE differs (what text);
CREATE TABLE looks (at timestamptz DEFAULT clock_timestamp());

-- One transaction of a writer, over the next lines; "drafts" are events of a type of
-- their own, staged, which no inline view has.
CREATE FUNCTION write(kind text, l entry[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    one entry;
BEGIN
    IF kind IN ('durable', 'staged') THEN
        PERFORM event_store.append_event('Permit', l[1].id, NULL, l[1].event_type, l[1].payload, occurred_at => l[1].at, durability => kind);
        DELETE FROM todo t WHERE t.n = l[1].n;
    ELSIF kind = 'events' THEN
        PERFORM event_store.append_events('Permit', l[1].id, NULL, (SELECT jsonb_agg(jsonb_build_object('event_type', u.event_type, 'payload', u.payload, 'occurred_at', u.at) ORDER BY u.n)
                                                                     FROM unnest(l) u WHERE u.id = l[1].id));
        DELETE FROM todo t USING unnest(l) u WHERE u.n = t.n AND u.id = l[1].id;
    ELSIF kind = 'batch' THEN
        PERFORM event_store.append_batch((SELECT jsonb_agg(jsonb_build_object('aggregate_type', 'Permit', 'aggregate_id', u.id, 'event_type', u.event_type,
                                                                              'payload', u.payload, 'occurred_at', u.at) ORDER BY u.n DESC) FROM unnest(l) u));
        DELETE FROM todo t USING unnest(l) u WHERE u.n = t.n;
    ELSE
        FOREACH one IN ARRAY l[1:3] LOOP
            -- in vain at first
            BEGIN
                PERFORM event_store.append_event('Permit', one.id, NULL, one.event_type, one.payload);
                RAISE division_by_zero;
            EXCEPTION WHEN division_by_zero THEN
                NULL;
            END;
            PERFORM event_store.append_event('Permit', one.id, NULL, one.event_type, one.payload, occurred_at => one.at);
            PERFORM event_store.append_event('Draft', one.id, NULL, one.event_type, one.payload);
            DELETE FROM todo t WHERE t.n = one.n;
        END LOOP;
    END IF;
END
$$;
CREATE PROCEDURE work(client text, kind text) LANGUAGE plpgsql AS $$
DECLARE
    l entry[];
BEGIN
    INSERT INTO running VALUES (client);
    COMMIT;
    WHILE EXISTS (SELECT FROM running r WHERE r.client = work.client) LOOP
        COMMIT;
        PERFORM pg_sleep(0.01);
        CONTINUE WHEN (SELECT count(*) <= (SELECT rest.n FROM rest) FROM todo);
        l := ARRAY(SELECT e FROM todo t JOIN entry e USING (n) ORDER BY n LIMIT 8 FOR UPDATE OF t SKIP LOCKED);
        CONTINUE WHEN l = '{}';
        BEGIN
            PERFORM write(kind, l);
        EXCEPTION WHEN deadlock_detected THEN
            INSERT INTO crossed VALUES (kind);
        END;
        -- now and then in vain
        IF random() < 0.1 THEN
            ROLLBACK;
        ELSE
            COMMIT;
        END IF;
        IF kind = 'durable' THEN
            PERFORM event_store.append_event('Draft', l[1].id, NULL, l[1].event_type, l[1].payload, durability => 'staged');
            COMMIT;
        END IF;
    END LOOP;
END
$$;

-- What each view is, by SQL that knows nothing of projections.
CREATE VIEW expected AS
WITH e AS (
    SELECT *, payload -> 'n' AS n, max(CASE WHEN payload ? 'team' THEN sequence END) OVER (PARTITION BY aggregate_id ORDER BY sequence) AS since
      FROM event_store.domain_events WHERE aggregate_type = 'Permit'),
teams AS (SELECT aggregate_id, sequence, payload ->> 'team' AS team, lead(sequence) OVER (PARTITION BY aggregate_id ORDER BY sequence) IS NULL AS newest
            FROM e WHERE payload ? 'team')
SELECT 'departments' AS view, payload ->> 'department' AS view_key,
       jsonb_build_object('events', count(*), 'sum', sum(n::int), 'last', max(n::int), 'first', (array_agg(n ORDER BY global_position))[1]) AS view_data,
       max(global_position) AS version
  FROM e GROUP BY 2
UNION ALL
SELECT 'teams', t.team, jsonb_build_object('lines', jsonb_agg(n ORDER BY global_position)), max(global_position)
  FROM e JOIN teams t ON t.aggregate_id = e.aggregate_id AND t.sequence = e.since GROUP BY t.team
UNION ALL
SELECT 'moves', t.team || '/' || e.aggregate_id, jsonb_build_object('lines', jsonb_agg(n ORDER BY global_position)), NULL
  FROM e JOIN teams t ON t.aggregate_id = e.aggregate_id AND t.newest WHERE e.since IS NOT NULL GROUP BY t.team, e.aggregate_id
UNION ALL
SELECT 'days', to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'), jsonb_build_object('events', count(*)), max(global_position) FROM e GROUP BY 2
UNION ALL
SELECT 'marks', m ->> 'of', jsonb_build_object('points', sum((m ->> 'points')::int)), max(global_position) FROM e, jsonb_array_elements(payload -> 'marks') m GROUP BY 2
UNION ALL
SELECT 'cases', aggregate_id, jsonb_build_object('lines', jsonb_agg(n ORDER BY sequence)), max(sequence) FROM e GROUP BY 2;
CREATE FUNCTION rows_of(kind text) RETURNS TABLE (view text, view_key text, view_data jsonb, version bigint) LANGUAGE sql STABLE AS $$
    SELECT split_part(view_name, ' ', 1), view_key, view_data, CASE WHEN view_name NOT LIKE 'moves %' THEN version END
      FROM event_store.domain_views WHERE view_name LIKE '% ' || kind
$$;
-- in one snapshot: the views that are inline in it
CREATE FUNCTION look(kind text) RETURNS SETOF text LANGUAGE sql STABLE AS $$
    WITH inlined AS (SELECT split_part(projection_name, ' ', 1) AS view FROM event_store.projections WHERE mode = 'inline' AND projection_name LIKE '% ' || kind),
    x AS (SELECT * FROM expected WHERE view IN (SELECT view FROM inlined)),
    v AS (SELECT * FROM rows_of(kind) WHERE view IN (SELECT view FROM inlined))
    (SELECT 'lacks ' || view || ' ' || view_key FROM (SELECT * FROM x EXCEPT SELECT * FROM v) a) UNION ALL
    (SELECT 'has ' || view || ' ' || view_key FROM (SELECT * FROM v EXCEPT SELECT * FROM x) b)
$$;
CREATE PROCEDURE watch(client text) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO running VALUES (client);
    COMMIT;
    WHILE EXISTS (SELECT FROM running r WHERE r.client = watch.client) LOOP
        COMMIT;
        SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;
        INSERT INTO differs SELECT look(k) FROM unnest('{inline,late}'::text[]) k;
        INSERT INTO looks DEFAULT VALUES;
        COMMIT;
        PERFORM pg_sleep(0.05);
    END LOOP;
END
$$;

-- a counter for each aggregate and its last sequence: what is repeated or skipped is an error
CREATE TABLE counter (id text PRIMARY KEY, events bigint, last bigint);
CREATE FUNCTION counts(events event_store.event[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    e event_store.event;
BEGIN
    FOREACH e IN ARRAY events LOOP
        INSERT INTO public.counter AS c VALUES (e.aggregate_type || '/' || e.aggregate_id, 1, e.sequence)
        ON CONFLICT (id) DO UPDATE SET events = c.events + 1, last = EXCLUDED.last WHERE c.last = EXCLUDED.last - 1;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'not the next event';
        END IF;
    END LOOP;
END
$$;
SELECT event_store.create_projection('counter', 'counts'::regproc, '{Permit,Draft}', members => 2);
SQL

my %views = (
	departments => [ '"$.payload.department"', '{"events": {"*": [{"op": "increment", "path": "$.events", "value": 1}, {"op": "increment", "path": "$.sum", "from": "$.payload.n"},
	    {"op": "max", "path": "$.last", "from": "$.payload.n"}, {"op": "set_once", "path": "$.first", "from": "$.payload.n"}]}}', 3 ],
	teams => [ '{"sticky": "$.payload.team"}', undef, 1 ],
	moves => [ '{"concat": [{"sticky": "$.payload.team"}, {"value": "/"}, "$.aggregate_id"]}', undef, 1 ],
	days => [ '{"day": "$.occurred_at"}', '{"events": {"*": [{"op": "increment", "path": "$.events", "value": 1}]}}', 2 ],
	marks => [ '{"each": "$.payload.marks", "key": "$.item.of"}', '{"events": {"*": [{"op": "increment", "path": "$.points", "from": "$.item.points"}]}}', 1 ],
	cases => [ undef, undef, 2 ]);

# Makes all views once more, of a kind.
sub create
{
	my ($kind, $mode) = @_;

	foreach my $name (sort keys %views)
	{
		my ($key, $rules, $members) = @{ $views{$name} };

		$key = defined $key ? "'$key'" : 'NULL';
		$rules //= '{"events": {"*": [{"op": "append", "path": "$.lines", "from": "$.payload.n"}]}}';
		$members = 1 if $mode eq 'inline';
		sql("SELECT event_store.create_view_projection('$name $kind', '{Permit}', $key, '$rules', '$mode', members => $members)");
	}
	return;
}

my @clients;
my $number = 0;

sub start
{
	my ($call) = @_;
	my $name = 'k' . ++$number;
	my $client = { out => '', call => $call };

	$call =~ s/NAME/$name/;
	$client->{run} = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('permits'), '-c', "SET event_store.durability = 'durable'", '-c', "CALL $call" ],
		'<', '/dev/null', '>', \$client->{out}, '2>', \$client->{out});
	push @clients, $client;
	return;
}

sub start_all
{
	my ($part, @more) = @_;

	# they go on until so many lines are in the log, and then wait for their end
	sql("DELETE FROM running; UPDATE rest SET n = $lines * (1 - $part)");
	start("work('NAME', '$_')") foreach qw(durable staged events batch durable), @more;
	start("watch('NAME')");
	poll('SELECT count(*) = ' . @clients . ' FROM running') or die join("\n", map { $_->{out} } @clients);
	return;
}

sub end_all
{
	my ($in_vain) = @_;

	sql('DELETE FROM running') if !$in_vain;
	foreach my $client (@clients)
	{
		$client->{run}->finish;
		is($client->{out}, '', "no trouble: $client->{call}") if !$in_vain;
	}
	@clients = ();
	return;
}

# Waits until a part of the lines is in the log.
sub reach
{
	my ($part) = @_;

	return poll("SELECT $lines - count(*) >= $lines * $part FROM todo");
}

sub inlined
{
	my ($kind) = @_;

	return poll("SELECT bool_and(mode = 'inline') FROM event_store.projection_status WHERE projection_name LIKE '% $kind'");
}

sub caught_up
{
	return poll(q{SELECT bool_and(lag_events = 0 AND state IN ('idle', 'running')) FROM event_store.projection_status});
}

sub check
{
	my ($when, @kinds) = @_;

	ok(flush_all($node, 'permits'), "$when: all becomes durable");
	ok(caught_up(), "$when: all projections catch up") or diag(sql(q{SELECT string_agg(s::text, chr(10)) FROM event_store.projection_status s}));
	foreach my $kind (@kinds)
	{
		is(sql(qq{SELECT count(*) FROM ((SELECT * FROM expected EXCEPT SELECT * FROM rows_of('$kind')) UNION ALL (SELECT * FROM rows_of('$kind') EXCEPT SELECT * FROM expected)) d}),
			'0', "$when: each $kind view is the fold of the log");
		is(sql(qq{SELECT count(DISTINCT view) FROM rows_of('$kind')}), '6', "$when: none is empty");
	}
	is(sql(q{SELECT string_agg(DISTINCT what, ', ') FROM differs}), '', "$when: no reader has seen an inline view that was another");
	is(sql(q{SELECT count(*) FROM looks WHERE at > now() - interval '10 min'} ) > 5 ? 'many' : 'few', 'many', "$when: readers have looked");
	is(sql(q{SELECT (SELECT string_agg(id || ' ' || events, ',' ORDER BY id) FROM counter) = (SELECT string_agg(id || ' ' || n, ',' ORDER BY id)
		FROM (SELECT aggregate_type || '/' || aggregate_id AS id, count(*) AS n FROM event_store.domain_events GROUP BY 1) e)}), 't', "$when: a handler has counted each event once");
	return;
}

create('inline', 'inline');
create('async', 'async');
ok(inlined('inline'), 'where there are no events views are inline at once');

# ---------- writers, projectors that are terminated, switches, rebuilds, sizes

start_all(0.45);
reach(0.02);
create('late', 'inline');
foreach my $round (1 .. 3)
{
	sql(q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'event_store projector'});
	ok(inlined('late'), 'views that were made meanwhile catch up and are inline');
	sql(q{SELECT count(event_store.pause_subscription(n || ' late')) FROM unnest('{departments,teams,cases}'::text[]) n});
	reach(0.02 + $round * 0.1);
	sql(q{SELECT event_store.rebuild_projection('moves late');}, q{SELECT event_store.rebuild_projection('teams inline');},
		q{SELECT event_store.rebuild_projection_step('departments async', 500);}, q{SELECT event_store.rebuild_projection('teams async');});
	# refused as long as the last one is not over, which is no trouble
	like(error_of($node, 'permits', "SELECT event_store.resize_subscription('days async', " . (2 + $round) . ')'), qr/^no error|55006/, 'members divide the rows anew');
	sql(q{SELECT count(event_store.resume_subscription(n || ' late')) FROM unnest('{departments,teams,cases}'::text[]) n});
}
ok(inlined('late'), 'resumed, they are inline again');
end_all();
is(sql('SELECT count(*) FROM crossed'), '0', 'single calls have not met a deadlock');
check('after switches and rebuilds', qw(inline late async));

# ---------- a crash of the server, with all of them at work

start_all(0.7, 'several', 'several');
reach(0.5);
sql(q{SELECT event_store.pause_subscription('cases late')});
sql(q{SELECT event_store.resume_subscription('cases late')});
$node->stop('immediate');
end_all(1);
$node->start;
ok(inlined('late'), 'a switch that a crash has cut short is done');
check('after a crash', qw(inline late async));

# ---------- the primary is lost, and a standby promoted

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
start_all(0.9, 'several', 'several');
reach(0.75);
$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
is($standby->safe_psql('permits', q{SELECT count(*) FROM look('inline')}), '0', 'on a standby, too, inline views are the fold of what there is of the log');
$node->stop('immediate');
end_all(1);
$standby->promote;
$node = $standby;
sql(q{SELECT event_store.append_event('Draft', 'first', NULL, 'E')});
check('after a promotion', qw(inline late async));
start_all(1, 'several', 'several');
reach(1);
end_all();
check('in the end', qw(inline late async));

# ---------- what it comes to

is(sql('SELECT count(*) FROM todo'), '0', 'each line was appended');
is(sql(q{SELECT count(*) || ' ' || count(DISTINCT payload -> 'n') FROM event_store.domain_events WHERE aggregate_type = 'Permit'}), "$lines $lines", 'once');
is(sql(q{SELECT count(*) FROM (SELECT event_store.rebuild_projection(projection_name) AS changed FROM event_store.projections WHERE kind = 'view') r WHERE changed > 0}),
	'0', 'rebuilt, no row of any view is another');
check('rebuilt', qw(inline late async));
foreach my $kind (qw(inline late async))
{
	is(sql(qq{
		SELECT count(*) > 1 AND bool_and(view_data @> jsonb_build_object('events', x.events, 'sum', x.sum, 'last', x.last))
		  FROM (SELECT department AS view_key, count(*) AS events, sum(n) AS sum, max(n) AS last FROM entry GROUP BY 1) x
		  FULL JOIN (SELECT * FROM event_store.domain_views WHERE view_name = 'departments $kind') v USING (view_key)}),
		't', "by department across cases, $kind equals plain SQL over the lines");
}
note(sql(q{SELECT count(*) || ' transactions crossed with others of several calls' FROM crossed}));
is(sql(q{SELECT count(*) FROM event_store.parked_events}), '0', 'nothing was set aside');
$node->stop;
done_testing();
