# When no worker can be had: one warning, everything goes on in the foreground,
# and the worker comes when it can.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('slots',
	conf => "event_store.write_delay = '1h'\nmax_logical_replication_workers = 0\n");
$node->start;
foreach my $database (qw(one other))
{
	create_store_in($node, $database);
	wait_for_worker($node, $database);
	stage($node, $database, 'left', 3, 2);
	$node->safe_psql($database,
		q{SELECT event_store.put_view('V', 'left', '{"n": 1}', durability => 'staged')});
}

$node->safe_psql('one', q{
	CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
	    PERFORM pg_advisory_xact_lock_shared(7);
	    RETURN NULL;
	END $$;
	CREATE TRIGGER hold AFTER INSERT ON event_store.domain_events FOR EACH ROW EXECUTE FUNCTION hold()});

sub warnings_since
{
	my ($offset, $what) = @_;
	my $count = () = slurp_file($node->logfile, $offset) =~ /WARNING:  $what/g;

	return $count;
}

# ---------- a process for the launcher and for one worker

my $offset = log_offset($node);
$node->append_conf('postgresql.conf', "max_worker_processes = 2\n");
$node->restart;
# a round that does not end keeps the process: a worker at rest would leave it
my ($served, $alone) = ('one', 'other');
my $holder = $node->background_psql($served);
$holder->query_safe('SELECT pg_advisory_lock(7)');
$node->safe_psql($served, q{SELECT event_store.flush(timeout => '0s')});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity
    WHERE backend_type = 'event_store worker' AND datname = 'one' AND wait_event = 'advisory'}),
	'one database has the worker');
$node->safe_psql($alone, 'SELECT event_store.announce_store()');
ok($node->poll_query_until($alone,
		"SELECT state = 'unavailable' FROM event_store.worker_status"),
	'one database has no worker');

sub sql
{
	return $node->safe_psql($alone, $_[0]);
}

is(sql(q{SELECT count(*), count(global_position) FROM event_store.load_events('Order', 'left-1')}),
	'2|0', 'what is staged is read');
is(sql(q{SELECT durable, first_sequence FROM event_store.append_event('Order', 'left-1', 2, 'Placed')}),
	't|3', 'a durable append finds its aggregate staged');
is(sql(q{SELECT count(global_position), bool_and(global_position > 0) FROM event_store.load_events('Order', 'left-1')}),
	'3|t', 'and drained that itself');
is(sql(q{SELECT event_store.load_view('V', 'left')}), '{"n": 1}', 'with the views');
is(sql(q{SELECT durable FROM event_store.append_event('Order', 'new', 0, 'Placed', durability => 'staged')}),
	't', 'a staged append is written through');
is(sql(q{SELECT event_store.put_view('V', 'left', '{"n": 2}', durability => 'staged')}),
	't', 'so is a view');
is(sql('SELECT event_store.flush()'), 't', 'flush() works');
is(sql('SELECT event_store.drain()'), '0', 'drain() works');
is(sql(q{SET event_store.on_staging_full = 'block'; SET event_store.durability = 'staged';
		 SELECT durable FROM event_store.append_event('Order', 'block', 0, 'Placed')}),
	't', 'nobody waits for space');
is(events_in($node, $alone), '9', 'all is durable');
is(warnings_since($offset, 'could not start an event_store worker'), 1, 'one warning');

# ---------- a process becomes free

$holder->quit;
$node->safe_psql('postgres', "DROP DATABASE $served");
wait_for_worker($node, $alone);
ok($node->poll_query_until($alone, "SELECT state = 'running' FROM event_store.worker_status"),
	'the worker starts when a process becomes free');
is(sql(q{SELECT durable FROM event_store.append_event('Order', 'later', 0, 'Placed', durability => 'staged')}),
	'f', 'and staging works again');
is(sql('SELECT event_store.flush()'), 't', 'through the worker');
is(warnings_since($offset, 'could not start an event_store worker'), 1, 'still one warning');

# ---------- staged rows left over: drain() and flush() in the foreground

foreach my $way ('drain', 'flush')
{
	$node->append_conf('postgresql.conf', "max_worker_processes = 2\n");
	$node->restart;
	wait_for_worker($node, $alone);
	my $before = events_in($node, $alone);
	stage($node, $alone, "$way", 2, 2);
	$node->append_conf('postgresql.conf', "max_worker_processes = 1\n");
	$node->restart;
	ok($node->poll_query_until($alone,
			"SELECT state = 'unavailable' FROM event_store.worker_status"), "$way: no worker");
	is(sql("SELECT event_store.$way()"), $way eq 'drain' ? '4' : 't', "$way() does the work");
	is(events_in($node, $alone), $before + 4, "$way: all is durable");
}

# ---------- a database that allows no connections

$node->append_conf('postgresql.conf', "max_worker_processes = 8\n");
$node->restart;
my $worker = wait_for_worker($node, $alone);
$node->poll_query_until($alone, "SELECT state = 'running' FROM event_store.worker_status");
my $client = $node->background_psql($alone);
$client->query_safe('SET client_min_messages = error');
$offset = log_offset($node);
$node->safe_psql('postgres', "ALTER DATABASE $alone ALLOW_CONNECTIONS false");
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker, 60000)");
1 until $client->query_safe('SELECT state FROM event_store.worker_status') eq 'unavailable';
pass('a database that allows no connections has no worker');
is($client->query_safe(
		q{SELECT durable FROM event_store.append_event('Order', 'closed', 0, 'Placed', durability => 'staged')}),
	't', 'those who are connected go on');
my $refused = qr/FATAL:  database "$alone" is not currently accepting connections/;
$node->wait_for_log(qr/(?:$refused.*){4}/s, $offset);
is(warnings_since($offset, qq{event_store worker of database "$alone" keeps ending}), 1, 'one warning');
$client->quit;
$node->safe_psql('postgres', "ALTER DATABASE $alone ALLOW_CONNECTIONS true");
wait_for_worker($node, $alone);
pass('the worker comes back when it may connect');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
