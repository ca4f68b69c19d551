# Views that become inline beside appends: a store and its views are made in one transaction, and
# whoever waits to switch holds up no append and is held up by none but those that are open.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $rules = q{'{"events": {"*": [{"op": "increment", "path": "$.n", "value": 1}]}}'};
my $node = new_server('inline_switch', conf => "event_store.settle_timeout = '3s'\n");
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop', "CREATE EXTENSION event_store");

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub create
{
	my ($name, $type) = @_;

	return "SELECT event_store.create_view_projection('$name', '{$type}', '\"\$.payload.row\"', $rules, 'inline')";
}

sub append
{
	my ($type, $row) = @_;

	return qq{SELECT event_store.append_event('$type', 'a', NULL, 'E', '{"row": "$row"}')};
}

sql("BEGIN; SELECT event_store.create_store(); " . create('one', 'One') . "; " . append('One', 'x') . "; COMMIT");
is(sql("SELECT mode FROM event_store.projection_status"), 'inline', 'in the transaction that makes the store');
is(sql("SELECT view_data FROM event_store.load_views('one')"), '{"n": 1}', 'and it folds there');
wait_for_worker($node, 'shop');

my $open = $node->background_psql('shop');
$open->query_safe("BEGIN; " . append('One', 'x'));
my $switch = $node->background_psql('shop');
$switch->query_until(qr/going/, "\\echo going\n" . create('two', 'Two') . ";\n\\echo done\n");
ok($node->poll_query_until('shop', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%create_view_projection(''two''%' AND state = 'active' AND pid <> pg_backend_pid()}),
	'one is made while an append is open');
foreach my $n (1 .. 20)
{
	sql("SET statement_timeout = '10s'; BEGIN; SET LOCAL lock_timeout = '10s'; SELECT event_store.append_event('One', 'b-$n', NULL, 'E', '{\"row\": \"y\"}'); COMMIT");
}
pass('and others append');
$open->query_safe("COMMIT");
ok($node->poll_query_until('shop', q{SELECT count(*) = 2 FROM event_store.projection_status WHERE mode = 'inline'}), 'then it is inline');
$open->quit;
$switch->quit;
is(sql("SELECT string_agg(view_key || view_data, ' ' ORDER BY view_key) FROM event_store.load_views('one')"), 'x{"n": 2} y{"n": 20}', 'nothing is missing');
$node->stop;
done_testing();
