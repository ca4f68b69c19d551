#!/usr/bin/python3
"""Events that are erased while everybody works with them: erase_storm.py --dsn … --data … [--turns 3000] [--crash-cmd …]

Writers append in all ways at all isolation levels, and repeat what they have sent; erasers erase aggregates, also with a pseudonym, events, members
of them, and what matches; others move them to the archive, take snapshots, keep views, read, follow the feed, and consume a subscription that is divided
by what is erased. With --crash-cmd the server crashes several times. Must hold:

- what was acknowledged as durable is there once, as its aggregate's or its pseudonym's, at its sequence; no id, no position twice;
- who reads an aggregate sees 1..n of it; what somebody has seen erased nobody who looks later sees again;
- an event has the mark of an erasure, if and only if the register names it and an announcement does; of what was erased nothing is told any more,
  by the log, the archive, snapshots and views, and no file of the database has it when it is scrubbed;
- the views are what their rules make of what is left; the subscription gives each event once.
"""
import argparse
import functools
import multiprocessing
import os
import random
import re
import sys
import time
import uuid

sys.dont_write_bytecode = True

import psycopg2

import storm_client
from log_storm import Follower, LogClient, LogWriter, storm

NAME = 'erase storm'
TYPE = 'Erased'
VIEWS = {'storm async': 'async', 'storm inline': 'inline'}
SUBSCRIPTION = 'storm subscription'
# of statements of the main program, too
retried = functools.partial(storm_client.retried, expected={'40001', '40P01'})
# stands in front of each secret, wherever it comes to
SECRET = 'secretly:'


class Writer(LogWriter):
    """Appends, and repeats what may have been erased meanwhile."""

    def turn(self):
        durability = self.rng.choice(('durable', 'durable', 'grouped', 'staged'))
        if self.rng.random() < 0.2 and self.sent:
            self.again(*self.rng.choice(self.sent), durability)
        else:
            self.append(durability, alone=self.rng.random() < 0.7 or durability == 'grouped')
        self.told.put(('turn',))

    def put(self, aggregate, event, durability):
        return self.rows("SELECT last_sequence, durable, outcome FROM event_store.append_event(%s, %s, NULL, 'E', jsonb_build_object('n', %s::text, "
                         "'who', %s::text, 'secret', %s::text), jsonb_build_object('ip', %s::text), event_id => %s, durability => %s)", TYPE, aggregate,
                         aggregate, f'who {event[0]}', SECRET + event, SECRET + event, event, durability)[0]

    def again(self, aggregate, event, durability):
        """A duplicate; of a pseudonym it is another aggregate's."""
        try:
            outcome = self.put(aggregate, event, durability)[2]
            if outcome != 'duplicate' and not self.given.crash_cmd:
                self.faults.put(f'{self.name}: {event} of {aggregate} was {outcome} once more')
        except psycopg2.Error as error:
            if error.pgcode not in ('VS002', 'VS005'):
                raise
            self.roll_back()


class Eraser(LogClient):
    def turn(self):
        inside = self.rng.random() < 0.3
        if inside:
            self.begin()
        erased = self.rng.choice((self.whole, self.named, self.some, self.members, self.matching, self.counted))()
        if inside:
            time.sleep(self.rng.choice((0, 0.01)))
        if (not inside or self.ended('COMMIT', 'COMMIT', 'ROLLBACK')) and erased:
            self.told.put(('erasure',))
        time.sleep(self.rng.choice((0, 0.02, 0.1)))

    def whole(self):
        return self.rows("SELECT event_store.erase_aggregate(%s, %s, 'r')", TYPE, self.aggregate())[0][0]

    def named(self):
        aggregate = self.aggregate()
        return self.rows("SELECT event_store.erase_aggregate(%s, %s, 'r', %s)", TYPE, aggregate,
                         f'{aggregate}~{uuid.UUID(int=self.rng.getrandbits(128))}')[0][0]

    def found(self):
        return [event for event, in self.rows('SELECT event_id FROM event_store.all_events WHERE aggregate_type = %s AND aggregate_id = %s '
                                              'ORDER BY random() LIMIT 5', TYPE, self.aggregate())]

    def some(self):
        return self.rows("SELECT event_store.redact_events(%s::uuid[], 'r')", self.found())[0][0]

    def members(self):
        paths = self.rng.choice((['$.payload.secret', '$.metadata'], ['$.payload.secret', '$.payload.who', '$.metadata.ip'], ['$.payload', '$.metadata']))
        return self.rows("SELECT event_store.redact_events(%s::uuid[], 'r', %s)", self.found(), paths)[0][0]

    def matching(self):
        return self.rows("SELECT event_store.erase_events(jsonb_build_object('aggregate_type', %s::text, 'aggregate_id', %s::text, 'where', jsonb_build_array("
                         "jsonb_build_object('path', '$.payload.who', 'is', %s::text))), 'r', max_count => %s)", TYPE, self.aggregate(),
                         f'who {self.rng.choice("0123456789abcdef")}', self.rng.choice((1, 3, None)))[0][0]

    def counted(self):
        self.rows("SELECT event_store.erase_events(jsonb_build_object('aggregate_id', %s::text), 'r', dry_run => true)", self.aggregate())
        return 0


class Keeper(LogClient):
    """Makes copies, and moves events."""

    def turn(self):
        aggregate = self.aggregate()
        what = self.rng.choice(("archive_aggregate(%s, %s)", "restore_aggregate(%s, %s)", "restore_aggregate(%s, %s)", "take_snapshot(%s, %s)",
                                "save_snapshot(%s, %s, 1, '{}')", "put_view('storm free', %s || %s, '{}')"))
        try:
            self.rows(f'SELECT event_store.{what}', TYPE, aggregate)
        except psycopg2.Error as error:
            if error.pgcode not in ('22023', 'VS002'):
                raise
        time.sleep(self.rng.choice((0, 0.01, 0.05)))


class Reader(LogClient):
    """What it has seen erased stays so, and of an aggregate it sees 1..n."""

    def __init__(self, *args):
        super().__init__(*args)
        self.erased = set()

    def turn(self):
        aggregate = self.aggregate()
        self.begin()
        look = self.rng.choice((self.by_view, self.by_load, self.by_replay))
        look(aggregate)
        self.rows('COMMIT')

    def note(self, aggregate, how, rows):
        told = {event for event, payload in rows if 'secret' in (payload or {})}
        self.must(not told & self.erased, aggregate, how + ' tells what was erased', told & self.erased)
        self.erased |= {event for event, payload in rows if 'secret' not in (payload or {})}

    def by_view(self, aggregate):
        rows = self.rows('SELECT event_id, payload, sequence FROM event_store.all_events WHERE aggregate_type = %s AND aggregate_id = %s ORDER BY sequence',
                         TYPE, aggregate)
        self.must([row[2] for row in rows] == list(range(1, len(rows) + 1)), aggregate, 'all_events', rows)
        self.note(aggregate, 'all_events', [row[:2] for row in rows])

    def by_load(self, aggregate):
        rows = self.rows('SELECT event_id, payload, sequence FROM event_store.load_events(%s, %s)', TYPE, aggregate)
        self.must([row[2] for row in rows] == list(range(1, len(rows) + 1)), aggregate, 'load_events', rows)
        self.note(aggregate, 'load_events', [row[:2] for row in rows])

    def by_replay(self, aggregate):
        state = self.rows('SELECT r.state FROM event_store.replay_aggregate(%s, %s) r', TYPE, aggregate)[0][0] or {}
        event = state.get('secret', '')[len(SECRET):]
        self.must(event not in self.erased, aggregate, 'replay_aggregate', state)


class Consumer(LogClient):
    """Takes events into a ledger, and lets some fail, whose partitions wait until somebody retries them."""

    def turn(self):
        self.rows('BEGIN')
        luck = self.rng.random()
        if luck < 0.1:
            events = self.rows('SELECT global_position FROM event_store.next_events(%s, 1)', SUBSCRIPTION)
            if events:
                self.rows("SELECT event_store.fail_events(%s, %s, 'x', %s)", SUBSCRIPTION, events[0][0], self.rng.choice(('retry', 'park', 'park_event')))
        elif luck < 0.2:
            self.rows('SELECT event_store.retry_parked_events(%s)', SUBSCRIPTION)
        else:
            take_in(self.rows, self.rng.choice((1, 5, 50)))
        self.ended('COMMIT', 'COMMIT', 'COMMIT', 'ROLLBACK')
        time.sleep(self.rng.choice((0, 0.01, 0.05)))


def take_in(rows, most):
    return rows('WITH given AS (INSERT INTO storm_given SELECT global_position FROM event_store.next_events(%s, %s) RETURNING 1) SELECT count(*) FROM given',
                SUBSCRIPTION, most)[0][0]


# ---------- what must hold

CHECKS = {
    'an event_id twice': 'SELECT event_id, count(*) FROM event_store.all_events GROUP BY 1 HAVING count(*) > 1',
    'a position twice': 'SELECT global_position, count(*) FROM event_store.all_events GROUP BY 1 HAVING count(*) > 1',
    'not 1..n': 'SELECT aggregate_id, count(*), max(sequence) FROM event_store.all_events GROUP BY aggregate_type, aggregate_id '
                'HAVING count(*) <> max(sequence) OR min(sequence) <> 1 OR count(DISTINCT sequence) <> count(*)',
    'marked and not registered, or the other way': """SELECT a.event_id, r.event_id FROM (SELECT event_id FROM event_store.all_events WHERE metadata ? '$erased') a
        FULL JOIN (SELECT DISTINCT unnest(event_ids) AS event_id FROM event_store.erasures) r USING (event_id) WHERE a.event_id IS NULL OR r.event_id IS NULL""",
    'a mark of no erasure': """SELECT event_id FROM event_store.all_events a WHERE metadata ? '$erased' AND NOT EXISTS
        (SELECT FROM event_store.erasures r WHERE r.erasure_id::text = a.metadata ->> '$erased' AND a.event_id = ANY (r.event_ids))""",
    'registered and not announced': """SELECT r.erasure_id FROM event_store.erasures r FULL JOIN (SELECT * FROM event_store.all_events WHERE aggregate_type = 'store:erasure') a
        ON a.aggregate_id = r.erasure_id::text AND a.payload -> 'event_ids' = to_jsonb(r.event_ids) WHERE a.event_id IS NULL OR r.erasure_id IS NULL""",
    'erased, and told': """SELECT event_id, payload, metadata FROM event_store.all_events a WHERE metadata ? '$erased' AND (payload ? 'secret' OR metadata ? 'ip')""",
    'a snapshot of what was erased': f"""SELECT s.aggregate_id FROM event_store.snapshots s JOIN event_store.all_events a ON s.state ->> 'secret' = '{SECRET}' || a.event_id
        WHERE a.metadata ? '$erased'""",
    'a view of what was erased': f"""SELECT v.view_name, v.view_key FROM event_store.domain_views v JOIN event_store.all_events a ON v.view_data ->> 'secret' = '{SECRET}' || a.event_id
        WHERE a.metadata ? '$erased'""",
    'a view that is not what is left': """SELECT p.name, a.aggregate_id, a.n, v.view_data FROM (VALUES ('storm async'), ('storm inline')) p (name) CROSS JOIN
        (SELECT aggregate_id, nullif(count(*) FILTER (WHERE NOT (metadata ? '$erased' AND NOT metadata ? '$partly' AND payload = '{}')), 0) AS n
           FROM event_store.all_events WHERE aggregate_type = 'Erased' GROUP BY 1) a LEFT JOIN event_store.domain_views v
        ON v.view_name = p.name AND v.view_key = a.aggregate_id WHERE (v.view_data ->> 'n')::bigint IS DISTINCT FROM a.n""",
    'given twice': 'SELECT position, count(*) FROM storm_given GROUP BY 1 HAVING count(*) > 1',
    'not given, or no event': """SELECT a.global_position, g.position FROM (SELECT global_position FROM event_store.all_events WHERE aggregate_type = 'Erased') a
        FULL JOIN storm_given g ON g.position = a.global_position WHERE g.position IS NULL OR a.global_position IS NULL""",
    'what is still set aside': f"SELECT * FROM event_store.parked_events WHERE subscription_name = '{SUBSCRIPTION}'",
}


def verify(given, there, faults):
    for what, sql in CHECKS.items():
        found = retried(given, sql)
        if found:
            faults.append(f'{what}, {len(found)}: {found[:3]}')
    found = {event: (aggregate, sequence) for event, aggregate, sequence in
             retried(given, 'SELECT event_id::text, aggregate_id, sequence FROM event_store.all_events')}
    for event, (aggregate, sequence) in there.items():
        at = found.get(event)
        if at is None or at[0].split('~')[0] != aggregate or at[1] != sequence:
            faults.append(f'{event} was acknowledged at {aggregate} {sequence}, and is at {at}')
    return len(found)


def settle(given, faults):
    """All is durable, taken in and scrubbed."""
    until = time.monotonic() + given.patience
    retried(given, "SELECT event_store.flush('2min')")
    while time.monotonic() < until:
        retried(given, 'SELECT event_store.retry_parked_events(%s)', SUBSCRIPTION)
        taken = take_in(lambda sql, *values: retried(given, sql, *values), 1000)
        waiting = retried(given, 'SELECT count(*) FROM event_store.parked_events WHERE subscription_name = %s', SUBSCRIPTION)[0][0]
        behind = retried(given, "SELECT count(*) FROM event_store.subscription_status WHERE subscription_name LIKE 'storm %%' AND lag_events > 0")[0][0]
        unscrubbed = retried(given, 'SELECT count(*) FROM event_store.erasures WHERE scrubbed_at IS NULL')[0][0]
        if not (taken or waiting or behind or unscrubbed):
            return
        if unscrubbed:
            retried(given, 'CALL event_store.scrub_erased()')
    faults.append(f'not settled: {waiting} wait, {behind} are behind, {unscrubbed} are not scrubbed')


def on_disk(given):
    """The events whose secrets stand in a file of the database."""
    found = set()
    for folder in ('base', 'global'):
        for path, _, files in os.walk(os.path.join(given.data, folder)):
            for name in files:
                try:
                    with open(os.path.join(path, name), 'rb') as file:
                        found |= set(re.findall(SECRET.encode() + b'([0-9a-f-]{36})', file.read()))
                except FileNotFoundError:
                    pass
    return {event.decode() for event in found}


# ---------- the storm

def prepare(given):
    retried(given, 'CREATE TABLE storm_given (position bigint)')
    rules = '{"events": {"E": [{"op": "increment", "path": "$.n", "value": 1}, {"op": "set", "path": "$.secret", "from": "$.payload.secret"}]}}'
    for view, mode in VIEWS.items():
        retried(given, 'SELECT event_store.create_view_projection(%s, ARRAY[%s], rules => %s, mode => %s, start_after => 0)', view, TYPE, rules, mode)
    retried(given, "SELECT event_store.create_subscription(%s, ARRAY[%s], members => 4, partition_by => '$.payload.who', max_attempts => 0)", SUBSCRIPTION, TYPE)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--dsn', required=True)
    parser.add_argument('--data', required=True, help='the data directory of the server')
    parser.add_argument('--turns', type=int, default=3000)
    parser.add_argument('--aggregates', type=int, default=30)
    parser.add_argument('--crash-cmd')
    parser.add_argument('--patience', type=int, default=150)
    parser.add_argument('--seed', type=int, default=random.randrange(1 << 30))
    given = parser.parse_args()
    given.application = NAME
    print(f'  seed {given.seed}')
    end, faults, told = multiprocessing.Event(), multiprocessing.Queue(), multiprocessing.Queue()
    prepare(given)
    kinds = [Writer] * 9 + [Eraser] * 4 + [Keeper] * 2 + [Reader] * 5 + [Follower] + [Consumer] * 3
    there, _, counts = storm(given, kinds, end, faults, told)
    found = []
    settle(given, found)
    while not faults.empty():
        found.append(faults.get())
    events = verify(given, there, found)
    erased = {event for event, in retried(given, 'SELECT DISTINCT unnest(event_ids)::text FROM event_store.erasures')}
    left = on_disk(given) & erased
    if left:
        found.append(f'{len(left)} are still on the disk: {sorted(left)[:5]}')
    for words, count in [*sorted(counts.items()), ('events', events), ('erased', len(erased)), ('faults', len(found))]:
        print(f'  {words} {count}')
    print('\n'.join(found[:20]))
    return 1 if found else 0


if __name__ == '__main__':
    multiprocessing.set_start_method('fork')
    sys.exit(main())
