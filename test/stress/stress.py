#!/usr/bin/python3
"""Many clients against one store, and a ledger that must agree with it.

    stress.py --dsn 'host=/tmp/s dbname=x' [--clients 32] [--aggregates 8] ...

Every client is a process that appends in all the ways there are and writes
down, transaction by transaction, what it tried, what the server answered and
whether the commit was acknowledged (client.py).  Readers look at the same
aggregates meanwhile (reader.py), and followers at the feed (follower.py).  This process kills workers and backends,
cancels statements and crashes the server, as the options say.  In the end it
waits until nothing is staged and compares ledgers and log event by event
(verify.py).

It makes the extension and the store where they are missing, and works on
aggregates of its own, so that it can be run again on the same database.  The
status is 0 only when nothing was violated.
"""
import argparse
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True

import psycopg2

import verify
from client import CLIENT_NAME, Client
from follower import Follower
from reader import Reader


def options():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--dsn', default='')
    parser.add_argument('--clients', type=int, default=32)
    parser.add_argument('--readers', type=int, default=2)
    parser.add_argument('--followers', type=int, default=1)
    parser.add_argument('--aggregates', type=int, default=8)
    parser.add_argument('--seconds', type=float, default=60)
    parser.add_argument('--seed', type=int, default=None)
    parser.add_argument('--durability', default='mix',
                        choices=['mix', 'durable', 'staged', 'mostly staged'])
    parser.add_argument('--isolation', default='mix',
                        choices=['mix', 'read committed', 'repeatable read', 'serializable'])
    parser.add_argument('--batches', action='store_true',
                        help='append_events and append_batch too')
    parser.add_argument('--single', action='store_true',
                        help='one call a transaction: then nothing may deadlock')
    parser.add_argument('--kill-workers', action='store_true')
    parser.add_argument('--kill-backends', action='store_true')
    parser.add_argument('--cancel', action='store_true')
    parser.add_argument('--crash-cmd', default=None,
                        help='shell command that crashes the server and starts it again')
    parser.add_argument('--asynchronous', action='store_true',
                        help='synchronous_commit = off: a crash may take durable events, too')
    parser.add_argument('--settle-seconds', type=float, default=180)
    parser.add_argument('--keep', action='store_true', help='keep the ledgers')
    given = parser.parse_args()
    if given.seed is None:
        given.seed = random.SystemRandom().randrange(1 << 30)
    return given


class Operator:
    """This process: sets up, interferes, and counts what it did."""

    def __init__(self, given):
        self.given = given
        self.rng = random.Random(given.seed)
        self.done = {'workers terminated': 0, 'backends terminated': 0,
                     'statements cancelled': 0, 'crashes': 0}
        self.connection = None

    def query(self, sql, *arguments):
        cursor = self.connection.cursor()
        cursor.execute(sql, arguments)
        return cursor.fetchall() if cursor.description else []

    def connect(self):
        """Connects; waits for a server that is coming up again."""
        deadline = time.monotonic() + 120
        while True:
            try:
                self.connection = psycopg2.connect(self.given.dsn,
                                                   application_name='stress operator')
                self.connection.autocommit = True
                return
            except psycopg2.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def prepare(self):
        self.connect()
        self.query('CREATE EXTENSION IF NOT EXISTS event_store')
        self.query('SELECT event_store.create_store()')
        if self.query("SELECT event_store.is_available()") != [(True,)]:
            raise SystemExit('there is no store to be tested')

    def terminate_worker(self):
        rows = self.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                          " WHERE backend_type IN ('event_store worker', 'event_store committer')"
                          " AND datname = current_database()")
        self.done['workers terminated'] += len(rows)

    def on_random_client(self, function):
        return len(self.query(
            f'SELECT {function}(pid) FROM (SELECT pid FROM pg_stat_activity'
            f" WHERE application_name LIKE '{CLIENT_NAME}%%'"
            " AND datname = current_database()"
            ' ORDER BY random() LIMIT 1) AS victim'))

    def crash(self):
        self.done['crashes'] += 1
        subprocess.run(self.given.crash_cmd, shell=True, check=True,
                       stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        try:
            while time.monotonic() < deadline:
                self.query('SELECT 1')
                time.sleep(0.05)
            raise SystemExit('the crash command did not crash the server')
        except psycopg2.Error:
            self.connect()

    def interfere(self, until):
        """Does, for as long as the clients run, what the options ask for."""
        started = time.monotonic()
        crash_at = (started + until) / 2 if self.given.crash_cmd else None
        next_worker = started
        while time.monotonic() < until:
            now = time.monotonic()
            if crash_at is not None and now >= crash_at:
                crash_at = None
                self.crash()
                continue
            if self.given.kill_workers and now >= next_worker:
                self.terminate_worker()
                next_worker = now + self.rng.uniform(0.2, 2.0)
            if self.given.kill_backends and self.rng.random() < 0.1:
                self.done['backends terminated'] += self.on_random_client('pg_terminate_backend')
            if self.given.cancel and self.rng.random() < 0.5:
                self.done['statements cancelled'] += self.on_random_client('pg_cancel_backend')
            time.sleep(0.05)

    def settle(self, violations):
        """Waits until nothing is staged."""
        deadline = time.monotonic() + self.given.settle_seconds
        started = time.monotonic()
        while not self.query("SELECT event_store.flush('10s')")[0][0]:
            if time.monotonic() > deadline:
                violations.append('flush() does not become true: %s' % self.query(
                    'SELECT * FROM event_store.staging_status'))
                break
        return time.monotonic() - started


def wait_for(processes, seconds, violations):
    """Ends what does not end by itself, which is a violation."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.1, deadline - time.monotonic()))
    for process in processes:
        if process.is_alive():
            violations.append(f'{process.name} hangs')
            process.terminate()
            process.join()
        elif process.exitcode != 0:
            violations.append(f'{process.name} ended with {process.exitcode}')


def print_table(title, rows):
    print(title)
    for name, value in rows:
        print(f'  {name:<34} {value:>12}')


def main():
    given = options()
    folder = tempfile.mkdtemp(prefix='event_store-stress.')
    operator = Operator(given)
    operator.prepare()
    run = 'Stress-%x-%d' % (int(time.time() * 1000), os.getpid())
    print(f'seed {given.seed}, aggregate type {run}, ledgers in {folder}', flush=True)

    violations = []
    began = time.monotonic()
    until = began + given.seconds
    epoch = operator.query('SELECT staging_epoch FROM event_store.store_state')[0][0]
    processes = [Client(number, given, run, began, until, folder)
                 for number in range(given.clients)]
    processes += [Reader(number, given, run, until, folder)
                  for number in range(given.readers)]
    processes += [Follower(number, given, run, until, folder)
                  for number in range(given.followers)]
    for process in processes:
        process.start()
    try:
        operator.interfere(until)
        wait_for(processes, min(90, given.settle_seconds), violations)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
    settled_in = operator.settle(violations)

    ledgers = verify.read_ledgers(folder)
    verifier = verify.Verifier(operator.query, run, ledgers, violations,
                               crashed=given.crash_cmd is not None,
                               asynchronous=given.asynchronous, epoch=epoch)
    counts = verifier.verify()
    print_table('what was done', sorted(operator.done.items()))
    print_table('what came of it', counts + [('seconds until all was durable',
                                              '%.1f' % settled_in)])
    print_table('errors by SQLSTATE', sorted(verifier.errors.items()))
    for violation in violations[:25]:
        print('VIOLATION', violation)
    if len(violations) > 25:
        print(f'VIOLATION and {len(violations) - 25} more')
    print('passed' if not violations else f'FAILED: {len(violations)} violations')
    if violations or given.keep:
        print(f'the ledgers stay in {folder}')
        with open(os.path.join(folder, 'violations.json'), 'w') as file:
            json.dump(violations, file, indent=1)
    else:
        shutil.rmtree(folder)
    return 1 if violations else 0


if __name__ == '__main__':
    multiprocessing.set_start_method('fork')
    sys.exit(main())
