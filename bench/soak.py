"""Staging over a long time: a steady load, drained all along, while a REPEATABLE READ transaction stays open.

Shows whether anything grows or slows down with the age of the oldest snapshot: the bytes of staging, the time
that a drained row takes, the worker's own memory.  Writes bench/results/soak.csv (every sample), soak.svg and
soak.md (the section of docs/benchmarks.md).
"""
import csv
import os
import re
import subprocess
import time
from dataclasses import astuple, dataclass, fields

import report
from plan import STORE
from server import Failed, complaint

CLIENTS = 4
BURST_CALLS = 20000                 # that tell the size of a row and the speed of the drain
OTHER_AGGREGATES = 50000000         # numbers that those of the burst do not reach
BURST = {'write_delay': '1h', 'write_batch_size': 1000000}
MEGABYTE = 1 << 20
ALLOWANCE = 64 * MEGABYTE           # beside twice the live backlog
PRIVATE_LIMIT = 64                  # MB that a worker may take
PARTS = 6                           # of the time; the first and the last are compared

LOOK = """SELECT s.staged_bytes, s.staged_events + s.staged_views, coalesce(w.pid, 0), s.staging_epoch,
                 s.consecutive_failures, pg_relation_size('event_store.store_state'), event_store.openmetrics()
            FROM event_store.staging_status s, event_store.worker_status w"""
DRAINED = r'^event_store_persistence_store_batch_entries_total\{.*operation="drain"\} (\S+)$'
DRAINING = r'^event_store_persistence_store_batch_duration_seconds_sum\{name="events",operation="drain"\} (\S+)$'


@dataclass
class Sample:
    seconds: float                  # since the load began
    staged_bytes: int
    staged_rows: int
    drained_rows: int               # since the server started
    draining_seconds: float         # that rounds have taken
    private_bytes: int              # of the worker; 0 = there was none
    worker_pid: int
    staging_epoch: int
    failures: int
    state_bytes: int                # of the table store_state, which every round updates


# -------------------------------------------------------------------- looking

def private_memory(pid):
    """Bytes of a process's own; "Private" would count shared buffers that only it has touched."""
    try:
        with open(f'/proc/{pid}/smaps_rollup', encoding='ascii') as file:
            return 1024 * int(re.search(r'^Anonymous: +(\d+) kB$', file.read(), re.M).group(1))
    except OSError:
        return 0


def look(server, database, began):
    rows = server.sql(LOOK, database)
    staged_bytes, staged_rows, pid, epoch, failures, state_bytes, _ = rows[0]
    text = '\n'.join('\t'.join(row) for row in rows)
    return Sample(time.monotonic() - began, int(staged_bytes), int(staged_rows),
                  sum(int(float(value)) for value in re.findall(DRAINED, text, re.M)),
                  float(re.search(DRAINING, text, re.M).group(1)), private_memory(pid), int(pid), int(epoch),
                  int(failures), int(state_bytes))


class Holder:
    """A session that has read staged rows and keeps its snapshot."""

    ASK = "SELECT 'sees ' || count(*) FROM event_store.load_events('Soak', 'held');"

    def __init__(self, server, database):
        server.sql("SELECT event_store.append_event('Soak', 'held', NULL, 'Held', durability => 'staged')", database)
        self.psql = subprocess.Popen([server.bindir / 'psql', '-XAtq', '-v', 'VERBOSITY=sqlstate', '-d', database],
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.say(f'BEGIN ISOLATION LEVEL REPEATABLE READ; {self.ASK}')
        if self.psql.stdout.readline().strip() != 'sees 1':
            raise Failed('the transaction that stays open does not see what is staged')

    def say(self, text):
        self.psql.stdin.write(text + '\n')
        self.psql.stdin.flush()

    def end(self):
        """What it is told in the end: the same, or that it cannot be told any more."""
        self.say(self.ASK)
        answer = self.psql.stdout.readline().strip()
        self.psql.stdin.close()
        self.psql.wait()
        return answer


# -------------------------------------------------------------------- the run

def burst(server, bench, database, variables):
    """Bytes of a staged row, and rows a second that the drain can move."""
    server.configure(BURST)
    bench.open_staging(database)
    empty = look(server, database, 0)
    server.pgbench('soak', database, clients=CLIENTS, calls=BURST_CALLS // CLIENTS, variables=variables)
    full = look(server, database, 0)
    server.configure({})
    bench.flush(database)
    drained = look(server, database, 0)
    return ((full.staged_bytes - empty.staged_bytes) / full.staged_rows,
            (drained.drained_rows - empty.drained_rows) / (drained.draining_seconds - empty.draining_seconds))


def run(server, bench, minutes, wanted_rate, about, say):
    """Runs the soak; returns what it missed."""
    database = bench.fresh_database(STORE)
    variables = {'payload': bench.payload(200)}
    row_bytes, speed = burst(server, bench, database, variables)
    # a tenth more rows than calls, since there are views
    rate = int(min(wanted_rate, speed / 2))
    say(f'a staged row takes {row_bytes:.0f} bytes; the drain moves {speed:,.0f} rows a second; the load is {rate:,} calls'
        f' a second for {minutes:g} minutes')
    holder = Holder(server, database)
    load = server.start_pgbench('soak', database, clients=CLIENTS, seconds=round(minutes * 60), rate=rate,
                                variables={**variables, 'n': OTHER_AGGREGATES}, seed=2)
    samples = watch(server, database, load, min(5.0, minutes), say)
    answer = holder.end()
    bench.flush(database)
    keep_samples(samples)
    figures = judge(samples, row_bytes, answer)
    plotted = draw(samples, peak_bound(samples, row_bytes))
    text = section(figures, samples, minutes, rate, row_bytes, speed, about, plotted)
    report.SOAK.write_text(text + '\n', encoding='utf-8')
    say('\n' + text)
    server.drop_database(database)
    return [f'soak: {what}: {value}' for what, value, _, held in figures if not held]


def watch(server, database, load, interval, say):
    """A sample every few seconds for as long as the load runs."""
    samples = []
    began = time.monotonic()
    try:
        while load.poll() is None:
            samples.append(look(server, database, began))
            if len(samples) % 12 == 1:
                one = samples[-1]
                say(f'  {one.seconds:6.0f} s: staging {one.staged_bytes / MEGABYTE:5.1f} MB, {one.staged_rows:6,} rows;'
                    f' worker {one.private_bytes / MEGABYTE:4.1f} MB')
            time.sleep(max(0.0, began + len(samples) * interval - time.monotonic()))
    finally:
        if load.poll() is None:
            load.terminate()
        complaints = load.communicate()[1]
    if load.returncode != 0:
        raise Failed(complaint(complaints))
    return samples


# -------------------------------------------------------------------- judging

def parts(samples):
    """The samples by sixths of the time; each begins with the last of the one before."""
    last = samples[-1].seconds
    bounds = [last * part / PARTS for part in range(PARTS + 1)]
    result = []
    for low, high in zip(bounds, bounds[1:]):
        some = [one for one in samples if low <= one.seconds <= high]
        if len(some) < 3:
            raise Failed('too few samples: give it more time')
        result.append(some)
    return result


def drained_a_second(part):
    return (part[-1].drained_rows - part[0].drained_rows) / (part[-1].seconds - part[0].seconds)


def speed_of(part):
    """Rows for each second that rounds took."""
    return (part[-1].drained_rows - part[0].drained_rows) / (part[-1].draining_seconds - part[0].draining_seconds)


def peak_bound(samples, row_bytes):
    """What staging may take at each sample: twice the largest live backlog so far, and a little."""
    most, bounds = 0, []
    for one in samples:
        most = max(most, one.staged_rows * row_bytes)
        bounds.append(2 * most + ALLOWANCE)
    return bounds


def judge(samples, row_bytes, answer):
    """What was to be shown: (what, figure, limit, whether it held)."""
    cut = parts(samples)
    rates = drained_a_second(cut[0]), drained_a_second(cut[-1])
    speeds = speed_of(cut[0]), speed_of(cut[-1])
    memory = [max(one.private_bytes for one in part) / MEGABYTE for part in (cut[0], cut[-1])]
    room = min(bound - one.staged_bytes for one, bound in zip(samples, peak_bound(samples, row_bytes)))
    pids = {one.worker_pid for one in samples if one.worker_pid}
    return [
        ('rows drained a second, first and last sixth', f'{rates[0]:,.0f} and {rates[1]:,.0f}', 'within 10 %',
         abs(rates[1] / rates[0] - 1) <= 0.1),
        ('rows for each second of a round', f'{speeds[0]:,.0f} and {speeds[1]:,.0f}', 'for information', True),
        ('most that staging took', f'{max(one.staged_bytes for one in samples) / MEGABYTE:.1f} MB',
         'below twice the live backlog + 64 MB', room >= 0),
        ('private memory of the worker', f'{memory[0]:.1f} and {memory[1]:.1f} MB',
         f'flat (10 % + 1 MB), below {PRIVATE_LIMIT} MB', memory[1] <= memory[0] * 1.1 + 1 and max(memory) < PRIVATE_LIMIT),
        ('the open transaction in the end', answer, 'sees 1, or 40001', answer == 'sees 1' or '40001' in answer),
        ('workers, failures, losses', f'{len(pids)}, {max(one.failures for one in samples)},'
         f' {samples[-1].staging_epoch - samples[0].staging_epoch}', '1, 0, 0',
         len(pids) == 1 and not any(one.failures for one in samples)
         and samples[-1].staging_epoch == samples[0].staging_epoch)]


# -------------------------------------------------------------------- results

def keep_samples(samples):
    report.RESULTS.mkdir(exist_ok=True)
    with open(report.RESULTS / 'soak.csv', 'w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow([field.name for field in fields(Sample)])
        writer.writerows([f'{value:.3f}' if isinstance(value, float) else value for value in astuple(one)]
                         for one in samples)


def section(figures, samples, minutes, rate, row_bytes, speed, about, plotted):
    rows = [[what, value, limit, 'yes' if held else '**NO**'] for what, value, limit, held in figures]
    sixths = [[f'{part[0].seconds / 60:.1f} … {part[-1].seconds / 60:.1f} min', report.number(drained_a_second(part)),
               report.number(speed_of(part)), f'{max(one.staged_rows for one in part):,}',
               f'{max(one.staged_bytes for one in part) / MEGABYTE:.1f}',
               f'{max(one.private_bytes for one in part) / MEGABYTE:.1f}',
               f'{part[-1].state_bytes / 1024:.0f}'] for part in parts(samples)]
    return '\n\n'.join([
        '## Soak: staging under an old snapshot',
        f'{CLIENTS} clients stage {rate:,} events of 200 bytes a second and a view with every tenth, for {minutes:g} minutes,'
        ' while a REPEATABLE READ transaction that has read a staged event stays open. Sampled every few seconds'
        ' (`scripts/bench --soak MINUTES`; [every sample](../bench/results/soak.csv)). In a burst before, a staged row'
        f' took {row_bytes:.0f} bytes, and the drain moved {speed:,.0f} rows a second. Commit {about["commit"]},'
        f' {about["date"]}.',
        '![Soak](../bench/results/soak.svg)' if plotted else '',
        report.table(['', 'measured', 'wanted', 'held'], rows),
        report.table(['', 'drained/s', 'rows/s of rounds', 'most rows staged', 'staging MB', 'worker MB', 'store_state kB'],
                     sixths)]).replace('\n\n\n\n', '\n\n')


PLOT = '''set terminal svg size 760,700 font 'sans-serif,13' background 'white' noenhanced
set output '{file}'
set encoding utf8
set key outside right
set grid ytics lc "#dddddd"
set decimalsign '.'
set format y '%.0f'
set border 3
set tics nomirror
set yrange [0:*]
set autoscale xfix
set lmargin 12
set rmargin 26
{data}
set multiplot layout 3,1
set ylabel 'MB'
plot $bytes using 1:2 with lines lw 2 lc rgb '#1f5fb4' title 'staging', \\
     $bound using 1:2 with lines lw 2 lc rgb '#d62728' title 'limit'
set ylabel 'rows a second'
plot $rate using 1:2 with lines lw 2 lc rgb '#1f5fb4' title 'drained', \\
     $speed using 1:2 with lines lw 2 lc rgb '#8ab6e8' title 'speed of rounds'
set ylabel 'MB'
set xlabel 'minutes'
plot $memory using 1:2 with lines lw 2 lc rgb '#1f5fb4' title 'worker, private'
unset multiplot
'''


def draw(samples, bounds):
    """Three plots, one below the other; returns whether there is gnuplot."""
    step = max(1, len(samples) // 120)
    pairs = list(zip(samples, samples[step:]))
    series = {'bytes': [(one.seconds, one.staged_bytes / MEGABYTE) for one in samples],
              'bound': [(one.seconds, bound / MEGABYTE) for one, bound in zip(samples, bounds)],
              'rate': [(b.seconds, drained_a_second((a, b))) for a, b in pairs],
              'speed': [(b.seconds, speed_of((a, b))) for a, b in pairs if b.draining_seconds > a.draining_seconds],
              'memory': [(one.seconds, one.private_bytes / MEGABYTE) for one in samples if one.worker_pid]}
    data = '\n'.join(f'${name} << END\n' + '\n'.join(f'{x / 60:.4f} {y:.3f}' for x, y in points) + '\nEND'
                     for name, points in series.items())
    try:
        subprocess.run(['gnuplot'], input=PLOT.format(file=os.fspath(report.RESULTS / 'soak.svg'), data=data), text=True,
                       check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as failure:
        print(f'no plot soak: {getattr(failure, "stderr", failure)}')
        return False
    return True
