# Settings: where each may be set, and from when on it counts.  And an idle store
# runs no queries: not one, however much goes on elsewhere.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('settings',
	conf => "event_store.write_delay = '20ms'\nwal_level = replica\nmax_wal_senders = 1\npg_stat_statements.track = 'all'\n"
	  . "pg_stat_statements.track_utility = on\ntrack_functions = 'all'\n");
$node->append_conf('postgresql.conf',
	"shared_preload_libraries = 'pg_stat_statements,event_store'\n");
$node->start;
foreach my $database (qw(idle busy))
{
	create_store_in($node, $database);
	wait_for_worker($node, $database);
}
$node->safe_psql('postgres', 'CREATE EXTENSION pg_stat_statements');

sub busy
{
	return $node->safe_psql('busy', $_[0]);
}

# Appends by the setting and tells whether it was durable at once.
sub durable_by_default
{
	my ($database, $id) = @_;

	return $node->safe_psql($database, qq{SELECT durable FROM event_store.append_event('Order', '$id', 0, 'Placed')});
}

# ---------- an idle store: staged and durable appends, drained; then nothing

stage($node, 'idle', 'staged', 5, 5);
$node->safe_psql('idle', q{SELECT event_store.append_event('Order', 'durable', 0, 'Placed');
	SELECT event_store.put_view('V', 'v', '{}', durability => 'staged')});
ok(flush_all($node, 'idle'), 'a store was used');
ok($node->poll_query_until('idle',
		'SELECT safe_position = event_store.safe_position() FROM event_store.store_state'),
	'and its safe position stored');

# Makes the other store's worker drain and store its position so many times.
sub work_elsewhere
{
	my ($times) = @_;

	foreach my $time (1 .. $times)
	{
		stage($node, 'busy', 'elsewhere', 3, 3);
		$node->poll_query_until('busy', q{
			SELECT safe_position = event_store.safe_position()
			       AND safe_position = (SELECT max(global_position) FROM event_store.domain_events)
			       AND NOT EXISTS (SELECT FROM event_store.staging)
			  FROM event_store.store_state}) or die 'the other store stands still';
	}
	return;
}

# What was done in the idle database since the start.
sub work_done
{
	return $node->safe_psql('postgres', q{
		SELECT d.xact_commit, d.xact_rollback, d.tup_returned, d.tup_inserted, d.tup_updated,
		       (SELECT coalesce(sum(s.calls), 0) FROM pg_stat_statements s WHERE s.dbid = d.datid),
		       (SELECT string_agg(a.pid || ' ' || a.state || ' ' || a.wait_event || ' ' || a.state_change, ',')
		          FROM pg_stat_activity a WHERE a.datid = d.datid)
		  FROM pg_stat_database d WHERE d.datname = 'idle'});
}

# what the worker still had to do is done when the other one has done as much
work_elsewhere(2);
my $done = work_done();
like($done, qr/\|\d+ idle (?:EventStoreWorkerMain|Extension) [^,]*$/, 'its worker sleeps, and nobody else is there');
work_elsewhere(4);
$node->safe_psql('postgres', 'CHECKPOINT');
is(work_done(), $done, 'the idle store has run no query meanwhile');
cmp_ok((split /\|/, $done)[5], '>', 0, 'and queries would have been counted');
cmp_ok($node->safe_psql('postgres', q{
		SELECT coalesce(sum(calls), 0) FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
		 WHERE d.datname = 'busy' AND s.query LIKE '%store_state SET safe_position%'}),
	'>=', 4, 'as those of the other worker were');

# ---------- where settings may be set

foreach my $setting (qw(retry_initial retry_max))
{
	like(error_of($node, 'busy', "SET event_store.$setting = '2s'"),
		qr/55P02/, "$setting is not for a session");
	like(error_of($node, 'postgres', "ALTER DATABASE busy SET event_store.$setting = '2s'"),
		qr/55P02/, "nor for a database");
}
busy(q{CREATE ROLE clerk LOGIN;
	SELECT event_store.grant_access('clerk', 'writer');
});
foreach my $setting (qw(write_delay write_batch_size staging_limit snapshot_every))
{
	like(error_of($node, 'busy', "SET ROLE clerk; SET event_store.$setting = 10"),
		qr/42501/, "$setting is a superuser's");
}
busy(q{
	ALTER DATABASE busy SET event_store.durability = 'staged';
	ALTER ROLE clerk IN DATABASE busy SET event_store.durability = 'durable';
	ALTER DATABASE busy SET event_store.on_staging_full = 'error';});
is(durable_by_default('busy', 'by-database'), 'f', 'durability of a database');
is(durable_by_default('idle', 'elsewhere'), 't', 'which is that of this one');
is($node->safe_psql('busy',
		q{SELECT durable FROM event_store.append_event('Order', 'by-role', 0, 'Placed')},
		extra_params => [ '-U', 'clerk' ]),
	't', 'a role has its own');
like(error_of($node, 'busy', "SET event_store.durability = 'perhaps'"), qr/22023/, 'a wrong word');

# ---------- settings of one database: sessions as they connect, the worker as it starts

# Sets it for the database; its worker starts anew at a reload.
sub set_for
{
	my ($database, $name, $value) = @_;
	my $before = wait_for_worker($node, $database);

	$node->safe_psql('postgres', "ALTER DATABASE $database "
		  . (defined $value ? "SET event_store.$name = $value" : "RESET event_store.$name"));
	$node->reload;
	return wait_for_worker($node, $database, $before);
}

set_for('busy', 'write_delay', "'1h'");
is(stage($node, 'busy', 'slow-here', 1, 3), '3', 'with a long write_delay of a database');
is(stage($node, 'idle', 'quick-there', 1, 3), '3', 'and the short one of another');
ok($node->poll_query_until('idle', 'SELECT NOT EXISTS (SELECT FROM event_store.staging)'),
	'rows are drained there');
is(busy(q{SELECT count(*) FROM event_store.staging}), '3', 'and wait here');
set_for('busy', 'write_batch_size', 3);
ok($node->poll_query_until('busy', 'SELECT NOT EXISTS (SELECT FROM event_store.staging)'),
	'until its write_batch_size is full');
set_for('busy', 'staging_limit', 0);
is(durable_by_default('busy', 'unstaged'), 't', 'a staging_limit of a database turns its staging off');
$node->safe_psql('postgres', "ALTER DATABASE idle SET event_store.durability = 'staged'");
is(durable_by_default('idle', 'staged'), 'f', 'and not that of another');
set_for('busy', 'snapshot_every', 2);
busy(q{SELECT event_store.append_event('Shot', 's', NULL, 'Placed', durability => 'durable') FROM generate_series(1, 2)});
ok($node->poll_query_until('busy',
		q{SELECT sequence = 2 FROM event_store.snapshots WHERE aggregate_type = 'Shot'}),
	'snapshot_every of a database');
foreach my $setting (qw(write_delay write_batch_size staging_limit snapshot_every))
{
	set_for('busy', $setting, undef);
}
is(stage($node, 'busy', 'quick-again', 1, 3), '3', 'what is reset');
ok($node->poll_query_until('busy', 'SELECT NOT EXISTS (SELECT FROM event_store.staging)'),
	'is as everywhere');

# ---------- settings of all: from the reload on, for callers and the worker

sub reload
{
	my ($name, $value) = @_;

	$node->append_conf('postgresql.conf', "event_store.$name = $value\n");
	$node->reload;
	# the postmaster has told its children when it has told a new one
	$node->poll_query_until('busy',
		"SELECT setting = '$value' FROM pg_settings WHERE name = 'event_store.$name'")
	  or die "$name was not read";
	return;
}

reload('write_delay', 3600000);
is(stage($node, 'busy', 'slow', 1, 3), '3', 'with a long write_delay');
is(busy(q{SELECT count(*) FROM event_store.staging}), '3', 'rows wait');
reload('staging_limit', 3);
like(error_of($node, 'busy', q{SELECT event_store.append_event('Order', 'full', 0, 'Placed')}),
	qr/VS004/, 'staging_limit counts at once, and on_staging_full of the database');
reload('staging_limit', 0);
is(durable_by_default('busy', 'off'), 't', 'staging_limit = 0 turns staging off');
reload('staging_limit', 1000);
reload('write_batch_size', 3);
ok($node->poll_query_until('busy', 'SELECT NOT EXISTS (SELECT FROM event_store.staging)'),
	'a batch that is full by the new write_batch_size is drained');
reload('write_batch_size', 1000);
is(stage($node, 'busy', 'slower', 1, 2), '2', 'rows wait again');
reload('write_delay', 0);
ok($node->poll_query_until('busy', 'SELECT NOT EXISTS (SELECT FROM event_store.staging)'),
	'write_delay = 0: what waited is drained');
is(durable_by_default('busy', 'through'), 't', 'and appends are written through');

# ---------- the first pause is not above the longest, whichever line comes first

sub pauses
{
	return busy(q{SELECT current_setting('event_store.retry_initial') || ' ' || current_setting('event_store.retry_max')});
}

my $offset = log_offset($node);
$node->append_conf('postgresql.conf', "event_store.retry_initial = '2min'");
reload('retry_max', 300000);
is(pauses(), '2min 5min', 'both are raised, the first pause first');
$node->append_conf('postgresql.conf', "event_store.retry_max = 20");
reload('retry_initial', 10);
is(pauses(), '10ms 20ms', 'both are lowered, the longest first');
like(error_of($node, 'busy', 'ALTER SYSTEM SET event_store.retry_initial = 21'),
	qr/22023.*retry_initial.*DETAIL:.*21 ms.*20 ms/s, 'ALTER SYSTEM refuses a first pause above the longest');
like(error_of($node, 'busy', 'ALTER SYSTEM SET event_store.retry_max = 9'),
	qr/22023.*retry_max/s, 'and a longest below the first');
$node->safe_psql('postgres', "ALTER SYSTEM SET event_store.retry_max = 50");
$node->safe_psql('postgres', "ALTER SYSTEM SET event_store.retry_initial = 40");
is(pauses(), '10ms 20ms', 'of two statements the second heeds the first before a reload');
$node->safe_psql('postgres', "ALTER SYSTEM RESET event_store.retry_initial");
$node->safe_psql('postgres', "ALTER SYSTEM RESET event_store.retry_max");
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_file_settings WHERE error IS NOT NULL}), '0', 'files are read');
unlike(slurp_file($node->logfile, $offset), qr/WARNING:.*retry_initial/, 'nothing contradicts itself until now');
reload('retry_initial', 3600000);
ok($node->wait_for_log(qr/WARNING:.*retry_initial, 3600000 ms, is above event_store.retry_max, 20 ms: every pause is 20 ms/, $offset),
	'where the files contradict themselves the log says what counts');
busy(q{ALTER TABLE event_store.domain_events ADD CONSTRAINT none CHECK (false) NOT VALID});
$node->append_conf('postgresql.conf', 'event_store.write_delay = 20');
wait_for_worker($node, 'busy');
reload('staging_limit', 2000);
busy(q{SELECT event_store.append_event('Order', 'p-' || i, 0, 'Placed', durability => 'staged') FROM generate_series(1, 2) i});
ok($node->poll_query_until('busy', 'SELECT count(*) = 2 FROM event_store.dead_letters'),
	'the longest pause counts: rounds follow each other until they give up');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
