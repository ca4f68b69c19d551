# Beyond event_store.max_databases a store works as without preload; who has a
# place keeps it over a restart, and gives it back with DROP DATABASE.

use strict;
use warnings;

use EventStoreTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('places',
	conf => "event_store.max_databases = 2\nevent_store.write_delay = '1h'\n");
$node->start;
create_store_in($node, 'one');
wait_for_worker($node, 'one');
create_store_in($node, 'two');
create_store_in($node, 'three');

sub sql
{
	return $node->safe_psql('three', $_[0]);
}

my $staged = q{SELECT durable FROM event_store.append_event('T', 'staged', NULL, 'x', durability => 'staged')};

sub has_place
{
	my ($database) = @_;
	my $told = error_of($node, $database, $staged);

	return 1 if $told =~ /^no error: f$/;
	return 0 if $told =~ /55000.*all places.*max_databases/s;
	return $told;
}

# ---------- without a place

is(has_place($_), 1, "$_ has a place") foreach qw(one two);
is(has_place('three'), 0, 'three has none, and is told which setting that depends on');
is(sql(q{SELECT first_sequence, durable FROM event_store.append_event('T', 'a', 0, 'x')}), '1|t', 'a durable append');
is(sql(q{SELECT sequence FROM event_store.load_events('T', 'a')}), '1', 'durable appends and reads work');
is(sql(q{SELECT event_store.put_view('V', 'v', '{"n": 1}'); SELECT event_store.load_view('V', 'v')}),
	qq(t\n{"n": 1}), 'so do views');
is(sql('SELECT event_store.drain()'), '0', 'drain() works');
is(sql('SELECT event_store.flush()'), 't', 'flush() works');
is(sql('SELECT state FROM event_store.worker_status'), 'no place', 'worker_status says why there is no worker');
is(sql('SELECT count(*) FROM event_store.staging_status'), '1', 'staging_status can be read');
like(error_of($node, 'three', "SELECT event_store.$_"), qr/55000.*all places.*max_databases/s, "55000: $_")
  foreach ('safe_position()', 'openmetrics()');

# ---------- positions, without memory

my @writers = map {
	my $writer = { out => '' };
	$writer->{run} = IPC::Run::start(
		[
			'psql', '-XAtq', '-d', $node->connstr('three'), '-c',
			q{DO $$ BEGIN FOR i IN 1 .. 100 LOOP
			      PERFORM event_store.append_event('P', 'p' || i % 3, NULL, 'x'); COMMIT;
			  END LOOP; END $$}
		],
		'<', '/dev/null', '>', \$writer->{out}, '2>', \$writer->{out});
	$writer;
} 1 .. 3;
foreach my $writer (@writers)
{
	$writer->{run}->finish;
	is($writer->{out}, '', 'a writer had no trouble');
}
is(sql(q{SELECT count(*), count(DISTINCT global_position) FROM event_store.domain_events
          WHERE aggregate_type = 'P'}), '300|300', 'each event has a position of its own');
my $disorder = q{SELECT count(*) FROM (SELECT global_position - lag(global_position) OVER
	(PARTITION BY aggregate_type, aggregate_id ORDER BY sequence) AS step FROM event_store.domain_events) e
	WHERE step <= 0};
is(sql($disorder), '0', 'in order');

# ---------- a place becomes free

my $old = $node->background_psql('three');
$old->query_safe(q{SELECT event_store.append_event('T', 'old', NULL, 'x')});
$node->safe_psql('postgres', 'DROP DATABASE one');
is(has_place('three'), 0, 'a database without a place stays so: its processes agree');
$old->query_safe(q{SELECT event_store.append_event('T', 'old', NULL, 'x')});
$old->quit;
create_store_in($node, 'four');
is(has_place('four'), 1, 'another one gets the place of one that was dropped');
wait_for_worker($node, 'four');

# ---------- over a restart

$node->restart;
is(has_place('three'), 0, 'after a restart who comes first does not get the place of others');
is(has_place($_), 1, "$_ has its place again") foreach qw(two four);
$node->stop('immediate');
$node->start;
is(has_place('three'), 0, 'nor after a crash');
is(has_place($_), 1, "$_ has its place again") foreach qw(two four);

# ---------- more places, and fewer

$node->append_conf('postgresql.conf', "event_store.max_databases = 3\n");
$node->restart;
is(has_place('three'), 1, 'with more places three has one');
is(sql(q{SELECT durable FROM event_store.append_event('T', 'left', 0, 'x', durability => 'staged')}), 'f', 'and stages');
wait_for_worker($node, 'three');
my $before = events_in($node, 'three');
$node->append_conf('postgresql.conf', "event_store.max_databases = 2\n");
$node->restart;
is(has_place('three'), 0, 'with fewer the last one has none');
is(sql(q{SELECT count(*), count(global_position) FROM event_store.load_events('T', 'left')}), '1|0',
	'what it had staged is read');
is(sql(q{SELECT first_sequence FROM event_store.append_event('T', 'left', 1, 'x')}), '2',
	'and made durable before what follows it');
cmp_ok(events_in($node, 'three'), '>', $before + 1, 'all of it');
is(sql($disorder), '0', 'in order');
is(sql('SELECT count(*) = count(DISTINCT global_position) FROM event_store.domain_events'), 't',
	'no position was given twice');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
