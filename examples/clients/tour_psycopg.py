"""A five-minute tour of event_store from Python with psycopg, through a transaction pooler.

Where to connect comes from PGHOST, PGPORT, PGUSER and PGDATABASE.
"""

import json
import uuid

import psycopg
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

account = f"python-{uuid.uuid4()}"


def append(cursor, expected, event_type, payload, event_id=None):
    cursor.execute(
        """SELECT * FROM event_store.append_event(
             aggregate_type => 'Account', aggregate_id => %s, expected_sequence => %s,
             event_type => %s, payload => %s, event_id => %s)""",
        (account, expected, event_type, Jsonb(payload), event_id))
    return cursor.fetchone()


# every statement is a transaction of its own, unless we say otherwise; no prepared statements,
# which the pooler would leave behind in another session
connection = psycopg.connect("", autocommit=True, prepare_threshold=None, row_factory=namedtuple_row)
cursor = connection.cursor()

# 0: the account must be new
result = append(cursor, 0, "AccountOpened", {"owner": "Niamh O'Brien", "balance": "0.00"})
print("opened:", result.outcome, "as", result.last_sequence)

# 1: nobody else may have written since we saw event 1
result = append(cursor, 1, "MoneyDeposited", {"balance": "50.00"})
print("deposited:", result.outcome, "as", result.last_sequence)

# a decision made on old knowledge is refused, with the numbers
try:
    append(cursor, 1, "MoneyWithdrawn", {"balance": "-20.00"})
except psycopg.Error as error:
    if error.sqlstate != "VS001":
        raise
    detail = json.loads(error.diag.message_detail)
    print("refused:", error.sqlstate, "expected", detail["expected"], "actual", detail["actual"])

# the client names the event, so a retry after a lost answer writes nothing
event_id = uuid.uuid4()
for attempt in ("first", "retry"):
    result = append(cursor, 2, "MoneyWithdrawn", {"balance": "30.00"}, event_id)
    print(f"{attempt}:", result.outcome, "as", result.last_sequence)

# the events, and the state that they fold into
cursor.execute("SELECT sequence, event_type FROM event_store.load_events('Account', %s)", (account,))
print("events:", ", ".join(f"{e.sequence} {e.event_type}" for e in cursor))
cursor.execute("SELECT state, sequence FROM event_store.replay_aggregate('Account', %s)", (account,))
replayed = cursor.fetchone()
print("balance:", replayed.state["balance"], "after", replayed.sequence)

# a list of events
cursor.execute(
    "SELECT * FROM event_store.append_events('Account', %s, 3, %s)",
    (account, Jsonb([{"event_type": "NoteAdded", "payload": {"note": "checked"}},
                    {"event_type": "LimitSet", "payload": {"limit": "500.00"}}])))
listed = cursor.fetchone()
print("list:", listed.outcome, "as", listed.last_sequence)

# from one account to another, both or none
cursor.execute(
    """SELECT outcome FROM event_store.append_batch(
         %s, %s, %s, %s, %s, on_conflict => 'report_all')""",
    (["Account", "Account"], [account, account + "-savings"], ["MoneyWithdrawn", "MoneyDeposited"],
     [Jsonb({"balance": "10.00"}), Jsonb({"balance": "20.00"})], [5, 0]))
print("moved:", ", ".join(row.outcome for row in cursor))

# an event and the view of it in one transaction, at memory speed
with connection.transaction():
    cursor.execute(
        "SELECT * FROM event_store.append_event('Account', %s, 6, 'MoneyDeposited', %s, durability => 'staged')",
        (account, Jsonb({"balance": "130.00"})))
    staged = cursor.fetchone()
    cursor.execute(
        "SELECT event_store.put_view('balances', %s, %s, version => %s, durability => 'staged')",
        (account, Jsonb({"balance": "130.00"}), staged.last_sequence))
print("staged:", staged.outcome, "as", staged.last_sequence, "durable", str(staged.durable).lower())

# true: all that was committed before is durable or a dead letter; not inside a transaction block
cursor.execute("SELECT event_store.flush('30s')")
print("flushed:", str(cursor.fetchone()[0]).lower())
cursor.execute("SELECT event_store.load_view('balances', %s)", (account,))
print("view:", cursor.fetchone()[0]["balance"])

connection.close()
