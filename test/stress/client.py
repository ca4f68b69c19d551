"""One client of the stress run: random transactions, and the ledger of them.

A transaction is a list of calls.  Each call remembers its events, whether it
still counts (no savepoint before it was rolled back to), and what the server
answered.  The transaction's outcome is "committed" only if COMMIT was
acknowledged, "unknown" if the connection was lost while it was under way, and
"rolled back" otherwise.

Every event carries a token of its own, as correlation_id, by which it is found
in the log.  Events of the pool are the same for all clients: several try to
append the same event_id at about the same time.
"""
import hashlib
import json
import multiprocessing
import os
import random
import time
import traceback
import uuid

import psycopg2

CLIENT_NAME = 'stress client '
LEVELS = ['read committed', 'repeatable read', 'serializable']
CRASH_STATES = {'57P01', '57P02', '57P03', None}
EXISTS = -4
FAR_TOO_HIGH = 10 ** 9
REMEMBERED_CALLS = 30
MANY_AGGREGATES = 300               # more than a call locks one by one


def digest(payload, payload_bytes):
    """The fingerprint of a content, as client and log both have it."""
    if payload_bytes is not None:
        content = bytes(payload_bytes)
    else:
        content = json.dumps(payload, sort_keys=True).encode()
    return hashlib.md5(content).hexdigest()


class Failure(Exception):
    """A statement failed; the connection may be gone."""

    def __init__(self, error, lost):
        super().__init__(str(error).strip())
        self.sqlstate = error.pgcode
        self.detail = error.diag.message_detail
        self.lost = lost


class Event:
    def __init__(self, aggregate, token, event_id=None, payload=None, payload_bytes=None,
                 expected=None):
        self.aggregate = aggregate
        self.token = token
        self.event_id = event_id
        self.payload = payload
        self.payload_bytes = payload_bytes
        self.expected = expected
        self.event_type = 'Happened' + token[-1]

    def as_json(self, with_aggregate):
        fields = {'event_type': self.event_type, 'correlation_id': self.token,
                  'payload': self.payload}
        if self.event_id is not None:
            fields['event_id'] = self.event_id
        if with_aggregate is not None:
            fields['aggregate_type'] = with_aggregate
            fields['aggregate_id'] = self.aggregate
            if self.expected is not None:
                fields['expected_sequence'] = self.expected
        return fields


class Call:
    """One append: what is asked for, and then what came of it."""

    def __init__(self, form, events, durability, on_conflict='error', purpose='new'):
        self.form = form            # event, events, batch, json
        self.events = events
        self.durability = durability
        self.on_conflict = on_conflict
        self.purpose = purpose      # new, pool, retry, misuse, race
        self.live = True
        self.sqlstate = None
        self.answered = False
        self.results = []           # per event: outcome, sequence, position, event_id
        self.must_repeat = {}       # token -> sequence known to be in the store

    def statement(self, run):
        if self.form == 'event':
            event = self.events[0]
            return ('SELECT * FROM event_store.append_event(%s, %s, %s, %s, payload => %s,'
                    ' event_id => %s, correlation_id => %s, payload_bytes => %s,'
                    ' durability => %s)',
                    (run, event.aggregate, event.expected, event.event_type,
                     None if event.payload is None else json.dumps(event.payload),
                     event.event_id, event.token, event.payload_bytes, self.durability))
        if self.form == 'events':
            return ('SELECT * FROM event_store.append_events(%s, %s, %s, %s, %s)',
                    (run, self.events[0].aggregate, self.events[0].expected,
                     json.dumps([event.as_json(None) for event in self.events]),
                     self.durability))
        if self.form == 'json':
            return ('SELECT * FROM event_store.append_batch(%s::jsonb, %s, %s)',
                    (json.dumps([event.as_json(run) for event in self.events]),
                     self.on_conflict, self.durability))
        return ('SELECT * FROM event_store.append_batch(%s, %s, %s, %s::jsonb[],'
                ' expected_sequences => %s::bigint[], event_ids => %s::uuid[],'
                ' correlation_ids => %s, payload_bytes => %s::bytea[],'
                ' on_conflict => %s, durability => %s)',
                ([run] * len(self.events), [e.aggregate for e in self.events],
                 [e.event_type for e in self.events],
                 [None if e.payload is None else json.dumps(e.payload) for e in self.events],
                 [e.expected for e in self.events], [e.event_id for e in self.events],
                 [e.token for e in self.events], [e.payload_bytes for e in self.events],
                 self.on_conflict, self.durability))

    def take_answer(self, rows):
        self.answered = True
        if self.form in ('batch', 'json'):
            self.results = [(outcome, sequence, position, event_id)
                            for _, event_id, sequence, position, outcome in rows]
            return
        first, last, position, _, outcome, _ = rows[0]
        count = len(self.events)
        for i in range(count):
            # one aggregate's positions of one call follow each other
            own = None
            if position is not None and (outcome == 'appended' or i == count - 1):
                own = position - (count - 1 - i)
            sequence = first + i if outcome == 'appended' or count == 1 else (
                first if i == 0 else last if i == count - 1 else None)
            self.results.append((outcome, sequence, own, self.events[i].event_id))

    def expects(self):
        return any(event.expected is not None for event in self.events)

    def for_ledger(self):
        return {'form': self.form, 'purpose': self.purpose, 'durability': self.durability,
                'on_conflict': self.on_conflict, 'live': self.live,
                'sqlstate': self.sqlstate, 'answered': self.answered,
                'events': [[e.aggregate, e.token, e.event_id, e.expected, e.event_type,
                            digest(e.payload, e.payload_bytes)] for e in self.events],
                'results': self.results}


class Client(multiprocessing.Process):
    def __init__(self, number, given, run, began, until, folder):
        super().__init__(name=f'client {number}')
        self.number = number
        self.given = given
        self.run_name = run
        self.began = began
        self.until = until
        self.folder = folder
        self.tokens = 0
        self.transactions = 0
        self.known = []             # (call, incarnation) that may be repeated
        self.heads = {}             # what this client saw committed, by aggregate
        self.incarnation = None
        self.cursor = None
        self.home = None            # the aggregate that this transaction is about
        self.alone = False          # a call is committed by itself

    # ---------- the process ----------

    def run(self):
        self.rng = random.Random(self.given.seed * 1000 + self.number)
        path = os.path.join(self.folder, f'client-{self.number}.jsonl')
        with open(path, 'w') as self.ledger:
            try:
                self.connect()
                while time.monotonic() < self.until:
                    if self.connection.closed:
                        self.connect()
                    self.transaction()
            except Exception:
                self.ledger.write(json.dumps({'broken': traceback.format_exc()}) + '\n')
                raise

    def connect(self):
        deadline = time.monotonic() + 120
        while True:
            try:
                self.connection = psycopg2.connect(
                    self.given.dsn, application_name=f'{CLIENT_NAME}{self.number}')
                self.connection.autocommit = True
                self.cursor = self.connection.cursor()
                self.cursor.execute("SET deadlock_timeout = '50ms'")
                if self.given.asynchronous:
                    self.cursor.execute('SET synchronous_commit = off')
                # a new one after every crash
                self.cursor.execute("SELECT backend_start::text FROM pg_stat_activity"
                                    " WHERE backend_type = 'checkpointer'")
                incarnation = self.cursor.fetchone()[0]
                if incarnation != self.incarnation:
                    self.heads = {}
                self.incarnation = incarnation
                return
            except (psycopg2.Error, TypeError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05 + 0.1 * self.rng.random())

    def execute(self, sql, arguments=None):
        try:
            self.cursor.execute(sql, arguments)
            return self.cursor.fetchall() if self.cursor.description else []
        except psycopg2.Error as error:
            lost = self.connection.closed != 0 or error.pgcode in CRASH_STATES
            if lost:
                self.connection.close()
            raise Failure(error, lost) from error

    # ---------- making events and calls ----------

    def new_token(self):
        self.tokens += 1
        return f'c{self.number}-{self.tokens}'

    def make_id(self, name):
        return str(uuid.uuid5(uuid.NAMESPACE_OID, self.run_name + name))

    def pick_aggregate(self):
        return self.home or f'a-{self.rng.randrange(self.given.aggregates)}'

    def pick_durability(self):
        # of calls that can be grouped some are, if they may be durable at all
        if self.alone and self.given.durability in ('durable', 'mix') and self.rng.random() < 0.5:
            return 'grouped'
        shares = {'durable': 1, 'staged': 0, 'mix': 0.33, 'mostly staged': 0.01}
        return 'durable' if self.rng.random() < shares[self.given.durability] else 'staged'

    def fill(self, event, bytes_allowed):
        """Gives an event a content: mostly small, now and then large."""
        size = self.rng.choice([0] * 30 + [50] * 15 + [3000] * 3 + [20000])
        noise = '%0*x' % (size, self.rng.getrandbits(4 * size)) if size else ''
        if bytes_allowed and self.rng.random() < 0.1:
            event.payload_bytes = (event.token + noise).encode()
        else:
            event.payload = {'token': event.token, 'noise': noise}

    def expectation(self, aggregate):
        """Mostly true or none at all, sometimes wrong."""
        dice = self.rng.random()
        if dice < 0.45:
            return None
        if dice < 0.80:
            return self.head(aggregate)
        return self.rng.choice([EXISTS, EXISTS, 0, FAR_TOO_HIGH, self.rng.randrange(1, 50),
                                self.heads.get(aggregate, 0)])

    def head(self, aggregate):
        return self.execute('SELECT event_store.aggregate_sequence(%s, %s)',
                            (self.run_name, aggregate))[0][0]

    def new_call(self):
        forms = ['event'] * 3
        if self.given.batches:
            forms += ['events', 'batch', 'json']
        form = self.rng.choice(forms)
        with_ids = self.rng.choice([True, False, None])
        count = 1
        if form != 'event':
            count = self.rng.choice([1, 2, 2, 3, 4, 6, 10])
            if self.rng.random() < 0.01:
                count = 300
        many = form in ('batch', 'json')
        aggregates = [self.pick_aggregate()
                      for _ in range(self.rng.choice([1, 2, 3, 5]) if many else 1)]
        choose = self.rng.choice
        if many and self.given.aggregates >= MANY_AGGREGATES and self.rng.random() < 0.05:
            count = MANY_AGGREGATES
            aggregates = [f'a-{i}' for i in self.rng.sample(range(self.given.aggregates), count)]
            choose = list.pop
        events = []
        expected = {}
        for _ in range(count):
            event = Event(choose(aggregates), self.new_token())
            if with_ids or (with_ids is None and self.rng.random() < 0.5):
                event.event_id = self.make_id(event.token)
            self.fill(event, form in ('event', 'batch'))
            if many or not events:
                self.expect(event, expected)
            events.append(event)
        return Call(form, events, self.pick_durability(),
                    self.rng.choice(['error', 'report']) if many else 'error')

    def expect(self, event, expected):
        """An event of a batch expects what the events before it leave behind."""
        if event.aggregate not in expected:
            event.expected = self.expectation(event.aggregate)
            if event.expected is not None and event.expected >= 0:
                expected[event.aggregate] = event.expected + 1
            else:
                expected[event.aggregate] = None
        elif expected[event.aggregate] is not None:
            if self.rng.random() < 0.5:
                event.expected = expected[event.aggregate]
            expected[event.aggregate] += 1

    def pool_events(self):
        """Events that other clients try to append just now, too."""
        slot = int((time.monotonic() - self.began) * self.given.clients)
        slot -= self.rng.randrange(3)
        count = 1 + slot % 3 if self.given.batches else 1
        aggregate = f'a-{slot % self.given.aggregates}'
        events = []
        for i in range(count):
            token = f'p{slot}-{i}'
            events.append(Event(aggregate, token, self.make_id(token), {'token': token}))
        return events

    def pool_call(self):
        events = self.pool_events()
        events[0].expected = self.expectation(events[0].aggregate)
        if len(events) == 1 and self.rng.random() < 0.5:
            form = 'event'
        else:
            form = self.rng.choice(['events', 'batch', 'json'])
        on_conflict = 'error'
        if form in ('batch', 'json') and self.rng.random() < 0.5:
            # aggregates are written or repeated each for itself
            on_conflict = 'report'
            for _ in range(self.rng.randrange(3)):
                event = Event(self.pick_aggregate(), self.new_token())
                if event.aggregate != events[0].aggregate:
                    self.fill(event, False)
                    events.append(event)
        return Call(form, events, self.pick_durability(), on_conflict, 'pool')

    def retry_call(self):
        """One that this client made before, whatever became of it."""
        before, incarnation = self.rng.choice(self.known)
        call = Call(before.form, before.events, self.pick_durability(),
                    before.on_conflict, 'retry')
        if incarnation == self.incarnation:
            call.must_repeat = before.must_repeat
        return call

    def misuse_call(self):
        """An event_id that is durable, with other content or in a partial list."""
        candidates = [event for call, _ in self.known
                      for event, result in zip(call.events, call.results)
                      if event.token in call.must_repeat and result[2] is not None]
        if not candidates:
            return None
        stored = self.rng.choice(candidates)
        other = Event(stored.aggregate, self.new_token(), stored.event_id)
        self.fill(other, False)
        if not self.given.batches or self.rng.random() < 0.5:
            if self.rng.random() < 0.3:
                other.aggregate = self.pick_aggregate()
            return Call('event', [other], self.pick_durability(), purpose='misuse')
        other.event_id = None
        events = [stored, other]
        self.rng.shuffle(events)
        if stored.payload is None:
            return Call('batch', events, self.pick_durability(), purpose='misuse')
        return Call(self.rng.choice(['events', 'json']), events, self.pick_durability(),
                    purpose='misuse')

    def race_call(self):
        """One id for several aggregates at once; only one can have it."""
        slot = int((time.monotonic() - self.began) * self.given.clients / 2)
        event = Event(self.pick_aggregate(), self.new_token(), self.make_id(f'race{slot}'))
        self.fill(event, False)
        return Call('event', [event], 'durable', purpose='race')

    def pick_call(self):
        dice = self.rng.random()
        if dice < 0.15:
            return self.pool_call()
        if dice < 0.27 and self.known:
            return self.retry_call()
        if dice < 0.30:
            return self.misuse_call() or self.new_call()
        # with staged events in play the loser could be found only by the drain
        if dice < 0.36 and self.given.durability == 'durable':
            return self.race_call()
        return self.new_call()

    # ---------- running them ----------

    def transaction(self):
        self.transactions += 1
        self.calls = []
        self.violations = []
        self.several = not self.given.single and self.rng.random() < 0.3
        self.home = None
        if self.several and self.rng.random() < 0.7:
            # what stays with one aggregate takes no part in a deadlock
            self.home = self.pick_aggregate()
        self.level = self.given.isolation
        if self.level == 'mix':
            self.level = self.rng.choice(LEVELS[:1] * 3 + LEVELS[1:])
        explicit = self.several or self.level != LEVELS[0] or self.rng.random() < 0.2
        outcome = self.explicit() if explicit else self.single()
        self.finish(outcome, explicit)

    def single(self):
        """One call, committed by itself."""
        try:
            self.alone = True
            call = self.pick_call()
            self.alone = False
            if self.given.cancel and self.rng.random() < 0.1:
                self.execute('SET statement_timeout = %d' % self.rng.randrange(1, 20))
        except Failure as failure:
            self.alone = False
            self.check_failure(None, failure)
            return 'rolled back'
        outcome = 'committed'
        try:
            self.make(call)
        except Failure as failure:
            # what is grouped is committed elsewhere
            cancelled = call.durability == 'grouped' and failure.sqlstate == '57014'
            outcome = 'unknown' if failure.lost or cancelled else 'rolled back'
        try:
            if self.given.cancel:
                self.execute('RESET statement_timeout')
        except Failure as failure:
            self.check_failure(None, failure)
        return outcome

    def explicit(self):
        try:
            self.execute(f'BEGIN ISOLATION LEVEL {self.level}')
            if self.given.cancel and self.rng.random() < 0.1:
                self.execute('SET LOCAL statement_timeout = %d' % self.rng.randrange(1, 20))
            if self.several:
                for _ in range(self.rng.randrange(2, 6)):
                    self.step(0)
            else:
                self.make(self.pick_call())
            if self.rng.random() < 0.2:
                self.execute('ROLLBACK')
                return 'rolled back'
        except Failure as failure:
            self.check_failure(None, failure)
            return self.give_up(failure)
        try:
            self.execute('COMMIT')
        except Failure as failure:
            self.check_failure(None, failure)
            if failure.lost:
                return 'unknown'
            return self.give_up(failure)
        if self.cursor.statusmessage != 'COMMIT':
            self.violations.append(f'COMMIT answered {self.cursor.statusmessage}')
        return 'committed'

    def give_up(self, failure):
        """Ends the transaction, which stays open when its ROLLBACK is cancelled, too."""
        while not failure.lost:
            try:
                self.execute('ROLLBACK')
                break
            except Failure as another:
                failure = another
                self.check_failure(None, failure)
        return 'rolled back'

    def step(self, depth):
        """A call as it is, or some within a savepoint."""
        if self.rng.random() < 0.5:
            self.make(self.pick_call())
            return
        first = len(self.calls)
        self.execute(f'SAVEPOINT s{depth}')
        try:
            for _ in range(self.rng.randrange(1, 3)):
                if depth < 2 and self.rng.random() < 0.3:
                    self.step(depth + 1)
                else:
                    self.make(self.pick_call())
            keep = self.rng.random() < 0.6
        except Failure as failure:
            if failure.lost:
                raise
            self.check_failure(None, failure)
            keep = False
        if keep:
            self.execute(f'RELEASE SAVEPOINT s{depth}')
            return
        self.execute(f'ROLLBACK TO SAVEPOINT s{depth}')
        for call in self.calls[first:]:
            call.live = False

    def make(self, call):
        self.calls.append(call)
        sql, arguments = call.statement(self.run_name)
        try:
            rows = self.execute(sql, arguments)
        except Failure as failure:
            call.sqlstate = failure.sqlstate or 'lost'
            self.check_failure(call, failure)
            failure.checked = True
            raise
        call.take_answer(rows)
        self.check_answer(call)

    # ---------- judging on the spot ----------

    def check_failure(self, call, failure):
        """Whether this error may have come of this call, or of another statement."""
        if getattr(failure, 'checked', False):
            return
        state = failure.sqlstate
        allowed = set()
        if self.given.kill_backends or self.given.crash_cmd:
            allowed.add('57P01')
            if failure.lost:
                allowed.add(None)
        if self.given.crash_cmd:
            allowed |= {'57P02', '57P03'}
        if self.given.cancel:
            allowed.add('57014')
        if self.level == 'serializable':
            allowed.add('40001')
        # a cycle of other transactions may find its victim in their queue
        if not self.given.single:
            allowed.add('40P01')
        if call is not None and call.expects():
            allowed.add('VS001')
        if call is not None and call.purpose in ('misuse', 'race'):
            allowed.add('VS002')
        if state not in allowed:
            self.violations.append(f'{state} under {self.level}: {failure}; {failure.detail}; '
                                   f'{call and call.for_ledger()}')
        elif state == 'VS001':
            self.check_conflict(call, failure)

    def check_conflict(self, call, failure):
        detail = json.loads(failure.detail)
        given = [event.expected for event in call.events
                 if event.aggregate == detail['aggregate_id']]
        actual = detail['actual']
        wrong = actual is None or detail['expected'] not in given
        if not wrong:
            wrong = (actual > 0) if detail['expected'] == EXISTS else actual == detail['expected']
        if wrong or detail['aggregate_type'] != self.run_name:
            self.violations.append(f'VS001 does not fit: {failure.detail}; {call.for_ledger()}')

    def check_answer(self, call):
        """What a success says must agree with what was asked for."""
        if len(call.results) != len(call.events):
            self.violations.append(f'answers are missing: {call.for_ledger()}')
            return
        for event, (outcome, sequence, position, event_id) in zip(call.events, call.results):
            wrong = None
            if call.purpose == 'misuse' and outcome != 'conflict':
                wrong = 'misuse was accepted'
            elif event.event_id is not None and event_id != event.event_id:
                wrong = 'another event_id came back'
            elif event.token in call.must_repeat:
                if outcome != 'duplicate':
                    wrong = 'a repeated event is none'
                elif sequence not in (call.must_repeat[event.token], None):
                    wrong = f'a repeated event had sequence {call.must_repeat[event.token]}'
            if outcome == 'appended' and event.expected is not None:
                fits = sequence > 1 if event.expected == EXISTS else sequence == event.expected + 1
                if not fits:
                    wrong = f'expected {event.expected}, appended as {sequence}'
            if outcome == 'appended' and call.durability != 'staged' and position is None:
                wrong = 'a durable event has no position'
            if outcome == 'conflict' and call.on_conflict != 'report':
                wrong = 'a conflict nobody asked to be told of'
            if wrong:
                self.violations.append(f'{wrong}: {event.token} {outcome} {sequence} {position};'
                                       f' {call.for_ledger()}')

    def finish(self, outcome, explicit):
        """Writes the ledger, and remembers what may be repeated."""
        for call in self.calls:
            counts = outcome == 'committed' and call.live and call.answered
            if counts:
                self.note_heads(call)
            if call.purpose in ('new', 'retry') and all(e.event_id for e in call.events):
                self.remember(call, counts)
        line = {'client': self.number, 'transaction': self.transactions,
                'incarnation': self.incarnation, 'level': self.level, 'explicit': explicit,
                'outcome': outcome, 'calls': [call.for_ledger() for call in self.calls],
                'violations': self.violations}
        self.ledger.write(json.dumps(line) + '\n')
        self.ledger.flush()

    def note_heads(self, call):
        for event, (kind, sequence, _, _) in zip(call.events, call.results):
            if kind == 'appended':
                self.heads[event.aggregate] = max(self.heads.get(event.aggregate, 0), sequence)

    def remember(self, call, counts):
        if counts:
            call.must_repeat = {
                event.token: result[1] for event, result in zip(call.events, call.results)
                if result[0] in ('appended', 'duplicate') and result[1] is not None}
        else:
            call.must_repeat = {}
        if call.purpose == 'new':
            self.known.append((call, self.incarnation))
            del self.known[:-REMEMBERED_CALLS]
