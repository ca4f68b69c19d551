#!/usr/bin/python3
"""Subscriptions while everything happens at once: subscription_storm.py --dsn … [--writers 24] [--seconds 30] …

Writers append in every way there is (those of feed.py).  Subscriptions of 1, 4 and 16 members, and one that
is resized again and again, are consumed by next_events, and as many by claim_events, by consumers that commit, roll back, fail events, acknowledge parts, come too late, are
cancelled and terminated; with --crash-cmd the server crashes in the middle.  In the end must hold:

- by next_events each event of the log has one effect, in order within its partition;
- by leases each was sent, for the first time in order within its partition;
- no position of a member ever went back, and none passed what was neither handled nor set aside.
"""
import argparse
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time

sys.dont_write_bytecode = True

import psycopg2

from feed import Writer
from storm_client import ENDINGS, StormClient

RUN = f'Storm {os.getpid()}'
NAME = 'storm consumer'
SUBSCRIPTIONS = [(kind, size) for kind in ('next', 'claim') for size in ('1', '4', '16', 'sized')]
CONSUMERS = {'1': 2, '4': 4, '16': 5, 'sized': 3}


class Consumer(StormClient):
    """Consumes one subscription."""

    application = NAME
    expected = {'VS007', '40P01'}       # a lease is lost, or somebody was quicker

    def __init__(self, number, given, kind, size, calm, end, faults):
        super().__init__(f'{kind} {size} {number}', number, given, end, faults)
        self.subscription, self.calm = f'{kind} {size}', calm
        self.turn = self.fetch if kind == 'next' else self.claim

    def dice(self, chance):
        return not self.calm.is_set() and self.rng.random() < chance

    def effects(self, events):
        self.rows('INSERT INTO storm_effects (subscription, position, partition) '
                  'SELECT %s, p, k FROM unnest(%s::bigint[], %s::text[]) WITH ORDINALITY u (p, k, n) ORDER BY n',
                  self.subscription, [e[0] for e in events], [e[1] for e in events])

    # ---------- in the transaction of the effects

    def fetch(self):
        self.rows('BEGIN')
        events = self.rows("SELECT global_position, aggregate_type || '/' || aggregate_id FROM event_store.next_events(%s, %s) ORDER BY 1",
                           self.subscription, self.rng.choice([1, 5, 100]))
        if events and self.dice(0.1):
            events += self.rows("SELECT global_position, aggregate_type || '/' || aggregate_id FROM event_store.next_events(%s, 3) ORDER BY 1",
                                self.subscription)
        failed = self.rng.randrange(len(events)) if events and self.dice(0.1) else None
        self.effects(events[:failed])
        time.sleep(self.rng.choice([0, 0, 0, 0.01, 0.1]) if events else 0.02)
        if failed is not None:
            self.rows("SELECT event_store.fail_events(%s, %s, 'it failed')", self.subscription, events[failed][0])
        if self.dice(0.15):
            self.rows('ROLLBACK')
            if events and self.dice(0.3):
                self.rows("SELECT event_store.fail_events(%s, %s, 'it failed elsewhere')", self.subscription, self.rng.choice(events)[0])
        else:
            self.rows('COMMIT')

    # ---------- by lease

    def claim(self):
        events = self.rows('SELECT global_position, partition_key, member, lease FROM event_store.claim_events(%s, %s, %s, %s) ORDER BY 1',
                           self.subscription, self.name, self.rng.choice([1, 5, 100]), '10s' if self.calm.is_set() else self.rng.choice(['50ms', '300ms', '2s']))
        if not events:
            time.sleep(0.02)
            return
        failed = self.rng.choice(events) if self.dice(0.1) else None
        up_to = self.rng.choice(events)[0] if self.dice(0.2) else events[-1][0]
        sent = [e for e in events if e[0] <= up_to and (failed is None or e[1] != failed[1] or e[0] < failed[0])]
        self.effects(sent)
        time.sleep(self.rng.choice([0, 0, 0.01, 0.1, 0.4]) if not self.calm.is_set() else 0)
        member, lease = events[0][2:]
        if self.dice(0.05):
            return
        if self.dice(0.05):
            self.rows('SELECT event_store.release_events(%s, %s, %s)', self.subscription, member, lease)
            return
        # one that is held open a little
        self.rows('BEGIN')
        positions = [failed[0]] if failed and failed[0] <= up_to else None
        finished = self.rows('SELECT event_store.ack_events(%s, %s, %s, %s, %s)', self.subscription, member, lease, up_to, positions)[0][0]
        time.sleep(self.rng.choice([0, 0, 0.05]))
        self.rows('COMMIT' if not self.dice(0.05) else 'ROLLBACK')
        if not finished and self.dice(0.5):
            self.rows('SELECT event_store.release_events(%s, %s, %s)', self.subscription, member, lease)


class Watcher(multiprocessing.Process):
    """No position goes back; resizes, and ends some of the consumers' statements and sessions."""

    def __init__(self, given, calm, end, faults):
        super().__init__(name='watcher', daemon=True)
        self.resized = multiprocessing.Value('i', 0)
        self.given, self.calm, self.end_of_it, self.faults = given, calm, end, faults

    def run(self):
        rng = random.Random(self.given.seed)
        places, connection = {}, None
        while not self.end_of_it.is_set():
            try:
                if connection is None or connection.closed:
                    connection = psycopg2.connect(self.given.dsn, application_name='storm watcher')
                    connection.autocommit = True
                with connection.cursor() as cursor:
                    self.watch(cursor, places)
                    if not self.calm.is_set() and rng.random() < 0.1:
                        self.resize(cursor, f"{rng.choice(['next', 'claim'])} sized", rng.choice([1, 3, 4, 6]))
                    if not self.calm.is_set() and rng.random() < 0.5:
                        how = rng.choice(['pg_cancel_backend', 'pg_terminate_backend'])
                        cursor.execute(f"SELECT {how}(pid) FROM pg_stat_activity WHERE application_name LIKE '{NAME}%' ORDER BY random() LIMIT 1")
            except psycopg2.Error:
                connection = None
            time.sleep(0.05)

    def resize(self, cursor, name, members):
        try:
            cursor.execute("SET lock_timeout = '1s'")
            cursor.execute('SELECT event_store.resize_subscription(%s, %s)', (name, members))
            self.resized.value += 1
        except psycopg2.Error as error:
            # the last one is not over, or somebody holds a member for long
            if error.pgcode not in ENDINGS | {'55006', '55P03'}:
                self.faults.put(f'resize: {error.pgcode} {error}')

    def watch(self, cursor, places):
        cursor.execute('SELECT DISTINCT ON (subscription_name, member) subscription_name, member, number, position '
                       "FROM event_store.subscription_positions WHERE subscription_name NOT LIKE '%sized' ORDER BY subscription_name, member, number DESC")
        for name, member, number, position in cursor.fetchall():
            before = places.get((name, member), (0, 0))
            if number < before[0] or position < before[1]:
                self.faults.put(f'{name}, member {member}: state {(number, position)} comes after {before}')
            places[name, member] = (number, position)


CHECKS = {
    'events that have no effect':
        "SELECT s.subscription_name, e.global_position FROM event_store.subscriptions s, event_store.domain_events e "
        f"WHERE e.aggregate_type = '{RUN}' AND NOT EXISTS (SELECT FROM storm_effects f WHERE f.subscription = s.subscription_name AND f.position = e.global_position)",
    'events that have two effects':
        "SELECT subscription, position, count(*) FROM storm_effects WHERE subscription LIKE 'next%' GROUP BY 1, 2 HAVING count(*) > 1",
    'effects of no event':
        'SELECT f.* FROM storm_effects f WHERE NOT EXISTS (SELECT FROM event_store.domain_events e WHERE e.global_position = f.position)',
    'events whose effect comes before that of an earlier one':
        'SELECT subscription, partition, position, earlier FROM (SELECT subscription, partition, position, lag(position) OVER '
        '(PARTITION BY subscription, partition ORDER BY min(number)) AS earlier FROM storm_effects GROUP BY 1, 2, 3) f WHERE earlier > position',
    'what is still set aside': 'SELECT subscription_name, partition_key, state FROM event_store.parked_events',
}


def prepare(dsn):
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute('DROP TABLE IF EXISTS storm_effects; CREATE TABLE storm_effects '
                       '(number bigint GENERATED ALWAYS AS IDENTITY, subscription text, position bigint, partition text)')
        for kind, size in SUBSCRIPTIONS:
            cursor.execute("SELECT event_store.drop_subscription(%s), event_store.create_subscription(%s, ARRAY[%s], members => %s, "
                           'max_attempts => 0)', (f'{kind} {size}', f'{kind} {size}', RUN, 4 if size == 'sized' else int(size)))
    connection.close()


def wait_for(dsn, sql, seconds):
    """Until a query says true; a server that is just coming back is waited for, too."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            connection = psycopg2.connect(dsn)
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)
                if cursor.fetchone()[0]:
                    return True
        except psycopg2.Error:
            pass
        time.sleep(0.2)
    return False


def check(dsn, faults):
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        for what, sql in CHECKS.items():
            cursor.execute(sql)
            rows = cursor.fetchall()
            if rows:
                faults.append(f'{len(rows)} {what}: {rows[:5]}')
        cursor.execute(f"SELECT (SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = '{RUN}'), count(*), "
                       'count(*) - count(DISTINCT (subscription, position)) FROM storm_effects')
        events, effects, repeated = cursor.fetchone()
        print(f'{"events":>30} {events:8}\n{"effects":>30} {effects:8}\n{"repeated":>30} {repeated:8}')
    connection.close()


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument('--dsn', default='')
    parser.add_argument('--writers', type=int, default=24)
    parser.add_argument('--seconds', type=float, default=30)
    parser.add_argument('--seed', type=int, default=random.SystemRandom().randrange(1 << 20))
    parser.add_argument('--staged', type=float, default=0.2)
    parser.add_argument('--crash-cmd', default=None)
    parser.add_argument('--settle-seconds', type=float, default=180)
    given = parser.parse_args()
    given.kill_backends = False
    return given


def main():
    given = options()
    folder = tempfile.mkdtemp(prefix='storm.')
    calm, end, queue = multiprocessing.Event(), multiprocessing.Event(), multiprocessing.Queue()
    prepare(given.dsn)
    until = time.monotonic() + given.seconds
    writers = [Writer(n, given, RUN, until, folder) for n in range(given.writers)]
    consumers = [Consumer(n, given, kind, size, calm, end, queue) for kind, size in SUBSCRIPTIONS for n in range(CONSUMERS[size])]
    watcher = Watcher(given, calm, end, queue)
    processes = [*consumers, watcher]
    for process in [*writers, *processes]:
        process.start()
    if given.crash_cmd:
        time.sleep(given.seconds / 2)
        os.system(given.crash_cmd)
    for writer in writers:
        writer.join()
    calm.set()
    faults = []
    if not wait_for(given.dsn, "SELECT event_store.flush(timeout => '5s')", given.settle_seconds):
        faults.append('what is staged does not become durable')
    done = ('SELECT NOT EXISTS (SELECT FROM event_store.parked_events) AND bool_and(position >= (SELECT max(global_position) FROM event_store.domain_events) '
            "AND state = 'idle') FROM event_store.subscription_status")
    if not wait_for(given.dsn, done, given.settle_seconds):
        faults.append('the consumers do not come to the end')
    end.set()
    for process in processes:
        process.join(20)
    while not queue.empty():
        faults.append(queue.get())
    check(given.dsn, faults)
    print(f'{"resizes":>30} {watcher.resized.value:8}')
    shutil.rmtree(folder)
    for fault in faults[:10]:
        print('VIOLATION', fault)
    print(f'seed {given.seed}')
    sys.exit(1 if faults else 0)


if __name__ == '__main__':
    multiprocessing.set_start_method('fork')
    main()
