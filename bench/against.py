"""Two builds by turns: the one before, of a git revision, and the one after, of the tree.

Each has a server of its own; both stay up, and one works at a time.  A pair is one turn of each, one right after the
other, and every second time the other way round, so that a machine that becomes slower or faster favours neither.
All series take their turn in a pair before the next begins: what else runs for minutes meets a pair or two of each
series, and medians leave that out.
"""
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import plan
import report
from measure import READING, Bench
from server import Failed, Server

SIDES = ('before', 'after')
SUSTAINED = 3                       # times the length of a turn


def make_benches():
    # whoever forgets which of the two is meant shall reach neither
    os.environ.pop('PGHOST', None)
    benches = {side: Bench(Server(Path(os.environ['WORK']) / f'server-{side}')) for side in SIDES}
    for bench in benches.values():
        bench.absent[plan.NODE] = 'not looked for'
    return benches


def prepare(benches, series):
    """Makes the databases of both at once: under cachegrind that takes minutes, and one core each."""
    def prepare_one(bench):
        bench.make_store()
        if any(group.database for group, _ in series):
            # who reads from it hears of a failure
            with suppress(Failed):
                bench.once(READING, bench.prepare_reading)

    with ThreadPoolExecutor() as pool:
        list(pool.map(prepare_one, benches.values()))


def counted(series):
    """The series of which instructions are counted, by one client."""
    return [(group, replace(one, kind='instructions', clients=1)) for group, one in series if one.name in plan.COUNTED]


def title_of(one):
    """Its title beside others than those of its group."""
    words = one.title
    if not one.sync and 'synchronous_commit' not in words:
        words += ', synchronous_commit off'
    if one.script.startswith('batch'):
        words += f', {one.events:,} a call'
    if one.variables.get('bytes', 200) != 200:
        words += f', {one.variables["bytes"]:,} bytes'
    return words


def figure(bench, group, one, given, number):
    """What one turn gives, and its unit."""
    seconds = given.seconds * (SUSTAINED if one.kind == 'sustained' else 1)
    run = bench.turn(group, one, seconds, number)
    if one.kind == 'instructions':
        return run['instructions'], 'instructions a call'
    return run[report.rate_key([run])], report.rate_unit([run])


def measure(benches, series, given, say):
    """Returns a line for each series, with the figures of both sides pair by pair, and what failed."""
    lines = {one.name: {'rows': plan.rows_with(one.name, given.wanted), 'series': one.name, 'title': title_of(one),
                        'clients': one.clients, 'before': [], 'after': []} for _, one in series}
    failures = []
    for number in range(1, given.turns + 1):
        say(f'pair {number} of {given.turns}')
        for group, one in series:
            if one.name not in lines:
                continue
            for side in SIDES if number % 2 else reversed(SIDES):
                try:
                    value, lines[one.name]['unit'] = figure(benches[side], group, one, given, number)
                except Failed as failure:
                    failures.append(f'{one.title}, {side}: {failure}')
                    say(f'  FAILED {failures[-1]}')
                    del lines[one.name]
                    break
                lines[one.name][side].append(round(value, 2))
    return list(lines.values()), failures
