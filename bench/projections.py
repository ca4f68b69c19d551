"""View projections: the rate at which the projector takes in a log, against a trigger and a client that keep the
same view; what an inline view costs an append; how far the view is behind; what several of them cost.

The log has events of as many customers as a row says, in random order, in batches of 1000.  What is folded is the same
everywhere: a counter, a sum and the last value.  After a turn all views are compared with the sums of the log.
"""
import os
import time
from pathlib import Path

from held import hold_snapshot
from plan import STORE
from server import Failed, command, complaint, percentile

HERE = Path(__file__).resolve().parent

LOG_EVENTS = {True: 100_000, False: 400_000}    # quick, full
KEYS = (10_000, 100)
SOME = (1, 2, 4, 8)
FRESH_RATE = 2000                               # events a second
WITHIN = 600                                    # seconds, until a projection has caught up

VIEW = ("SELECT event_store.create_view_projection('{name}', '{{Spent}}', '\"$.payload.customer\"', bench.spent_rules(), mode => '{mode}', batch_size => 10000)")
LEFT = "SELECT count(*) FROM event_store.projection_status WHERE state <> 'idle' OR lag_events > 0"
WRONG = """SELECT count(*) FROM
    (SELECT payload ->> 'customer' AS key, count(*) AS times, sum((payload ->> 'amount')::numeric) AS total
       FROM {log} WHERE aggregate_type = 'Spent' GROUP BY 1) s
    FULL JOIN (SELECT view_key AS key, (view_data ->> 'times')::bigint AS times, (view_data ->> 'total')::numeric AS total
                 FROM {views} WHERE view_name = 'spent') v USING (key)
    WHERE (s.times, s.total) IS DISTINCT FROM (v.times, v.total)"""


def fresh_database(bench):
    bench.server.configure({})
    database = bench.fresh_database(STORE)
    bench.server.run_file(HERE / 'projection_setup.sql', database)
    return database


def fill(server, database, keys, events):
    """A log of "events", in transactions of 1000."""
    server.sql(f'CALL bench.spend({events}, {keys})', database)
    server.sql('VACUUM (ANALYZE) event_store.domain_events; CHECKPOINT', database)


def expect_views(server, database, log='event_store.domain_events', views='event_store.domain_views'):
    wrong = server.value(WRONG.format(log=log, views=views), database)
    if wrong != '0':
        raise Failed(f'{wrong} rows of the view are not what the log says')


def catch_up(server, database):
    """Waits until the projections have taken in all there is."""
    end = time.monotonic() + WITHIN
    while server.value(LEFT, database) != '0':
        if time.monotonic() > end:
            raise Failed('the projections do not catch up')
        time.sleep(0.02)


def project(server, database, names=('spent',)):
    """The seconds in which the projector takes in the whole log, its start included."""
    for name in names:
        server.sql(VIEW.format(name=name, mode='async'), database)
        server.sql(f"SELECT event_store.pause_subscription('{name}')", database)
    began = time.monotonic()
    server.sql(''.join(f"SELECT event_store.resume_subscription('{name}');" for name in names), database)
    catch_up(server, database)
    return time.monotonic() - began


def copy_log(server, database):
    began = time.monotonic()
    server.sql('CALL bench.copy_log()', database)
    return time.monotonic() - began


def trigger(server, database):
    """The seconds that the same rows take into a table with the trigger, in transactions as large."""
    server.sql('ALTER TABLE bench.raw_events ENABLE TRIGGER keep_spent', database)
    return copy_log(server, database)


def run_client(server, database, *words):
    return command('node', HERE / 'projection_client.mjs', os.environ['PEERS'], database, *words, env=server.env).split()


def client(way):
    return lambda server, database: float(run_client(server, database, way)[0])


def async_ways(keys, with_node):
    """What keeps a view of "keys" rows: series, title, the seconds it takes, and where its log and view are."""
    ours = 'event_store.domain_events', 'event_store.domain_views'
    yield f'projection {keys}', 'async view projection, catching up', project, ours
    yield f'trigger {keys}', 'INSERT … SELECT, PL/pgSQL trigger that upserts', trigger, ('bench.raw_events', 'bench.raw_views')
    yield f'no trigger {keys}', 'the same INSERT without the trigger', copy_log, None
    if with_node and keys == KEYS[0]:
        yield f'client bulk {keys}', 'Node client, folds 1000 events, one upsert', client('bulk'), ('event_store.domain_events', 'bench.raw_views')
        yield f'client rows {keys}', 'Node client, an upsert an event', client('rows'), ('event_store.domain_events', 'bench.raw_views')


def catching_up(bench, quick, turns, say):
    """Yields the rates at which a log gets into a view, by turns."""
    server, events = bench.server, LOG_EVENTS[quick]
    with_node = (Path(os.environ['PEERS']) / 'node_modules' / 'pg').exists()
    for keys in KEYS:
        template = fresh_database(bench)
        say(f'  filling a log of {events:,} events of {keys:,} customers')
        fill(server, template, keys, events)
        for turn in range(1, turns + 1):
            ways = list(async_ways(keys, with_node))
            for series, title, seconds_of, checked in ways if turn % 2 else reversed(ways):
                database = bench.fresh_database(template)
                server.sql('CHECKPOINT')
                took = seconds_of(server, database)
                if checked:
                    expect_views(server, database, *checked)
                server.drop_database(database)
                yield line('projection', series, f'{title}, {keys:,} keys', turn, events / took)
        server.drop_database(template)


def line(part, series, title, turn, rate, **more):
    return {'part': part, 'series': series, 'title': title, 'turn': turn, 'events_per_second': rate, **more}


# -------------------------------------------------------------------- inline

def inline_ways():
    yield 'inline append', 'append_event, one inline view', 'inline_append', 1
    yield 'inline transaction', 'BEGIN, raw INSERT, upsert, COMMIT', 'inline_by_hand', 0
    yield 'inline statement', 'raw INSERT and upsert in one statement', 'inline_with', 0


def inline_views(server, database, count):
    """Inline views, the first by customers."""
    for n in range(count):
        server.sql(VIEW.format(name='spent' if n == 0 else f'spent {n}', mode='inline'), database)


def appends(server, database, script, seconds, turn, clients=16):
    return server.pgbench(script, database, clients=clients, seconds=seconds, seed=turn)


def inline(bench, seconds, turns):
    """Yields appends of 16 clients that keep a view in their transaction, each with customers of its own."""
    server = bench.server
    for turn in range(1, turns + 1):
        ways = list(inline_ways())
        for series, title, script, views in ways if turn % 2 else reversed(ways):
            database = fresh_database(bench)
            inline_views(server, database, views)
            server.sql('CHECKPOINT')
            done = appends(server, database, script, seconds, turn)
            server.wait_for_clients(database)
            if views:
                expect_views(server, database)
            else:
                expect_views(server, database, 'bench.raw_events', 'bench.raw_views')
            server.drop_database(database)
            yield {**done, **line('inline', series, title, turn, done['calls_per_second'])}


# ----------------------------------------------------------------- freshness

def freshness(bench, seconds):
    """Yields how long after an append has returned the view shows it, while others append at a steady rate."""
    server = bench.server
    database = fresh_database(bench)
    server.sql(VIEW.format(name='spent', mode='async'), database)
    writers = start_writers(server, database, KEYS[0])
    try:
        yield delay_line('fresh', 'fresh', f'async view behind {FRESH_RATE:,} events/s', server, database, writers, seconds, 'fresh')
    finally:
        writers.terminate()
        writers.communicate()
    server.drop_database(database)


def start_writers(server, database, keys):
    return server.start_pgbench('fresh_append', database, clients=4, seconds=WITHIN + 3600, rate=FRESH_RATE, variables={'keys': keys})


def delay_line(part, series, title, server, database, writers, seconds, way):
    delays = sorted(1000 * float(word) for word in run_client(server, database, way, seconds))
    if writers.poll() is not None:
        raise Failed(complaint(writers.communicate()[1]))
    p99 = percentile(delays, .99)
    return line(part, series, title, 1, len(delays) / seconds, calls_per_second=1e6 / p99, p50_us=percentile(delays, .5), p99_us=p99)


def hottest(bench, seconds, given):
    """Yields how long after an append the row that all events belong to has it, in the first and the last of "seconds"
    under an old snapshot; "given" is how long such a part is."""
    server = bench.server
    database = fresh_database(bench)
    server.sql(VIEW.format(name='spent', mode='async'), database)
    session = hold_snapshot(server, database)
    writers = start_writers(server, database, 1)
    try:
        yield delay_line('hottest', 'hottest first', f'hottest view row, the first {given:g} s', server, database, writers, given, 'hottest')
        time.sleep(max(0, seconds - 2 * given))
        yield delay_line('hottest', 'hottest last', f'hottest view row, the last {given:g} s', server, database, writers, given, 'hottest')
    finally:
        writers.terminate()
        writers.communicate()
        session.communicate('ROLLBACK;\n')
    server.drop_database(database)


# ------------------------------------------------------------------- several

def several(bench, quick, seconds):
    """Yields what 1 to 8 projections take in, and what appends cost with 0 to 8 inline views."""
    server, events = bench.server, LOG_EVENTS[quick] // 2
    template = fresh_database(bench)
    fill(server, template, KEYS[0], events)
    for count in SOME:
        database = bench.fresh_database(template)
        took = project(server, database, ['spent', *(f'spent {n}' for n in range(1, count))])
        server.drop_database(database)
        yield line('several', f'{count} async', f'{count} async views of the same log', 1, events / took, views=count)
    server.drop_database(template)
    for count in (0, *SOME):
        database = fresh_database(bench)
        inline_views(server, database, count)
        done = appends(server, database, 'inline_append', seconds, 1)
        server.drop_database(database)
        yield {**done, **line('several', f'{count} inline', f'appends with {count} inline views', 1, done['calls_per_second'], views=count)}
