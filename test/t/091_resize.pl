# A subscription that is resized while 24 consumers and writers are at work and the server
# crashes: every event has its effect once, in order.  One member that is held for long holds up
# neither the others nor, beyond lock_timeout, who resizes and drops.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StressPrograms;
use Test::More;

my $node = new_server('resize',
	conf => "event_store.retry_initial = '1ms'\nevent_store.retry_max = '1ms'\nrestart_after_crash = on\nmax_connections = 60\n");
$node->start;
create_store_in($node, 'shop');

SKIP:
{
	skip 'python3-psycopg2 is not installed', 2 unless can_run_programs();
	my $output = program_passes('resize', $node, 'shop', '4, 6, 3, 1 and 4 members under load, with crashes',
		'--crash', crash_command($node, 'shop', 'resize client'));
	cmp_ok(count_of($output, 'events'), '>', 100, 'there were events');
}

sub sql
{
	return $node->safe_psql('shop', "SET statement_timeout = '60s'; $_[0]");
}

# ---------- what one of two members had been given does not come to the one that follows them

sql(q{
	SELECT event_store.create_subscription('given', '{Given}', members => 2, start_after => event_store.safe_position());
	SELECT count(*) FROM event_store.append_batch(array_fill('Given'::text, ARRAY[40]), (SELECT array_agg('g-' || i) FROM generate_series(1, 40) i), array_fill('E'::text, ARRAY[40]), NULL);
});
my $before = sql(q{SELECT count(*) FROM event_store.next_events('given')});
cmp_ok($before, '<', 40, 'one of two members has its events');
sql(q{SELECT event_store.resize_subscription('given', 1)});
is($before + sql(q{SELECT count(*) FROM event_store.next_events('given')}), 40, 'the one member gets the rest alone');

# ---------- one member is held

sql(q{
	SELECT event_store.create_subscription('held', '{Held}', members => 4, start_after => event_store.safe_position());
	SELECT count(*) FROM event_store.append_batch(array_fill('Held'::text, ARRAY[40]), (SELECT array_agg('h-' || i) FROM generate_series(1, 40) i), array_fill('E'::text, ARRAY[40]), NULL);
});
my $holder = $node->background_psql('shop');
$holder->query_safe('BEGIN');
my $held = $holder->query_safe(q{SELECT count(*) FROM event_store.next_events('held')});
my $taken = 0;

sub take
{
	my ($max_count) = @_;
	my $count = sql("SELECT count(*) FROM event_store.next_events('held', $max_count)");

	$taken += $count;
	return $count;
}

take(100) for 1 .. 5;
is($held + $taken, 40, 'the other members go on');
sql(q{SELECT event_store.append_event('Held', 'h-' || i, NULL, 'E') FROM generate_series(1, 40) i});
for my $call (q{resize_subscription('held', 6)}, q{drop_subscription('held')})
{
	my ($result, $out, $error) = $node->psql('shop', "SET lock_timeout = '50ms'; SELECT event_store.$call");
	like($error, qr/canceling statement due to lock timeout/, "$call gives up");
	cmp_ok(take(2), '>', 0, 'and holds off nobody any more');
}
$holder->query_safe('ROLLBACK');
$holder->quit;
sql(q{SELECT event_store.resize_subscription('held', 6)});
take(100) for 1 .. 60;
is($taken, 80, 'all the rest comes to six members');

# ---------- leases are waited for, and can be acknowledged and released meanwhile

my $claim = q{SELECT count(*) FROM event_store.claim_events('leased', 'c', 2, lease_time => '1h')};
my $lease = q{(SELECT DISTINCT ON (member) * FROM event_store.subscription_positions WHERE subscription_name = 'leased' ORDER BY member, number DESC) m WHERE lease IS NOT NULL};

sql(q{
	SELECT event_store.create_subscription('leased', '{Leased}', members => 2, start_after => event_store.safe_position());
	SELECT count(*) FROM event_store.append_batch(array_fill('Leased'::text, ARRAY[20]), (SELECT array_agg('l-' || i) FROM generate_series(1, 20) i), array_fill('E'::text, ARRAY[20]), NULL);
});
my $given = sql($claim) + sql($claim);
my $resizer = $node->background_psql('shop', on_error_stop => 0);
$resizer->query_until(qr/begun/, "\\echo begun\nSELECT event_store.resize_subscription('leased', 3);\n");
$node->poll_query_until('shop', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareRowExclusiveLock' AND granted})
	or die 'the resize has not begun';
is(sql(q{SELECT count(*) FROM event_store.next_events('leased')}) . sql($claim), '00', 'nobody is given anything');
is(sql("SELECT bool_and(event_store.extend_lease('leased', member, lease, '2h') > now() + interval '90 min') FROM $lease"), 't', 'leases are extended');
my $member = sql("SELECT min(member) FROM $lease");
$holder = $node->background_psql('shop');
is($holder->query_safe("SET statement_timeout = '60s'; BEGIN; SELECT event_store.ack_events('leased', member, lease) FROM $lease AND member = $member"), 't', 'one is acknowledged');
is($holder->query_safe(qq{SELECT event_store.fail_events('leased', max(global_position), 'x') FROM event_store.domain_events
	WHERE aggregate_type = 'Leased' AND event_store.partition_member('Leased/' || aggregate_id, 2) = $member}), 'retrying',
	'and one fails behind it in that transaction, which the resize waits for');
$holder->query_safe('COMMIT');
$holder->quit;
is(sql(q{SELECT members FROM event_store.subscriptions WHERE subscription_name = 'leased'}), '2', 'the other one is waited for');
is(sql("SELECT event_store.release_events('leased', member, lease) FROM $lease"), 't', 'and released');
$node->poll_query_until('shop', q{SELECT members = 3 FROM event_store.subscriptions WHERE subscription_name = 'leased'})
	or die 'the resize has not ended';
$resizer->quit;
$given -= 2;
$given += sql(q{SELECT count(*) FROM event_store.next_events('leased')}) for 1 .. 20;
is($given, 20, 'all the rest comes to three members');

# ---------- a thousand that are due of a member that is held

# a pause that is longer than any would be over
$node->append_conf('postgresql.conf', "event_store.retry_max = '1h'\n");
$node->reload;
$node->poll_query_until('shop', q{SELECT current_setting('event_store.retry_max') = '1h'});
sql(q{
	CREATE PROCEDURE consume(name text, calls int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. calls LOOP
			INSERT INTO given SELECT aggregate_id FROM event_store.next_events(name);
			COMMIT;
		END LOOP;
	END $$;
	CREATE TABLE given (id text);
	SELECT event_store.create_subscription('due', '{Due}', members => 2, start_after => event_store.safe_position());
	SELECT count(*) FROM event_store.append_batch(array_fill('Due'::text, ARRAY[2400]), (SELECT array_agg('d-' || i) FROM generate_series(1, 2400) i), array_fill('E'::text, ARRAY[2400]), NULL);
	INSERT INTO event_store.parked_events (subscription_name, partition_key, global_position, event_id, state, attempts, retry_at, member)
	SELECT 'due', 'Due/' || aggregate_id, global_position, event_id, 'retrying', 0, now() + interval '50 minutes', event_store.partition_member('Due/' || aggregate_id, 2) FROM event_store.domain_events WHERE aggregate_type = 'Due';
});
sql(q{CALL consume('due', 4)});
is(sql('SELECT count(*) FROM given'), '0', 'what is set aside is passed over');
sql(q{UPDATE event_store.parked_events SET retry_at = now()});
$holder = $node->background_psql('shop');
$holder->query_safe(q{BEGIN; SELECT FROM event_store.next_events('due')});
my $free = sql(q{SELECT sum(parked) FILTER (WHERE state <> 'fetching') FROM event_store.subscription_status WHERE subscription_name = 'due'});
sql("CALL consume('due', $free)");
is(sql('SELECT count(*) FROM given'), $free, 'the other one is given all of its own');
$holder->quit;

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP/, 'nothing crashed by itself');
done_testing();
