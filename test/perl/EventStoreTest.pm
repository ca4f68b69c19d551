# EventStoreTest: what the TAP tests have in common, on top of
# PostgreSQL::Test::Cluster.  Everything that waits, waits for a condition.

package EventStoreTest;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  new_server create_store_in events_in wait_for_worker worker_pid
  stage flush_all error_of log_offset
);

# A server that preloads the library, not started yet.  The options of init
# come as "init => {...}", lines for postgresql.conf as "conf => '...'".
sub new_server
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(%{ $options{init} // {} });
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = 'event_store'\n"
		  . "autovacuum = off\n"
		  . ($options{conf} // ''));
	return $node;
}

sub create_store_in
{
	my ($node, $database) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database,
		'CREATE EXTENSION event_store; SELECT event_store.create_store();');
	return;
}

# The durable events of a database, counted around the API.
sub events_in
{
	my ($node, $database) = @_;

	return $node->safe_psql($database,
		'SELECT count(*) FROM event_store.domain_events');
}

# Process id of a database's worker, seen from elsewhere; '' = none.
sub worker_pid
{
	my ($node, $database) = @_;

	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity
		  WHERE backend_type = 'event_store worker' AND datname = '$database'");
}

# Waits for a worker other than one that may be known; returns its process id.
sub wait_for_worker
{
	my ($node, $database, $not) = @_;

	$not = 0 if !defined $not || $not eq '';
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity
		  WHERE backend_type = 'event_store worker' AND datname = '$database'
		    AND pid <> $not")
	  or die "no worker came up in $database";
	return worker_pid($node, $database);
}

# Stages events of new aggregates in one transaction, $each for each.
sub stage
{
	my ($node, $database, $prefix, $aggregates, $each, %options) = @_;

	return $node->safe_psql($database, qq{
		SELECT count(*) FROM event_store.append_batch(
		    (SELECT jsonb_agg(jsonb_build_object(
		                'aggregate_type', 'Order', 'aggregate_id', '$prefix-' || a,
		                'event_type', 'Changed', 'payload', jsonb_build_object('n', n))
		                ORDER BY n, a)
		       FROM generate_series(1, $aggregates) a, generate_series(1, $each) n),
		    durability => '} . ($options{durability} // 'staged') . q{')});
}

# Until everything staged is durable.
sub flush_all
{
	my ($node, $database) = @_;

	return $node->poll_query_until($database,
		"SELECT event_store.flush(timeout => '10s')");
}

# The SQLSTATE, message and hint of a statement that is refused.
sub error_of
{
	my ($node, $database, $statement) = @_;
	my ($status, $out, $err) = $node->psql($database,
		"\\set VERBOSITY verbose\n$statement");

	return $status == 0 && $err eq '' ? "no error: $out" : $err;
}

sub log_offset
{
	my ($node) = @_;

	return -s $node->logfile;
}

1;
