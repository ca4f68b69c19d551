"""What storms of the log's later life share: clients at all isolation levels, some aggregates in everybody's hands, and a ledger.

Clients tell the main program, by "told", what they have been told: of a turn, of what is there, of what was refused.
"""
import collections
import queue
import subprocess
import time
import uuid

import psycopg2

from storm_client import StormClient

LEVELS = ('READ COMMITTED', 'READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')


class LogClient(StormClient):
    expected = {'40001', '40P01', '55000', '55P03'}

    def __init__(self, number, given, end, faults, told):
        super().__init__(f'{type(self).__name__} {number}', number, given, end, faults)
        self.application = given.application
        self.told = told

    def aggregate(self):
        # a few are in everybody's hands
        return f'a-{min(self.rng.randrange(self.given.aggregates), self.rng.randrange(self.given.aggregates))}'

    def begin(self):
        self.rows(f'BEGIN ISOLATION LEVEL {self.rng.choice(LEVELS)}')

    def ended(self, *chances):
        """Ends the transaction in one way or the other; whether by COMMIT."""
        how = self.rng.choice(chances)
        self.rows(how)
        return how == 'COMMIT'

    def must(self, holds, aggregate, how, found):
        if not holds:
            self.faults.put(f'{self.name}: {aggregate} {how}: {found}')


class LogWriter(LogClient):
    """Appends, by put(aggregate, event, durability): it returns last_sequence, durable and outcome."""

    sent = []

    def append(self, durability, alone):
        aggregate, event = self.aggregate(), str(uuid.UUID(int=self.rng.getrandbits(128)))
        try:
            if not alone:
                self.begin()
                if self.rng.random() < 0.3:
                    self.rows('SELECT count(*) FROM event_store.all_events')  # an old snapshot
            sequence, durable, _ = self.put(aggregate, event, durability)
            if not alone:
                time.sleep(self.rng.choice((0, 0, 0.005)))
                self.rows('COMMIT')
            if durable:
                self.told.put(('there', event, aggregate, sequence))
            self.sent = self.sent[-200:] + [(aggregate, event)]
        except psycopg2.Error as error:
            if error.pgcode != 'VS005':
                raise
            self.told.put(('refused', event))
            self.roll_back()


class Follower(LogClient):
    """Reads the feed from its begin to where it was safe, again and again: each event once, in order."""

    def turn(self):
        after, seen, safe = 0, set(), self.rows('SELECT event_store.safe_position()')[0][0]
        while True:
            page = self.rows('SELECT global_position, event_id FROM event_store.read_events(%s, 500, up_to_position => %s)', after, safe)
            positions = [position for position, _ in page]
            if positions != sorted(set(positions)) or seen & {event for _, event in page}:
                self.faults.put(f'{self.name}: not once and in order behind {after}')
            seen |= {event for _, event in page}
            if len(page) < 500:
                break
            after = positions[-1]
        self.told.put(('followed', len(seen)))


# ---------- the storm

def storm(given, kinds, end, faults, told):
    """Lets clients of these kinds work until they have had their turns; returns what they were told."""
    clients = [kind(number, given, end, faults, told) for number, kind in enumerate(kinds)]
    there, refused, counts, crashes = {}, set(), collections.Counter(), 0
    until = time.monotonic() + given.patience
    for client in clients:
        client.start()
    while counts['turn'] < given.turns and time.monotonic() < until and any(client.is_alive() for client in clients):
        note(told, there, refused, counts)
        if given.crash_cmd and crashes < 3 and counts['turn'] > (crashes + 1) * given.turns / 4:
            crashes += 1
            subprocess.run([given.crash_cmd], check=False)
    if counts['turn'] < given.turns:
        faults.put(f'only {counts["turn"]} turns')
    end.set()
    for client in clients:
        while client.is_alive():
            note(told, there, refused, counts)
            client.join(0.05)
    while not told.empty():
        note(told, there, refused, counts)
    return there, refused, counts


def note(told, there, refused, counts):
    try:
        for _ in range(1000):
            what, *rest = told.get(timeout=0.1)
            counts[what] += 1
            if what == 'there':
                there[rest[0]] = tuple(rest[1:])
            elif what == 'refused':
                refused.add(rest[0])
    except queue.Empty:
        pass
