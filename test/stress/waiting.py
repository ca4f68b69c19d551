#!/usr/bin/env python3
"""Many wait, and nobody waits in vain.

Waiters of all kinds (wait_for_events, next_events with a timeout, the procedure
wait_for_subscriptions, wait_for_subscription) beside writers that commit, roll back and
pause, so that the one that looks for all falls asleep between; some waiters are cancelled and
terminated, and mostly it is that one.  Every call has a timeout far longer than
anything here takes: one that comes back with something after that time, or finds what had been
there all the time, was not woken, and is a violation.
"""
import argparse
import collections
import random
import sys
import threading
import time
import traceback

import psycopg2
import psycopg2.errors
import psycopg2.extensions

TYPES = 8
# What is there is found much earlier than this, in seconds, however busy the machine.
TIMEOUT = 60
BOUND = 30
GONE = (psycopg2.errors.QueryCanceled, psycopg2.errors.AdminShutdown, psycopg2.OperationalError,
        psycopg2.InterfaceError)


class Run:
    def __init__(self, given):
        self.given = given
        self.over = threading.Event()
        self.violations = []
        self.counts = collections.Counter()
        self.lock = threading.Lock()

    def connect(self, name):
        connection = psycopg2.connect(self.given.dsn, application_name=name)
        connection.autocommit = True
        return connection

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def violation(self, text):
        with self.lock:
            self.violations.append(text)

    def ask(self, cursor, sql, *values):
        cursor.execute(sql, values)
        return cursor.fetchall() if cursor.description else []


class Waiter(threading.Thread):
    """One that connects again whenever it is thrown out."""

    def __init__(self, run, number):
        super().__init__(name=f'waiter {number}')
        self.run_of = run
        self.number = number
        self.finished = False

    def run(self):
        while not self.finished:
            try:
                connection = self.run_of.connect(f'waiter {self.number}')
                cursor = connection.cursor()
                self.begin(cursor)
                while not self.finished:
                    self.turn(cursor)
                connection.close()
            except GONE:
                self.run_of.count('thrown out')
            except Exception:
                self.run_of.violation(traceback.format_exc())
                return

    def timed(self, cursor, sql, *values):
        start = time.monotonic()
        rows = self.run_of.ask(cursor, sql, *values)
        took = time.monotonic() - start
        if took > BOUND:
            self.run_of.violation(f'{self.name} waited {took:.1f} s: {sql} {values}: {rows}')
        self.run_of.count(type(self).__name__)
        return rows

    def begin(self, cursor):
        pass


class Follower(Waiter):
    """wait_for_events: until the position of the last event."""
    position = 0

    def turn(self, cursor):
        position = self.timed(cursor, "SELECT event_store.wait_for_events(%s, %s)", self.position,
                              f'{TIMEOUT}s')[0][0]
        if position <= self.position:
            self.run_of.violation(f'{self.name} was given {position} after {self.position}')
        self.position = position
        self.finished = position >= self.run_of.last


class Consumer(Waiter):
    """next_events with a timeout, of a subscription that others have as well; until all have
    been handled, which whoever handles the last one says."""

    def turn(self, cursor):
        kind = self.number % TYPES
        written = self.run_of.written.is_set()
        got = self.run_of.ask(cursor, f"""
            WITH e AS (INSERT INTO effects SELECT 'busy_{kind}', global_position
                         FROM event_store.next_events('busy_{kind}', 10, '5s') RETURNING position)
            SELECT max(position) FROM e""")[0][0]
        self.run_of.count('Consumer')
        if got is None:
            missed = self.run_of.ask(cursor, """
                SELECT count(*) FROM event_store.subscription_status
                 WHERE subscription_name = %s AND lag > interval '4s' AND state = 'idle'""", f'busy_{kind}')[0][0]
            if missed:
                self.run_of.violation(f'{self.name} was given nothing for 5 s while something was there')
        self.finished = written and got is None


class Watcher(Waiter):
    """The procedure, and then what it has found; alone in its subscription, so that what
    it is told is true."""

    def begin(self, cursor):
        self.name_of = f'own_{self.number}'

    def turn(self, cursor):
        ready = self.timed(cursor, f"CALL event_store.wait_for_subscriptions('{{{self.name_of},idle}}', '{TIMEOUT}s')")[0][0]
        if ready != [self.name_of]:
            self.run_of.violation(f'{self.name} was told {ready}')
        got = self.run_of.ask(cursor, f"""
            WITH e AS (INSERT INTO effects SELECT '{self.name_of}', global_position
                         FROM event_store.next_events('{self.name_of}', 20) RETURNING position)
            SELECT max(position) FROM e""")[0][0]
        if got is None and not self.run_of.over.is_set():
            self.run_of.count('told, and thrown out in between')
        self.finished = got is not None and got >= self.run_of.last_of_type(self.number % TYPES)


class Reader(Waiter):
    """Reads what it wrote: waits for those who handle it."""

    def turn(self, cursor):
        kind = self.number % TYPES
        position = self.run_of.ask(cursor, f"""
            SELECT last_position FROM event_store.append_event('Type{kind}', 'r-{self.number}', NULL, 'E')""")[0][0]
        if not self.timed(cursor, "SELECT event_store.wait_for_subscription(%s, %s, %s)", f'busy_{kind}',
                          position, f'{TIMEOUT}s')[0][0]:
            self.run_of.violation(f'{self.name} was not told')
        if not self.run_of.ask(cursor, "SELECT count(*) FROM effects WHERE name = %s AND position = %s",
                               f'busy_{kind}', position)[0][0]:
            self.run_of.violation(f'{self.name} was told before {position} was handled')
        self.finished = self.run_of.writers_done.is_set()


def write(run, number):
    """Appends, now in a burst, now one by one; one in five is rolled back."""
    rng = random.Random(run.given.seed * 100 + number)
    connection = run.connect(f'writer {number}')
    connection.autocommit = False
    cursor = connection.cursor()
    until = time.monotonic() + run.given.seconds
    while time.monotonic() < until:
        for n in range(rng.choice([1, 1, 1, 20])):
            for _ in range(rng.choice([1, 1, 3])):
                cursor.execute("SELECT event_store.append_event(%s, %s, NULL, 'E')",
                               (f'Type{rng.randrange(TYPES)}', f'w-{number}-{rng.randrange(50)}'))
            if rng.random() < 0.2:
                connection.rollback()
            else:
                connection.commit()
        time.sleep(rng.choice([0, 0, 0.01, 0.05, 0.3]))
    connection.close()


def throw_out(run):
    """Cancels and terminates waiters."""
    rng = random.Random(run.given.seed)
    connection = run.connect('thrower')
    cursor = connection.cursor()
    while not run.writers_done.is_set():
        run.ask(cursor, f"""
            SELECT pg_{rng.choice(['cancel', 'terminate'])}_backend(pid) FROM pg_stat_activity
             WHERE application_name LIKE 'waiter %%' AND wait_event_type = 'Extension'
             ORDER BY random() LIMIT %s""", rng.choice([1, 3]))
        time.sleep(rng.choice([0.02, 0.1, 0.3]))
    connection.close()


def set_up(run):
    connection = run.connect('set up')
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE IF NOT EXISTS effects (name text, position bigint, PRIMARY KEY (name, position))")
    cursor.execute("SELECT event_store.create_subscription('idle', '{Nothing}')")
    for kind in range(TYPES):
        cursor.execute("SELECT event_store.create_subscription(%s, ARRAY[%s], members => 2)",
                       (f'busy_{kind}', f'Type{kind}'))
    for number in range(run.given.waiters):
        cursor.execute("SELECT event_store.create_subscription(%s, ARRAY[%s])",
                       (f'own_{number}', f'Type{number % TYPES}'))
    connection.close()


def check(run):
    connection = run.connect('check')
    cursor = connection.cursor()
    for name, missing in run.ask(cursor, """
            SELECT n.name, count(*) FROM (SELECT DISTINCT name FROM effects) n
              JOIN event_store.domain_events d
                ON d.aggregate_type = (SELECT aggregate_types[1] FROM event_store.subscriptions
                                        WHERE subscription_name = n.name)
              LEFT JOIN effects e ON e.name = n.name AND e.position = d.global_position
             WHERE e.name IS NULL GROUP BY n.name"""):
        run.violation(f'{missing} events have no effect for {name}')
    connection.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--dsn', required=True)
    parser.add_argument('--waiters', type=int, default=100)
    parser.add_argument('--writers', type=int, default=6)
    parser.add_argument('--seconds', type=float, default=10)
    parser.add_argument('--seed', type=int, default=random.randrange(10 ** 6))
    run = Run(parser.parse_args())
    run.written = threading.Event()
    run.writers_done = threading.Event()
    run.last = 2 ** 62
    lasts = {}
    run.last_of_type = lambda kind: lasts.get(kind, 2 ** 62)
    print(f'seed {run.given.seed}', flush=True)
    set_up(run)

    kinds = [Follower, Consumer, Watcher, Consumer, Reader]
    waiters = [kinds[n % len(kinds)](run, n) for n in range(run.given.waiters)]
    readers = [w for w in waiters if isinstance(w, Reader)]
    writers = [threading.Thread(target=write, args=(run, n)) for n in range(run.given.writers)]
    thrower = threading.Thread(target=throw_out, args=(run,))
    for thread in waiters + writers + [thrower]:
        thread.start()
    for thread in writers:
        thread.join()
    run.writers_done.set()
    for thread in readers + [thrower]:
        thread.join(3 * TIMEOUT)

    # the last events of each type, one after the other, so that each waits for its own
    connection = run.connect('last')
    cursor = connection.cursor()
    for kind in range(TYPES):
        time.sleep(0.1)
        run.ask(cursor, f"SELECT event_store.append_event('Type{kind}', 'last but one', NULL, 'E')")
    connection.autocommit = False
    for kind in range(TYPES):
        time.sleep(0.1)
        lasts[kind] = run.ask(cursor, f"SELECT last_position FROM event_store.append_event('Type{kind}', 'last', NULL, 'E')")[0][0]
        # who waits for it must know it before it can be seen
        if kind == TYPES - 1:
            run.last = lasts[kind]
        connection.commit()
    run.written.set()
    connection.close()
    for thread in waiters:
        thread.join(3 * TIMEOUT)
        if thread.is_alive():
            run.violation(f'{thread.name}, a {type(thread).__name__}, did not end')
    run.over.set()
    check(run)

    for what, count in sorted(run.counts.items()):
        print(f'  {what:40} {count}')
    for violation in run.violations[:5]:
        print(f'VIOLATION {violation}')
    sys.stdout.flush()
    # a thread that hangs must not hold up the end
    import os
    os._exit(1 if run.violations else 0)


if __name__ == '__main__':
    main()
