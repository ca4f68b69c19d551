"""Events that are scheduled: 100,000 that fall due at once, against append_batch of as many, and how late they
are at 500 a second.

All of them become due with one COMMIT.  Each is of an aggregate of its own, for both ways.
"""
import time
from pathlib import Path

from server import Failed

EVENTS = 100000
BATCH = 1000
RATE = 500                          # a second
AHEAD = 5                           # seconds, from the call that schedules to the first that is due
LIMIT_US = 100000                   # the lateness that is judged against
WITHIN = 300                        # seconds, until all are appended

PROCESS = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'event_store projector' AND datname = '{database}'"
BATCHES = """
    DO $$
    BEGIN
        FOR i IN 0 .. {events} / {batch} - 1 LOOP
            PERFORM count(*) FROM event_store.append_batch(
                array_fill('Batch {turn}'::text, ARRAY[{batch}]), ARRAY(SELECT 'a-' || i * {batch} + n FROM generate_series(1, {batch}) n),
                array_fill('Due'::text, ARRAY[{batch}]), array_fill('{payload}'::jsonb, ARRAY[{batch}]));
            COMMIT;
        END LOOP;
    END $$"""
SCHEDULE = ("SELECT count(event_store.schedule_event({due}, '{type} {turn}', 'a-' || n, 'Due', '{payload}'))"
            " FROM generate_series(1, {events}) n")
LAST = "SELECT event_store.aggregate_sequence('{type} {turn}', 'a-{events}')"


def memory(pid):
    """Bytes of its own that a process has."""
    for line in Path(f'/proc/{pid}/status').read_text(encoding='ascii').splitlines():
        if line.startswith('RssAnon:'):
            return int(line.split()[1]) * 1024
    return 0


def wait_for_last(server, database, given):
    """Until the last one is appended; returns the most memory that the process was seen with."""
    most, until = 0, time.monotonic() + WITHIN
    while server.value(LAST.format(**given), database) == '0':
        if time.monotonic() > until:
            raise Failed('not all due events were appended')
        pid = server.value(PROCESS.format(database=database), database)
        try:
            most = max(most, memory(pid) if pid else 0)
        except OSError:             # it has just ended
            pass
        time.sleep(0.05)
    return most


def result(series, title, turn, calls, rate, p50, p99):
    return {'part': 'due', 'series': series, 'title': title, 'turn': turn, 'clients': 1, 'seconds': calls / rate,
            'calls': calls, 'calls_per_second': rate, 'events_per_second': rate, 'p50_us': p50, 'p99_us': p99}


def lateness(server, database, kind):
    rows = server.sql("SELECT round(1e6 * percentile_cont(q) WITHIN GROUP (ORDER BY extract(epoch FROM recorded_at - occurred_at)))::bigint"
                      f" FROM event_store.domain_events, unnest(ARRAY[.5, .99]) q WHERE aggregate_type = '{kind}' GROUP BY q ORDER BY q",
                      database)
    return int(rows[0][0]), int(rows[1][0])


def all_at_once(server, database, given):
    """The two ways; rates by the clock of whoever waits for the last event."""
    began = time.monotonic()
    server.sql(BATCHES.format(**given), database)
    took = time.monotonic() - began
    yield result('deadlines append_batch', f'append_batch of {BATCH}', given['turn'], EVENTS, EVENTS / took, 0, 0)
    due = {**given, 'due': "'2020-01-01Z'::timestamptz + n * interval '1 ms'", 'type': 'Due'}
    server.sql(SCHEDULE.format(**due), database)
    began = time.monotonic()
    most = wait_for_last(server, database, due)
    took = time.monotonic() - began
    yield result('deadlines due', f'{EVENTS:,} due at once, process of {most / 2 ** 20:.1f} MB', given['turn'], EVENTS,
                 EVENTS / took, 0, 0)


def run(server, bench, turns, seconds):
    """Yields the runs of each turn: both ways, and the lateness at a steady rate."""
    server.configure({})
    for turn in range(1, turns + 1):
        database = bench.fresh_database('bench_store')
        server.sql('CHECKPOINT')
        given = {'turn': turn, 'events': EVENTS, 'batch': BATCH, 'payload': bench.payload(200).replace("'", "''")}
        yield from all_at_once(server, database, given)
        late = {**given, 'events': RATE * seconds, 'type': 'Late',
                'due': f"now() + interval '{AHEAD} s' + n * interval '{1000 / RATE} ms'"}
        server.sql(SCHEDULE.format(**late), database)
        wait_for_last(server, database, late)
        p50, p99 = lateness(server, database, f'Late {turn}')
        yield result('deadlines late', f'{RATE} due a second, lateness', turn, RATE * seconds, 1e6 / p99, p50, p99)
        yield result('deadlines limit', 'what is allowed', turn, 1, 1e6 / LIMIT_US, LIMIT_US, LIMIT_US)
        server.drop_database(database)
