# EventStoreTest: what the TAP tests have in common, on top of
# PostgreSQL::Test::Cluster.  Everything that waits, waits for a condition.

package EventStoreTest;

use strict;
use warnings;

use Exporter 'import';
use File::Basename;
use File::Find;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(
  new_server wait_for_server create_store_in events_in wait_for_worker worker_pid
  stage flush_all error_of log_offset
  start_with_clock set_clock files_with
  prepare_clients start_client end_clients check_clients
);

# A server that preloads the library, not started yet.  The options of new come as
# "new => {...}", those of init as "init => {...}", lines for postgresql.conf as "conf => '...'".  What is
# staged is left staged by a stop, unless a test asks for the drain.
sub new_server
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name, %{ $options{new} // {} });

	$node->init(%{ $options{init} // {} });
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = 'event_store'\n"
		  . "autovacuum = off\n"
		  . "event_store.drain_at_shutdown = 0\n"
		  . ($options{conf} // ''));
	return $node;
}

# Starts a server whose clock a test sets; false where there is no C compiler for it.
sub start_with_clock
{
	my ($node) = @_;
	my $source = dirname(__FILE__) . '/../clock.c';
	my $library = "$PostgreSQL::Test::Utils::tmp_check/clock.so";

	return 0 if system('cc', '-shared', '-fPIC', '-O1', '-o', $library, $source) != 0;
	set_clock($node, 0);
	local %ENV = (%ENV, LD_PRELOAD => $library, TEST_CLOCK => $node->basedir . '/clock');
	$node->start;
	return 1;
}

# Sets its clock, in seconds from ours.
sub set_clock
{
	my ($node, $seconds) = @_;
	my $clock = $node->basedir . '/clock';

	open(my $file, '>', "$clock.next") or die $!;
	print $file "$seconds\n";
	close($file);
	rename("$clock.next", $clock) or die $!;
	return;
}

# The files below base/ and global/ that have a text.
sub files_with
{
	my ($node, $text) = @_;
	my @found;
	find({ no_chdir => 1, wanted => sub {
		return unless -f $File::Find::name;
		open(my $file, '<:raw', $File::Find::name) or return;
		local $/;
		my $content = <$file>;
		push @found, $File::Find::name if defined $content && index($content, $text) >= 0;
	} }, map { $node->data_dir . "/$_" } qw(base global));
	return @found;
}

# Waits for a server that comes up again after a crash.  Nothing is written to a client that
# may be refused before it reads.
sub wait_for_server
{
	my ($node, $database) = @_;

	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1
		  if system_log('psql', '-XAtq', '-d', $node->connstr($database), '-c', 'SELECT') == 0;
		usleep(100_000);
	}
	die 'the server did not come back';
}

sub create_store_in
{
	my ($node, $database) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database,
		'CREATE EXTENSION event_store; SELECT event_store.create_store();');
	return;
}

# The durable events of a database, counted around the API.
sub events_in
{
	my ($node, $database) = @_;

	return $node->safe_psql($database,
		'SELECT count(*) FROM event_store.domain_events');
}

# Process id of a database's worker, seen from elsewhere; '' = none.
sub worker_pid
{
	my ($node, $database) = @_;

	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity
		  WHERE backend_type = 'event_store worker' AND datname = '$database'");
}

# Waits for a worker other than one that may be known; returns its process id.
# Without one that is known a worker is called: one that found nothing to do
# after the start of the server has left.
sub wait_for_worker
{
	my ($node, $database, $not) = @_;

	if (!defined $not || $not eq '')
	{
		$node->psql($database, 'SELECT event_store.announce_store()');
		$not = 0;
	}
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity
		  WHERE backend_type = 'event_store worker' AND datname = '$database'
		    AND pid <> $not")
	  or die "no worker came up in $database";
	return worker_pid($node, $database);
}

# Stages events of new aggregates in one transaction, $each for each; what is to be
# done in the same session at once afterwards, can be given as "then".
sub stage
{
	my ($node, $database, $prefix, $aggregates, $each, %options) = @_;

	return $node->safe_psql($database, qq{
		SELECT count(*) FROM event_store.append_batch(
		    (SELECT jsonb_agg(jsonb_build_object(
		                'aggregate_type', 'Order', 'aggregate_id', '$prefix-' || a,
		                'event_type', 'Changed', 'payload', jsonb_build_object('n', n))
		                ORDER BY n, a)
		       FROM generate_series(1, $aggregates) a, generate_series(1, $each) n),
		    durability => '} . ($options{durability} // 'staged') . q{');} . ($options{then} // ''));
}

# Until everything staged is durable.
sub flush_all
{
	my ($node, $database) = @_;

	return $node->poll_query_until($database,
		"SELECT event_store.flush(timeout => '10s')");
}

# The SQLSTATE, message and hint of a statement that is refused.
sub error_of
{
	my ($node, $database, $statement) = @_;
	my ($status, $out, $err) = $node->psql($database,
		"\\set VERBOSITY verbose\n$statement");

	return $status == 0 && $err eq '' ? "no error: $out" : $err;
}

sub log_offset
{
	my ($node) = @_;

	return -s $node->logfile;
}

# Clients that work until they are told to end.  They run in the server, and each
# transaction writes into a ledger what it appended; in the end the log must hold
# just that.
sub prepare_clients
{
	my ($node, $database) = @_;

	$node->safe_psql($database, <<'SQL');
CREATE TABLE ledger (client text, n int, aggregate_id text, event_id uuid, sequence bigint);
CREATE TABLE running (client text PRIMARY KEY);
CREATE TABLE errors (client text, sqlstate text, message text);

-- What a client appends in one turn: 20 events of its own and of shared aggregates.
CREATE FUNCTION events_of(client text, turn int) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_agg(jsonb_build_object('aggregate_type', 'T', 'event_type', 'x', 'aggregate_id',
               CASE WHEN n % 5 = 0 THEN 'shared-' || (turn + n) % 7
                    ELSE client || '-' || turn % 50 END) ORDER BY n)
      FROM generate_series(1, 20) n
$$;

-- The views of a durable client are staged.  With "patient", errors are written
-- down, and the turn is tried again.
CREATE PROCEDURE work(client text, durability text, patient boolean) LANGUAGE plpgsql AS $$
DECLARE
    turn int := 1;
BEGIN
    INSERT INTO running VALUES (client);
    COMMIT;
    WHILE EXISTS (SELECT FROM running r WHERE r.client = work.client) LOOP
        BEGIN
            INSERT INTO ledger
            SELECT client, turn, e.event ->> 'aggregate_id', b.event_id, b.sequence
              FROM jsonb_array_elements(events_of(client, turn)) WITH ORDINALITY e (event, n)
              JOIN event_store.append_batch(events_of(client, turn), durability => work.durability) b
                ON b.ordinal = e.n;
            PERFORM event_store.put_view('V', client, jsonb_build_object('n', turn), durability => 'staged');
            PERFORM event_store.put_view('V', client || '/' || turn % 3, jsonb_build_object('n', turn),
                                         version => turn, durability => 'staged');
            turn := turn + 1;
        EXCEPTION WHEN OTHERS THEN
            IF NOT patient THEN
                RAISE;
            END IF;
            INSERT INTO errors VALUES (client, SQLSTATE, SQLERRM);
            -- whoever takes things away shall have the time to put them back
            PERFORM pg_sleep(0.005);
        END;
        COMMIT;
        -- a steady load, not as much as there can be
        PERFORM pg_sleep(0.003);
    END LOOP;
END
$$;
SQL
	return;
}

my $clients = 0;

# Starts a client and waits until it is at work.
sub start_client
{
	my ($node, $database, $durability, %options) = @_;
	my $name = 'c' . ++$clients;
	my $patient = $options{patient} ? 'true' : 'false';
	my $client = { name => $name, out => '' };

	$client->{run} = IPC::Run::start(
		[
			'psql', '-XAtq', '-d', $node->connstr($database),
			'-c', "CALL work('$name', '$durability', $patient)"
		],
		'<', '/dev/null', '>', \$client->{out}, '2>', \$client->{out});
	$node->poll_query_until($database, "SELECT count(*) > 50 FROM ledger WHERE client = '$name'")
	  or die "client $name did not start: $client->{out}";
	return $client;
}

sub end_clients
{
	my ($node, $database, @ended) = @_;

	$node->safe_psql($database, 'DELETE FROM running');
	foreach my $client (@ended)
	{
		$client->{run}->finish;
		is($client->{out}, '', "$client->{name} had no trouble");
	}
	return;
}

# Makes everything durable and compares.
sub check_clients
{
	my ($node, $database, $when) = @_;
	my $sql = sub { return $node->safe_psql($database, $_[0]); };

	ok(flush_all($node, $database), "$when: all becomes durable");
	is($sql->(q{SELECT count(*) FROM (
	             (SELECT aggregate_id, sequence, event_id FROM ledger
	              EXCEPT ALL SELECT aggregate_id, sequence, event_id FROM event_store.domain_events)
	             UNION ALL
	             (SELECT aggregate_id, sequence, event_id FROM event_store.domain_events
	              EXCEPT ALL SELECT aggregate_id, sequence, event_id FROM ledger)) different}),
		'0', "$when: the log is what the ledger says");
	is($sql->(q{SELECT count(*) FROM (
	            SELECT global_position - lag(global_position) OVER
	                       (PARTITION BY aggregate_id ORDER BY sequence) AS step
	              FROM event_store.domain_events) e WHERE step <= 0}),
		'0', "$when: in order");
	is($sql->(q{SELECT count(*) FROM
	            (SELECT client AS view_key, max(n) AS n FROM ledger GROUP BY 1
	             UNION ALL SELECT client || '/' || n % 3, max(n) FROM ledger GROUP BY 1) l
	          LEFT JOIN event_store.domain_views v ON v.view_name = 'V' AND v.view_key = l.view_key
	         WHERE l.n > 0 AND (v.view_data ->> 'n')::int IS DISTINCT FROM l.n}),
		'0', "$when: every view has its last value");
	is($sql->('SELECT count(*) FROM event_store.dead_letters'), '0', "$when: no dead letters");
	return;
}

1;
