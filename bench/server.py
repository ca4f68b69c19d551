"""The server under measurement, reached through psql and pgbench."""
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent

WARM_UP = 1.0                       # seconds
PATIENCE = 3600                     # beyond the length of a turn, in seconds
FEW_CALLS = 20                      # too few to leave some out
COUNTED_WITHIN = 60                 # seconds, after a client has gone


class Failed(Exception):
    """A command failed; the text is what it wrote."""


def complaint(text):
    """The first lines of an error: every client of pgbench says the same."""
    lines = [line for line in text.strip().split('\n') if 'setting random seed' not in line]
    return '\n'.join(lines[:4]) or 'failed without a word'


def command(*words, env=None, text=None):
    done = subprocess.run([str(word) for word in words], env={**os.environ, **(env or {})},
                          input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(complaint(done.stderr or done.stdout))
    return done.stdout


def percentile(ordered, share):
    """The value below which a share of an ordered list lies."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Server:
    """A running server: libpq finds it through the environment, unless its folder is given."""

    def __init__(self, folder=None):
        self.folder = folder
        self.env = {'PGHOST': str(folder)} if folder else {}
        self.bindir = Path(os.environ['BINDIR'])
        self.cpus = len(os.sched_getaffinity(0))
        self.logs = Path(tempfile.mkdtemp(prefix='pgbench.', dir=os.environ['WORK']))

    def sql(self, text, database='postgres', env=None):
        """Runs statements, each in a transaction of its own; returns rows of texts."""
        out = command(self.bindir / 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-F', '\t',
                      '-d', database, '-f', '-', text=text, env={**self.env, **(env or {})})
        return [line.split('\t') for line in out.splitlines()]

    def run_file(self, file, database):
        command(self.bindir / 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', database, '-f', file, env=self.env)

    def value(self, text, database='postgres'):
        return self.sql(text, database)[0][0]

    def configure(self, settings):
        """Sets exactly these settings of event_store, in the way that needs a reload."""
        self.sql('ALTER SYSTEM RESET ALL;'
                 + ''.join(f"ALTER SYSTEM SET event_store.{name} = '{value}';"
                           for name, value in settings.items())
                 + 'SELECT pg_reload_conf();')
        wanted = sorted([f'event_store.{name}', str(value)] for name, value in settings.items())
        # a new session has the settings once the postmaster has read them
        while sorted(self.sql("SELECT name, current_setting(name) FROM pg_settings"
                              " WHERE name LIKE 'event_store.%' AND sourcefile LIKE '%auto.conf'"
                              )) != wanted:
            time.sleep(0.02)

    def copy_database(self, name, template):
        self.sql(f'CREATE DATABASE {name} TEMPLATE {template}')

    def drop_database(self, name):
        self.sql(f'DROP DATABASE IF EXISTS {name} WITH (FORCE)')

    def wait_for_clients(self, database):
        """Until all clients have gone, so that what they count is counted."""
        while self.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
                         f" AND datname = '{database}'") != '0':
            time.sleep(0.05)

    def start_pgbench(self, script, database, clients=1, seconds=None, calls=None, variables=None,
                      options='', seed=1, log=None, rate=None):
        """Starts pgbench; extended protocol, prepared once, parameters sent as a driver does."""
        preset = {'a': 0, 'e': 0, 'k': 0, 'n': 0, 's': 0, **(variables or {})}
        words = [self.bindir / 'pgbench', '-n', '-M', 'prepared', '-c', clients,
                 '-j', min(clients, self.cpus), '-f', HERE / 'pgbench' / f'{script}.sql',
                 f'--random-seed={seed}']
        words += ['-T', seconds] if calls is None else ['-t', calls]
        if rate:
            words += ['-R', rate]
        if log:
            words += ['-l', f'--log-prefix={log}']
        for name, value in preset.items():
            words += ['-D', f'{name}={value}']
        return subprocess.Popen([str(word) for word in words] + [database], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True,
                                env={**os.environ, **self.env, 'PGOPTIONS': options})

    def pgbench(self, script, database, **given):
        """Runs pgbench and returns what it measured."""
        log = self.logs / 'call'
        process = self.start_pgbench(script, database, log=log, **given)
        try:
            out, err = process.communicate(timeout=PATIENCE + (given.get('seconds') or 0))
        except subprocess.TimeoutExpired as hung:
            raise Failed(f'{script} does not come to an end') from hung
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        calls = []
        for file in self.logs.glob('call.*'):
            with open(file, encoding='ascii') as lines:
                for line in lines:
                    # client, call, microseconds, script, seconds and microseconds of its end
                    words = line.split()
                    calls.append((int(words[4]) + int(words[5]) / 1e6, int(words[2])))
            file.unlink()
        if process.returncode != 0:
            raise Failed(complaint(err))
        return measured(out, calls)

    def instructions(self, script, database, **given):
        """What the backends of a run of pgbench execute, on a server under cachegrind."""
        log = self.folder / 'log'
        begin = log.stat().st_size
        self.pgbench(script, database, **given)
        pids = re.findall(rf'\[(\d+)\] LOG:  connection authorized: .* database={database} application_name=pgbench',
                          log.read_bytes()[begin:].decode())
        return sum(self.instructions_of(pid) for pid in pids)

    def instructions_of(self, pid):
        """cachegrind writes a process's figures when it ends, the sum last."""
        file = self.folder / f'instructions.{pid}'
        end = time.monotonic() + COUNTED_WITHIN
        while not (file.exists() and (found := re.search(r'^summary: (\d+)$', file.read_text('ascii', 'replace'), re.M))):
            if time.monotonic() > end:
                raise Failed(f'cachegrind has not written {file}')
            time.sleep(0.05)
        file.unlink()
        return int(found.group(1))


def measured(out, calls):
    """What pgbench's report and its log of calls (end, microseconds) say.

    The first quarter of a turn, at most a second, warms caches and prepares
    plans; it counts as calls but not in rates and times.
    """
    done = int(re.search(r'transactions actually processed: (\d+)', out).group(1))
    rate = float(re.search(r'tps = ([0-9.]+) \(without initial', out).group(1))
    return summary(done, rate, calls)


def summary(done, rate, calls):
    """The rate, unless calls tell it better, and the times of calls."""
    if calls:
        first, last = min(calls)[0], max(calls)[0]
        counted = [call for call in calls if call[0] > first + min(WARM_UP, (last - first) / 4)]
        if len(counted) >= FEW_CALLS:
            begin = min(counted)[0]
            calls, rate = counted, (len(counted) - 1) / (last - begin)
    took = sorted(microseconds for _, microseconds in calls)
    result = {'calls': done, 'calls_per_second': rate}
    for name, share in (('p50', .5), ('p95', .95), ('p99', .99), ('p999', .999)):
        result[f'{name}_us'] = percentile(took, share)
    return result
