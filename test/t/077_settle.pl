# A durable write over staged rows that do not drain: it gives up after settle_timeout
# and says why, or after lock_timeout or statement_timeout.  Who waits does not drive the
# worker, and a failure that lasts does not fill the log.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('settle',
	conf => "event_store.write_delay = '1h'\nsynchronous_commit = off\nlog_line_prefix = '%n %b: '\n"
	  . "event_store.retry_initial = '10ms'\nevent_store.retry_max = '100ms'\nlog_min_messages = debug1\n");
$node->start;
create_store_in($node, 'shop');
wait_for_worker($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub is_refused
{
	my ($settings, $call, $like, $what) = @_;
	my $started = time;
	my $error = error_of($node, 'shop', "SET statement_timeout = '60s'; $settings; SELECT event_store.$call");

	like($error, $like, $what);
	cmp_ok(time - $started, '<', 45, "$what, and no later");
	return $error;
}

my $append = q{append_event('T', 'a', NULL, 'x', durability => 'durable')};
my $put = q{put_view('V', 'a', '2', durability => 'durable')};

is(sql('SHOW event_store.settle_timeout'), '30s', 'the default');
sql(<<'SQL');
SELECT event_store.append_event('T', 'a', NULL, 'x', durability => 'staged');
SELECT event_store.put_view('V', 'a', '1', durability => 'staged');
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'no room' USING ERRCODE = '53100';
END
$$;
CREATE TRIGGER fail BEFORE INSERT ON event_store.domain_events FOR EACH STATEMENT EXECUTE FUNCTION fail();
SQL

# ---------- the drain fails

my $offset = log_offset($node);
foreach my $call ($append, $put, q{clear_view('V')}, q{discard_dead_letters('T', 'a', 'test')})
{
	my ($name) = $call =~ /^(\w+)/;
	my $error = is_refused("SET event_store.settle_timeout = '300ms'", $call,
		qr/ERROR:  55000: staged rows did not become durable within 300 ms/, "$name gives up");

	like($error, qr/DETAIL:  The drain has failed \d+ times in a row: no room/, "$name says what the drain said");
}
is_refused("SET lock_timeout = '200ms'", $append, qr/ERROR:  55P03: canceling statement due to lock timeout/, 'lock_timeout counts');
is_refused("SET statement_timeout = '200ms'", $append, qr/ERROR:  57014: canceling statement due to statement timeout/,
	'so does statement_timeout');
is_refused("SET lock_timeout = '10s'; SET event_store.settle_timeout = '100ms'", $append, qr/ERROR:  55000/,
	'the shorter one is told');

# ---------- the log, and the pace

ok($node->poll_query_until('shop', 'SELECT consecutive_failures >= 20 FROM event_store.staging_status'), 'it fails on and on');
my $log = slurp_file($node->logfile, $offset);
my @logged = $log =~ /event_store worker: ERROR:  no room/g;
my @again = $log =~ /event_store worker: DEBUG:  drain again: no room/g;
cmp_ok(scalar(@logged), '<=', 8, 'the log has the 1st, 2nd, 4th, 8th, ... failure');
cmp_ok(scalar(@logged), '>=', 4, 'at least those');
cmp_ok(@logged + @again, '>=', 20, 'the others are there for who debugs');
# waiters, one after the other and some at a time, make the pauses shorter but not short
$node->append_conf('postgresql.conf', "event_store.retry_initial = '50ms'\nevent_store.retry_max = '1h'\n");
$node->reload;
$node->poll_query_until('shop', "SELECT setting = '50' FROM pg_settings WHERE name = 'event_store.retry_initial'");
my $failures = 'SELECT consecutive_failures FROM event_store.staging_status';
my $before = sql($failures);
is_refused("SET event_store.settle_timeout = '200ms'", $append, qr/55000/, 'a waiter') foreach 1 .. 10;
# in 2 s that would be forty times; a pause is doubled over twenty times by now, and an eighth of it
# is longer than this test, but a worker that starts anew tries at once
cmp_ok(sql($failures) - $before, '<', 10, 'does not have the worker try at retry_initial');
sql('DROP TRIGGER fail ON event_store.domain_events');
$node->append_conf('postgresql.conf', "event_store.retry_max = '100ms'\n");
$node->reload;
ok(flush_all($node, 'shop'), 'when the cause is gone, and the settings are better, a round goes through');
is(sql($failures), 0, 'and the failures are over');
is(sql("SET event_store.settle_timeout = '10s'; SELECT last_sequence FROM event_store.append_event('T', 'a', NULL, 'x', durability => 'durable')"),
	2, 'and the append');

# ---------- the drain does not fail, it waits

my $holder = $node->background_psql('shop');
sql(q{SELECT event_store.append_event('T', 'a', NULL, 'x', durability => 'staged')});
$holder->query_safe('BEGIN; LOCK TABLE event_store.domain_events IN SHARE MODE');
my $error = is_refused("SET event_store.settle_timeout = '300ms'", $append,
	qr/ERROR:  55000: staged rows did not become durable within 300 ms/, 'a round that waits for a table');
like($error, qr/DETAIL:  The drain has not failed/, 'is no failure');
is_refused("SET lock_timeout = '200ms'", $append, qr/ERROR:  55P03: canceling statement due to lock timeout/, 'lock_timeout counts there');
is_refused("SET statement_timeout = '200ms'", $append, qr/ERROR:  57014/, 'and statement_timeout');
$holder->query_safe('ROLLBACK');
is(sql("SET event_store.settle_timeout = '10s'; SELECT last_sequence FROM event_store.append_event('T', 'a', NULL, 'x', durability => 'durable')"),
	4, 'then it goes on');

$holder->quit;
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
