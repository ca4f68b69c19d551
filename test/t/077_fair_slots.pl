# Twenty stores share eight processes fairly: each that stages a trickle is drained
# soon, and none is kept out.

use strict;
use warnings;

use EventStoreTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

use constant STORES => 20;

my $node = new_server('fair',
	conf => "max_worker_processes = 8\nmax_connections = 60\nsynchronous_commit = off\n");
$node->start;
my @stores = map { "store$_" } 1 .. STORES;
create_store_in($node, 'store1');
$node->safe_psql('store1', <<'SQL');
CREATE TABLE running ();
-- how long each event has waited, and whether it was staged
CREATE TABLE waited (event_id uuid, seconds numeric);
CREATE TABLE told (durable boolean);
CREATE FUNCTION note_wait() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.waited VALUES (NEW.event_id, extract(epoch FROM clock_timestamp() - NEW.recorded_at));
    RETURN NULL;
END $$;
CREATE TRIGGER note_wait AFTER INSERT ON event_store.domain_events FOR EACH ROW EXECUTE FUNCTION note_wait();
CREATE PROCEDURE trickle() LANGUAGE plpgsql AS $$
DECLARE
    turn int := 0;
BEGIN
    WHILE EXISTS (SELECT FROM pg_class WHERE relname = 'running') LOOP
        turn := turn + 1;
        INSERT INTO told SELECT durable FROM event_store.append_event('T', 'a' || turn, 0, 'x', durability => 'staged');
        COMMIT;
        PERFORM pg_sleep(0.4);
    END LOOP;
END $$;
SQL
$node->safe_psql('postgres', "CREATE DATABASE $_ TEMPLATE store1") foreach @stores[ 1 .. STORES - 1 ];

my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'event_store worker'};
my @clients = map {
	my $client = { out => '' };
	$client->{run} = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr($_), '-c', 'CALL trickle()' ],
		'<', '/dev/null', '>', \$client->{out}, '2>', \$client->{out});
	$client;
} @stores;

# ---------- each is drained, again and again

foreach my $store (@stores)
{
	ok($node->poll_query_until($store,
			'SELECT count(*) >= 3 FROM told t WHERE NOT t.durable'), "$store stages");
}
foreach my $store (@stores)
{
	ok($node->poll_query_until($store,
			q{SELECT value >= 2 FROM event_store.metrics WHERE metric = 'worker.starts'}),
		"$store gets a worker again");
}

# ---------- what an operator sees

cmp_ok($node->safe_psql('postgres', $workers), '<=', 7, 'no more workers than processes');
my $log = slurp_file($node->logfile);
like($log, qr/WARNING:  could not start an event_store worker for database "store\d+"/,
	'the log names the database');
like($log, qr/HINT:  You might need to increase max_worker_processes/, 'and the setting');

# ---------- fewer by a setting

$node->append_conf('postgresql.conf', "event_store.max_workers = 2\n");
$node->reload;
ok($node->poll_query_until('postgres', "SELECT ($workers) <= 2"), 'max_workers: the others leave');
my @started = map {
	$node->safe_psql($_, q{SELECT value FROM event_store.metrics WHERE metric = 'worker.starts'});
} @stores;
my $most = 0;
foreach my $n (0 .. $#stores)
{
	ok($node->poll_query_until($stores[$n],
			"SELECT value > $started[$n] FROM event_store.metrics WHERE metric = 'worker.starts'"),
		"$stores[$n] has its turn");
	my $now = $node->safe_psql('postgres', $workers);
	$most = $now if $now > $most;
}
cmp_ok($most, '<=', 2, 'never more');
$node->append_conf('postgresql.conf', "event_store.max_workers = 0\n");
$node->reload;
ok($node->poll_query_until('postgres', "SELECT ($workers) > 2"), '0: as many as there are processes for');

$node->safe_psql($_, 'DROP TABLE running') foreach @stores;
foreach my $client (@clients)
{
	$client->{run}->finish;
	unlike($client->{out}, qr/ERROR|FATAL/, 'the client had no trouble');
}
foreach my $store (@stores)
{
	ok($node->poll_query_until($store, q{SELECT count(*) = (SELECT count(*) FROM waited) FROM told}),
		"$store: all is durable");
	cmp_ok($node->safe_psql($store, 'SELECT round(max(seconds)) FROM waited'), '<=', 11,
		"$store: within ten seconds of write_delay");
}
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
