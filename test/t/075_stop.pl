# A planned stop of the server loses nothing: what is staged becomes durable, and
# a standby that takes over has it.  Worker and launcher leave without a FATAL.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $primary = new_server(
	'stop_primary',
	init => { allows_streaming => 1 },
	conf => "event_store.write_delay = '1h'\nevent_store.write_batch_size = 1000000\n"
	  . "event_store.drain_at_shutdown = '5s'\n");
$primary->start;
create_store_in($primary, 'shop');
prepare_clients($primary, 'shop');
$primary->backup('base');

# What the log says of processes that end since an offset.
sub ends_in
{
	my ($node, $offset) = @_;

	return join "\n", grep { /event_store/ && /FATAL|exited with exit code/ }
	  split /\n/, slurp_file($node->logfile, $offset);
}

sub new_standby
{
	my ($name) = @_;
	my $standby = PostgreSQL::Test::Cluster->new($name);

	$standby->init_from_backup($primary, 'base', has_streaming => 1);
	$standby->start;
	return $standby;
}

# ---------- staged, and stopped

my $standby = new_standby('stop_standby');
wait_for_worker($primary, 'shop');
is(stage($primary, 'shop', 'staged', 3, 2), '6', 'six events are staged');
$primary->safe_psql('shop',
	q{SELECT event_store.put_view('V', 'staged', '{"n": 1}', durability => 'staged')});
is(events_in($primary, 'shop'), '0', 'none is durable');
my $offset = log_offset($primary);
$primary->stop('fast');
is(ends_in($primary, $offset), '', 'a fast stop: worker and launcher leave without a word');
$standby->promote;
is(events_in($standby, 'shop'), '6', 'the standby that takes over has all of them');
is($standby->safe_psql('shop', q{SELECT view_data FROM event_store.domain_views WHERE view_key = 'staged'}),
	'{"n": 1}', 'and the view');
wait_for_worker($standby, 'shop');
ok($standby->poll_query_until('shop',
		'SELECT staging_epoch IS NOT NULL FROM event_store.staging_status'), 'staging is looked at there');
is($standby->safe_psql('shop', 'SELECT staging_epoch FROM event_store.staging_status'), '1',
	'and no loss is reported');
$standby->stop;

# ---------- under load

$standby = undef;
$primary->start;
$primary->backup('later');
$standby = PostgreSQL::Test::Cluster->new('stop_busy');
$standby->init_from_backup($primary, 'later', has_streaming => 1);
$standby->start;
wait_for_worker($primary, 'shop');
my @clients = map { start_client($primary, 'shop', $_) } qw(staged staged durable);
$primary->stop('fast');
$_->{run}->finish foreach @clients;
$standby->promote;
is($standby->safe_psql('shop', q{SELECT count(*) FROM ledger}) + 6, events_in($standby, 'shop'),
	'clients at work: the standby has an event for each that was committed');
$standby->safe_psql('shop', 'DELETE FROM running');
$standby->safe_psql('shop', q{DELETE FROM event_store.domain_views WHERE view_key = 'staged'});
is($standby->safe_psql('shop', q{SELECT count(*) FROM (
	             SELECT aggregate_id, sequence, event_id FROM ledger
	             EXCEPT ALL SELECT aggregate_id, sequence, event_id FROM event_store.domain_events) missing}),
	'0', 'each the one that the client was told of');
$standby->stop;

# ---------- off

$primary->append_conf('postgresql.conf', "event_store.drain_at_shutdown = 0\n");
$primary->start;
wait_for_worker($primary, 'shop');
my $before = events_in($primary, 'shop');
stage($primary, 'shop', 'off', 2, 2);
$primary->restart;
is(events_in($primary, 'shop'), $before, 'drain_at_shutdown = 0: nothing is drained at a stop');
ok(flush_all($primary, 'shop'), 'what is staged is there');
is(events_in($primary, 'shop'), $before + 4, 'and can be drained');

# ---------- code that does not end

$primary->append_conf('postgresql.conf',
	"event_store.drain_at_shutdown = '1s'\nevent_store.write_delay = '1ms'\n");
$primary->safe_psql('shop', q{
	CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
	    IF NEW.aggregate_id LIKE 'held%' THEN
	        LOOP
	            BEGIN
	                PERFORM pg_sleep(3600);
	            EXCEPTION WHEN query_canceled THEN
	                NULL;
	            END;
	        END LOOP;
	    END IF;
	    RETURN NULL;
	END $$;
	CREATE TRIGGER hold AFTER INSERT ON event_store.domain_events FOR EACH ROW EXECUTE FUNCTION hold();
});
$primary->restart;
wait_for_worker($primary, 'shop');
stage($primary, 'shop', 'held', 1, 1);
$primary->poll_query_until('shop', q{SELECT count(*) = 1 FROM pg_stat_activity
    WHERE backend_type = 'event_store worker' AND wait_event = 'PgSleep'}) or die 'no round is held';
my $started = time;
$primary->stop('fast');
cmp_ok(time - $started, '<', 20, 'a round that does not end is given up');
$primary->start;
is($primary->safe_psql('shop', q{SELECT count(*) FROM event_store.load_events('Order', 'held-1')}), '1',
	'what it did not finish is still staged');
$primary->stop('immediate');
unlike(slurp_file($primary->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
