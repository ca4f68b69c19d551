# What an operator does to a database at work: the extension dropped and created
# again and again, tables altered, databases dropped, renamed and copied, and
# many databases at once.  Nothing is lost and nothing gets stuck.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('life',
	conf => "event_store.write_delay = '1ms'\nevent_store.write_batch_size = 200\n"
	  . "synchronous_commit = off\nmax_wal_size = '2GB'\nwal_level = replica\nmax_wal_senders = 1\n");
$node->start;
create_store_in($node, 'shop');
prepare_clients($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

# ---------- the extension dropped and created a hundred times under load

sql(<<'SQL');
-- Drops the extension as soon as that is allowed, and creates it again once
-- somebody has missed it; then waits until both clients have written.
CREATE PROCEDURE recreate(times int, INOUT refused int) LANGUAGE plpgsql AS $$
DECLARE
    dropped boolean;
    before int;
BEGIN
    FOR i IN 1 .. times LOOP
        dropped := false;
        WHILE NOT dropped LOOP
            PERFORM event_store.flush();
            COMMIT;
            BEGIN
                DROP EXTENSION event_store;
                dropped := true;
            EXCEPTION
                WHEN object_not_in_prerequisite_state OR deadlock_detected THEN
                    refused := refused + 1;
            END;
            COMMIT;
        END LOOP;
        CREATE EXTENSION event_store;
        COMMIT;
        SELECT count(*) INTO before FROM ledger;
        WHILE (SELECT count(DISTINCT l.client) < 2 FROM (SELECT client FROM ledger OFFSET before) l) LOOP
            COMMIT;
            PERFORM pg_sleep(0.001);
        END LOOP;
        COMMIT;
    END LOOP;
END
$$;
SQL
my @clients = map { start_client($node, 'shop', $_, patient => 1) } qw(staged durable);
my $refused = sql('CALL recreate(100, 0)');
pass('the extension was dropped and created a hundred times');
cmp_ok($refused, '>', 0, 'and refused to go while rows were staged');
end_clients($node, 'shop', @clients);
check_clients($node, 'shop', 'recreated');
note(sql(q{SELECT string_agg(sqlstate || ' ' || n || ' ' || m, E'\n') FROM
	(SELECT sqlstate, count(*) n, min(message) m FROM errors GROUP BY 1) e}));
is(sql(q{SELECT string_agg(DISTINCT message, ', ') FROM errors
          WHERE sqlstate NOT IN ('42883', '55000', '40P01', '42P01')}),
	'', 'clients were told that it was not there, or nothing');

# ---------- the drops that are not spelled DROP EXTENSION

$node->append_conf('postgresql.conf', "event_store.write_delay = '1h'\n");
$node->reload;
$node->poll_query_until('shop', "SELECT current_setting('event_store.write_delay') = '1h'");
stage($node, 'shop', 'kept', 2, 2);
sql('CREATE ROLE keeper SUPERUSER; CREATE ROLE other SUPERUSER');
foreach my $drop ('DROP EXTENSION event_store', 'DROP SCHEMA event_store CASCADE',
	'DROP SCHEMA public, event_store CASCADE', 'DROP OWNED BY other, keeper', 'DROP OWNED BY keeper CASCADE')
{
	# staged in another database: there keeper owns it all
	my $database = $drop =~ /OWNED/ ? 'kept' : 'shop';

	if ($database eq 'kept' && $drop =~ /other/)
	{
		$node->safe_psql('postgres', 'CREATE DATABASE kept');
		$node->safe_psql('kept',
			'SET ROLE keeper; CREATE EXTENSION event_store; SELECT event_store.create_store()');
		stage($node, 'kept', 'kept', 2, 2);
	}
	like(error_of($node, $database, $drop), qr/ERROR:  55000: cannot drop extension event_store while/,
		"refused while rows are staged: $drop");
	is($node->safe_psql($database, q{SELECT count(*) FROM event_store.load_events('Order', 'kept-2')}),
		'2', 'nothing happened to them');
}
$node->safe_psql('shop', 'DROP OWNED BY other; CREATE SCHEMA bystander; DROP SCHEMA bystander CASCADE');
pass('other drops are none of its business');
ok(flush_all($node, 'kept'), 'once all is durable');
$node->safe_psql('kept', 'DROP SCHEMA event_store CASCADE');
is($node->safe_psql('kept', q{SELECT count(*) FROM pg_extension WHERE extname = 'event_store'}),
	'0', 'they are allowed');
$node->safe_psql('kept', 'CREATE EXTENSION event_store; SELECT event_store.create_store()');
is(stage($node, 'kept', 'new', 1, 2), '2', 'and a new store takes staged rows');
ok(flush_all($node, 'kept'), 'and drains them');
$node->safe_psql('postgres', 'DROP DATABASE kept');
ok(flush_all($node, 'shop'), 'back to work');
sql(q{INSERT INTO ledger SELECT 'kept', 0, aggregate_id, event_id, sequence
        FROM event_store.domain_events WHERE aggregate_type = 'Order'});
$node->append_conf('postgresql.conf', "event_store.write_delay = '1ms'\n");
$node->reload;

# ---------- tables altered while rounds are under way

@clients = map { start_client($node, 'shop', $_) } qw(staged staged durable);
foreach my $time (1 .. 4)
{
	my $before = sql('SELECT count(*) FROM ledger');

	sql("ALTER TABLE event_store.domain_events ADD COLUMN added$time text DEFAULT clock_timestamp()::text");
	sql('SELECT event_store.create_store()');
	$node->poll_query_until('shop',
		"SELECT count(added$time) > $before FROM event_store.domain_events")
	  or die 'the drain stands still';
	sql("ALTER TABLE event_store.domain_views ADD COLUMN added$time int DEFAULT 1");
	sql("ALTER TABLE event_store.domain_events DROP COLUMN added$time");
	sql('SELECT event_store.create_store(category_index => true)') if $time == 2;
	ok($node->poll_query_until('shop',
			"SELECT count(*) > $before + 1000 FROM event_store.domain_events"),
		"events go on being drained, change $time");
}
end_clients($node, 'shop', @clients);
check_clients($node, 'shop', 'altered');
is(sql('SELECT consecutive_failures FROM event_store.staging_status'), '0', 'no round failed');

# ---------- four databases at once

my @databases = map { "db$_" } (1 .. 4);
my %client;
foreach my $database (@databases)
{
	create_store_in($node, $database);
	prepare_clients($node, $database);
	$client{$database} = start_client($node, $database, 'staged');
}
is($node->safe_psql('postgres', q{
		SELECT count(DISTINCT pid) || ' ' || count(DISTINCT datname) FROM pg_stat_activity
		 WHERE backend_type = 'event_store worker' AND datname LIKE 'db_'}),
	'4 4', 'each database has a worker of its own');
foreach my $database (@databases)
{
	$node->poll_query_until($database, 'SELECT count(*) > 500 FROM event_store.domain_events')
	  or die "$database stands still";
}
foreach my $database (@databases)
{
	end_clients($node, $database, $client{$database});
	check_clients($node, $database, $database);
}

# ---------- databases renamed, copied and dropped with the worker in a large round

my $slow = 0;

sub in_large_round
{
	my ($database, $prefix) = @_;

	wait_for_worker($node, $database);
	# who has to connect first may come when the round is over
	stage($node, $database, $prefix, 300, 100, then => q{
		SET statement_timeout = '3min';
		DO $$ BEGIN
		    WHILE NOT EXISTS (SELECT FROM pg_stat_activity a
		         WHERE a.backend_type = 'event_store worker' AND a.datname = current_database()
		           AND a.state = 'active' AND a.query = 'drain')
		    LOOP
		        PERFORM pg_stat_clear_snapshot(), pg_sleep(0.001);
		    END LOOP;
		END $$});
	return;
}

sub quickly
{
	my ($command) = @_;
	my $began = time;

	$node->safe_psql('postgres', $command);
	my $took = time - $began;
	note("$command took $took s");
	$slow++ if $took >= 2;
	return;
}

in_large_round('db1', 'rename');
quickly('ALTER DATABASE db1 RENAME TO renamed');
in_large_round('renamed', 'copy');
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE renamed');
foreach my $database (qw(renamed copy))
{
	ok(flush_all($node, $database), "$database: drained");
	is($node->safe_psql($database, q{
			SELECT count(*), count(DISTINCT aggregate_id) FROM event_store.domain_events
			 WHERE aggregate_type = 'Order'}),
		'60000|600', "$database: with all that was staged");
}
foreach my $database (qw(db2 db3 db4))
{
	in_large_round($database, 'drop');
	quickly("DROP DATABASE $database");
}
cmp_ok($slow, '<', 2, 'commands on a database with a busy worker end within 2 s');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
