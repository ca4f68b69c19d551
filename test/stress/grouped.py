#!/usr/bin/python3
"""Grouped appends while the server crashes: test/stress/grouped.py --dsn DSN

Writers append to a few aggregates, each event with an id, and repeat a call until they are
told what became of it, over as many crashes as it takes.  A process is killed as often as is
asked for: now the committer, now a writer's backend.  In the end

- each event of which a writer was told is in the log, where he was told,
- no writer was told of another's event,
- each aggregate is 1..n.

It runs where the server does, as its user.
"""
import argparse
import collections
import json
import multiprocessing
import os
import random
import signal
import sys
import time
import uuid

import psycopg2

NAME = 'grouped writer '
PATIENCE_S = 120


def connect(dsn, name):
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            connection = psycopg2.connect(dsn, application_name=name)
            connection.autocommit = True
            return connection
        except psycopg2.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def is_lost(connection, error):
    """Whether an error is the end of the connection, which is closed then."""
    lost = connection.closed != 0 or error.pgcode in (None, '57P01', '57P02', '57P03')
    connection.close()
    return lost


def write(number, given, stop, path):
    """One writer; its ledger has a line for each event that it was told of."""
    rng = random.Random(given.seed * 1000 + number)
    connection = connect(given.dsn, NAME + str(number))
    count = 0
    with open(path, 'w', encoding='utf-8') as ledger:
        while not stop.is_set():
            count += 1
            token = f'w{number}-{count}'
            event_id = str(uuid.UUID(int=rng.getrandbits(128)))
            aggregate = f'hot-{rng.randrange(given.aggregates)}'
            tries = 0
            while True:
                tries += 1
                try:
                    with connection.cursor() as cursor:
                        cursor.execute(
                            "SELECT first_sequence, last_position, outcome, durable"
                            "  FROM event_store.append_event('Grouped', %s, NULL, 'Happened', %s,"
                            "       event_id => %s, durability => 'grouped')",
                            (aggregate, json.dumps({'token': token}), event_id))
                        answer = cursor.fetchone()
                    break
                except psycopg2.Error as error:
                    if not is_lost(connection, error):
                        raise
                    connection = connect(given.dsn, NAME + str(number))
            ledger.write(json.dumps([token, aggregate, event_id, tries, *answer]) + '\n')
            ledger.flush()


def victim(cursor, rng):
    """A process to be killed: the committer or a writer's backend; None = there is none."""
    cursor.execute("SELECT pid, backend_type FROM pg_stat_activity WHERE datname = current_database()"
                   " AND (backend_type = 'event_store committer' OR application_name LIKE %s)", (NAME + '%',))
    found = cursor.fetchall()
    committers = [pid for pid, kind in found if kind == 'event_store committer']
    if committers and rng.random() < 0.7:
        return committers[0]
    return rng.choice(found)[0] if found else None


def crash_often(given):
    rng = random.Random(given.seed)
    connection = connect(given.dsn, 'grouped killer')
    crashes = 0
    while crashes < given.kills:
        time.sleep(rng.uniform(0.02, 0.2))
        try:
            with connection.cursor() as cursor:
                pid = victim(cursor, rng)
            if pid is None:
                continue
            os.kill(pid, signal.SIGKILL)
            crashes += 1
            # until this one has been ended as well
            deadline = time.monotonic() + PATIENCE_S
            while time.monotonic() < deadline:
                with connection.cursor() as cursor:
                    cursor.execute('SELECT 1')
                time.sleep(0.002)
        except ProcessLookupError:
            pass
        except psycopg2.Error as error:
            if not is_lost(connection, error):
                raise
            connection = connect(given.dsn, 'grouped killer')
    return crashes


def verify(given, paths):
    connection = connect(given.dsn, 'grouped verifier')
    logged = {}
    faults = []
    counts = collections.Counter()
    with connection.cursor() as cursor:
        cursor.execute("SELECT event_id::text, payload ->> 'token', aggregate_id, sequence, global_position"
                       "  FROM event_store.domain_events WHERE aggregate_type = 'Grouped'")
        for event_id, token, aggregate, sequence, position in cursor.fetchall():
            logged[token] = (event_id, aggregate, sequence, position)
            counts['events in the log'] += 1
        cursor.execute("SELECT aggregate_id FROM event_store.domain_events WHERE aggregate_type = 'Grouped'"
                       " GROUP BY 1 HAVING min(sequence) <> 1 OR max(sequence) <> count(*)")
        faults += [f'{aggregate} is not 1..n' for aggregate, in cursor.fetchall()]
    if len(logged) != counts['events in the log']:
        faults.append('an event is there twice')
    for path in paths:
        with open(path, encoding='utf-8') as ledger:
            for line in ledger:
                token, aggregate, event_id, tries, sequence, position, outcome, durable = json.loads(line)
                counts['answers'] += 1
                counts[f'answers {outcome}'] += 1
                counts['calls repeated'] += tries > 1
                if logged.get(token) != (event_id, aggregate, sequence, position):
                    faults.append(f'{token} was told {aggregate} {sequence} {position}, and the log has {logged.get(token)}')
                if not durable or outcome not in ('appended', 'duplicate'):
                    faults.append(f'{token} was told {outcome}, durable {durable}')
                if outcome == 'duplicate' and tries == 1:
                    faults.append(f'{token} was called a duplicate the first time')
    return faults, counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--dsn', required=True)
    parser.add_argument('--writers', type=int, default=16)
    parser.add_argument('--aggregates', type=int, default=2)
    parser.add_argument('--kills', type=int, default=200)
    parser.add_argument('--seed', type=int, default=random.SystemRandom().randrange(1 << 30))
    given = parser.parse_args()
    folder = os.environ.get('TMPDIR', '/tmp')
    paths = [os.path.join(folder, f'grouped-{os.getpid()}-{number}.jsonl') for number in range(given.writers)]
    stop = multiprocessing.Event()
    writers = [multiprocessing.Process(target=write, args=(number, given, stop, path))
               for number, path in enumerate(paths)]

    print(f'seed {given.seed}')
    for writer in writers:
        writer.start()
    crashes = crash_often(given)
    stop.set()
    for writer in writers:
        writer.join()
    faults, counts = verify(given, paths)
    faults += [f'a writer ended with {writer.exitcode}' for writer in writers if writer.exitcode != 0]
    print(f'  crashes {crashes}')
    for what, count in sorted(counts.items()):
        print(f'  {what} {count}')
    for fault in faults[:20]:
        print(f'WRONG: {fault}')
    for path in paths:
        os.unlink(path)
    return 1 if faults else 0


if __name__ == '__main__':
    multiprocessing.set_start_method('fork')
    sys.exit(main())
