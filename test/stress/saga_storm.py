#!/usr/bin/python3
"""Sagas while everything happens at once: saga_storm.py --dsn … [--sagas 500] [--executors 6] [--crash-cmd …]

Sagas are started and some cancelled, executors do their steps, fail, come too late, die in the middle and are
terminated; with --crash-cmd the server crashes several times.  Somebody decides about what is stuck.  In the end must hold,
of every saga:

- it has ended, by one event, the last of it, and table and replay say so, too;
- no step was claimed forward after compensation began, and none more often than it may be;
- what was done, or may have been, was compensated once, the last end first; nothing else was;
- each step whose executor writes its effect and its report in one transaction has that effect once, if it was
  reported as done, and else never.
"""
import argparse
import collections
import multiprocessing
import os
import random
import subprocess
import sys
import time

sys.dont_write_bytecode = True

import psycopg2

from storm_client import StormClient, retried

NAME = 'saga storm'
FINAL = ('SagaCompleted', 'SagaCompensated', 'SagaFailed')
MAX_ATTEMPTS, MAX_BACK = 3, 2
DEFINITION = """{"timeout": "20s", "steps": [
    {"name": "reserve", "compensate": true, "max_attempts": 3, "retry_initial": "5ms", "retry_max": "20ms", "timeout": "400ms", "compensation": {"max_attempts": 2}},
    {"name": "charge", "group": "g", "compensate": true, "max_attempts": 3, "retry_initial": "5ms", "retry_max": "20ms", "timeout": "400ms", "compensation": {"max_attempts": 2}},
    {"name": "print", "group": "g", "compensate": true, "max_attempts": 3, "retry_initial": "5ms", "retry_max": "20ms", "timeout": "400ms", "compensation": {"max_attempts": 2}},
    {"name": "note", "optional": true, "max_attempts": 1, "timeout": "400ms"},
    {"name": "paid", "wait": {"signal": "paid", "timeout": "10s"}},
    {"name": "ship", "max_attempts": 3, "retry_initial": "5ms", "retry_max": "20ms", "timeout": "400ms"}]}"""


class Client(StormClient):
    application, expected = NAME, {'VS007', '40P01', '55000'}

    def __init__(self, number, given, end, faults):
        super().__init__(f'{type(self).__name__} {number}', number, given, end, faults)


class Executor(Client):
    """Claims steps and does them, well or badly."""

    def turn(self):
        lease_time = self.rng.choice((20, 100, 1000))
        for claim in self.rows("SELECT saga_id, step, kind, lease FROM event_store.claim_steps('storm', %s, max_count => %s, "
                               "lease_time => %s * interval '1ms', timeout => '100ms')", self.name, self.rng.choice((1, 1, 5)), lease_time):
            self.do(*claim)

    def do(self, saga, step, kind, lease):
        luck = self.rng.random()
        if luck < 0.02:
            os._exit(0)                                   # dies, with all that it has claimed
        if luck < 0.06:
            return                                        # never says anything
        if luck < 0.12:
            time.sleep(self.rng.choice((0.03, 0.15, 0.5)))  # may be too late
        if luck > 0.90:
            self.report(saga, step, lease, 'retry')
        elif luck > (0.85 if kind == 'step' else 0.88):
            self.report(saga, step, lease, 'failed')
        else:
            self.rows('BEGIN')
            self.rows('INSERT INTO effects VALUES (%s, %s, %s)', saga, step, kind)
            self.report(saga, step, lease, 'succeeded' if kind == 'step' else 'compensated')
            self.rows('COMMIT')

    def report(self, saga, step, lease, outcome):
        said = "SELECT event_store.report_step('storm', %s, %s, %s, %s, %s)"
        self.rows(said, saga, step, outcome, lease, '{"lease": %d}' % lease)
        if self.rng.random() < 0.1:
            self.rows(said, saga, step, outcome, lease, '{"lease": %d}' % lease)


class Operator(Client):
    """Signals, cancels, decides about what is stuck, and terminates executors."""

    def turn(self):
        time.sleep(0.02)
        for saga, in self.rows("SELECT saga_id FROM event_store.sagas WHERE state IN ('running', 'compensating') ORDER BY random() LIMIT 5"):
            if self.rng.random() < 0.05:
                self.rows("SELECT event_store.cancel_saga('storm', %s, 'storm')", saga)
            else:
                self.rows("SELECT event_store.signal_saga('storm', %s, 'paid', signal_id => 'one')", saga)
        for saga, step in self.rows("SELECT saga_id, step FROM event_store.saga_status WHERE state = 'stuck' LIMIT 20"):
            action = self.rng.choice(('retry', 'retry', 'retry', 'skip', 'succeeded', 'give_up'))
            self.rows("SELECT event_store.resolve_step('storm', %s, %s, %s, 'storm')", saga, step, action)
        if self.rng.random() < 0.05:
            self.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE %s ORDER BY random() LIMIT 1",
                      f'{NAME} Executor%')


# ---------- what must hold

def fault_of(saga, state, replayed, events, effects):
    """What is wrong with a saga, or None; `events` are (type, payload)."""
    kinds = [kind for kind, _ in events]
    if [kind for kind in kinds if kind in FINAL] != [kinds[-1]]:
        return 'it does not end with its only final event'
    if {'SagaCompleted': 'completed', 'SagaCompensated': 'compensated', 'SagaFailed': 'failed'}[kinds[-1]] != state or replayed != state:
        return f'table and replay say {state}, {replayed}'
    turned = kinds.index('CompensationStarted') if 'CompensationStarted' in kinds else len(kinds)
    claims, reports, ends, undone, settled = collections.Counter(), {}, [], [], set()
    for place, (kind, payload) in enumerate(events):
        step = payload.get('step')
        if kind == 'StepClaimed':
            if payload['kind'] == 'step':
                if place > turned:
                    return f'{step} was claimed forward after compensation began'
                claims[step] += 1
                reports[step, payload['lease']] = ''
            elif payload['attempt'] > MAX_BACK:
                return f'compensation of {step} had too many attempts'
        elif kind in ('StepSucceeded', 'StepFailed'):
            if 'lease' in payload:
                reports[step, payload['lease']] = 'retry' if payload.get('retry') else kind
        elif kind == 'CompensationSucceeded':
            undone.append(step)
        elif kind == 'StepResolved' and payload['action'] in ('skip', 'succeeded'):
            settled.add(step)
        ended = kind == 'StepSucceeded' or (kind in ('StepFailed', 'StepTimedOut') and 'retry_at' not in payload)
        if ended and step not in ends:
            ends.append(step)
    if any(count > MAX_ATTEMPTS for count in claims.values()):
        return f'too many attempts: {claims}'
    return (fault_of_undone(state, events, reports, undone, settled)
            or fault_of_effects(reports, undone, effects))


def fault_of_undone(state, events, reports, undone, settled):
    gave_up = any(kind == 'StepResolved' and payload['action'] == 'give_up' for kind, payload in events)
    may = {step for (step, _), outcome in reports.items() if outcome != 'StepFailed'} & {'reserve', 'charge', 'print'}
    if len(set(undone)) < len(undone):
        return f'compensated twice: {undone}'
    if state == 'completed':
        return f'completed, but compensated {undone}' if undone else None
    if not set(undone) <= may:
        return f'{undone} was compensated, {may} may have been done'
    if not gave_up and may - set(undone) - settled:
        return f'{may} may have been done, {undone} was compensated'
    if 'reserve' in undone and undone[-1] != 'reserve':
        return f'not in reverse: {undone}'
    return None


def fault_of_effects(reports, undone, effects):
    done = collections.Counter({(step, 'step'): 1 for (step, _), outcome in reports.items() if outcome == 'StepSucceeded'})
    done.update((step, 'compensation') for step in undone)
    return None if done == effects else f'effects {dict(effects)}, done {dict(done)}'


def verify(cursor, ids, faults):
    cursor.execute("SELECT s.saga_id, s.state, r.state ->> 'state' FROM event_store.sagas s JOIN event_store.replay_aggregates('saga:storm') r "
                   "ON r.aggregate_id = s.saga_id WHERE s.saga_name = 'storm'")
    states = {saga: (state, replayed) for saga, state, replayed in cursor}
    cursor.execute("SELECT aggregate_id, event_type, payload FROM event_store.domain_events WHERE aggregate_type = 'saga:storm' ORDER BY aggregate_id, sequence")
    events = collections.defaultdict(list)
    for saga, kind, payload in cursor:
        events[saga].append((kind, payload))
    cursor.execute('SELECT saga_id, step, kind, count(*) FROM effects GROUP BY 1, 2, 3')
    effects = collections.defaultdict(collections.Counter)
    for saga, step, kind, count in cursor:
        effects[saga][step, kind] = count
    for saga in ids:
        wrong = fault_of(saga, *states.get(saga, (None, None)), events[saga], effects[saga]) if saga in states else 'it is not there'
        if wrong:
            faults.append(f'{saga}: {wrong}: {[(k, p.get("step"), p.get("kind"), p.get("lease")) for k, p in events[saga]]}')
    return collections.Counter(state for state, _ in states.values()), collections.Counter(k for log in events.values() for k, _ in log)


# ---------- the storm

def start_all(given, end, faults):
    """Starts sagas, with the server crashing in between, while executors come and go."""
    clients = [Executor(number, given, end, faults) for number in range(given.executors)] + [Operator(99, given, end, faults)]
    for client in clients:
        client.start()
    ids = [f'saga {number}' for number in range(given.sagas)]
    for number, saga in enumerate(ids):
        retried(given, "SELECT event_store.start_saga('storm', %s, '{\"n\": 1}')", saga)
        if given.crash_cmd and number % (given.sagas // 3) == given.sagas // 6:
            subprocess.run([given.crash_cmd], check=False)
        revive(given, clients, end, faults)
    return ids, clients


def revive(given, clients, end, faults):
    for place, client in enumerate(clients):
        if not client.is_alive():
            clients[place] = type(client)(client.number + 100, given, end, faults)
            clients[place].start()


def wait_for_ends(given, clients, end, faults):
    until = time.monotonic() + given.patience
    while True:
        open_sagas = retried(given, "SELECT count(*) FROM event_store.sagas WHERE state IN ('running', 'compensating', 'stuck')")[0][0]
        if open_sagas == 0 or time.monotonic() > until:
            return open_sagas
        revive(given, clients, end, faults)
        time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--dsn', required=True)
    parser.add_argument('--sagas', type=int, default=500)
    parser.add_argument('--executors', type=int, default=6)
    parser.add_argument('--crash-cmd')
    parser.add_argument('--patience', type=int, default=120)
    parser.add_argument('--seed', type=int, default=random.randrange(1 << 30))
    given = parser.parse_args()
    given.application = NAME
    print(f'  seed {given.seed}')
    end, queue, faults = multiprocessing.Event(), multiprocessing.Queue(), []
    retried(given, 'CREATE TABLE effects (saga_id text, step text, kind text)')
    retried(given, "SELECT event_store.define_saga('storm', %s)", DEFINITION)
    ids, clients = start_all(given, end, queue)
    left = wait_for_ends(given, clients, end, queue)
    end.set()
    for client in clients:
        client.join(10)
    while not queue.empty():
        faults.append(queue.get())
    if left:
        faults.append(f'{left} sagas have not ended')
    with psycopg2.connect(given.dsn) as connection, connection.cursor() as cursor:
        states, kinds = verify(cursor, ids, faults)
    for words, count in [(f'state {s}', n) for s, n in sorted(states.items())] + sorted(kinds.items()) + [('faults', len(faults))]:
        print(f'  {words} {count}')
    print('\n'.join(faults[:20]))
    return 1 if faults else 0


if __name__ == '__main__':
    multiprocessing.set_start_method('fork')
    sys.exit(main())
