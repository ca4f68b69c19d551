# Deadlines where the world around them moves: the clock, a failover, a restore, snapshots that are held
# open, a delivery that takes its time.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('cases', init => { allows_streaming => 1 }, conf => "max_worker_processes = 16\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', join("\n", @_));
}

sub poll
{
	return $node->poll_query_until('shop', $_[0]);
}

# ---------- an old snapshot that is held open

my $old = $node->background_psql('shop');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM event_store.scheduled_events');
sql(q{SELECT count(event_store.schedule_event('2020-01-01Z'::timestamptz + n * interval '1 s', 'Old', 'o-' || n, 'E')) FROM generate_series(1, 5000) n});
ok(poll(q{SELECT count(*) = 5000 FROM event_store.domain_events WHERE aggregate_type = 'Old'}), 'under an old snapshot events are appended');
my $read = q{SELECT pg_stat_get_tuples_returned('event_store.scheduled_events_due_idx'::regclass)};
# statistics are reported when a process has nothing to do, a second apart at least
my $later = q{SELECT event_store.schedule_event(clock_timestamp(), 'Old', 'later', 'E', schedule_id => };
ok(poll("$later gen_random_uuid()) IS NOT NULL AND ($read) >= 5000"), 'their rows were read by the index');
my $before = sql($read);
my $sequence = sql(q{SELECT event_store.aggregate_sequence('Old', 'later')});
for my $n (1 .. 20)
{
	sql("$later gen_random_uuid())");
	poll(q{SELECT count(*) = 0 FROM event_store.scheduled_events});
}
cmp_ok(sql($read) - $before, '<', 5000, 'rows that the snapshot keeps are not looked at again');
$old->query_safe('COMMIT');
$old->quit;

# ---------- inline views

sql(q{SELECT event_store.create_view_projection('counted', '{Inline}', NULL, '{"events": {"E": [{"op": "increment", "path": "$.n", "value": 1}]}}', mode => 'inline')});
sql(q{SELECT count(event_store.schedule_event('2020-01-01Z'::timestamptz, 'Inline', 'i-' || n % 3, 'E')) FROM generate_series(1, 30) n});
ok(poll(q{SELECT count(*) = 30 FROM event_store.domain_events WHERE aggregate_type = 'Inline'}), 'due events whose views are inline');
is(sql(q{SELECT string_agg(concat(view_key, ' ', view_data), ', ' ORDER BY view_key) FROM event_store.domain_views WHERE view_name = 'counted'}),
	'i-0 {"n": 10}, i-1 {"n": 10}, i-2 {"n": 10}', 'are folded into them');

# ---------- one that is cancelled or moved while it is being appended

sql(q{CREATE SEQUENCE public.gate MINVALUE 0 START 0; SELECT nextval('public.gate');
      CREATE FUNCTION public.wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
          WHILE (SELECT last_value FROM public.gate) < 1 LOOP PERFORM pg_sleep(0.01); END LOOP;
          RETURN NEW;
      END $$;
      CREATE TRIGGER slow BEFORE INSERT ON event_store.domain_events FOR EACH ROW WHEN (NEW.event_type = 'Slow') EXECUTE FUNCTION public.wait_at_gate()});
my $id = '0192d160-0000-7000-8000-0000000000a1';
sql(qq{SELECT event_store.schedule_event('2020-01-01Z', 'Slow', 's-1', 'Slow', '{"n": 1}', schedule_id => '$id')});
ok(poll(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'event_store projector' AND wait_event = 'PgSleep'}), 'an append takes its time');
my @late = map { $node->background_psql('shop') } 1 .. 3;
my @calls = (
	"SELECT event_store.cancel_scheduled_event('$id')",
	"SELECT event_store.reschedule_event('$id', '2999-01-01Z')",
	qq{SELECT event_store.schedule_event('2020-01-01Z', 'Slow', 's-1', 'Slow', '{"n": 1}', schedule_id => '$id')});
foreach my $n (0 .. 2)
{
	# the end of a call may come together with its beginning
	my $said = $late[$n]->query_until(qr/begun/, "\\echo begun\n$calls[$n];\n\\echo done\n");
	$late[$n]->{stdout} = $said . $late[$n]->{stdout};
}
ok(poll(q{SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ '(cancel_|re)schedule'}), 'who cancels or moves it waits');
sql(q{SELECT setval('public.gate', 1)});
foreach my $n (0 .. 2)
{
	pump_until($late[$n]->{run}, $late[$n]->{timeout}, \$late[$n]->{stdout}, qr/^done$/m);
}
like($late[0]->{stdout}, qr/^f\ndone/m, 'it is too late to cancel it');
like($late[1]->{stdout}, qr/^f\ndone/m, 'to move it');
like($late[2]->{stdout}, qr/^$id\ndone/m, 'and the same again is the same one');
is(sql(q{SELECT count(*) FROM event_store.load_events('Slow', 's-1')}), '1', 'it was appended once');
like(error_of($node, 'shop', qq{SELECT event_store.schedule_event('2020-01-01Z', 'Slow', 's-1', 'Slow', '{"n": 2}', schedule_id => '$id')}), qr/VS002/, 'under its id there is no other one');
$_->{stdout} = '', $_->quit foreach @late;
sql('DROP TRIGGER slow ON event_store.domain_events');

# ---------- an aggregate with dead letters

sql(q{CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '23514'; END $$;
      CREATE TRIGGER refuse BEFORE INSERT ON event_store.domain_events FOR EACH ROW WHEN (NEW.event_type = 'Poison') EXECUTE FUNCTION public.refuse()});
sql(q{SELECT event_store.append_event('Dead', 'd-1', 0, 'Poison', durability => 'staged')});
ok(poll(q{SELECT count(*) = 1 FROM event_store.dead_letters}), 'there is a dead letter');
sql(q{SELECT event_store.schedule_event('2020-01-01Z', 'Dead', 'd-1', 'E'), event_store.schedule_event('2020-01-02Z', 'Dead', 'd-2', 'E')});
ok(poll(q{SELECT event_store.aggregate_sequence('Dead', 'd-2') = 1}), 'another aggregate does not wait');
is(sql(q{SELECT concat(aggregate_id, ' ', state, ' ', error_code) FROM event_store.scheduled_events}), 'd-1 failed VS006', 'what is due for one with dead letters has failed');
sql(q{SELECT event_store.discard_dead_letters('Dead', 'd-1', 'test'); SELECT event_store.reschedule_event(schedule_id, now()) FROM event_store.scheduled_events});
ok(poll(q{SELECT event_store.aggregate_sequence('Dead', 'd-1') = 1}), 'once they are settled it is tried again on request');

# ---------- a dump

sql(q{SELECT event_store.schedule_event(clock_timestamp() + interval '3 s', 'Dump', 'soon', 'E'), event_store.schedule_event('2999-01-01Z', 'Dump', 'far', 'E')});
$node->command_ok([ 'pg_dump', '-d', $node->connstr('shop'), '-Fc', '-f', "$PostgreSQL::Test::Utils::tmp_check/shop.dump" ], 'a dump');
ok(poll(q{SELECT event_store.aggregate_sequence('Dump', 'soon') = 1}), 'then the event is due');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'pg_restore', '-d', $node->connstr('restored'), "$PostgreSQL::Test::Utils::tmp_check/shop.dump" ], 'restored');
$node->safe_psql('restored', 'SELECT event_store.create_store()');
ok($node->poll_query_until('restored', q{SELECT event_store.aggregate_sequence('Dump', 'soon') = 1}), 'it comes where the dump was restored, too');
is($node->safe_psql('restored', q{SELECT aggregate_id FROM event_store.scheduled_events}), 'far', 'what is not due waits there');
$node->safe_psql('postgres', 'DROP DATABASE restored');

# ---------- a standby that is promoted

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
my $holder = $node->background_psql('shop');
$holder->query_safe(q{BEGIN; SELECT event_store.lock_aggregate('Promoted', 'p')});
sql(q{SELECT event_store.schedule_event('2020-01-01Z', 'Promoted', 'p', 'E')});
$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
is($standby->safe_psql('shop', q{SELECT count(*) FROM event_store.scheduled_events WHERE aggregate_type = 'Promoted'}), '1', 'it waits on the standby');
$node->stop('immediate');
eval { $holder->quit };
$standby->promote;
ok($standby->poll_query_until('shop', q{SELECT event_store.aggregate_sequence('Promoted', 'p') = 1}), 'what is due comes once the standby is promoted');
is($standby->safe_psql('shop', q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'Old'}) >= 5000, 1, 'and nothing comes twice');
$standby->stop;

done_testing();
