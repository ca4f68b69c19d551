# Logical decoding as an outbox: pgoutput and wal2json give each durable event once, per
# aggregate in the order of sequences; what is staged comes once it is drained; what was
# not confirmed comes again.

use strict;
use warnings;

use EventStoreTest;
use File::Basename qw(dirname);
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Utils;
use StressPrograms;
use Test::More;

plan skip_all => 'python3-psycopg2 is not installed' unless can_run_programs();
chomp(my $libraries = `$ENV{PG_CONFIG} --pkglibdir`);
my @plugins = ('pgoutput', grep { -e "$libraries/$_.so" } 'wal2json');

my $node = new_server('decoding', init => { allows_streaming => 'logical' },
	conf => "event_store.write_delay = '1h'\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

# Where a consumer of each plugin stands: the end of the last transaction that it saw.
my %committed;

# The events that the example prints of a slot, up to what is written now.
sub read_slot
{
	my ($plugin, @options) = @_;
	my ($out, $err) = ('', '');
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	local $ENV{PGDATABASE} = 'shop';

	IPC::Run::run(
		[
			'/usr/bin/python3', dirname(__FILE__) . '/../../examples/logical_decoding.py',
			@options, '--until', sql('SELECT pg_current_wal_flush_lsn()'), $plugin, "by_$plugin"
		],
		'>', \$out, '2>', \$err, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default))
	  or die "the example failed with $plugin: $err";
	my @printed = map { decode_json($_) } split /\n/, $out;
	($committed{$plugin}) = map { $_->{committed} // () } reverse @printed if @printed;
	return grep { !exists $_->{committed} } @printed;
}

# The log as the example prints an event, by position.
my %log;

sub log_again
{
	%log = map { my $event = decode_json($_); ($event->{global_position} => $event) } split /\n/, sql(q{
		SELECT json_build_object('aggregate_type', aggregate_type, 'aggregate_id', aggregate_id, 'sequence', sequence,
			'global_position', global_position, 'event_id', event_id, 'event_type', event_type, 'payload', payload)
		  FROM event_store.domain_events});
	return;
}

# Tests that these are the events of the log beyond those seen, each once, in order per aggregate.
sub just_the_log
{
	my ($plugin, $seen, @events) = @_;
	my (%last, @disorder);

	foreach my $event (@{$seen}, @events)
	{
		my $aggregate = "$event->{aggregate_type}/$event->{aggregate_id}";
		push @disorder, "$aggregate: $event->{sequence} behind " . ($last{$aggregate} // 0)
		  if $event->{sequence} != ($last{$aggregate} // 0) + 1;
		$last{$aggregate} = $event->{sequence};
	}
	is_deeply(\@disorder, [], "$plugin: in the order of sequences, nothing left out, nothing twice");
	is_deeply({ map { ($_->{global_position} => $_) } @{$seen}, @events }, \%log, "$plugin: what the log holds");
	push @{$seen}, @events;
	return;
}

# PostgreSQL asks since its releases of 2026 which plugins it may load
if (sql(q{SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'}))
{
	$node->append_conf('postgresql.conf', "output_plugin_libraries = 'pgoutput, wal2json'");
	$node->reload;
}

# ---------- slots begin with what commits behind them

sql('CREATE PUBLICATION event_store_outbox FOR TABLE event_store.domain_events');
sql("SELECT pg_create_logical_replication_slot('by_$_', '$_')") foreach @plugins;
my %seen = map { ($_ => []) } @plugins;

# ---------- open transactions, rolled back ones, batches, views beside them

my $slow = $node->background_psql('shop');
$slow->query_safe(q{BEGIN; SELECT event_store.append_event('Order', 'slow', NULL, 'Placed', '{"n": 1}')});
sql(q{SELECT event_store.append_batch((SELECT jsonb_agg(jsonb_build_object('aggregate_type', 'Order',
	'aggregate_id', 'o-' || a, 'event_type', 'Changed', 'payload', jsonb_build_object('text', E'é"\\\\' || n)) ORDER BY n, a)
	FROM generate_series(1, 7) a, generate_series(1, 30) n))});
sql(q{BEGIN; SELECT event_store.append_event('Order', 'o-1', 30, 'Lost'); ROLLBACK});
sql(q{SELECT event_store.append_event('Order', 'o-1', 30, 'Raw', payload_bytes => '\x00ff')});
sql(q{SELECT event_store.put_view('Orders', 'o-1', '{"open": true}')});
$slow->query_safe('COMMIT');
$slow->quit;
sql(q{SELECT event_store.append_event('Order', 'slow', 1, 'Placed')});
$node->command_ok([ 'pgbench', '-n', '-c', '4', '-t', '25', '-f', script(), 'shop' ], 'four clients on shared aggregates');

sub script
{
	my $file = "$PostgreSQL::Test::Utils::tmp_check/append.sql";

	append_to_file($file, q{\set n random(1, 3)
SELECT event_store.append_event('Shared', 's-' || :n, NULL, 'Changed');});
	return $file;
}

log_again();
foreach my $plugin (@plugins)
{
	my @events = read_slot($plugin);
	just_the_log($plugin, $seen{$plugin}, @events);
	my ($first) = grep { $events[$_]{aggregate_id} eq 'slow' } 0 .. $#events;
	cmp_ok($events[$first]{global_position}, '<', $events[0]{global_position},
		"$plugin: between aggregates the order is that of commits, not of positions");
}

# ---------- what is staged comes once it is drained

stage($node, 'shop', 'staged', 3, 20);
sql(q{SELECT event_store.append_event('Order', 'o-2', 30, 'Changed', durability => 'staged')});
is(scalar(read_slot($_)), 0, "$_: nothing that is staged") foreach @plugins;
ok(flush_all($node, 'shop'), 'drained');
log_again();
just_the_log($_, $seen{$_}, read_slot($_)) foreach @plugins;

# ---------- a crash takes the slot back, by transactions that were confirmed as well

# Appends, and lets the server crash before anybody has read it.
sub append_and_crash
{
	sql(q{SELECT event_store.append_event('Order', 'again', NULL, 'Placed')});
	log_again();
	$node->stop('immediate');
	$node->start;
	return;
}

append_and_crash();
just_the_log($_, $seen{$_}, read_slot($_, '--from', $committed{$_})) foreach @plugins;
is(scalar(read_slot($_)), 0, "$_: and then nothing") foreach @plugins;
append_and_crash();
foreach my $plugin (@plugins)
{
	my %known = map { ($_->{event_id} => 1) } @{ $seen{$plugin} };

	just_the_log($plugin, $seen{$plugin}, grep { !$known{ $_->{event_id} } } read_slot($plugin));
}

SKIP:
{
	skip "wal2json is not installed (postgresql-$ENV{MAJOR}-wal2json)", 1 unless grep { $_ eq 'wal2json' } @plugins;
	is_deeply($seen{wal2json}, $seen{pgoutput}, 'both say the same in the same order');
}

$node->stop;
done_testing();
