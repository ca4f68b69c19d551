# Subscriptions: random sequences of all that a consumer can do, with what must hold after
# each; a crash of the server; a dump.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StressPrograms;
use Test::More;

my $node = new_server('subscriptions',
	conf => "event_store.retry_initial = '1ms'\nevent_store.retry_max = '1ms'\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

SKIP:
{
	skip 'python3-psycopg2 is not installed', 1 unless can_run_programs();
	my $sequences = $ENV{EVENT_STORE_SEQUENCES} || 150;
	program_passes('subscriptions', $node, 'shop', "$sequences random sequences", '--sequences', $sequences);
}

# ---------- a crash with a batch in hand

my $insert = q{INSERT INTO effects SELECT aggregate_id, sequence FROM event_store.next_events('crashed', 3)};
my $effects = q{SELECT string_agg(id || sequence, ' ' ORDER BY id, sequence) FROM effects};

sql(q{
	CREATE TABLE effects (id text, sequence bigint, PRIMARY KEY (id, sequence));
	SELECT event_store.create_subscription('crashed', '{Crash}', start_after => event_store.safe_position());
	SELECT count(*) FROM event_store.append_batch(array_fill('Crash'::text, ARRAY[8]), '{a,b,a,b,a,b,a,b}', array_fill('E'::text, ARRAY[8]), NULL);
});
sql($insert);
my $consumer = $node->background_psql('shop');
$consumer->query_safe("BEGIN; $insert");
$consumer->query_safe(q{SELECT event_store.fail_events('crashed', max(global_position), 'x', 'park') FROM event_store.domain_events WHERE aggregate_type = 'Crash'});
$node->stop('immediate');
$node->start;
eval { $consumer->quit };
is(sql($effects), 'a1 a2 b1', 'a crash takes the batch and its effects back');
is(sql('SELECT count(*) FROM event_store.parked_events'), '0', 'and what was set aside with it');
sql($insert);
is(sql($effects), 'a1 a2 a3 b1 b2 b3', 'it comes again');

# ---------- a dump carries positions and what is set aside

sql(q{SELECT event_store.fail_events('crashed', max(global_position), 'x', 'park') FROM event_store.domain_events
	WHERE aggregate_type = 'Crash' AND aggregate_id = 'a'});
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
$node->command_ok([ 'pg_dump', '-Fc', '--file', $dump, $node->connstr('shop') ], 'dumped');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('restored'), $dump ], 'and restored');
is($node->safe_psql('restored', q{SELECT event_store.create_store(); SELECT aggregate_id, sequence FROM event_store.next_events('crashed')}),
	"\nb|4", 'it goes on from there');
is($node->safe_psql('restored', q{SELECT event_store.retry_parked_events('crashed'); SELECT aggregate_id, sequence FROM event_store.next_events('crashed')}),
	"1\na|4", 'with what was set aside');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed by itself');
done_testing();
