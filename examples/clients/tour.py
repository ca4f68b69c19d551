"""A five-minute tour of event_store from Python, through a transaction pooler.

Where to connect comes from PGHOST, PGPORT, PGUSER and PGDATABASE.
"""

import json
import uuid

import psycopg2
from psycopg2.extras import Json, NamedTupleCursor, register_uuid

register_uuid()
account = f"python-{uuid.uuid4()}"


def append(cursor, expected, event_type, payload, event_id=None):
    cursor.execute(
        """SELECT * FROM event_store.append_event(
             aggregate_type => 'Account', aggregate_id => %s, expected_sequence => %s,
             event_type => %s, payload => %s, event_id => %s)""",
        (account, expected, event_type, Json(payload), event_id))
    return cursor.fetchone()


connection = psycopg2.connect("", cursor_factory=NamedTupleCursor)
# every statement is a transaction of its own, unless we say otherwise
connection.autocommit = True
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
except psycopg2.Error as error:
    if error.pgcode != "VS001":
        raise
    detail = json.loads(error.diag.message_detail)
    print("refused:", error.pgcode, "expected", detail["expected"], "actual", detail["actual"])

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
    (account, Json([{"event_type": "NoteAdded", "payload": {"note": "checked"}},
                    {"event_type": "LimitSet", "payload": {"limit": "500.00"}}])))
listed = cursor.fetchone()
print("list:", listed.outcome, "as", listed.last_sequence)

# from one account to another, both or none; psycopg2 writes arrays as text, so their types are named
cursor.execute(
    """SELECT outcome FROM event_store.append_batch(
         %s, %s, %s, %s::jsonb[], %s, on_conflict => 'report_all')""",
    (["Account", "Account"], [account, account + "-savings"], ["MoneyWithdrawn", "MoneyDeposited"],
     [Json({"balance": "10.00"}), Json({"balance": "20.00"})], [5, 0]))
print("moved:", ", ".join(row.outcome for row in cursor))

# an event and the view of it in one transaction, at memory speed
connection.autocommit = False
with connection:
    cursor.execute(
        "SELECT * FROM event_store.append_event('Account', %s, 6, 'MoneyDeposited', %s, durability => 'staged')",
        (account, Json({"balance": "130.00"})))
    staged = cursor.fetchone()
    cursor.execute(
        "SELECT event_store.put_view('balances', %s, %s, version => %s, durability => 'staged')",
        (account, Json({"balance": "130.00"}), staged.last_sequence))
print("staged:", staged.outcome, "as", staged.last_sequence, "durable", str(staged.durable).lower())

# true: all that was committed before is durable or a dead letter; not inside a transaction block
connection.autocommit = True
cursor.execute("SELECT event_store.flush('30s')")
print("flushed:", str(cursor.fetchone()[0]).lower())
cursor.execute("SELECT event_store.load_view('balances', %s)", (account,))
print("view:", cursor.fetchone()[0]["balance"])

connection.close()
