#!/usr/bin/python3
"""Subscriptions against a model: subscriptions.py [--sequences N] [--length N] [--seed N]

Random sequences of what a consumer can do (fetch, commit, roll back, to a savepoint as well,
fail in the same transaction and in another one, die, retry, discard, stop and resume) on
small logs of two partitions.  After each step and at the end of each sequence must hold:

- an event has its effect once (a primary key sees to that here);
- within a partition no event is given before those ahead of it are settled;
- what is parked has had as many attempts as max_attempts says;
- a good consumer that goes on at the end gets everything that was not given up.
"""
import argparse
import random
import sys
import time

import psycopg2

LOGS = ['AABAB', 'ABA', 'AAB', 'ABBAA', 'AAAA']
MAX_ATTEMPTS = 2


class Violation(Exception):
    pass


class Run:
    """One subscription, and what is known of its events."""

    def __init__(self, dsn, name, log, first, on_failure, members):
        self.type = 'Model' + log
        self.dsn, self.name, self.log, self.first = dsn, name, log, first
        self.on_failure = on_failure
        self.consumer = psycopg2.connect(dsn)
        self.other = psycopg2.connect(dsn)
        self.other.autocommit = True
        self.done, self.given_up, self.alone = set(), set(), set()
        self.batch = []        # given in the open transaction, in order
        self.steps = []
        self.ask(f"SELECT event_store.create_subscription('{name}', '{{{self.type}}}', start_after => {first - 1}, "
                 f"members => {members}, on_failure => '{on_failure}', max_attempts => {MAX_ATTEMPTS})")

    def close(self):
        self.consumer.close()
        self.ask(f"SELECT event_store.drop_subscription('{self.name}')")
        self.other.close()

    def ask(self, sql):
        with self.other.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def do(self, sql):
        with self.consumer.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    # ---------- what a consumer does

    def fetch(self, most):
        """Takes events, each effect behind a savepoint of its own."""
        time.sleep(0.0025)     # retries are due by the clock
        rows = self.do(f"SELECT global_position FROM event_store.next_events('{self.name}', {most}) ORDER BY global_position")
        events = [row[0] - self.first for row in rows]
        self.check_order(events)
        for event in events:
            self.do(f'SAVEPOINT before_{len(self.batch)}')
            self.do(f"INSERT INTO model_effects VALUES ('{self.name}', {event})")
            self.batch.append(event)
        return events

    def check_order(self, events):
        before = set(self.batch)
        for event in events:
            if event in self.done | before | self.given_up:
                raise Violation(f'event {event} is given again')
            alone = event in self.alone
            for earlier in range(event):
                if (self.log[earlier] == self.log[event] and not alone and
                        earlier not in self.done | before | self.given_up | self.alone):
                    raise Violation(f'event {event} is given before {earlier}')
            before.add(event)

    def commit(self):
        self.consumer.commit()
        self.done |= set(self.batch)
        self.alone -= set(self.batch)
        self.batch = []

    def rollback(self):
        self.consumer.rollback()
        self.batch = []

    def fetch_and_go_back(self, most):
        """The fetch itself is rolled back, and the transaction goes on."""
        self.do('SAVEPOINT ahead')
        batch = list(self.batch)
        self.fetch(most)
        self.do('ROLLBACK TO ahead')
        self.batch = batch

    def fail_here(self, number, action):
        if not self.batch:
            return
        number = min(number, len(self.batch) - 1)
        event = self.batch[number]
        self.do(f'ROLLBACK TO before_{number}')
        result = self.do(self.failing(event, action))[0][0]
        self.batch = self.batch[:number]
        self.commit()
        self.settle(event, action, result)

    def failing(self, event, action):
        return f"SELECT event_store.fail_events('{self.name}', {event + self.first}, 'it failed', '{action}')"

    def fail_elsewhere(self, event, action):
        if event >= len(self.log):
            return
        self.rollback()
        # attempts are those of the first event of its partition that waits
        first = min((e for e, in self.parked(f"partition_key = '{self.type}/{self.log[event]}' AND state <> 'event'")), default=event)
        try:
            result = self.ask(self.failing(event, action))[0][0]
        except psycopg2.errors.ObjectNotInPrerequisiteState:
            return
        if result == 'handled':
            if event not in self.done | self.given_up:
                raise Violation(f'event {event} counts as handled')
            return
        self.settle(min(first, event) if action == 'retry' else event, action, result)

    def settle(self, event, action, result):
        if event in self.done:
            raise Violation(f'event {event} is handled, and {result}')
        if result == 'skipped':
            self.given_up.add(event)
        self.alone |= {alone for alone, in self.parked("state = 'event'")}
        if action == 'retry':
            for attempts, state in self.ask(
                    f"SELECT attempts, state FROM event_store.parked_events WHERE subscription_name = '{self.name}'"):
                if state == 'retrying' and attempts >= MAX_ATTEMPTS:
                    raise Violation(f'retrying after {attempts} attempts')

    def parked(self, condition):
        return [(row[0] - self.first,) for row in self.ask(
            f"SELECT global_position FROM event_store.parked_events WHERE subscription_name = '{self.name}' AND {condition}")]

    def die(self):
        pid = self.consumer.get_backend_pid()
        self.ask(f'SELECT pg_terminate_backend({pid}, 5000)')
        self.consumer.close()
        self.consumer = psycopg2.connect(self.dsn)
        self.batch = []

    def discard(self, partition):
        self.rollback()
        first = min((event for event, in self.parked(f"partition_key = '{self.type}/{partition}' AND state <> 'event'")), default=None)
        alone = {event for event, in self.parked(f"partition_key = '{self.type}/{partition}' AND state = 'event'")}
        count = self.ask(f"SELECT event_store.discard_parked_events('{self.name}', '{self.type}/{partition}', 'test')")[0][0]
        if count == 0:
            return
        last = self.ask(f"SELECT last_position FROM event_store.discarded_events WHERE subscription_name = '{self.name}' "
                        "ORDER BY discarded_at DESC LIMIT 1")[0][0]
        if first is not None:
            self.given_up |= {e for e in range(first, last - self.first + 1) if self.log[e] == partition} - self.done
        self.given_up |= alone
        self.alone -= alone

    def retry(self):
        self.rollback()
        self.ask(f"SELECT event_store.retry_parked_events('{self.name}')")

    def resume(self):
        self.rollback()
        self.ask(f"SELECT event_store.pause_subscription('{self.name}'), event_store.resume_subscription('{self.name}')")

    # ---------- a sequence

    def step(self, rnd):
        kind, *arguments = rnd.choice(STEPS)
        self.steps.append((kind, *arguments))
        getattr(self, 'take_' + kind)(*arguments)

    def take_fetch(self, most):
        self.fetch(most)

    def take_commit(self):
        self.commit()

    def take_rollback(self):
        self.rollback()

    def take_back(self, most):
        self.fetch_and_go_back(most)

    def take_here(self, number, action):
        self.fail_here(number, action)

    def take_elsewhere(self, event, action):
        self.fail_elsewhere(event, action)

    def take_die(self):
        self.die()

    def take_discard(self, partition):
        self.discard(partition)

    def take_retry(self):
        self.retry()

    def take_resume(self):
        self.resume()

    def finish(self):
        """A good consumer gets all the rest."""
        self.rollback()
        quiet = 0
        for _ in range(200):
            self.retry()
            self.resume()
            if self.fetch(9):
                quiet = 0
            else:
                quiet += 1
            self.commit()
            if quiet == 4:
                break
        missing = [e for e in range(len(self.log)) if e not in self.done | self.given_up]
        left = self.ask(f"SELECT partition_key, global_position - {self.first}, state FROM event_store.parked_events "
                        f"WHERE subscription_name = '{self.name}'")
        if missing or left:
            raise Violation(f'never given: {missing}, set aside: {left}')


STEPS = ([('fetch', 1), ('fetch', 2), ('fetch', 9), ('fetch', 9), ('commit',), ('commit',), ('rollback',), ('back', 9), ('die',),
          ('retry',), ('resume',), ('discard', 'A'), ('discard', 'B')] +
         [('here', n, a) for n in (0, 1, 2) for a in ('retry', 'park', 'park_event', 'skip', 'stop')] +
         [('elsewhere', e, a) for e in (0, 1, 2, 3) for a in ('retry', 'park', 'park_event', 'skip')])


def make_logs(dsn):
    """Each log once, its events in a row; returns where each begins."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    firsts = {}
    with connection.cursor() as cursor:
        cursor.execute('CREATE TABLE IF NOT EXISTS model_effects (name text, event int, PRIMARY KEY (name, event))')
        cursor.execute('TRUNCATE model_effects')
        cursor.execute("SELECT event_store.drop_subscription(subscription_name) FROM event_store.subscriptions WHERE subscription_name LIKE 'model %'")
        for log in LOGS:
            cursor.execute(
                'SELECT min(global_position) FROM event_store.append_batch(%s, %s, %s, NULL)',
                (['Model' + log] * len(log), list(log), ['E'] * len(log)))
            firsts[log] = cursor.fetchone()[0]
    connection.close()
    return firsts


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--dsn', default='')
    parser.add_argument('--sequences', type=int, default=200)
    parser.add_argument('--length', type=int, default=8)
    parser.add_argument('--seed', type=int, default=1)
    options = parser.parse_args()
    dsn = options.dsn
    firsts = make_logs(dsn)
    for number in range(options.seed, options.seed + options.sequences):
        rnd = random.Random(number)
        log = rnd.choice(LOGS)
        run = Run(dsn, f'model {number}', log, firsts[log], rnd.choice(['park', 'park', 'stop', 'skip', 'park_event']), rnd.choice([1, 1, 2]))
        try:
            for _ in range(options.length):
                run.step(rnd)
            run.finish()
            run.close()
        except (Violation, psycopg2.Error) as error:
            print(f'sequence {number} on {log}, on_failure {run.on_failure}: {error!r}')
            for step in run.steps:
                print('   ', *step)
            sys.exit(1)
    print(f'{options.sequences} sequences of {options.length}')


main()
