# Eight clients that each load a value, add one and put it: none of the additions is
# lost, by the lock of the key or by the version expected, durable, staged or by turns,
# while rows are drained.

use strict;
use warnings;

use lib 'test/perl';
use EventStoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('lost', conf => "event_store.write_delay = '5ms'\n");
$node->start;
create_store_in($node, 'shop');

# Runs a transaction of PL/pgSQL 50 times in each of 8 sessions.
sub play
{
	my ($name, $key, $durability, $body) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/$key.sql";

	append_to_file($file, <<"SCRIPT");
SET event_store.durability = $durability;
DO \$\$
DECLARE
    n bigint;
BEGIN
    $body
END
\$\$;
SCRIPT
	$node->command_ok(
		[ 'pgbench', '-n', '-c', 8, '-t', 50, '-M', 'simple', '-f', $file, 'shop' ], $name);
	ok(flush_all($node, 'shop'), "$name: all is durable");
	is($node->safe_psql('shop', "SELECT event_store.load_view('counter', '$key')"), '400', "$name: 400 additions");
	return;
}

foreach my $durability (qw(durable staged))
{
	play("for update, $durability", "update-$durability", $durability, <<"BODY");
    n := coalesce(event_store.load_view('counter', 'update-$durability', for_update => true)::bigint, 0);
    PERFORM event_store.put_view('counter', 'update-$durability', to_jsonb(n + 1));
BODY
}
play('for update, by turns', 'update-turns', 'durable', <<'BODY');
    n := coalesce(event_store.load_view('counter', 'update-turns', for_update => true)::bigint, 0);
    PERFORM event_store.put_view('counter', 'update-turns', to_jsonb(n + 1),
                                 durability => CASE n % 3 WHEN 0 THEN 'durable' ELSE 'staged' END);
BODY

# without a transaction that spans both: who finds another version begins again
foreach my $durability (qw(durable staged))
{
	play("expected, $durability", "expected-$durability", $durability, <<"BODY");
    LOOP
        SELECT version INTO n FROM event_store.load_views('counter', ARRAY['expected-$durability']);
        n := coalesce(n, 0);
        COMMIT;
        BEGIN
            PERFORM event_store.put_view('counter', 'expected-$durability', to_jsonb(n + 1), n + 1, expected_version => n);
            EXIT;
        EXCEPTION WHEN SQLSTATE 'VS001' THEN
            NULL;
        END;
    END LOOP;
BODY
}

$node->stop;
done_testing();
