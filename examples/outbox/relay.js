// A relay from event_store to a broker (NATS JetStream): each event becomes a message, in order within
// its aggregate, and is acknowledged to the store once the broker has confirmed it.
//
// The store is where PGHOST, PGPORT, PGUSER and PGDATABASE lead, the broker is NATS_URL.  Any number of
// relays share the members of a subscription; one that dies is replaced by whoever claims next, once its
// lease is over.  SIGTERM ends it behind the batch in hand.

const { hostname } = require('node:os');
const { Client, types } = require('pg');
const { connect, ErrorCode, NatsError } = require('nats');

// pg gives a bigint as a string; positions and leases stay below 2^53
types.setTypeParser(types.builtins.INT8, Number);

const {
  NATS_URL = '127.0.0.1:4222',
  SUBSCRIPTION = 'broker',
  STREAM = 'events',
  BATCH = '100',
  LEASE_SECONDS = '30',
  // how long the broker remembers message ids, and drops what comes again
  DUPLICATE_WINDOW_MS = '120000',
} = process.env;
const RELAY = `${hostname()}/${process.pid}`;
const TOO_LARGE = 10054;        // JetStream: message size exceeds maximum allowed

let stopping = false;

// ---- the store

async function connectToStore() {
  const store = new Client({ application_name: 'relay' });
  // without a handler, a connection that is lost while idle ends the process
  store.on('error', (error) => console.error('store:', error.message));
  await store.connect();
  return store;
}

// The next batch; done is the lease of the one before, which the same round trip acknowledges.
async function claim(store, done) {
  // content is the event as the message has it: numbers and times as the database shows them
  const { rows } = await store.query(
    `SELECT e.member, e.lease, e.global_position, e.aggregate_type, e.aggregate_id, e.event_id,
            (to_jsonb(e) - '{member,lease,attempt,partition_key}'::text[])::text AS content
       FROM event_store.claim_events($1, $2, $3, $4, done_member => $5, done_lease => $6) e`,
    [SUBSCRIPTION, RELAY, BATCH, `${LEASE_SECONDS}s`, done?.member, done?.lease]);
  return rows;
}

// Until there is something to claim, or for a time.  It holds no snapshot, which a claim that waits
// would, and so keeps VACUUM from nothing.
async function waitForEvents(store) {
  await store.query("CALL event_store.wait_for_subscriptions($1, '5s')", [[SUBSCRIPTION]]);
}

// Acknowledges a batch but for the events that the broker refused: they are set aside, with what
// follows them in their aggregate.
async function acknowledge(store, { member, lease }, refused) {
  await store.query(
    'SELECT event_store.ack_events($1, $2, $3, failed_positions => $4, errors => $5)',
    [SUBSCRIPTION, member, lease, refused.map((r) => r.position), refused.map((r) => r.error)]);
}

// Gives a batch back that could not be published, so that nobody waits for the lease to be over.
async function release(store, { member, lease }) {
  await store.query('SELECT event_store.release_events($1, $2, $3)', [SUBSCRIPTION, member, lease])
    .catch((error) => console.error('lease:', error.message));
}

// While the broker takes its time the lease goes on.  If it is lost all the same, somebody else
// publishes the batch as well, from the same event on and in the same order.
function keepLease(store, { member, lease }) {
  return setInterval(() => {
    store.query('SELECT event_store.extend_lease($1, $2, $3, $4)', [SUBSCRIPTION, member, lease, `${LEASE_SECONDS}s`])
      .catch((error) => console.error('lease:', error.message));
  }, LEASE_SECONDS * 1000 / 3);
}

// ---- the broker

async function connectToBroker() {
  // no buffer that is sent after a reconnect: what was lost in between would come behind it
  const connection = await connect({ servers: NATS_URL, name: RELAY, reconnect: false });
  try {
    const manager = await connection.jetstreamManager();
    await manager.streams.add({
      name: STREAM, subjects: [`${STREAM}.>`], duplicate_window: DUPLICATE_WINDOW_MS * 1e6,
    });
  } catch (error) {
    await connection.close();
    throw error;
  }
  return connection;
}

// A token of a subject has no dots, blanks or wildcards.
const token = (text) => encodeURIComponent(text).replace(/[.*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);

function message(event) {
  return [
    `${STREAM}.${token(event.aggregate_type)}.${token(event.aggregate_id)}`,
    event.content,
    { msgID: event.event_id, timeout: 5000 },
  ];
}

// The message's own fault, so that it cannot be published today or tomorrow.
function isRefused(error) {
  return error instanceof NatsError &&
    (error.code === ErrorCode.MaxPayloadExceeded || error.api_error?.err_code === TOO_LARGE);
}

// Publishes the events of an aggregate, each once the broker has confirmed the one before it.
// Returns the one that it refused, if any; those behind it are not published.
async function publishInOrder(jetstream, events) {
  for (const event of events) {
    try {
      await jetstream.publish(...message(event));
    } catch (error) {
      if (!isRefused(error)) throw error;
      return [{ position: event.global_position, error: error.message }];
    }
  }
  return [];
}

// Publishes a batch, its aggregates side by side; returns the events that were refused.
async function publish(jetstream, batch) {
  const aggregates = new Map();
  for (const event of batch) {
    const key = JSON.stringify([event.aggregate_type, event.aggregate_id]);
    aggregates.set(key, [...aggregates.get(key) ?? [], event]);
  }
  const results = await Promise.allSettled([...aggregates.values()].map((events) => publishInOrder(jetstream, events)));
  const lost = results.find((result) => result.status === 'rejected');
  if (lost) throw lost.reason;
  return results.flatMap((result) => result.value);
}

// ---- the relay

// A batch that is published and not acknowledged yet; it outlives the connection.
let done = null;

async function relayBatch(store, jetstream) {
  const batch = await claim(store, done);
  done = null;
  if (batch.length === 0) {
    if (!stopping) await waitForEvents(store);
    return;
  }
  const [lease] = batch;
  const timer = keepLease(store, lease);
  try {
    const refused = await publish(jetstream, batch);
    if (refused.length > 0) await acknowledge(store, lease, refused);
    else done = lease;
  } catch (error) {
    await release(store, lease);
    throw error;
  } finally {
    clearInterval(timer);
  }
}

async function run(store, jetstream) {
  while (!stopping || done) {
    try {
      if (!stopping) {
        await relayBatch(store, jetstream);
      } else {
        await acknowledge(store, done, []);
        done = null;
      }
    } catch (error) {
      // the lease was over: the batch is somebody else's by now
      if (error.code !== 'VS007') throw error;
      console.error('lease lost:', error.message);
      done = null;
    }
  }
}

async function main() {
  process.on('SIGTERM', () => { stopping = true; }).on('SIGINT', () => { stopping = true; });
  while (!stopping) {
    let store;
    let broker;
    try {
      store = await connectToStore();
      broker = await connectToBroker();
      await run(store, broker.jetstream());
    } catch (error) {
      console.error('once more:', error.message);
      await new Promise((resolve) => setTimeout(resolve, 500));
    } finally {
      await Promise.allSettled([broker?.close(), store?.end()]);
    }
  }
}

main();
