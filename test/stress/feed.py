#!/usr/bin/python3
"""Writers that finish in any order, and readers that follow the feed.

    feed.py --dsn 'host=/tmp/s dbname=x' [--writers 32] [--seconds 60] ...

Writers append in every way there is, in transactions that stay open for a
random while, are rolled back as a whole or in part, or lose their backend.
Readers follow the tail, two of everything and two that share the aggregates as
members 0 and 1, in READ COMMITTED and REPEATABLE READ.  A bystander keeps a
transaction with an id and a snapshot open all the while.  In the end each
reader must have got, in strictly rising order, exactly what the log holds.
With --standby every other reader reads there.

The status is 0 only when that is so.
"""
import argparse
import copy
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback

sys.dont_write_bytecode = True

import psycopg2

from follower import Follower
from stress import Operator, print_table, wait_for
from verify import read_ledgers

WRITER_NAME = 'feed writer '
# what may end a transaction: other writers, a terminated backend
ENDINGS = {'40P01', '57P01'}
CRASH_ENDINGS = {'57P02', '57P03', None}


def options():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--dsn', default='')
    parser.add_argument('--writers', type=int, default=32)
    parser.add_argument('--seconds', type=float, default=60)
    parser.add_argument('--seed', type=int, default=None)
    parser.add_argument('--staged', type=float, default=0.2, help='share of staged appends')
    parser.add_argument('--kill-backends', action='store_true')
    parser.add_argument('--kill-workers', action='store_true')
    parser.add_argument('--crash-cmd', default=None,
                        help='shell command that crashes the server and starts it again')
    parser.add_argument('--standby', default=None, help='dsn of a hot standby')
    parser.add_argument('--settle-seconds', type=float, default=120)
    given = parser.parse_args()
    given.cancel = False
    if given.seed is None:
        given.seed = random.SystemRandom().randrange(1 << 30)
    return given


class Writer(multiprocessing.Process):
    def __init__(self, number, given, run, until, folder):
        super().__init__(name=f'writer {number}')
        self.number = number
        self.given = given
        self.run_name = run
        self.until = until
        self.folder = folder
        self.line = {'committed': 0, 'rolled back': 0, 'ended': 0, 'violations': []}
        self.tokens = 0
        self.connection = None

    def run(self):
        self.rng = random.Random(self.given.seed * 1000 + self.number)
        try:
            while time.monotonic() < self.until:
                self.transaction()
        except Exception:
            self.line['violations'].append(traceback.format_exc())
        path = os.path.join(self.folder, f'writer-{self.number}.jsonl')
        with open(path, 'w') as file:
            file.write(json.dumps(self.line) + '\n')

    def connect(self):
        while True:
            try:
                self.connection = psycopg2.connect(
                    self.given.dsn, application_name=f'{WRITER_NAME}{self.number}')
                self.connection.autocommit = True
                self.cursor = self.connection.cursor()
                self.cursor.execute("SET deadlock_timeout = '50ms'")
                return
            except psycopg2.Error:
                if not self.given.crash_cmd or time.monotonic() > self.until + 60:
                    raise
                time.sleep(0.05)

    def transaction(self):
        try:
            if self.connection is None or self.connection.closed:
                self.connect()
            if self.rng.random() < 0.5:
                self.append()
                self.line['committed'] += 1
            else:
                self.line[self.explicit()] += 1
        except psycopg2.Error as error:
            self.line['ended'] += 1
            expected = ENDINGS | (CRASH_ENDINGS if self.given.crash_cmd else set())
            # a terminated backend may be found gone without its last words
            gone = self.given.kill_backends and error.pgcode is None and self.connection.closed
            if error.pgcode not in expected and not gone:
                self.line['violations'].append(f'writer: {error.pgcode} {error}')
            self.connection.close()

    def explicit(self):
        level = self.rng.choice(['READ COMMITTED', 'REPEATABLE READ'])
        self.cursor.execute(f'BEGIN ISOLATION LEVEL {level}')
        for _ in range(self.rng.randrange(1, 4)):
            if self.rng.random() < 0.3:
                self.cursor.execute('SAVEPOINT s')
                self.append()
                undo = self.rng.random() < 0.5
                self.cursor.execute('ROLLBACK TO s' if undo else 'RELEASE s')
            else:
                self.append()
            # open for a moment, now and then for long
            time.sleep(self.rng.choice([0, 0, 0.005, 0.02, 0.02, 0.3]) * self.rng.random())
        if self.rng.random() < 0.25:
            self.cursor.execute('ROLLBACK')
            return 'rolled back'
        self.cursor.execute('COMMIT')
        return 'committed'

    def event(self):
        self.tokens += 1
        return {'event_type': 'Happened', 'correlation_id': f'w{self.number}-{self.tokens}'}

    def aggregate(self):
        """Mostly one of its own, sometimes one that is everybody's."""
        if self.rng.random() < 0.1:
            return f'all-{self.rng.randrange(50)}'
        return f'w{self.number}-{self.rng.randrange(20)}'

    def append(self):
        durability = 'staged' if self.rng.random() < self.given.staged else 'durable'
        form = self.rng.choice(['event', 'event', 'events', 'batch'])
        if form == 'event':
            self.cursor.execute(
                "SELECT event_store.append_event(%s, %s, NULL, 'Happened', correlation_id => %s,"
                ' durability => %s)',
                (self.run_name, self.aggregate(), self.event()['correlation_id'], durability))
        elif form == 'events':
            self.cursor.execute(
                'SELECT event_store.append_events(%s, %s, NULL, %s, %s)',
                (self.run_name, self.aggregate(), json.dumps([self.event() for _ in range(3)]),
                 durability))
        else:
            events = [dict(self.event(), aggregate_type=self.run_name,
                           aggregate_id=self.aggregate())
                      for _ in range(self.rng.randrange(1, 20))]
            self.cursor.execute('SELECT event_store.append_batch(%s::jsonb, durability => %s)',
                                (json.dumps(events), durability))
        self.cursor.fetchall()


class Reader(Follower):
    """Follows the tail until, the writers gone, there is nothing left."""

    def __init__(self, number, given, run, folder, level, member, finished):
        super().__init__(number, given, run, float('inf'), folder)
        self.level = level
        self.member = member
        self.finished = finished

    def follow(self):
        last = self.finished.is_set()
        try:
            safe = self.rows("SELECT event_store.wait_for_events(%s, '1s')",
                             self.position)[0][0]
            self.rows(f'BEGIN ISOLATION LEVEL {self.level}')
            count = self.rng.choice([3, 50, 1000])
            for _ in range(self.rng.randrange(1, 4)):
                before = self.position
                # the rest up to there is another member's
                if self.read(count, safe) < count:
                    self.position = max(self.position, safe)
            self.rows('COMMIT')
        except psycopg2.Error as error:
            if not self.given.crash_cmd:
                self.violations.append(f'reader: {error.pgcode} {error}')
            self.connection.close()
            self.connect()
            return
        if self.position > before:
            return
        if last:
            self.until = 0

    def read(self, count, up_to):
        sql = ('SELECT global_position, aggregate_type, correlation_id'
               ' FROM event_store.read_events(%s, %s, up_to_position => %s')
        arguments = [self.position, count, up_to]
        if self.member is not None:
            sql += ', member => %s, members => 2'
            arguments.append(self.member)
        got = self.rows(sql + ')', *arguments)
        for position, aggregate_type, token in got:
            if position <= self.position:
                self.violations.append(f'the feed delivers {position} after {self.position}')
            self.position = position
            if aggregate_type == self.run_name:
                self.got.append((position, token, self.incarnation))
        return len(got)


class Watcher(Operator):
    """Interferes with the writers, and sees how far the feed is held back."""

    def __init__(self, given):
        super().__init__(given)
        self.done.update({'looks at the feed': 0, 'looks that found it held back': 0,
                          'most transactions in flight': 0})
        del self.done['statements cancelled']

    def on_random_client(self, function):
        return len(self.query(
            f'SELECT {function}(pid) FROM (SELECT pid FROM pg_stat_activity'
            f" WHERE application_name LIKE '{WRITER_NAME}%%'"
            ' AND datname = current_database() ORDER BY random() LIMIT 1) AS victim'))

    def query(self, sql, *arguments):
        rows = super().query(sql, *arguments)
        if 'pg_terminate_backend' in sql:
            self.look()
        return rows

    def look(self):
        """Whether an event is visible that must not be delivered yet."""
        held, in_flight = super().query(
            'SELECT f.safe_position < (SELECT max(global_position) FROM event_store.domain_events),'
            ' f.in_flight FROM event_store.feed_status f')[0]
        self.done['looks at the feed'] += 1
        self.done['looks that found it held back'] += bool(held)
        self.done['most transactions in flight'] = max(
            in_flight, self.done['most transactions in flight'])


def elsewhere(given, dsn):
    there = copy.copy(given)
    there.dsn = dsn
    return there


def wait_for_standby(given, query, violations):
    """Until it may read all that the primary has."""
    connection = psycopg2.connect(given.standby)
    connection.autocommit = True
    cursor = connection.cursor()
    deadline = time.monotonic() + 60
    while True:
        want = query('SELECT event_store.safe_position()')[0][0]
        cursor.execute('SELECT event_store.safe_position()')
        got = cursor.fetchone()[0]
        if got == want:
            break
        if time.monotonic() > deadline:
            violations.append(f'the standby may read up to {got}, the primary up to {want}')
            break
        time.sleep(0.05)
    connection.close()


def compare(query, run, lines, violations):
    """Each reader's events are those of the log, each once and in order."""
    log = query('SELECT global_position, correlation_id,'
                ' event_store.aggregate_member(aggregate_type, aggregate_id, 2)'
                ' FROM event_store.domain_events WHERE aggregate_type = %s'
                ' ORDER BY global_position', run)
    for line in lines:
        if 'follower' not in line:
            continue
        member = line['member']
        want = [(position, token) for position, token, m in log
                if position > line['start'] and member in (None, m)]
        got = [(position, token) for position, token, _ in line['got']]
        name = f"reader {line['follower']}"
        if got != want:
            missing = sorted(set(want) - set(got))
            extra = sorted(set(got) - set(want))
            violations.append(
                f'{name} got {len(got)} events, the log has {len(want)} for it; missing'
                f' {len(missing)}: {missing[:5]}; not in the log {len(extra)}: {extra[:5]}')
        if not want:
            violations.append(f'{name} had nothing to read')
    return len(log)


def main():
    given = options()
    folder = tempfile.mkdtemp(prefix='event_store-feed.')
    watcher = Watcher(given)
    watcher.prepare()
    run = 'Feed-%x-%d' % (int(time.time() * 1000), os.getpid())
    print(f'seed {given.seed}, aggregate type {run}, ledgers in {folder}', flush=True)
    violations = []
    finished = multiprocessing.Event()
    until = time.monotonic() + given.seconds
    writers = [Writer(number, given, run, until, folder) for number in range(given.writers)]
    there = elsewhere(given, given.standby) if given.standby else given
    readers = [Reader(number, there if number % 2 else given, run, folder, level, member, finished)
               for number, (level, member) in enumerate([
                   ('READ COMMITTED', None), ('REPEATABLE READ', None),
                   ('READ COMMITTED', 0), ('REPEATABLE READ', 1)])]
    for process in writers + readers:
        process.start()
    bystander = psycopg2.connect(given.dsn, application_name='feed bystander')
    bystander.cursor().execute('SELECT pg_current_xact_id(), count(*)'
                               ' FROM event_store.domain_events')
    try:
        watcher.interfere(until)
        wait_for(writers, 60, violations)
        watcher.settle(violations)
        if given.standby:
            wait_for_standby(given, watcher.query, violations)
        finished.set()
        wait_for(readers, 60, violations)
    finally:
        for process in writers + readers:
            if process.is_alive():
                process.terminate()
    bystander.close()

    lines = read_ledgers(folder)
    for line in lines:
        violations += line['violations']
        if 'broken' in line:
            violations.append(line['broken'])
        if 'follower' in line:
            line['member'] = readers[line['follower']].member
    events = compare(watcher.query, run, lines, violations)
    counts = [(f'transactions {outcome}', sum(line.get(outcome, 0) for line in lines))
              for outcome in ('committed', 'rolled back', 'ended')]
    print_table('what was done', sorted(watcher.done.items()))
    print_table('what came of it', counts + [('events in the log', events)])
    for violation in violations[:25]:
        print('VIOLATION', violation)
    print('passed' if not violations else f'FAILED: {len(violations)} violations')
    if violations:
        print(f'the ledgers stay in {folder}')
    else:
        shutil.rmtree(folder)
    return 1 if violations else 0


if __name__ == '__main__':
    multiprocessing.set_start_method('fork')
    sys.exit(main())
