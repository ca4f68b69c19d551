# A grouped append waits for standbys as its caller asks, whatever is set for the process that
# commits it; and when that process is told to end in this wait, nobody is told that all is well.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('synchronous', init => { allows_streaming => 1 },
	conf => "event_store.write_delay = '1h'\nwal_receiver_status_interval = 1s\n");
$node->start;
create_store_in($node, 'shop');
$node->safe_psql('postgres', q{ALTER DATABASE shop SET synchronous_commit = 'local'});
$node->append_conf('postgresql.conf', "synchronous_standby_names = 'receiver'\n");
$node->reload;
$node->poll_query_until('postgres', q{SHOW synchronous_standby_names}, 'receiver') or die 'no reload';

# A session of its own that appends, with what it asks for.
sub begin_append
{
	my ($level) = @_;
	my $session = { out => '' };

	$session->{run} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $node->connstr('shop'),
		'-c', "SET synchronous_commit = '$level'",
		'-c', qq{/* $level */ SELECT last_sequence FROM event_store.append_event('T', 'a', NULL, 'x', durability => 'grouped')} ],
		'<', '/dev/null', '>', \$session->{out}, '2>', \$session->{out});
	return $session;
}

sub end_session
{
	my ($session) = @_;

	$session->{run}->finish;
	chomp $session->{out};
	return $session->{out};
}

# Commits that wait for a standby, whoever's they are.
sub until_waiting
{
	my ($more) = @_;

	return $node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND backend_type = 'event_store committer' $more");
}

sub end_committer
{
	return $node->safe_psql('postgres', q{SELECT pid FROM (SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE backend_type = 'event_store committer') s});
}

is(end_session(begin_append('local')), '1', 'who does not ask for a standby waits for none');
my $session = begin_append('on');
ok(until_waiting(''), 'who does waits, though the process is set otherwise');
my $ended = end_committer();
# it is answered, or would be handed over again, and wait in another process
ok($node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '/* on */%' AND state = 'active')
	OR EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND pid <> $ended)"), 'the process is ended');
is(events_in($node, 'shop'), '2', 'what it had in hand is committed');
$node->poll_query_until('postgres', q{SELECT count(pg_cancel_backend(pid)) = 0 FROM pg_stat_activity WHERE query LIKE '/* on */%' AND state = 'active'});
like(end_session($session), qr/ERROR:  40003: canceling the wait for synchronous replication/, 'and its caller hears of it');

# a standby that confirms what it has written, and applies nothing
my $said = '';
my $receiver = IPC::Run::start([ 'pg_receivewal', '--synchronous', '--no-loop', '-D', PostgreSQL::Test::Utils::tempdir(),
	'-d', $node->connstr('postgres') . ' application_name=receiver' ], '<', '/dev/null', '>', \$said, '2>', \$said);
is(end_session(begin_append('on')), '3', 'it was committed once; a standby that has flushed the next is enough');
$session = begin_append('remote_apply');
ok(until_waiting("AND pid <> $ended"), 'but not for who wants it applied');
my $other = begin_append('on');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM pg_stat_activity WHERE query LIKE '/* %' AND state = 'active'}), 'another comes');
$node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'event_store committer'});
like(end_session($session), qr/40003/, 'who cancels the process in the wait has not replicated it either');
is(end_session($other), '5', 'the next goes on');
$receiver->kill_kill;
$node->stop('immediate');
done_testing();
