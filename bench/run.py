"""Runs the benchmark against the server in the environment; scripts/bench calls it."""
import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True

import against
import archive
import deadlines
import folds
import held
import peers
import plan
import projections
import report
import retention
import soak
import waiters
from measure import Bench
from server import Failed, Server

HERE = Path(__file__).resolve().parent


def options():
    parser = argparse.ArgumentParser(prog='scripts/bench', description='Measures event_store against raw'
                                     ' PostgreSQL and its peers, and writes docs/benchmarks.md.', allow_abbrev=False)
    parser.add_argument('--quick', action='store_true',
                        help='short turns, under 3 minutes; prints and writes nothing into the tree')
    parser.add_argument('--against', metavar='REVISION',
                        help='measures a build of this git revision and one of the tree by turns, rows 1 to 14')
    parser.add_argument('--instructions', action='store_true',
                        help='with --against: counts the instructions of a call, instead of measuring time')
    parser.add_argument('--rows', help='only these: ' + ', '.join(plan.rows()))
    parser.add_argument('--turns', type=int, help='how often each series is measured (5; quick: 3; against: 8)')
    parser.add_argument('--seconds', type=int, help='length of a turn (6; quick: 2; against: 2)')
    parser.add_argument('--growth', nargs='?', const='1,5,20', metavar='MILLIONS',
                        help='only growth: appends and loads at these sizes of the store (1,5,20)')
    parser.add_argument('--soak', nargs='?', const=30.0, type=float, metavar='MINUTES',
                        help='only the soak: staged load with an old snapshot held open, for so long (30)')
    parser.add_argument('--rate', type=int, default=4000,
                        help='events a second of the soak, if the drain can follow (4000)')
    parser.add_argument('--folds', action='store_true',
                        help='only folds: all kinds of reducers, row 11, and how folds grow')
    parser.add_argument('--slow-flush', type=float, metavar='MS',
                        help='each flush of the server takes so much longer, as on a disk in the cloud; implies --quick')
    parser.add_argument('--report', action='store_true',
                        help='writes docs/benchmarks.md anew from the results that are there')
    given = parser.parse_args()
    given.quick = given.quick or given.slow_flush is not None
    given.sizes = [float(size) for size in (given.growth or '1,5,20').split(',')]
    if given.against:
        given.before = git('rev-parse', '--verify', '--quiet', '--short=12', f'{given.against}^{{commit}}')
        if not given.before:
            parser.error(f'no revision {given.against}')
        if given.soak or given.growth or given.folds:
            parser.error('--against measures rows')
    elif given.instructions:
        parser.error('--instructions is for --against')
    if given.soak:
        given.wanted = []
    elif given.growth:
        given.wanted = ['growth']
    elif given.folds:
        given.wanted = plan.FOLD_ROWS
    elif given.rows:
        given.wanted = given.rows.split(',')
    elif given.against:
        given.wanted = plan.COMPARED_ROWS
    else:
        given.wanted = plan.QUICK_ROWS if given.quick else [row for row in plan.rows() if row not in plan.LONG_ROWS]
    for row in given.wanted:
        if row not in plan.rows():
            parser.error(f'no row {row}; there are: {", ".join(plan.rows())}')
        if given.against and row in plan.EXTRA_ROWS:
            parser.error(f'--against does not measure {row}')
    turns, seconds = defaults(given)
    given.turns = given.turns or turns
    given.seconds = given.seconds or seconds
    return given


def defaults(given):
    """Turns and the seconds of one."""
    if given.instructions:
        return (1 if given.quick else 3), 1
    if given.against:
        return (4, 1) if given.quick else (8, 2)
    return (3, 2) if given.quick else (5, 6)


def say(text=''):
    print(text, flush=True)


# -------------------------------------------------------------------- machine

def output_of(*words):
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ''


def git(*words):
    root = str(HERE.parent)
    # the tree may belong to another user than the one who measures
    return output_of('git', '-c', f'safe.directory={root}', '-C', root, *words)


def commit():
    name = git('rev-parse', '--short=12', 'HEAD') or 'unknown'
    changed = git('status', '--porcelain', '--', '*.c', '*.h', 'schema', 'Makefile')
    return name + (' with changes' if changed else '')


def disk(folder):
    device, kind = output_of('df', '--output=source,fstype', folder).split('\n')[-1].split()
    about = output_of('lsblk', '-dno', 'MODEL,SIZE', device)
    return f'{device}, {kind}' + (f' ({" ".join(about.split())})' if about else '')


def fsyncs(server):
    """What a commit waits for: one small write and fdatasync."""
    text = output_of(str(server.bindir / 'pg_test_fsync'), '-s', '1', '-f', str(server.logs / 'fsync'))
    found = re.search(r'fdatasync +([0-9.]+) ops/sec', text)
    return f'{float(found.group(1)):,.0f} a second' if found else 'not measured'


def environment(server, versions, given):
    cpu = re.search(r'Model name: *(.*)', output_of('lscpu'))
    memory = int(re.search(r'MemTotal: *(\d+)', Path('/proc/meminfo').read_text(encoding='ascii')).group(1))
    changed = server.sql("SELECT name, current_setting(name) FROM pg_settings WHERE source IN"
                         " ('configuration file', 'command line') AND name NOT IN ('unix_socket_directories', 'listen_addresses',"
                         " 'data_directory', 'config_file', 'log_line_prefix', 'DateStyle', 'TimeZone',"
                         " 'log_timezone', 'default_text_search_config', 'dynamic_shared_memory_type')"
                         " AND name NOT LIKE 'lc\\_%' ORDER BY name")
    return {'date': time.strftime('%Y-%m-%d'), 'commit': commit(),
            'processor': cpu.group(1) if cpu else 'unknown', 'cores': server.cpus,
            'memory': f'{memory / 1048576:.0f} GB', 'kernel': output_of('uname', '-sr'),
            'disk': disk(os.environ['WORK']),
            'flushes': 'not measured' if given.quick else fsyncs(server),
            'server': server.value('SELECT version()'),
            'settings': dict(changed),
            'turns': f'{given.turns} of {given.seconds} s, {os.getloadavg()[0]:.1f} processes running before',
            'peers': versions}


# ----------------------------------------------------------------------- runs

# groups and kinds that --quick gives half of a turn, to stay under three minutes
QUICK_HALF = ('append 1', 'append 4', 'append 64', 'staged batch', 'views')


def seconds_of(group, series, given):
    if group.name == 'sustained':
        return 4 if given.quick else given.seconds * 10
    if given.quick and (group.name in QUICK_HALF or series.template != plan.STORE):
        return max(1, given.seconds // 2)
    return max(1, round(given.seconds * group.share))


def turns_of(group, given):
    if group.name == 'sustained':
        return 1 if given.quick else min(3, given.turns)
    return given.turns


def measure_group(bench, group, series, given, failures):
    """The series of a group by turns, every second time the other way round."""
    runs, broken = [], set()
    for number in range(1, turns_of(group, given) + 1):
        for one in series if number % 2 else reversed(series):
            if one.name in broken:
                continue
            missing = bench.absent.get(one.template) or bench.absent.get(one.needs)
            if missing:
                broken.add(one.name)
                say(f'  {one.title}: absent ({missing})')
                continue
            try:
                runs.append(bench.turn(group, one, seconds_of(group, one, given), number))
            except Failed as failure:
                broken.add(one.name)
                failures.append(f'{one.title}: {failure}')
                say(f'  FAILED {one.title}: {failure}')
    return [run for run in runs if run['series'] not in broken]


def find_client(versions, absent):
    try:
        versions['pg'] = folds.node_client()
        del absent[plan.NODE]
    except Failed as failure:
        absent[plan.NODE] = str(failure)
    for name in (plan.GRAPHILE, plan.PG_BOSS):
        versions[name] = peers.version_of(os.environ['PEERS'], name)
        if plan.NODE in absent or versions[name] is None:
            absent[name] = versions[name] = 'absent: npm could not install it'


def measure_extra(kind, bench, given, failures):
    runs = []
    measured = {'cost': bench.cost, 'growth': lambda: bench.growth(given.sizes, given.seconds, say),
                'held': lambda: held.run(bench.server, bench, 60 if given.quick else 600, 15 if given.quick else 60, say),
                'archive': lambda: archive.run(bench.server, bench, archive.QUICK_EVENTS if given.quick else archive.EVENTS, given.seconds,
                                               given.turns, say),
                'retention': lambda: retention.run(bench.server, bench, given.quick, min(2, given.turns), say),
                'due': lambda: deadlines.run(bench.server, bench, min(3, given.turns), 5 if given.quick else 20),
                'waiters': lambda: waiters.run(bench.server, bench, min(given.seconds, 10), given.turns),
                'projection': lambda: projections.catching_up(bench, given.quick, min(3, given.turns), say),
                'inline': lambda: projections.inline(bench, given.seconds, given.turns),
                'fresh': lambda: projections.freshness(bench, 5 * given.seconds),
                'hottest': lambda: projections.hottest(bench, 60 if given.quick else 600, 15 if given.quick else 60),
                'several': lambda: projections.several(bench, given.quick, given.seconds),
                'fold-growth': lambda: folds.growth(bench, min(3, given.turns), say)}[kind]()
    try:
        for run in measured:
            runs.append(run)
            say('  ' + report.extra_line(run))
        if kind == 'fold-growth':
            say('  ' + report.linear_text(runs))
    except Failed as failure:
        failures.append(f'{kind}: {failure}')
        say(f'  FAILED {kind}: {failure}')
    return runs


def soaked(bench, given, about):
    say('\nSoak')
    try:
        return soak.run(bench.server, bench, given.soak, given.rate, about, say)
    except Failed as failure:
        say(f'  FAILED {failure}')
        return [f'soak: {failure}']


def compare(given):
    """Measures two builds against each other; returns what failed."""
    series = plan.compared(given.wanted, given.quick and not given.instructions)
    if given.instructions:
        series = against.counted(series)
    benches = against.make_benches()
    about = environment(benches['after'].server, {}, given)
    if given.instructions:
        about['turns'] = f'{given.turns}, each of the same number of calls of one client'
    say(f'before: {given.before}, after: {about["commit"]}')
    say(report.environment_text(about))
    try:
        against.prepare(benches, series)
    except Failed as failure:
        return [f'a store could not be made: {failure}']
    lines, failures = against.measure(benches, series, given, say)
    for line in lines:
        line.update({'revision': given.before, 'commit': about['commit'], 'date': about['date'],
                     'turns': about['turns']})
    if lines:
        say('\n' + report.against_text(lines))
    # the page shows one run, of all rows
    if lines and not given.quick and not given.rows:
        report.keep_against(lines)
        report.write()
        say('\nWritten: docs/benchmarks.md and bench/results/')
    return failures


def main():
    given = options()
    if given.report:
        if not report.RUNS.exists():
            sys.exit('there are no results yet in bench/results')
        report.write()
        return 0
    if not os.environ.get('BINDIR'):
        # the words were right; there is no server yet
        if given.against:
            print(given.before)
        return 0
    if given.against:
        return ended(compare(given))
    server = Server()
    bench = Bench(server)
    failures, runs = [], []

    bench.make_store()
    targets, groups = plan.chosen(given.wanted, given.quick)
    needs_peers = any(one.template != plan.STORE for _, series in groups for one in series)
    versions, bench.absent = peers.make(server, os.environ['PEERS']) if needs_peers else ({}, {})
    bench.absent[plan.NODE] = 'not looked for'
    if any(one.needs for _, series in groups for one in series):
        find_client(versions, bench.absent)
    about = environment(server, versions, given)
    say(report.environment_text(about))
    for group, series in groups:
        say(f'\n{group.title}')
        measured = measure_group(bench, group, series, given, failures)
        runs += measured
        say(report.group_text(measured))
    for kind in plan.EXTRA_ROWS:
        if kind in given.wanted:
            say(f'\n{kind.capitalize()}')
            runs += measure_extra(kind, bench, given, failures)
    if given.soak:
        failures += soaked(bench, given, about)
    if targets:
        say('\n' + report.ratio_text(targets, runs, bench.absent))
    if not given.quick and (runs or report.RUNS.exists()):
        if runs:
            report.keep(runs, about)
        report.write()
        say('\nWritten: docs/benchmarks.md and bench/results/')
    return ended(failures)


def ended(failures):
    for failure in failures:
        say(f'FAILED {failure}')
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
