// A five-minute tour of event_store from Node, through a transaction pooler.
// Where to connect comes from PGHOST, PGPORT, PGUSER and PGDATABASE.

const { randomUUID } = require('node:crypto');
const { Client, types } = require('pg');

// pg gives a bigint as a string; sequences and positions stay below 2^53
types.setTypeParser(types.builtins.INT8, Number);

const account = `node-${randomUUID()}`;

async function append(client, expected, type, payload, eventId = null) {
  const { rows } = await client.query(
    `SELECT * FROM event_store.append_event(
       aggregate_type => 'Account', aggregate_id => $1, expected_sequence => $2,
       event_type => $3, payload => $4, event_id => $5)`,
    [account, expected, type, payload, eventId]);
  return rows[0];
}

async function main() {
  const client = new Client();
  // without a handler, a connection that is lost while idle ends the process
  client.on('error', (error) => console.error('connection lost:', error.message));
  await client.connect();

  // 0: the account must be new
  let result = await append(client, 0, 'AccountOpened', { owner: "Niamh O'Brien", balance: '0.00' });
  console.log('opened:', result.outcome, 'as', result.last_sequence);

  // 1: nobody else may have written since we saw event 1
  result = await append(client, 1, 'MoneyDeposited', { balance: '50.00' });
  console.log('deposited:', result.outcome, 'as', result.last_sequence);

  // a decision made on old knowledge is refused, with the numbers
  try {
    await append(client, 1, 'MoneyWithdrawn', { balance: '-20.00' });
  } catch (error) {
    if (error.code !== 'VS001') throw error;
    const { expected, actual } = JSON.parse(error.detail);
    console.log('refused:', error.code, 'expected', expected, 'actual', actual);
  }

  // the client names the event, so a retry after a lost answer writes nothing
  const eventId = randomUUID();
  for (const attempt of ['first', 'retry']) {
    result = await append(client, 2, 'MoneyWithdrawn', { balance: '30.00' }, eventId);
    console.log(`${attempt}:`, result.outcome, 'as', result.last_sequence);
  }

  // the events, and the state that they fold into
  const events = await client.query(
    `SELECT sequence, event_type FROM event_store.load_events('Account', $1)`, [account]);
  console.log('events:', events.rows.map((e) => `${e.sequence} ${e.event_type}`).join(', '));
  const replayed = await client.query(
    `SELECT state, sequence FROM event_store.replay_aggregate('Account', $1)`, [account]);
  console.log('balance:', replayed.rows[0].state.balance, 'after', replayed.rows[0].sequence);

  // a list of events: pg makes a PostgreSQL array of a JS array, so a JSON array is stringified
  const list = await client.query(
    `SELECT * FROM event_store.append_events('Account', $1, 3, $2)`,
    [account, JSON.stringify([
      { event_type: 'NoteAdded', payload: { note: 'checked' } },
      { event_type: 'LimitSet', payload: { limit: '500.00' } }])]);
  console.log('list:', list.rows[0].outcome, 'as', list.rows[0].last_sequence);

  // from one account to another, both or none; these are PostgreSQL arrays
  const moved = await client.query(
    `SELECT outcome FROM event_store.append_batch($1, $2, $3, $4, $5, on_conflict => 'report_all')`,
    [['Account', 'Account'], [account, `${account}-savings`], ['MoneyWithdrawn', 'MoneyDeposited'],
      [{ balance: '10.00' }, { balance: '20.00' }], [5, 0]]);
  console.log('moved:', moved.rows.map((row) => row.outcome).join(', '));

  // an event and the view of it in one transaction, at memory speed
  await client.query('BEGIN');
  try {
    const staged = await client.query(
      `SELECT * FROM event_store.append_event('Account', $1, 6, 'MoneyDeposited', $2, durability => 'staged')`,
      [account, { balance: '130.00' }]);
    await client.query(
      `SELECT event_store.put_view('balances', $1, $2, version => $3, durability => 'staged')`,
      [account, { balance: '130.00' }, staged.rows[0].last_sequence]);
    await client.query('COMMIT');
    console.log('staged:', staged.rows[0].outcome, 'as', staged.rows[0].last_sequence,
      'durable', staged.rows[0].durable);
  } catch (error) {
    await client.query('ROLLBACK');
    throw error;
  }

  // true: all that was committed before is durable or a dead letter; not inside BEGIN … COMMIT
  const flushed = await client.query(`SELECT event_store.flush('30s') AS durable`);
  console.log('flushed:', flushed.rows[0].durable);
  const view = await client.query(
    `SELECT event_store.load_view('balances', $1) AS view`, [account]);
  console.log('view:', view.rows[0].view.balance);

  await client.end();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
