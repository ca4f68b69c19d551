// Four consumers that take work from a queue and say that it is done, as fast as they can, for some seconds.
//
//   node queue_client.mjs FOLDER-OF-node_modules DATABASE WAY SECONDS
//
// WAY is event_store (claims of 100, each acknowledging the one before), graphile (its defaults), graphile_batched (its
// local queue and batched completion, 24 jobs at once) or pg_boss (its fetch and complete, one job each, without
// its pauses between polls).  The work itself is nothing.  First the way's own schema and work are made.  Prints how
// many were done and in how many seconds.  libpq's variables say where the server is.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [folder, database, way, seconds] = process.argv.slice(2);
const packages = createRequire(`${folder}/package.json`);
const load = (name) => import(pathToFileURL(packages.resolve(name)).href);
const { default: pg } = await load('pg');

const CONSUMERS = 4;
const connection = { host: process.env.PGHOST, user: process.env.PGUSER, database };
const url = `postgresql://${process.env.PGUSER}@/${database}?host=${encodeURIComponent(process.env.PGHOST)}`;

async function sql(text, values) {
	const client = new pg.Client(connection);
	await client.connect();
	try {
		return await client.query(text, values);
	} finally {
		await client.end();
	}
}

// Runs the consumers until the time is over, or there is nothing left to do.
async function measure(consume) {
	const work = { done: 0, first: 0, last: 0, over: false };
	const count = (number) => {
		work.last = performance.now();
		work.done += number;
	};
	work.first = performance.now();
	setTimeout(() => {
		work.over = true;
	}, 1000 * seconds);
	await consume(work, count);
	console.log(work.done, (work.last - work.first) / 1000);
}

async function eventStore() {
	for (let i = 0; i < 40; i++) {
		await sql(
			`SELECT count(*) FROM event_store.append_batch(array_fill('Order'::text, ARRAY[5000]),
				ARRAY(SELECT 'o-' || i % 1000 FROM generate_series(1, 5000) i), array_fill('Placed'::text, ARRAY[5000]),
				ARRAY(SELECT jsonb_build_object('job', i) FROM generate_series(1, 5000) i))`,
		);
	}
	await sql("SELECT event_store.create_subscription('bench', members => $1)", [CONSUMERS]);
	await measure(async (work, count) => {
		const consumer = async (name) => {
			const client = new pg.Client(connection);
			await client.connect();
			let member = null;
			let lease = null;
			let open = 0;
			while (!work.over) {
				const { rows } = await client.query({
					name: 'claim',
					text: "SELECT * FROM event_store.claim_events('bench', $1, 100, done_member => $2, done_lease => $3)",
					values: [name, member, lease],
				});
				count(open);
				open = rows.length;
				if (open === 0) {
					break;
				}
				({ member, lease } = rows[0]);
			}
			await client.end();
		};
		await Promise.all(Array.from({ length: CONSUMERS }, (_, i) => consumer(`consumer-${i}`)));
	});
}

async function graphile(options) {
	const { run, runMigrations, Logger } = await load('graphile-worker');
	const logger = new Logger(() => () => {});
	await runMigrations({ connectionString: url, logger });
	for (let i = 0; i < 8; i++) {
		await sql(
			`SELECT count(*) FROM graphile_worker.add_jobs(ARRAY(
				SELECT json_populate_record(NULL::graphile_worker.job_spec,
						json_build_object('identifier', 'job', 'payload', json_build_object('job', i)))
				FROM generate_series(1, 5000) i))`,
		);
	}
	await sql('VACUUM (ANALYZE) graphile_worker._private_jobs');
	await measure(async (work, count) => {
		const taskList = { job: () => count(1) };
		const runners = [];
		for (let i = 0; i < CONSUMERS; i++) {
			runners.push(await run({ connectionString: url, logger, noHandleSignals: true, taskList, ...options }));
		}
		while (!work.over) {
			await new Promise((resolve) => setTimeout(resolve, 20));
		}
		await Promise.all(runners.map((runner) => runner.stop()));
		work.last = performance.now();
	});
}

async function pgBoss() {
	const { default: PgBoss } = await load('pg-boss');
	const boss = new PgBoss({ ...connection, max: CONSUMERS, supervise: false, schedule: false });
	await boss.start();
	await boss.createQueue('job');
	for (let i = 0; i < 20; i++) {
		await boss.insert(Array.from({ length: 1000 }, (_, job) => ({ name: 'job', data: { job } })));
	}
	await measure(async (work, count) => {
		const consumer = async () => {
			while (!work.over) {
				const jobs = await boss.fetch('job');
				if (jobs.length === 0) {
					break;
				}
				await boss.complete('job', jobs[0].id);
				count(1);
			}
		};
		await Promise.all(Array.from({ length: CONSUMERS }, consumer));
	});
	await boss.stop({ graceful: false });
}

const ways = {
	event_store: eventStore,
	graphile: () => graphile({}),
	graphile_batched: () =>
		graphile({
			concurrency: 24,
			preset: { worker: { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
		}),
	pg_boss: pgBoss,
};
await ways[way]();
process.exit(0);
