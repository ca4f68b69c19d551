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

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
