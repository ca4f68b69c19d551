"""Folds: the reducers that are compared, whether they agree, and how folds grow."""
import json
import os
from pathlib import Path
from statistics import median

from plan import ORDER_REDUCERS, STORE
from server import Failed, command

HERE = Path(__file__).resolve().parent

# of growth: events of an aggregate, and keys of a state that 1000 events change
EVENTS = (10, 100, 1000, 10000, 100000, 1000000)
KEYS = (10, 100, 1000, 10000)
# reducers, the keys of their states, and the most events that they are asked to fold
GROWING = (('built-in merge', 'Account', 60, 1000000), ('rules', 'Fulfilment', 12, 100000))
# a size is replayed so often in a turn, or until so many events and keys have passed
MOST_CALLS, MOST_CHANGES = 1000, 1500000


def node_client():
    """The version of the client, or why there is none."""
    package = Path(os.environ.get('PEERS', '/nowhere')) / 'node_modules' / 'pg' / 'package.json'
    if not package.exists():
        raise Failed('npm could not install it')
    return f'{json.loads(package.read_text(encoding="utf-8"))["version"]}, Node {command("node", "--version").strip()}'


def run_client(*words):
    return command('node', HERE / 'fold_client.mjs', os.environ['PEERS'], *words)


def run_setup(server, database):
    server.run_file(HERE / 'fold_setup.sql', database)


def make_c_reducer(server, database):
    """Builds the reducer in C where the server, who may be somebody else, reads it."""
    folder = Path(os.environ['WORK']) / 'fold_reducer'
    library = folder / 'fold_reducer.so'
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    config = server.bindir / 'pg_config'
    compiler = command(config, '--cc').split()
    command(*compiler, '-O2', '-fPIC', '-shared', f'-I{command(config, "--includedir-server").strip()}',
            '-o', library, HERE / 'fold_reducer.c')
    library.chmod(0o755)
    server.sql('CREATE FUNCTION bench.order_c(state jsonb, event event_store.event) RETURNS jsonb'
               f" LANGUAGE c IMMUTABLE PARALLEL SAFE AS '{library}', 'order_c'", database)


def compare_merges(server, database, with_node):
    """The state of an account by all; the loop has only the last one."""
    server.sql("SELECT bench.keep_states('built-in', 'Account', '7')", database)
    server.sql("INSERT INTO bench.fold_states VALUES ('PL/pgSQL loop', 'Account', 0, bench.replay('Account', '7'))",
               database)
    if with_node:
        run_client(database, 'Account', 'keep', '7')
    refuse_difference(server, database, 'Account', 2 + with_node)


def refuse_difference(server, database, aggregate_type, reducers):
    differ = server.value(f"SELECT bench.states_differ('{aggregate_type}', {reducers})", database)
    if differ:
        raise Failed(differ)


def compare_orders(server, database, with_node):
    """Makes twenty aggregates of 1000 events, and compares all reducers after every event of one."""
    make_c_reducer(server, database)
    server.sql('SELECT bench.append_orders(i::text, 1000) FROM generate_series(1, 20) i;'
               'VACUUM (ANALYZE) event_store.domain_events;', database)
    for name, statement in ORDER_REDUCERS.items():
        server.sql(f"{statement}; SELECT bench.keep_states('{name}', 'Fulfilment', '7')", database)
    if with_node:
        run_client(database, 'Fulfilment', 'keep', '7')
    refuse_difference(server, database, 'Fulfilment', len(ORDER_REDUCERS) + with_node)
    differ = server.value("SELECT bench.balance_differs('7')", database)
    if differ != 'f':
        raise Failed('the balance of the orders is not the sum of their payments')


PREPARE = {'fold': compare_merges, 'orders': compare_orders}


# -------------------------------------------------------------------- growth

def sizes():
    """What is replayed: title, aggregate type, id, events, keys of the state, the most events of a call."""
    for title, aggregate_type, keys, most in GROWING:
        for events in EVENTS:
            if events <= most:
                yield title, aggregate_type, f'{events} events', events, keys, None
    for keys in KEYS:
        # the first event makes the state, which is told apart from the others
        yield 'first event', 'Account', f'{keys} keys', 1000, keys, 1
        yield 'all events', 'Account', f'{keys} keys', 1000, keys, None


def fill(server, database):
    run_setup(server, database)
    server.sql(ORDER_REDUCERS['rules'], database)
    for _, aggregate_type, name, events, keys, up_to in sizes():
        if up_to is None:
            words = f"'{name}', {keys if name.endswith('keys') else events}"
            maker = ('wide_account' if name.endswith('keys') else
                     'accounts' if aggregate_type == 'Account' else 'orders')
            server.sql(f'SELECT bench.append_{maker}({words})', database)
    server.sql('VACUUM (ANALYZE) event_store.domain_events; CHECKPOINT', database)


def growth(bench, turns, say):
    """Replays of more and more events, and of larger and larger states, by turns."""
    server = bench.server
    server.configure({'snapshot_every': 0})
    database = bench.fresh_database(STORE)
    say(f'filling a store with aggregates of up to {max(EVENTS):,} events')
    fill(server, database)
    took = {}
    for turn in range(turns):
        for size in sizes():
            title, aggregate_type, name, events, keys, up_to = size
            calls = max(3, min(MOST_CALLS, MOST_CHANGES // (events + 10 * keys)))
            result = server.pgbench('fold_growth', database, calls=calls, seed=turn,
                                    variables={'type': aggregate_type, 'id': name, 'upto': up_to or events})
            took.setdefault(size, []).append(result['p50_us'])
    server.drop_database(database)
    for (title, _, name, events, keys, up_to), times in took.items():
        yield {'part': 'fold-growth', 'series': f'{title}, {name}', 'title': title, 'events': events,
               'keys': keys, 'p50_us': median(times), 'took_us': times}
