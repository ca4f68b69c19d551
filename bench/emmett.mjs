// Makes Emmett's schema through Emmett's own client.
//
//   node emmett.mjs FOLDER-OF-node_modules DATABASE      PGHOST, PGUSER: the server
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [folder, database] = process.argv.slice(2);
const packages = createRequire(`${folder}/package.json`);
const { getPostgreSQLEventStore } = await import(
	pathToFileURL(packages.resolve('@event-driven-io/emmett-postgresql')).href
);
// libpq's way to name a socket's folder
const host = encodeURIComponent(process.env.PGHOST);
const store = getPostgreSQLEventStore(
	`postgresql://${process.env.PGUSER}@/${database}?host=${host}`,
);
await store.schema.migrate();
await store.close();
