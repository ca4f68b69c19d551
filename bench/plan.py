"""What is measured: series, the groups they are interleaved in, and targets.

A series is one way to do one thing.  The series of a group take turns, so that
whatever else the machine does meets all of them; every turn has a database of
its own, made a moment before.  A target compares two series round by round.
"""
from dataclasses import dataclass, field

STORE, MESSAGE_DB, EMMETT = 'bench_store', 'bench_message_db', 'bench_emmett'
NODE = 'node'                       # the client of npm's pg
GRAPHILE, PG_BOSS = 'graphile-worker', 'pg-boss'

# the same logic, and how it becomes the reducer of the orders
ORDER_REDUCERS = {
    'rules': "SELECT event_store.set_reducer_rules('Fulfilment', bench.order_rules())",
    'C': "SELECT event_store.set_reducer('Fulfilment', 'bench.order_c')",
    'PL/pgSQL': "SELECT event_store.set_reducer('Fulfilment', 'bench.order_plpgsql')",
    'SQL': "SELECT event_store.set_reducer('Fulfilment', 'bench.order_sql')",
}

# two versions on: a member renamed and one added, then one dropped; for one aggregate type, since one for all
# makes the snapshots of other rows older
UPCASTERS = {
    'none': "SELECT event_store.drop_upcaster('Changed', v, 'Upcast') FROM generate_series(1, 2) v",
    'rules': """SELECT event_store.set_upcaster('Changed', 1, aggregate_type => 'Upcast', rules => '[
        {"op": "set", "path": "$.buyer", "from": "$.payload.customer"}, {"op": "unset", "path": "$.customer"},
        {"op": "set_once", "path": "$.currency", "value": "EUR"}]');
        SELECT event_store.set_upcaster('Changed', 2, aggregate_type => 'Upcast', rules => '[
        {"op": "unset", "path": "$.note"}]')""",
}

# the drain waits until the measurement is over
BURST = {'write_delay': '1h', 'write_batch_size': 1000000}


@dataclass
class Series:
    name: str                       # unique
    title: str
    script: str                     # bench/pgbench/SCRIPT.sql
    clients: int = 1
    sync: bool = True               # synchronous_commit
    template: str = STORE
    events: int = 1                 # a call writes or returns
    count: str = ''                 # SQL: rows written, compared with the calls
    kind: str = 'calls'             # how it is measured, see measure.py
    variables: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    options: str = ''
    before: str = ''                # SQL: run before a turn
    needs: str = ''                 # what may be absent, beside the template


@dataclass
class Group:
    name: str
    title: str
    series: list
    note: str = ''
    words: tuple = ()               # what --rows may call it, beside its targets' rows
    database: str = ''              # prepared data that reading series share
    share: float = 1.0              # of the seconds of a turn


@dataclass
class Target:
    row: str
    what: str
    over: str                       # the series that is judged
    under: str                      # and what it is compared with
    must: float = None
    goal: float = None
    time: bool = False              # ratio of times a call: less is better
    unit: str = 'events/s'


RAW_COUNT = 'SELECT count(*) FROM bench.raw_events'
LOG_COUNT = 'SELECT count(*) FROM event_store.domain_events'
EFFECTS_COUNT = 'SELECT count(*) FROM bench.effects'
ALL_COUNT = f'SELECT ({LOG_COUNT}) + staged_events FROM event_store.staging_status'


def raw(clients, sync=True, bytes_=200, script='raw_insert', label='', **more):
    return Series(f'{script}{label} {clients} {"on" if sync else "off"}',
                  'raw INSERT' + ('' if sync else ', synchronous_commit off'), script, clients, sync,
                  count=RAW_COUNT, variables={'bytes': bytes_, **more})


def append(clients, sync=True, bytes_=200, script='append_event', label='', **more):
    return Series(f'{script}{label} {clients} {"on" if sync else "off"}',
                  'append_event' + ('' if sync else ', synchronous_commit off'), script, clients, sync,
                  count=LOG_COUNT, variables={'bytes': bytes_, **more})


def batch(script, title, events, clients=4, sync=True, aggregates=None, **more):
    return Series(f'{script} {events} {"on" if sync else "off"}', title, script, clients, sync,
                  events=events, count=more.pop('count', LOG_COUNT),
                  variables={'events': events, 'aggregates': aggregates or max(1, events // 20),
                             'bytes': 200}, **more)


def batches(events, sync=True):
    return [batch('batch_raw', 'raw INSERT … SELECT unnest', events, sync=sync, count=RAW_COUNT),
            batch('batch_append', 'append_batch', events, sync=sync)]


def reading(script, title, events=0):
    return Series(script, title, script, events=events)


def consuming(script, title):
    """A consumer of batches of 100, one client; each turn begins at the first event."""
    return Series(script, title, script, events=100, count=EFFECTS_COUNT if 'insert' in script else '',
                  before='TRUNCATE bench.effects; SELECT event_store.drop_subscription(\'bench\');'
                         ' SELECT event_store.create_subscription(\'bench\'); VACUUM event_store.subscription_positions;'
                         ' VACUUM bench.checkpoints')


def queue(way, title, needs=NODE):
    return Series(f'queue {way}', title, '', 4, kind='queue', variables={'way': way}, needs=needs)


def sagas(way, title, needs=NODE):
    return Series(f'sagas {way}', title, '', 4, kind='sagas', variables={'way': way}, needs=needs)


def upcasting(script, title, before, **more):
    """Loads of an aggregate, with upcasters as they are before the turn."""
    return Series(f'upcast {more.pop("label", script)}', title, script, events=1000, before=UPCASTERS[before], **more)


def client_fold(name, aggregate_type):
    return Series(name, 'Node client: load_events, fold in JavaScript', '', events=1000, kind='client_fold',
                  variables={'type': aggregate_type}, needs=NODE)


GROUPS = [
    Group('append 16', 'Single appends, 16 clients', [
        raw(16), append(16),
        Series('append_event tailed', 'append_event, 4 consumers tailing', 'append_event', 16,
               count=LOG_COUNT, kind='tailed', variables={'bytes': 200}),
        Series('message_db', 'message-db write_message', 'message_db', 16, template=MESSAGE_DB,
               count='SELECT count(*) FROM message_store.messages', variables={'bytes': 200},
               options='-c search_path=message_store,public'),
        Series('emmett', 'Emmett emt_append_to_stream', 'emmett', 16, template=EMMETT,
               count='SELECT count(*) FROM emt_messages',
               variables={'bytes': 200, 'partition': 'emt:default'}),
        raw(16, False), append(16, False),
        Series('staged', 'staged append_event, ingest', 'append_event_staged', 16, count=ALL_COUNT,
               settings=BURST, variables={'bytes': 200}),
        Series('staged drained', 'staged append_event while the worker drains',
               'append_event_staged', 16, count=ALL_COUNT, variables={'bytes': 200}),
    ], note='Each aggregate gets 20 events, one a call, with the expectation given; payloads of 200'
            ' bytes. "Ingest" holds the drain back until the turn is over.'),
    Group('append 1', 'Single appends, 1 client', [raw(1), append(1), raw(1, False), append(1, False)]),
    Group('append 4', 'Single appends, 4 clients', [raw(4), append(4), raw(4, False), append(4, False)]),
    Group('append 64', 'Single appends, 64 clients',
          [raw(64), append(64), raw(64, False), append(64, False)]),
    Group('batch 1000', 'Batches of 1000 events of 50 aggregates, 4 clients', batches(1000) + [
        batch('batch_raw_returning', 'raw INSERT … SELECT unnest RETURNING', 1000, count=RAW_COUNT),
        batch('batch_append_returning', 'append_batch, all rows sent back', 1000),
        Series('copy', 'COPY, 1 client, files of 100,000 rows', '', kind='copy', events=100000,
               count=RAW_COUNT),
    ], note='The client sends all arrays as parameters with every call; for COPY a file that holds'
            ' every column.', words=('batch',)),
    Group('sustained', 'Staged until durable, 16 clients', [
        Series('sustained raw', 'raw INSERT, synchronous_commit off', 'raw_insert', 16, False,
               count=RAW_COUNT, variables={'bytes': 200}),
        Series('sustained', 'staged append_event, then flush()', 'append_event_staged', 16,
               count=LOG_COUNT, kind='sustained', variables={'bytes': 200}),
    ], note='Events divided by the time from the first call until flush() says that all are durable.'),
    Group('staged batch', 'Staged batches of 100, 4 clients', [
        batch('batch_raw', 'raw INSERT … SELECT unnest, synchronous_commit off', 100, sync=False,
              count=RAW_COUNT),
        batch('batch_append_staged', 'staged append_batch, ingest', 100, count=ALL_COUNT,
              settings=BURST),
    ]),
    Group('views', 'Views, 100 hot keys, 16 clients', [
        Series('view_upsert', 'durable upsert', 'view_upsert', 16, variables={'bytes': 200}),
        Series('view_put', 'durable put_view', 'view_put', 16, variables={'bytes': 200}),
        Series('view_put_grouped', 'grouped put_view', 'view_put_grouped', 16, variables={'bytes': 200}),
        Series('view_put_staged', 'staged put_view', 'view_put_staged', 16, settings=BURST,
               variables={'bytes': 200}),
    ]),
    Group('load', 'Loading an aggregate of 1000 events', [
        reading('load_plain', 'SELECT … ORDER BY sequence', 1000),
        reading('load_events', 'load_events', 1000),
    ], database='bench_reading', share=0.5),
    Group('upcast', 'Loading an aggregate of 1000 events of an old version', [
        upcasting('load_written', 'load_events, upcast => false', 'rules'),
        upcasting('load_upcast', 'load_events, two versions on by rules', 'rules'),
        upcasting('load_events', 'load_events of a type without upcasters, where another type has some', 'rules', label='beside'),
        upcasting('load_events', 'the same where there is none', 'none', label='unused'),
    ], note='Orders of 230 bytes; the rules rename a member, add one and drop one.', database='bench_reading', share=0.5),
    Group('fold', 'Folding 1000 events of 230 bytes into a state of 60 keys', [
        reading('fold_fetch', 'a client that only fetches them', 1000),
        reading('fold_builtin', 'replay_aggregate, built-in reducer', 1000),
        reading('fold_plpgsql', 'PL/pgSQL merge-patch loop', 1000),
        client_fold('fold_node', 'Account'),
    ], note='By one connection, so that one core folds at a time: the figures are events a second of a core, and p50'
            ' is also the microseconds an event takes.',
          database='bench_reading', share=0.5),
    Group('orders', 'Folding 1000 events of a customer’s orders by the same logic', [
        *[Series(f'orders {name}', f'{name} reducer' if name != 'rules' else 'rules', 'fold_orders', events=1000,
                 before=statement) for name, statement in ORDER_REDUCERS.items()],
        client_fold('orders Node', 'Fulfilment'),
    ], note='Eleven event types with 31 operations of all kinds on a state of 12 keys, money as decimal strings'
            ' ([fold_setup.sql](../bench/fold_setup.sql)). Before the first turn the states of all five are compared after every'
            ' event. The reducers in SQL, PL/pgSQL and C write the state once an event. One connection, one core, as above.',
          database='bench_reading', share=0.5),
    Group('snapshot', 'Replay from a snapshot', [
        reading('replay_short', 'an aggregate of 100 events', 100),
        reading('replay_snapshot', '100,000 events, snapshot 100 back', 100),
    ], database='bench_reading', share=0.5),
    Group('feed', 'Reading 10,000 events of the feed', [
        reading('read_plain', 'SELECT … ORDER BY global_position', 10000),
        reading('read_events', 'read_events', 10000),
    ], database='bench_reading', share=0.5),
    Group('consume', 'Consuming batches of 100', [
        consuming('next_by_hand', 'read_events, UPDATE of a checkpoint, COMMIT'),
        consuming('next_events', 'next_events, COMMIT'),
        consuming('next_insert_by_hand', 'INSERT … SELECT FROM read_events, UPDATE of a checkpoint, COMMIT'),
        consuming('next_insert', 'INSERT … SELECT FROM next_events'),
    ], note='By one connection, synchronous_commit on. The consumer by hand knows its position, so that it need not read it; nothing keeps'
            ' a second one from the same events.', database='bench_reading', share=0.5),
    Group('claim', 'Claiming work and acknowledging it, 4 consumers in Node', [
        queue('event_store', 'claim_events of 100, each acknowledging the one before'),
        queue('graphile', 'graphile-worker, its defaults', GRAPHILE),
        queue('graphile_batched', 'graphile-worker, localQueue, batched completion, 24 jobs at once', GRAPHILE),
        queue('pg_boss', 'pg-boss, fetch and complete of one job', PG_BOSS),
    ], note='All in one process; the work itself is nothing. pg-boss without the pauses between its polls.'),
    Group('sagas', 'Sagas of three steps, 4 executors in Node', [
        sagas('event_store', 'claim_steps of up to 24, reported in one statement'),
        sagas('graphile', 'graphile-worker, batched, 24 jobs at once, and a table of states', GRAPHILE),
        sagas('latency', '200 sagas a second: from the request of a step to its claim'),
        sagas('reactions', '50 orders a second by reactions: from an event to what reacts to it'),
    ], note='All in one process; the work itself is nothing. By hand a step updates the row of its saga and adds the job of the next'
            ' in one transaction.'),
    Group('process', 'Messages that come once, 4 clients', [
        Series('process_by_hand', 'INSERT … ON CONFLICT DO NOTHING', 'process_by_hand', 4,
               count='SELECT count(*) FROM bench.processed'),
        Series('process_once', 'process_once', 'process_once', 4,
               count='SELECT count(*) FROM event_store.processed_messages'),
    ]),
    Group('payload 1000', 'Single appends, payloads of 1 kB, 16 clients',
          [raw(16, bytes_=1000, label=' 1000'), append(16, bytes_=1000, label=' 1000')],
          words=('payload',)),
    Group('payload 8192', 'Single appends, payloads of 8 kB, 16 clients',
          [raw(16, bytes_=8192, label=' 8192'), append(16, bytes_=8192, label=' 8192')],
          words=('payload',)),
    Group('hot', 'One hot aggregate, 16 clients', [
        raw(16, script='shared_raw', label=' hot', aggregates=1),
        append(16, script='shared_append', label=' hot', aggregates=1),
        Series('shared_expected', 'append_batch of 1, expectation given', 'shared_expected', 16,
               count=LOG_COUNT, kind='conflicts', variables={'bytes': 200}),
    ], note='raw keeps no order within the aggregate, so its clients never wait for each other.'
            ' With an expectation a client knows the sequence that its last call told it; a call'
            ' that meets a conflict writes nothing and is not counted as an event.',
          words=('hot',)),
    *[Group(f'grouped {clients}', f'One aggregate that {clients} clients append to', [
        raw(clients, label=' own'),
        *[Series(f'hot_{how} {clients} on', f'append_event, {how}', f'hot_{how}', clients, count=LOG_COUNT,
                 variables={'bytes': 200}) for how in ('durable', 'grouped', 'staged')],
        Series(f'hot_by_hand {clients} on', 'SELECT … FOR UPDATE, INSERT, UPDATE, COMMIT', 'hot_by_hand', clients,
               count=RAW_COUNT, variables={'bytes': 200}),
        Series(f'hot_message_db {clients} on', 'message-db write_message, one stream', 'hot_message_db', clients,
               template=MESSAGE_DB, count='SELECT count(*) FROM message_store.messages', variables={'bytes': 200},
               options='-c search_path=message_store,public'),
        Series(f'hot_emmett {clients} on', 'Emmett emt_append_to_stream, one stream', 'hot_emmett', clients,
               template=EMMETT, count='SELECT count(*) - 1 FROM emt_messages', kind='conflicts',
               variables={'bytes': 200, 'partition': 'emt:default'},
               # clients who begin a stream at once get an error
               before="SELECT * FROM emt_append_to_stream(ARRAY[gen_random_uuid()::text], ARRAY['{}']::jsonb[],"
                      " ARRAY['{}']::jsonb[], ARRAY['1'], ARRAY['OrderPlaced'], ARRAY['E'], '1', 'order', NULL, 'emt:default')"),
    ], note='Of raw every client writes rows of its own. Emmett refuses an append that another one has come before; only what'
            ' was written counts.', words=('grouped',)) for clients in (16, 64)],
    Group('grouped expected', 'The same, 16 clients, each with the sequence it last heard of', [
        Series(f'expected_{how} 16 on', f'append_batch of 1, {how}', f'expected_{how}', 16, count=LOG_COUNT,
               kind='conflicts', variables={'bytes': 200}) for how in ('durable', 'grouped')
    ], words=('grouped',)),
    Group('grouped own', 'Aggregates of their own, 64 clients', [
        append(64, label=' own'),
        Series('append_event_grouped own 64 on', 'append_event, grouped', 'append_event_grouped', 64, count=LOG_COUNT,
               variables={'bytes': 200}),
    ], words=('grouped',)),
    Group('zipf', '10,000 aggregates, chosen by Zipf’s law (1.1), 16 clients', [
        raw(16, script='shared_raw', label=' zipf', aggregates=10000),
        append(16, script='shared_append', label=' zipf', aggregates=10000),
    ], words=('zipf',)),
    Group('batch 10', 'Batches of 10 events of 1 aggregate, 4 clients', batches(10), words=('batch',)),
    Group('batch 100', 'Batches of 100 events of 5 aggregates, 4 clients', batches(100), words=('batch',)),
    Group('batch 10000', 'Batches of 10,000 events of 500 aggregates, 4 clients', batches(10000),
          words=('batch',)),
    Group('batch 1000 off', 'Batches of 1000, synchronous_commit off, 4 clients', batches(1000, False),
          words=('batch',)),
]

TARGETS = [
    Target('1', 'append_event, 1 client', 'append_event 1 on', 'raw_insert 1 on', 0.85, 1.0),
    Target('1', 'append_event, 4 clients', 'append_event 4 on', 'raw_insert 4 on', 0.90, 1.0),
    Target('1', 'append_event, 16 clients', 'append_event 16 on', 'raw_insert 16 on', 1.0, 1.1),
    Target('1', 'append_event, 64 clients', 'append_event 64 on', 'raw_insert 64 on', 1.0, 1.1),
    Target('2', 'append_event, sync off, 1 client', 'append_event 1 off', 'raw_insert 1 off', 0.72, 0.85),
    Target('2', 'append_event, sync off, 4 clients', 'append_event 4 off', 'raw_insert 4 off', 0.72, 0.85),
    Target('2', 'append_event, sync off, 16 clients', 'append_event 16 off', 'raw_insert 16 off', 0.95, 1.1),
    Target('2', 'append_event, sync off, 64 clients', 'append_event 64 off', 'raw_insert 64 off', 0.95, 1.1),
    Target('3', 'append_event : message-db', 'append_event 16 on', 'message_db', 8, 13),
    Target('4', 'append_event : Emmett', 'append_event 16 on', 'emmett', 1.7, 2),
    Target('5', 'append_batch of 1000 : unnest', 'batch_append 1000 on', 'batch_raw 1000 on', 1.2, 1.4),
    Target('5', 'the same, rows sent back', 'batch_append_returning 1000 on',
           'batch_raw_returning 1000 on'),
    Target('6', 'staged, ingest : raw sync on', 'staged', 'raw_insert 16 on', 2.0, 3),
    Target('6', 'staged, ingest : raw sync off', 'staged', 'raw_insert 16 off', 0.85, 1.2),
    Target('6', 'the same while draining : raw sync off', 'staged drained', 'raw_insert 16 off'),
    Target('7', 'staged until durable : raw sync off', 'sustained', 'sustained raw', 1.0, 1.2),
    Target('8', 'staged batch of 100 : unnest sync off', 'batch_append_staged 100 on',
           'batch_raw 100 off', 1.8, 3),
    Target('9', 'put_view staged : durable upsert', 'view_put_staged', 'view_upsert', 2.5, 4,
           unit='calls/s'),
    Target('10', 'load_events of 1000 : SELECT', 'load_events', 'load_plain', 0.9, 1.0),
    Target('upcast', 'load_events of 1000, upcast by rules : as written', 'upcast load_upcast', 'upcast load_written', 0.6, 0.8),
    Target('upcast', 'load_events of 1000, upcasters of others : none', 'upcast beside', 'upcast unused', 0.98, 1.0),
    Target('11', 'fold of 1000 : PL/pgSQL loop', 'fold_builtin', 'fold_plpgsql', 20, 40),
    Target('11', 'fold of 1000 : client fetching', 'fold_builtin', 'fold_fetch', 1.0, 2),
    Target('rules', 'rules : the same in PL/pgSQL', 'orders rules', 'orders PL/pgSQL', 5, 10),
    Target('folds', 'rules : reducer in SQL', 'orders rules', 'orders SQL'),
    Target('folds', 'rules : reducer in C', 'orders rules', 'orders C'),
    Target('folds', 'rules : Node client', 'orders rules', 'orders Node'),
    Target('folds', 'built-in : Node client', 'fold_builtin', 'fold_node'),
    Target('12', 'replay, snapshot 100 back (time)', 'replay_snapshot', 'replay_short', 1.2, 1.05, time=True),
    Target('13', 'read_events of 10,000 : SELECT', 'read_events', 'read_plain', 0.9, 1.0),
    Target('14', '4 consumers tailing : none', 'append_event tailed', 'append_event 16 on', 0.9, 0.95),
    Target('next', 'next_events of 100 : by hand', 'next_events', 'next_by_hand', 1.0, 1.3),
    Target('next', 'INSERT from next_events : by hand', 'next_insert', 'next_insert_by_hand', 1.3, 1.6),
    Target('claim', 'claim and ack of 100 : graphile-worker', 'queue event_store', 'queue graphile', 10, 30),
    Target('claim', 'the same : graphile-worker, batched', 'queue event_store', 'queue graphile_batched', 1.5, 3),
    Target('claim', 'the same : pg-boss', 'queue event_store', 'queue pg_boss', 10, 30),
    Target('sagas', 'sagas of three steps : graphile-worker and a state table', 'sagas event_store', 'sagas graphile', 2, 3),
    Target('once', 'process_once : INSERT ON CONFLICT', 'process_once', 'process_by_hand', 0.9, 1.0, unit='calls/s'),
    Target('held', 'next_events, old snapshot, last : first minute', 'held last', 'held first', 0.9, 1.0),
    Target('held', 'the same, p99 of a call (time)', 'held p99 last', 'held p99 first', 1.1, 1.0, time=True),
    Target('hottest', 'hottest view row, old snapshot, last : first', 'hottest last', 'hottest first', 0.9, 1.0),
    Target('hottest', 'the same, p99 of a commit (time)', 'hottest last', 'hottest first', 1.1, 1.0, time=True),
    Target('waiters', '8 appenders, sync off, 100 waiting : none', 'waiters 8 beside', 'waiters 8 alone', 0.95, 1.0),
    Target('waiters', '16 appenders, sync off, 100 waiting : none', 'waiters 16 beside', 'waiters 16 alone', 0.95, 1.0),
    Target('projection', 'async view, 10,000 keys : trigger', 'projection 10000', 'trigger 10000', 3, 4.5),
    Target('projection', 'async view, 100 keys : trigger', 'projection 100', 'trigger 100', 8, 20),
    Target('projection', 'async view : Node client, in bulk', 'projection 10000', 'client bulk 10000', 2, 4),
    Target('projection', 'async view : Node client, row by row', 'projection 10000', 'client rows 10000', 8, 15),
    Target('inline', 'inline view : INSERT, upsert in a transaction', 'inline append', 'inline transaction', 1.2, 1.6),
    Target('inline', 'inline view : both in one statement', 'inline append', 'inline statement', 0.9, 1.1),
    Target('due', '100,000 due at once : append_batch', 'deadlines due', 'deadlines append_batch', 0.5, 0.8),
    Target('due', '500 due a second, p99 late : 100 ms (time)', 'deadlines late', 'deadlines limit', 1.0, 0.3, time=True),
    Target('archive', 'append with an id, 10 M archived : none', 'archive append archived', 'archive append unarchived', 0.9, 1.0),
    Target('archive', 'load_events of an open aggregate, the same', 'archive load archived', 'archive load unarchived', 0.98, 1.0),
    Target('archive', 'read_events from 0, half archived : none', 'archive read archived', 'archive read unarchived', 0.7, 0.9),
    Target('retention', 'a million archived, p99 of appends : without (time)', 'retention during', 'retention alone', 2.0, 1.2, time=True),
    Target('retention', 'the same, memory of the process : first tenth (size)', 'retention memory most', 'retention memory first', 1.2, 1.05,
           time=True),
    Target('hot', 'hot aggregate, any sequence : raw', 'shared_append hot 16 on', 'shared_raw hot 16 on'),
    Target('hot', 'hot aggregate, expectation : raw', 'shared_expected', 'shared_raw hot 16 on'),
    Target('grouped', 'hot aggregate, grouped : raw on rows of their own, 16', 'hot_grouped 16 on', 'raw_insert own 16 on', 0.6, 1.0),
    Target('grouped', 'the same, 64 clients', 'hot_grouped 64 on', 'raw_insert own 64 on', 0.6, 1.2),
    Target('grouped', 'hot aggregate, grouped : durable, 16', 'hot_grouped 16 on', 'hot_durable 16 on'),
    Target('grouped', 'hot aggregate, grouped : FOR UPDATE by hand, 16', 'hot_grouped 16 on', 'hot_by_hand 16 on'),
    Target('grouped', 'hot aggregate, grouped : message-db, 16', 'hot_grouped 16 on', 'hot_message_db 16 on', 3, 6),
    Target('grouped', 'hot aggregate, grouped : Emmett, 16', 'hot_grouped 16 on', 'hot_emmett 16 on'),
    Target('grouped', 'with expectations, grouped : durable', 'expected_grouped 16 on', 'expected_durable 16 on'),
    Target('grouped', 'aggregates of their own, 64, grouped : durable', 'append_event_grouped own 64 on',
           'append_event own 64 on', 0.8, 1.1),
    Target('grouped', 'put_view grouped, 100 hot keys : durable upsert', 'view_put_grouped', 'view_upsert', 2, 4),
    Target('zipf', '10,000 aggregates by Zipf : raw', 'shared_append zipf 16 on', 'shared_raw zipf 16 on'),
    Target('payload', 'payload of 1 kB : raw', 'append_event 1000 16 on', 'raw_insert 1000 16 on'),
    Target('payload', 'payload of 8 kB : raw', 'append_event 8192 16 on', 'raw_insert 8192 16 on'),
    Target('batch', 'append_batch of 10 : unnest', 'batch_append 10 on', 'batch_raw 10 on'),
    Target('batch', 'append_batch of 100 : unnest', 'batch_append 100 on', 'batch_raw 100 on'),
    Target('batch', 'append_batch of 10,000 : unnest', 'batch_append 10000 on', 'batch_raw 10000 on'),
    Target('batch', 'append_batch of 1000, sync off', 'batch_append 1000 off', 'batch_raw 1000 off'),
]

# --quick measures these and leaves the rest to a full run
QUICK_ROWS = [str(row) for row in range(1, 15)] + ['rules']
QUICK_LEAVES_OUT = {'append_event 1 off', 'append_event 4 off', 'append_event 64 off', 'staged drained',
                    'batch_append_returning 1000 on'}
EXTRA_ROWS = ('cost', 'growth', 'fold-growth', 'held', 'waiters', 'projection', 'inline', 'fresh', 'several', 'hottest', 'due', 'archive',
              'retention')
LONG_ROWS = ('growth', 'held', 'hottest', 'archive', 'retention')     # only when they are asked for

# Two builds are compared by what is judged in these rows, and in rows 11 and 12 by what it is judged against;
# raw PostgreSQL and the peers are the same for both.
COMPARED_ROWS = [str(row) for row in range(1, 15)]
COMPARED_UNDER = ('fold_fetch', 'replay_short')
CONTROL = 'fold_fetch'              # calls nothing of event_store

# The calls over which instructions are counted.  What many clients do is left out: they wait for each other.
COUNTED = {'append_event 1 on': 1000, 'append_event 1 off': 1000, 'batch_append 1000 on': 10,
           'staged': 1000, 'batch_append_staged 100 on': 100, 'view_put_staged': 1000, 'load_events': 20,
           'upcast load_upcast': 20, 'upcast beside': 20, 'fold_builtin': 50, 'replay_snapshot': 200, 'read_events': 5, CONTROL: 20}
FOLD_ROWS = ['11', 'rules', 'folds', 'fold-growth']


def rows():
    return list(dict.fromkeys([target.row for target in TARGETS] + list(EXTRA_ROWS)))


def targets_of(wanted, quick):
    return [target for target in TARGETS if target.row in wanted
            and not (quick and target.over in QUICK_LEAVES_OUT)]


def compared(wanted, quick):
    """The series of event_store in some rows, each with its group, in the order of rows."""
    names = list(dict.fromkeys(name for target in targets_of(wanted, quick) for name in (target.over, target.under)
                               if name == target.over or name in COMPARED_UNDER))
    return sorted(((group, series) for group in GROUPS for series in group.series if series.name in names),
                  key=lambda found: names.index(found[1].name))


def rows_with(name, wanted):
    """Which of the rows judge a series, or else judge by it."""
    targets = [target for target in TARGETS if target.row in wanted]
    return list(dict.fromkeys([target.row for target in targets if target.over == name]
                              or [target.row for target in targets if target.under == name]))


def chosen(wanted, quick):
    """The targets of some rows, and the groups with the series that they need."""
    targets = targets_of(wanted, quick)
    needed = {name for target in targets for name in (target.over, target.under)}
    groups = []
    for group in GROUPS:
        series = [series for series in group.series if series.name in needed]
        # a full run also takes what stands beside, for the reader
        if series and not quick and any(word in wanted for word in group_rows(group)):
            extra = [one for one in group.series if one.name not in targeted()]
            series = [one for one in group.series if one in series or one in extra]
        if series:
            groups.append((group, series))
    return targets, groups


def targeted():
    return {name for target in TARGETS for name in (target.over, target.under)}


def group_rows(group):
    names = {series.name for series in group.series}
    return {target.row for target in TARGETS if target.over in names} | set(group.words)
