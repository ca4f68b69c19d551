# examples/orders/choreographed.sql: orders that nobody drives come to their ends, whoever is ended
# meanwhile, and the books agree.

use strict;
use warnings;

use EventStoreTest;
use File::Basename;
use PostgreSQL::Test::Utils;
use Test::More;

my $example = dirname(__FILE__) . '/../../examples/orders/choreographed.sql';
my $node = new_server('choreographed', conf => "restart_after_crash = on\nmax_worker_processes = 16\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', join("\n", @_));
}

sub poll
{
	return $node->poll_query_until('shop', $_[0]);
}

my $open = q{SELECT count(*) FROM event_store.load_aggregate_ids('Order') id WHERE NOT EXISTS (
	SELECT FROM event_store.load_events('Order', id) e WHERE e.event_type IN ('OrderConfirmed', 'OrderCancelled'))};
my $behind = q{SELECT COALESCE(sum(lag_events), 0) FROM event_store.subscription_status};

# Places orders: every tenth wants what there is little of, another tenth is too dear for the bank; one in
# five is to be paid by transfer, half of those within no time.
sub place
{
	my ($first, $last) = @_;

	return sql(qq{SELECT choreographed.place('o-' || n,
		CASE WHEN n % 10 = 0 THEN '{"desk": 1, "lamp": 1}' ELSE '{"lamp": 2}' END::jsonb,
		CASE WHEN n % 10 = 3 THEN '10000.01' ELSE '19.99' END,
		CASE WHEN n % 5 = 1 THEN 'transfer' ELSE 'card' END,
		CASE WHEN n % 10 = 1 THEN '0' ELSE '30 minutes' END::interval) FROM generate_series($first, $last) n});
}

$node->safe_psql('shop', slurp_file($example));
sql(q{SELECT choreographed.open_doors('{"lamp": 5000, "desk": 3}')});
place(1, 100);
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'event_store projector'});
place(101, 200);
ok(poll(q{SELECT count(*) > 20 FROM event_store.domain_events WHERE event_type = 'OrderConfirmed'}), 'orders are confirmed');
$node->stop('immediate');
$node->start;
place(201, 300);

ok(poll("SELECT ($open) = 30"), 'all but those that wait for their transfers have ended');
is(sql(q{SELECT count(*) FROM event_store.scheduled_events}), '30', 'these have their deadlines');
is(sql(q{SELECT count(*) FROM event_store.domain_events WHERE event_type = 'PaymentOverdue'}), '30', 'the others have come');

# all transfers come, half of them too late
sql(q{SELECT choreographed.pay('o-' || n, '19.99') FROM generate_series(1, 300, 5) n});
sql(q{SELECT choreographed.pay('o-' || n, '19.99') FROM generate_series(1, 300, 5) n});
ok(poll("SELECT ($open) = 0 AND ($behind) = 0"), 'all have ended');
# ---------- how they have ended

is(sql(q{SELECT count(*) FROM event_store.domain_events WHERE event_type IN ('OrderConfirmed', 'OrderCancelled')}), '300', 'each once');
is(sql(q{SELECT count(*) FROM event_store.domain_events c WHERE c.event_type = 'OrderCancelled' AND c.payload ->> 'reason' = 'payment declined'
            AND NOT EXISTS (SELECT FROM event_store.saga_log(c.saga_id) WHERE event_type = 'PaymentFailed')}), '0', 'who was declined was cancelled for that');
is(sql(q{SELECT count(*) FROM event_store.domain_events WHERE event_type = 'OrderConfirmed' AND saga_id ~ '3$'}), '0', 'what is too dear is not confirmed');
is(sql(q{SELECT count(*) FROM event_store.domain_events WHERE payload ->> 'reason' = 'out of stock'}), '27', 'nor what is not there');
is(sql(q{SELECT count(*) FROM event_store.domain_events WHERE event_type = 'OrderConfirmed'}), '213', 'all others are');
is(sql(q{SELECT count(*) FROM event_store.domain_events WHERE event_type = 'PaymentRefunded'}), '30', 'transfers that came too late are given back');
is(sql(q{SELECT count(*) FROM event_store.scheduled_events}), '0', 'no deadline is left');
is(sql(q{SELECT count(*) FROM event_store.parked_events}), '0', 'nothing is set aside');

# ---------- what the log says

is(sql(q{SELECT string_agg(what, ', ') FROM choreographed.books WHERE ordered IS DISTINCT FROM booked}), '', 'the books agree');
is(sql(q{SELECT count(*) FROM choreographed.books}), '3', 'of money, lamps and desks');
is(sql(q{SELECT count(*) FROM event_store.domain_events e WHERE e.aggregate_type <> 'Product' AND e.saga_id IS NULL}), '0', 'every event of an order carries its saga');
is(sql(q{SELECT count(*) FROM event_store.domain_events e WHERE e.saga_id IS NOT NULL AND e.causation_id IS NULL AND e.event_type <> 'OrderCreated'
            AND NOT (e.event_type = 'PaymentProcessed' AND substr(e.saga_id, 3)::int % 5 = 1)}), '0', 'and says what has caused it');
is(sql(q{SELECT array_to_string(ARRAY(SELECT event_type FROM event_store.saga_log('o-2')), ' ')}),
	'OrderCreated StockReserved PaymentAwaited PaymentProcessed OrderConfirmed', 'saga_log tells the story of an order');

# ---------- the play

create_store_in($node, 'played');
$node->safe_psql('played', slurp_file($example));
$node->safe_psql('played', 'CALL choreographed.play(60)');
is($node->safe_psql('played', q{SELECT string_agg(concat_ws(' ', trouble, state, sagas), ', ' ORDER BY trouble) FROM choreographed.ends}),
	'none confirmed 51, not paid in time cancelled 3, out of stock cancelled 3, payment declined cancelled 3', 'played orders end as they should');
is($node->safe_psql('played', q{SELECT bool_and(ordered = booked) FROM choreographed.books}), 't', 'and their books agree');

$node->stop;
done_testing();
