"""What a large archive costs: appends with ids, loads of open aggregates and the feed, beside a store that has none.

Two stores have the same events in a window at the beginning of the log and the same open aggregates.  In one, half of the
window and ten million events behind it are archived; in the other all of the window is in domain_events and nothing
is archived.  The rows are inserted around the API, which would take an hour to move them, but stand as moving
leaves them: the archive by aggregate, with the marks that go with it.  Both stores stay as they are
between the turns, but for what is appended to both.
"""
from server import Failed

EVENTS = 10_000_000                 # archived
QUICK_EVENTS = 500_000
BLOCK = 10000                       # events of 500 aggregates, in turns
WINDOW = 20                         # blocks
OPEN = 20                           # aggregates of 1000 events

COLUMNS = ('global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload,'
           ' occurred_at, recorded_at')
# some of the events of blocks: {which} of the aggregates, in {order}
ROWS = f"""
    INSERT INTO event_store.{{table}} ({COLUMNS})
    SELECT b * {BLOCK} + s * 500 + a + 1, '{{type}}', md5((b * 500 + a)::text), s + 1, gen_random_uuid(), 'OrderPlaced',
           '{{payload}}', now() - interval '{{age}}', now() - interval '{{age}}'
      FROM generate_series(0, {{blocks}} - 1) b, generate_series(0, 499) a, generate_series(0, 19) s
     WHERE {{which}} ORDER BY {{order}};"""
BY_POSITION, BY_AGGREGATE = 'b, s, a', 'b, a, s'
CLOSED = """
    INSERT INTO event_store.closed_aggregates (aggregate_type, aggregate_id, state, last_sequence, last_position, last_recorded_at)
    SELECT aggregate_type, aggregate_id, 'archived', sequence, global_position, recorded_at
      FROM event_store.domain_events_archive WHERE sequence = 20;"""
OPEN_ONES = """
    SELECT count(*) FROM event_store.append_batch(array_fill('Account'::text, ARRAY[1000]), array_fill('{name}'::text, ARRAY[1000]),
        array_fill('Changed'::text, ARRAY[1000]), ARRAY(SELECT bench.account_payload(i) FROM generate_series(1, 1000) i));"""

# name, script, clients, options, events of a call, title
MEASURED = (
    ('append', 'append_known', 4, '-c synchronous_commit=off', 1, 'append_event with an id, sync off'),
    ('load', 'load_events', 1, '', 1000, 'load_events of an open aggregate of 1000'),
    ('read', 'read_window', 1, '', BLOCK, f'read_events of {BLOCK:,} from the beginning of the log'))
STORES = {'archived': 'half of them and {events:,} more archived', 'unarchived': 'none archived'}


def rows(table, payload, blocks, which='true', order=BY_POSITION, aggregate_type='Order', age='0'):
    """Events of so many blocks, inserted around the API."""
    return ROWS.format(table=table, payload=payload.replace("'", "''"), blocks=blocks, which=which, order=order,
                       type=aggregate_type, age=age)


def fill_archive(server, database, events, payload):
    """The window, of which every second aggregate is archived, and what is archived behind it."""
    server.sql(rows('domain_events_archive', payload, WINDOW, 'a % 2 = 0', BY_AGGREGATE) + CLOSED, database)
    blocks = events // BLOCK - WINDOW // 2
    server.pgbench('archive_fill', database, clients=2, calls=blocks // 2, variables={'block': WINDOW, 'payload': payload},
                   options='-c synchronous_commit=off')
    last = (WINDOW + blocks) * BLOCK
    # the first row behind all makes the positions go on there
    server.sql(f"SELECT setval('event_store.archived_position', {last});"
               + rows('domain_events', payload, WINDOW, 'a % 2 = 1')
               + f"INSERT INTO event_store.domain_events ({COLUMNS})"
                 f" VALUES ({last + 1}, 'Last', 'last', 1, gen_random_uuid(), 'Placed', '{{}}', now(), now());", database)


def make_store(server, bench, events):
    """A store with so many archived events, 0 = none."""
    database = bench.fresh_database('bench_store')
    payload = bench.payload(200)
    if events:
        fill_archive(server, database, events, payload)
    else:
        server.sql(rows('domain_events', payload, WINDOW), database)
    server.sql(''.join(OPEN_ONES.format(name=name) for name in range(1, OPEN + 1))
               + 'VACUUM (ANALYZE) event_store.domain_events; VACUUM (ANALYZE) event_store.domain_events_archive;'
                 ' CREATE EXTENSION pg_prewarm;'
                 " SELECT pg_prewarm('event_store.domain_events_archive_event_id_key');", database)
    return database


def expect(server, database, events):
    """A store that is not as it is said to be would be measured as well."""
    found = server.sql('SELECT (SELECT count(*) FROM event_store.domain_events_archive),'
                       f' (SELECT count(*) FROM event_store.read_events(0, {BLOCK} * {WINDOW})'
                       f' WHERE global_position <= {BLOCK} * {WINDOW})', database)[0]
    if found != [str(events), str(BLOCK * WINDOW)]:
        raise Failed(f'{events} archived events: {found}')


def run(server, bench, events, seconds, turns, say):
    """Yields the runs of both stores, by turns."""
    server.configure({'snapshot_every': 0})
    databases = {}
    for store, archived in (('archived', events), ('unarchived', 0)):
        databases[store] = make_store(server, bench, archived)
        expect(server, databases[store], archived)
    size = server.value("SELECT pg_size_pretty(pg_total_relation_size('event_store.domain_events_archive'))", databases['archived'])
    say(f'  an archive of {size}')
    for turn in range(1, turns + 1):
        for name, script, clients, options, of_call, title in MEASURED:
            server.sql('CHECKPOINT')
            for store in STORES if turn % 2 else reversed(STORES):
                done = server.pgbench(script, databases[store], clients=clients, seconds=seconds, options=options, seed=turn,
                                      variables={'payload': bench.payload(200), 'window': WINDOW * BLOCK, 'seed': turn})
                yield {**done, 'part': 'archive', 'series': f'archive {name} {store}',
                       'title': f'{title}, {STORES[store].format(events=events)}', 'turn': turn, 'clients': clients,
                       'seconds': seconds, 'events_per_second': done['calls_per_second'] * of_call}
    for database in databases.values():
        server.drop_database(database)
