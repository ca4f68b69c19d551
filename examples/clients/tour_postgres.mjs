// A five-minute tour of event_store from Node with postgres.js, through a transaction pooler.
// Where to connect comes from PGHOST, PGPORT, PGUSER and PGDATABASE.

import { randomUUID } from 'node:crypto';
import postgres from 'postgres';

const JSONB = 3802;

const sql = postgres({
  // the pooler would leave prepared statements behind in another session
  prepare: false,
  // a bigint as a number: sequences and positions stay below 2^53
  types: { bigint: { to: 20, from: [20], serialize: String, parse: Number } },
});

const account = `postgres-${randomUUID()}`;

async function append(expected, type, payload, eventId = null) {
  const [row] = await sql`
    SELECT * FROM event_store.append_event(
      aggregate_type => 'Account', aggregate_id => ${account}, expected_sequence => ${expected},
      event_type => ${type}, payload => ${sql.json(payload)}, event_id => ${eventId})`;
  return row;
}

// 0: the account must be new
let result = await append(0, 'AccountOpened', { owner: "Niamh O'Brien", balance: '0.00' });
console.log('opened:', result.outcome, 'as', result.last_sequence);

// 1: nobody else may have written since we saw event 1
result = await append(1, 'MoneyDeposited', { balance: '50.00' });
console.log('deposited:', result.outcome, 'as', result.last_sequence);

// a decision made on old knowledge is refused, with the numbers
try {
  await append(1, 'MoneyWithdrawn', { balance: '-20.00' });
} catch (error) {
  if (error.code !== 'VS001') throw error;
  const { expected, actual } = JSON.parse(error.detail);
  console.log('refused:', error.code, 'expected', expected, 'actual', actual);
}

// the client names the event, so a retry after a lost answer writes nothing
const eventId = randomUUID();
for (const attempt of ['first', 'retry']) {
  result = await append(2, 'MoneyWithdrawn', { balance: '30.00' }, eventId);
  console.log(`${attempt}:`, result.outcome, 'as', result.last_sequence);
}

// the events, and the state that they fold into
const events = await sql`SELECT sequence, event_type FROM event_store.load_events('Account', ${account})`;
console.log('events:', events.map((e) => `${e.sequence} ${e.event_type}`).join(', '));
const [replayed] = await sql`SELECT state, sequence FROM event_store.replay_aggregate('Account', ${account})`;
console.log('balance:', replayed.state.balance, 'after', replayed.sequence);

// a list of events
const [list] = await sql`
  SELECT * FROM event_store.append_events('Account', ${account}, 3, ${sql.json([
    { event_type: 'NoteAdded', payload: { note: 'checked' } },
    { event_type: 'LimitSet', payload: { limit: '500.00' } }])})`;
console.log('list:', list.outcome, 'as', list.last_sequence);

// from one account to another, both or none
const moved = await sql`
  SELECT outcome FROM event_store.append_batch(
    ${sql.array(['Account', 'Account'])}, ${sql.array([account, `${account}-savings`])},
    ${sql.array(['MoneyWithdrawn', 'MoneyDeposited'])},
    ${sql.array([{ balance: '10.00' }, { balance: '20.00' }], JSONB)}, ${[5, 0]}::bigint[],
    on_conflict => 'report_all')`;
console.log('moved:', moved.map((row) => row.outcome).join(', '));

// an event and the view of it in one transaction, at memory speed
const staged = await sql.begin(async (transaction) => {
  const [event] = await transaction`
    SELECT * FROM event_store.append_event('Account', ${account}, 6, 'MoneyDeposited',
      ${sql.json({ balance: '130.00' })}, durability => 'staged')`;
  await transaction`
    SELECT event_store.put_view('balances', ${account}, ${sql.json({ balance: '130.00' })},
      version => ${event.last_sequence}, durability => 'staged')`;
  return event;
});
console.log('staged:', staged.outcome, 'as', staged.last_sequence, 'durable', staged.durable);

// true: all that was committed before is durable or a dead letter; not inside a transaction block
const [flushed] = await sql`SELECT event_store.flush('30s') AS durable`;
console.log('flushed:', flushed.durable);
const [{ view }] = await sql`SELECT event_store.load_view('balances', ${account}) AS view`;
console.log('view:', view.balance);

await sql.end();
