# The private memory of one call that appends a million events stays below 1 GB,
# and grows no faster than the number of events.  The arguments lie in a table
# beforehand, as they would come from a client, so that what is measured is what
# the call takes: the arguments, the events made of them, and the result.
#
#   EVENT_STORE_LONG=1 takes a million events in the JSON form, too.

use strict;
use warnings;

use EventStoreTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

sub status_of
{
	my ($pid) = @_;
	my %kilobytes;

	open(my $file, '<', "/proc/$pid/status") or return {};
	while (my $line = <$file>)
	{
		$kilobytes{$1} = $2 if $line =~ /^(\w+):\s+(\d+) kB/;
	}
	close $file;
	return \%kilobytes;
}
plan skip_all => 'this system does not tell the private memory of a process'
  unless defined status_of($$)->{RssAnon};

my $node = new_server('memory', conf => "max_wal_size = '4GB'\nshared_buffers = '128MB'\n");
$node->start;
create_store_in($node, 'shop');

# Runs a statement in a session of its own; returns its answer, the most private
# memory that was seen, in MB, and the seconds it took.
sub measured
{
	my ($statement) = @_;
	my ($in, $out) = ("SELECT 'pid ' || pg_backend_pid();\n", '');
	my $peak = 0;
	my $run = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('shop') ],
		'<', \$in, '>', \$out, '2>', \$out,
		IPC::Run::timeout(2 * $PostgreSQL::Test::Utils::timeout_default));

	$run->pump until $out =~ /^pid (\d+)\n/m;
	my $pid = $1;
	my $started = time;
	$out = '';
	$in .= "$statement;\n\\echo == done\n";
	until ($out =~ /^== done\n/m)
	{
		$run->pump_nb;
		my $private = status_of($pid)->{RssAnon} // 0;
		$peak = $private if $private > $peak;
		usleep(20_000);
	}
	my $seconds = time - $started;
	# what lies between two looks: the peak of all memory, less what is shared
	my $end = status_of($pid);
	my $least = $end->{VmHWM} - $end->{RssShmem} - $end->{RssFile};
	$peak = $least if $least > $peak;
	$in .= "\\q\n";
	$run->finish;
	$out =~ s/\n== done\n//;
	return ($out, int($peak / 1024), $seconds);
}

# check(NAME, EVENTS, MB, CALL): the call appends so many events within so much.
sub check
{
	my ($name, $events, $limit, $call) = @_;
	my $before = events_in($node, 'shop');
	my ($answer, $peak, $seconds) = measured(
		"SELECT count(*) || ' ' || count(DISTINCT sequence) || ' ' || max(outcome) FROM $call");

	like($answer, qr/^$events \d+ appended$/, "$name: all are appended");
	is(events_in($node, 'shop'), $before + $events, "$name: all are there");
	note(sprintf('%s: %d MB of private memory, %.1f s', $name, $peak, $seconds));
	cmp_ok($peak, '<', $limit, "$name: below $limit MB of private memory");
	return $peak;
}

# Arguments for so many events of so many aggregates, of about 100 bytes each.
sub arguments
{
	my ($table, $events, $aggregates) = @_;

	$node->safe_psql('shop', qq{
		CREATE TABLE public.$table AS
		SELECT array_fill('Large'::text, ARRAY[$events]) AS types,
		       array_agg('$table-' || i % $aggregates) AS ids,
		       array_fill('Happened'::text, ARRAY[$events]) AS event_types,
		       array_agg(jsonb_build_object('n', i, 'text', repeat('x', 60))) AS payloads
		  FROM generate_series(1, $events) i});
	return "public.$table, event_store.append_batch(types, ids, event_types, payloads)";
}

sub json_argument
{
	my ($table, $events, $aggregates) = @_;

	$node->safe_psql('shop', qq{
		CREATE TABLE public.$table AS
		SELECT jsonb_agg(jsonb_build_object('aggregate_type', 'Large', 'aggregate_id', '$table-' || i % $aggregates,
		           'event_type', 'Happened', 'payload', jsonb_build_object('n', i, 'text', repeat('x', 60)))) AS events
		  FROM generate_series(1, $events) i});
	return "public.$table, event_store.append_batch(events)";
}

check('1,000,000 events of as many aggregates', 1_000_000, 1024, arguments('many', 1_000_000, 1_000_000));
my $small = check('100,000 events of 1,000 aggregates', 100_000, 103, arguments('few', 100_000, 1000));
cmp_ok($small, '>', 10, 'the measurement sees the arguments at least');
check('200,000 events as JSON', 200_000, 205, json_argument('json', 200_000, 1000));

SKIP:
{
	skip 'EVENT_STORE_LONG is not set', 3 unless $ENV{EVENT_STORE_LONG};
	check('1,000,000 events as JSON', 1_000_000, 1024, json_argument('long_json', 1_000_000, 1000));
}

$node->stop;
done_testing();
