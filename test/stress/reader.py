"""A reader of the stress run: what it loads must be whole at every moment.

Of each aggregate a load returns 1..n, every sequence once, durable events first
and staged ones after them, at every isolation level and while events move from
staging to the log.  What a later statement loads is never less, and within a
REPEATABLE READ transaction it is the same.
"""
import json
import multiprocessing
import os
import random
import time
import traceback

import psycopg2

READER_NAME = 'stress reader '
LEVELS = ['READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE']
AT_THE_END = 40

WHOLE = """
SELECT count(*), count(DISTINCT sequence), coalesce(min(sequence), 1), coalesce(max(sequence), 0),
       coalesce(max(sequence) FILTER (WHERE global_position IS NOT NULL), 0),
       coalesce(min(sequence) FILTER (WHERE global_position IS NULL), max(sequence) + 1, 1),
       coalesce(bool_and(before IS NULL OR before < sequence), true),
       coalesce(bool_and(earlier IS NULL OR global_position IS NULL
                         OR earlier < global_position), true)
  FROM (SELECT sequence, global_position, lag(sequence) OVER () AS before,
               lag(global_position) OVER (ORDER BY sequence) AS earlier
          FROM event_store.load_events(%s, %s)) AS e"""
ENDING = """
SELECT array_agg(sequence)
  FROM event_store.load_events(%s, %s, max_count => %s, backward => true)"""


class Reader(multiprocessing.Process):
    def __init__(self, number, given, run, until, folder):
        super().__init__(name=f'reader {number}')
        self.number = number
        self.given = given
        self.run_name = run
        self.until = until
        self.folder = folder
        self.loads = 0
        self.refused = 0
        self.with_staged = 0
        self.violations = []
        self.seen = {}
        self.incarnation = None

    def run(self):
        self.rng = random.Random(self.given.seed * 1000 + 500 + self.number)
        path = os.path.join(self.folder, f'reader-{self.number}.jsonl')
        line = {}
        try:
            self.connect()
            while time.monotonic() < self.until:
                self.transaction()
                time.sleep(0.02)
        except Exception:
            line['broken'] = traceback.format_exc()
            raise
        finally:
            line.update(reader=self.number, loads=self.loads, refused=self.refused,
                        with_staged=self.with_staged, violations=self.violations)
            with open(path, 'w') as file:
                file.write(json.dumps(line) + '\n')

    def connect(self):
        deadline = time.monotonic() + 120
        while True:
            try:
                self.connection = psycopg2.connect(
                    self.given.dsn, application_name=f'{READER_NAME}{self.number}')
                self.connection.autocommit = True
                self.cursor = self.connection.cursor()
                incarnation = self.rows("SELECT backend_start FROM pg_stat_activity"
                                        " WHERE backend_type = 'checkpointer'")[0]
                if incarnation != self.incarnation:
                    # a crash takes the tails that were staged
                    self.seen = {}
                self.incarnation = incarnation
                return
            except (psycopg2.Error, IndexError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def rows(self, sql, *arguments):
        self.cursor.execute(sql, arguments)
        return self.cursor.fetchall() if self.cursor.description else []

    def transaction(self):
        level = self.rng.choice(LEVELS)
        try:
            self.rows(f'BEGIN ISOLATION LEVEL {level}')
            seen = {}
            for _ in range(self.rng.randrange(1, 2 * self.given.aggregates)):
                aggregate = f'a-{self.rng.randrange(self.given.aggregates)}'
                count = self.load(aggregate)
                self.compare(aggregate, count, level, seen)
            self.rows('COMMIT')
            for aggregate, count in seen.items():
                self.seen[aggregate] = max(count, self.seen.get(aggregate, 0))
        except psycopg2.Error as error:
            self.failed(level, error)

    def failed(self, level, error):
        if self.connection.closed or error.pgcode in ('57P01', '57P02', '57P03', None):
            if not self.given.crash_cmd:
                self.violations.append(f'reader lost its connection: {error}')
            self.connection.close()
            self.connect()
            return
        if error.pgcode == '40001' and level != 'READ COMMITTED':
            self.refused += 1
        else:
            self.violations.append(f'reader under {level}: {error.pgcode} {error}')
        self.rows('ROLLBACK')

    def load(self, aggregate):
        """Loads an aggregate, whole or its end; returns how many events it has."""
        self.loads += 1
        dice = self.rng.random()
        if dice < 0.3:
            sequences = self.rows(ENDING, self.run_name, aggregate, AT_THE_END)[0][0] or []
            last = sequences[0] if sequences else 0
            if sequences != list(range(last, max(last - AT_THE_END, 0), -1)):
                self.violations.append(f'the end of {aggregate} is {sequences}')
            return last
        if dice < 0.5:
            return self.rows('SELECT event_store.aggregate_sequence(%s, %s)',
                             self.run_name, aggregate)[0][0]
        row = self.rows(WHOLE, self.run_name, aggregate)[0]
        count, distinct, first, last, durable, staged, ordered, rising = row
        if staged <= last:
            self.with_staged += 1
        if not (count == distinct == last and first == 1 and staged == durable + 1
                and ordered and rising):
            self.violations.append(
                f'{aggregate} is not whole: count {count}, distinct {distinct}, {first}..{last},'
                f' durable to {durable}, staged from {staged}, in order {ordered},'
                f' positions rise {rising}')
        return last

    def compare(self, aggregate, count, level, seen):
        before = seen.get(aggregate)
        if level == 'READ COMMITTED' or before is None:
            if count < max(before or 0, self.seen.get(aggregate, 0)):
                self.violations.append(f'{aggregate} shrank under {level}: {count} after'
                                       f' {before}, {self.seen.get(aggregate)}')
        elif count != before:
            self.violations.append(f'{aggregate} under {level} was {before} and then {count}')
        seen[aggregate] = count
