// Requests that a client may repeat: each has its effect once, and gets the same answer again.
// Where to connect comes from PGHOST, PGPORT, PGUSER and PGDATABASE, a transaction pooler too.

const { createHash } = require('node:crypto');
const http = require('node:http');
const { Pool } = require('pg');

const pool = new Pool({ max: 2 });
pool.on('error', (error) => console.error('connection lost:', error.message));

// The effect and its answer, as text: it is given again as it is.
async function pay(client, { order, amount }) {
  await client.query('INSERT INTO payment (order_id, amount) VALUES ($1, $2)', [order, amount]);
  return { status: 201, body: JSON.stringify({ order, paid: amount }) };
}

// The answer of a request that is new, decided and recorded in the transaction of its effect.
async function decide(client, key, body) {
  let answer;
  await client.query('SAVEPOINT work');
  try {
    answer = await pay(client, body);
  } catch (error) {
    // not a refusal, so nothing is recorded: the client asks again
    if (!/^23/.test(error.code)) throw error;
    await client.query('ROLLBACK TO work');
    answer = { status: 409, body: JSON.stringify({ refused: error.constraint }) };
  }
  await client.query(`SELECT event_store.record_result('payments', $1, $2)`, [key, answer]);
  return answer;
}

async function answerOnce(key, text) {
  const client = await pool.connect();
  let lost;
  try {
    await client.query('BEGIN');
    // waits for another one under this key that is being decided
    const { rows } = await client.query(`SELECT event_store.process_once('payments', $1, $2) AS first`,
      [key, createHash('sha256').update(text).digest('hex')]);
    const answer = rows[0].first
      ? await decide(client, key, JSON.parse(text))
      : (await client.query(`SELECT event_store.processed_result('payments', $1) AS answer`, [key])).rows[0].answer;
    await client.query('COMMIT');
    return answer;
  } catch (error) {
    lost = await client.query('ROLLBACK').then(() => undefined, (reason) => reason);
    if (error.code === 'VS002') return { status: 422, body: '{"error": "this key belongs to another request"}' };
    return { status: 503, body: '{"error": "try again"}' };
  } finally {
    client.release(lost);
  }
}

const server = http.createServer(async (request, response) => {
  let text = '';
  for await (const chunk of request) text += chunk;
  const { status, body } = await answerOnce(request.headers['idempotency-key'], text);
  response.writeHead(status, { 'Content-Type': 'application/json' }).end(body);
});

// A client that repeats itself.
async function ask(key, body) {
  const response = await fetch(`http://127.0.0.1:${server.address().port}/payments`,
    { method: 'POST', headers: { 'Idempotency-Key': key }, body: JSON.stringify(body) });
  console.log(`${key}:`, response.status, await response.text());
}

server.listen(0, '127.0.0.1', async () => {
  await ask('first', { order: 'o-1', amount: 20 });
  await ask('first', { order: 'o-1', amount: 20 });
  await ask('first', { order: 'o-1', amount: 30 });
  await ask('second', { order: 'o-2', amount: -1 });
  await ask('second', { order: 'o-2', amount: -1 });
  await Promise.all([ask('third', { order: 'o-3', amount: 5 }), ask('third', { order: 'o-3', amount: 5 })]);
  const { rows } = await pool.query('SELECT count(*) FROM payment');
  console.log('payments:', rows[0].count);
  await pool.end();
  server.close();
});
