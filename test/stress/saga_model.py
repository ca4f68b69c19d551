"""What a saga does, said once more: docs/sagas.md as a program that can be explored.

A Saga is a value: each input makes another one, so all sequences of inputs can be followed, those
that meet in one state together.  Time is no part of it: pauses are over by the next input, and a
lease or a queue is over when the input says so.  `problems` names what must never be.
"""
from collections import namedtuple

FINAL = ('completed', 'compensated', 'failed')
FORWARD = {'succeeded', 'failed', 'retry'}
BACKWARD = {'compensated', 'failed', 'retry'}

# What a definition says of a step.  `queue`: its requests time out; `wait`: the signal it waits for, and
# whether it goes on without.
Step = namedtuple('Step', 'name compensate attempts group wait goes_on when optional queue back_attempts',
                  defaults=(True, 2, None, None, False, True, False, False, 2))
# How far it is.  `claims`: (lease, kind, outcome), the outcome '' until it is reported.
Progress = namedtuple('Progress', 'phase attempt end lease back back_attempt claims', defaults=('none', 0, 0, 0, 'none', 0, ()))
Saga = namedtuple('Saga', 'state steps ends leases kept signals ended undone gave_up')


class Refused(Exception):
    """The call is an error, and nothing has changed."""


def stages(steps):
    """The places of steps that run side by side, in the order of the definition."""
    found = []
    for place, step in enumerate(steps):
        if step.group and found and steps[found[-1][0]].group == step.group:
            found[-1].append(place)
        else:
            found.append([place])
    return found


def may_be_done(progress):
    return any(kind == 'step' and outcome != 'failed' for _, kind, outcome in progress.claims)


class Model:
    def __init__(self, *steps):
        self.steps, self.stages = steps, stages(steps)

    # ---------- parts

    @staticmethod
    def put(saga, place, **changes):
        steps = list(saga.steps)
        steps[place] = steps[place]._replace(**changes)
        return saga._replace(steps=tuple(steps))

    def end(self, saga, place, phase):
        """A step has no further forward attempt; a later report does not move its place."""
        if not saga.steps[place].end:
            saga = self.put(saga._replace(ends=saga.ends + 1), place, end=saga.ends + 1)
        return self.put(saga, place, phase=phase)

    def is_done(self, saga, place):
        step, phase = self.steps[place], saga.steps[place].phase
        return (phase in ('done', 'skipped') or (phase == 'expired' and (step.optional or step.goes_on))
                or (phase in ('failed', 'exhausted') and step.optional))

    def finish(self, saga, state):
        return saga._replace(state=state, ended=saga.ended + 1)

    # ---------- forwards and back

    def advance(self, saga):
        for stage in self.stages:
            if all(self.is_done(saga, place) for place in stage):
                continue
            pending = [place for place in stage if saga.steps[place].phase == 'none']
            for place in pending:
                step = self.steps[place]
                if not step.when:
                    saga = self.put(saga, place, phase='skipped')
                elif not step.wait:
                    saga = self.put(saga, place, phase='queued')
                elif saga.kept:
                    saga = self.end(saga._replace(kept=saga.kept - 1), place, 'done')
                else:
                    saga = self.put(saga, place, phase='waiting')
            return self.advance(saga) if pending else saga
        return self.finish(saga, 'completed')

    def turn_back(self, saga):
        saga = saga._replace(state='compensating')
        for place, progress in enumerate(saga.steps):
            if progress.phase in ('queued', 'waiting'):
                saga = (self.end(saga, place, 'exhausted') if progress.attempt
                        else self.put(saga, place, phase='withdrawn'))
        return self.undo_next(saga)

    def undo_next(self, saga):
        if saga.state != 'compensating' or any(p.phase == 'leased' or p.back in ('queued', 'leased', 'stuck') for p in saga.steps):
            return saga
        left = [(p.end, place) for place, p in enumerate(saga.steps)
                if self.steps[place].compensate and p.back == 'none'
                and (p.phase == 'done' or (p.phase in ('exhausted', 'failed') and may_be_done(p)))]
        if left:
            return self.put(saga, max(left)[1], back='queued')
        return self.finish(saga, 'compensated' if any(p.back in ('done', 'skipped') for p in saga.steps) else 'failed')

    def go_on(self, saga, place):
        """A step has come to its end without success."""
        if saga.state != 'running':
            return self.undo_next(saga)
        return self.advance(saga) if self.is_done(saga, place) else self.turn_back(saga)

    def end_attempt(self, saga, place):
        """Nobody knows whether it had an effect."""
        if saga.state == 'running' and saga.steps[place].attempt < self.steps[place].attempts:
            return self.put(saga, place, phase='queued')
        return self.go_on(self.end(saga, place, 'exhausted'), place)

    def end_back_attempt(self, saga, place, last=False):
        if not last and saga.steps[place].back_attempt < self.steps[place].back_attempts:
            return self.put(saga, place, back='queued')
        return self.put(saga, place, back='stuck')._replace(state='stuck')

    # ---------- inputs

    def start(self):
        return self.advance(Saga('running', tuple(Progress() for _ in self.steps), 0, 0, 0, 0, 0, (), False))

    def do_claim(self, saga, place, kind):
        progress, lease = saga.steps[place], saga.leases + 1
        saga = self.put(saga._replace(leases=lease), place, lease=lease, claims=progress.claims + ((lease, kind, ''),))
        if kind == 'step':
            return self.put(saga, place, phase='leased', attempt=progress.attempt + 1)
        return self.put(saga, place, back='leased', back_attempt=progress.back_attempt + 1)

    def do_report(self, saga, place, lease, outcome):
        progress = saga.steps[place]
        kind = next(k for number, k, _ in progress.claims if number == lease)
        if saga.state in FINAL or progress.lease != lease:
            raise Refused('VS007')
        done = tuple((n, k, outcome if n == lease else o) for n, k, o in progress.claims)
        if kind == 'compensation':
            return self.report_back(saga, place, outcome, done)
        if outcome == 'retry':
            return self.end_attempt(self.put(saga, place, claims=done), place) if progress.phase == 'leased' else saga
        saga = self.put(saga, place, claims=done)
        if outcome == 'succeeded':
            saga = self.end(saga, place, 'done')
            return self.advance(saga) if saga.state == 'running' else self.undo_next(saga)
        saga = self.end(saga, place, 'failed')
        progress = saga.steps[place]
        if progress.back in ('queued', 'stuck') and not progress.back_attempt and not may_be_done(progress):
            saga = self.put(saga, place, back='none')._replace(state='compensating')
        return self.go_on(saga, place)

    def report_back(self, saga, place, outcome, done):
        back = saga.steps[place].back
        if back not in ('queued', 'leased', 'stuck'):
            raise Refused('VS007')
        if outcome == 'compensated':
            saga = self.put(saga, place, back='done', claims=done)._replace(state='compensating', undone=saga.undone + (place,))
            return self.undo_next(saga)
        if back != 'leased':
            return saga
        return self.end_back_attempt(self.put(saga, place, claims=done), place, outcome == 'failed')

    def do_lease_over(self, saga, place):
        if saga.steps[place].phase == 'leased':
            return self.end_attempt(saga, place)
        return self.end_back_attempt(saga, place)

    def do_queue_over(self, saga, place):
        progress = saga.steps[place]
        if progress.back == 'queued':
            return self.end_back_attempt(saga, place, True)
        if progress.attempt:
            saga = self.end(saga, place, 'exhausted')
        else:
            saga = self.put(saga, place, phase='expired')
        return self.go_on(saga, place)

    def do_time_over(self, saga):
        return self.turn_back(saga) if saga.state == 'running' else saga

    do_cancel = do_time_over

    def do_signal(self, saga):
        if saga.state in FINAL:
            raise Refused('55000')
        saga = saga._replace(signals=saga.signals + 1)
        if saga.state == 'running':
            for place, progress in enumerate(saga.steps):
                if progress.phase == 'waiting':
                    return self.advance(self.end(saga, place, 'done'))
        return saga._replace(kept=saga.kept + 1)

    def do_resolve(self, saga, place, action):
        saga = saga._replace(state='compensating')
        if action == 'retry':
            return self.put(saga, place, back='queued', back_attempt=0)
        if action == 'give_up':
            return self.finish(saga._replace(gave_up=True), 'failed')
        if action == 'succeeded':
            saga = saga._replace(undone=saga.undone + (place,))
        return self.undo_next(self.put(saga, place, back='done' if action == 'succeeded' else 'skipped'))

    def do(self, saga, action):
        return getattr(self, 'do_' + action[0])(saga, *action[1:])

    def inputs(self, saga):
        """What may happen now; the first of claims of a lease that was not reported, late ones as well."""
        for place, progress in enumerate(saga.steps):
            for lease, kind, outcome in progress.claims:
                if not outcome:
                    yield from (('report', place, lease, said) for said in sorted(FORWARD if kind == 'step' else BACKWARD))
            if saga.state in FINAL:
                continue
            if progress.phase == 'queued' and saga.state == 'running':
                yield ('claim', place, 'step')
            if progress.back == 'queued' and saga.state == 'compensating':
                yield ('claim', place, 'compensation')
                yield ('queue_over', place)
            if 'leased' in (progress.phase, progress.back):
                yield ('lease_over', place)
            if (progress.phase == 'queued' and self.steps[place].queue) or progress.phase == 'waiting':
                yield ('queue_over', place)
            if progress.back == 'stuck':
                yield from (('resolve', place, action) for action in ('retry', 'skip', 'succeeded', 'give_up'))
        if saga.state not in FINAL:
            yield ('cancel',)
            yield ('time_over',)
        if any(step.wait for step in self.steps) and saga.signals < 2:
            yield ('signal',)

    # ---------- what must never be

    def problems(self, saga):
        if saga.ended > 1:
            yield 'it ends twice'
        if len(set(saga.undone)) < len(saga.undone):
            yield 'a step is compensated twice'
        ends = [saga.steps[place].end for place in saga.undone]
        if ends != sorted(ends, reverse=True):
            yield 'steps are not compensated in reverse'
        leased = [p for p in saga.steps if p.phase == 'leased']
        if leased and any(p.back in ('leased', 'queued') for p in saga.steps):
            yield 'a compensation can be claimed while an attempt is live'
        for step, progress in zip(self.steps, saga.steps):
            if progress.attempt > step.attempts or progress.back_attempt > step.back_attempts:
                yield 'there are too many attempts'
        if saga.state in ('running', 'compensating') and not any(
                p.phase in ('queued', 'leased', 'waiting') or p.back in ('queued', 'leased') for p in saga.steps):
            yield 'nothing leads on'
        if saga.state in FINAL and not saga.gave_up:
            yield from self.problems_at_end(saga)

    def problems_at_end(self, saga):
        for place, (step, progress) in enumerate(zip(self.steps, saga.steps)):
            if saga.state == 'completed' and place in saga.undone:
                yield 'a completed saga has compensated'
            if saga.state == 'completed' or not step.compensate or progress.back == 'skipped':
                continue
            if may_be_done(progress) != (place in saga.undone):
                yield 'what may have been done is not what was compensated'


# Sagas of up to three steps: in a row, in a group, with a wait, with what makes no attempt.
CONFIGURATIONS = {
    'row': Model(Step('a'), Step('b'), Step('c')),
    'group': Model(Step('a', attempts=1), Step('b', attempts=1, group='g'), Step('c', attempts=1, group='g')),
    'pair': Model(Step('b', group='g'), Step('c', group='g')),
    'wait': Model(Step('a'), Step('w', compensate=False, wait='s'), Step('c', attempts=1)),
    'goes on': Model(Step('a', attempts=1), Step('w', compensate=False, wait='s', goes_on=True), Step('c', attempts=1)),
    'mixed': Model(Step('a', queue=True), Step('b', when=False), Step('c', optional=True)),
    'bare': Model(Step('a', compensate=False), Step('b', queue=True)),
    'group and wait': Model(Step('a', attempts=1), Step('b', attempts=1, group='g'), Step('w', compensate=False, wait='s', group='g')),
    'once': Model(Step('a', attempts=1, back_attempts=1), Step('b', optional=True, attempts=1, back_attempts=1)),
}
