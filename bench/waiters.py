"""What sessions that wait cost the writers: appends beside 100 of them, which wait for what nobody appends.

A third of them waits in wait_for_subscriptions, for minutes, the others in next_events, again and again.
"""
import os
import subprocess
import time

from server import Failed

WAITERS = 100
SUBSCRIPTIONS = 20
WITHIN = 60                         # seconds, until all wait

KINDS = ["CALL event_store.wait_for_subscriptions('{{idle_{n}}}', '10min');\n"]
KINDS += ["SELECT count(*) FROM event_store.next_events('idle_{n}', 10, '5s') \\watch 0\n"] * 2
WAITING = ("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bench waiter'"
           " AND wait_event_type = 'Extension'")


class Waiters:
    """Sessions that wait, as long as it is entered."""

    def __init__(self, server, database):
        self.server, self.database, self.sessions = server, database, []

    def __enter__(self):
        for n in range(WAITERS):
            session = subprocess.Popen([str(self.server.bindir / 'psql'), '-XAtq', '-d', self.database, '-f', '-'],
                                       stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
                                       env={**os.environ, **self.server.env, 'PGAPPNAME': 'bench waiter'})
            self.sessions.append(session)
            session.stdin.write(KINDS[n % len(KINDS)].format(n=n % SUBSCRIPTIONS))
            session.stdin.close()
        end = time.monotonic() + WITHIN
        # those that wait again and again are seen between two waits, too
        while int(self.server.value(WAITING)) < WAITERS * 0.9:
            if time.monotonic() > end:
                self.__exit__()
                raise Failed('the sessions do not come to wait')
        return self

    def __exit__(self, *_):
        for session in self.sessions:
            session.kill()
            session.wait()
        self.server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bench waiter'")
        while self.server.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bench waiter'") != '0':
            time.sleep(0.02)


def appends(server, database, clients, seconds, turn):
    return server.pgbench('append_idle', database, clients=clients, seconds=seconds, options='-c synchronous_commit=off', seed=turn)


def run(server, bench, seconds, turns):
    """Yields runs with and without those who wait, by turns."""
    database = bench.fresh_database('bench_store')
    server.configure({})
    server.sql(f"SELECT event_store.create_subscription('idle_' || n, ARRAY['Nothing']) FROM generate_series(0, {SUBSCRIPTIONS - 1}) n",
               database)
    for clients in (8, 16):
        for turn in range(1, turns + 1):
            for beside in ((False, True) if turn % 2 else (True, False)):
                if beside:
                    with Waiters(server, database):
                        done = appends(server, database, clients, seconds, turn)
                else:
                    done = appends(server, database, clients, seconds, turn)
                yield {**done, 'part': 'waiters', 'series': f'waiters {clients} {"beside" if beside else "alone"}',
                       'title': f'{clients} appenders, ' + (f'{WAITERS} sessions waiting' if beside else 'nobody waiting'),
                       'turn': turn, 'clients': clients, 'seconds': seconds, 'events_per_second': done['calls_per_second']}
    server.drop_database(database)
