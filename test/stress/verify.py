"""Compares the ledgers of all clients with the log, event by event.

What a client was told is a report.  A report is "definite" if COMMIT was
acknowledged, "possible" if the connection was lost meanwhile, and void
otherwise.  A definite report must be found in the log as it was given; what is
in the log must have been reported, definitely or possibly; and a transaction
of unknown outcome is in the log as a whole or not at all.

After a crash a definite report of a staged event may be missing: but then the
staged events of its transaction all are, and nothing that was reported before
the crash follows it in its aggregate.  With synchronous_commit = off the same
holds for durable events.
"""
import collections
import glob
import json
import os

from client import digest

Row = collections.namedtuple('Row', 'aggregate sequence position event_id event_type digest'
                                    ' recorded_at')
Report = collections.namedtuple('Report', 'transaction aggregate token outcome sequence'
                                          ' position event_id event_type digest durable')


def read_ledgers(folder):
    lines = []
    for path in sorted(glob.glob(os.path.join(folder, '*.jsonl'))):
        with open(path) as file:
            lines += [json.loads(line) for line in file]
    return lines


class Verifier:
    def __init__(self, query, run, lines, violations, crashed, asynchronous, epoch):
        self.query = query
        self.run = run
        self.lines = lines
        self.crashed = crashed
        self.asynchronous = asynchronous
        self.first_epoch = epoch
        self.violations = violations
        self.errors = collections.Counter()
        self.counts = collections.Counter()
        self.log = {}               # token -> Row
        self.definite = []          # lists of Reports, one list a transaction
        self.possible = []
        self.possible_calls = set() # tokens of unknown outcome without an answer
        self.taken = {}             # position -> token, of every report at all
        self.made_ids = {}          # event_id made by the server -> token
        self.feeds = []             # what the followers got
        self.lost = []              # Reports of staged events gone in the crash

    def wrong(self, text):
        self.violations.append(text)

    def verify(self):
        self.read_log()
        self.read_reports()
        self.first = min((line['incarnation'] for line in self.lines
                          if line.get('incarnation')), default=None)
        for reports in self.definite:
            self.check_definite(reports)
        for reports in self.possible:
            self.check_possible(reports)
        self.check_origin()
        self.check_lost_are_tails()
        for line in self.feeds:
            self.check_feed(line)
        self.check_store()
        return sorted(self.counts.items())

    # ---------- the log ----------

    def read_log(self):
        before = None
        for (aggregate, sequence, position, event_id, event_type, payload, payload_bytes,
             token, recorded_at) in self.query(
                'SELECT aggregate_id, sequence, global_position, event_id::text, event_type,'
                ' payload, payload_bytes, correlation_id, recorded_at'
                ' FROM event_store.domain_events WHERE aggregate_type = %s'
                ' ORDER BY aggregate_id, sequence', self.run):
            row = Row(aggregate, sequence, position, event_id, event_type,
                      digest(payload, payload_bytes), recorded_at)
            if token in self.log:
                self.wrong(f'{token} is in the log twice: {self.log[token]} and {row}')
            self.log[token] = row
            same = before is not None and before.aggregate == aggregate
            expected = before.sequence + 1 if same else 1
            if sequence != expected:
                self.wrong(f'{aggregate} goes on with {sequence} instead of {expected}')
            if same and position <= before.position:
                self.wrong(f'{aggregate}: position {position} of {sequence} does not rise')
            if same and recorded_at < before.recorded_at:
                self.wrong(f'{aggregate}: recorded_at of {sequence} goes back')
            before = row
        self.counts['events in the log'] = len(self.log)

    # ---------- the ledgers ----------

    def read_reports(self):
        for line in self.lines:
            for violation in line.get('violations', []):
                self.wrong(f"client {line.get('client')}: {violation}" if 'client' in line
                           else violation)
            if 'broken' in line:
                self.wrong(line['broken'])
            elif 'follower' in line:
                self.feeds.append(line)
            elif 'reader' in line:
                self.counts['loads checked'] += line['loads']
                self.counts['loads that saw staged events'] += line['with_staged']
                self.counts['loads refused with 40001'] += line['refused']
            else:
                self.read_transaction(line)

    def read_transaction(self, line):
        self.counts['transactions ' + line['outcome']] += 1
        reports = []
        for index, call in enumerate(line['calls']):
            self.counts['calls'] += 1
            if call['sqlstate']:
                self.errors[call['sqlstate']] += 1
            if not call['answered']:
                if line['outcome'] == 'unknown' and not line['explicit']:
                    self.possible_calls.update(event[1] for event in call['events'])
                    self.possible.append(self.guess(line, call))
                continue
            # a durable write takes along what its transaction had staged
            moved = any(later['live'] and later['answered'] and later['durability'] != 'staged'
                        for later in line['calls'][index + 1:])
            for event, result in zip(call['events'], call['results']):
                report = self.report(line, event, result, moved)
                self.note_identity(report, event)
                self.counts['outcome ' + report.outcome] += 1
                if (call['durability'] == 'staged' and report.outcome == 'appended'
                        and report.position is not None):
                    self.counts['events to be staged, written through'] += 1
                if call['live']:
                    reports.append(report)
        if line['outcome'] == 'committed':
            self.definite.append(reports)
            for report in reports:
                if report.outcome == 'appended':
                    self.counts['acknowledged events, durable' if report.position is not None
                                else 'acknowledged events, staged'] += 1
        elif line['outcome'] == 'unknown' and reports:
            self.possible.append(reports)

    @staticmethod
    def report(line, event, result, moved):
        aggregate, token, _, _, event_type, fingerprint = event
        outcome, sequence, position, event_id = result
        return Report((line['client'], line['transaction'], line['incarnation']), aggregate,
                      token, outcome, sequence, position, event_id, event_type, fingerprint,
                      position is not None or moved)

    def guess(self, line, call):
        """Reports of a call whose answer was lost."""
        return [self.report(line, event, ('guessed', None, None, event[2]), False)
                for event in call['events']]

    def note_identity(self, report, event):
        """No position and no id made by the server is given twice, committed or not."""
        if report.outcome != 'appended':
            return
        if report.position is not None:
            if report.position in self.taken:
                self.wrong(f'position {report.position} was given to'
                           f' {self.taken[report.position]} and {report.token}')
            self.taken[report.position] = report.token
        if event[2] is None and report.event_id is not None:
            if report.event_id in self.made_ids:
                self.wrong(f'event_id {report.event_id} was made twice')
            self.made_ids[report.event_id] = report.token

    # ---------- reports against the log ----------

    def found(self, report):
        """Whether the log has the event as the report says."""
        row = self.log.get(report.token)
        return (row is not None and row.aggregate == report.aggregate
                and report.sequence in (row.sequence, None)
                and report.position in (row.position, None)
                and report.event_id in (row.event_id, None)
                and row.event_type == report.event_type and row.digest == report.digest)

    def may_be_lost(self, report):
        return (self.crashed and report.transaction[2] == self.first
                and (self.asynchronous or not report.durable))

    def check_definite(self, reports):
        written = collections.Counter()
        missing = collections.Counter()
        for report in reports:
            if report.outcome == 'appended':
                written[report.durable] += 1
            if report.outcome == 'conflict' or self.found(report):
                continue
            if not self.may_be_lost(report):
                self.wrong(f'acknowledged, but not so in the log: {report};'
                           f' the log has {self.log.get(report.token)}')
            elif report.outcome == 'appended':
                missing[report.durable] += 1
                self.lost.append(report)
        for durable, count in missing.items():
            if count != written[durable]:
                self.wrong(f'lost in part: {count} of {written[durable]} events, durable'
                           f' {durable}, of {reports[0].transaction}')
        if missing[True] and written[False] != missing[False]:
            self.wrong(f'a durable part is lost and a staged one is not: {reports}')

    def explained(self, report):
        """Whether some other report explains the same event in the log."""
        return any(other.transaction != report.transaction
                   for other in self.by_token.get(report.token, ()))

    def index_reports(self):
        self.by_token = collections.defaultdict(list)
        for reports in self.definite + self.possible:
            for report in reports:
                if report.outcome in ('appended', 'guessed') and self.found(report):
                    self.by_token[report.token].append(report)

    def check_possible(self, reports):
        """An unknown outcome is all or nothing; but retries may fill it up."""
        if not hasattr(self, 'by_token'):
            self.index_reports()
        written = [r for r in reports if r.outcome in ('appended', 'guessed')]
        there = [r for r in written if self.found(r)]
        alone = [r for r in there if not self.explained(r)]
        if reports and reports[0].outcome == 'guessed' and len({r.aggregate for r in reports}) > 1:
            # it may have been a batch that reported some aggregates as conflicts
            return
        lossy = self.crashed and any(not r.durable for r in written)
        if alone and len(there) != len(written) and not lossy:
            self.wrong(f'of unknown outcome and there in part: {alone}, not '
                       f'{[r for r in written if not self.found(r)]}')

    def check_origin(self):
        """Whatever is in the log was reported by a transaction that may have committed."""
        if not hasattr(self, 'by_token'):
            self.index_reports()
        positions = {row.position: token for token, row in self.log.items()}
        for token in self.log:
            if not self.by_token.get(token):
                self.wrong(f'{token} is in the log though no append of it succeeded:'
                           f' {self.log[token]}')
        for position, token in self.taken.items():
            if positions.get(position, token) != token:
                self.wrong(f'position {position} was given to {token} and now is that of'
                           f' {positions[position]}')
        for token, row in self.log.items():
            if self.made_ids.get(row.event_id, token) != token:
                self.wrong(f'event_id {row.event_id} was made for'
                           f' {self.made_ids[row.event_id]} and is that of {token}')

    def check_lost_are_tails(self):
        for durable, name in ((True, 'durable'), (False, 'staged')):
            self.counts[f'{name} events lost in the crash'] = sum(
                1 for report in self.lost if report.durable == durable)
        first_lost = {}
        for report in self.lost:
            known = first_lost.get(report.aggregate)
            if known is None or report.sequence < known.sequence:
                first_lost[report.aggregate] = report
        for reports in self.definite:
            for report in reports:
                lost = first_lost.get(report.aggregate)
                if (lost is not None and report.outcome == 'appended'
                        and report.transaction[2] == self.first and self.found(report)
                        and report.sequence > lost.sequence):
                    self.wrong(f'lost, but not the tail: {lost} before {report}')

    def check_feed(self, line):
        """A follower got all that is in the log from its start up to where it came."""
        got = {position: token for position, token, _ in line['got']}
        log = {row.position: token for token, row in self.log.items()
               if line['start'] < row.position <= line['position']}
        self.counts['events delivered by the feed'] += len(got)
        for position in sorted(log.keys() - got.keys()):
            self.wrong(f'the feed skipped {log[position]} at position {position}')
        for position, token, incarnation in line['got']:
            if log.get(position) == token:
                continue
            if not (self.crashed and self.asynchronous and incarnation == self.first):
                self.wrong(f'the feed delivered {token} at position {position},'
                           f' where the log has {log.get(position)}')

    # ---------- the rest of the store ----------

    def check_store(self):
        for what, sql in (
                ('staged rows are left', 'SELECT count(*) FROM event_store.staging'),
                ('dead letters', 'SELECT count(*) FROM event_store.dead_letters'),
                ('events are counted as staged',
                 'SELECT staged_events FROM event_store.staging_status'),
                ('views are counted as staged',
                 'SELECT staged_views FROM event_store.staging_status')):
            count = self.query(sql)[0][0]
            if count != 0:
                self.wrong(f'{count} {what}')
        letters = self.query('SELECT aggregate_id, sequence, error_code, error_message'
                             ' FROM event_store.dead_letters ORDER BY id LIMIT 3')
        for letter in letters:
            self.wrong(f'dead letter: {letter}')
        status = self.query('SELECT consecutive_failures, last_error'
                            ' FROM event_store.staging_status')[0]
        if status[0] != 0:
            self.wrong(f'the drain fails: {status}')
        self.check_epoch()

    def check_epoch(self):
        epoch = self.query('SELECT staging_epoch FROM event_store.store_state')[0][0]
        if not self.crashed and epoch != self.first_epoch:
            self.wrong(f'the staging epoch went from {self.first_epoch} to {epoch}')
        if any(not report.durable for report in self.lost) and epoch <= self.first_epoch:
            self.wrong(f'events were lost and the staging epoch is still {epoch}')
