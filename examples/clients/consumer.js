// A consumer of event_store in Node: each order becomes an invoice and a line of a list, once,
// whatever crashes when.  Batches go where PGHOST and PGPORT lead, to a transaction pooler too.
// WAIT_HOST and WAIT_PORT lead past it: who waits there takes no connection of the pool.

const { Client, types } = require('pg');

// pg gives a bigint as a string; sequences and positions stay below 2^53
types.setTypeParser(types.builtins.INT8, Number);

const { WAIT_HOST = process.env.PGHOST, WAIT_PORT = process.env.PGPORT } = process.env;
let stopping = false;
let waiter;

async function connect(settings) {
  const client = new Client(settings);
  // without a handler, a connection that is lost while idle ends the process
  client.on('error', (error) => stopping || console.error('connection lost:', error.message));
  await client.connect();
  return client;
}

// Effects that a program works out: a transaction a batch.  True: there may be more.
async function makeInvoices(client) {
  let event;
  await client.query('BEGIN');
  try {
    const { rows } = await client.query(`SELECT * FROM event_store.next_events('invoices', 50)`);
    for (event of rows) {
      await client.query('INSERT INTO invoice (order_id, total) VALUES ($1, $2)',
        [event.aggregate_id, event.payload.total]);
    }
    // what COMMIT refuses is an event's fault if it is alone; else they come again, half as many
    if (rows.length > 1) event = undefined;
    await client.query('COMMIT');
    if (rows.length > 0) console.log('invoices:', rows.map((row) => row.aggregate_id).join(', '));
    return rows.length > 0;
  } catch (error) {
    // throws where the connection is lost; then all of it comes again
    await client.query('ROLLBACK');
    // serialization, deadlock, no room, locks, shutdown: nobody's fault
    if (event === undefined || /^(40|53|55|57)/.test(error.code)) throw error;
    await setAside(client, event, error);
    return true;
  }
}

// The event's partition waits; the others come again with the next call.
async function setAside(client, event, error) {
  // bad data and broken constraints do not get better by themselves
  const action = /^2[23]/.test(error.code) ? 'park' : 'retry';
  const { rows } = await client.query(
    `SELECT event_store.fail_events('invoices', $1, $2, $3) AS state`,
    [event.global_position, error.message, action]);
  console.log(`${rows[0].state}: ${event.aggregate_id}, ${error.message}`);
}

// Effects that SQL works out: one statement.
async function listOrders(client) {
  const { rowCount } = await client.query(
    `INSERT INTO order_list (order_id, placed_at)
     SELECT e.aggregate_id, e.occurred_at FROM event_store.next_events('order_list') e`);
  if (rowCount > 0) console.log('listed:', rowCount);
  return rowCount > 0;
}

async function run() {
  const client = await connect();
  waiter = await connect({ host: WAIT_HOST, port: WAIT_PORT });
  try {
    for (;;) {
      while (await makeInvoices(client) || await listOrders(client));
      if (stopping) break;
      await waiter.query(`CALL event_store.wait_for_subscriptions('{invoices,order_list}', '30s')`);
    }
  } finally {
    await Promise.allSettled([client.end(), endWaiter()]);
  }
}

// Once: of a connection that has ended, older versions of pg wait for the end for ever.
async function endWaiter() {
  const ending = waiter;
  waiter = undefined;
  await ending?.end();
}

// The batch in hand is finished; a wait is given up by closing its connection.
function stop() {
  stopping = true;
  endWaiter();
}

async function main() {
  process.on('SIGTERM', stop).on('SIGINT', stop);
  while (!stopping) {
    try {
      await run();
    } catch (error) {
      if (stopping) break;
      console.error('once more:', error.message);
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
  console.log('stopped');
}

main();
