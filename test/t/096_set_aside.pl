# 100,000 partitions set aside of one subscription: a call touches few blocks, however many others wait,
# and needs no memory for them; who decides about one of them holds up nobody who consumes.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $partitions = 100_000;
# no worker counts among the blocks
my $node = new_server('set_aside',
	conf => "shared_buffers = '256MB'\nfsync = off\nautovacuum = off\nmax_wal_size = '4GB'\ncheckpoint_timeout = '1h'\nevent_store.retry_initial = '1h'\nevent_store.retry_max = '1h'\n");
$node->start;
create_store_in($node, 'shop');

my $session = $node->background_psql('shop');

sub sql
{
	return $session->query_safe($_[0]);
}

# Blocks that a statement touches, as often as it is repeated but for the first time, with the time that it takes.
sub blocks
{
	my ($what, $statement) = @_;
	my ($most, $longest) = (0, 0);

	foreach my $run (1 .. 4)
	{
		my $start = time;
		my $plan = sql("BEGIN; EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, SUMMARY OFF) $statement; ROLLBACK");
		my $count = 0;

		$count += $_ foreach $plan =~ /\A.*?Buffers: shared([^\n]*)/s ? $1 =~ /(?:hit|read)=(\d+)/g : ();
		next if $run == 1;
		$most = $count if $count > $most;
		$longest = time - $start if time - $start > $longest;
	}
	note sprintf '%s: %d blocks, %.1f ms', $what, $most, $longest * 1000;
	return $most;
}

# ---------- 100,000 that wait, of two members, and some events behind them

sql(qq{
	SELECT event_store.create_subscription('many', '{Aside}', members => 2);
	CREATE PROCEDURE append(many int) LANGUAGE plpgsql AS \$\$
	BEGIN
		FOR b IN 0 .. many / 1000 - 1 LOOP
			PERFORM FROM event_store.append_batch(array_fill('Aside'::text, ARRAY[1000]),
				ARRAY(SELECT 'a-' || b * 1000 + i FROM generate_series(1, 1000) i), array_fill('E'::text, ARRAY[1000]), NULL);
			COMMIT;
		END LOOP;
	END \$\$});
sql("CALL append($partitions)");
sql(qq{
	INSERT INTO event_store.parked_events (subscription_name, partition_key, global_position, event_id, state, attempts, retry_at, error_message, member)
	SELECT 'many', 'Aside/' || aggregate_id, global_position, event_id, 'retrying', 1, now() + interval '1 hour', 'it failed',
		event_store.partition_member('Aside/' || aggregate_id, 2)
	  FROM event_store.domain_events;
	CREATE PROCEDURE to_the_end() LANGUAGE plpgsql AS \$\$
	DECLARE
		stands bigint := -1;
		stood bigint;
	BEGIN
		LOOP
			PERFORM FROM event_store.next_events('many');
			COMMIT;
			stood := stands;
			stands := (SELECT sum(position) FROM event_store.subscription_status);
			EXIT WHEN stands = stood;
		END LOOP;
	END \$\$});
sql('CALL append(1000)');
my $start = time;
sql('CALL to_the_end()');
note sprintf 'passed over: %.0f ms', (time - $start) * 1000;
is(sql(q{SELECT sum(parked), sum(lag_events), min(last_error), max(last_error), bool_and(lag > '0') FROM event_store.subscription_status}),
	"$partitions|0|it failed|it failed|t", 'all that waits is passed over, and shows with its reason and its age');
sql('SELECT count(*) FROM event_store.append_event(\'Aside\', \'new\', NULL, \'E\')');

# Of a partition that the member has which nobody holds.
sub cheap
{
	my ($when) = @_;
	my ($id, $at) = split /\|/, sql(q{SELECT aggregate_id, global_position FROM event_store.domain_events
		WHERE global_position > 70000 AND event_store.partition_member('Aside/' || aggregate_id, 2) =
			(SELECT min(member) FROM event_store.subscription_status WHERE state <> 'fetching') ORDER BY 2 LIMIT 1});

	cmp_ok(blocks("$when, next_events", q{SELECT * FROM event_store.next_events('many')}), '<', 400, "$when: next_events");
	cmp_ok(blocks("$when, claim_events", q{SELECT * FROM event_store.claim_events('many', 'c')}), '<', 400, "$when: claim_events");
	cmp_ok(blocks("$when, retry one", qq{SELECT event_store.retry_parked_events('many', 'Aside/$id')}), '<', 200, "$when: one is retried");
	cmp_ok(blocks("$when, discard one", qq{SELECT event_store.discard_parked_events('many', 'Aside/$id', 'test')}), '<', 300, "$when: one is discarded");
	cmp_ok(blocks("$when, fail one", qq{SELECT event_store.fail_events('many', $at, 'again')}), '<', 300, "$when: one fails again");
	# once over all rows, however many members there are
	cmp_ok(blocks("$when, status", q{SELECT * FROM event_store.subscription_status}), '<', 2 * $partitions, "$when: status");
	cmp_ok(blocks("$when, metrics", q{SELECT * FROM event_store.metrics}), '<', 2 * $partitions, "$when: metrics");
	return;
}

cheap('none is due');

# ---------- all are due, and one member is held

sql(q{UPDATE event_store.parked_events SET retry_at = clock_timestamp()});
sql('VACUUM event_store.parked_events');
cheap('all are due');
my $holder = $node->background_psql('shop');
is($holder->query_safe(q{BEGIN; SELECT count(*) FROM event_store.next_events('many')}), '1', 'one member is held, with one partition');
cheap('one member is held');
$holder->query_safe('ROLLBACK');

# ---------- who decides is not waited for

my $decider = $node->background_psql('shop');
$decider->query_safe(q{BEGIN; SELECT event_store.retry_parked_events('many')});
sql(q{SET statement_timeout = '20s'});
foreach my $call (q{next_events('many')}, q{next_events('many')}, q{claim_events('many', 'c')}, q{next_events('many', timeout => '300ms')})
{
	is(sql("SELECT count(*) FROM event_store.$call"), $call eq q{next_events('many')} && $session->{given}++ == 0 ? '1' : '0',
		"$call does not wait for who decides about all, and gives what is new");
}
$decider->query_safe('ROLLBACK; BEGIN');
$decider->query_safe(qq{SELECT event_store.retry_parked_events('many', partition_key) FROM event_store.parked_events ORDER BY retry_at, global_position LIMIT 1});
is(sql(q{SELECT count(*) FROM event_store.next_events('many')}), '1', 'one that somebody decides about does not stand in the way of others');
$decider->query_safe('ROLLBACK');

# ---------- a lease on what somebody decides about, that is over

my ($member, $lease, $key) = split /\|/, sql(q{SELECT member, lease, partition_key FROM event_store.claim_events('many', 'c', 1, '1ms') LIMIT 1});
$node->poll_query_until('shop', q{SELECT bool_and(state <> 'leased') FROM event_store.subscription_status}) or die 'the lease does not expire';
$decider->query_safe(qq{BEGIN; SELECT event_store.retry_parked_events('many', '$key')});
like(sql(q{SELECT count(*) FROM event_store.next_events('many')}), qr{^[12]$}, 'nobody waits to take it off, and the other member is served') foreach 1 .. 2;
$decider->query_safe('ROLLBACK');

# ---------- another number of members

$start = time;
sql(q{SELECT event_store.resize_subscription('many', 3)});
note sprintf 'resized: %.0f ms', (time - $start) * 1000;
is(sql(q{SELECT count(*) FROM event_store.parked_events WHERE member <> event_store.partition_member(partition_key, 3)}), '0', 'each has its new member');
$start = time;
my $given = 0;
$given += sql(q{SELECT count(*) FROM event_store.next_events('many')}) foreach 1 .. 300;
note sprintf '300 batches: %.0f ms', (time - $start) * 1000;
cmp_ok($given, '>=', 300, 'all of them give something');

$_->quit foreach $session, $holder, $decider;
$node->stop;
done_testing();
