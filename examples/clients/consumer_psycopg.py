"""A consumer of event_store in Python: each order becomes an invoice and a line of a list, once,
whatever crashes when.  Batches go where PGHOST and PGPORT lead, to a transaction pooler too.
WAIT_HOST and WAIT_PORT lead past it: who waits there takes no connection of the pool.
"""

import os
import signal
import sys
import time

import psycopg
from psycopg.rows import namedtuple_row

PASSING = ("40", "53", "55", "57")      # serialization, deadlock, no room, locks, shutdown: nobody's fault
LASTING = ("22", "23")                  # bad data and broken constraints do not get better by themselves


def connect(**settings):
    return psycopg.connect(autocommit=True, prepare_threshold=None, row_factory=namedtuple_row, **settings)


def make_invoices(connection):
    """Effects that a program works out: a transaction a batch.  True: there may be more."""
    event = None
    try:
        with connection.transaction():
            events = connection.execute("SELECT * FROM event_store.next_events('invoices', 50)").fetchall()
            for event in events:
                connection.execute("INSERT INTO invoice (order_id, total) VALUES (%s, %s)",
                                   (event.aggregate_id, event.payload["total"]))
            # what COMMIT refuses is an event's fault if it is alone; else they come again, half as many
            if len(events) > 1:
                event = None
    except Exception as error:
        # where the connection is lost all of it comes again
        state = getattr(error, "sqlstate", None) or ""
        if event is None or connection.closed or state.startswith(PASSING):
            raise
        set_aside(connection, event, error, "park" if state.startswith(LASTING) else "retry")
        return True
    if events:
        print("invoices:", ", ".join(event.aggregate_id for event in events))
    return bool(events)


def set_aside(connection, event, error, action):
    """The event's partition waits; the others come again with the next call."""
    message = error.diag.message_primary if isinstance(error, psycopg.Error) else repr(error)
    state = connection.execute("SELECT event_store.fail_events('invoices', %s, %s, %s) AS state",
                               (event.global_position, message, action)).fetchone().state
    print(f"{state}: {event.aggregate_id}, {message}")


def list_orders(connection):
    """Effects that SQL works out: one statement."""
    listed = connection.execute(
        """INSERT INTO order_list (order_id, placed_at)
           SELECT e.aggregate_id, e.occurred_at FROM event_store.next_events('order_list') e""").rowcount
    if listed:
        print("listed:", listed)
    return listed > 0


def run():
    past_the_pooler = {}
    if "WAIT_HOST" in os.environ:
        past_the_pooler = {"host": os.environ["WAIT_HOST"], "port": os.environ["WAIT_PORT"]}
    with connect() as connection, connect(**past_the_pooler) as waiter:
        while True:
            while make_invoices(connection) or list_orders(connection):
                pass
            waiter.execute("CALL event_store.wait_for_subscriptions('{invoices,order_list}', '30s')")


def main():
    # a batch in hand is rolled back, and comes again
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    while True:
        try:
            run()
        except psycopg.Error as error:
            print("once more:", error, file=sys.stderr)
            time.sleep(1)


try:
    main()
except KeyboardInterrupt:
    print("stopped")
