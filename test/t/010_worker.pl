# When the worker runs: where a store is, as long as there is something to do,
# and again when it was killed.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('worker', conf => "event_store.write_delay = '50ms'\nwal_level = replica\nmax_wal_senders = 1\n");
$node->start;

# ---------- a store created while the server runs

create_store_in($node, 'quiet');
create_store_in($node, 'busy');
my $quiet = wait_for_worker($node, 'quiet');
ok($node->poll_query_until('quiet',
		"SELECT state = 'running' AND drain_state = 'idle' FROM event_store.worker_status"),
	'a worker runs soon after create_store() was committed');
is($node->safe_psql('quiet',
		"SELECT pid = $quiet AND started_at <= clock_timestamp()
		        AND consecutive_failures = 0 AND last_error IS NULL
		   FROM event_store.worker_status"),
	't', 'worker_status shows it');
is($node->safe_psql('quiet',
		"SELECT a.backend_type FROM event_store.worker_status w
		   JOIN pg_stat_activity a ON a.pid = w.launcher_pid
		  WHERE a.datname IS NULL"),
	'event_store launcher', 'the launcher is connected to no database');

# ---------- one that was used, and is left alone from here on

create_store_in($node, 'used');
wait_for_worker($node, 'used');
my $space = 'SELECT staged_bytes FROM event_store.staging_status';
my $unused = $node->safe_psql('used', $space);
stage($node, 'used', 'space', 100, 20);
ok(flush_all($node, 'used'), 'a store was used');
cmp_ok($node->safe_psql('used', $space), '>', 1.5 * $unused, 'its staging takes space');

my $idle_since = $node->safe_psql('postgres',
	"SELECT state_change FROM pg_stat_activity WHERE pid = $quiet");

# ---------- nobody asks: staged rows become durable after write_delay

wait_for_worker($node, 'busy');
stage($node, 'busy', 'delay', 3, 2);
ok($node->poll_query_until('busy',
		'SELECT count(*) = 6 FROM event_store.domain_events'),
	'staged events become durable without being asked for');

# ---------- terminated in the middle of a round

$node->safe_psql('busy', q{
	CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END$$;
	CREATE TRIGGER gate BEFORE INSERT ON event_store.domain_events
	    FOR EACH STATEMENT EXECUTE FUNCTION gate();
});
my $blocker = $node->background_psql('busy');
$blocker->query_safe('SELECT pg_advisory_lock(1)');
stage($node, 'busy', 'killed', 10, 30);
my $in_round = "SELECT count(*) = 1 FROM pg_stat_activity
	WHERE backend_type = 'event_store worker' AND datname = 'busy' AND wait_event_type = 'Lock'";
my $victim = 0;
for my $kill (1 .. 2)
{
	$victim = wait_for_worker($node, 'busy', $victim);
	ok($node->poll_query_until('postgres', $in_round), "worker $kill is in a round");
	is($node->safe_psql('postgres', "SELECT pg_terminate_backend($victim)"),
		't', 'and is terminated');
}
my $survivor = wait_for_worker($node, 'busy', $victim);
is($node->safe_psql('busy', 'SELECT staged_events FROM event_store.staging_status'),
	'300', 'nothing moved while rounds were broken off');
$blocker->query_safe('SELECT pg_advisory_unlock(1)');
$blocker->quit;
ok(flush_all($node, 'busy'), 'the next worker goes on');
is(events_in($node, 'busy'), '306', 'every event is durable, once');
is($node->safe_psql('busy',
		'SELECT count(*) FROM (SELECT FROM event_store.domain_events
		  GROUP BY aggregate_id HAVING max(sequence) <> count(*) OR min(sequence) <> 1) broken'),
	'0', 'and every aggregate is whole');

$node->safe_psql('busy', 'DROP TRIGGER gate ON event_store.domain_events');

# ---------- terminated again and again under load

my $appended = 306;
for my $turn (1 .. 15)
{
	$appended += stage($node, 'busy', "load-$turn", 20, 10);
	$node->safe_psql('postgres',
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		  WHERE backend_type = 'event_store worker' AND datname = 'busy'");
}
ok(flush_all($node, 'busy'), 'flush after many terminations');
is(events_in($node, 'busy'), $appended, 'nothing lost, nothing twice');

# ---------- an error of the world: back off, say so, go on when it is over

$survivor = wait_for_worker($node, 'busy');
$node->safe_psql('busy', q{
	CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN RAISE EXCEPTION 'no space here' USING ERRCODE = 'disk_full'; END$$;
	CREATE TRIGGER full_disk BEFORE INSERT ON event_store.domain_events
	    FOR EACH ROW EXECUTE FUNCTION full_disk();
});
stage($node, 'busy', 'outage', 5, 2);
ok($node->poll_query_until('busy',
		"SELECT drain_state = 'backing_off' AND consecutive_failures >= 2
		        AND last_error = 'no space here' AND state = 'running'
		   FROM event_store.worker_status"),
	'the worker backs off');
is($node->safe_psql('busy',
		"SELECT staged_events, drain_state, last_error FROM event_store.staging_status"),
	'10|backing_off|no space here', 'staging_status says the same');
$node->safe_psql('busy', 'DROP TRIGGER full_disk ON event_store.domain_events');
ok(flush_all($node, 'busy'), 'it recovers by itself');
is($node->safe_psql('busy',
		"SELECT consecutive_failures = 0 AND pid = $survivor FROM event_store.worker_status"),
	't', 'in the same process');
$appended += 10;
is(events_in($node, 'busy'), $appended, 'with all that was staged');

# ---------- settings are read again

$node->append_conf('postgresql.conf', "event_store.write_delay = '1h'\n");
$node->reload;
$node->poll_query_until('busy', "SELECT current_setting('event_store.write_delay') = '1h'");
stage($node, 'busy', 'later', 1, 1);
$node->append_conf('postgresql.conf', "event_store.write_delay = '50ms'\n");
$node->reload;
$appended += 1;
ok($node->poll_query_until('busy',
		"SELECT count(*) = $appended FROM event_store.domain_events"),
	'a shorter write_delay counts for rows already staged');
# at a reload workers start anew; wait for those that have seen the last one
foreach my $database (qw(busy quiet))
{
	ok($node->poll_query_until($database,
			"SELECT started_at > pg_conf_load_time() FROM event_store.worker_status"),
		"that of $database has read it");
}
$survivor = wait_for_worker($node, 'busy');
$quiet = wait_for_worker($node, 'quiet');
ok($node->poll_query_until('postgres',
		"SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $quiet"),
	'and rests');
$idle_since = $node->safe_psql('postgres',
	"SELECT state_change FROM pg_stat_activity WHERE pid = $quiet");

# ---------- the launcher terminated: workers stay, it comes back

my $launcher = $node->safe_psql('busy', 'SELECT launcher_pid FROM event_store.worker_status');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
ok($node->poll_query_until('busy',
		"SELECT launcher_pid <> $launcher FROM event_store.worker_status"),
	'the launcher is restarted');
is(worker_pid($node, 'busy'), $survivor, 'the worker did not notice');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($survivor)");
stage($node, 'busy', 'orphan', 2, 2);
$appended += 4;
ok($node->poll_query_until('busy',
		"SELECT count(*) = $appended FROM event_store.domain_events"),
	'a worker whose launcher is gone is replaced as well');

# ---------- an idle worker runs nothing, then leaves, and comes when called

is($node->safe_psql('postgres',
		"SELECT state_change = '$idle_since' FROM pg_stat_activity WHERE pid = $quiet"),
	't', 'the idle worker of the other database has not run anything');
ok($node->poll_query_until('postgres',
		"SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $quiet)"),
	'idle long enough it leaves');
is($node->safe_psql('quiet',
		"SELECT state, drain_state, pid IS NULL FROM event_store.worker_status"),
	'none|stopped|t', 'which worker_status shows');
is($node->safe_psql('quiet', 'SELECT staging_dirty FROM event_store.store_state'),
	'f', 'having closed staging');
ok($node->poll_query_until('used', 'SELECT NOT staging_dirty FROM event_store.store_state'),
	'so does that of the used one');
cmp_ok($node->safe_psql('used', $space), '<', 1.1 * $unused, 'having given back its space');
$node->safe_psql('quiet', q{SELECT event_store.append_event('Order', 'durable', 0, 'Placed')});
ok($node->poll_query_until('quiet',
		'SELECT safe_position = event_store.safe_position() FROM event_store.store_state'),
	'a durable append calls it for the sake of standbys');
is($node->safe_psql('quiet', 'SELECT staging_dirty FROM event_store.store_state'),
	'f', 'which does not open staging');
is(stage($node, 'quiet', 'called', 1, 3), '3', 'a staged append opens it again');
ok(flush_all($node, 'quiet'), 'and the worker that came drains it');
is(events_in($node, 'quiet'), '4', 'to the last row');

# ---------- after a restart every database is looked at, unasked

stage($node, 'busy', 'restart', 4, 5);
$appended += 20;
$node->restart;
wait_for_worker($node, 'busy');
wait_for_worker($node, 'quiet');
ok($node->poll_query_until('busy',
		"SELECT count(*) = $appended FROM event_store.domain_events"),
	'what was staged at a clean shutdown is drained afterwards');
is($node->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity
		  WHERE backend_type = 'event_store worker' AND datname = 'postgres'"),
	'0', 'no worker stays where there is no store');

# ---------- no process to be had: callers do the work

my $offset = log_offset($node);
$node->append_conf('postgresql.conf',
	"max_worker_processes = 1\nmax_logical_replication_workers = 0\n");
$node->restart;
ok($node->poll_query_until('busy',
		"SELECT state = 'unavailable' FROM event_store.worker_status"),
	'the worker is unavailable');
is($node->safe_psql('busy',
		"SELECT durable FROM event_store.append_event('Order', 'alone', 0, 'Placed',
		     durability => 'staged')"),
	't', 'a staged append is written through');
is($node->safe_psql('busy', 'SELECT event_store.flush()'), 't', 'flush works');
my $warnings = () = slurp_file($node->logfile, $offset) =~
  /WARNING:  could not start an event_store worker/g;
is($warnings, 1, 'one warning for the outage');
$node->append_conf('postgresql.conf', "max_worker_processes = 8\n");
$node->restart;
wait_for_worker($node, 'busy');
pass('with room for processes it is back');

$node->stop;
done_testing();
