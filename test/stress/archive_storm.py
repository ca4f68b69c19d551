#!/usr/bin/python3
"""Aggregates that are moved to the archive and back while everybody works with them: archive_storm.py --dsn … [--turns 4000] [--crash-cmd …]

Clients append in all ways at all isolation levels, send again what they have sent, use ids that others have used; movers archive
aggregates, parts of them, and restore them, also in the transaction that has appended to one; readers look, consumers of two
subscriptions take what comes. With --crash-cmd the server crashes several times.  Must hold:

- who reads an aggregate sees 1..n of it, and no less than he has seen before, never an event twice: in both tables together, by
  load_events, load_event and replay_aggregate; read_events gives each event once, in the order of positions;
- a subscription gives each event once, by next_events and by claim_events: what it has given is noted in the same transaction;
- what was acknowledged as durable is there once, under its id, in its aggregate; what was refused with VS005 is not there;
- no event_id and no position is there twice, in both tables together;
- what the archive has of an aggregate comes before what the log has; one without an event in the log is closed, and only one.
"""
import argparse
import collections
import multiprocessing
import random
import sys
import time
import uuid

sys.dont_write_bytecode = True

import psycopg2

from log_storm import Follower, LogClient, LogWriter, storm
from storm_client import retried

NAME = 'archive storm'
TYPE = 'Moved'


class Writer(LogWriter):
    """Appends, repeats, and reuses ids."""

    def turn(self):
        luck = self.rng.random()
        durability = self.rng.choice(('durable', 'durable', 'grouped', 'staged'))
        if luck < 0.15 and self.sent:
            self.again(*self.rng.choice(self.sent), durability)
        elif luck < 0.25 and self.sent:
            self.reuse(*self.rng.choice(self.sent), durability)
        else:
            self.append(durability, alone=luck < 0.7 or durability == 'grouped')
        self.told.put(('turn',))

    def put(self, aggregate, event, durability):
        return self.rows("SELECT last_sequence, durable, outcome FROM event_store.append_event(%s, %s, NULL, 'E', "
                         "jsonb_build_object('n', %s::text), event_id => %s, durability => %s)", TYPE, aggregate, aggregate, event, durability)[0]

    def again(self, aggregate, event, durability):
        """The same: a duplicate, unless it was staged and lost in a crash."""
        try:
            self.put(aggregate, event, durability)
        except psycopg2.Error as error:
            if error.pgcode != 'VS005' or not self.given.crash_cmd:
                raise
            self.roll_back()

    def reuse(self, aggregate, event, durability):
        """The id of another aggregate's event."""
        other = self.aggregate()
        if other == aggregate:
            return
        try:
            outcome = self.put(other, event, durability)[2]
            if not self.given.crash_cmd:
                self.faults.put(f'{self.name}: the id {event} of {aggregate} was {outcome} for {other}')
        except psycopg2.Error as error:
            if error.pgcode not in ('VS002', 'VS005'):
                raise
            self.roll_back()


class Mover(LogClient):
    expected = LogClient.expected | {'VS005'}

    def turn(self):
        aggregate, luck = self.aggregate(), self.rng.random()
        inside = self.rng.random() < 0.3
        if inside:
            self.begin()
            if self.rng.random() < 0.3:
                self.rows("SELECT event_store.append_event(%s, %s, NULL, 'E', jsonb_build_object('n', %s::text), event_id => %s)",
                          TYPE, aggregate, aggregate, str(uuid.UUID(int=self.rng.getrandbits(128))))
        if luck < 0.4:
            self.rows('SELECT event_store.archive_aggregate(%s, %s)', TYPE, aggregate)
        elif luck < 0.6:
            self.rows('SELECT event_store.archive_aggregate(%s, %s, %s)', TYPE, aggregate, self.rng.randrange(1, 60))
        else:
            self.rows('SELECT event_store.restore_aggregate(%s, %s)', TYPE, aggregate)
        if inside:
            time.sleep(self.rng.choice((0, 0.01)))
            self.ended('COMMIT', 'COMMIT', 'ROLLBACK')
        time.sleep(self.rng.choice((0, 0.01, 0.05)))


class Reader(LogClient):
    """Of an aggregate it sees 1..n, and no less than before at the same place."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.durable = collections.Counter()  # of each aggregate so many, in a transaction before

    def turn(self):
        aggregate = self.aggregate()
        self.begin()
        known = self.durable[aggregate]
        for _ in range(2):
            self.rng.choice((self.by_view, self.by_load, self.by_replay, self.by_both, self.by_id))(aggregate, known)
        self.rows('COMMIT')

    def by_view(self, aggregate, known):
        found = self.rows('SELECT count(*), count(DISTINCT sequence), coalesce(max(sequence), 0), coalesce(min(sequence), 1) '
                          'FROM event_store.all_events WHERE aggregate_type = %s AND aggregate_id = %s', TYPE, aggregate)[0]
        self.must(found[0] == found[1] == found[2] >= known and found[3] == 1, aggregate, f'all_events, after {known}', found)
        self.durable[aggregate] = max(known, found[0])

    def by_load(self, aggregate, known):
        backward = self.rng.random() < 0.3
        found = [s for s, in self.rows('SELECT sequence FROM event_store.load_events(%s, %s, backward => %s)', TYPE, aggregate, backward)]
        self.must(found[::-1 if backward else 1] == list(range(1, len(found) + 1)) and len(found) >= known, aggregate,
                  f'load_events, after {known}', found)

    def by_replay(self, aggregate, known):
        found = self.rows('SELECT r.sequence, r.state FROM event_store.replay_aggregate(%s, %s) r', TYPE, aggregate)[0]
        self.must(found[0] >= known and (found[0] == 0 or found[1] == {'n': aggregate}), aggregate, f'replay_aggregate, after {known}', found)

    def by_id(self, aggregate, known):
        """What is in one of the tables is found by its id in the same statement."""
        found = self.rows('SELECT a.event_id, a.sequence, (SELECT e.sequence FROM event_store.load_event(a.event_id) e) FROM event_store.all_events a '
                          'WHERE a.aggregate_type = %s AND a.aggregate_id = %s ORDER BY a.sequence LIMIT 3', TYPE, aggregate)
        level = self.rows('SHOW transaction_isolation')[0][0]
        self.must(all(sequence == loaded or level == 'read committed' for _, sequence, loaded in found), aggregate, 'load_event', found)

    def by_both(self, aggregate, known):
        """One statement, one snapshot: a staged event is in load_events alone."""
        found = self.rows('SELECT (SELECT count(*) FROM event_store.load_events(%s, %s) e WHERE e.global_position IS NOT NULL), '
                          '(SELECT count(*) FROM event_store.all_events a WHERE a.aggregate_type = %s AND a.aggregate_id = %s)',
                          TYPE, aggregate, TYPE, aggregate)[0]
        level = self.rows('SHOW transaction_isolation')[0][0]
        self.must(level == 'read committed' or found[0] == found[1], aggregate, 'load_events and all_events', found)


class Consumer(LogClient):
    """What a subscription gives is noted in the transaction that says it is done; some of these are rolled back."""

    expected = LogClient.expected | {'23505', 'VS007'}

    def note(self, positions):
        """The key of the table refuses what was given twice."""
        try:
            self.rows('INSERT INTO given SELECT %s, unnest(%s)', self.subscription, positions)
        except psycopg2.Error as error:
            if error.pgcode == '23505':
                self.faults.put(f'{self.name}: given twice: {error}')
            raise
        if positions != sorted(positions):
            self.faults.put(f'{self.name}: not in order: {positions}')

    def end_turn(self):
        self.ended('COMMIT', 'COMMIT', 'COMMIT', 'ROLLBACK')
        self.told.put(('consumed',))


class Fetcher(Consumer):
    subscription = 'fetched'

    def turn(self):
        self.begin()
        positions = [p for p, in self.rows('SELECT global_position FROM event_store.next_events(%s, %s)', self.subscription, self.rng.randrange(1, 200))]
        if not positions:
            self.rows('ROLLBACK')
            time.sleep(0.02)
            return
        self.note(positions)
        self.end_turn()


class Claimer(Consumer):
    subscription = 'claimed'

    def turn(self):
        claimed = self.rows("SELECT member, lease, global_position FROM event_store.claim_events(%s, %s, %s, lease_time => '2s')",
                            self.subscription, self.name, self.rng.randrange(1, 200))
        if not claimed:
            time.sleep(0.02)
            return
        time.sleep(self.rng.choice((0, 0, 0.01)))
        self.begin()
        positions = [position for _, _, position in claimed][:self.rng.randrange(1, len(claimed) + 1)]
        # one that comes too late is VS007
        self.rows('SELECT event_store.ack_events(%s, %s, %s, %s)', self.subscription, claimed[0][0], claimed[0][1], positions[-1])
        self.note(positions)
        self.end_turn()


# ---------- what must hold

def take_the_rest(given, subscription):
    """What the consumers have left, until there is nothing more."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        taken = retried(given, 'WITH e AS (INSERT INTO given SELECT %s, e.global_position FROM event_store.next_events(%s, 1000) e RETURNING 1) '
                        'SELECT count(*) FROM e', subscription, subscription)[0][0]
        lag = retried(given, 'SELECT coalesce(sum(lag_events), 0) FROM event_store.subscription_status WHERE subscription_name = %s', subscription)[0][0]
        if taken == lag == 0:
            return
        time.sleep(0 if taken else 0.1)


def verify(given, there, refused, faults):
    def none(what, sql):
        found = retried(given, sql)
        if found:
            faults.append(f'{what}: {found[:5]}')

    none('an event_id twice', 'SELECT event_id, count(*) FROM event_store.all_events GROUP BY 1 HAVING count(*) > 1')
    none('a position twice', 'SELECT global_position, count(*) FROM event_store.all_events GROUP BY 1 HAVING count(*) > 1')
    none('not 1..n', 'SELECT aggregate_id, count(*), max(sequence) FROM event_store.all_events WHERE aggregate_type = \'Moved\' GROUP BY 1 '
         'HAVING count(*) <> max(sequence) OR min(sequence) <> 1 OR count(DISTINCT sequence) <> count(*)')
    none('positions against sequences', 'SELECT aggregate_id, sequence FROM (SELECT aggregate_id, sequence, global_position, '
         'lag(global_position) OVER (PARTITION BY aggregate_type, aggregate_id ORDER BY sequence) AS previous FROM event_store.all_events) e '
         'WHERE global_position < previous')
    none('the log before the archive', 'SELECT aggregate_id FROM event_store.domain_events e JOIN event_store.domain_events_archive a '
         'USING (aggregate_type, aggregate_id) WHERE e.sequence < a.sequence')
    none('open without an event in the log', 'SELECT DISTINCT aggregate_id FROM event_store.domain_events_archive a WHERE NOT EXISTS (SELECT FROM '
         'event_store.domain_events e WHERE (e.aggregate_type, e.aggregate_id) = (a.aggregate_type, a.aggregate_id)) AND NOT EXISTS (SELECT FROM '
         'event_store.closed_aggregates c WHERE (c.aggregate_type, c.aggregate_id) = (a.aggregate_type, a.aggregate_id))')
    none('closed, with an event in the log', 'SELECT aggregate_id FROM event_store.closed_aggregates c WHERE EXISTS (SELECT FROM '
         'event_store.domain_events e WHERE (e.aggregate_type, e.aggregate_id) = (c.aggregate_type, c.aggregate_id))')
    none('closed at another event', 'SELECT c.aggregate_id FROM event_store.closed_aggregates c LEFT JOIN event_store.domain_events_archive a ON '
         '(a.aggregate_type, a.aggregate_id, a.sequence, a.global_position) = (c.aggregate_type, c.aggregate_id, c.last_sequence, c.last_position) '
         'WHERE a.sequence IS NULL OR EXISTS (SELECT FROM event_store.domain_events_archive b WHERE '
         '(b.aggregate_type, b.aggregate_id, b.sequence) = (c.aggregate_type, c.aggregate_id, c.last_sequence + 1))')
    none('beyond the mark', 'SELECT max(global_position) FROM event_store.domain_events_archive HAVING max(global_position) > '
         '(SELECT last_value FROM event_store.archived_position)')
    for subscription in ('fetched', 'claimed'):
        take_the_rest(given, subscription)
        none(f'{subscription} and all_events differ', f"SELECT global_position FROM event_store.all_events FULL JOIN (SELECT * FROM given WHERE "
             f"subscription = '{subscription}') g USING (global_position) WHERE event_id IS NULL OR subscription IS NULL")
    found = {event: (aggregate, sequence) for event, aggregate, sequence in
             retried(given, 'SELECT event_id::text, aggregate_id, sequence FROM event_store.all_events')}
    for event, place in there.items():
        if found.get(event) != place:
            faults.append(f'{event} was acknowledged at {place}, and is at {found.get(event)}')
    for event in refused & set(found):
        faults.append(f'{event} was refused, and is at {found[event]}')
    return len(found)


# ---------- the storm

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--dsn', required=True)
    parser.add_argument('--turns', type=int, default=4000)
    parser.add_argument('--aggregates', type=int, default=30)
    # 24 with those who follow the feed
    parser.add_argument('--writers', type=int, default=10)
    parser.add_argument('--movers', type=int, default=4)
    parser.add_argument('--readers', type=int, default=5)
    parser.add_argument('--crash-cmd')
    parser.add_argument('--patience', type=int, default=150)
    parser.add_argument('--seed', type=int, default=random.randrange(1 << 30))
    given = parser.parse_args()
    given.application = NAME
    print(f'  seed {given.seed}')
    retried(given, 'CREATE TABLE given (subscription text, global_position bigint, PRIMARY KEY (subscription, global_position))')
    retried(given, "SELECT event_store.create_subscription(s, members => 4, max_attempts => 0) FROM unnest(ARRAY['fetched', 'claimed']) s")
    end, faults, told = multiprocessing.Event(), multiprocessing.Queue(), multiprocessing.Queue()
    kinds = [Writer] * given.writers + [Mover] * given.movers + [Reader] * given.readers + [Follower] + [Fetcher] * 2 + [Claimer] * 2
    there, refused, counts = storm(given, kinds, end, faults, told)
    retried(given, "SELECT event_store.flush('2min')")
    found = []
    while not faults.empty():
        found.append(faults.get())
    events = verify(given, there, refused, found)
    moved = dict(retried(given, "SELECT metric, value::bigint FROM event_store.metrics WHERE metric LIKE 'archive.%'"))
    for words, count in [*sorted(counts.items()), ('events', events), *sorted(moved.items()), ('faults', len(found))]:
        print(f'  {words} {count}')
    print('\n'.join(found[:20]))
    return 1 if found else 0


if __name__ == '__main__':
    multiprocessing.set_start_method('fork')
    sys.exit(main())
