# A worker that starts while the settings are read again works with the new ones,
# though the signal that tells of them may come before the process heeds any.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $rounds = $ENV{EVENT_STORE_RELOADS} // 30;
my $node = new_server('reload', conf => "event_store.write_delay = '1ms'\nsynchronous_commit = off\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub write_pause
{
	my ($pause) = @_;

	$node->append_conf('postgresql.conf', "event_store.retry_max = $pause\nevent_store.retry_initial = $pause\n");
	return;
}

my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;

sql(<<'SQL');
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'fault' USING ERRCODE = '22012'; END $$;
CREATE TRIGGER fail BEFORE INSERT ON event_store.domain_events FOR EACH ROW EXECUTE FUNCTION fail();
SQL

# With a pause of an hour rows that all fail alike stay staged; with one of a
# millisecond they are dead letters after five attempts.
my $given_up = 0;
foreach my $round (1 .. $rounds)
{
	write_pause(1);
	$node->reload;
	my $worker = wait_for_worker($node, 'shop');
	ok(flush_all($node, 'shop'), "round $round begins with nothing staged");
	write_pause(3600000);
	kill 'TERM', $worker;
	usleep(500 * ($round % 20));
	kill 'HUP', $postmaster;
	$node->poll_query_until('shop', q{SELECT setting = '3600000' FROM pg_settings WHERE name = 'event_store.retry_max'})
	  or die 'the settings were not read';
	sql(qq{BEGIN;
	       SELECT FROM event_store.append_event('T', 'a-$round', NULL, 'E', durability => 'staged');
	       SELECT FROM event_store.append_event('T', 'b-$round', NULL, 'E', durability => 'staged');
	       COMMIT});
	$node->poll_query_until('shop', qq{SELECT consecutive_failures > 0 OR EXISTS (SELECT FROM event_store.dead_letters WHERE aggregate_id = 'a-$round') FROM event_store.staging_status})
	  or die 'nothing was tried';
	usleep(50000);
	$given_up++ if sql("SELECT count(*) FROM event_store.dead_letters WHERE aggregate_id = 'a-$round'") > 0;
}
is($given_up, 0, 'no worker went on with the settings of before');
$node->stop;
done_testing();
