# Of the heads that a batch needs those are looked up that are not remembered, and each event follows the
# last one of its aggregate, wherever that was known from.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('heads', conf => "event_store.write_delay = '1h'\n");
$node->start;
create_store_in($node, 'shop');
my $session = $node->background_psql('shop');

sub sql
{
	return $session->query_safe(join("\n", @_));
}

# Appends one event to each of these aggregates; returns their sequences, and how often the index of heads was looked into.
sub append
{
	my ($from, $to, %options) = @_;
	my $looks = q{SELECT pg_stat_get_xact_numscans('event_store.domain_events_aggregate_key'::regclass)};
	my $count = $to - $from + 1;

	sql('BEGIN');
	my $before = sql($looks);
	my $sequences = sql(qq{SELECT string_agg(sequence::text, ' ' ORDER BY ordinality) FROM event_store.append_batch(
		array_fill('Head'::text, ARRAY[$count]), ARRAY(SELECT 'h-' || n FROM generate_series($from, $to) n), array_fill('E'::text, ARRAY[$count]), NULL,
		durability => '@{[ $options{durability} // 'durable' ]}') WITH ORDINALITY});
	my $after = sql($looks);
	sql('COMMIT');
	return ($sequences, $after - $before);
}

# a store that has just been opened is looked at first
sql(q{SELECT FROM event_store.append_event('Opened', 'o-1', 0, 'E', durability => 'staged'); SELECT event_store.flush()});
append(1, 10);
is_deeply([ append(1, 10) ], [ join(' ', (2) x 10), 0 ], 'all are remembered: no look');
is_deeply([ append(0, 11) ], [ join(' ', 1, (3) x 10, 1), 2 ], 'two are new: two looks');
append(5, 5, durability => 'staged');
is_deeply([ (append(0, 12, durability => 'staged'))[0] ], [ join(' ', 2, (4) x 4, 5, (4) x 5, 2, 1) ], 'behind what is staged');
sql(q{SELECT event_store.flush()});
is_deeply([ append(0, 13) ], [ join(' ', 3, (5) x 4, 6, (5) x 5, 3, 2, 1), 1 ], 'and what was staged, and is durable');
is(sql(q{SELECT count(*) FROM (SELECT aggregate_id FROM event_store.domain_events WHERE aggregate_type = 'Head' GROUP BY 1
	HAVING min(sequence) <> 1 OR max(sequence) <> count(*)) broken}), '0', 'no sequence is left out');

$session->quit;
$node->stop;
done_testing();
