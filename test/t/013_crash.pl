# What a crash takes and what it leaves: nothing durable is lost, staged rows
# are lost as whole transactions and as the tail of their aggregates, the loss
# is reported, and no position or event id is given twice.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = new_server('crash',
	conf => "restart_after_crash = on\nevent_store.write_delay = '1h'\n");
$node->start;
create_store_in($node, 'shop');
wait_for_worker($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub epoch
{
	wait_for_worker($node, 'shop');
	$node->poll_query_until('shop',
		'SELECT staging_epoch IS NOT NULL FROM event_store.staging_status');
	return sql('SELECT staging_epoch FROM event_store.staging_status');
}

sub losses_reported
{
	my ($offset) = @_;
	my $count = () = slurp_file($node->logfile, $offset) =~
	  /WARNING:  staging is empty after an unclean stop/g;
	return $count;
}

# What holds of every aggregate, whatever happened.
sub check_whole
{
	my ($when) = @_;

	is(sql('SELECT count(*) FROM (SELECT FROM event_store.domain_events
	          GROUP BY aggregate_type, aggregate_id
	         HAVING min(sequence) <> 1 OR max(sequence) <> count(*)) broken'),
		'0', "$when: every aggregate is 1..n");
	return;
}

# ---------- a store that never staged has nothing to lose

create_store_in($node, 'quiet');
wait_for_worker($node, 'quiet');
foreach my $turn (1 .. 2)
{
	my $from = log_offset($node);

	$node->safe_psql('quiet', "SELECT event_store.append_event('T', 'q-$turn', 0, 'x');
		SELECT event_store.put_view('V', 'q', '1')");
	$node->safe_psql('quiet', 'SELECT event_store.flush()');
	$node->safe_psql('quiet', 'SELECT event_store.drain()');
	$node->stop('immediate');
	$node->start;
	# a durable append may come before the worker has looked
	$node->safe_psql('quiet', "SELECT event_store.append_event('T', 'q-$turn', 1, 'y')");
	ok($node->poll_query_until('quiet',
			'SELECT staging_epoch IS NOT NULL FROM event_store.staging_status'),
		'what is staged is known again');
	is(losses_reported($from), 0, "crash $turn of a store that never staged: no loss is reported");
	is($node->safe_psql('quiet', 'SELECT staging_epoch FROM event_store.staging_status'),
		'1', 'nor a new epoch');
}
my $quiet_from = log_offset($node);
is($node->safe_psql('quiet', q{SELECT durable FROM event_store.append_event('T', 'q-s', 0, 'x', durability => 'staged')}),
	'f', 'it can stage at once');
$node->stop('immediate');
$node->start;
$node->poll_query_until('quiet', 'SELECT staging_epoch = 2 FROM event_store.staging_status')
  or die 'no new epoch';
is(losses_reported($quiet_from), 1, 'and then has something to lose');
$quiet_from = log_offset($node);
is($node->safe_psql('quiet', q{SELECT durable FROM event_store.append_event('T', 'q-t', 0, 'x', durability => 'staged')}),
	'f', 'something is staged');
$node->safe_psql('quiet', 'DROP TABLE event_store.store_state; SELECT event_store.create_store()');
$node->stop('immediate');
$node->start;
$node->poll_query_until('quiet', 'SELECT staging_epoch = 3 FROM event_store.staging_status')
  or die 'no new epoch';
is(losses_reported($quiet_from), 1, 'also when what tells of it was dropped and made again meanwhile');
$node->safe_psql('postgres', 'DROP DATABASE quiet');

# the owner of a store need not be the one who made the extension
$node->safe_psql('postgres', 'CREATE DATABASE owned');
is($node->safe_psql('owned', q{
		CREATE ROLE keeper;
		CREATE EXTENSION event_store;
		DO $$BEGIN PERFORM event_store.create_store(owner => 'keeper'); END$$;
		SET SESSION AUTHORIZATION keeper;
		DO 'BEGIN PERFORM event_store.create_store(); END';
		SELECT staging_dirty FROM event_store.store_state}),
	'f', 'a store of an owner who is no superuser');
$node->safe_psql('postgres', 'DROP DATABASE owned; DROP ROLE keeper');

my $append_two = q{
	SELECT count(*) FROM event_store.append_batch('[
	    {"aggregate_type": "T", "aggregate_id": "t-1", "event_type": "x"},
	    {"aggregate_type": "T", "aggregate_id": "t-2", "event_type": "x"},
	    {"aggregate_type": "T", "aggregate_id": "t-1", "event_type": "y"}]', durability => 'staged')};

# ---------- immediate stop: the drained transaction stays, the other one goes

is(epoch(), '1', 'the first epoch');
sql(q{SELECT event_store.append_events('T', 'd-1', 0, '[{"event_type": "x"}, {"event_type": "y"}]')});
sql(qq{BEGIN; $append_two;
	SELECT event_store.put_view('V', 'v-1', '{"of": 1}', durability => 'staged'); COMMIT;});
is(sql('SELECT event_store.drain()'), '4', 'one transaction is drained');
sql(qq{BEGIN; $append_two;
	SELECT event_store.append_event('T', 't-3', 0, 'x', durability => 'staged');
	SELECT event_store.put_view('V', 'v-1', '{"of": 2}', durability => 'staged');
	SELECT event_store.put_view('V', 'v-2', '{"of": 2}', durability => 'staged'); COMMIT;});
my $ids = sql(q{SELECT string_agg(quote_literal(event_id), ',' ORDER BY sequence)
	              FROM event_store.load_events('T', 't-1')});
is(sql(q{SELECT event_store.aggregate_sequence('T', 't-1')}), '4', 'one is staged');

my $sids = sql('SELECT max(sid) FROM event_store.staging');
my $offset = log_offset($node);
$node->stop('immediate');
$node->start;
is(sql(q{SELECT string_agg(a || '=' || event_store.aggregate_sequence('T', a), ' ' ORDER BY a)
	       FROM unnest(ARRAY['d-1', 't-1', 't-2', 't-3']) a}),
	'd-1=2 t-1=2 t-2=1 t-3=0', 'the events of the drained one are there, of the other none');
is(sql(q{SELECT event_store.load_view('V', 'v-1'), event_store.load_view('V', 'v-2') IS NULL}),
	'{"of": 1}|t', 'so are the views');
is(epoch(), '2', 'a new epoch');
is(losses_reported($offset), 1, 'the loss is reported, once');
is(sql(q{SELECT staging_epoch, first_sequence
	       FROM event_store.append_event('T', 't-1', 2, 'x', durability => 'staged')}),
	'2|3', 'a lost sequence is given again, under the new epoch');
is(sql("SELECT min(sid) > $sids FROM event_store.staging"), 't', 'a place in staging is not');
is(sql(qq{SELECT count(*) FROM event_store.domain_events
	       WHERE event_id IN ($ids) AND aggregate_id = 't-1'}),
	'2', 'by their ids a client sees which events are left');
is(sql(qq{SELECT string_agg(outcome || ' ' || sequence, ', ' ORDER BY ordinal)
	       FROM event_store.append_batch(ARRAY['T', 'T'], ARRAY['t-1', 't-1'], ARRAY['x', 'y'],
	                ARRAY['{}', '{}']::jsonb[], event_ids => (ARRAY[$ids]::uuid[])[1:2])}),
	'duplicate 1, duplicate 2', 'and may send them again');

# ---------- immediate stop: of a transaction that wrote durably first, nothing goes

my $mixed = q{BEGIN;
	SELECT durable FROM event_store.append_event('M', 'm-1', 0, 'x', durability => 'durable');
	SELECT durable FROM event_store.append_event('M', 'm-2', 0, 'x', durability => 'staged');
	SELECT event_store.put_view('M', 'm-1', '1', durability => 'staged');
	SAVEPOINT a;
	SELECT durable FROM event_store.append_event('M', 'm-2', 1, 'x', durability => 'staged');
	RELEASE a;
	COMMIT;
	BEGIN;
	SAVEPOINT a;
	SELECT durable FROM event_store.append_event('M', 'm-3', 0, 'x', durability => 'durable');
	ROLLBACK TO a;
	SELECT durable FROM event_store.append_event('M', 'm-4', 0, 'x', durability => 'staged');
	SELECT event_store.put_view('M', 'm-4', '1', durability => 'staged');
	COMMIT;};
is(sql($mixed), join("\n", qw(t t t t t f t)), 'what follows a durable write is durable');
$node->stop('immediate');
$node->start;
epoch();
is(sql(q{SELECT string_agg(a || '=' || event_store.aggregate_sequence('M', a), ' ' ORDER BY a)
	       FROM unnest(ARRAY['m-1', 'm-2', 'm-3', 'm-4']) a}),
	'm-1=1 m-2=2 m-3=0 m-4=0', 'whole transactions are lost: all of the staged one, nothing of the other');
is(sql(q{SELECT event_store.load_view('M', 'm-1'), event_store.load_view('M', 'm-4') IS NULL}),
	'1|t', 'and their views with them');
sql(q{SELECT event_store.append_event('T', 't-1', NULL, 'x', durability => 'staged')});

# ---------- clean restart: nothing is lost, nothing is reported

$offset = log_offset($node);
sql(qq{BEGIN; $append_two;
	SELECT event_store.put_view('V', 'v-3', '{"of": 3}', durability => 'staged'); COMMIT;});
my $before = sql(q{SELECT string_agg(l::text, ',' ORDER BY l.sequence)
	                 FROM event_store.load_events('T', 't-1') l});
$node->restart;
is(sql(q{SELECT string_agg(l::text, ',' ORDER BY l.sequence)
	       FROM event_store.load_events('T', 't-1') l}),
	$before, 'staged events survive a clean restart');
is(sql(q{SELECT event_store.load_view('V', 'v-3')}), '{"of": 3}', 'and views');
is(epoch(), '3', 'in the same epoch');
ok(flush_all($node, 'shop'), 'and become durable');
sql(q{SELECT event_store.append_event('T', 't-sid', 0, 'x', durability => 'staged')});
$sids = sql('SELECT max(sid) FROM event_store.staging');
ok(flush_all($node, 'shop'), 'nothing is staged');
$node->restart;
epoch();
is(sql(qq{SELECT durable FROM event_store.append_event('T', 't-sid', 1, 'x', durability => 'staged');
	SELECT min(sid) > $sids FROM event_store.staging}), "f\nt", 'also after a restart no place in staging is given again');
ok(flush_all($node, 'shop'), 'and that becomes durable');
is(losses_reported($offset), 0, 'no loss is reported');
check_whole('after a clean restart');

# ---------- kill -9 in the middle of work

$node->append_conf('postgresql.conf',
	"event_store.write_delay = '1ms'\nevent_store.write_batch_size = 50\n");
$node->reload;

# A client that appends one durable event a transaction and prints its position.
sub durable_client
{
	my ($name, $settings) = @_;

	return "$settings\n" . join "\n", map {
		qq{SELECT last_position FROM event_store.append_event('D', '$name', NULL, 'x', '{"n": $_}');}
	} (1 .. 20000);
}

# A client that stages five events and a view a transaction.
sub staging_client
{
	my ($name) = @_;

	return join "\n", map {
		my $n = $_;
		my $events = join ',', map {
			qq({"aggregate_type": "S", "aggregate_id": "s-$_", "event_type": "x",
			    "payload": {"txn": "$name-$n"}})
		} map { 1 + ($n * 7 + $_) % 11 } (1 .. 5);
		qq{BEGIN; SELECT count(*) FROM event_store.append_batch('[$events]', durability => 'staged');
		   SELECT event_store.put_view('S', '$name', '{"n": $n}', version => $n, durability => 'staged'); COMMIT;}
	} (1 .. 20000);
}

# Scripts and output are files: nobody needs to feed the clients meanwhile.
my $clients = 0;

sub start_script
{
	my ($script) = @_;
	my $base = PostgreSQL::Test::Utils::tempdir() . '/client' . ++$clients;

	append_to_file("$base.sql", $script);
	return {
		out => "$base.out",
		run => IPC::Run::start(
			[ 'psql', '-XAtq', '-d', $node->connstr('shop'), '-f', "$base.sql" ],
			'<', '/dev/null', '>', "$base.out", '2>', "$base.err")
	};
}

sub crash_under_load
{
	my ($round, $settings, $crash) = @_;
	my $old_epoch = epoch();
	my $start = events_in($node, 'shop');
	my $log_start = log_offset($node);
	my @durable = map { start_script(durable_client("$round-$_", $settings)) } (1 .. 2);
	my @staging = map { start_script(staging_client("$round-$_")) } (1 .. 2);

	ok($node->poll_query_until('shop',
			"SELECT count(*) FILTER (WHERE aggregate_type = 'S') > 200
			        AND count(*) FILTER (WHERE aggregate_type = 'D') > 200
			   FROM event_store.domain_events WHERE global_position > $start"),
		"$round: everybody is at work");
	$crash->();
	foreach my $client (@durable, @staging)
	{
		eval { $client->{run}->finish; };
	}
	wait_for_server($node, 'shop');

	# what was acknowledged, by client and in order
	my $acknowledged = 0;
	my $highest = 0;
	foreach my $i (0 .. $#durable)
	{
		my @positions = split /\n/, slurp_file($durable[$i]->{out});
		my $name = "$round-" . ($i + 1);
		my $kept = sql("SELECT count(*) FROM event_store.domain_events
			             WHERE aggregate_type = 'D' AND aggregate_id = '$name'");

		$acknowledged += @positions;
		$highest = $positions[-1] if @positions && $positions[-1] > $highest;
		next if $settings =~ /off/;
		cmp_ok($kept, '>=', scalar @positions, "$round: all that $name was told is durable");
		is(sql("SELECT count(*) FROM event_store.domain_events e
		          JOIN unnest(ARRAY[@{[join ',', @positions]}]::bigint[]) WITH ORDINALITY p (position, n)
		            ON e.global_position = p.position AND e.sequence = p.n
		           AND e.aggregate_id = '$name'"),
			scalar @positions, "$round: where $name was told");
	}
	cmp_ok($acknowledged, '>', 0, "$round: appends had been acknowledged");

	is(epoch(), $old_epoch + 1, "$round: the next epoch");
	is(losses_reported($log_start), 1, "$round: the loss is reported, once");
	like(slurp_file($node->logfile, $log_start),
		qr/The last drain was at 2\d\d\d-.*; staging goes on with epoch @{[ $old_epoch + 1 ]}\./,
		"$round: with the time up to which nothing is");
	is(sql(q{SELECT d.last_drain_at = s.last_drain_at
	           FROM event_store.staging_status d, event_store.store_state s}),
		't', "$round: which staging_status still tells");
	is(sql("SELECT count(*) FROM (SELECT FROM event_store.domain_events
	          WHERE aggregate_type = 'S' GROUP BY payload ->> 'txn' HAVING count(*) <> 5) torn"),
		'0', "$round: staged transactions are there whole or not at all");
	is(sql("SELECT count(*) FROM event_store.domain_views v
	         WHERE v.view_name = 'S' AND v.view_key LIKE '$round-%' AND NOT EXISTS (
	            SELECT FROM event_store.domain_events e
	             WHERE e.payload = jsonb_build_object('txn', v.view_key || '-' || (v.view_data ->> 'n')))"),
		'0', "$round: no view is ahead of the log");
	check_whole($round);

	my $next = sql(
		"SELECT last_position FROM event_store.append_event('D', '$round-after', 0, 'x')");
	cmp_ok($next, '>', $highest, "$round: positions that were given are not given again");
	return;
}

sub kill_backend
{
	my $victim = sql(q{SELECT pid FROM pg_stat_activity
		WHERE query LIKE '%append_event(%' AND pid <> pg_backend_pid() LIMIT 1});
	my $log_start = log_offset($node);

	kill 'KILL', $victim;
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $log_start);
	return;
}

sub kill_worker
{
	my $log_start = log_offset($node);

	kill 'KILL', worker_pid($node, 'shop');
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $log_start);
	return;
}

# The postmaster alone: its children notice, leave, and free the shared memory.
sub kill_postmaster
{
	$node->kill9;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return if $node->start(fail_ok => 1);
		usleep(100_000);
		# the node took the old process id file for that of a server
		$node->stop('fast', fail_ok => 1);
	}
	die 'the server did not start again';
}

crash_under_load('backend', '', \&kill_backend);
crash_under_load('async', 'SET synchronous_commit = off;', \&kill_backend);
crash_under_load('worker', '', \&kill_worker);
crash_under_load('postmaster', '', \&kill_postmaster);
crash_under_load('immediate', '',
	sub { $node->stop('immediate'); $node->start; });

# ---------- a commit that never reached the disk, the first of a block of
# positions: a client saw them

$node->append_conf('postgresql.conf',
	"event_store.write_delay = '1h'\nwal_writer_delay = '10s'\nwal_writer_flush_after = '1GB'\nfull_page_writes = off\n");
$node->restart;
epoch();
my $client = $node->background_psql('shop');
$client->query_safe('SET synchronous_commit = off');
my $seen = $client->query_safe(q{
	SELECT max(global_position) FROM event_store.append_batch(
	    (SELECT jsonb_agg(jsonb_build_object('aggregate_type', 'D', 'aggregate_id', 'unflushed',
	                                         'event_type', 'x')) FROM generate_series(1, 2)))});
my $crashed_at = log_offset($node);
kill 'KILL', $client->query_safe('SELECT pg_backend_pid()');
$node->wait_for_log(qr/all server processes terminated; reinitializing/, $crashed_at);
eval { $client->quit; };
wait_for_server($node, 'shop');
note('events left of the unflushed commit: '
	  . sql(q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_id = 'unflushed'}));
cmp_ok(sql(q{SELECT last_position FROM event_store.append_event('D', 'next', 0, 'x')}),
	'>', $seen, 'a position that was lost with its commit is not given again');

# ---------- the worker killed is a crash like any other

my $old_epoch = epoch();
$offset = log_offset($node);
sql($append_two);
my $durable = events_in($node, 'shop');
kill 'KILL', worker_pid($node, 'shop');
$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
wait_for_server($node, 'shop');
is(epoch(), $old_epoch + 1, 'kill -9 of the worker: the next epoch');
is(events_in($node, 'shop'), $durable, 'and nothing durable lost');
is(sql('SELECT count(*) = count(DISTINCT event_id) AND count(*) = count(DISTINCT global_position)
          FROM event_store.domain_events'), 't', 'no position, no event id twice');
is(stage($node, 'shop', 'after', 2, 2), '4', 'and work goes on');
ok(flush_all($node, 'shop'), 'to the end');

$node->stop;
done_testing();
