"""A client of a storm: a process that does its turns until it is told to end, whatever happens to it."""
import multiprocessing
import random
import time
import traceback

import psycopg2

# of a client that is cancelled or terminated, of a server that crashes
ENDINGS = {'57014', '57P01', '57P02', '57P03', '08006', None}


class StormClient(multiprocessing.Process):
    """What it does is turn(); errors other than those that are expected are faults."""

    application = ''                    # application_name, by which it is found to be terminated
    expected = set()                    # of somebody who was quicker

    def __init__(self, name, number, given, end, faults):
        super().__init__(name=name, daemon=True)
        self.number, self.given, self.end_of_it, self.faults = number, given, end, faults
        self.connection = None

    def run(self):
        self.rng = random.Random(self.given.seed * 1000 + self.number)
        while not self.end_of_it.is_set():
            try:
                self.connect()
                self.turn()
            except psycopg2.Error as error:
                if error.pgcode not in ENDINGS | self.expected:
                    self.faults.put(f'{self.name}: {error.pgcode} {error}')
                self.roll_back()
            except Exception:
                self.faults.put(traceback.format_exc())
                return

    def connect(self):
        if self.connection is None or self.connection.closed:
            try:
                self.connection = psycopg2.connect(self.given.dsn, application_name=f'{self.application} {self.name}')
                self.connection.autocommit = True
            except psycopg2.Error:
                time.sleep(0.05)
                raise

    def roll_back(self):
        try:
            if self.connection is not None:
                self.rows('ROLLBACK')
        except psycopg2.Error:
            self.connection.close()

    def rows(self, sql, *values):
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall() if cursor.description else []


def retried(given, sql, *values, expected=()):
    """Runs a statement of the main program until it has gone through: the server may be down."""
    while True:
        try:
            connection = psycopg2.connect(given.dsn, application_name=f'{given.application} main')
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql, values or None)
                return cursor.fetchall() if cursor.description else []
        except psycopg2.Error as error:
            if error.pgcode not in ENDINGS.union(expected):
                raise
            time.sleep(0.1)
