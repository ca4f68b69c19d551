# Somebody has locked the archive, as an ALTER TABLE in a transaction left open does, after events
# were moved there.  Appends go on, in every durability, and what is staged becomes durable:
# only what was staged before the last move has to be looked for in the archive, and waits.  An event
# with the caller's own id has to be looked for, too: its append waits, as lock_timeout allows.

use strict;
use warnings;

use EventStoreTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('archive_locked', conf => "event_store.write_delay = '1h'\nmax_connections = 30\n");
$node->start;
create_store_in($node, 'shop');
wait_for_worker($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

# What waits for a lock ends with an error.
sub answer
{
	my ($statement) = @_;
	my ($status, $out, $err) = $node->psql('shop', "SET statement_timeout = '20s'; $statement");

	return $status == 0 ? $out : $err;
}

sub append
{
	my ($id, $arguments) = @_;

	return answer("SELECT last_sequence FROM event_store.append_event('T', '$id', NULL, 'Added'" . ($arguments // '') . ')');
}

sub durable
{
	return sql(q{SELECT coalesce(string_agg(aggregate_id || ' ' || n, ', ' ORDER BY aggregate_id), 'none')
	               FROM (SELECT aggregate_id, count(*) AS n FROM event_store.domain_events GROUP BY 1) e});
}

my $staged = ", durability => 'staged'";
my $own_id = ", event_id => '00000000-0000-7000-8000-000000000001'";
my $holder = $node->background_psql('shop');
my $lock = 'BEGIN; LOCK TABLE event_store.domain_events_archive';

# ---------- nothing was moved

append('open');
append('staged', $staged);
$holder->query_safe($lock);
is(append('staged', $own_id), 2, 'in a store that moved nothing nobody needs the archive');
is(durable(), 'open 1, staged 2', 'and what was staged is durable');
$holder->query_safe('ROLLBACK');

# ---------- staged before a move, and after it

append('done') foreach 1 .. 3;
append('before', $staged);
append('both', $staged);
is(sql("SELECT event_store.archive_aggregate('T', 'done')"), 3, 'an aggregate is archived');
$holder->query_safe($lock);
is(append('open'), 2, 'the archive is locked: a durable append goes on');
is(append('open', ", durability => 'grouped'"), 3, 'so does a grouped one');
is(append('new'), 1, 'so does one to a new aggregate');
is(append('after', $staged), 1, 'and a staged one');
is(append('both', $staged), 2, 'also behind what was staged before');
is(append('after'), 2, 'a durable one comes after what is staged');
is(answer("SELECT event_store.flush('1s')"), 'f', 'not all that is staged becomes durable');
is(durable(), 'after 2, new 1, open 3, staged 2', 'but what was staged after the move, and not behind what waits');
is(sql('SELECT count(*) FROM event_store.dead_letters'), 0, 'nothing has died of it');
is(answer(q{SELECT string_agg(sequence::text, ' ') FROM event_store.load_events('T', 'both')}), '1 2', 'what waits is read where it is');
is(append('late', $staged), 1, 'more comes');
is(answer(q{SELECT drain_state FROM event_store.staging_status}), 'idle', 'the worker does not wait');
like(answer(q{SET lock_timeout = '200ms'; SELECT event_store.append_event('T', 'open', NULL, 'Added', event_id => '00000000-0000-7000-8000-000000000002')}), qr/lock timeout/,
	'an append with an id of its own waits');
$holder->query_safe('ROLLBACK');
is(answer("SELECT event_store.flush('1min')"), 't', 'with the lock goes what was waited for');
is(durable(), 'after 2, before 1, both 2, late 1, new 1, open 3, staged 2', 'and all is durable');
is(sql(q{SELECT string_agg(sequence::text, ' ' ORDER BY global_position) FROM event_store.domain_events WHERE aggregate_id = 'both'}), '1 2', 'in its order');

# ---------- what is due is looked for there

$holder->query_safe($lock);
sql(q{SELECT event_store.schedule_event(now(), 'Due', 'd-' || n, 'Due') FROM generate_series(1, 3) n});
is(append('open'), 4, 'while something is due appends go on');
$holder->query_safe('ROLLBACK');
ok($node->poll_query_until('shop', q{SELECT count(*) = 3 FROM event_store.domain_events WHERE event_type = 'Due'}), 'it is appended when nobody has locked the archive');

sql(q{SELECT event_store.schedule_event(now() + interval '1 hour', 'Due', 'x-' || n, 'Due', schedule_id => ('00000000-0000-7000-8000-00000000000' || n)::uuid) FROM generate_series(7, 9) n;
	SELECT event_store.append_event('T', 'taken', NULL, 'Added', event_id => '00000000-0000-7000-8000-000000000008');
	SELECT event_store.archive_aggregate('T', 'taken')});
sql(q{SELECT event_store.reschedule_event(schedule_id, now()) FROM event_store.scheduled_events});
ok($node->poll_query_until('shop', q{SELECT count(*) = 5 FROM event_store.domain_events WHERE event_type = 'Due'}), 'what is due together with an id that is there is appended');
ok($node->poll_query_until('shop', q{SELECT state = 'failed' FROM event_store.scheduled_events WHERE schedule_id = '00000000-0000-7000-8000-000000000008'}), 'and that one is not');
is(sql(q{SELECT count(*) FROM event_store.all_events GROUP BY event_id HAVING count(*) > 1}), '', 'no id is there twice');

# ---------- who has locked it waits himself

append('his', $staged);
sql(q{SELECT event_store.archive_aggregate('T', 'both')});
$holder->query_safe($lock);
is($holder->query_safe(q{SELECT last_sequence FROM event_store.append_event('T', 'his', NULL, 'Added')}), 2, 'who has locked it appends behind what waits for him');
$holder->query_safe('COMMIT');

# ---------- somebody wants to lock it, and waits for who moves

append('mine', $staged);
my $mover = $node->background_psql('shop');
$mover->query_safe(q{BEGIN; SELECT event_store.archive_aggregate('T', 'open')});
my $locker = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('shop'), '-c', "$lock; COMMIT" ], IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
ok($node->poll_query_until('shop', q{SELECT count(*) = 1 FROM pg_locks WHERE relation = 'event_store.domain_events_archive'::regclass AND NOT granted}),
	'somebody waits for who moves');
is($mover->query_safe(q{SELECT last_sequence FROM event_store.append_event('T', 'mine', NULL, 'Added')}), 2, 'who appends behind what was staged before');
$mover->query_safe('COMMIT');
$locker->finish;
$_->quit foreach $mover, $holder;

# ---------- a restart: nobody knows whether what is staged was there before the last move

append('kept', $staged);
$node->restart;
wait_for_worker($node, 'shop');
$holder = $node->background_psql('shop');
$holder->query_safe($lock);
append('again', $staged);
is(answer("SELECT event_store.flush('1s')"), 'f', 'after a restart what was staged before it waits');
like(durable(), qr/again 1/, 'what is staged after it does not');
unlike(durable(), qr/kept/, 'as long as the archive is locked');
$holder->query_safe('ROLLBACK');
$holder->quit;
is(answer("SELECT event_store.flush('1min')"), 't', 'and no longer');
like(durable(), qr/kept 1/, 'and nothing is lost');
$node->stop;
done_testing();
