// Sagas of three steps, driven by four executors in Node, as fast as they can.
//
//   node saga_client.mjs FOLDER-OF-node_modules DATABASE WAY SAGAS
//
// WAY is event_store (each executor claims up to 24 steps, which it runs at once, and reports them in one statement), graphile
// (graphile-worker with its local queue and batched completion, 24 jobs at once in each executor; a table by hand holds the
// state of a saga, and a step updates it and adds the job of the next one in one transaction), or latency (200 sagas
// a second; how long a request of a step waits for its claim), or reactions (a quarter as many orders, 50 a second, of
// examples/orders/choreographed.sql; how long an event waits for what reacts to it).  The work of a step is nothing.  Prints how many sagas were completed and
// in how many seconds, once all are; for latency and reactions four percentiles in milliseconds.
// libpq's variables say where the server is.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [folder, database, way, number] = process.argv.slice(2);
const packages = createRequire(`${folder}/package.json`);
const load = (name) => import(pathToFileURL(packages.resolve(name)).href);
const { default: pg } = await load('pg');

const EXECUTORS = 4;
const AT_ONCE = 24;
const STEPS = ['reserve', 'charge', 'ship'];
const SAGAS = Number(number);
const connection = { host: process.env.PGHOST, user: process.env.PGUSER, database };
const url = `postgresql://${process.env.PGUSER}@/${database}?host=${encodeURIComponent(process.env.PGHOST)}`;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function connected(use) {
	const client = new pg.Client(connection);
	await client.connect();
	try {
		return await use(client);
	} finally {
		await client.end();
	}
}

const sql = (text, values) => connected((client) => client.query(text, values));

// Looks until all sagas are completed.
async function completed(query, work, all = SAGAS) {
	const begun = performance.now();
	await connected(async (client) => {
		while (Number((await client.query(query)).rows[0].count) < all) {
			await sleep(50);
		}
	});
	work.over = true;
	console.log(all, (performance.now() - begun) / 1000);
}

const CLAIM = `SELECT saga_id, step, kind, lease FROM event_store.claim_steps('order', $1, max_count => $2, timeout => '1s')`;
const REPORT = `SELECT event_store.report_step('order', r.saga_id, r.step, 'succeeded', r.lease, '{"done": true}')
	FROM ROWS FROM (unnest($1::text[]), unnest($2::text[]), unnest($3::bigint[])) r (saga_id, step, lease)`;

function executor(name, atOnce, work) {
	return connected(async (client) => {
		while (!work.over) {
			const { rows } = await client.query({ name: 'claim', text: CLAIM, values: [name, atOnce] });
			if (rows.length === 0) {
				continue;
			}
			await client.query({
				name: 'report',
				text: REPORT,
				values: [rows.map((r) => r.saga_id), rows.map((r) => r.step), rows.map((r) => r.lease)],
			});
		}
	});
}

async function define() {
	const definition = { steps: STEPS.map((name) => ({ name, compensate: true })) };
	await sql("SELECT event_store.define_saga('order', $1)", [JSON.stringify(definition)]);
}

const executors = (atOnce, work) =>
	Promise.all(Array.from({ length: EXECUTORS }, (_, i) => executor(`executor-${i}`, atOnce, work)));

async function eventStore() {
	await define();
	await sql(
		`SELECT count(event_store.start_saga('order', 'o-' || i, jsonb_build_object('amount', i))) FROM generate_series(1, $1::int) i`,
		[SAGAS],
	);
	await sql('VACUUM (ANALYZE)');
	await sql('CHECKPOINT');
	const work = { over: false };
	const running = executors(AT_ONCE, work);
	await completed("SELECT count(*) FROM event_store.sagas WHERE state = 'completed'", work);
	await running;
}

async function graphile() {
	const { run, runMigrations, Logger } = await load('graphile-worker');
	const logger = new Logger(() => () => {});
	await runMigrations({ connectionString: url, logger });
	await sql('CREATE TABLE saga (id text PRIMARY KEY, state text NOT NULL, step int NOT NULL, context jsonb NOT NULL)');
	await sql(`INSERT INTO saga SELECT 'o-' || i, 'running', 0, jsonb_build_object('amount', i) FROM generate_series(1, $1::int) i`, [SAGAS]);
	await sql(
		`SELECT count(*) FROM graphile_worker.add_jobs(ARRAY(
			SELECT json_populate_record(NULL::graphile_worker.job_spec, json_build_object('identifier', 'step', 'payload', json_build_object('saga', 'o-' || i, 'step', 0)))
			FROM generate_series(1, $1::int) i))`,
		[SAGAS],
	);
	await sql('VACUUM (ANALYZE)');
	await sql('CHECKPOINT');
	const step = ({ saga, step: n }, { withPgClient }) =>
		withPgClient(async (client) => {
			await client.query({
				name: 'step',
				text: `WITH s AS (UPDATE saga SET step = step + 1, state = CASE WHEN step = 2 THEN 'completed' ELSE state END,
						context = context || jsonb_build_object($3::text, '{"done": true}'::jsonb) WHERE id = $1 AND step = $2 RETURNING id, step)
					SELECT graphile_worker.add_job('step', json_build_object('saga', s.id, 'step', s.step)) FROM s WHERE s.step < 3`,
				values: [saga, n, STEPS[n]],
			});
		});
	for (let i = 0; i < EXECUTORS; i++) {
		await run({
			connectionString: url,
			logger,
			noHandleSignals: true,
			taskList: { step },
			concurrency: AT_ONCE,
			preset: { worker: { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
		});
	}
	await completed("SELECT count(*) FROM saga WHERE state = 'completed'", {});
}

// The time from the commit of a request to that of its claim is, but for both commits, between their events.
async function latency() {
	await define();
	const work = { over: false };
	const running = executors(AT_ONCE, work);
	await connected(async (client) => {
		const begun = performance.now();
		for (let i = 0; i < SAGAS; i++) {
			await sleep(begun + 5 * i - performance.now());
			await client.query({ name: 'start', text: "SELECT event_store.start_saga('order', $1)", values: [`o-${i}`] });
		}
	});
	await completed("SELECT count(*) FROM event_store.sagas WHERE state = 'completed'", work);
	await running;
	const { rows } = await sql(
		`SELECT percentile_cont(ARRAY[0.5, 0.95, 0.99, 0.999]) WITHIN GROUP (ORDER BY extract(epoch FROM c.recorded_at - r.recorded_at) * 1000) AS ms
		   FROM event_store.domain_events c JOIN event_store.domain_events r
		     ON r.aggregate_type = c.aggregate_type AND r.aggregate_id = c.aggregate_id AND r.sequence = c.sequence - 1
		  WHERE c.aggregate_type = 'saga:order' AND c.event_type = 'StepClaimed'`,
	);
	console.log(...rows[0].ms);
}

// From the event to the one that a reaction appends, both before their commits.  Each article is in few orders.
async function reactions() {
	const orders = SAGAS / 4;
	await sql(readFileSync(new URL('../examples/orders/choreographed.sql', import.meta.url), 'utf8'));
	await sql("SELECT choreographed.open_doors(jsonb_object_agg('article-' || n, 1000000)) FROM generate_series(1, 200) n");
	await connected(async (client) => {
		const begun = performance.now();
		for (let i = 0; i < orders; i++) {
			await sleep(begun + 20 * i - performance.now());
			await client.query({
				name: 'place',
				text: "SELECT choreographed.place($1, jsonb_build_object($2::text, 1), '19.99')",
				values: [`order-${i}`, `article-${1 + (i % 200)}`],
			});
		}
	});
	await completed("SELECT count(*) FROM event_store.domain_events WHERE event_type = 'OrderConfirmed'", {}, orders);
	const { rows } = await sql(
		`SELECT percentile_cont(ARRAY[0.5, 0.95, 0.99, 0.999]) WITHIN GROUP (ORDER BY extract(epoch FROM r.recorded_at - c.recorded_at) * 1000) AS ms
		   FROM event_store.domain_events r JOIN event_store.domain_events c ON c.event_id = r.causation_id::uuid`,
	);
	console.log(...rows[0].ms);
}

await { event_store: eventStore, graphile, latency, reactions }[way]();
process.exit(0);
