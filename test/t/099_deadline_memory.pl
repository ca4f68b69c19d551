# Due events that compress well take no more memory than others: a batch is as large as its events are in memory.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

# Private memory of a process, in MB: the most that it had, less what it shares.
sub private_memory
{
	my ($pid) = @_;
	my %kilobytes;

	open(my $file, '<', "/proc/$pid/status") or return;
	while (my $line = <$file>)
	{
		$kilobytes{$1} = $2 if $line =~ /^(\w+):\s+(\d+) kB/;
	}
	close $file;
	return unless defined $kilobytes{RssAnon};
	return ($kilobytes{VmHWM} - $kilobytes{RssShmem} - $kilobytes{RssFile}) / 1024;
}

plan skip_all => 'this system does not tell the private memory of a process' unless defined private_memory($$);

my $node = new_server('deadline_memory', conf => "fsync = off\nmax_worker_processes = 16\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', join("\n", @_));
}

my $process = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'event_store projector'};

# 100 kB each, of zeros: the payload, the metadata
for my $large ("to_jsonb(repeat('0', 100000))", "'{}', jsonb_build_object('m', repeat('0', 100000))")
{
	my $type = $large =~ /^to/ ? 'Payload' : 'Metadata';

	sql(qq{SELECT count(event_store.schedule_event('2999-01-01Z', '$type', 'm-' || n, 'E', $large)) FROM generate_series(1, 2000) n});
	sql(q{UPDATE event_store.scheduled_events SET due_at = '2020-01-01Z'});
	ok($node->poll_query_until('shop', qq{SELECT count(*) = 2000 FROM event_store.domain_events WHERE aggregate_type = '$type'}), "$type: all are appended");
	my $memory = private_memory(sql($process));
	note(sprintf('%.1f MB', $memory));
	cmp_ok($memory, '<', 64, "$type: within 64 MB");
}

$node->stop;
done_testing();
