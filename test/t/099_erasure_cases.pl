# What an erasure meets: policies that hide something from the store, prepared transactions, others that always have a
# snapshot, and a standby that is promoted in the midst of it.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_server('primary', init => { allows_streaming => 1 },
	conf => "wal_level = replica\nmax_prepared_transactions = 2\nevent_store.write_delay = '10s'\n");
$primary->start;
create_store_in($primary, 'shop');

sub sql
{
	return $primary->safe_psql('shop', join("\n", @_));
}

sub append
{
	my ($id, $name) = @_;
	return sql(qq{SELECT outcome FROM event_store.append_event('Customer', '$id', NULL, 'Named', '{"name": "$name"}')});
}

sub scrubbed
{
	my ($node, $what) = @_;
	ok($node->poll_query_until('shop', 'SELECT count(*) = 0 FROM event_store.erasures WHERE scrubbed_at IS NULL'), $what);
	return;
}

# ---------- what policies hide from the store is not passed over

$primary->safe_psql('postgres', 'CREATE ROLE owner LOGIN; CREATE DATABASE owned');
$primary->safe_psql('owned', q{CREATE EXTENSION event_store; SELECT event_store.create_store(owner => 'owner');
	SELECT event_store.append_event('Customer', 'c-1', NULL, 'Named', '{"name": "Ann"}');
	SELECT event_store.append_event('Customer', 'c-2', NULL, 'Named', '{"name": "Ann"}');
	SELECT event_store.archive_aggregate('Customer', 'c-2');});
foreach my $table ('domain_events', 'domain_events_archive')
{
	$primary->safe_psql('owned', "ALTER TABLE event_store.$table ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY");
	like(error_of($primary, 'owned', "SELECT event_store.$_"), qr/55000.*row security is forced.*NO FORCE/s, "with forced row security of $table: $_")
	  for q{erase_events('{"aggregate_type": "Customer"}', 'r')}, q{erase_events('{"aggregate_type": "Customer"}', 'r', dry_run => true)},
	  q{erase_aggregate('Customer', 'c-2', 'r')}, q{redact_events('{}', 'r')};
	$primary->safe_psql('owned', "ALTER TABLE event_store.$table NO FORCE ROW LEVEL SECURITY");
}
is($primary->safe_psql('owned', q{SELECT event_store.erase_events('{"aggregate_type": "Customer"}', 'r')}), '2', 'policies for others are none of its business');
$primary->safe_psql('owned', q{ALTER TABLE event_store.domain_events FORCE ROW LEVEL SECURITY; ALTER ROLE owner BYPASSRLS});
is($primary->safe_psql('owned', q{SELECT event_store.erase_events('{"aggregate_type": "Customer"}', 'r', dry_run => true)}), '0', 'nor those that do not hold for its owner');
$primary->safe_psql('owned', 'ALTER ROLE owner NOBYPASSRLS; ALTER TABLE event_store.domain_events NO FORCE ROW LEVEL SECURITY');

# ---------- what is staged is erased, too, and nobody else changes anything

sql(q{SELECT event_store.append_event('Customer', 's-1', NULL, 'Named', '{"name": "StagedAnn"}', durability => 'staged');
	SELECT event_store.erase_aggregate('Customer', 's-1', 'r')});
is(sql(q{SELECT payload FROM event_store.load_events('Customer', 's-1')}), '{}', 'what is staged is erased');
like(error_of($primary, 'shop', "$_ WHERE aggregate_type = 'Customer'"), qr/VS003/, $_)
  for q{UPDATE event_store.domain_events SET payload = '{"name": "Eve"}'}, 'DELETE FROM event_store.domain_events';
scrubbed($primary, 'it is scrubbed');
is_deeply([ files_with($primary, 'StagedAnn') ], [], 'no file has it');

# ---------- prepared transactions

append('c-1', 'PreparedAnn');
like(error_of($primary, 'shop', q{BEGIN; SELECT event_store.erase_aggregate('Customer', 'c-1', 'r'); PREPARE TRANSACTION 'erased';}),
	qr/0A000/, 'an erasure cannot be prepared');
is(sql(q{SELECT payload ->> 'name' FROM event_store.load_events('Customer', 'c-1')}), 'PreparedAnn', 'and has not happened');
sql(q{BEGIN; CREATE TABLE of_prepared (); PREPARE TRANSACTION 'older';});
sql(q{SELECT event_store.erase_aggregate('Customer', 'c-1', 'r'); CALL event_store.scrub_erased()});
is(sql('SELECT count(*), max(blocked_by) FROM event_store.erasures WHERE scrubbed_at IS NULL'), '1|prepared transaction older', 'a prepared one is waited for by its name');
sql(q{COMMIT PREPARED 'older'});
scrubbed($primary, 'it is scrubbed when that has ended');
is_deeply([ files_with($primary, 'PreparedAnn') ], [], 'no file has it');

# ---------- somebody always has a snapshot, but not the same: what is noted of one does not make the erasure wait for the next

append('c-2', 'AlwaysAnn');
my $older = $primary->background_psql('shop');
$older->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1;');
my $erasing = $primary->background_psql('shop');
$erasing->query_safe(q{BEGIN; SELECT event_store.erase_aggregate('Customer', 'c-2', 'r');});
my $younger = $primary->background_psql('shop');
$younger->query_safe('BEGIN; SELECT pg_current_xact_id();');
$erasing->query_safe('COMMIT;');
$erasing->quit;
ok($primary->poll_query_until('shop', q{SELECT blocked_by LIKE 'session%' FROM event_store.erasures WHERE scrubbed_at IS NULL}), 'it waits for an older one');
$older->query_safe('COMMIT;');
$older->quit;
scrubbed($primary, 'but not for one that began before that was noted');
$younger->query_safe('COMMIT;');
$younger->quit;

# ---------- a standby is promoted in the midst

$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
append('c-3', 'ErasedAnn');
append('c-4', 'OpenAnn');
my $old = $primary->background_psql('shop');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM event_store.domain_events;');
sql(q{SELECT event_store.erase_aggregate('Customer', 'c-3', 'r')});
my $open = $primary->background_psql('shop');
$open->query_safe(q{BEGIN; SELECT event_store.erase_aggregate('Customer', 'c-4', 'r');});
# a commit has all of that written
append('c-5', 'Bob');
sql('CHECKPOINT');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
like(error_of($standby, 'shop', q{SELECT event_store.erase_aggregate('Customer', 'c-4', 'r')}), qr/25006/, 'a standby erases nothing');
like(error_of($standby, 'shop', 'CALL event_store.scrub_erased()'), qr/25006/, 'nor scrubs');
$primary->stop('immediate');
eval { $_->quit } for $old, $open;
$standby->promote;
is($standby->safe_psql('shop', q{SELECT string_agg(aggregate_id || ' ' || coalesce(payload ->> 'name', ''), ', ' ORDER BY aggregate_id) FROM event_store.domain_events
	 WHERE aggregate_id IN ('c-3', 'c-4')}), 'c-3 , c-4 OpenAnn', 'what was erased is, and what was open is not');
scrubbed($standby, 'what the primary had yet to scrub the other server does');
is_deeply([ files_with($standby, 'ErasedAnn') ], [], 'no file has it');
is($standby->safe_psql('shop', q{SELECT event_store.erase_aggregate('Customer', 'c-4', 'r')}), '1', 'the open one is done again');
scrubbed($standby, 'and scrubbed');
is_deeply([ files_with($standby, $_) ], [], "no file has $_") for 'OpenAnn', 'AlwaysAnn';
is($standby->safe_psql('shop', q{SELECT count(*) FROM event_store.read_events(aggregate_types => '{store:erasure}')}), '5', 'each is announced once');

done_testing();
