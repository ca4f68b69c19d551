// Order fulfilment as an orchestrated saga: executors, and a play in which everything happens to them.
//
//   node orchestrated.js play 200        starts four executors and so many orders, and shows how they ended
//   node orchestrated.js executor NAME   an executor, until it is told to end
//
// First run orchestrated.sql.  libpq's variables say where the server is.
'use strict';

const { fork } = require('node:child_process');
const pg = require('pg');

const EXECUTORS = 4;
const LOOPS = 4; // of each executor, a connection each: so many steps at once
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// ---------- the steps

// Nobody says so until it is sure: a refusal had no effect.
class Refused extends Error {}

function append(client, type, claim, event, payload, id = claim.saga_id) {
	return client.query({
		name: 'append',
		text: 'SELECT event_store.append_event($1, $2, NULL, $3, $4, correlation_id => $5, saga_id => $6)',
		values: [type, id, event, payload, claim.correlation_id, claim.saga_id],
	});
}

// Effects in this database: they are written in the transaction of the report.
const local = {
	step: {
		create: async (client, claim, order) => {
			await append(client, 'Order', claim, 'OrderCreated', order);
			return {};
		},
		reserve: async (client, claim, { article, quantity }) => {
			await client.query("SELECT event_store.lock_aggregate('Article', $1)", [article]);
			const { rows } = await client.query("SELECT state FROM event_store.replay_aggregate('Article', $1)", [article]);
			if (rows[0].state.available < quantity) {
				await append(client, 'Article', claim, 'StockReservationFailed', { quantity }, article);
				throw new Refused(`${article} is out of stock`);
			}
			await append(client, 'Article', claim, 'StockReserved', { quantity }, article);
			return { quantity };
		},
	},
	compensation: {
		create: async (client, claim, order) => {
			if ('create' in order) {
				await append(client, 'Order', claim, 'OrderCancelled', {});
			}
		},
		reserve: async (client, claim, { article, reserve }) => {
			if (reserve) {
				await append(client, 'Article', claim, 'StockReleased', { quantity: reserve.quantity }, article);
			}
		},
	},
};

// Effects elsewhere: the other side knows them by saga and step, whichever attempt it is.
const elsewhere = {
	step: {
		charge: async (client, claim, { total, trouble }) => {
			if (claim.attempt === 1 && trouble === 'executor dead') {
				process.exit(1);
			}
			const { rows } = await client.query('SELECT orchestrated.charge($1, $2) AS held', [`${claim.saga_id}/charge`, total]);
			if (claim.attempt === 1 && trouble === 'executor slow') {
				await sleep(1300); // its time was a second
			}
			if (!rows[0].held) {
				throw new Refused('the bank declined');
			}
			return { held: total };
		},
	},
	compensation: {
		charge: async (client, claim) => {
			await client.query('SELECT orchestrated.give_back($1)', [`${claim.saga_id}/charge`]);
		},
	},
};

function report(client, claim, outcome, result = null, error = null) {
	return client.query({
		name: 'report',
		text: "SELECT event_store.report_step('order', $1, $2, $3, $4, $5, $6)",
		values: [claim.saga_id, claim.step, outcome, claim.lease, JSON.stringify(result), error],
	});
}

async function perform(client, claim) {
	const done = claim.kind === 'step' ? 'succeeded' : 'compensated';
	const there = elsewhere[claim.kind][claim.step];
	const here = local[claim.kind][claim.step];
	try {
		const result = there ? await there(client, claim, claim.input) : null;
		await client.query('BEGIN');
		try {
			const written = here ? await here(client, claim, claim.input) : result;
			await report(client, claim, done, written ?? null);
		} catch (refusal) {
			if (!(refusal instanceof Refused)) {
				throw refusal;
			}
			await report(client, claim, 'failed', null, refusal.message);
		}
		await client.query('COMMIT');
	} catch (error) {
		await client.query('ROLLBACK');
		// another executor has it by now: what was written here is rolled back, and that is all
		if (error.code !== 'VS007') {
			await report(client, claim, error instanceof Refused ? 'failed' : 'retry', null, error.message).catch((late) => {
				if (late.code !== 'VS007') {
					throw late;
				}
			});
		}
	}
}

async function executor(name, work) {
	const client = new pg.Client();
	await client.connect();
	while (!work.over) {
		const { rows } = await client.query({
			name: 'claim',
			text: "SELECT * FROM event_store.claim_steps('order', $1, timeout => '1s')",
			values: [name],
		});
		for (const claim of rows) {
			await perform(client, claim);
		}
	}
	await client.end();
}

// ---------- the play

function startExecutors(work) {
	const start = (name) => {
		const child = fork(__filename, ['executor', name]);
		work.children.add(child);
		child.once('exit', () => {
			work.children.delete(child);
			if (!work.over) {
				work.deaths += 1;
				start(name);
			}
		});
	};
	for (let i = 1; i <= EXECUTORS; i++) {
		start(`executor-${i}`);
	}
}

const TROUBLES = { 1: 'declined', 3: 'no stock', 5: 'executor dead', 7: 'executor slow', 9: 'never pays' };

function orderOf(n) {
	const trouble = n % 2 === 1 && n % 20 < 10 ? TROUBLES[n % 10] : undefined;
	const quantity = 1 + (n % 3);
	const article = trouble === 'no stock' ? 'article-10' : `article-${1 + (n % 9)}`;
	return {
		article,
		quantity: trouble === 'no stock' ? 4 : quantity,
		total: (trouble === 'declined' ? 10000.01 : quantity * 19.99).toFixed(2),
		...(trouble ? { trouble } : {}),
	};
}

// The customer pays what is asked for, but for some.
async function pay(client) {
	await client.query(`SELECT event_store.signal_saga('order', s.saga_id, 'paid', signal_id => 'payment')
		FROM event_store.saga_steps w JOIN event_store.saga_status s USING (saga_name, saga_id)
		WHERE w.saga_name = 'order' AND w.step = 'paid' AND s.context ->> 'trouble' IS DISTINCT FROM 'never pays'`);
}

async function isOpen(client) {
	const { rows } = await client.query("SELECT count(*) FROM event_store.sagas WHERE saga_name = 'order' AND state IN ('running', 'compensating', 'stuck')");
	return Number(rows[0].count) > 0;
}

async function play(orders) {
	const client = new pg.Client();
	const work = { over: false, children: new Set(), deaths: 0, opened: 0 };
	await client.connect();
	startExecutors(work);
	const until = Date.now() + 120000;
	let bank = true;
	for (let n = 1; n <= orders || ((await isOpen(client)) && Date.now() < until); n++) {
		if (n <= orders) {
			await client.query("SELECT event_store.start_saga('order', $1, $2, $1)", [`order-${n}`, orderOf(n)]);
		}
		// in the middle of it the bank is down, until the circuit has opened
		const { rows } = await client.query("SELECT count(*) FROM event_store.saga_circuits WHERE state <> 'closed'");
		if (n === Math.round(orders / 2)) {
			await client.query('UPDATE orchestrated.bank SET open = false');
			bank = false;
		} else if (!bank && Number(rows[0].count) > 0) {
			work.opened += 1;
			await client.query('UPDATE orchestrated.bank SET open = true');
			bank = true;
		}
		await pay(client);
		await sleep(n < orders ? 2 : 20);
	}
	work.over = true;
	for (const child of work.children) {
		child.send('end');
	}
	const books = await show(client, work);
	await client.end();
	return books;
}

async function show(client, work) {
	const ends = await client.query('SELECT * FROM orchestrated.ends ORDER BY trouble, state');
	console.log('  trouble         ended as       sagas    p50 ms    p99 ms');
	for (const row of ends.rows) {
		console.log(
			`  ${row.trouble.padEnd(15)} ${row.state.padEnd(12)} ${row.sagas.padStart(7)} ${row.p50_ms.padStart(9)} ${row.p99_ms.padStart(9)}`,
		);
	}
	const circuit = await client.query("SELECT count(*) FROM event_store.saga_circuits WHERE state <> 'closed'");
	console.log(`  executors died ${work.deaths} times; the bank was down, and the circuit opened ${work.opened} time(s); open at the end: ${circuit.rows[0].count}`);
	const { rows } = await client.query('SELECT * FROM orchestrated.books');
	const { confirmed, completed, sold, missing, earned, held } = rows[0];
	const agree = confirmed === completed && sold === missing && earned === held;
	console.log(`  sold ${sold}, missing in stock ${missing}; earned ${earned}, held by the bank ${held}: the books ${agree ? 'agree' : 'DO NOT AGREE'}`);
	return agree && !ends.rows.some((row) => ['running', 'compensating', 'stuck'].includes(row.state));
}

async function main() {
	const [role, given] = process.argv.slice(2);
	if (role === 'executor') {
		const work = { over: false };
		process.once('message', () => {
			work.over = true;
			process.disconnect();
		});
		process.once('SIGTERM', () => process.exit(0));
		await Promise.all(Array.from({ length: LOOPS }, () => executor(given, work)));
		return;
	}
	process.exitCode = (await play(Number(given ?? 200))) ? 0 : 1;
}

main().catch((error) => {
	console.error(error);
	process.exit(1);
});
