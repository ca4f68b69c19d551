#!/usr/bin/python3
"""Subscriptions in lock-step with their model: model_replay.py --dsn … [--every N] [--random N] [--seconds N] …

Each sequence of actions has a subscription of its own over a small log.  After each action the server's answer,
what is stored of the members, what is set aside and the status must be what subscription_model.py says; what
is refused must be refused with that SQLSTATE, and change nothing.

--every N takes all sequences of N actions that a configuration has, but goes on behind equal states of the
model once; --random takes sequences that are drawn, from more actions; --crashes kills the server in the middle of
such ones.  At the end of each sequence a consumer that does
everything right goes on, in the model alone, and must get all that was not given up.
"""
import argparse
import copy
import multiprocessing
import os
import random
import signal
import sys
import time
import traceback

import psycopg2

from subscription_model import Disabled, Model, Refused, Violation, member_of

FUNCTIONS = """
CREATE OR REPLACE FUNCTION model_seen(name text) RETURNS json LANGUAGE sql AS $$
    SELECT json_build_array(
        (SELECT json_agg(json_build_array(p.member, p.number, p.position, p.stopped, p.attempts, p.attempt_position,
                                          p.retry_at IS NOT NULL, p.lease, p.lease_first, p.lease_last, p.lease_events,
                                          p.lease_partition, p.lease_alone, coalesce(p.batch_limit, 0), coalesce(p.limit_until, 0))
                         ORDER BY p.member)
           FROM event_store.subscriptions s, generate_series(0, s.members - 1) m,
                LATERAL (SELECT * FROM event_store.subscription_positions p
                          WHERE p.subscription_name = name AND p.member = m ORDER BY p.number DESC LIMIT 1) p
          WHERE s.subscription_name = name),
        (SELECT json_agg(json_build_array(global_position, partition_key, state, attempts, batch_limit)
                         ORDER BY global_position, partition_key)
           FROM event_store.parked_events WHERE subscription_name = name),
        (SELECT json_agg(json_build_array(member, position, state, attempts, parked) ORDER BY member)
           FROM event_store.subscription_status WHERE subscription_name = name))
$$;
CREATE OR REPLACE FUNCTION model_do(name text, statement text) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    answer json;
BEGIN
    EXECUTE statement INTO answer;
    RETURN json_build_array(answer, model_seen(name));
END
$$;
-- all pauses are over, in their order
CREATE OR REPLACE FUNCTION model_later(name text) RETURNS void LANGUAGE sql AS $$
    UPDATE event_store.parked_events SET retry_at = retry_at - interval '1h'
     WHERE subscription_name = name AND retry_at > clock_timestamp();
    UPDATE event_store.subscription_positions SET retry_at = retry_at - interval '1h'
     WHERE subscription_name = name AND retry_at > clock_timestamp();
$$;
"""


class Server:
    """What the actions of the model are for a server."""

    def __init__(self, dsn):
        self.dsn = dsn
        self.consumer, self.other = self.connect(), self.connect()
        self.firsts = {}
        self.count = 0
        self.name = None

    def connect(self):
        connection = psycopg2.connect(self.dsn, application_name='event_store model')
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SET search_path = public, event_store; SET statement_timeout = '30s'; SET client_min_messages = 'error'")
        return connection

    @staticmethod
    def ask(connection, sql):
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone()[0] if cursor.description else None

    # ---------- the log

    def prepare(self, kinds):
        self.ask(self.other, FUNCTIONS)
        for log, kind in kinds:
            found = self.ask(self.other, f"SELECT min(global_position) FROM domain_events WHERE aggregate_type = '{kind}'")
            if not found:
                types, ids = ','.join([kind] * len(log)), ','.join(log)
                self.ask(self.other, f"SELECT append_batch('{{{types}}}', '{{{ids}}}', array_fill('E'::text, ARRAY[{len(log)}]), NULL)")
        self.ask(self.other, "SELECT append_event('Behind', 'all', NULL, 'E')")

    def learn(self, kinds):
        for _, kind in kinds:
            self.firsts[kind] = self.ask(self.other, f"SELECT min(global_position) FROM domain_events WHERE aggregate_type = '{kind}'")

    # ---------- a subscription

    def begin(self, model):
        self.model, self.first = model, self.firsts[model.kind]
        before = f"SELECT drop_subscription('{self.name}'); " if self.name else ''
        self.count += 1
        self.name = f'model {os.getpid()} {id(self)} {self.count}'
        self.numbers = {}      # of leases, and what the model calls them
        self.open = False
        self.ask(self.other, f"{before}SELECT create_subscription('{self.name}', '{{{model.kind}}}', members => {len(model.members)}, "
                             f"start_after => {self.first - 1}, on_failure => '{model.on_failure}', max_attempts => {model.max_attempts})")

    def end(self):
        if self.open:
            self.ask(self.consumer, 'ROLLBACK')
            self.open = False

    def position(self, event):
        return event + self.first - 1

    def event(self, position):
        return None if position is None else min(max(position - self.first + 1, 0), self.model.end)

    def call(self, function, *arguments):
        return f"SELECT to_json({function}('{self.name}'{''.join(', ' + str(a) for a in arguments)}))"

    def failing(self, event, action):
        return self.call('fail_events', self.position(event), "'it failed'", f"'{action}'")

    def do(self, sql):
        answer, self.seen = self.ask(self.other, f"SELECT model_do('{self.name}', {quoted(sql)})")
        return answer

    def look(self, connection, before=''):
        self.seen = self.ask(connection, f"{before}SELECT model_seen('{self.name}')")

    # ---------- actions

    def take_fetch(self, most):
        begin = '' if self.open else 'BEGIN; SAVEPOINT ahead; '
        rows = self.ask(self.consumer, f"{begin}SELECT json_agg(global_position ORDER BY global_position) FROM next_events('{self.name}', {most})")
        if rows or self.open:
            self.open = True
            self.look(self.other)
        else:
            self.look(self.consumer, 'COMMIT; ')
        return [self.event(p) for p in rows or []]

    def over(self, how):
        self.open = False
        self.look(self.consumer, how + '; ')

    def take_commit(self):
        self.over('COMMIT')

    def take_rollback(self):
        self.over('ROLLBACK')

    def take_die(self):
        before = self.ask(self.other, f"SELECT sum(number) FROM subscription_positions WHERE subscription_name = '{self.name}'")
        self.ask(self.other, f'SELECT pg_terminate_backend({self.consumer.info.backend_pid}, 10000)')
        self.consumer.close()
        self.consumer, self.open = self.connect(), False
        for _ in range(2000 if self.model.died else 0):
            if self.ask(self.other, f"SELECT sum(number) FROM subscription_positions WHERE subscription_name = '{self.name}'") != before:
                break
            time.sleep(0.002)
        self.look(self.other)

    def take_fail_here(self, number, action):
        event = self.given[number]
        answer = self.ask(self.consumer, self.failing(event, action))
        self.over('COMMIT')
        return answer

    def take_fail_back(self, number, action):
        event = self.given[number]
        self.ask(self.consumer, 'ROLLBACK TO ahead')
        answer = self.ask(self.consumer, self.failing(event, action))
        self.over('COMMIT')
        return answer

    def take_fail_elsewhere(self, event, action):
        return self.do(self.failing(event, action))

    def claiming(self, more):
        rows = self.do(f"SELECT json_agg(json_build_array(member, lease, global_position, attempt, partition_key) ORDER BY global_position) "
                       f"FROM claim_events('{self.name}', 'model', {more})")
        if not rows:
            return None
        number = rows[0][1]
        if number <= max(self.numbers, default=0) or len({row[1] for row in rows}) != 1:
            raise Violation(f'lease {number} is no new one')
        self.numbers[number] = len(self.numbers) + 1
        for row in rows:
            if row[4] != self.model.key(self.model.letter(self.event(row[2]))):
                raise Violation(f'{row[4]} is another partition')
        return [(row[0], self.event(row[2]), row[3]) for row in rows]

    def take_claim(self, most):
        return self.claiming(f"{most}, '1h'")

    def lease(self, number):
        """Member and number of a lease, as arguments."""
        return f'{self.model.leases[number - 1][0]}, {list(self.numbers)[number - 1]}'

    def take_claim_next(self, number, most):
        member, lease = self.lease(number).split(', ')
        return self.claiming(f"{most}, '1h', done_member => {member}, done_lease => {lease}")

    def acking(self, number, count=None, failed=(), action='retry'):
        events = self.of_lease.get(number, [])
        up_to = 'NULL' if count is None or count >= len(events) else self.position(events[count - 1])
        positions = ','.join(str(self.position(events[f])) for f in failed if f < len(events))
        some = f"'{{{positions}}}', array_fill('it failed'::text, ARRAY[{positions.count(',') + 1}])" if positions else 'NULL, NULL'
        return self.call('ack_events', self.lease(number), up_to, some, f"'{action}'")

    def take_ack(self, *arguments):
        return self.do(self.acking(*arguments))

    def take_ack_open(self, number):
        self.ask(self.consumer, 'BEGIN')
        self.open = True
        answer = self.ask(self.consumer, self.acking(number))
        self.look(self.other)
        return answer

    def take_release(self, number):
        return self.do(self.call('release_events', self.lease(number)))

    def take_extend(self, number, short):
        self.do(self.call('extend_lease', self.lease(number), "'1us'" if short else "'1h'"))

    def take_retry(self):
        return self.do(self.call('retry_parked_events'))

    def take_discard(self, letter):
        return self.do(self.call('discard_parked_events', f"'{self.model.key(letter)}'", "'given up'"))

    def take_resume(self):
        self.do(self.call('pause_subscription'))
        self.do(self.call('resume_subscription'))

    def take_move(self, event):
        self.do(f"SELECT '1'::json FROM (SELECT pause_subscription('{self.name}')) a, (SELECT move_subscription('{self.name}', {self.position(event)})) b, "
                f"(SELECT resume_subscription('{self.name}')) c")

    def take_resize(self, members):
        self.do(self.call('resize_subscription', members))

    # ---------- in lock-step

    def take(self, action):
        """Takes an action in the model and in the server; Disabled leaves both as they were."""
        model, asked = self.model, []
        name, *arguments = resolved(model, action)
        self.given = [e for f in model.fetches for e in f.events]
        self.of_lease = {m.lease.number: list(m.lease.events) for m in model.members if m.lease}

        def answer():
            if not asked:
                try:
                    asked.append(('', getattr(self, 'take_' + name)(*arguments)))
                except psycopg2.Error as error:
                    asked.append((error.pgcode, None))
                    if self.open and name in ('fetch', 'fail_here', 'fail_back', 'ack_open'):
                        self.ask(self.consumer, 'ROLLBACK')
                        self.open = False
                    self.look(self.other)
                    if error.pgcode is None or error.pgcode == '57014':
                        raise Violation(f'{error!r}') from error
            return asked[0]

        model.ask = lambda: given_of(answer()[1])
        if name in ('fetch', 'claim', 'claim_next') and model.pass_time():
            self.ask(self.other, f"SELECT model_later('{self.name}')")
        try:
            expected = ('', getattr(model, name)(*arguments))
        except Refused as refused:
            expected = (str(refused), None)
        model.ask = None
        if answer() != expected:
            raise Violation(f'the answer is {answer()}, and must be {expected}')
        self.compare()
        model.check()

    def compare(self):
        members, rows, status = self.seen
        model = self.model
        seen = []
        for row in members:
            row[2], row[5] = self.event(row[2]), self.event(row[5]) if row[5] else 0
            row[7] = row[7] and self.numbers.get(row[7], row[7])
            row[8], row[9] = self.event(row[8]), self.event(row[9])
            row[11] = row[11] and row[11].split('/')[1]
            row[14] = self.event(row[14]) if row[14] else 0
            seen.append(row)
        same('members', seen, [model.row_of(m) for m in range(len(model.members))])
        same('set aside', [[self.event(p), key.split('/')[1], state, attempts, limit] for p, key, state, attempts, limit in rows or []],
             model.rows_of())
        same('status', [[m, self.event(p), *rest] for m, p, *rest in status],
             [model.status_of(m) for m in range(len(model.members))])


def quoted(sql):
    return "'" + sql.replace("'", "''") + "'"


def given_of(answer):
    return [e[1] if isinstance(e, (list, tuple)) else e for e in answer or []]


def same(what, seen, expected):
    if seen != expected:
        raise Violation(f'{what}: {seen}, and must be {expected}')


def resolved(model, action):
    """Leases are named from the newest one on."""
    if action[0] in ('ack', 'ack_open', 'release', 'extend', 'claim_next'):
        number = len(model.leases) - action[1]
        if number < 1:
            raise Disabled
        return (action[0], number, *action[2:])
    return action


# ---------- what there is to do

def failing(name, events, actions):
    return [(name, e, a) for e in events for a in actions]


FETCH = [('fetch', 1), ('fetch', 9), ('commit',), ('rollback',), ('die',)]
CLAIM = [('claim', 1), ('claim', 9), ('ack', 0), ('ack', 0, 1), ('ack', 1), ('release', 0), ('extend', 0, True), ('extend', 0, False)]
PARTLY = [('ack', 0, 2, (0,), 'retry'), ('ack', 0, 1, (0,), 'park'), ('ack', 0, 9, (0, 1), 'retry'), ('ack', 0, 2, (1,), 'skip'),
          ('ack', 0, 9, (1,), 'park_event'), ('ack', 0, 2, (0, 1), 'stop')]
DECIDE = [('retry',), ('discard', 'A'), ('discard', 'B'), ('resume',)]
FAIL = (failing('fail_here', (0, 1), ('retry', 'park')) + failing('fail_back', (0, 1), ('retry',)) +
        failing('fail_elsewhere', (1, 3), ('retry', 'skip')))
ALL_FAIL = [f for name, events in (('fail_here', (0, 1, 2)), ('fail_back', (0, 1)), ('fail_elsewhere', (1, 2, 3, 4)))
            for f in failing(name, events, ('retry', 'retry', 'park', 'park_event', 'skip', 'stop'))]
ALL_ACKS = [('ack', 0, k, f, a) for k in (1, 2, 9) for f in ((0,), (1,), (0, 1), (1, 2))
            for a in ('retry', 'retry', 'park', 'park_event', 'skip', 'stop')]
SIZES = [('resize', 1), ('resize', 2), ('resize', 3)]
RANDOM = [(4, FETCH), (5, CLAIM), (1, [('claim_next', 0, 9), ('ack_open', 0), ('ack', 2), ('release', 1), ('extend', 0, True)]), (3, ALL_ACKS),
          (3, ALL_FAIL), (2, DECIDE), (1, [('discard', 'C')]), (1, SIZES), (1, [('move', 0), ('move', 2)])]

# log, members, on_failure, max_attempts, actions
CONFIGURATIONS = {
    'fetch': ('ABA', 1, 'park', 2, FETCH + FAIL + DECIDE[:3]),
    'fetch stop': ('AAB', 1, 'stop', 2, FETCH + failing('fail_here', (0, 1), ('retry', 'stop')) + failing('fail_elsewhere', (1, 2), ('retry',)) + DECIDE),
    'fetch alone': ('ABAAB', 1, 'park_event', 1, FETCH[1:4] + failing('fail_here', (0, 2), ('retry', 'park', 'skip')) +
                    failing('fail_elsewhere', (1, 4), ('park_event', 'skip', 'retry')) + DECIDE[:3]),
    'fetch members': ('ABAB', 2, 'park', 2, FETCH[:4] + failing('fail_here', (0,), ('retry', 'park')) + failing('fail_elsewhere', (1, 4), ('retry',)) +
                      DECIDE[:2] + SIZES),
    'fetch moved': ('AABA', 1, 'park', 2, FETCH[:4] + failing('fail_elsewhere', (2, 4), ('park', 'skip')) + failing('fail_here', (1,), ('park_event',)) +
                    DECIDE[:2] + [('move', 0), ('move', 2), ('resize', 2)]),
    'claim': ('ABA', 1, 'park', 2, CLAIM + PARTLY[:3] + DECIDE[:2]),
    'claim failing': ('AABA', 1, 'skip', 2, CLAIM[1:4] + [('extend', 0, True)] + PARTLY + DECIDE[:3]),
    'claim members': ('ABAB', 2, 'park', 2, CLAIM[1:] + PARTLY[:2] + DECIDE[:2] + SIZES[:2]),
    'claim stop': ('ABAB', 1, 'stop', 2, CLAIM + PARTLY[:3] + [('ack', 0, 2, (0, 1), 'stop'), ('resume',)]),
    'both': ('ABCAB', 2, 'park', 2, [('fetch', 9), ('commit',), ('rollback',), ('claim', 9), ('ack', 0), ('ack', 0, 1, (0,), 'retry'), ('ack_open', 0),
                                     ('extend', 0, True), ('claim_next', 0, 1), ('fail_elsewhere', 1, 'retry'), ('retry',), ('resize', 1), ('move', 0)]),
}
LOGS = ['AABAB', 'ABA', 'AAB', 'ABBAA', 'AAAA', 'ABCAB', 'ABAB', 'CABBA', 'AABA', 'ABAAB']


def kind_of(log):
    """A type with which A and B are of different members of two."""
    return next(kind for kind in (f'{log}-{i}' for i in range(100)) if member_of(kind + '/A', 2) != member_of(kind + '/B', 2))


KINDS = [(log, kind_of(log)) for log in LOGS]


def new_model(log, members, on_failure, max_attempts):
    return Model(log, kind_of(log), members, on_failure, max_attempts)


def step(model, action):
    """An action in the model alone."""
    name, *arguments = resolved(model, action)
    if name in ('fetch', 'claim', 'claim_next'):
        model.pass_time()
    try:
        getattr(model, name)(*arguments)
    except Refused:
        pass
    model.check()


def every_sequence(configuration, depth, all_of_them=False):
    """Sequences that take each action in each state that is reached with so many actions."""
    *arguments, actions = CONFIGURATIONS[configuration]
    seen = {}

    def go_on(model, sequence):
        mark = None if all_of_them else model.fingerprint()
        if len(sequence) == depth or (mark is not None and seen.get(mark, 0) >= depth - len(sequence)):
            yield sequence
            return
        seen[mark] = depth - len(sequence)
        for action in actions:
            after = copy.deepcopy(model)
            try:
                step(after, action)
            except Disabled:
                continue
            yield from go_on(after, sequence + [action])

    yield from go_on(new_model(*arguments), [])


def drawn_sequence(number, length, crash=False):
    rnd = random.Random(number)
    log = rnd.choice(LOGS)
    arguments = (log, rnd.choice([1, 1, 2]), rnd.choice(['park', 'park', 'stop', 'skip', 'park_event']), rnd.choice([1, 2, 2, 3]))
    model, sequence = new_model(*arguments), []
    parts = [part for weight, part in RANDOM for _ in range(weight)]
    for tries in range(200):
        if len(sequence) == length:
            break
        action = rnd.choice(rnd.choice(parts))
        after = copy.deepcopy(model)
        try:
            step(after, action)
        except Disabled:
            continue
        model = after
        sequence.append(action)
    if crash:
        sequence.insert(rnd.randrange(1, length), ('crash',))
    return arguments, sequence


def good_end(model):
    """A consumer that does everything right gets the rest."""
    model.ask = None
    if model.saved:
        model.undo()
    for member in model.members:
        member.lease = None
    quiet = 0
    while quiet < 6:
        model.retry()
        model.resume()
        model.pass_time()
        found = model.fetch(9)
        if found:
            model.commit()
        quiet = 0 if found else quiet + 1
    missing = [e for e in model.events() if e not in model.settled]
    if missing or model.rows_of():
        raise Violation(f'never given: {missing}, set aside: {model.rows_of()}')


# ---------- playing them

def told(arguments, sequence, error):
    return '\n    '.join([f'{arguments}: {error!r}', *(' '.join(map(str, action)) for action in sequence)])


def play(server, arguments, sequence):
    """Plays a sequence; returns what is wrong, or None."""
    server.begin(new_model(*arguments))
    for count, action in enumerate(sequence, 1):
        try:
            server.take(action)
        except Disabled:
            break
        except (Violation, psycopg2.Error) as error:
            return told(arguments, sequence[:count], error)
    server.end()
    try:
        good_end(server.model)
    except Violation as error:
        return told(arguments, sequence, error)
    return None


def worker(dsn, jobs, results, end):
    server = Server(dsn)
    server.learn(KINDS)
    for job in iter(jobs.get, None):
        for arguments, sequence in job:
            if time.time() > end.value:
                results.put(('cut', None))
                continue
            try:
                results.put(('played', play(server, arguments, sequence)))
            except Exception as error:          # whatever it is, somebody has to see it
                results.put(('played', told(arguments, sequence, error)))
                server = Server(dsn)
                server.learn(KINDS)
    results.put(('end', None))


def play_all(dsn, sequences, processes, seconds, most_wrong):
    """Plays sequences in several processes; returns how many, how many were left out, and what is wrong."""
    jobs, results = multiprocessing.Queue(50), multiprocessing.Queue()
    end = multiprocessing.Value('d', time.time() + seconds)
    workers = [multiprocessing.Process(target=worker, args=(dsn, jobs, results, end), daemon=True) for _ in range(processes)]
    for process in workers:
        process.start()
    feeder = multiprocessing.Process(target=feed, args=(jobs, results, sequences, processes), daemon=True)
    feeder.start()
    played, left, wrong, ended = 0, 0, [], 0
    while ended < processes:
        kind, result = results.get()
        ended += kind == 'end'
        played += kind == 'played'
        left += kind == 'cut'
        if result:
            wrong.append(result)
            if len(wrong) >= most_wrong:
                break
    feeder.terminate()
    for process in workers:
        process.terminate()
    return played, left, wrong


def feed(jobs, results, sequences, processes):
    job = []
    try:
        for sequence in sequences:
            job.append(sequence)
            if len(job) == 20:
                jobs.put(job)
                job = []
        jobs.put(job)
    except Exception:                           # the model itself is wrong
        results.put(('model', traceback.format_exc()))
    for _ in range(processes):
        jobs.put(None)


def wait_for_server(dsn):
    for _ in range(600):
        try:
            server = Server(dsn)
            server.learn(KINDS)
            return server
        except psycopg2.Error:
            time.sleep(0.1)
    raise Violation('the server does not come back')


def play_crashes(dsn, first, count, length):
    """Sequences with one crash of the server for all of them, in which some have a transaction open."""
    runs, wrong = [], []
    for number in range(first, first + count):
        arguments, sequence = drawn_sequence(number, length, True)
        server = Server(dsn)
        server.learn(KINDS)
        server.begin(new_model(*arguments))
        wrong.append(play_until(server, arguments, sequence, 0))
        runs.append((server, arguments, sequence))
    os.kill(runs[0][0].other.info.backend_pid, signal.SIGKILL)
    fresh = wait_for_server(dsn)
    for (server, arguments, sequence), error in zip(runs, wrong[:]):
        server.consumer, server.other, server.open = fresh.consumer, fresh.other, False
        server.model.crash()
        wrong.append(error or play_until(server, arguments, sequence, sequence.index(('crash',)) + 1))
        server.end()
        fresh.consumer = server.consumer
        fresh.ask(fresh.other, f"SELECT drop_subscription('{server.name}')")
    return len(runs), [error for error in wrong[count:] if error]


def play_until(server, arguments, sequence, start):
    """From an action to the crash, or to the end."""
    for count, action in enumerate(sequence[start:], start + 1):
        if action == ('crash',):
            return None
        try:
            server.take(action)
        except Disabled:
            continue
        except (Violation, psycopg2.Error) as error:
            return told(arguments, sequence[:count], error)
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--dsn', default='')
    parser.add_argument('--every', type=int, default=0)
    parser.add_argument('--all', action='store_true', help='behind equal states as well')
    parser.add_argument('--only', default='', help='configurations, by commas')
    parser.add_argument('--random', type=int, default=0)
    parser.add_argument('--length', type=int, default=8)
    parser.add_argument('--crashes', type=int, default=0, help='so often, each time in the middle of 40 sequences')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--seconds', type=int, default=86400)
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument('--wrong', type=int, default=1)
    options = parser.parse_args()
    Server(options.dsn).prepare(KINDS)
    faults = []
    for name in CONFIGURATIONS if options.every else ():
        if options.only and name not in options.only.split(','):
            continue
        sequences = ((CONFIGURATIONS[name][:-1], s) for s in every_sequence(name, options.every, options.all))
        played, left, wrong = play_all(options.dsn, sequences, options.processes, options.seconds, options.wrong)
        print(f'{name}: {played} sequences of {options.every}, {left} left out', flush=True)
        faults += wrong
    if options.random:
        sequences = (drawn_sequence(n, options.length) for n in range(options.seed, options.seed + options.random))
        played, left, wrong = play_all(options.dsn, sequences, options.processes, options.seconds, options.wrong)
        print(f'{played} random sequences of {options.length}, {left} left out', flush=True)
        faults += wrong
    for crash in range(options.crashes):
        played, wrong = play_crashes(options.dsn, options.seed + 40 * crash, 40, options.length)
        print(f'{played} sequences with a crash', flush=True)
        faults += wrong
    for fault in faults[:options.wrong]:
        print(fault)
    sys.exit(1 if faults else 0)


if __name__ == '__main__':
    multiprocessing.set_start_method('fork')
    main()
