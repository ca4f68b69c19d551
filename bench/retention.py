"""Retention at work: a million events go into the archive while others append, and what they and the process notice of it.

The calls of 4 clients at a steady rate are compared before retention is set and while it moves, from when each was to
begin: a client that is held up has those that wait for it count as well.  The memory of the process that moves is its own,
without what is shared, at its most in the first tenth and in all.
"""
import time
from contextlib import suppress

from archive import BLOCK, BY_POSITION, rows
from deadlines import PROCESS, memory
from server import Failed, complaint, percentile

EVENTS = 1_000_000
QUICK_EVENTS = 100_000
RATE = 500                          # appends a second
CLIENTS = 4
BEFORE = 20                         # seconds without retention
QUICK_BEFORE = 8
WARM_UP = 3                         # seconds
POLL = 1                            # second
WITHIN = 1200                       # seconds, until all are moved

MOVED = "SELECT count(*) * 20 FROM event_store.closed_aggregates"


def look(server, database):
    """How many events were moved, and which processes there are; who looks is in the way of the appends as well."""
    (moved,), *processes = server.sql(f'{MOVED};' + PROCESS.format(database=database), database)
    return int(moved), [pid for (pid,) in processes]


def watch(server, database, events, appends):
    """Until all are moved; returns the most memory of the process in the first tenth, and in all."""
    first, most, moved, until = 0, 0, 0, time.monotonic() + WITHIN
    while moved < events:
        time.sleep(POLL)
        if time.monotonic() > until:
            raise Failed(f'{moved} events were moved')
        if appends.poll() is not None:
            raise Failed(complaint(appends.communicate()[1]))
        moved, processes = look(server, database)
        for pid in processes:
            with suppress(OSError):     # it has just ended
                most = max(most, memory(pid))
        if moved <= events / 10:
            first = most
    return first or most, most


def times_of(server):
    """When each call ended and what it took from when it was to begin, in microseconds."""
    calls = []
    for file in server.logs.glob('retention.*'):
        with open(file, encoding='ascii') as lines:
            # client, call, microseconds since it was to begin, script, seconds and microseconds of its end, how late it began;
            # the last line of a client that was ended may be cut off
            calls += [(int(words[4]) + int(words[5]) / 1e6, int(words[2])) for words in map(str.split, lines) if len(words) > 6]
        file.unlink()
    return calls


def judged(series, title, turn, calls, seconds, value):
    """A run of which the value, a time or a size, is what is judged: less is better."""
    took = sorted(took for _, took in calls)
    return {'part': 'retention', 'series': f'retention {series}', 'title': title, 'turn': turn, 'clients': CLIENTS,
            'seconds': seconds, 'calls': len(took), 'calls_per_second': 1e9 / max(value, 1),
            'events_per_second': len(took) / seconds, 'p50_us': percentile(took, .5), 'p99_us': percentile(took, .99)}


def part(series, title, turn, calls, begin, end):
    some = [call for call in calls if begin <= call[0] < end]
    if not some:
        raise Failed(f'no append {title}')
    return judged(series, f'appends {title}', turn, some, end - begin, percentile(sorted(took for _, took in some), .99))


def run(server, bench, quick, turns, say):
    """Yields the runs of each turn, in a store of its own."""
    events, before = (QUICK_EVENTS, QUICK_BEFORE) if quick else (EVENTS, BEFORE)
    server.configure({})
    for turn in range(1, turns + 1):
        database = bench.fresh_database('bench_store')
        server.sql(rows('domain_events', bench.payload(200), events // BLOCK, aggregate_type='Old', order=BY_POSITION, age='2 years')
                   + 'VACUUM (ANALYZE) event_store.domain_events; CHECKPOINT;', database)
        appends = server.start_pgbench('append_event', database, clients=CLIENTS, seconds=before + WITHIN, rate=RATE,
                                       log=server.logs / 'retention', variables={'payload': bench.payload(200)})
        try:
            time.sleep(WARM_UP)
            alone = time.time()
            while time.time() < alone + before:
                time.sleep(POLL)
                look(server, database)
            begin = time.time()
            server.sql("SELECT event_store.set_retention('Old', '1 year')", database)
            first, most = watch(server, database, events, appends)
            end = time.time()
        finally:
            appends.terminate()
            appends.communicate()
        calls = times_of(server)
        say(f'  {events:,} events moved in {end - begin:.0f} s')
        yield part('alone', 'without retention', turn, calls, alone, begin)
        yield part('during', f'while {events / (end - begin):,.0f} events a second are moved', turn, calls, begin, end)
        for series, size in (('first', first), ('most', most)):
            yield judged(f'memory {series}', f'the process, {size / 2 ** 20:.1f} MB at the most of '
                         + ('the first tenth' if series == 'first' else 'all'), turn, calls, end - alone, size)
        server.drop_database(database)
