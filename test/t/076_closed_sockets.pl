# Clients that are killed while a call of theirs waits: the backend ends at once, and
# does not wait on for nobody, holding its locks.

use strict;
use warnings;

use EventStoreTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = new_server('closed_sockets',
	conf => "event_store.write_delay = '1h'\nevent_store.staging_limit = 2\nevent_store.on_staging_full = block\n"
	  . "event_store.retry_initial = '1h'\nevent_store.retry_max = '1h'\n"
	  . "synchronous_commit = off\n");
$node->start;
create_store_in($node, 'shop');
wait_for_worker($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

# A client whose statement waits.
sub start_waiting
{
	my ($name, $statement) = @_;
	my $client = { name => $name, out => '' };

	$client->{run} = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $node->connstr('shop') . " application_name=$name", map { ('-c', $_) } split(/; /, $statement) ],
		'>&', \$client->{out});
	$node->poll_query_until('postgres',
		qq{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = '$name' AND wait_event_type IN ('Extension', 'Lock')})
	  or die "$name does not wait";
	return $client;
}

# The other end of its socket is closed by the kernel.
sub kill_client
{
	my ($client) = @_;
	my $killed = time;
	my $gone;

	$client->{run}->signal('KILL');
	eval { $client->{run}->finish };
	for (1 .. 300)
	{
		$gone = sql("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = '$client->{name}'") eq 't';
		last if $gone;
		usleep(20_000);
	}
	ok($gone, sprintf('%s: its backend is gone after %.1f s', $client->{name}, time - $killed));
	return;
}

my $position = sql(q{SELECT last_position FROM event_store.append_event('T', 'a', NULL, 'x', durability => 'durable')});

kill_client(start_waiting('feed', "SELECT event_store.wait_for_events($position, '10min')"));

# who waits and whose client stays gets what it waits for
my $waiter = start_waiting('patient', "SELECT event_store.wait_for_events($position, '10min')");
sql(q{SELECT event_store.append_event('T', 'a', NULL, 'x', durability => 'durable')});
$waiter->{run}->finish;
is($waiter->{out}, $position + 1 . "\n", 'a client that stays is woken');

# the drain waits for a table that somebody has locked
my $holder = $node->background_psql('shop');
sql(qq{SELECT event_store.append_event('T', '$_', NULL, 'x', durability => 'staged')}) foreach qw(b c);
$holder->query_safe('BEGIN; LOCK TABLE event_store.domain_events IN SHARE MODE');
kill_client($_) foreach (
	start_waiting('flush', "SELECT event_store.flush('10min')"),
	start_waiting('full', q{SELECT event_store.append_event('T', 'd', NULL, 'x', durability => 'staged')}),
	start_waiting('locked', q{BEGIN; SELECT event_store.append_event('T', 'b', NULL, 'x', durability => 'durable')}));
$holder->query_safe('ROLLBACK');
ok(flush_all($node, 'shop'), 'the drain goes on');

# the drain failed, and is tried again much later
sql(<<'SQL');
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'no' USING ERRCODE = '53100';
END
$$;
SELECT event_store.append_event('T', 'e', NULL, 'x', durability => 'staged');
CREATE TRIGGER fail BEFORE INSERT ON event_store.domain_events FOR EACH STATEMENT EXECUTE FUNCTION fail();
SQL
kill_client(start_waiting('failing', q{BEGIN; SELECT event_store.append_event('T', 'e', NULL, 'x', durability => 'durable')}));
sql('DROP TRIGGER fail ON event_store.domain_events');
is(sql(q{SELECT event_store.drain()}), 1, 'nobody holds anything any more');

$holder->quit;
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
