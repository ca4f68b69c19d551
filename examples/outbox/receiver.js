// Prints the messages that relay.js has published, the first to the last there is: aggregate, sequence,
// event id.  A message comes again where a relay, the broker or the server was killed.

const { connect, StringCodec } = require('nats');

const { NATS_URL = '127.0.0.1:4222', STREAM = 'events' } = process.env;

async function main() {
  const connection = await connect({ servers: NATS_URL });
  const { state } = await (await connection.jetstreamManager()).streams.info(STREAM);
  if (state.messages > 0) {
    const consumer = await connection.jetstream().consumers.get(STREAM);
    for await (const message of await consumer.consume()) {
      const event = JSON.parse(StringCodec().decode(message.data));
      console.log(`${event.aggregate_type}/${event.aggregate_id} ${event.sequence} ${event.event_id}`);
      if (message.seq >= state.last_seq) break;
    }
  }
  await connection.close();
}

main();
