# Commands that need a database for themselves make its worker leave: nobody
# has to know that there is one.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('commands',
	conf => "event_store.write_delay = '1ms'\nevent_store.write_batch_size = 100\n");
$node->start;

# ---------- DROP DATABASE while the worker drains

my $fast = 0;
for my $n (1 .. 3)
{
	create_store_in($node, "doomed$n");
	wait_for_worker($node, "doomed$n");
	stage($node, "doomed$n", 'busy', 100, 300);
	my $began = time;
	$node->safe_psql('postgres', "DROP DATABASE doomed$n");
	my $took = time - $began;
	note("DROP DATABASE took $took s");
	$fast++ if $took < 2;
}
ok($fast > 0, 'DROP DATABASE with a busy worker ends within 2 s');
is($node->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'event_store worker'"),
	'0', 'no worker is left behind');

# ---------- DROP DATABASE of others while a worker drains

create_store_in($node, 'shop');
wait_for_worker($node, 'shop');
$node->safe_psql('postgres', 'CREATE DATABASE other');
stage($node, 'shop', 'first', 100, 100);
my $worker = wait_for_worker($node, 'shop');
$node->safe_psql('postgres', 'DROP DATABASE other');
is(wait_for_worker($node, 'shop'), $worker, 'a worker elsewhere is left alone');
ok(flush_all($node, 'shop'), 'and goes on');

# ---------- a worker that is stuck in a round leaves all the same

$node->safe_psql('shop', q{
	CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN PERFORM pg_sleep(3600) WHERE current_setting('gate.state', true) = 'closed';
	RETURN NULL; END$$;
	CREATE TRIGGER gate BEFORE INSERT ON event_store.domain_events
	    FOR EACH STATEMENT EXECUTE FUNCTION gate();
	ALTER DATABASE shop SET gate.state = 'closed';
});
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
$worker = wait_for_worker($node, 'shop', $worker);
is(stage($node, 'shop', 'second', 20, 50), '1000', 'rows are staged');
ok($node->poll_query_until('postgres',
		"SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $worker"),
	'a round is stuck');

# ---------- CREATE DATABASE ... TEMPLATE: a copy with all that was staged

my @copies = map {
	my ($in, $out, $err) = ("CREATE DATABASE copy$_ TEMPLATE shop;\n", '', '');
	{
		err => \$err,
		run => IPC::Run::start(
			[ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-f', '-' ],
			'<', \$in, '>', \$out, '2>', \$err)
	}
} (1 .. 2);
foreach my $copy (@copies)
{
	$copy->{run}->finish;
	is(${ $copy->{err} }, '', 'CREATE DATABASE from a template with a busy worker');
}
my $back = wait_for_worker($node, 'shop', $worker);
isnt($back, $worker, 'a worker comes back to the template');
foreach my $copy (1 .. 2)
{
	ok($node->poll_query_until("copy$copy",
			'SELECT count(*) = 11000 FROM event_store.domain_events'),
		"copy $copy makes durable what was staged in its template");
}
is(events_in($node, 'shop'), '10000', 'the template itself is still stuck');

# ---------- ALTER DATABASE RENAME, SET TABLESPACE

$node->safe_psql('postgres', 'ALTER DATABASE shop RENAME TO store');
pass('RENAME with a stuck worker');
$worker = wait_for_worker($node, 'store', $back);
$node->safe_psql('postgres',
	q{SET allow_in_place_tablespaces = on; CREATE TABLESPACE elsewhere LOCATION ''});
$node->safe_psql('postgres', 'ALTER DATABASE store SET TABLESPACE elsewhere');
pass('SET TABLESPACE with a stuck worker');
$node->safe_psql('postgres', 'ALTER DATABASE store SET gate.state = DEFAULT');
$worker = wait_for_worker($node, 'store', $worker);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
$worker = wait_for_worker($node, 'store', $worker);
ok(flush_all($node, 'store'), 'the worker goes on under the new name and place');
is(events_in($node, 'store'), '11000', 'with every row, once');

# ---------- commands that fail let the worker come back

my $client = $node->background_psql('store');
like(error_of($node, 'postgres', 'DROP DATABASE store'),
	qr/55006/, 'DROP DATABASE is refused while a client is connected');
$client->quit;
$worker = wait_for_worker($node, 'store', $worker);
stage($node, 'store', 'third', 2, 2);
ok(flush_all($node, 'store'), 'a worker is there afterwards');
like(error_of($node, 'postgres', 'DROP DATABASE nowhere'), qr/3D000/, 'no such database');

# ---------- who may not run them does not disturb the worker

$node->safe_psql('postgres', 'CREATE ROLE nobody LOGIN');
$worker = wait_for_worker($node, 'store');
like(error_of($node, 'postgres', "SET ROLE nobody;\n$_"), qr/42501/, "refused: $_")
  foreach ('DROP DATABASE store', 'CREATE DATABASE x TEMPLATE store',
	'ALTER DATABASE store RENAME TO x');
is(worker_pid($node, 'store'), $worker, 'the worker did not notice');

# ---------- WITH (FORCE), and slots are given back

$node->safe_psql('postgres', 'DROP DATABASE store WITH (FORCE)');
$node->safe_psql('postgres', 'DROP DATABASE copy1');
$node->safe_psql('postgres', 'DROP DATABASE copy2');
is($node->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'event_store worker'"),
	'0', 'no database, no worker');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
