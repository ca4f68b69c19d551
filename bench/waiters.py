"""What sessions that wait cost the writers: appends with 100 of them against none.

Run against a server whose library is preloaded, with max_connections of 150 at least:

    BINDIR=$(pg_config --bindir) WORK=/tmp bench/waiters.py --host /run/postgresql

It makes a database of its own and drops it.  The waiters wait for subscriptions to which nothing is
appended, a third of them in wait_for_subscriptions, for minutes, the others in next_events, again and
again.  Turns with and without them alternate, so that what else the machine does
meets both.
"""
import argparse
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATABASE = 'bench_waiters'
SETTINGS = {'PGOPTIONS': '-c synchronous_commit=off'}

KINDS = [
    "CALL event_store.wait_for_subscriptions('{{idle_{n}}}', '10min');",
    "SELECT count(*) FROM event_store.next_events('idle_{n}', 10, '5s') \\watch 0\n",
    "SELECT count(*) FROM event_store.next_events('idle_{n}', 10, '5s') \\watch 0\n",
]


class Waiters:
    def __init__(self, given):
        self.given = given
        self.sessions = []

    def __enter__(self):
        for n in range(self.given.waiters):
            session = subprocess.Popen(psql(self.given) + ['-f', '-'], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL, text=True, env={**os.environ, 'PGAPPNAME': 'bench waiter'})
            session.stdin.write(KINDS[n % len(KINDS)].format(n=n % 20) + '\n')
            session.stdin.close()
            self.sessions.append(session)
        while int(sql(self.given, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bench waiter'"
                                  " AND wait_event_type = 'Extension'")) < self.given.waiters:
            pass
        return self

    def __exit__(self, *_):
        sql(self.given, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'bench waiter'")
        for session in self.sessions:
            session.kill()
            session.wait()


def psql(given, database=DATABASE):
    return [os.path.join(os.environ['BINDIR'], 'psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1', '-h', given.host, '-U', given.user, '-d', database]


def sql(given, text, database=DATABASE):
    return subprocess.run(psql(given, database) + ['-c', text], check=True, capture_output=True, text=True).stdout.strip()


def turn(given, clients):
    """Appends a second."""
    done = subprocess.run([os.path.join(os.environ['BINDIR'], 'pgbench'), '-n', '-M', 'prepared', '-h', given.host, '-U', given.user,
                           '-c', str(clients), '-j', '2', '-T', str(given.seconds), '-D', 'n=0', '-D', 's=0', '-D', "payload='{}'",
                           '-f', str(HERE / 'pgbench' / 'append_idle.sql'), DATABASE],
                          check=True, capture_output=True, text=True, env={**os.environ, **SETTINGS}).stdout
    return float(re.search(r'tps = ([\d.]+)', done)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--host', default=os.environ.get('PGHOST', '/run/postgresql'))
    parser.add_argument('--user', default='postgres')
    parser.add_argument('--waiters', type=int, default=100)
    parser.add_argument('--clients', default='8,16')
    parser.add_argument('--seconds', type=int, default=4)
    parser.add_argument('--turns', type=int, default=3)
    given = parser.parse_args()

    sql(given, f'DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)', 'postgres')
    sql(given, f'CREATE DATABASE {DATABASE}', 'postgres')
    sql(given, 'CREATE EXTENSION event_store; SELECT event_store.create_store()')
    sql(given, "SELECT event_store.create_subscription('idle_' || n, ARRAY['Nothing']) FROM generate_series(0, 19) n")
    worst = 1.0
    for clients in [int(c) for c in given.clients.split(',')]:
        turn(given, clients)
        ratios = []
        for _ in range(given.turns):
            alone = turn(given, clients)
            with Waiters(given):
                beside = turn(given, clients)
            ratios.append(beside / alone)
            print(f'{clients:3} clients: {alone:8.0f}/s alone, {beside:8.0f}/s with {given.waiters} waiting: {ratios[-1]:.2f}', flush=True)
        print(f'{clients:3} clients: median {statistics.median(ratios):.2f}; must 0.95, goal 1.0', flush=True)
        worst = min(worst, statistics.median(ratios))
    sql(given, f'DROP DATABASE {DATABASE} WITH (FORCE)', 'postgres')
    return 0 if worst >= 0.95 else 1


if __name__ == '__main__':
    sys.exit(main())
