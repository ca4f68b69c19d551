#!/usr/bin/python3
"""Reads domain_events from a slot of logical decoding: logical_decoding.py [--from LSN] [--until LSN] PLUGIN SLOT

PLUGIN is pgoutput, which decodes the publication event_store_outbox, or wal2json; the slot was made
for it.  Each event is printed as a line of JSON, in the order in which transactions commit, and
behind the events of a transaction {"committed": LSN}.  Then the slot moves on: a transaction that was
not confirmed when the program dies comes again, and after a crash of the server some that were.  Who
keeps the last LSN with the effect begins with --from, and gets nothing twice.  The program goes on
until SIGTERM or SIGINT, or until everything up to the LSN of --until has been read.
Where to connect comes from PGHOST, PGPORT, PGUSER and PGDATABASE; the user needs REPLICATION.
"""
import argparse
import json
import select
import signal
import struct
import sys

import psycopg2
from psycopg2.extras import LogicalReplicationConnection

SHOWN = ("aggregate_type", "aggregate_id", "sequence", "global_position", "event_id", "event_type", "payload")


class PgOutput:
    """The binary messages that PostgreSQL's own subscriptions read (protocol version 1)."""

    options = {"proto_version": "1", "publication_names": "event_store_outbox"}

    def __init__(self):
        self.columns = {}       # names of a table's columns, told before its first row

    def read(self, message):
        """The events of a message, and whether a transaction ends with it."""
        kind = message[:1]
        if kind == b"R":
            self.relation(message)
        elif kind == b"I":
            return [self.insert(message)], False
        return [], kind == b"C"

    def relation(self, message):
        oid, = struct.unpack_from("!I", message, 1)
        _schema, _table, rest = message[5:].split(b"\0", 2)
        count, = struct.unpack_from("!H", rest, 1)
        names, at = [], 3
        for _ in range(count):
            end = rest.index(b"\0", at + 1)
            names.append(rest[at + 1:end].decode())
            at = end + 9        # behind the zero, type and type modifier
        self.columns[oid] = names

    def insert(self, message):
        oid, _new, count = struct.unpack_from("!IcH", message, 1)
        row, at = {}, 8
        for name in self.columns[oid][:count]:
            kind, at = message[at:at + 1], at + 1
            row[name] = None
            if kind == b"t":
                length, = struct.unpack_from("!I", message, at)
                row[name] = message[at + 4:at + 4 + length].decode()
                at += 4 + length
        return {**row, "sequence": int(row["sequence"]), "global_position": int(row["global_position"])}


class Wal2Json:
    """One JSON object for each row, and for the begin and end of a transaction."""

    options = {"format-version": "2", "add-tables": "event_store.domain_events", "actions": "insert"}

    def read(self, message):
        change = json.loads(message)
        if change["action"] == "I":
            return [{column["name"]: column["value"] for column in change["columns"]}], False
        return [], change["action"] == "C"


def printed(event):
    shown = {name: event[name] for name in SHOWN}
    # both plugins give jsonb as its text; it is NULL where the event has payload_bytes
    return json.dumps({**shown, "payload": shown["payload"] and json.loads(shown["payload"])})


def position(text):
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def follow(cursor, plugin, until, stopped):
    done, inside, any_events = 0, False, False      # inside a transaction whose end is to come
    while not stopped:
        message = cursor.read_message()
        if message is not None:
            events, ended = plugin.read(message.payload)
            for event in events:
                print(printed(event))
                any_events = True
            inside = not ended
            if ended:
                done = message.data_start
                if any_events:
                    print(json.dumps({"committed": f"{done >> 32:X}/{done & 0xffffffff:X}"}))
                    any_events = False
                sys.stdout.flush()
                cursor.send_feedback(flush_lsn=done)
        elif inside:
            select.select([cursor], [], [], 1)
        else:
            # what others write moves the slot as well, or it would hold their WAL
            done = max(done, cursor.wal_end)
            if until is not None and done >= until:
                break
            cursor.send_feedback(flush_lsn=done, reply=until is not None, force=True)
            select.select([cursor], [], [], 0.1 if until else 1)
    cursor.send_feedback(flush_lsn=done, force=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--from", type=position, default=0, dest="start")
    parser.add_argument("--until", type=position)
    parser.add_argument("plugin", choices=("pgoutput", "wal2json"))
    parser.add_argument("slot")
    arguments = parser.parse_args()

    stopped = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.append(True))
    plugin = PgOutput() if arguments.plugin == "pgoutput" else Wal2Json()
    with psycopg2.connect("", connection_factory=LogicalReplicationConnection) as connection:
        cursor = connection.cursor()
        cursor.start_replication(slot_name=arguments.slot, start_lsn=arguments.start,
                                 options=plugin.options, status_interval=1)
        follow(cursor, plugin, arguments.until, stopped)
        cursor.close()


main()
