// The view of projection_setup.sql as an application keeps it, and how far that of the server is behind.
//
//   node projection_client.mjs FOLDER-OF-node_modules DATABASE WAY [SECONDS]
//
// bulk takes 1000 events, folds them and writes the rows that they touch by one statement; rows writes a row an event.
// Both store their place in the same transaction, go on until there is nothing left, and print the seconds that took.
// fresh appends for some seconds, looks after each event until the view has it, and prints the milliseconds of each;
// hottest does so with the row that all others write.
// libpq's variables say where the server is.
import { createRequire } from 'node:module';

const [folder, database, way, seconds] = process.argv.slice(2);
const { default: pg } = await import(createRequire(`${folder}/package.json`).resolve('pg'));
const client = new pg.Client({ database });
await client.connect();

const BATCH = 1000;
const UPSERT = `
	INSERT INTO bench.raw_views AS v (view_name, view_key, view_data, version)
	SELECT 'spent', k, jsonb_build_object('times', n, 'total', t, 'last', l), p
	  FROM unnest($1::text[], $2::bigint[], $3::numeric[], $4::text[], $5::bigint[]) AS s (k, n, t, l, p)
	ON CONFLICT (view_name, view_key) DO UPDATE SET
	    view_data = jsonb_build_object('times', (v.view_data ->> 'times')::bigint + (excluded.view_data ->> 'times')::bigint,
	                                   'total', (v.view_data ->> 'total')::numeric + (excluded.view_data ->> 'total')::numeric,
	                                   'last', excluded.view_data -> 'last'),
	    version = excluded.version, updated_at = clock_timestamp()`;

function upsert(rows) {
	const columns = ['key', 'times', 'total', 'last', 'position'].map((name) => rows.map((row) => row[name]));
	return client.query({ name: 'upsert', text: UPSERT, values: columns });
}

// amounts are whole cents, which a number holds exactly
function fold(events) {
	const rows = new Map();
	for (const event of events) {
		const key = event.payload.customer;
		const row = rows.get(key) ?? { key, times: 0, cents: 0 };
		row.times += 1;
		row.cents += Math.round(100 * event.payload.amount);
		row.last = event.event_id;
		row.position = event.global_position;
		row.total = (row.cents / 100).toFixed(2);
		rows.set(key, row);
	}
	return [...rows.values()];
}

async function consume(write) {
	await client.query("SELECT event_store.create_subscription('client', '{Spent}')");
	const began = performance.now();
	for (;;) {
		await client.query('BEGIN');
		const { rows } = await client.query({
			name: 'next',
			text: "SELECT global_position, event_id, payload FROM event_store.next_events('client', $1)",
			values: [BATCH],
		});
		await write(rows);
		await client.query('COMMIT');
		if (rows.length === 0) {
			break;
		}
	}
	console.log((performance.now() - began) / 1000);
}

async function fresh(keyOf) {
	const end = performance.now() + 1000 * seconds;
	for (let n = 0; performance.now() < end; n++) {
		const key = keyOf(n);
		const { rows } = await client.query({
			name: 'append',
			text: `SELECT last_position FROM event_store.append_event('Spent', 'w-client', NULL, 'Paid',
			           jsonb_build_object('customer', $1::text, 'amount', 1))`,
			values: [key],
		});
		const appended = performance.now();
		const look = {
			name: 'look',
			text: "SELECT FROM event_store.domain_views WHERE view_name = 'spent' AND view_key = $1 AND version >= $2",
			values: [key, rows[0].last_position],
		};
		while ((await client.query(look)).rowCount === 0);
		// the first ones find the process starting, and plans are made
		if (n >= 20) {
			console.log(performance.now() - appended);
		}
	}
}

const ways = {
	bulk: () => consume((events) => (events.length > 0 ? upsert(fold(events)) : null)),
	rows: () =>
		consume(async (events) => {
			for (const event of events) {
				await upsert(fold([event]));
			}
		}),
	fresh: () => fresh((n) => `fresh-${n}`),
	hottest: () => fresh(() => 'hot'),
};
await ways[way]();
await client.end();
