#!/usr/bin/python3
"""Sagas in lock-step with their model: saga_replay.py --dsn … [--depth N] [--folds N]

All sequences of N inputs of every configuration of saga_model.py, those that meet in one state followed
once.  After each input the server's machine must be where the model is: the saga, each step, its attempts
and what was reported for them; what the model refuses must be refused with that SQLSTATE.  The state must
also be what the events fold to: of one in so many sequences they are folded from the first on.
"""
import argparse
import json
import sys
from datetime import datetime, timedelta, timezone

import psycopg2

from saga_model import CONFIGURATIONS, Refused

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
CHUNK = 2000

FUNCTIONS = """
CREATE OR REPLACE FUNCTION saga_try(definition jsonb, state jsonb, input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN event_store.saga_transition(definition, state, input);
EXCEPTION WHEN OTHERS THEN
    RETURN jsonb_build_object('error', SQLSTATE, 'message', SQLERRM);
END
$$;
-- the state that events fold to, each [type, payload, time]
CREATE OR REPLACE FUNCTION saga_fold(events jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT event_store.fold_events(ROW(n, 'saga:model', 'm', n, gen_random_uuid(), e ->> 0, 1, e -> 1, NULL, NULL, NULL, NULL, NULL,
                                       (e ->> 2)::timestamptz, (e ->> 2)::timestamptz)::event_store.event ORDER BY n)
      FROM jsonb_array_elements(events) WITH ORDINALITY x (e, n)
$$;
"""


def definition_of(model):
    """The definition that the model's steps stand for; nothing is over by itself."""
    steps = []
    for step in model.steps:
        said = {'name': step.name, 'max_attempts': step.attempts, 'retry_initial': '1min', 'retry_max': '1min', 'optional': step.optional}
        if step.compensate:
            said.update(compensate=True, compensation={'max_attempts': step.back_attempts, 'queue_timeout': '3000d'})
        if step.group:
            said['group'] = step.group
        if step.wait:
            said['wait'] = {'signal': step.wait, 'timeout': '3000d', 'on_timeout': 'continue' if step.goes_on else 'fail'}
        if not step.when:
            said['when'] = {'path': '$.never', 'exists': True}
        if step.queue:
            said['queue_timeout'] = '3000d'
        steps.append(said)
    return {'steps': steps}


def input_of(model, saga, action, depth):
    """An action of the model as the machine is told of it, hours after the one before."""
    kind, arguments = action[0], list(action[1:])
    said = {'do': kind, 'now': (START + timedelta(hours=depth)).isoformat()}
    if kind in ('claim', 'report', 'lease_over', 'queue_over', 'resolve'):
        said['step'] = model.steps[arguments.pop(0)].name
    if kind == 'claim':
        said.update(kind=arguments[0], lease=saga.leases + 1)
    elif kind == 'report':
        said.update(lease=arguments[0], outcome=arguments[1], result={'by': arguments[0]} if arguments[1] == 'succeeded' else None)
        if said['result'] is None:
            del said['result']
    elif kind == 'resolve':
        said['resolution'] = arguments[0]
    elif kind == 'signal':
        said.update(signal='s', context={})
    return said


def seen_of(model, state):
    """The machine's state in the words of the model."""
    steps = {step['step']: step for step in state['steps']}
    told = []
    for step in model.steps:
        found = steps.get(step.name, {})
        claims = tuple((c['lease'], c.get('kind', 'step'), c.get('outcome', '')) for c in found.get('attempts', ()))
        told.append((found.get('state', 'none'), found.get('attempt', 0), found.get('end', 0), found.get('lease', 0),
                     found.get('compensation', 'none'), found.get('compensation_attempt', 0), claims))
    kept = sum(not signal.get('taken') for signal in state.get('signals', ()))
    return state['state'], tuple(told), state.get('ends', 0), kept


def expected_of(saga):
    return saga.state, tuple(tuple(p) for p in saga.steps), saga.ends, saga.kept


class Replay:
    def __init__(self, connection, every):
        self.cursor, self.every = connection.cursor(), every
        self.transitions = self.folds = self.faults = 0

    def fault(self, name, path, words):
        self.faults += 1
        if self.faults <= 20:
            print(f'{name}: after {path}: {words}')

    def ask(self, definition, states, inputs):
        self.cursor.execute(
            'SELECT saga_try(%s, s::jsonb, i::jsonb) FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY x (s, i, n) ORDER BY n',
            [json.dumps(definition), states, inputs])
        return [row[0] for row in self.cursor]

    def check(self, name, model, node, action, answer):
        """The next node of the search where both agree, else None."""
        saga, _, path, events = node
        path = path + (action,)
        try:
            after = model.do(saga, action)
        except Refused as refused:
            if answer.get('error') != str(refused):
                self.fault(name, path, f'the model says {refused}, the machine {answer}')
            return None
        if 'error' in answer:
            self.fault(name, path, f'the machine says {answer}')
            return None
        if seen_of(model, answer['state']) != expected_of(after):
            self.fault(name, path, f'\n  model   {expected_of(after)}\n  machine {seen_of(model, answer["state"])}')
            return None
        for problem in model.problems(after):
            self.fault(name, path, problem)
        now = (START + timedelta(hours=len(path))).isoformat()
        return after, answer['state'], path, events + tuple((e['type'], e['payload'], now) for e in answer['events'])

    def fold(self, name, nodes):
        """Events, from the first on, fold to the state that the machine has gone on with."""
        for _, state, path, events in nodes:
            self.cursor.execute('SELECT saga_fold(%s) = %s', [json.dumps(events), json.dumps(state)])
            self.folds += 1
            if not self.cursor.fetchone()[0]:
                self.fault(name, path, 'its events fold to another state')

    def run(self, name, model, depth):
        definition = definition_of(model)
        first = self.ask(definition, [None], [json.dumps({'do': 'start', 'context': {}, 'now': START.isoformat()})])[0]
        saga = model.start()
        if 'error' in first or seen_of(model, first['state']) != expected_of(saga):
            return self.fault(name, (), f'it does not start: {first}')
        seen = {saga}
        layer = [(saga, first['state'], (), tuple((e['type'], e['payload'], START.isoformat()) for e in first['events']))]
        for step in range(depth):
            layer = self.next_layer(name, model, definition, layer, step + 1, seen)
        return None

    def next_layer(self, name, model, definition, layer, depth, seen):
        asked = [(node, action) for node in layer for action in model.inputs(node[0])]
        found = []
        for start in range(0, len(asked), CHUNK):
            chunk = asked[start:start + CHUNK]
            answers = self.ask(definition, [json.dumps(node[1]) for node, _ in chunk],
                               [json.dumps(input_of(model, node[0], action, depth)) for node, action in chunk])
            self.transitions += len(chunk)
            for (node, action), answer in zip(chunk, answers):
                after = self.check(name, model, node, action, answer)
                if after is not None and after[0] not in seen:
                    seen.add(after[0])
                    found.append(after)
        self.fold(name, found[::self.every])
        return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--dsn', required=True)
    parser.add_argument('--depth', type=int, default=5)
    parser.add_argument('--folds', type=int, default=20, help='one in so many new states is folded from its events')
    arguments = parser.parse_args()
    connection = psycopg2.connect(arguments.dsn, application_name='event_store saga model')
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(FUNCTIONS)
    replay = Replay(connection, arguments.folds)
    for name, model in CONFIGURATIONS.items():
        before = replay.transitions
        replay.run(name, model, arguments.depth)
        print(f'{name:>16} {replay.transitions - before}')
    print(f'  transitions {replay.transitions}\n  folds {replay.folds}\n  faults {replay.faults}')
    return 1 if replay.faults or not replay.folds else 0


if __name__ == '__main__':
    sys.exit(main())
