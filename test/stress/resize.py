#!/usr/bin/python3
"""A subscription that is resized under load: resize.py [--consumers N] [--writers N] [--crash COMMAND]

Writers append (durable, staged, batches, rollbacks), consumers take what comes, in their transactions or by
lease, make its effect and commit, roll back, come too late, or set aside what they cannot handle; meanwhile the subscription gets 6, 3, 1
and 4 members, and the server crashes in the midst of it.  What must hold:

- every event has exactly one effect row (a primary key sees to the "most one");
- within a partition no effect comes before that of the event ahead of it (a trigger sees to that);
- at the end nothing is left, neither behind a member nor set aside.
"""
import argparse
import random
import subprocess
import sys
import threading
import time

import psycopg2

SIZES = [6, 3, 1, 4]
CONSUME = ("INSERT INTO resize_effects SELECT aggregate_id, sequence FROM event_store.next_events('resized', %s) "
           "ORDER BY global_position RETURNING 1")
SETUP = """
    CREATE TABLE IF NOT EXISTS resize_effects (id text, sequence bigint, PRIMARY KEY (id, sequence));
    CREATE OR REPLACE FUNCTION in_order() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.sequence > 1 AND NOT EXISTS (SELECT FROM resize_effects e WHERE e.id = NEW.id AND e.sequence = NEW.sequence - 1) THEN
            RAISE 'event % of % came before the one ahead of it', NEW.sequence, NEW.id USING ERRCODE = 'RS001';
        END IF;
        RETURN NEW;
    END $$;
    CREATE OR REPLACE TRIGGER in_order BEFORE INSERT ON resize_effects FOR EACH ROW EXECUTE FUNCTION in_order();
    SELECT event_store.drop_subscription('resized');
    SELECT event_store.create_subscription('resized', '{Resized}', members => 4, max_attempts => 0);
"""


class Client(threading.Thread):
    """One that goes on until it is told to stop, over crashes of the server."""

    def __init__(self, run, number):
        super().__init__(daemon=True)
        self.run_, self.rnd = run, random.Random(number)
        self.connection = None

    def run(self):
        while not self.run_.over:
            try:
                if self.connection is None:
                    self.connection = psycopg2.connect(self.run_.dsn, application_name='resize client')
                self.turn()
            except psycopg2.Error as error:
                if error.pgcode in ('RS001', '23505') or (error.pgcode or '').startswith('XX'):
                    self.run_.violations.append(str(error))
                self.give_up()
                time.sleep(0.02)
        self.give_up()

    def give_up(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def do(self, sql, arguments=()):
        with self.connection.cursor() as cursor:
            cursor.execute(sql, arguments)
            return cursor.fetchall() if cursor.description else []


class Writer(Client):
    def turn(self):
        ids = [f'r-{self.rnd.randrange(40)}' for _ in range(self.rnd.randrange(1, 6))]
        self.do("SELECT count(*) FROM event_store.append_batch(%s, %s, %s, NULL, durability => %s)",
                (['Resized'] * len(ids), ids, ['E'] * len(ids), self.rnd.choice(['durable', 'durable', 'staged'])))
        if self.rnd.random() < 0.1:
            self.connection.rollback()
        else:
            self.connection.commit()
        # a load, not as much as the machine can: what is set aside is made up for one by one
        time.sleep(0.01)


class Consumer(Client):
    def turn(self):
        kind = self.rnd.random()
        if kind > 0.8:
            self.claim()
            return
        rows = self.do(CONSUME, (self.rnd.choice([1, 5, 20, 100]),))
        if kind < 0.1:
            self.connection.rollback()
        elif kind < 0.15 and rows:
            self.connection.rollback()
            self.set_aside()
        else:
            self.connection.commit()
        if not rows:
            time.sleep(0.005)

    def claim(self):
        """The acknowledgement first: whose lease is lost has no effect."""
        rows = self.do("SELECT member, lease, aggregate_id, sequence FROM event_store.claim_events('resized', 'c', %s, lease_time => '300ms') "
                       "ORDER BY global_position", (self.rnd.choice([1, 5, 20]),))
        self.connection.commit()
        if not rows:
            return
        time.sleep(self.rnd.choice([0, 0, 0.01, 0.4]))
        self.do("SELECT event_store.ack_events('resized', %s, %s)", rows[0][:2])
        self.do("INSERT INTO resize_effects SELECT * FROM unnest(%s::text[], %s::bigint[])", ([r[2] for r in rows], [r[3] for r in rows]))
        self.connection.commit()

    def set_aside(self):
        """An event that is not handled yet, or is: that is for fail_events to say."""
        self.do("SELECT event_store.fail_events('resized', e.global_position, 'it failed', 'retry') "
                "FROM (SELECT global_position FROM event_store.domain_events WHERE aggregate_type = 'Resized' "
                "ORDER BY global_position DESC OFFSET %s LIMIT 1) e", (self.rnd.randrange(50),))
        self.connection.commit()


class Run:
    def __init__(self, options):
        self.dsn, self.over, self.violations = options.dsn, False, []
        self.options = options

    def patiently(self, sql):
        """The one row of a statement, over crashes of the server."""
        deadline = time.time() + 120
        while True:
            try:
                connection = psycopg2.connect(self.dsn)
                connection.autocommit = True
                with connection.cursor() as cursor:
                    cursor.execute(sql)
                    row = cursor.fetchone() if cursor.description else None
                connection.close()
                return row
            except psycopg2.Error as error:
                if time.time() > deadline or (error.pgcode or '').startswith('XX'):
                    raise
                time.sleep(0.02)

    def play(self):
        self.patiently(SETUP)
        writers = [Writer(self, n) for n in range(self.options.writers)]
        consumers = [Consumer(self, 1000 + n) for n in range(self.options.consumers)]
        for client in writers + consumers:
            client.start()
        for number, size in enumerate(SIZES):
            time.sleep(self.options.seconds / len(SIZES))
            if self.options.crash and number % 2 == 0:
                subprocess.run(self.options.crash, check=False)
            # 55006 until the members are beyond the last resize: tried again
            self.patiently(f"SELECT event_store.resize_subscription('resized', {size})")
        self.over = True
        for client in writers + consumers:
            client.join()
        self.over = False
        last = [Consumer(self, 2000 + n) for n in range(4)]
        for client in last:
            client.start()
        self.await_end()
        self.over = True
        for client in last:
            client.join()

    def await_end(self):
        """As long as it goes on: how much there is to do depends on how fast the writers were."""
        self.patiently('SELECT event_store.flush()')
        effects, deadline = None, 0
        while not self.violations:
            before = effects
            left, effects, parked = self.counts()
            if left == effects and parked == 0:
                return
            if effects != before:
                deadline = time.time() + self.options.settle_seconds
            elif time.time() > deadline:
                self.violations.append(f'{left} events, {effects} effects, {parked} set aside, and nothing goes on')
            time.sleep(0.1)

    def counts(self):
        return self.patiently("SELECT (SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'Resized'), "
                              "(SELECT count(*) FROM resize_effects), "
                              "(SELECT count(*) FROM event_store.parked_events WHERE subscription_name = 'resized')")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--dsn', default='')
    parser.add_argument('--consumers', type=int, default=24)
    parser.add_argument('--writers', type=int, default=6)
    parser.add_argument('--seconds', type=float, default=8)
    parser.add_argument('--settle-seconds', type=float, default=60)
    parser.add_argument('--crash')
    run = Run(parser.parse_args())
    run.play()
    print(f'  events     {run.counts()[0]}')
    for violation in run.violations[:5]:
        print('VIOLATION', violation)
    sys.exit(1 if run.violations else 0)


main()
