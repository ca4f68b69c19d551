# Grouped appends share a flush, and what holds one of them up holds up no other: a lock
# that somebody holds, an error, the end of the process that commits them.  Each caller gets
# his own answer, exactly, also when that process dies in between.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('grouped', conf => "max_connections = 60\ndynamic_shared_memory_type = mmap\nmax_logical_replication_workers = 0\nevent_store.grouped_queue = '64kB'\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

# A session of its own that runs something.
sub begin_session
{
	my ($sql) = @_;
	my $session = { out => '' };

	$session->{run} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $node->connstr('shop'), '-c', $sql ],
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

# The committer's process id; '' = none.
sub committer
{
	return $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity
		WHERE backend_type = 'event_store committer' AND datname = 'shop'});
}

sub until_waiting
{
	my ($count, $sql) = @_;

	$node->poll_query_until('postgres', "SELECT count(*) = $count FROM pg_stat_activity
		WHERE query LIKE '$sql' AND state = 'active' AND wait_event_type IN ('Lock', 'Extension')")
	  or die "nobody waits: $sql";
	return;
}

my $append = q{SELECT last_sequence FROM event_store.append_event('T', '%s', %s, 'x', durability => 'grouped')};
my $to_a = sprintf($append, 'a', 'NULL');

is(sql($to_a), '1', 'a grouped append');
like(committer(), qr/^\d+$/, 'there is a process for it');

# ---------- an aggregate that an idle transaction holds

my $holder = $node->background_psql('shop');
$holder->query_safe(q{BEGIN; SELECT event_store.lock_aggregate('T', 'a')});
my @waiting = map { begin_session("/* waits */ $to_a") } 1 .. 8;
until_waiting(8, '/* waits */%');
my $started = time;
sql(sprintf($append, 'b', 'NULL')) foreach 1 .. 20;
cmp_ok(time - $started, '<', 20, 'other aggregates go on');
is(sql(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}), '1',
	'one of those that wait does so where the deadlock detector sees it');
foreach my $limit (qw(lock_timeout statement_timeout))
{
	my $code = $limit eq 'lock_timeout' ? '55P03' : '57014';

	like(error_of($node, 'shop', "SET $limit = '100ms'; $to_a"), qr/ERROR:  $code/, "$limit counts");
}
my $cancelled = begin_session("/* cancelled */ $to_a");
until_waiting(1, '/* cancelled */%');
sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '/* cancelled */%'});
like(end_session($cancelled), qr/57014/, 'so does a cancel');
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = (SELECT min(pid) FROM pg_stat_activity WHERE query LIKE '/* waits */%')});
$holder->query_safe('COMMIT');
my @answers = sort map { end_session($_) } @waiting;
is(join(' ', grep { /^\d+$/ } @answers), '2 3 4 5 6 7 8', 'all others get in, once it is free');
is(sql(q{SELECT count(*), max(sequence) FROM event_store.load_events('T', 'a')}), '8|8', 'and nobody else did');

# ---------- who has an answer wakes the next; who is not woken looks once a second

my $waited = 0;
foreach my $turn (1 .. 10)
{
	$holder->query_safe(q{BEGIN; SELECT event_store.lock_aggregate('T', 'woken')});
	@waiting = map { begin_session('/* woken */ ' . sprintf($append, 'woken', 'NULL')) } 1 .. 8;
	until_waiting(8, '/* woken */%');
	$waited -= time;
	$holder->query_safe('COMMIT');
	end_session($_) foreach @waiting;
	$waited += time;
}
cmp_ok($waited, '<', 4, 'those who share a commit hear of it at once');

# ---------- where the system has no memory for what is large, the session does without

my $large = q{SELECT last_sequence FROM event_store.append_event('T', 'large', NULL, 'x', to_jsonb(repeat('x', %s)), durability => 'grouped')};
my $area = $node->data_dir . '/pg_dynshmem';
chmod 0500, $area or die $!;
is(join(' ', map { sql(sprintf($large =~ s/'large', NULL/'refused', NULL/r, 30000)) } 1 .. 4), '1 2 3 4', 'refused shared memory');
chmod 0700, $area or die $!;
is(sql("SET lock_timeout = '10s'; " . sprintf($large =~ s/'large', NULL/'refused', NULL/r, 60000)), '5', 'and keeps no room');

# ---------- what has no room waits for some, and what is larger than all of it does not

$holder->query_safe(q{BEGIN; SELECT event_store.lock_aggregate('T', 'large')});
@waiting = map { begin_session('/* large */ ' . sprintf($large, $_ * 15000)) } 1 .. 5;
until_waiting(5, '/* large */%');
is(sql(sprintf($large =~ s/'large', NULL/'free', NULL/r, 40000)), '1', 'what waits for a lock takes no room');
$holder->query_safe('COMMIT');
is(join(' ', sort map { end_session($_) } @waiting), '1 2 3 4 5', 'large calls, at once');

# ---------- a table that somebody has locked is waited for by the session

$holder->query_safe(q{BEGIN; LOCK TABLE event_store.domain_events IN ACCESS EXCLUSIVE MODE});
my $looks = begin_session(q{/* looks */ SELECT last_sequence FROM event_store.append_event('T', 'looks', NULL, 'x',
	event_id => '0190a6e8-3c5e-7000-8000-00000000bbbb', durability => 'grouped')});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '/* looks */%' AND wait_event_type = 'Lock'}),
	'the process leaves it to its session');
$holder->query_safe('COMMIT');
is(end_session($looks), '1', 'a call that looks for its id waits as long as it takes');

# ---------- a hot row is written once for all that share a commit

sql(q{CREATE TABLE writes (what text);
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
	    INSERT INTO public.writes VALUES (NEW.view_name);
	    RETURN NULL;
	END $$;
	CREATE TRIGGER note AFTER INSERT OR UPDATE ON event_store.domain_views FOR EACH ROW EXECUTE FUNCTION note();
	SELECT event_store.create_view_projection('sums', '{Summed}', '"$.aggregate_id"',
	    '{"events": {"x": [{"op": "increment", "path": "$.n", "value": 1}]}}', 'inline')});
is(sql(q{SELECT mode FROM event_store.projections}), 'inline', 'a view that appends fold');
$holder->query_safe(q{BEGIN; SELECT event_store.load_view('V', 'hot', true), event_store.lock_aggregate('Summed', 'hot')});
@waiting = map { begin_session("/* puts */ SELECT event_store.put_view('V', 'hot', '$_', $_, 'grouped')") } 1 .. 8;
push @waiting, map { begin_session("/* puts */ SELECT last_sequence FROM event_store.append_event('Summed', 'hot', NULL, 'x', durability => 'grouped')") } 1 .. 8;
until_waiting(16, '/* puts */%');
is(sql(q{SELECT event_store.put_view('V', 'cold', '1', durability => 'grouped')}), 't', 'other keys go on');
$holder->query_safe('COMMIT');
@answers = map { end_session($_) } @waiting;
is(join(' ', sort { $a <=> $b } @answers[ 8 .. 15 ]), '1 2 3 4 5 6 7 8', 'each append has its place');
is(sql(q{SELECT (event_store.load_view('V', 'hot') #>> '{}') || ' ' || (event_store.load_view('sums', 'hot') ->> 'n')}), '8 8', 'the last value of a view, and the sum of all');
cmp_ok(scalar(grep { $_ eq 't' } @answers[ 0 .. 7 ]), '>=', 1, 'some of the puts were newer');
cmp_ok(sql(q{SELECT count(*) FROM writes WHERE what = 'V'}), '<=', 4, 'of 8 puts few were written');
cmp_ok(sql(q{SELECT count(*) FROM writes WHERE what = 'sums'}), '<=', 3, 'of 8 folds as well');

# ---------- an error costs its caller alone

sql(q{CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
	    IF NEW.event_type = 'bad' THEN
	        RAISE EXCEPTION 'bad: %', NEW.payload USING ERRCODE = 'P0077', DETAIL = NEW.aggregate_id;
	    END IF;
	    IF NEW.event_type = 'world' THEN
	        RAISE EXCEPTION 'no more' USING ERRCODE = 'insufficient_resources';
	    END IF;
	    IF NEW.event_type = 'slow' THEN
	        PERFORM pg_advisory_xact_lock(8);
	    END IF;
	    RETURN NULL;
	END $$;
	CREATE TRIGGER refuse AFTER INSERT ON event_store.domain_events FOR EACH ROW EXECUTE FUNCTION refuse()});

# also one that looks as if nobody could help it; the first to come waits for the lock himself
my $to_world = q{SELECT last_sequence FROM event_store.append_event('T', 'world', NULL, '%s', durability => 'grouped')};
$holder->query_safe(q{BEGIN; SELECT event_store.lock_aggregate('T', 'world')});
@waiting = (begin_session('/* world */ ' . sprintf($to_world, 'x')));
until_waiting(1, '/* world */%');
push @waiting, map { begin_session('/* world */ ' . sprintf($to_world, $_ == 4 ? 'world' : 'x')) } 1 .. 8;
until_waiting(9, '/* world */%');
$holder->query_safe('COMMIT');
@answers = map { end_session($_) } @waiting;
is(join(' ', sort grep { /^\d+$/ } @answers), '1 2 3 4 5 6 7 8', 'a trigger that raises an error of the system');
like($answers[4], qr/ERROR:  53000: no more/, 'its caller hears of it');

# through pgbench-like loops of psql: each line a call of its own, with what it says
sub script
{
	my ($client, $turns, $prefix) = @_;
	my $sql = '';

	foreach my $n (1 .. $turns)
	{
		my $type = ($n + $client) % 7 == 0 ? 'bad' : 'good';
		my $id = "$prefix-" . $n % 3;

		$sql .= qq{SELECT 'c$client-$n|' || '$id|' || first_sequence || '|' || outcome FROM event_store.append_event('T', '$id', NULL,}
		  . qq{ '$type', '"c$client-$n"', durability => 'grouped');\n};
	}
	return $sql;
}

# Clients at once; returns all that they were told.
sub run_clients
{
	my ($clients, $turns, $prefix, $meanwhile) = @_;
	my @running = map {
		my $client = { out => '', err => '' };
		my $file = $node->basedir . "/$prefix-$_.sql";

		append_to_file($file, script($_, $turns, $prefix));
		$client->{run} = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('shop'), '-f', $file ],
			'<', '/dev/null', '>', \$client->{out}, '2>', \$client->{err});
		$client;
	} 1 .. $clients;

	$meanwhile->() if defined $meanwhile;
	$_->{run}->finish foreach @running;
	return (join('', map { $_->{out} } @running), join('', map { $_->{err} } @running));
}

# Whether the log is what callers were told: each event once, in the place that was said.
sub check_told
{
	my ($out, $err, $clients, $turns, $prefix, $when) = @_;
	my %told = map { my ($event, $id, $sequence) = split /\|/; ($event => "$id|$sequence") } split /\n/, $out;
	my %logged;
	my $bad = 0;
	my $wrong = 0;

	foreach my $row (split /\n/, sql(qq{SELECT payload #>> '{}', aggregate_id, sequence FROM event_store.domain_events
		WHERE aggregate_id LIKE '$prefix-%'}))
	{
		my ($event, $id, $sequence) = split /\|/, $row;

		$wrong++ if exists $logged{$event};
		$logged{$event} = "$id|$sequence";
	}
	$bad++ while $err =~ /ERROR:  bad: /g;
	is_deeply(\%logged, \%told, "$when: the log is what callers were told");
	is($wrong, 0, "$when: nothing twice");
	is(scalar(keys %told) + $bad, $clients * $turns, "$when: every call has its answer");
	unlike($err, qr/ERROR:  (?!bad: )/, "$when: no other error");
	is(sql(qq{SELECT count(*) FROM (SELECT sequence - row_number() OVER (PARTITION BY aggregate_id ORDER BY sequence) AS gap
		FROM event_store.domain_events WHERE aggregate_id LIKE '$prefix-%') s WHERE gap <> 0}), '0', "$when: without gaps");
	return;
}

my ($out, $err) = run_clients(8, 100, 'h');
check_told($out, $err, 8, 100, 'h', 'errors in between');
my @mixed = $err =~ /ERROR:  bad: "c(\d+)-\d+"\n.*DETAIL:  h-\d/g;
cmp_ok(scalar(@mixed), '>', 80, 'an error has the details of its call');

# ---------- a row that a trigger waits for

$holder->query_safe('SELECT pg_advisory_lock(8)');
my $slow = begin_session(q{/* slow */ SELECT last_sequence FROM event_store.append_event('T', 'slow', NULL, 'slow', durability => 'grouped')});
until_waiting(1, '/* slow */%');
$started = time;
sql(sprintf($append, 'b', 'NULL')) foreach 1 .. 20;
cmp_ok(time - $started, '<', 20, 'what a trigger waits for holds up nobody else');
$holder->query_safe('SELECT pg_advisory_unlock(8)');
is(end_session($slow), '1', 'and goes on when it is free');

# ---------- code that does not end

sql(q{CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
	    IF NEW.event_type = 'hangs' THEN
	        PERFORM pg_sleep(3600);
	    END IF;
	    RETURN NULL;
	END $$;
	CREATE TRIGGER hang AFTER INSERT ON event_store.domain_events FOR EACH ROW EXECUTE FUNCTION hang()});
my $hung = begin_session(q{/* hung */ SELECT last_sequence FROM event_store.append_event('T', 'hung', NULL, 'hangs', durability => 'grouped')});
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
is(sql(sprintf($append, 'c', 'NULL')), '1', 'who has waited for his turn long enough appends himself');
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE '/* hung */%'});
is(sql(sprintf($append, 'c', 'NULL')), '2', 'code that does not end does so in its own session');
sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '/* hung */%'});
like(end_session($hung), qr/57014/, 'where it can be cancelled');
sql('DROP TRIGGER hang ON event_store.domain_events');

# ---------- the process ends, again and again

my $ended = 0;
($out, $err) = run_clients(8, 400, 'k', sub {
	my $seen = 0;

	# each has committed something, and has something in hand
	while ($seen < 2500)
	{
		my $now = $holder->query_safe(q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_id LIKE 'k-%'});

		next if $now < $seen + 100;
		$seen = $now;
		$ended += $holder->query_safe(q{SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE backend_type = 'event_store committer') s});
	}
});
check_told($out, $err, 8, 400, 'k', "after $ended ends of the process");
cmp_ok($ended, '>', 5, 'it was ended often');
is(() = $out =~ /duplicate/g, 0, 'what was asked for again is told as appended');

# ---------- where the process has no memory for what is large, the session does without

$holder->quit;
$node->append_conf('postgresql.conf', "event_store.grouped_queue = '64MB'\n");
$node->restart;
sql(sprintf($append, 'short', 'NULL'));
my $short = committer();
SKIP:
{
skip 'its memory cannot be limited here', 8 unless -r "/proc/$short/status" && eval { IPC::Run::run([ 'prlimit', '--version' ], '>', '/dev/null') };
my ($taken) = slurp_file("/proc/$short/status") =~ /^VmSize:\s+(\d+) kB/m;
$node->command_ok([ 'prlimit', '--pid', $short, '--as=' . ($taken + 8192) * 1024 ], 'the process gets little more memory');
is(sql(sprintf($large =~ s/'large', NULL/'short', NULL/r, 30 * 1024 * 1024)), '2', 'a call is durable without it');
is(committer(), $short, 'which goes on');
is(sql(sprintf($append, 'short', 'NULL')), '3', 'with what is small');
is(sql("SET lock_timeout = '30s'; " . sprintf($large =~ s/'large', NULL/'short', NULL/r, 50 * 1024 * 1024)), '4', 'and keeps no room');
($taken) = slurp_file("/proc/$short/status") =~ /^VmSize:\s+(\d+) kB/m;
$node->command_ok([ 'prlimit', '--pid', $short, '--as=' . $taken * 1024 ], 'it gets none');
is(sql(sprintf($large =~ s/'large', NULL/'short', NULL/r, 700 * 1000)), '5', 'what it cannot take is durable, too');
is(committer(), $short, 'and it goes on');
}
$holder = $node->background_psql('shop');

# ---------- without one

$node->append_conf('postgresql.conf', "max_worker_processes = 2\n");
$node->restart;
wait_for_worker($node, 'shop');
is(sql("$to_a; $to_a"), "9\n10", 'where no process can be had a session commits by itself');
is(committer(), '', 'indeed there is none');
is(sql(q{SELECT count(*) FROM generate_series(1, 3) n, LATERAL event_store.append_event('T', 'a', 9 + n, 'x', durability => 'grouped')}),
	'3', 'several in a statement');
$node->append_conf('postgresql.conf', "max_worker_processes = 8\n");
$node->restart;
is(sql($to_a), '14', 'and there is one when it can be');

# ---------- a command that needs the database

like(committer(), qr/^\d+$/, 'it is there');
$holder->quit;
$started = time;
$node->safe_psql('postgres', 'ALTER DATABASE shop RENAME TO store');
$node->safe_psql('postgres', 'ALTER DATABASE store RENAME TO shop');
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE shop');
cmp_ok(time - $started, '<', 60, 'it leaves for a command that needs the database');
is(sql($to_a), '15', 'and comes back');
is($node->safe_psql('copy', $to_a), '15', 'a copy has its own');
$node->safe_psql('postgres', 'DROP DATABASE shop');
$node->stop;
done_testing();
