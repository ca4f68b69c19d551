# Somebody holds domain_events or domain_views for long, as an ALTER TABLE in a
# transaction left open does.  Who asks how things stand is answered all the same, who
# waits with a timeout waits no longer than that, and events need no lock of the views.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('locked_tables',
	conf => "event_store.write_delay = '1h'\nsynchronous_commit = off\n");
$node->start;
create_store_in($node, 'shop');
wait_for_worker($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

# In a session that has met no store yet.  What waits for a lock ends with an error.
sub answer
{
	my ($statement) = @_;
	my ($status, $out, $err) = $node->psql('shop', "SET statement_timeout = '20s'; $statement");

	return $status == 0 ? $out : $err;
}

my $holder = $node->background_psql('shop');

sub hold
{
	my ($command) = @_;

	$holder->query_safe("BEGIN; $command");
	return;
}

sub release
{
	$holder->query_safe('ROLLBACK');
	return;
}

# Each is answered at once; the session has not looked at the store before, or has and
# is told that it changed.
sub is_answered
{
	my ($what, %options) = @_;
	my %asked = (
		'is_available()' => [ 'SELECT event_store.is_available()', qr/^t$/ ],
		staging_status => [ 'SELECT drain_state FROM event_store.staging_status', qr/^(idle|draining|backing_off|stopped)$/ ],
		worker_status => [ 'SELECT state FROM event_store.worker_status', qr/^(none|running|wanted|starting)$/ ],
		metrics => [ 'SELECT count(*) > 0 FROM event_store.metrics', qr/^t$/ ],
		metrics_series => [ 'SELECT count(*) > 0 FROM event_store.metrics_series', qr/^t$/ ],
		'openmetrics()' => [ "SELECT event_store.openmetrics() LIKE '%EOF'", qr/^t$/ ],
		feed_status => [ 'SELECT safe_position >= 0 FROM event_store.feed_status', qr/^t$/ ],
		'safe_position()' => [ 'SELECT event_store.safe_position() >= 0', qr/^t$/ ],
		'wait_for_events()' => [ "SELECT event_store.wait_for_events(1, '100ms') >= 1", qr/^t$/ ],
		'flush()' => [ "SELECT event_store.flush('100ms')", $options{staged} ? qr/^f$/ : qr/^t$/ ]);

	foreach my $name (sort keys %asked)
	{
		my $started = time;

		like(answer($asked{$name}[0]), $asked{$name}[1], "$what: $name answers");
		cmp_ok(time - $started, '<', 15, "$what: $name does not wait");
	}
	return;
}

my @commands = (
	'LOCK TABLE event_store.domain_events', 'LOCK TABLE event_store.domain_views',
	'ALTER TABLE event_store.domain_events ADD COLUMN note text', 'DROP TABLE event_store.domain_views',
	'REINDEX TABLE event_store.domain_events');

sql(q{SELECT event_store.append_event('T', 'a', NULL, 'x')});
sql(q{SELECT event_store.create_subscription('mail')});
my $lag = q{SELECT concat_ws(' ', name, value) FROM event_store.metrics WHERE metric = 'subscription.lag'};
is(answer($lag), 'mail 1', 'how far a subscription is behind is known');
foreach my $table (qw(domain_events subscriptions subscription_positions parked_events store_state))
{
	hold("LOCK TABLE event_store.$table");
	is(answer($lag), '', "not while somebody has locked $table, who is not waited for");
	release();
}
hold('REINDEX INDEX event_store.subscription_positions_pkey');
is(answer($lag), '', 'nor while he has locked an index');
release();
foreach my $command (@commands)
{
	hold($command);
	is_answered($command);
	release();
}

# nothing was taken since the server started, so the log itself has to say how far it goes
$node->restart;
$holder = $node->background_psql('shop');
foreach my $command (@commands[ 0, 2, 4 ])
{
	hold($command);
	is_answered("after a restart, $command");
	release();
}
is(sql('SELECT event_store.safe_position()'), 1, 'then the log says it');

# rows that are staged: flush() gives up in its time
sql(q{SELECT event_store.append_event('T', 'b', NULL, 'x', durability => 'staged')});
hold($commands[0]);
is_answered("staged, $commands[0]", staged => 1);
# the round that was asked for waits: that is no failure, and can be seen
my $pid = $holder->query_safe('SELECT pg_backend_pid()');
ok($node->poll_query_until('shop', qq{SELECT waiting_for = 'event_store.domain_events, held by $pid'
	AND waiting_since <= clock_timestamp() AND drain_state = 'draining' FROM event_store.staging_status}),
	'staging_status says what the drain waits for, and since when');
is(sql('SELECT waiting_for FROM event_store.worker_status'), "event_store.domain_events, held by $pid", 'so does worker_status');
release();
ok(flush_all($node, 'shop'), 'which ends when the table is free');
is(sql('SELECT waiting_for, waiting_since FROM event_store.staging_status'), '|', 'and nothing is waited for');

# ---------- an event needs no lock of the views

hold('LOCK TABLE event_store.domain_views');
is(answer(q{SELECT last_sequence FROM event_store.append_event('T', 'a', 1, 'y')}), 2, 'an append needs no views');
is(answer(q{SELECT last_sequence FROM event_store.append_event('T', 'a', 2, 'y', durability => 'staged')}), 3, 'nor does a staged one');
is(answer(q{SELECT count(*) FROM event_store.append_batch(ARRAY['T', 'T'], ARRAY['a', 'c'], ARRAY['z', 'z'], NULL)}), 2,
	'nor one over staged rows, which are drained for it');
is(answer(q{SELECT count(*) FROM event_store.load_events('T', 'a')}), 4, 'nor who reads events');
sql(q{SELECT event_store.append_event('T', 'd', NULL, 'x', durability => 'staged')});
is(answer(q{SELECT event_store.flush('15s')}), 't', 'nor does the drain');
is(answer(q{SELECT event_store.wait_for_events(1, '15s') > 1}), 't', 'nor the feed');
release();
hold('LOCK TABLE event_store.domain_events');
is(answer(q{SELECT event_store.put_view('V', 'k', '1')}), 't', 'and a view needs no events');
is(answer(q{SELECT event_store.load_view('V', 'k')}), '1', 'nor who reads it');
release();

# ---------- a flush that drains itself

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$holder->quit;
sql(q{SELECT event_store.append_event('T', 'e', NULL, 'x', durability => 'staged')});
$node->stop('fast');
$node->start;
$holder = $node->background_psql('shop');
foreach my $command (@commands[ 0, 2 ])
{
	my $started = time;

	hold($command);
	is(answer(q{SELECT event_store.flush('500ms')}), 'f', "without preload: flush() does not wait for $command");
	cmp_ok(time - $started, '<', 10, 'its timeout holds');
	is(answer('SELECT drain_state FROM event_store.staging_status'), 'stopped', 'and staging_status is answered');
	is(answer('SELECT event_store.is_available()'), 't', 'and is_available()');
	release();
}
is(answer(q{SELECT event_store.flush('15s')}), 't', 'when the table is free it drains');
is(sql(q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_id = 'e'}), 1, 'all that was staged');

$holder->quit;
$node->stop;
done_testing();
