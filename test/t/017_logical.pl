# Where domain_events is fed by logical replication, nobody follows the feed and
# nobody appends, until the subscription is dropped and create_store() has run.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my @servers = map {
	my $node = new_server($_, init => { allows_streaming => 'logical' },
		conf => "event_store.write_delay = '1h'\n");
	$node->start;
	create_store_in($node, 'shop');
	$node
} qw(publisher subscriber);
my ($publisher, $subscriber) = @servers;

sub append
{
	my ($node, $id) = @_;

	return $node->safe_psql('shop',
		"SELECT last_position FROM event_store.append_event('Order', '$id', NULL, 'Placed')");
}

my @refused = (
	'read_events()', 'safe_position()', 'wait_for_events(0)',
	q{append_event('Order', 'here', NULL, 'Placed')},
	q{append_event('Order', 'here', NULL, 'Placed', durability => 'staged')},
	q{append_events('Order', 'here', NULL, '{"event_type": "Placed"}')},
	q{append_batch('{"aggregate_type": "Order", "aggregate_id": "here", "event_type": "Placed"}')});

# ---------- subscribed

my $session = $subscriber->background_psql('shop', on_error_stop => 0);
is($session->query_safe('SELECT event_store.safe_position()'), '0', 'a store that is not subscribed');
append($publisher, 'before');
$publisher->safe_psql('shop',
	'CREATE PUBLICATION shop FOR TABLE event_store.domain_events, event_store.domain_views, event_store.snapshots');
$subscriber->safe_psql('shop',
	q{CREATE SUBSCRIPTION shop CONNECTION '} . $publisher->connstr . q{ dbname=shop' PUBLICATION shop});
$subscriber->wait_for_subscription_sync($publisher, 'shop', 'shop');
# what a trigger does there is nothing that the publisher did
$subscriber->safe_psql('shop', q{
	CREATE TABLE public.tried (outcome text);
	CREATE FUNCTION public.try() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		DELETE FROM event_store.domain_events;
		INSERT INTO public.tried VALUES ('deleted');
		RETURN NEW;
	EXCEPTION WHEN OTHERS THEN
		INSERT INTO public.tried VALUES (sqlstate);
		RETURN NEW;
	END $$;
	CREATE TRIGGER try AFTER INSERT ON event_store.domain_views FOR EACH ROW EXECUTE FUNCTION public.try();
	ALTER TABLE event_store.domain_views ENABLE ALWAYS TRIGGER try});
my $last = append($publisher, 'after');
$publisher->safe_psql('shop', q{SELECT event_store.put_view('Orders', 'after', '{"open": true}')});
$publisher->wait_for_catchup('shop');

is($subscriber->safe_psql('shop', q{SELECT (SELECT count(*) FROM event_store.load_events('Order', 'before')),
		(SELECT count(*) FROM event_store.load_events('Order', 'after')), event_store.load_view('Orders', 'after')}),
	'1|1|{"open": true}', 'what is replicated can be loaded');
is($subscriber->safe_psql('shop', q{SELECT string_agg(outcome, ' ') FROM public.tried}), 'VS003',
	'a trigger deletes no events in the apply worker');
$subscriber->safe_psql('shop', 'DROP TRIGGER try ON event_store.domain_views');
foreach my $call (@refused)
{
	like(error_of($subscriber, 'shop', "SELECT event_store.$call"),
		qr/55000.*subscription of logical replication\n.*HINT:  .*create_store\(\);/s, "refused: $call");
}
like(error_of($subscriber, 'shop', 'SELECT * FROM event_store.feed_status'), qr/55000/, 'refused: feed_status');
my ($output, $failed) = $session->query('SELECT event_store.safe_position()');
ok($failed, 'also in a session that knew the store before');
$session->quit;
is($subscriber->safe_psql('shop', 'SELECT event_store.is_available()'), 't', 'the store is available');
is(append($publisher, 'after'), $last + 1, 'the publisher appends');
$publisher->safe_psql('shop', q{SELECT event_store.erase_aggregate('Order', 'before', 'request')});
$publisher->wait_for_catchup('shop');
is($subscriber->safe_psql('shop', q{SELECT metadata ? '$erased' FROM event_store.load_events('Order', 'before')}), 't',
	'what is erased there is erased here');

# ---------- cut over

$publisher->wait_for_catchup('shop');
$session = $subscriber->background_psql('shop', on_error_stop => 0);
$session->query('SELECT event_store.safe_position()');
$subscriber->safe_psql('shop', 'DROP SUBSCRIPTION shop');
$subscriber->safe_psql('shop', 'SELECT event_store.create_store()');
is(scalar $session->query('SELECT event_store.safe_position()'), $last + 2, 'after the cut-over the feed goes on');
$session->quit;
is($subscriber->safe_psql('shop', 'SELECT count(*) FROM event_store.read_events()'), '4', 'over all events');
cmp_ok(append($subscriber, 'after'), '>=', $last + 2**32, 'positions jump');
is($subscriber->safe_psql('shop', q{SELECT event_store.aggregate_sequence('Order', 'after')}),
	'3', 'and sequences go on');
is(stage($subscriber, 'shop', 'staged', 2, 2), '4', 'staging works');
ok(flush_all($subscriber, 'shop'), 'and is drained');

$_->stop foreach @servers;
done_testing();
