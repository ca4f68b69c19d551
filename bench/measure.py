"""One turn of one series, and what is not a series: cost and growth."""
import os
import time
from pathlib import Path

import folds
from plan import COUNTED, LOG_COUNT, NODE, RAW_COUNT, STORE
from server import Failed, command, complaint, summary

READING = 'bench_reading'
COPY_COLUMNS = ('global_position, aggregate_type, aggregate_id, sequence, event_id, event_type,'
                ' payload, occurred_at, recorded_at')


class Bench:
    """Knows the server and the databases that turns are copied from."""

    def __init__(self, server):
        self.server = server
        self.payloads = {}
        self.absent = {}            # template: why it is not there
        self.databases = 0
        self.prepared = {}          # what: why it could not be, or None
        self.first_position = self.last_position = 0

    # ---------------------------------------------------------------- set-up

    def make_store(self):
        self.server.sql(f'CREATE DATABASE {STORE}')
        self.server.sql('CREATE EXTENSION event_store; SELECT event_store.create_store();', STORE)
        self.server.run_file(Path(__file__).with_name('setup.sql'), STORE)
        for events in (10, 100, 1000, 10000):
            aggregates = {10: 1, 100: 5, 1000: 50, 10000: 500}[events]
            self.server.sql(f'SELECT bench.make_batch({events}, {aggregates}, 200)', STORE)

    def payload(self, size):
        if size not in self.payloads:
            self.payloads[size] = self.server.value(f'SELECT bench.order_payload(1, {size})', STORE)
        return self.payloads[size]

    def once(self, name, prepare):
        """Does what is done once; whoever needs it after a failure hears of that."""
        if name not in self.prepared:
            self.prepared[name] = None
            try:
                prepare()
            except Failed as failure:
                self.prepared[name] = str(failure)
        if self.prepared[name]:
            raise Failed(self.prepared[name])

    def prepare_copy(self, events):
        self.copy_file = self.server.logs / 'rows'
        self.server.sql(
            rf"\copy (SELECT i + 1, 'Order', md5((i / 20)::text), i % 20 + 1, lpad(i::text, 32, '0')::uuid,"
            rf" 'OrderPlaced', b.payloads[1 + i % 1000], now(), now()"
            rf" FROM generate_series(0, {events - 1}) i, bench.batches b WHERE b.events = 1000)"
            rf" TO '{self.copy_file}'", STORE)

    def prepare_reading(self):
        """The store that reading series share: twice 20 aggregates of 1000 events, one of 100,000."""
        # neither may replay find snapshots of its own, nor a test change the data
        self.server.configure({'snapshot_every': 0})
        self.server.copy_database(READING, STORE)
        grow = ("SELECT count(*) FROM event_store.append_batch(array_fill('{type}'::text, ARRAY[{n}]),"
                " array_fill('{name}'::text, ARRAY[{n}]), array_fill('Changed'::text, ARRAY[{n}]),"
                " ARRAY(SELECT {payload} FROM generate_series(1, {n}) i));")
        account = {'type': 'Account', 'payload': 'bench.account_payload(i)'}
        order = {'type': 'Upcast', 'payload': 'bench.order_payload(i, 230)::jsonb'}
        text = ''.join(grow.format(**of, n=1000, name=name) for of in (account, order) for name in range(1, 21))
        text += grow.format(**account, n=99900, name='long') + "SELECT event_store.take_snapshot('Account', 'long');"
        text += ''.join(grow.format(**account, n=100, name=name) for name in ('long', 'short'))
        self.server.sql(text + 'VACUUM (ANALYZE) event_store.domain_events;', READING)
        folds.run_setup(self.server, READING)
        self.expect_snapshot()
        self.first_position, self.last_position = map(int, self.server.sql(
            'SELECT min(global_position) - 1, max(global_position) FROM event_store.domain_events', READING)[0])

    def expect_snapshot(self):
        """The only snapshot is the one 100 events before the end of the long aggregate."""
        found = self.server.sql('SELECT aggregate_id, sequence FROM event_store.snapshots', READING)
        if found != [['long', '99900']]:
            raise Failed(f'snapshots of the reading store: {found}')

    def prepare_folds(self, group):
        """Folds are measured only where all who fold come to the same states."""
        if group.name in folds.PREPARE:
            self.once(group.name, lambda: folds.PREPARE[group.name](self.server, READING, NODE not in self.absent))

    def fresh_database(self, template):
        self.databases += 1
        name = f'bench_{self.databases}'
        self.server.copy_database(name, template)
        return name

    # ---------------------------------------------------------------- a turn

    def turn(self, group, series, seconds, number):
        """Measures one series once; returns what goes into the results."""
        server = self.server
        if series.kind == 'copy':
            self.once('copy', lambda: self.prepare_copy(series.events))
        if group.database:
            self.once(READING, self.prepare_reading)
            self.prepare_folds(group)
        server.configure({'snapshot_every': 0} if group.database else series.settings)
        database = group.database or self.fresh_database(series.template)
        try:
            given = {'seed': number, 'clients': series.clients, 'seconds': seconds,
                     'variables': self.variables(series),
                     'options': f'-c synchronous_commit={"on" if series.sync else "off"} {series.options}'}
            if 'staged' in series.script:
                self.open_staging(database)
            if series.before:
                server.sql(series.before, database)
            server.sql('CHECKPOINT')
            result = getattr(self, f'measure_{series.kind}')(series, database, given)
            if group.database:
                self.expect_snapshot()
            return {'part': group.name, 'series': series.name, 'title': series.title,
                    'clients': series.clients, 'synchronous_commit': series.sync, 'turn': number,
                    'seconds': seconds, **result}
        finally:
            if not group.database:
                server.drop_database(database)

    def open_staging(self, database):
        """Has the worker started and staging opened before the clock runs."""
        self.server.sql("SELECT event_store.append_event('Warm', 'up', NULL, 'Warm', durability => 'staged')",
                        database)
        self.flush(database)

    def variables(self, series):
        variables = dict(series.variables, first=self.first_position, last=self.last_position,
                         batches=(self.last_position - self.first_position) // 100)
        if 'bytes' in variables and not series.script.startswith('batch'):
            variables['payload'] = self.payload(variables['bytes'])
        return variables

    def expect_rows(self, series, database, calls):
        """A measurement that lost or repeated an event is none."""
        if not series.count:
            return
        rows = int(self.server.value(series.count, database)) - ('staged' in series.script)
        if rows != calls * series.events:
            raise Failed(f'{series.title}: {calls} calls of {series.events} events, but {rows} rows')

    def measure_calls(self, series, database, given):
        result = self.server.pgbench(series.script, database, **given)
        if 'staged' in series.script and not series.settings:
            # rows that move while they are counted are counted twice or not at all
            self.flush(database)
        self.expect_rows(series, database, result['calls'])
        result['events_per_second'] = result['calls_per_second'] * max(1, series.events)
        return result

    def measure_client_fold(self, series, database, given):
        lines = folds.run_client(database, series.variables['type'], 'measure', given['seconds'], given['seed'])
        calls = [(float(end), int(took)) for end, took in map(str.split, lines.splitlines())]
        result = summary(len(calls), len(calls) / given['seconds'], calls)
        result['events_per_second'] = result['calls_per_second'] * series.events
        return result

    def measure_queue(self, series, database, given):
        words = command('node', Path(__file__).with_name('queue_client.mjs'), os.environ['PEERS'], database,
                        series.variables['way'], given['seconds'], env=self.server.env).split()
        done, seconds = int(words[0]), float(words[1])
        if done == 0:
            raise Failed(f'{series.title}: nothing was done')
        return {'calls': done, 'calls_per_second': done / seconds, 'events_per_second': done / seconds}

    def measure_sagas(self, series, database, given):
        """So many sagas to their end; of latency and reactions the time from a request, or an event, to who takes it up."""
        way = series.variables['way']
        sagas = round(200 * given['seconds'])
        words = command('node', Path(__file__).with_name('saga_client.mjs'), os.environ['PEERS'], database, way, sagas,
                        env=self.server.env).split()
        done, seconds = int(words[0]), float(words[1])
        steady = way in ('latency', 'reactions')
        rate = done / (given['seconds'] if steady else seconds)
        result = {'calls': done, 'calls_per_second': rate, 'events_per_second': rate}
        if steady:
            result.update({f"{name}_us": 1000 * float(word) for name, word in zip(('p50', 'p95', 'p99', 'p999'), words[2:])})
        return result

    def measure_conflicts(self, series, database, given):
        result = self.server.pgbench(series.script, database, **given)
        rows = int(self.server.value(series.count, database))
        result['events_per_second'] = result['calls_per_second'] * rows / result['calls']
        result['conflicts'] = result['calls'] - rows
        return result

    def measure_sustained(self, series, database, given):
        began = time.monotonic()
        result = self.server.pgbench(series.script, database, **given)
        result['ingest_per_second'] = result['calls_per_second']
        self.flush(database)
        result['elapsed_seconds'] = time.monotonic() - began
        result['events_per_second'] = result['calls'] / result['elapsed_seconds']
        self.expect_rows(series, database, result['calls'])
        return result

    def flush(self, database):
        if self.server.value("SELECT event_store.flush('10min')", database) != 't':
            raise Failed('flush() gave up')

    def measure_tailed(self, series, database, given):
        server = self.server
        consumers = server.start_pgbench('consume', database, clients=4,
                                         seconds=given['seconds'] + 600, variables={'at': 0})
        where = (f"SELECT count(*), coalesce(min(substr(application_name, 13)::bigint), 0)"
                 f" FROM pg_stat_activity WHERE datname = '{database}' AND application_name LIKE 'consumer at %'")
        try:
            while server.sql(where)[0][0] != '4':
                if consumers.poll() is not None:
                    raise Failed(complaint(consumers.communicate()[1]))
                time.sleep(0.05)
            result = server.pgbench(series.script, database, **given)
            slowest = int(server.sql(where)[0][1])
            last = int(server.value('SELECT max(global_position) FROM event_store.domain_events', database))
            if consumers.poll() is not None:
                raise Failed(complaint(consumers.communicate()[1]))
        finally:
            consumers.terminate()
            consumers.communicate()
        result['slowest_consumer_behind'] = max(0, last - slowest)
        self.expect_rows(series, database, result['calls'])
        result['events_per_second'] = result['calls_per_second']
        return result

    def measure_copy(self, series, database, given):
        began = time.monotonic()
        self.server.sql(rf"\copy bench.raw_events ({COPY_COLUMNS}) FROM '{self.copy_file}'", database)
        seconds = time.monotonic() - began
        self.expect_rows(series, database, 1)
        return {'calls': 1, 'calls_per_second': 1 / seconds, 'events_per_second': series.events / seconds}

    def measure_instructions(self, series, database, given):
        """Those of many calls less those of few: neither connecting nor planning is in them."""
        calls = COUNTED[series.name]
        few = max(1, calls // 10)
        counts = []
        for number in (few, few + calls):
            # a client that begins anew appends to other aggregates
            variables = {**given['variables'], 'n': number}
            counts.append(self.server.instructions(series.script, database,
                                                   **{**given, 'calls': number, 'variables': variables}))
        self.expect_rows(series, database, 2 * few + calls)
        return {'calls': calls, 'instructions': (counts[1] - counts[0]) / calls}

    # ---------------------------------------------------------------- cost

    def cost(self, events=100000):
        """WAL, pages dirtied and disk for every event, each way into a database of its own."""
        self.server.sql('CREATE EXTENSION IF NOT EXISTS pg_buffercache')
        self.server.configure({})
        ways = [('raw INSERT', 'raw_insert', 1, 'bench.raw_events', RAW_COUNT),
                ('append_event', 'append_event', 1, 'event_store.domain_events', LOG_COUNT),
                ('raw INSERT … SELECT unnest of 100', 'batch_raw', 100, 'bench.raw_events', RAW_COUNT),
                ('append_batch of 100', 'batch_append', 100, 'event_store.domain_events', LOG_COUNT),
                ('staged append_event, drained', 'append_event_staged', 1, 'event_store.domain_events', LOG_COUNT)]
        for title, script, size, table, count in ways:
            database = self.fresh_database(STORE)
            yield {'part': 'cost', 'series': title, 'title': title,
                   **self.cost_of(database, script, events, size, table, count)}
            self.server.drop_database(database)

    def cost_of(self, database, script, events, size, table, count):
        server = self.server
        clients = 4
        variables = {'payload': self.payload(200)}
        if size > 1:
            variables = {'events': size, 'aggregates': size // 20}
        if 'staged' in script:
            self.open_staging(database)
        server.sql('CHECKPOINT')
        before = self.wal()
        server.pgbench(script, database, clients=clients, calls=events // size // clients, variables=variables)
        if 'staged' in script:
            self.flush(database)
        server.wait_for_clients(database)
        after = self.wal()
        dirty = int(server.value(f"SELECT count(*) FROM pg_buffercache WHERE isdirty AND reldatabase ="
                                 f" (SELECT oid FROM pg_database WHERE datname = '{database}')"))
        rows = int(server.value(count, database)) - ('staged' in script)
        if rows != events // size // clients * clients * size:
            raise Failed(f'{script}: {rows} rows')
        disk = int(server.value(f"SELECT pg_total_relation_size('{table}')", database))
        heap = int(server.value(f"SELECT pg_table_size('{table}')", database))
        return {'events': rows, 'wal_bytes': (after[0] - before[0]) / rows,
                'wal_records': (after[1] - before[1]) / rows, 'wal_page_images': (after[2] - before[2]) / rows,
                'pages_dirtied': dirty / rows, 'disk_bytes': disk / rows, 'heap_bytes': heap / rows}

    def wal(self):
        # what other processes have counted arrives within a second
        time.sleep(1.1)
        row = self.server.sql("SELECT pg_current_wal_insert_lsn() - '0/0', wal_records, wal_fpi FROM pg_stat_wal")[0]
        return [int(value) for value in row]

    # ---------------------------------------------------------------- growth

    def growth(self, sizes, seconds, say):
        """Appends and loads in one store that grows to each size, given in millions."""
        server = self.server
        server.configure({'snapshot_every': 0})
        database = self.fresh_database(STORE)
        filled = 0
        for millions in sizes:
            # a block is 500 aggregates of 20 events
            blocks = max(2, int(millions * 100) // 2 * 2)
            say(f'filling the store to {millions:g} million events')
            began = time.monotonic()
            server.pgbench('grown_fill', database, clients=2, calls=(blocks - filled) // 2,
                           variables={'block': filled, 'payload': self.payload(200)},
                           options='-c synchronous_commit=off')
            filled = blocks
            server.sql('VACUUM (ANALYZE) event_store.domain_events', database)
            filling = time.monotonic() - began
            size = int(server.value("SELECT pg_total_relation_size('event_store.domain_events')", database))
            for title, script, clients in (('append_event, 1 client', 'grown_append', 1),
                                           ('append_event, 16 clients', 'grown_append', 16),
                                           ('load_events of about 20, 1 client', 'grown_load', 1)):
                server.sql('CHECKPOINT')
                result = server.pgbench(script, database, clients=clients, seconds=seconds, seed=int(millions * 10),
                                        variables={'aggregates': blocks * 500, 'payload': self.payload(200)})
                yield {'part': 'growth', 'series': f'{title} {millions:g}', 'title': title, 'clients': clients,
                       'millions': millions, 'disk_bytes': size, 'filling_seconds': filling,
                       'seconds': seconds, **result, 'events_per_second': result['calls_per_second']}
        server.drop_database(database)

