#!/usr/bin/python3
"""Subscriptions against a model: subscriptions.py [--sequences N] [--length N] [--seed N]

Random sequences of what a consumer can do (fetch, commit, roll back, to a savepoint as well,
fail in the same transaction and in another one, die, claim, acknowledge a part with
failures, release, extend, let a lease expire, retry, discard, stop and resume, resize) on
small logs of two partitions.  After each step and at the end of each sequence must hold:

- an event has its effect once (a primary key sees to that here), and is not given again
  once it was acknowledged, nor while somebody has it by lease;
- what comes with a lease that is lost is VS007 and changes nothing;
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


class Lease:
    """One that was claimed."""

    def __init__(self, member, number, events, retried):
        self.member, self.number, self.events = member, number, events
        self.retried = retried   # of a partition that was set aside
        self.open = True       # nobody else may have its events


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
        self.leases = []       # all that were ever given
        self.steps = []
        self.by_lease = False  # how the good consumer at the end goes on
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
            for lease in self.leases:
                if lease.open and event in lease.events:
                    raise Violation(f'event {event} is given, and leased')
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

    # ---------- leases

    def newest(self, member):
        """The lease that a member has, with how many events are left, and where it waits."""
        rows = self.ask(f"SELECT coalesce(lease, 0), lease_events, CASE WHEN stopped OR retry_at IS NOT NULL THEN attempt_position END "
                        f"FROM event_store.subscription_positions JOIN event_store.subscriptions s USING (subscription_name) "
                        f"WHERE subscription_name = '{self.name}' AND member = {member} AND member < s.members "
                        "ORDER BY number DESC LIMIT 1")
        return rows[0] if rows else (0, None, None)

    def claim(self, most, done=None):
        time.sleep(0.0025)
        if done is not None:
            self.rollback()
        before = '' if done is None else f', done_member => {done.member}, done_lease => {done.number}'
        rows = self.ask(f"SELECT member, lease, global_position, attempt, partition_key FROM event_store.claim_events("
                        f"'{self.name}', 'stress', {most}, '1h'{before})")
        if done is not None:
            self.acknowledged(done, len(done.events), [], 'retry')
            done.open, done.events = False, []
        if not rows:
            return
        events = [row[2] - self.first for row in rows]
        if set(events) & set(self.batch):
            raise Violation(f'of {events} another transaction has {self.batch}')
        for lease in self.leases:
            if lease.member == rows[0][0]:
                lease.open = False
        batch, self.batch = self.batch, []
        self.check_order(events)
        self.batch = batch
        if len({row[:2] for row in rows}) != 1 or rows[0][1] <= max((lease.number for lease in self.leases), default=0):
            raise Violation(f'the lease of {rows[0][:2]} is no new one')
        if any(row[4] != f'{self.type}/{self.log[row[2] - self.first]}' for row in rows):
            raise Violation('another partition stands in the row')
        retried = self.ask(f"SELECT lease_partition FROM event_store.subscription_positions WHERE lease = {rows[0][1]} LIMIT 1")[0][0]
        self.leases.append(Lease(rows[0][0], rows[0][1], events, retried is not None))

    def with_lease(self, lease, sql, function):
        """Calls a function of a lease; None if that is lost."""
        everything = f"SELECT array(SELECT p::text FROM event_store.subscription_positions p WHERE subscription_name = '{self.name}' ORDER BY 1) || " \
                     f"array(SELECT p::text FROM event_store.parked_events p WHERE subscription_name = '{self.name}' ORDER BY 1)"
        before = self.ask(everything)
        self.rollback()        # one of these would be waited for
        newest = self.newest(lease.member)[0]
        try:
            result = function(sql)
        except psycopg2.Error as error:
            if error.pgcode != 'VS007':
                raise
            if newest == lease.number:
                raise Violation(f'lease {lease.number} is the newest, and lost')
            if self.ask(everything) != before:
                raise Violation(f'what came with the lost lease {lease.number} has changed something')
            lease.open = False
            return None
        if newest != lease.number:
            raise Violation(f'lease {lease.number} is good, and that of the member is {newest}')
        return result

    def ack(self, lease, count, failed, action):
        count = min(count, len(lease.events))
        failed = sorted({number for number in failed if number < count})
        positions = [lease.events[number] + self.first for number in failed]
        up_to = lease.events[count - 1] + self.first if count else self.first - 1
        sql = (f"SELECT event_store.ack_events('{self.name}', {lease.member}, {lease.number}, {up_to}, "
               f"'{{{','.join(map(str, positions))}}}', array_fill('it failed'::text, ARRAY[{len(positions)}]), '{action}')")
        result = self.with_lease(lease, sql, self.ask)
        if result is None:
            return
        left = self.acknowledged(lease, count, failed, action)
        if result[0][0] != (not left):
            raise Violation(f'finished: {result[0][0]}, left: {left}')
        lease.events = left
        if not left:
            lease.open = False
        elif self.newest(lease.member)[1] != len(left):
            raise Violation(f'the lease has {self.newest(lease.member)[1]} events, and {left} are left')

    def acknowledged(self, lease, count, failed, action):
        """What an acknowledgement has changed; returns what is left of the lease."""
        handled, rest = lease.events[:count], lease.events[count:]
        firsts = {}
        for number in failed:
            firsts.setdefault(self.log[lease.events[number]], lease.events[number])
        held = self.newest(lease.member)[2]
        held = None if held is None or held - self.first not in firsts.values() else held - self.first
        rows = {key.split('/')[1]: position - self.first for key, position in self.ask(
            f"SELECT partition_key, global_position FROM event_store.parked_events WHERE subscription_name = '{self.name}' AND state <> 'event'")}
        if action in ('skip', 'park_event'):
            gone = {lease.events[number] for number in failed}
            handled = [event for event in handled if event not in gone]
            if action == 'skip':
                self.given_up |= gone
        else:
            handled = [event for event in handled if event < firsts.get(self.log[event], len(self.log))]
            if held is not None:
                handled = [event for event in handled if event < held]
            alone = {event for event, in self.parked("state = 'event'")}
            for partition, event in firsts.items():
                if rows.get(partition, event + 1) > event and held is None and event not in alone:
                    self.given_up.add(event)      # max_attempts ended in skip
        if set(handled) & self.done:
            raise Violation(f'{handled} handled again')
        self.done |= set(handled)
        self.alone |= {alone for alone, in self.parked("state = 'event'")}
        self.alone -= self.done | self.given_up
        if held is not None or (firsts and lease.retried and action not in ('skip', 'park_event')):
            return []
        return [event for event in rest if rows.get(self.log[event], event + 1) > event or not firsts]

    def release(self, lease):
        if self.with_lease(lease, f"SELECT event_store.release_events('{self.name}', {lease.member}, {lease.number})", self.ask):
            lease.open = False

    def extend(self, lease, time):
        if self.with_lease(lease, f"SELECT event_store.extend_lease('{self.name}', {lease.member}, {lease.number}, '{time}')", self.ask):
            lease.open = time == '1h'

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
        except psycopg2.errors.ObjectInUse:
            if not any(lease.open for lease in self.leases):
                raise Violation('nothing is leased')
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

    def resize(self, members):
        self.rollback()
        before = self.ask(f"SELECT members FROM event_store.subscriptions WHERE subscription_name = '{self.name}'")[0][0]
        # it would wait for who has the lease
        if self.ask(f"SELECT 1 FROM event_store.subscription_status WHERE subscription_name = '{self.name}' AND state = 'leased'"):
            return
        try:
            self.ask(f"SELECT event_store.resize_subscription('{self.name}', {members})")
            for lease in self.leases:
                lease.open = lease.open and members == before
        except psycopg2.errors.ObjectNotInPrerequisiteState:
            if not self.ask(f"SELECT 1 FROM event_store.subscription_status WHERE subscription_name = '{self.name}' AND state = 'stopped'"):
                raise Violation('resize is refused, and no member has stopped')
        except psycopg2.errors.ObjectInUse:
            behind = self.ask(f"SELECT 1 FROM event_store.subscription_status t JOIN event_store.subscriptions s USING (subscription_name) "
                              f"WHERE subscription_name = '{self.name}' AND t.position < (SELECT max(o) FROM unnest(s.old_positions) o)")
            if not behind:
                raise Violation('resize is refused, and the last one is over')

    # ---------- a sequence

    def step(self, rnd):
        kind, *arguments = rnd.choice(STEPS)
        self.steps.append((kind, *arguments))
        getattr(self, 'take_' + kind)(*arguments)

    def take_fetch(self, most):
        self.fetch(most)

    def some_lease(self, number):
        return self.leases[-1 - number] if number < len(self.leases) else None

    def take_claim(self, most):
        self.claim(most)

    def take_claim_next(self, most):
        if self.leases and self.leases[-1].open:
            self.claim(most, self.leases[-1])

    def take_ack(self, number, count, failed, action):
        lease = self.some_lease(number)
        if lease:
            self.ack(lease, count, failed, action)

    def take_release(self, number):
        if self.some_lease(number):
            self.release(self.some_lease(number))

    def take_extend(self, number, time):
        if self.some_lease(number):
            self.extend(self.some_lease(number), time)

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

    def take_resize(self, members):
        self.resize(members)

    def finish(self):
        """A good consumer gets all the rest."""
        self.rollback()
        for lease in self.leases:
            self.release(lease)
        quiet = 0
        for _ in range(200):
            self.retry()
            self.resume()
            if self.by_lease:
                leases = len(self.leases)
                self.claim(9)
                found = len(self.leases) > leases
                if found:
                    self.ack(self.leases[-1], 9, [], 'retry')
            else:
                found = self.fetch(9)
                self.commit()
            quiet = 0 if found else quiet + 1
            if quiet == 6:
                break
        missing = [e for e in range(len(self.log)) if e not in self.done | self.given_up]
        left = self.ask(f"SELECT partition_key, global_position - {self.first}, state FROM event_store.parked_events "
                        f"WHERE subscription_name = '{self.name}'")
        if missing or left:
            raise Violation(f'never given: {missing}, set aside: {left}')


STEPS = ([('fetch', 1), ('fetch', 2), ('fetch', 9), ('fetch', 9), ('commit',), ('commit',), ('rollback',), ('back', 9), ('die',),
          ('retry',), ('resume',), ('discard', 'A'), ('discard', 'B'), ('claim', 1), ('claim', 3), ('claim', 9), ('claim', 9), ('claim', 9),
          ('claim_next', 9), ('release', 0), ('release', 1), ('extend', 0, '1h'), ('extend', 0, '1us'), ('extend', 0, '1us'), ('extend', 1, '1us')] +
         [('ack', n, 9, (), 'retry') for n in (0, 0, 1, 2)] + [('ack', 0, k, (), 'retry') for k in (0, 1, 2)] +
         [('ack', 0, k, f, a) for k in (1, 2, 9) for f in ((0,), (1,), (0, 1), (1, 2)) for a in ('retry', 'retry', 'park', 'park_event', 'skip', 'stop')] +
         [('resize', n) for n in (1, 2, 3)] * 2 +
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
            run.by_lease = rnd.random() < 0.5
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
