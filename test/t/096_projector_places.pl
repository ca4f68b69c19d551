# Processes are few, and a projector that rests keeps none from others: it leaves where another
# database wants one, for a projector or a worker, long before its minute is over, and
# is back when there is something to do.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# the launcher, a worker for each of two databases, and one projector
my $node = new_server('places',
	conf => "max_worker_processes = 4\nmax_logical_replication_workers = 0\nevent_store.retry_initial = '10ms'\n");
$node->start;

# Waits for the projection of a database; a projector that rests elsewhere would stay for a minute.
sub caught_up_soon
{
	my ($database) = @_;

	return $node->poll_query_until($database, q{
		SELECT (clock_timestamp() - max(recorded_at) < interval '30 s' OR NULL) AND (SELECT sum(n) FROM seen) = count(*) FROM event_store.domain_events});
}

my @databases = qw(first second);
foreach my $database (@databases)
{
	create_store_in($node, $database);
	$node->safe_psql($database, q{
		CREATE TABLE seen (n bigint);
		CREATE FUNCTION sees(events event_store.event[]) RETURNS void LANGUAGE sql AS $$ INSERT INTO public.seen VALUES (cardinality(events)) $$;
		SELECT event_store.create_projection('sees', 'sees(event_store.event[])');
	});
}
foreach my $round (1 .. 2)
{
	foreach my $database (@databases)
	{
		$node->safe_psql($database, q{SELECT event_store.append_event('Any', 'a', NULL, 'E')});
		ok(caught_up_soon($database), "round $round: $database gets a projector though others rest");
	}
}
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'event_store projector'}), '<=', 2, 'as many as there can be are there');

# terminated, each is replaced
foreach my $round (1 .. 3)
{
	$node->safe_psql('postgres', q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'event_store projector'});
	$node->safe_psql('second', q{SELECT event_store.append_event('Any', 'a', NULL, 'E')});
	ok(caught_up_soon('second'), 'one that is terminated is followed by another');
}
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
