# Nothing staged is lost as long as the server is not: a worker terminated a
# hundred times in the middle of a round, a fast and a smart stop under load.
#
# Every transaction of the clients writes into a ledger what it appended; in the
# end the log must hold just that.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('terminate',
	conf => "event_store.write_delay = '1ms'\nevent_store.write_batch_size = 100\n"
	  . "synchronous_commit = off\nmax_wal_size = '2GB'\n");
$node->start;
create_store_in($node, 'shop');
wait_for_worker($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

prepare_clients($node, 'shop');
sql(<<'SQL');
-- Terminates so many workers that are seen in a round.
CREATE PROCEDURE terminate_workers(INOUT times int) LANGUAGE plpgsql AS $$
DECLARE
    victim int;
    seen int[] := '{}';
BEGIN
    WHILE cardinality(seen) < times LOOP
        COMMIT;
        SELECT a.pid INTO victim FROM pg_stat_activity a
         WHERE a.backend_type = 'event_store worker' AND a.datname = current_database()
           AND a.state = 'active' AND a.query = 'drain';
        IF victim IS NULL OR victim = ANY (seen) THEN
            PERFORM pg_sleep(0.001);
        ELSIF pg_terminate_backend(victim) THEN
            seen := seen || victim;
        END IF;
    END LOOP;
    times := cardinality(seen);
END
$$;
SQL

# Everything becomes durable, and nothing was lost.
sub check_all
{
	my ($when) = @_;

	check_clients($node, 'shop', $when);
	is(sql(q{SELECT count(DISTINCT e.epoch) || ' ' || min(e.epoch) FROM (
	            SELECT staging_epoch AS epoch FROM event_store.store_state
	            UNION ALL SELECT staging_epoch FROM event_store.staging_status) e}),
		'1 1', "$when: in the first epoch");
	return;
}

# ---------- a worker terminated a hundred times in mid-drain

my @clients = map { start_client($node, 'shop', $_) } qw(staged staged durable);
is(sql('CALL terminate_workers(100)'), '100', 'a hundred workers were terminated in a round');
# whose round ended before the signal came leaves without a word
sub terminated
{
	my $count = () = slurp_file($node->logfile) =~
	  /FATAL:  terminating background worker "event_store worker/g;
	return $count;
}
sql('CALL terminate_workers(1)') while terminated() < 100;
end_clients($node, 'shop', @clients);
check_all('terminated');
cmp_ok(terminated(), '>=', 100, 'by the log, too');

# ---------- a fast stop, with clients at work and rounds under way

foreach my $time (1 .. 2)
{
	$node->append_conf('postgresql.conf', "event_store.drain_at_shutdown = '5s'\n") if $time == 2;
	$node->reload;
	@clients = map { start_client($node, 'shop', $_) } qw(staged staged durable);
	$node->stop('fast');
	foreach my $client (@clients)
	{
		$client->{run}->finish;
	}
	$node->start;
	sql('DELETE FROM running');
	check_all("fast stop $time");
}

# ---------- a fast stop between rounds: much is staged

$node->append_conf('postgresql.conf',
	"event_store.write_delay = '1h'\nevent_store.write_batch_size = 1000000\n"
	  . "event_store.drain_at_shutdown = 0\n");
$node->restart;
wait_for_worker($node, 'shop');
@clients = map { start_client($node, 'shop', $_) } qw(staged staged);
$node->stop('fast');
$_->{run}->finish foreach @clients;
$node->start;
sql('DELETE FROM running');
wait_for_worker($node, 'shop');
ok($node->poll_query_until('shop',
		'SELECT staging_epoch IS NOT NULL FROM event_store.staging_status'), 'staging is opened');
is(sql(q{SELECT staged_events = (SELECT count(*) FROM ledger) - (SELECT count(*) FROM event_store.domain_events)
	            AND staged_events > 100 FROM event_store.staging_status}),
	't', 'what was staged at a fast stop is still staged');
check_all('fast stop between rounds');

# ---------- a smart stop waits for the clients

@clients = map { start_client($node, 'shop', $_) } qw(staged staged);
my $last = $node->background_psql('shop');
my $offset = log_offset($node);
$node->command_ok([ 'pg_ctl', 'stop', '-D', $node->data_dir, '-m', 'smart', '--no-wait' ],
	'a smart stop is asked for');
$node->wait_for_log(qr/received smart shutdown request/, $offset);
my $at_stop = $last->query_safe('SELECT count(*) FROM ledger');
1 until $last->query_safe('SELECT count(*) FROM ledger') > $at_stop;
$last->query_safe('DELETE FROM running');
$last->quit;
foreach my $client (@clients)
{
	$client->{run}->finish;
	is($client->{out}, '', "$client->{name} went on to the end");
}
$node->wait_for_log(qr/database system is shut down/, $offset);
$node->stop('smart', fail_ok => 1);
$node->start;
check_all('smart stop');

unlike(slurp_file($node->logfile), qr/staging is empty after an unclean stop/, 'no loss is reported');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
$node->stop;
done_testing();
