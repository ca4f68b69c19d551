// The folds of fold_setup.sql as an application does them: it fetches the events
// of an aggregate with load_events and folds them in JavaScript.
//
//   node fold_client.mjs FOLDER-OF-node_modules DATABASE TYPE measure SECONDS SEED
//   node fold_client.mjs FOLDER-OF-node_modules DATABASE TYPE keep ID
//
// TYPE is Account, whose payloads are merge patches, or Fulfilment.  measure
// folds aggregates 1 to 20 by chance and prints for each its end in seconds and
// how many microseconds it took; keep stores the state after each event in
// bench.fold_states.  libpq's variables say where the server is.
import { createRequire } from 'node:module';

const [folder, database, aggregateType, task, ...words] = process.argv.slice(2);
const { default: pg } = await import(createRequire(`${folder}/package.json`).resolve('pg'));

// ---------------------------------------------------------------- merge patch

function isObject(value) {
	return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function mergePatch(target, patch) {
	if (!isObject(patch)) {
		return patch;
	}
	const result = isObject(target) ? target : {};
	for (const [name, value] of Object.entries(patch)) {
		if (value === null) {
			delete result[name];
		} else {
			result[name] = mergePatch(result[name], value);
		}
	}
	return result;
}

// --------------------------------------------------------------------- orders

// An exact decimal is an integer and the number of its digits after the point.
function decimal(text) {
	const string = String(text);
	const point = string.indexOf('.');
	return point < 0
		? { digits: BigInt(string), scale: 0 }
		: { digits: BigInt(string.slice(0, point) + string.slice(point + 1)), scale: string.length - point - 1 };
}

function withScale(number, scale) {
	return number.digits * 10n ** BigInt(scale - number.scale);
}

// left + right * times
function addDecimal(left, right, times = 1) {
	const [a, b] = [decimal(left), decimal(right)];
	const scale = Math.max(a.scale, b.scale);
	const sum = withScale(a, scale) + withScale(b, scale) * BigInt(times);
	const digits = String(sum < 0n ? -sum : sum).padStart(scale + 1, '0');
	const whole = digits.slice(0, digits.length - scale);
	return (sum < 0n ? '-' : '') + (scale > 0 ? `${whole}.${digits.slice(-scale)}` : whole);
}

const orderChanges = {
	OrderCreated(state, payload) {
		state.order = payload;
		state.status = 'created';
		delete state.reason;
		state.orders += 1;
		state.ordered = addDecimal(state.ordered, payload.total);
		state.history = ['OrderCreated'];
	},
	StockReserved(state, payload) {
		state.reserved[payload.product_id] = payload.quantity;
		state.worth = addDecimal(state.worth, payload.price, payload.quantity);
		state.history.push('StockReserved');
	},
	StockReservationFailed(state, payload) {
		state.wanted.push(payload);
		state.history.push('StockReservationFailed');
	},
	StockReleased(state, payload) {
		delete state.reserved[payload.product_id];
		state.worth = addDecimal(state.worth, payload.price, -payload.quantity);
		state.history.push('StockReleased');
	},
	StockReplenished(state, payload) {
		state.wanted = state.wanted.filter((line) => line.product_id !== payload.product_id);
	},
	PaymentProcessed(state, payload) {
		state.payment_id = payload.payment_id;
		state.balance = addDecimal(state.balance, payload.amount);
		state.history.push('PaymentProcessed');
	},
	PaymentFailed(state, payload) {
		state.reason = payload.reason;
		state.history.push('PaymentFailed');
	},
	PaymentRefunded(state, payload) {
		state.status = 'refunded';
		state.balance = addDecimal(state.balance, payload.amount, -1);
		state.history.push('PaymentRefunded');
	},
	OrderConfirmed(state) {
		state.status = 'confirmed';
		state.reserved = {};
		state.worth = '0.00';
		state.history.push('OrderConfirmed');
	},
	OrderCancelled(state, payload) {
		state.status = 'cancelled';
		state.reason = payload.reason ?? 'not given';
		state.history.push('OrderCancelled');
	},
	CustomerUpdated(state, payload) {
		state.customer = mergePatch(state.customer, payload);
	},
};

function foldOrder(state, event) {
	const result = state ?? {
		orders: 0,
		ordered: '0.00',
		balance: '0.00',
		worth: '0.00',
		reserved: {},
		wanted: [],
		customer: {},
	};
	orderChanges[event.event_type](result, event.payload);
	return result;
}

// --------------------------------------------------------------------- client

const fold = aggregateType === 'Account' ? (state, event) => mergePatch(state, event.payload) : foldOrder;

const client = new pg.Client({ database });
await client.connect();

async function load(id) {
	const found = await client.query({
		name: 'load',
		text: 'SELECT sequence, event_type, payload FROM event_store.load_events($1, $2)',
		values: [aggregateType, id],
	});
	return found.rows;
}

async function measure(seconds, seed) {
	const calls = [];
	const end = performance.now() + seconds * 1000;
	// a generator with a seed, as pgbench has one
	let chance = seed;
	for (let now = performance.now(); now < end; ) {
		chance = (chance * 1103515245 + 12345) % 2147483648;
		(await load(String(1 + (Math.floor(chance / 65536) % 20)))).reduce(fold, undefined);
		const done = performance.now();
		calls.push(`${done / 1000} ${Math.round((done - now) * 1000)}`);
		now = done;
	}
	console.log(calls.join('\n'));
}

async function keep(id) {
	const [sequences, states] = [[], []];
	let state;
	for (const event of await load(id)) {
		state = fold(state, event);
		sequences.push(event.sequence);
		states.push(JSON.stringify(state));
	}
	// 0 is the last state, as bench.keep_states has it
	await client.query(
		`INSERT INTO bench.fold_states
		 SELECT 'Node', $1, s.sequence, s.state::jsonb FROM unnest($2::bigint[], $3::text[]) s (sequence, state)`,
		[aggregateType, [...sequences, 0], [...states, JSON.stringify(state)]],
	);
}

if (task === 'measure') {
	await measure(Number(words[0]), Number(words[1]));
} else {
	await keep(words[0]);
}
await client.end();
