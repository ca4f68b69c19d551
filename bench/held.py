"""Consuming under an old snapshot: 2,000 events a second, while a REPEATABLE READ transaction stays open.

Each batch stores a position, and none of the old ones can be removed as long as the snapshot is held.  The rate
at which events are handled and the time of a call are compared in the first and the last part of the time.
"""
import subprocess
import time

from server import Failed, complaint, percentile

RATE = 2000                         # events a second
CALLS = 200                         # of next_events a second, for which a batch is small
CLIENTS = 4
WITHIN = 30                         # seconds, until all have begun or ended

POSITION = "SELECT position FROM event_store.subscription_status WHERE subscription_name = 'bench'"
OLD_ROWS = 'SELECT count(*) FROM event_store.subscription_positions'


def hold_snapshot(server, database):
    """A session that holds a snapshot until it is closed."""
    session = subprocess.Popen([str(server.bindir / 'psql'), '-XAtq', '-d', database], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    session.stdin.write('BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT count(*) FROM event_store.domain_events;\n')
    session.stdin.flush()
    session.stdout.readline()
    return session


def sleep_until(when, processes):
    while (left := when - time.monotonic()) > 0:
        time.sleep(min(left, 1))
        for process in processes:
            if process.poll() is not None:
                raise Failed(complaint(process.communicate()[1]))


def part(title, which, taken, handled, seconds):
    """What the calls of a part of the time took, as two runs: rates and times are judged each."""
    took = sorted(taken)
    if not took:
        raise Failed(f'no call of next_events in the {title}')
    p99 = percentile(took, .99)
    line = {'part': 'held', 'title': f'next_events, the {title}', 'turn': 1, 'clients': 1, 'seconds': seconds,
            'calls': len(took), 'p50_us': percentile(took, .5), 'p99_us': p99, 'events_per_second': handled / seconds}
    yield {**line, 'series': f'held {which}', 'calls_per_second': len(took) / seconds}
    yield {**line, 'series': f'held p99 {which}', 'calls_per_second': 1e6 / p99}


def run(server, bench, seconds, given, say):
    """Yields the runs of the first and the last of "seconds"; "given" is how long such a part is."""
    database = bench.fresh_database('bench_store')
    log = server.logs / 'held'
    server.configure({})
    server.sql("SELECT event_store.create_subscription('bench')", database)
    session = hold_snapshot(server, database)
    processes = []
    try:
        processes.append(server.start_pgbench('append_event', database, clients=CLIENTS, seconds=seconds + WITHIN, rate=RATE,
                                              variables={'payload': bench.payload(200)}))
        processes.append(server.start_pgbench('next_effects', database, seconds=seconds + WITHIN, rate=CALLS, log=log))
        began = time.monotonic() + 2
        at, positions = time.time() + 2, []
        for mark in (0, given, seconds - given, seconds):
            sleep_until(began + mark, processes)
            positions.append(int(server.value(POSITION, database)))
        say(f'  {server.value(OLD_ROWS, database)} positions are stored')
    finally:
        for process in processes:
            process.terminate()
            process.communicate()
        session.communicate('ROLLBACK;\n')
    calls = []
    for file in server.logs.glob('held.*'):
        with open(file, encoding='ascii') as lines:
            # client, call, microseconds, script, seconds and microseconds of its end, microseconds it began late
            calls += [(int(words[4]) + int(words[5]) / 1e6 - at, int(words[2]) - int(words[6]))
                      for words in map(str.split, lines) if len(words) > 6]
        file.unlink()
    server.drop_database(database)
    minute = f'{given:g} s'
    yield from part(f'first {minute}', 'first', [took for end, took in calls if 0 <= end < given],
                    positions[1] - positions[0], given)
    yield from part(f'last {minute}', 'last', [took for end, took in calls if seconds - given <= end < seconds],
                    positions[3] - positions[2], given)
