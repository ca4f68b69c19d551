"""What a subscription does, as a model that can be run.

An action of a Model takes what the server is asked and returns what it must answer;
Refused is an error with its SQLSTATE, Disabled says that the action would wait for another
session, or means nothing here.  The model itself checks with every event that it gives, and raises Violation:

- what is settled is not given again, nor what somebody else has by lease;
- within a partition nothing is given before what lies ahead of it is settled, or parked alone;
- nobody's position passes what is neither settled nor set aside.

Events are numbered from 1 in their order, and the letter of an event is its partition.  A position is the
number of the last event that was passed; behind the last one it is len(log) + 1, wherever that is.

What is stored stands in Member.  What shared memory knows stands in Known, and is gone after a crash.
"""
import copy


class Refused(Exception):
    """The server raises this SQLSTATE, and nothing has changed."""


class Disabled(Exception):
    """Not an action that can be taken now."""


class Violation(Exception):
    """A promise is broken."""


def member_of(partition, members):
    """The member that has a partition: FNV-1a, then the last step of MurmurHash3."""
    mask = (1 << 64) - 1
    number = 14695981039346656037
    for byte in partition.encode():
        number = (number ^ byte) * 1099511628211 & mask
    for factor in (0xff51afd7ed558ccd, 0xc4ceb9fe1a85ec53):
        number = (number ^ (number >> 33)) * factor & mask
    return (number ^ (number >> 33)) % members


class Row:
    """A partition that is set aside, or an event that is parked alone."""

    def __init__(self, first, attempts, due):
        self.first, self.attempts = first, attempts
        self.due = due         # (from when on, in which order); None = somebody has to decide
        self.limit = None      # of a batch


class Lease:
    """A batch in the hands of a consumer."""

    def __init__(self, number, events, last, partition, alone):
        self.number, self.events, self.last = number, list(events), last
        self.partition, self.alone = partition, alone
        self.over = self.crashed = False


class Member:
    """What is stored of a member."""

    def __init__(self, position=0):
        self.position = position
        self.number = 1        # of the state; each change has another one
        self.stopped = False
        self.waits = None      # from when on it goes on
        self.attempts = self.attempt_at = 0
        self.lease = None
        self.limit = self.limit_until = 0
        self.rows, self.alone, self.marks = {}, {}, set()

    def move(self, position):
        self.position = position
        if self.attempt_at <= position:
            self.attempts = self.attempt_at = 0
            self.waits = None
        if self.limit_until <= position:
            self.limit = self.limit_until = 0

    def store(self):
        self.number += 1


class Known:
    """What shared memory knows of a member."""

    def __init__(self):
        self.number = self.position = 0    # nothing for it up to there, while its state is that one
        self.limit = None
        self.retried = False
        self.aborted = 0


class Fetch:
    """A batch of the open transaction."""

    def __init__(self, events, before, row=None, partition=None, alone=False):
        self.events, self.before = list(events), before
        self.retried, self.partition, self.alone = row is not None, partition, alone
        self.attempts = row.attempts if row else 0


class Model:
    def __init__(self, log, kind, members=1, on_failure='park', max_attempts=2):
        self.log, self.kind, self.end = log, kind, len(log) + 1
        self.on_failure, self.max_attempts = on_failure, max_attempts
        self.members = [Member() for _ in range(members)]
        self.known = [Known() for _ in range(members)]
        self.dropped = {}      # numbers of members that a resize has dropped
        self.last = 0          # the member that was served last
        self.old = None        # where the members before a resize stood
        self.time = self.turn = 0
        self.acked = None      # the member whose batch a claim has acknowledged
        self.died = False      # the last session to end did so with one event in hand
        self.leases = []       # all that were given, as (member, number)
        self.fetches = []      # of the open transaction ...
        self.holder = None     # ... its member ...
        self.saved = {}        # ... all that it has locked, as they were before ...
        self.added = set()     # ... and what it has settled already
        self.touched = {}      # what a fetch has changed, as it was before
        self.settled = set()
        self.ask = None        # tells what the server gives, where that may be this or that

    # ---------- the log

    def letter(self, event):
        return self.log[event - 1]

    def key(self, letter):
        return f'{self.kind}/{letter}'

    def owner(self, letter, members=None):
        return member_of(self.key(letter), members or len(self.members))

    def events(self):
        return range(1, len(self.log) + 1)

    def old_position(self, letter):
        return self.old[self.owner(letter, len(self.old))] if self.old else 0

    def served(self, letter, passed):
        return max(passed, self.old_position(letter))

    def passed(self, m):
        member, known = self.members[m], self.known[m]
        return max(member.position, known.position if known.number == member.number else 0)

    def aside(self, member, event, behind):
        row = member.rows.get(self.letter(event))
        if event in member.alone:
            return 'event'
        if behind and row and row.first <= event:
            return 'behind'
        return 'marked' if event in member.marks else None

    def next_new(self, m, after):
        """Events for a member that are not set aside, in their order."""
        return [e for e in self.events() if e > after and self.owner(self.letter(e)) == m and
                e > self.old_position(self.letter(e)) and not self.aside(self.members[m], e, True)]

    def of_partition(self, member, letter, first, last):
        return [e for e in range(first, min(last, len(self.log)) + 1)
                if self.letter(e) == letter and not self.aside(member, e, False)]

    # ---------- what must hold

    def check_given(self, events, before=(), alone=False):
        before = set(before)
        for event in events:
            if event in self.settled or event in before:
                raise Violation(f'event {event} is given again')
            for m, member in enumerate(self.members):
                lease = member.lease
                if m != self.holder and lease and not lease.over and event in lease.events:
                    raise Violation(f'event {event} is given, and leased')
            for earlier in range(1, event):
                apart = any(earlier in member.alone for member in self.members)
                if (self.letter(earlier) == self.letter(event) and not alone and not apart and
                        earlier not in self.settled | before):
                    raise Violation(f'event {event} is given before {earlier}')
            before.add(event)

    def check(self):
        """Whatever a member has passed is settled, or there is something that says so."""
        for event in self.events():
            letter = self.letter(event)
            m = self.owner(letter)
            member = self.members[m]
            if m in self.saved:
                continue
            if member.rows.get(letter) and member.rows[letter].first in self.settled:
                raise Violation(f'{letter} waits from {member.rows[letter].first} on, which is settled')
            if (event <= self.served(letter, self.passed(m)) and event not in self.settled and
                    not self.aside(member, event, True)):
                raise Violation(f'event {event} is passed, and neither settled nor set aside')

    # ---------- what is set aside

    def pause(self, attempts):
        self.turn += 1
        return (self.time + (1 if attempts else 0), self.turn)

    def set_aside(self, member, letter, first, attempts, retrying):
        row = member.rows.get(letter)
        limit = row.limit if row else None
        row = member.rows[letter] = Row(first, attempts, self.pause(attempts) if retrying else None)
        row.limit = limit
        return 'retrying' if retrying else 'parked'

    def park_event(self, member, event):
        row = member.rows.get(self.letter(event))
        attempts = 1
        if event in member.alone:
            attempts += member.alone[event].attempts
        elif row and row.first == event:
            attempts += row.attempts
            del member.rows[self.letter(event)]
        member.alone[event] = Row(event, attempts, None)
        return 'parked'

    def settle_alone(self, member, event, served):
        member.alone.pop(event, None)
        row = member.rows.get(self.letter(event))
        if event > served or (row and row.first < event):
            member.marks.add(event)

    def advance(self, member, letter, after, served):
        """A partition waits from its next event on, or no more."""
        left = self.of_partition(member, letter, after + 1, served)
        if left:
            self.set_aside(member, letter, left[0], 0, True)
        else:
            member.rows.pop(letter, None)

    def ends(self, action, attempts):
        if action == 'retry' and self.max_attempts and attempts >= self.max_attempts:
            return self.on_failure
        return action

    def hold(self, member, event, action, attempts):
        member.attempts, member.attempt_at = attempts, event
        member.stopped = action == 'stop'
        member.waits = None if member.stopped else self.time + 1
        return 'stopped' if member.stopped else 'retrying'

    def holds(self, action):
        return action == 'stop' or (action == 'retry' and self.on_failure == 'stop')

    def fail_new(self, member, event, action, attempts):
        """Returns what was done, whether the member is held, and the action that it came to."""
        action = self.ends(action, attempts)
        if self.holds(action):
            return self.hold(member, event, action, attempts), True, action
        if action in ('retry', 'park'):
            return self.set_aside(member, self.letter(event), event, attempts, action == 'retry'), False, action
        if action == 'skip':
            self.settled.add(event)
            return 'skipped', False, action
        return self.park_event(member, event), False, action

    def fail_retried(self, member, event, action, attempts, served):
        letter = self.letter(event)
        action = self.ends(action, attempts)
        if action == 'stop':
            self.set_aside(member, letter, event, attempts, True)
            return self.hold(member, event, action, attempts)
        if action in ('retry', 'park'):
            return self.set_aside(member, letter, event, attempts, action == 'retry')
        if action == 'park_event':
            self.park_event(member, event)
        else:
            self.settled.add(event)
        self.advance(member, letter, event, served)
        return 'skipped' if action == 'skip' else 'parked'

    def fail_alone(self, member, event, action, served):
        if action == 'skip':
            self.settled.add(event)
            self.settle_alone(member, event, served)
            return 'skipped'
        self.park_event(member, event)
        return self.hold(member, event, action, 0) if action == 'stop' else 'parked'

    def count_attempt(self, member, event):
        """Of a consumer that did not come back with this event, alone, in hand."""
        letter = self.letter(event)
        aside, row = self.aside(member, event, False), member.rows.get(letter)
        served = self.served(letter, member.position)
        if aside == 'event':
            self.fail_alone(member, event, 'retry', served)
        elif aside == 'marked':
            pass
        elif row and row.first <= event:
            if row.due:
                self.fail_retried(member, event, 'retry', row.attempts + 1, served)
        elif event > served:
            attempts = 1 + (member.attempts if member.attempt_at == event else 0)
            if self.ends('retry', attempts) == 'retry':
                member.attempts, member.attempt_at = attempts, event
            elif not self.fail_new(member, event, 'retry', attempts)[1]:
                member.move(event)

    def expire(self, member):
        lease, member.lease = member.lease, None
        half = 1 if lease.crashed else max(len(lease.events) // 2, 1)
        if lease.partition is None:
            member.limit, member.limit_until = half, lease.last
        elif lease.partition in member.rows:
            member.rows[lease.partition].limit = half
        if len(lease.events) == 1:
            self.count_attempt(member, lease.events[0])

    # ---------- who is given what

    def pass_time(self):
        """All pauses are over; returns whether there are any."""
        waiting = any((m.waits or 0) > self.time or
                      any(r.due and r.due[0] > self.time for r in [*m.rows.values(), *m.alone.values()])
                      for m in [*self.members, *self.saved.values()])
        self.time += 1
        return waiting

    def due(self, m, served):
        """What of a member is to be tried again first; equal ones in whatever order the server says."""
        member = self.members[m]
        rows = [(r.due[1], r.first, r, letter, False) for letter, r in member.rows.items()
                if r.due and r.due[0] <= self.time and r.first <= self.served(letter, served)]
        rows += [(r.due[1], r.first, r, self.letter(e), True) for e, r in member.alone.items()
                 if r.due and r.due[0] <= self.time and e <= self.served(self.letter(e), served)]
        rows.sort(key=lambda row: row[:2])
        equal = [row for row in rows if row[0] == rows[0][0]]
        if len(equal) > 1 and self.ask:
            given = self.ask()
            for row in equal:
                if given and given[0] == row[1]:
                    return row[2:]
        return equal[0][2:] if equal else None

    def serve(self, lease, most, only=None):
        """Gives a batch, to a lease or to the transaction; returns its member and its events."""
        members = len(self.members)
        turns = [only] if only is not None else [(self.last + i) % members for i in range(1, members + 1)]
        for m in turns:
            if lease and m in self.saved:
                continue
            events = self.serve_member(m, lease, most, only is not None)
            if events:
                self.last = m
                return m, events
        return None

    def serve_member(self, m, lease, most, again):
        member, known = self.members[m], self.known[m]
        served = self.passed(m)
        before = copy.deepcopy(member)
        changed = False
        if not lease and known.limit is not None:
            most = min(most, known.limit - sum(len(f.events) for f in self.fetches))
        if member.lease:
            if not member.lease.over:
                return None
            self.expire(member)
            changed = True
            served = max(served, member.position)
        events = None
        if most > 0 and not member.stopped and (member.waits or 0) <= self.time:
            self.moved = False
            events = self.take_turn(m, lease, most, again, served, changed)
            changed = changed or self.moved
        if changed and not events:
            member.store()
        self.touched.setdefault(m, before)
        return events

    def take_turn(self, m, lease, most, again, served, changed):
        retried = self.known[m].retried
        events = None
        if not retried and not again:
            events = self.serve_due(m, lease, most, served)
        if not events:
            events = self.serve_new(m, lease, most, served, changed or again or m == self.acked)
        if not events and retried and not again:
            events = self.serve_due(m, lease, most, served)
        return events

    def serve_new(self, m, lease, most, served, own):
        member, known = self.members[m], self.known[m]
        if served >= self.end:
            return None
        if member.limit:
            most = min(most, member.limit)
        events = self.next_new(m, served)[:most]
        reached = events[-1] if len(events) == most else self.end
        if not events:
            if not own:
                known.number, known.position = member.number, reached
            elif reached > member.position:
                member.move(reached)
                self.moved = True
            return None
        self.check_given(events, [e for f in self.fetches for e in f.events])
        fetch = Fetch(events, (member.attempt_at, member.attempts))
        if lease:
            self.give_lease(m, events, reached, None, False, served)
        else:
            member.move(reached)
            self.give(m, fetch)
        known.retried = False
        return events

    def serve_due(self, m, lease, most, served):
        member = self.members[m]
        while True:
            found = self.due(m, served)
            if not found:
                return None
            row, letter, alone = found
            up_to = self.served(letter, served)
            events = [row.first] if alone else self.of_partition(member, letter, row.first, up_to)
            if not events:
                self.advance(member, letter, up_to, up_to)
                continue
            events = events[:min(most, row.limit or most)]
            break
        self.check_given(events, alone=alone)
        if lease:
            self.give_lease(m, events, events[-1], letter, alone, served)
        else:
            fetch = Fetch(events, None, row, letter, alone)
            if alone:
                self.settle_alone(member, row.first, up_to)
            else:
                self.advance(member, letter, events[-1], up_to)
            member.position = served
            self.give(m, fetch)
        self.known[m].retried = True
        return events

    def give(self, m, fetch):
        self.members[m].store()
        self.fetches.append(fetch)
        self.holder = m

    def give_lease(self, m, events, last, letter, alone, served):
        member = self.members[m]
        member.lease = Lease(len(self.leases) + 1, events, last, letter, alone)
        self.leases.append((m, member.lease.number))
        member.position = served
        member.store()

    # ---------- the transaction of a consumer

    def fetch(self, most):
        if self.saved and not self.fetches:
            raise Disabled
        if self.fetches:
            found = None if self.fetches[0].retried else self.serve(False, most, self.holder)
            return found[1] if found else []
        self.touched, before = {}, set(self.settled)
        found = self.serve(False, most)
        if found:
            # a member whose lease was over may have been changed on the way
            self.saved = {m: old for m, old in self.touched.items() if describe(old) != describe(self.members[m])}
            self.added = self.settled - before
        return found[1] if found else []

    def finish(self):
        self.fetches, self.holder, self.saved, self.added = [], None, {}, set()

    def commit(self):
        if not self.saved:
            raise Disabled
        if self.fetches:
            known = self.known[self.holder]
            self.settled |= {e for f in self.fetches for e in f.events}
            known.aborted = 0
            known.limit = None if known.limit is None or known.limit > 1 << 30 else known.limit * 2
        self.finish()

    def undo(self):
        m, events = self.holder, sum(len(f.events) for f in self.fetches)
        for number, member in self.saved.items():
            self.members[number] = member
        self.settled -= self.added
        if self.fetches:
            self.known[m].limit = max(1, events // 2)
            self.known[m].aborted += 1
        self.finish()

    def rollback(self):
        if not self.saved:
            raise Disabled
        self.undo()

    def die(self):
        """The session ends; with one event in hand that is an attempt, which the worker stores."""
        if not self.fetches:
            raise Disabled
        m, events = self.holder, [e for f in self.fetches for e in f.events]
        self.undo()
        self.died = len(events) == 1 and not self.members[m].lease
        if self.died:
            self.count_attempt(self.members[m], events[0])
            self.members[m].store()

    def fail_here(self, number, action):
        """The fetch survives; what lies before the event is committed."""
        events = [e for f in self.fetches for e in f.events]
        if number >= len(events):
            raise Disabled
        event = events[number]
        batch = next(f for f in self.fetches if event in f.events)
        member = self.members[self.holder]
        for fetch in self.fetches:
            fetch.events = [e for e in fetch.events if e < event]
        if not batch.retried:
            attempts = 1 + (batch.before[1] if batch.before[0] == event else 0)
            answer, held, _ = self.fail_new(member, event, action, attempts)
            member.position = event - 1 if held else event
            member.store()
        else:
            served = self.served(batch.partition, member.position)
            if batch.alone:
                answer = self.fail_alone(member, event, action, served)
            else:
                answer = self.fail_retried(member, event, action, (0 if batch.events else batch.attempts) + 1, served)
            if member.stopped:
                member.store()
        self.commit()
        return answer

    def fail_back(self, number, action):
        """The fetch is rolled back to a savepoint, the event is failed, and that commits."""
        events = [e for f in self.fetches for e in f.events]
        if number >= len(events):
            raise Disabled
        self.undo()
        return self.fail_elsewhere(events[number], action)

    def free(self, m):
        """What would wait for the open transaction is no action."""
        if m in self.saved:
            raise Disabled

    def fail_elsewhere(self, event, action):
        if event > len(self.log):
            raise Disabled
        letter = self.letter(event)
        m = self.owner(letter)
        self.free(m)
        member = self.members[m]
        if member.lease and not member.lease.over:
            raise Refused('55006')
        row = member.rows.get(letter)
        behind = row is not None and row.first <= event
        if behind and row.due:
            ended = self.ends(action, row.attempts + 1)
            if ended in ('skip', 'park_event') and ended == action and row.first != event:
                raise Refused('55000')
        if member.lease:
            member.lease = None
            member.store()
        passed = self.passed(m)
        served = self.served(letter, passed)
        if behind:
            return self.fail_behind(member, row, event, action, passed, served) if row.due else 'parked'
        aside = self.aside(member, event, False)
        if aside:
            return 'skipped' if aside == 'marked' else 'parked'
        if event <= served:
            return 'handled'
        if member.stopped:
            return 'stopped'
        return self.fail_ahead(member, event, action, passed, served)

    def fail_behind(self, member, row, failed, action, passed, served):
        """The partition waits already, and this counts for the event that it waits for."""
        event, letter, attempts = row.first, self.letter(row.first), row.attempts + 1
        ended = self.ends(action, attempts)
        if ended == 'stop':
            answer = self.hold(member, failed, ended, attempts)
            member.store()
            return answer
        if ended in ('retry', 'park'):
            return self.set_aside(member, letter, event, attempts, ended == 'retry')
        if ended == 'park_event':
            del member.rows[letter]
            self.park_event(member, event)
        else:
            self.settled.add(event)
            if event > served:
                member.marks.add(event)
        self.advance(member, letter, event, served)
        member.position = passed
        member.store()
        return 'skipped' if ended == 'skip' else 'parked'

    def fail_ahead(self, member, event, action, passed, served):
        letter = self.letter(event)
        attempts = 1 + (member.attempts if member.attempt_at == event else 0)
        action = self.ends(action, attempts)
        if self.holds(action):
            answer = self.hold(member, event, action, attempts)
            member.store()
            return answer
        member.position = passed
        member.store()
        if action in ('retry', 'park'):
            first = (self.of_partition(member, letter, served + 1, event) + [event])[0]
            return self.set_aside(member, letter, first, attempts, action == 'retry')
        if action == 'park_event':
            return self.park_event(member, event)
        self.settled.add(event)
        member.marks.add(event)
        return 'skipped'

    # ---------- leases

    def claim(self, most):
        found = self.serve(True, most)
        if not found:
            return None
        m, events = found
        return [(m, e, 1 + self.attempts_before(m, e)) for e in events]

    def attempts_before(self, m, event):
        member = self.members[m]
        lease = member.lease
        if lease.alone:
            return member.alone[event].attempts
        if lease.partition is not None:
            return member.rows[lease.partition].attempts
        return member.attempts if member.attempt_at in (0, event) else 0

    def open_lease(self, number):
        """The lease with a number, if it is the newest one of its member."""
        if number > len(self.leases) or number < 1:
            raise Disabled
        m = self.leases[number - 1][0]
        if m >= len(self.members):
            raise Refused('VS007')
        self.free(m)
        member = self.members[m]
        if not member.lease or member.lease.number != number:
            raise Refused('VS007')
        return m, member, member.lease

    def settle_batch(self, member, lease, up_to):
        """All of it up to there is handled, or given up."""
        if lease.partition is None:
            member.move(up_to)
        elif lease.alone:
            self.settle_alone(member, lease.events[0], self.served(lease.partition, member.position))
        else:
            self.advance(member, lease.partition, up_to, self.served(lease.partition, member.position))

    def ack(self, number, count=None, failed=(), action='retry'):
        _, member, lease = self.open_lease(number)
        count = len(lease.events) if count is None else min(count, len(lease.events))
        if any(f >= count for f in failed):
            raise Disabled
        failed = [lease.events[f] for f in failed]
        up_to = lease.last if count == len(lease.events) else lease.events[count - 1]
        handled = [e for e in lease.events[:count] if e not in failed]
        if action not in ('skip', 'park_event'):
            firsts = {}
            for event in failed:
                firsts.setdefault(self.letter(event), event)
            handled = [e for e in handled if e < firsts.get(self.letter(e), self.end)]
        if failed and not self.ack_failed(member, lease, failed, handled, up_to, action):
            member.lease = None
            member.store()
            return True
        self.settle(handled)
        self.settle_batch(member, lease, up_to)
        rest = [e for e in lease.events[count:]
                if not self.aside(member, e, lease.partition is None)]
        lease.events = rest
        if not rest:
            member.lease = None
            if lease.partition is None:
                member.move(lease.last)
        member.store()
        return not rest

    def settle(self, events):
        if set(events) & self.settled:
            raise Violation(f'{events} are handled again')
        self.settled |= set(events)

    def ack_failed(self, member, lease, failed, handled, up_to, action):
        """Takes what failed out of a lease; returns whether that goes on."""
        if lease.alone:
            self.fail_alone(member, failed[0], action, self.served(lease.partition, member.position))
            return False
        alone = action in ('skip', 'park_event')
        if lease.partition is not None:
            if alone:
                for event in failed:
                    if action == 'park_event':
                        self.park_event(member, event)
                    else:
                        self.settled.add(event)
                return True
            row = member.rows[lease.partition]
            before = lease.events[0] < failed[0]
            self.settle(handled)
            self.fail_retried(member, failed[0], action, (0 if before else row.attempts) + 1,
                              self.served(lease.partition, member.position))
            return False
        seen = set()
        for event in failed:
            if self.letter(event) in seen and not alone:
                continue
            seen.add(self.letter(event))
            attempts = 1 + (member.attempts if member.attempt_at == event else 0)
            _, held, ended = self.fail_new(member, event, action, attempts)
            if held:
                self.settle([e for e in handled if e < event])
                member.move(event - 1)
                return False
            if action == 'retry' and ended in ('skip', 'park_event'):
                self.advance(member, self.letter(event), event, up_to)
        return True

    def claim_next(self, number, most):
        m = self.open_lease(number)[0]
        self.ack(number)
        # both are one state of the member
        self.acked, stored = m, self.members[m].number
        answer = self.claim(most)
        self.acked = None
        self.members[m].number = max(stored, self.members[m].number - 1)
        return answer

    def ack_open(self, number):
        """A transaction that acknowledges, and is not over."""
        if self.saved:
            raise Disabled
        m, member, _ = self.open_lease(number)
        saved, before = copy.deepcopy(member), set(self.settled)
        answer = self.ack(number)
        self.holder, self.saved, self.added = m, {m: saved}, self.settled - before
        return answer

    def release(self, number):
        _, member, _ = self.open_lease(number)
        member.lease = None
        member.store()
        return True

    def extend(self, number, short):
        _, member, lease = self.open_lease(number)
        if lease.crashed:
            raise Refused('VS007')
        lease.over = short
        member.store()

    # ---------- who decides

    def retry(self):
        count = 0
        self.turn += 1
        for m, member in enumerate(self.members):
            if m in self.saved and (member.rows or member.alone or self.saved[m].rows or self.saved[m].alone):
                raise Disabled
        for member in self.members:
            rows = [*member.rows.values(), *member.alone.values()]
            for row in rows:
                row.attempts, row.limit, row.due = 0, None, (self.time, self.turn)
                count += 1
        return count

    def discard(self, letter):
        m = self.owner(letter)
        self.free(m)
        member = self.members[m]
        passed = self.passed(m)
        served = self.served(letter, passed)
        lease = member.lease
        voided = lease is not None and lease.partition == letter
        if voided:
            member.lease = lease = None
        last = max(served, lease.last) if lease and lease.partition is None else served
        if voided or passed > member.position:
            member.position = passed
            member.store()
        row = member.rows.get(letter)
        count = 0
        if row:
            events = self.of_partition(member, letter, row.first, max(last, row.first))
            del member.rows[letter]
            for event in {row.first, *events}:
                if event > served:
                    member.marks.add(event)
            self.settled |= {row.first, *events}
            count += len(events)
        for event in [e for e in member.alone if self.letter(e) == letter]:
            self.settled.add(event)
            self.settle_alone(member, event, served)
            count += 1
        return count

    def resume(self):
        for m, member in enumerate(self.members):
            if m not in self.saved and (member.stopped or member.waits is not None):
                member.stopped, member.waits = False, None
                member.attempts = member.attempt_at = 0
                member.store()

    def move(self, position):
        """Paused, moved and resumed."""
        if self.saved or position > len(self.log):
            raise Disabled
        rows, alone = {}, set()
        for member in self.members:
            member.position = position
            member.lease = None
            member.limit = member.limit_until = 0
            member.store()
            member.marks = {e for e in member.marks if e <= position}
            for letter, row in list(member.rows.items()):
                before = self.of_partition(member, letter, position + 1, row.first - 1)
                if before:
                    self.set_aside(member, letter, before[0], 0, row.due is not None)
            rows.update(member.rows)
            alone |= set(member.alone)
        self.old = None
        self.resume()
        for event in self.events():
            row = rows.get(self.letter(event))
            waits = event in alone or row and row.first <= event
            if event > position:
                self.settled.discard(event)
            elif not waits:
                self.settled.add(event)

    def places(self):
        """Where all members stand, without leases that are over; refused where a resize is."""
        highest = max(self.old) if self.old else 0
        places = []
        for m, member in enumerate(self.members):
            if member.lease:
                self.expire(member)
            if member.stopped:
                raise Refused('55000')
            places.append(self.passed(m))
            if places[-1] < highest:
                raise Refused('55006')
        return places

    def resize(self, count):
        if self.saved:
            raise Disabled
        if count == len(self.members):
            return
        if any(m.lease and not m.lease.over for m in self.members):
            raise Disabled
        before = copy.deepcopy(self.members)
        try:
            places = self.places()
        except Refused:
            self.members = before
            raise
        olds, lowest = self.members, min(places)
        numbers = dict(self.dropped)
        numbers.update({m: member.number for m, member in enumerate(olds)})
        self.members = [Member(lowest) for _ in range(count)]
        self.known = [Known() for _ in range(count)]
        self.old = None
        self.share_out(olds)
        self.hand_on_attempts(olds)
        for m, member in enumerate(self.members):
            member.number = numbers.get(m, 0) + 1
        self.dropped = {m: number for m, number in numbers.items() if m >= count}
        self.old = None if lowest == max(places) else places

    def share_out(self, olds):
        for old in olds:
            for letter, row in old.rows.items():
                self.members[self.owner(letter)].rows[letter] = row
            for event, row in old.alone.items():
                self.members[self.owner(self.letter(event))].alone[event] = row
            for event in old.marks:
                self.members[self.owner(self.letter(event))].marks.add(event)

    def hand_on_attempts(self, olds):
        for old in olds:
            if not old.attempts:
                continue
            event = old.attempt_at
            m = self.owner(self.letter(event))
            to = self.members[m]
            if self.aside(to, event, True) or (to.attempts and to.attempt_at < event):
                continue
            to.attempts, to.attempt_at, to.waits = old.attempts, event, old.waits

    # ---------- the server

    def crash(self):
        """What was open is rolled back and counts nothing; leases are over; shared memory is empty."""
        if self.saved:
            self.undo()
        self.last = 0
        self.known = [Known() for _ in self.members]
        for member in self.members:
            if member.lease:
                member.lease.over = member.lease.crashed = True

    # ---------- what can be seen

    def row_of(self, m):
        """A member as others see it stored."""
        member = self.saved.get(m, self.members[m])
        lease = member.lease
        return [m, member.number, member.position, member.stopped, member.attempts, member.attempt_at, member.waits is not None,
                lease.number if lease else None, lease.events[0] if lease else None, lease.last if lease else None,
                len(lease.events) if lease else None, lease.partition if lease else None, lease.alone if lease else None,
                member.limit, member.limit_until]

    def rows_of(self):
        """What is set aside, as others see it."""
        rows = []
        for m, member in enumerate(self.members):
            member = self.saved.get(m, member)
            rows += [[r.first, letter, 'retrying' if r.due else 'parked', r.attempts, r.limit] for letter, r in member.rows.items()]
            rows += [[e, self.letter(e), 'event', r.attempts, r.limit] for e, r in member.alone.items()]
        return sorted(rows, key=lambda row: row[:2])

    def status_of(self, m):
        member = self.saved.get(m, self.members[m])
        known, lease = self.known[m], member.lease
        passed = max(member.position, known.position if known.number == member.number else 0)
        if member.stopped:
            state = 'stopped'
        elif m == self.holder and self.fetches:
            state = 'fetching'
        elif lease and not lease.over:
            state = 'leased'
        else:
            state = 'retrying' if lease or known.aborted or member.attempts else 'idle'
        return [m, passed, state, max(known.aborted, member.attempts), len(member.rows) + len(member.alone)]

    def fingerprint(self):
        """Equal ones go on alike."""
        ask, self.ask = self.ask, None
        plain = copy.deepcopy(self)
        self.ask = ask
        turns = sorted({r.due[1] for m in [*plain.members, *plain.saved.values()] for r in [*m.rows.values(), *m.alone.values()] if r.due})
        for member in [*plain.members, *plain.saved.values()]:
            member.waits = member.waits and 1 + (member.waits > self.time)
            for row in [*member.rows.values(), *member.alone.values()]:
                if row.due:
                    row.due = (row.due[0] > self.time, turns.index(row.due[1]))
        return repr(describe({k: v for k, v in vars(plain).items() if k not in ('time', 'turn', 'ask', 'touched')}))


def describe(value):
    if isinstance(value, dict):
        return sorted((repr(k), describe(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return [describe(v) for v in value]
    if isinstance(value, set):
        return sorted(value)
    if hasattr(value, '__dict__'):
        return describe(vars(value))
    return value
