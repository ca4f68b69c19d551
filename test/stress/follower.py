"""A consumer of the feed in the stress run.

It goes on from the last position it got, as any consumer does.  Positions must
rise; and what it got must be, as verify.py finds, all that the log holds up to
there: no event may appear behind it later.
"""
import json
import multiprocessing
import os
import random
import time
import traceback

import psycopg2

FOLLOWER_NAME = 'stress follower '
LEVELS = ['READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE']


class Follower(multiprocessing.Process):
    def __init__(self, number, given, run, until, folder):
        super().__init__(name=f'follower {number}')
        self.number = number
        self.given = given
        self.run_name = run
        self.until = until
        self.folder = folder
        self.start_at = 0
        self.position = 0
        self.got = []
        self.violations = []
        self.incarnation = None

    def run(self):
        self.rng = random.Random(self.given.seed * 1000 + 700 + self.number)
        line = {}
        try:
            self.connect()
            self.start_at = self.rows('SELECT event_store.safe_position()')[0][0]
            self.position = self.start_at
            while time.monotonic() < self.until:
                self.follow()
        except Exception:
            line['broken'] = traceback.format_exc()
            raise
        finally:
            line.update(follower=self.number, start=self.start_at, position=self.position,
                        got=self.got, violations=self.violations)
            path = os.path.join(self.folder, f'follower-{self.number}.jsonl')
            with open(path, 'w') as file:
                file.write(json.dumps(line) + '\n')

    def connect(self):
        deadline = time.monotonic() + 120
        while True:
            try:
                self.connection = psycopg2.connect(
                    self.given.dsn, application_name=f'{FOLLOWER_NAME}{self.number}')
                self.connection.autocommit = True
                self.cursor = self.connection.cursor()
                self.incarnation = self.rows(
                    "SELECT backend_start::text FROM pg_stat_activity"
                    " WHERE backend_type = 'checkpointer'")[0][0]
                return
            except (psycopg2.Error, IndexError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def rows(self, sql, *arguments):
        self.cursor.execute(sql, arguments)
        return self.cursor.fetchall() if self.cursor.description else []

    def follow(self):
        try:
            if self.rng.random() < 0.5:
                self.rows("SELECT event_store.wait_for_events(%s, '200ms')", self.position)
            else:
                time.sleep(0.01)
            self.rows(f'BEGIN ISOLATION LEVEL {self.rng.choice(LEVELS)}')
            for _ in range(self.rng.randrange(1, 4)):
                self.read(self.rng.choice([1, 7, 100, 1000]))
            self.rows('COMMIT')
        except psycopg2.Error as error:
            lost = self.connection.closed or error.pgcode in ('57P01', '57P02', '57P03', None)
            if not (lost and self.given.crash_cmd):
                self.violations.append(f'follower: {error.pgcode} {error}')
            self.connection.close()
            self.connect()

    def read(self, count):
        for position, aggregate_type, token in self.rows(
                'SELECT global_position, aggregate_type, correlation_id'
                ' FROM event_store.read_events(%s, %s)', self.position, count):
            if position <= self.position:
                self.violations.append(
                    f'the feed delivers {position} after {self.position}')
            self.position = position
            if aggregate_type == self.run_name:
                self.got.append((position, token, self.incarnation))
