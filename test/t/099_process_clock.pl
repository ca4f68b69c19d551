# The clock is set back while processes of the server rest: none rests until the old time has come
# again. Staged rows become durable, a worker that ended is replaced, what was erased goes
# from the disk.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $day = 86400;
my $node = new_server('clock', conf => "event_store.write_delay = '2s'\n");
plan skip_all => 'there is no C compiler for the clock that is set' unless start_with_clock($node);
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', join("\n", @_));
}

sub poll
{
	return $node->poll_query_until('shop', $_[0]);
}

# ---------- the drain

my $before = sql('SELECT clock_timestamp()');
sql(q{SELECT event_store.append_event('Clock', 'c', NULL, 'Staged', durability => 'staged')});
set_clock($node, -$day);
is(sql("SELECT clock_timestamp() < '$before'"), 't', 'the clock is set back');
ok(poll('SELECT count(*) = 1 FROM event_store.domain_events'), 'what was staged before becomes durable after its delay');

# ---------- a worker that ends

my $worker = wait_for_worker($node, 'shop');
set_clock($node, -2 * $day);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
sql(q{SELECT event_store.append_event('Clock', 'c', NULL, 'Staged', durability => 'staged')});
ok(poll('SELECT count(*) = 2 FROM event_store.domain_events'), 'another one does its work');

# ---------- the scrubber, after a pass that has left something

my $reader = $node->background_psql('shop');
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1;');
sql(q{SELECT event_store.append_event('Clock', 'e', NULL, 'Personal', '{"name": "somebody"}');
      SELECT event_store.redact_events(ARRAY(SELECT event_id FROM event_store.domain_events WHERE aggregate_id = 'e'), 'asked for')});
ok(poll('SELECT bool_and(blocked_by IS NOT NULL) FROM event_store.erasures'), 'a pass has left what a snapshot may see');
set_clock($node, -3 * $day);
$reader->query_safe('COMMIT;');
$reader->quit;
ok(poll('SELECT bool_and(scrubbed_at IS NOT NULL) FROM event_store.erasures'), 'the next one comes after its pause');

$node->stop;
done_testing();
