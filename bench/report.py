"""What was measured, as text for the terminal and as docs/benchmarks.md with its plots."""
import csv
import json
import subprocess
from pathlib import Path
from statistics import geometric_mean, median

import plan

HERE = Path(__file__).resolve().parent
RESULTS = HERE / 'results'
RUNS = RESULTS / 'runs.jsonl'
ENVIRONMENT = RESULTS / 'environment.json'
RATIOS = RESULTS / 'ratios.csv'
AGAINST = RESULTS / 'against.jsonl'
SOAK = RESULTS / 'soak.md'
NOTES = HERE / 'notes.md'
PAGE = HERE.parent / 'docs' / 'benchmarks.md'


# ------------------------------------------------------------------- numbers

def of_series(runs, name):
    return [run for run in runs if run['series'] == name]


def middle(runs, key='events_per_second'):
    values = [run[key] for run in runs if key in run]
    return median(values) if values else None


def spread(runs, key='events_per_second'):
    values = [run[key] for run in runs]
    return min(values), max(values)


def ratios(target, runs):
    """One ratio for each turn in which both series were measured."""
    over = {run['turn']: run['calls_per_second' if target.time else 'events_per_second']
            for run in of_series(runs, target.over)}
    under = {run['turn']: run['calls_per_second' if target.time else 'events_per_second']
             for run in of_series(runs, target.under)}
    both = sorted(over.keys() & under.keys())
    return [under[turn] / over[turn] if target.time else over[turn] / under[turn] for turn in both]


def verdict(target, value):
    if target.must is None:
        return ''
    better = (lambda limit: value <= limit) if target.time else (lambda limit: value >= limit)
    return 'goal' if better(target.goal) else 'must' if better(target.must) else 'MISSED'


# A fold of a million events may cost so much more an event than one of 10,000.
LINEAR_SIZES, LINEAR_LIMIT = (10000, 1000000), 1.5


def linearity(runs):
    """The microseconds an event takes the built-in fold at both sizes, and their ratio turn by turn."""
    both = [[run['took_us'] for run in runs if run['part'] == 'fold-growth' and run['title'] == 'built-in merge'
             and run['events'] == events] for events in LINEAR_SIZES]
    if not all(both):
        return None
    costs = [[took / events for took in found[0]] for found, events in zip(both, LINEAR_SIZES)]
    return (*map(median, costs), median(large / small for small, large in zip(*costs)))


def linear_text(runs):
    found = linearity(runs)
    if not found:
        return 'no figure for a million events'
    small, large, ratio = found
    return (f'An event of {LINEAR_SIZES[1]:,} takes {number(large)} µs, one of {LINEAR_SIZES[0]:,} {number(small)} µs:'
            f' {ratio:.2f} x, of at most {LINEAR_LIMIT:g} ({"linear" if ratio <= LINEAR_LIMIT else "MISSED"}).')


def number(value):
    """A figure with three digits that count."""
    if value is None:
        return ''
    return f'{value:,.0f}' if value >= 100 else f'{value:.1f}' if value >= 10 else f'{value:.2f}'


def milliseconds(value):
    return '' if value is None else number(value / 1000)


def table(head, rows):
    """A Markdown table; the first column is text, the others are figures."""
    lines = ['| ' + ' | '.join(head) + ' |', '|---|' + '---:|' * (len(head) - 1)]
    return '\n'.join(lines + ['| ' + ' | '.join(row) + ' |' for row in rows])


# ------------------------------------------------------------- the terminal

def environment_text(about):
    lines = [f'{about["server"]}',
             f'{about["processor"]}, {about["cores"]} cores, {about["memory"]}, {about["kernel"]}',
             f'disk {about["disk"]}; flushes: {about["flushes"]}',
             f'commit {about["commit"]}; turns: {about["turns"]}']
    lines += [f'{name} {version}' for name, version in about['peers'].items()]
    lines += ['settings: ' + ', '.join(f'{name} = {value}' for name, value in about['settings'].items())]
    return '\n'.join(lines)


def group_text(runs):
    lines = []
    for name in dict.fromkeys(run['series'] for run in runs):
        some = of_series(runs, name)
        low, high = spread(some, rate_key(some))
        lines.append(f'  {some[0]["title"]:<46} {number(middle(some, rate_key(some))):>9}'
                     f'  ({number(low)} … {number(high)}) {rate_unit(some)}'
                     + (f', p50 {milliseconds(middle(some, "p50_us"))} ms' if 'p50_us' in some[0] else '')
                     + extra_words(some))
    return '\n'.join(lines)


def rate_key(runs):
    return 'events_per_second' if runs[0]['part'] not in ('views', 'snapshot') else 'calls_per_second'


def rate_unit(runs):
    return 'events/s' if rate_key(runs) == 'events_per_second' else 'calls/s'


def extra_words(runs):
    words = ''
    if 'conflicts' in runs[0]:
        words += f', {100 * sum(r["conflicts"] for r in runs) / sum(r["calls"] for r in runs):.0f} % of calls met a conflict'
    if 'slowest_consumer_behind' in runs[0]:
        words += f', slowest consumer {middle(runs, "slowest_consumer_behind"):,.0f} events behind'
    if 'ingest_per_second' in runs[0]:
        words += f', taken at {number(middle(runs, "ingest_per_second"))}/s'
    return words


PROJECTION_PARTS = ('projection', 'inline', 'fresh', 'several', 'hottest')


def extra_line(run):
    if run['part'] == 'cost':
        return (f'{run["title"]:<36} WAL {run["wal_bytes"]:.0f} bytes, pages dirtied {run["pages_dirtied"]:.3f},'
                f' disk {run["disk_bytes"]:.0f} bytes an event')
    if run['part'] == 'fold-growth':
        return (f'{run["title"]:<16} {run["events"]:>9,} events, {run["keys"]:>6,} keys: {milliseconds(run["p50_us"]):>8} ms'
                + ('' if run['title'] in STATE_TITLES else f', {number(run["p50_us"] / run["events"])} µs an event'))
    if run['part'] == 'due':
        return (f'{run["title"]}: p50 {milliseconds(run["p50_us"])} ms, p99 {milliseconds(run["p99_us"])} ms' if run['p99_us']
                else f'{run["title"]}: {number(run["events_per_second"])} events/s')
    if run['part'] in ('held', 'waiters', 'archive', 'retention'):
        return (f'{run["title"]}: {number(run["events_per_second"])} events/s, p50 {milliseconds(run["p50_us"])} ms,'
                f' p99 {milliseconds(run["p99_us"])} ms')
    if run['part'] in PROJECTION_PARTS:
        return (f'{run["title"]:<60} {number(run["events_per_second"]):>9} events/s'
                + (f', p50 {milliseconds(run["p50_us"])} ms, p99 {milliseconds(run["p99_us"])} ms' if 'p50_us' in run else ''))
    return (f'{run["millions"]:g} million: {run["title"]:<34} p50 {milliseconds(run["p50_us"])} ms,'
            f' p99 {milliseconds(run["p99_us"])} ms, {number(run["calls_per_second"])} calls/s')


def ratio_text(targets, runs, absent):
    lines = [f'{"row":<8}{"what":<44}{"ratio":>7}  {"spread":<15}{"must":>5}{"goal":>6}']
    absent_series = {series.name for group in plan.GROUPS for series in group.series if series.template in absent or series.needs in absent}
    for target in targets:
        found = ratios(target, runs)
        limits = f'{target.must:>5g}{target.goal:>6g}' if target.must else ' ' * 11
        if found:
            value = median(found)
            lines.append(f'{target.row:<8}{target.what:<44}{value:>7.2f}  {f"{min(found):.2f} … {max(found):.2f}":<15}'
                         f'{limits}  {verdict(target, value)}'.rstrip())
        else:
            word = 'absent' if {target.over, target.under} & absent_series else 'no figure'
            lines.append(f'{target.row:<8}{target.what:<44}{"":>7}  {"":<15}{limits}  {word}')
    return '\n'.join(lines)


# ----------------------------------------------------------- before and after

# What is compared may cost so much of its rate.
NO_WORSE = 0.97
AGAINST_HEAD = ['row, series', 'clients', 'unit', 'before', 'after', 'of medians', 'ratio', 'spread', 'worse in', 'verdict']


class Comparison:
    """A line of against.jsonl; a ratio above 1 is one where the build after is the better one."""

    def __init__(self, line):
        self.line = line
        self.counts = is_count(line)
        # counts repeat to a thousandth, rates do not
        self.digits = 3 if self.counts else 2
        self.before, self.after = median(line['before']), median(line['after'])
        self.pairs = list(map(self.better, line['before'], line['after']))
        self.ratio = median(self.pairs)
        self.of_medians = self.better(self.before, self.after)
        self.worse = sum(value < 1 for value in self.pairs)
        self.name = f'{", ".join(line["rows"])}: {line["title"]}'
        self.judged = line['series'] != plan.CONTROL
        self.below = self.judged and self.ratio < NO_WORSE

    def better(self, before, after):
        """Of instructions less is better, of rates more."""
        return before / after if self.counts else after / before

    def verdict(self):
        if not self.below:
            return ''
        # the chance of so few pairs on the other side is below 4 % for eight and 13 % for four
        unclear = len(self.pairs) - self.worse > (1 if len(self.pairs) >= 7 else 0)
        return f'below {NO_WORSE}' + (', unclear' if unclear else '')

    def cells(self):
        line, digits = self.line, self.digits
        return [self.name, str(line['clients']), line['unit'], number(self.before), number(self.after),
                f'{self.of_medians:.{digits}f}', f'{self.ratio:.{digits}f}',
                f'{min(self.pairs):.{digits}f} … {max(self.pairs):.{digits}f}',
                f'{self.worse} of {len(self.pairs)}', self.verdict()]

    def below_text(self):
        return (f'{self.name}, {self.line["clients"]} client{"s" * (self.line["clients"] != 1)}'
                f' ({self.ratio:.{self.digits}f}{", unclear" * self.verdict().endswith("unclear")})')


def is_count(line):
    return line['unit'].startswith('instructions')


def against_summary(lines):
    """The mean, what is below the limit, and the ratios of rows that are taken within a build."""
    judged = [one for one in map(Comparison, lines) if one.judged]
    words = []
    if judged:
        words += [f'Geometric mean of {len(judged)} ratios: {geometric_mean([one.ratio for one in judged]):.3f}.'
                  f' Below {NO_WORSE}: {"; ".join(one.below_text() for one in judged if one.below) or "none"}.']
    for target in [] if is_count(lines[0]) else plan.TARGETS:
        both = [line for name in (target.over, target.under) for line in lines if line['series'] == name]
        if len(both) == 2:
            before, after = (median(under / over if target.time else over / under
                                    for over, under in zip(both[0][side], both[1][side])) for side in ('before', 'after'))
            words.append(f'Row {target.row}, {target.what}: {before:.2f} before, {after:.2f} after.')
    return words


def against_text(lines):
    cells = [AGAINST_HEAD, *(Comparison(line).cells() for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    rows = ['  '.join(word.ljust(width) if index in (0, 2, len(row) - 1) else word.rjust(width)
                      for index, (word, width) in enumerate(zip(row, widths))).rstrip() for row in cells]
    return '\n'.join(rows + against_summary(lines))


def keep_against(lines):
    """Puts a comparison in the place of the last one of its kind."""
    RESULTS.mkdir(exist_ok=True)
    kept = [line for line in read_lines(AGAINST) if is_count(line) != is_count(lines[0])]
    write_lines(AGAINST, kept + lines)


def against_section():
    lines = read_lines(AGAINST)
    kinds = [line for line in lines if not is_count(line)], [line for line in lines if is_count(line)]
    parts = [against_part(some) for some in kinds if some]
    return '\n\n'.join([AGAINST_INTRODUCTION, *parts]) if parts else ''


def against_part(lines):
    first = lines[0]
    title = (f'{"Instructions" if is_count(first) else "Time"}: before is commit {first["revision"]}, after is commit'
             f' {first["commit"]}, {first["date"]}; turns: {first["turns"]}.')
    summary = '\n'.join(f'- {words}' for words in against_summary(lines))
    return '\n\n'.join([title, table(AGAINST_HEAD, [Comparison(line).cells() for line in lines]), summary])


# -------------------------------------------------------------------- results

def keep(runs, about):
    """Adds runs to the results, in place of what was there of the same parts."""
    RESULTS.mkdir(exist_ok=True)
    old = read_runs()
    # a selection of rows may measure some series of a group only
    again = {(run['part'], run['series']) for run in runs} | {(run['part'], '') for run in runs
                                                              if run['part'] in plan.EXTRA_ROWS}
    kept = [run for run in old if (run['part'], run['series']) not in again and (run['part'], '') not in again]
    for run in runs:
        run['commit'] = about['commit']
        run['date'] = about['date']
    write_lines(RUNS, kept + runs)
    if ENVIRONMENT.exists():
        about['peers'] = {**json.loads(ENVIRONMENT.read_text(encoding='utf-8'))['peers'], **about['peers']}
    ENVIRONMENT.write_text(json.dumps(about, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')


def read_runs():
    return read_lines(RUNS)


def read_lines(path):
    if not path.exists():
        return []
    with open(path, encoding='utf-8') as file:
        return [json.loads(line) for line in file]


def write_lines(path, lines):
    with open(path, 'w', encoding='utf-8') as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + '\n')


# ------------------------------------------------------------------- the page

INTRODUCTION = '''# Benchmarks

Written by `scripts/bench`, which installs what it needs, starts a server of its own, measures and writes this page;
`scripts/bench --quick` prints the table of ratios in under three minutes. Every run is in
[bench/results](../bench/results), the scripts of the clients are in [bench/pgbench](../bench/pgbench).

How it is measured:

- "raw" is a plain prepared INSERT into a table `LIKE event_store.domain_events INCLUDING ALL`: the same columns, checks and
  indexes. Its client knows the sequence of each event and makes time-ordered UUIDs, positions come from a plain
  sequence; nothing is checked but the indexes. No event store on these tables can do less.
- pgbench sends prepared statements with parameters through a local socket, from the same machine: client and server share
  the cores. Payloads are JSON of 200 bytes unless something else is said.
- The series of a group take turns (A B, B A, A B …), each turn in a database copied from the same template a moment before and
  after a CHECKPOINT. A figure is the median of the turns, with the lowest and highest beside it; a ratio is the
  median of the ratios turn by turn.
- After each turn the rows in the tables are counted and compared with the calls that returned.
- Rates and times of single calls come from pgbench's log of every call, without the first second of a turn (or its first
  quarter, if that is shorter), in which sessions prepare their plans. Failed or absent series have no figure.
- The peers are the packages of the npm registry as they are, with their own SQL functions called from pgbench.
'''

AGAINST_INTRODUCTION = '''## Before and after

`scripts/bench --against REVISION` builds a revision and the tree, starts a server for each, and lets them take turns: before, after, after,
before … Its ratio is the median of the ratios pair by pair, after over before, for instructions before over after: more than 1
is better. The spread is that of the pairs, and "worse in" counts those in which the build after came off worse: about half of them
where nothing but noise differs. The ratio of the medians stands beside it; it suffers more from a machine whose speed changes. A ratio
below 0.97 is unclear where more than one pair of eight (any of fewer than seven) says otherwise; of so many rows one may still come
out below by chance, and not when it is measured again (`--rows`). "A client that only fetches them" calls nothing of
event_store; it shows the noise and is not judged. Instructions (`--instructions`) are those that one backend executes for a
call, outside the kernel; other work on the machine does not change them, and they tell nothing of waiting.'''


def write():
    runs = read_runs()
    about = json.loads(ENVIRONMENT.read_text(encoding='utf-8'))
    parts = [INTRODUCTION, machine_section(about), ratio_section(runs), against_section()]
    if NOTES.exists():
        parts.append(NOTES.read_text(encoding='utf-8').strip())
    plots = draw(runs)
    parts += [family_section('append ', 'Single appends', plots, 'appends', runs, about),
              family_section('batch ', 'Batches', plots, 'batches', runs, about)]
    parts += [group_section('##', group, runs, about) for group in plan.GROUPS
              if not group.name.startswith(('append ', 'batch '))]
    parts += [projection_section(runs, plots, about), fold_growth_section(runs, plots, about), cost_section(runs, about), growth_section(runs, plots, about)]
    if SOAK.exists():
        parts.append(SOAK.read_text(encoding='utf-8'))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text('\n\n'.join(part.strip() for part in parts if part.strip()) + '\n', encoding='utf-8')


def machine_section(about):
    rows = [('processor', f'{about["processor"]}, {about["cores"]} cores'), ('memory', about['memory']),
            ('kernel', about['kernel']), ('disk', about['disk']), ('small writes flushed', about['flushes']),
            ('PostgreSQL', about['server']), ('event_store', f'commit {about["commit"]}, {about["date"]}'),
            ('turns', about['turns'])]
    rows += list(about['peers'].items())
    rows.append(('settings', '<br>'.join(f'{name} = {value}' for name, value in about['settings'].items())))
    return '## Machine\n\n| | |\n|---|---|\n' + '\n'.join(f'| {name} | {value} |' for name, value in rows)


def ratio_section(runs):
    rows, records = [], []
    for target in plan.TARGETS:
        found = ratios(target, runs)
        if not found:
            continue
        value = median(found)
        rows.append([f'{target.row}: {target.what}', f'**{value:.2f}**', f'{min(found):.2f} … {max(found):.2f}',
                     '' if target.must is None else f'{target.must:g}',
                     '' if target.goal is None else f'{target.goal:g}', verdict(target, value)])
        records.append([target.row, target.what, target.over, target.under, f'{value:.4f}', f'{min(found):.4f}',
                        f'{max(found):.4f}', target.must, target.goal, verdict(target, value)])
    with open(RATIOS, 'w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(['row', 'what', 'over', 'under', 'ratio', 'lowest', 'highest', 'must', 'goal', 'verdict'])
        writer.writerows(records)
    return ('## Ratios\n\nEvents (or calls) a second of the first over the second; the row "time" is a ratio of times, where'
            ' less is better. A row reaches the goal, or the must, which is the least that is aimed at, or MISSED it:'
            ' why is in the last section.\n\n' + table(['', 'ratio', 'spread', 'must', 'goal', 'reached'], rows))


def commit_note(runs, about):
    """Says so where a part was measured at another commit than the rest."""
    others = sorted({f'{run["commit"]} ({run["date"]})' for run in runs if run['commit'] != about['commit']})
    return f'\n\nMeasured at commit {", ".join(others)}.' if others else ''


def group_section(mark, group, runs, about):
    some = [run for run in runs if run['part'] == group.name]
    if not some:
        return ''
    note = f'{group.note}\n\n' if group.note else ''
    return f'{mark} {group.title}\n\n{note}{group_table(group, some)}{commit_note(some, about)}'


def family_section(prefix, title, plots, plot, runs, about):
    """Groups that differ in one number, in its order, below one plot."""
    groups = sorted((group for group in plan.GROUPS if group.name.startswith(prefix)),
                    key=lambda group: int(group.name.split()[1]))
    parts = [group_section('###', group, runs, about) for group in groups]
    parts = [part for part in parts if part]
    return '\n\n'.join([f'## {title}', plot_line(plots, plot, title), *parts]) if parts else ''


def group_table(group, runs):
    names = [series.name for series in group.series if of_series(runs, series.name)]
    key = rate_key(runs)
    rows = []
    for name in names:
        some = of_series(runs, name)
        low, high = spread(some, key)
        rows.append([some[0]['title'] + extra_words(some), number(middle(some, key)),
                     f'{number(low)} … {number(high)}']
                    + [milliseconds(middle(some, f'{mark}_us')) for mark in ('p50', 'p95', 'p99', 'p999')])
    return table(['', rate_unit(runs), 'spread', 'p50 ms', 'p95 ms', 'p99 ms', 'p99.9 ms'], rows)


def cost_section(runs, about):
    some = [run for run in runs if run['part'] == 'cost']
    if not some:
        return ''
    rows = [[run['title'], number(run['wal_bytes']), f'{run["wal_records"]:.2f}', f'{run["wal_page_images"]:.4f}',
             f'{run["pages_dirtied"]:.4f}', number(run['disk_bytes']), number(run['heap_bytes'])] for run in some]
    return ('## Cost of an event\n\nOf 100,000 events with payloads of 200 bytes, appended by 4 clients into an empty store after a'
            ' CHECKPOINT. Pages dirtied are those in shared buffers that wait to be written at the end.\n\n'
            + table(['', 'WAL bytes', 'WAL records', 'page images', 'pages dirtied', 'bytes on disk', 'of them table'], rows)
            + commit_note(some, about))


def growth_section(runs, plots, about):
    some = [run for run in runs if run['part'] == 'growth']
    if not some:
        return ''
    rows = [[f'{run["millions"]:g} million: {run["title"]}', milliseconds(run['p50_us']), milliseconds(run['p95_us']),
             milliseconds(run['p99_us']), number(run['calls_per_second']), f'{run["disk_bytes"] / 1e9:.1f}']
            for run in some]
    return ('## Growth\n\nOne store filled with aggregates of 20 events under random ids; appends and loads meet any of them.\n\n'
            + plot_line(plots, 'growth', 'median time of a call by the size of the store') + '\n\n'
            + table(['', 'p50 ms', 'p95 ms', 'p99 ms', 'calls/s', 'GB on disk'], rows) + commit_note(some, about))


def fold_growth_section(runs, plots, about):
    some = [run for run in runs if run['part'] == 'fold-growth']
    if not some:
        return ''
    by_events = {run['events']: [] for run in some if run['title'] not in STATE_TITLES}
    titles = list(dict.fromkeys(run['title'] for run in some if run['title'] not in STATE_TITLES))
    for events, row in by_events.items():
        for title in titles:
            found = [run for run in some if (run['title'], run['events']) == (title, events)]
            row += [milliseconds(found[0]['p50_us']), number(found[0]['p50_us'] / events)] if found else ['', '']
    events_table = table(['events'] + [word for title in titles for word in (f'{title}, ms', 'µs an event')],
                         [[f'{events:,}', *row] for events, row in by_events.items()])
    states_table = table(['keys', 'all 1000 events, ms', 'the first, ms', 'each of the others, µs'],
                         [[f'{keys:,}', milliseconds(every), milliseconds(first), number(rest)]
                          for keys, every, first, rest in state_costs(some)])
    return ('## How folds grow\n\n`replay_aggregate` by one connection, without snapshots; the time of a call. Built-in: events of'
            ' 230 bytes, a state of 60 keys; rules: the orders above.\n\n'
            f'**{linear_text(some)}**\n\n' + plot_line(plots, 'fold_events', 'time of a replay by the events of the aggregate')
            + f'\n\n{events_table}\n\nThe built-in fold of 1000 events into larger and larger states. The first event makes the state;'
            ' its time is also that of encoding the state once, at the end. Each of the others changes 5 keys.\n\n'
            + plot_line(plots, 'fold_states', 'time of a replay by the keys of the state') + f'\n\n{states_table}'
            + commit_note(some, about))


def projection_section(runs, plots, about):
    some = [run for run in runs if run['part'] in PROJECTION_PARTS]
    if not some:
        return ''
    rows = []
    for name in dict.fromkeys(run['series'] for run in some):
        found = of_series(some, name)
        low, high = spread(found)
        rows.append([found[0]['title'], number(middle(found)), f'{number(low)} … {number(high)}',
                     *(milliseconds(middle(found, f'{mark}_us')) for mark in ('p50', 'p99'))])
    return ('## Projections\n\nA counter, a sum and the last event of each customer, kept by everybody in the same way'
            ' ([projections.py](../bench/projections.py)); after each turn the rows are compared with the log. A projection catches up'
            ' with a log that is there, its start included; the trigger is on a table like the log, and its rate includes the INSERT, whose'
            ' own stands below it. Fresh and hottest: from the return of an append until its event is in the view.\n\n'
            + table(['', 'events/s', 'spread', 'p50 ms', 'p99 ms'], rows) + '\n\n'
            + plot_line(plots, 'projections', 'rate of 1 to 8 projections of one log') + '\n'
            + plot_line(plots, 'inline_views', 'appends with 0 to 8 inline views') + commit_note(some, about))


STATE_TITLES = ('all events', 'first event')


def state_costs(runs):
    """For each number of keys: microseconds of all events, of the first, and of each of the others."""
    for run in runs:
        if run['title'] == 'all events':
            first = [one for one in runs if (one['title'], one['keys']) == ('first event', run['keys'])][0]
            yield (run['keys'], run['p50_us'], first['p50_us'],
                   median(every - begun for every, begun in zip(run['took_us'], first['took_us'])) / (run['events'] - 1))


# ---------------------------------------------------------------------- plots

def plot_line(plots, name, title):
    return f'![{title}](../bench/results/{name}.svg)' if name in plots else ''


def draw(runs):
    """Draws what there are figures for; returns the names of the plots."""
    by_clients = {f'{title}, {word}': [(clients, middle(of_series(runs, f'{script} {clients} {word[5:]}')))
                                       for clients in (1, 4, 16, 64)]
                  for title, script in (('raw INSERT', 'raw_insert'), ('append_event', 'append_event'))
                  for word in ('sync on', 'sync off')}
    for title, name in (('message-db', 'message_db'), ('Emmett', 'emmett'), ('staged append_event', 'staged')):
        by_clients[title] = [(16, middle(of_series(runs, name)))]
    by_batch = {title: [(size, middle(of_series(runs, f'{script} {size} on'))) for size in (10, 100, 1000, 10000)]
                for title, script in (('raw INSERT … SELECT unnest', 'batch_raw'), ('append_batch', 'batch_append'))}
    by_batch['COPY, 1 client'] = [(10000, middle(of_series(runs, 'copy')))]
    growth = [run for run in runs if run['part'] == 'growth']
    by_size = {title: [(run['millions'], run['p50_us'] / 1000) for run in growth if run['title'] == title]
               for title in dict.fromkeys(run['title'] for run in growth)}
    folds = [run for run in runs if run['part'] == 'fold-growth']
    by_events = {title: [(run['events'], run['p50_us'] / 1000) for run in folds if run['title'] == title]
                 for title in dict.fromkeys(run['title'] for run in folds) if title not in STATE_TITLES}
    by_keys = {'all 1000 events': [(keys, every / 1000) for keys, every, _, _ in state_costs(folds)],
               'the first event': [(keys, first / 1000) for keys, _, first, _ in state_costs(folds)]}
    several = [run for run in runs if run['part'] == 'several']
    by_views = {title: [(run['views'], run['events_per_second']) for run in several if run['series'].endswith(kind)]
                for title, kind in (('async views', 'async'), ('append_event', 'inline'))}
    both_log = 'set logscale xy 10\nset yrange [*:*]\nset offsets\nset format y "%g"\nset format x "%.0f"'
    drawn = []
    for name, axes, series in (
            ('appends', ('clients', 'events a second', 'set logscale x 2\nset xtics (1, 4, 16, 64)'), by_clients),
            ('batches', ('events in a batch', 'events a second', 'set logscale x 10'), by_batch),
            ('growth', ('million events', 'p50, ms', 'set logscale x 10'), by_size),
            ('projections', ('projections of one log', 'events of the log a second', ''), {'async views': by_views['async views']}),
            ('inline_views', ('inline views', 'appends a second, 16 clients', ''), {'append_event': by_views['append_event']}),
            ('fold_events', ('events of the aggregate', 'ms', both_log), by_events),
            ('fold_states', ('keys of the state', 'ms', both_log), by_keys)):
        series = {title: [(x, y) for x, y in points if y is not None] for title, points in series.items()}
        series = {title: points for title, points in series.items() if points}
        if series and gnuplot(name, axes, series):
            drawn.append(name)
    return drawn


COLORS = {'raw INSERT, sync on': '#666666', 'raw INSERT, sync off': '#bbbbbb', 'append_event, sync on': '#1f5fb4',
          'append_event, sync off': '#8ab6e8', 'message-db': '#d62728', 'Emmett': '#ff7f0e',
          'staged append_event': '#2ca02c', 'raw INSERT … SELECT unnest': '#666666', 'append_batch': '#1f5fb4',
          'COPY, 1 client': '#222222', 'append_event, 1 client': '#1f5fb4', 'append_event, 16 clients': '#8ab6e8', 'built-in merge': '#1f5fb4',
          'all 1000 events': '#1f5fb4', 'the first event': '#8ab6e8'}


def look(title):
    """Raw is grey, ours is blue, and lighter where nobody waits for the disk."""
    return f"lw 2 lc rgb '{COLORS.get(title, '#2ca02c')}'"


def gnuplot(name, axes, series):
    horizontal, vertical, more = axes
    lines = ["set terminal svg size 760,420 font 'sans-serif,13' background 'white' noenhanced",
             f"set output '{RESULTS / name}.svg'", 'set encoding utf8', 'set key outside right', 'set grid ytics lc "#dddddd"',
             "set decimalsign '.'", "set format y '%.0f'" if name != 'growth' else "set format y '%.2f'",
             'set border 3', 'set tics nomirror', 'set yrange [0:*]', f"set xlabel '{horizontal}'", f"set ylabel '{vertical}'",
             'set offsets graph 0.05, graph 0.05, 0, 0', more]
    for index, points in enumerate(series.values()):
        lines += [f'$data{index} << END', *[f'{x} {y}' for x, y in points], 'END']
    lines.append('plot ' + ', '.join(f"$data{index} using 1:2 with linespoints {look(title)} pt {index + 4} title '{title}'"
                                     for index, title in enumerate(series)))
    try:
        subprocess.run(['gnuplot'], input='\n'.join(lines) + '\n', text=True, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as failure:
        print(f'no plot {name}: {getattr(failure, "stderr", failure)}')
        return False
    return True
