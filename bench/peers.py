"""The other event stores on PostgreSQL, as npm has them, or why they are absent."""
import json
import os
from pathlib import Path

from plan import EMMETT, MESSAGE_DB
from server import Failed, command

HERE = Path(__file__).resolve().parent


def make_message_db(server, package):
    # its script calls psql and createdb, and asks for nothing else
    command('bash', package / 'database' / 'install.sh',
            env={'PATH': f'{server.bindir}:{os.environ["PATH"]}', 'DATABASE_NAME': MESSAGE_DB})


def make_emmett(server, package):
    server.sql(f'CREATE DATABASE {EMMETT}')
    command('node', HERE / 'emmett.mjs', package.parents[2], EMMETT)


PEERS = [(MESSAGE_DB, '@eventide/message-db', make_message_db),
         (EMMETT, '@event-driven-io/emmett-postgresql', make_emmett)]


def version_of(folder, name):
    """The version of a package; None where it is not there."""
    file = Path(folder) / 'node_modules' / name / 'package.json'
    return json.loads(file.read_text(encoding='utf-8'))['version'] if file.exists() else None


def make(server, folder):
    """Makes a database of each peer; returns versions and, by database, what is absent."""
    versions, absent = {}, {}
    for database, name, steps in PEERS:
        package = Path(folder) / 'node_modules' / name
        try:
            if not (package / 'package.json').exists():
                raise Failed('npm could not install it')
            steps(server, package)
            versions[name] = json.loads((package / 'package.json').read_text(encoding='utf-8'))['version']
        except Failed as failure:
            absent[database] = str(failure).split('\n', maxsplit=1)[0]
            versions[name] = f'absent: {absent[database]}'
    return versions, absent
