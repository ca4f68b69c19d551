// How postgraphile is set up: what it shows, who may call it, and what of a request reaches the store.
//
// The store is where PGHOST, PGPORT and PGDATABASE lead; PGUSER is the authenticator of setup.sql.  The
// secret of the tokens is in the file JWT_SECRET_FILE.

const { readFileSync } = require('node:fs');
const { createServer } = require('node:http');
const { MutationPayloadQueryPlugin, NodePlugin } = require('graphile-build');
const { GraphQLError } = require('graphql');
const { DatabaseError, Pool } = require('pg');
const { makePgSmartTagsPlugin, makePluginHook, postgraphile } = require('postgraphile');

const { JWT_SECRET_FILE, JWT_AUDIENCE = 'event_store', HOST = '127.0.0.1', PORT = '5433', POOL = '10' } = process.env;
const MAX_CALLS = 20;

const secret = readFileSync(JWT_SECRET_FILE, 'utf8').trim();
if (secret.length < 32) throw new Error(`${JWT_SECRET_FILE} has less than 32 characters`);

function refusal(statusCode, message) {
  return Object.assign(new Error(message), { statusCode });
}

// ---- what is shown: the functions that one of the authenticator's roles may call

// These hold a lock or a connection for somebody who is gone with the answer, or refuse to run in a transaction.
const NOT_FOR_HTTP = ['assert_sequence', 'flush', 'lock_aggregate', 'wait_for_events'];

const functionsAlone = makePgSmartTagsPlugin([
  { kind: 'procedure', match: ({ name }) => NOT_FOR_HTTP.includes(name), tags: { omit: true } },
  { kind: 'procedure', match: ({ description }) => description?.startsWith('Internal:'), tags: { omit: true } },
  // composite types are what functions return
  { kind: 'class', match: ({ classKind }) => classKind !== 'c', tags: { omit: true } },
]);

// A request is worth MAX_CALLS calls, however it is written: no field leads back to the root, from where a small
// request could ask for any number of them.
function noWayBack(builder) {
  builder.hook('GraphQLObjectType:fields', (fields, build, { scope }) => {
    if (!scope.isRootQuery) return fields;
    const { query, ...calls } = fields;
    return calls;
  });
}

function fewCalls(context) {
  let calls = 0;
  return {
    Field(node) {
      const roots = [context.getSchema().getQueryType(), context.getSchema().getMutationType()];
      if (!roots.includes(context.getParentType())) return;
      calls += 1;
      if (calls === MAX_CALLS + 1) context.reportError(new GraphQLError(`more than ${MAX_CALLS} calls in a request`, node));
    },
  };
}

// ---- what of a request reaches the store

// Settings of the request's transaction; the role of its token comes to them.
function settings({ headers }) {
  if (headers.authorization === undefined) throw refusal(401, 'no token');
  const correlation = headers['x-correlation-id'];
  if (!correlation) return {};
  if (!/^[\x20-\x7e]{1,255}$/.test(correlation)) throw refusal(400, 'X-Correlation-Id is not 1 to 255 characters of ASCII');
  return { 'event_store.correlation_id': correlation };
}

// ---- what a client gets to know of an error

function answer(errors, request, response) {
  return errors.map((error) => {
    const { message, locations, path } = error;
    const cause = error.originalError ?? error;
    if (cause instanceof DatabaseError) {
      // the role of the token is not one of the authenticator's, or there is none
      if (path === undefined && ['42501', '22023'].includes(cause.code)) response.statusCode = 403;
      return { message, locations, path, errcode: cause.code, detail: cause.detail, hint: cause.hint };
    }
    if (error instanceof GraphQLError || cause.statusCode < 500) return { message, locations, path };
    console.error(cause);
    return { message: 'internal error', path };
  });
}

const pool = new Pool({ max: Number(POOL), application_name: 'http' });
const server = createServer(postgraphile(pool, ['event_store', 'api'], {
  jwtSecret: secret,
  jwtVerifyOptions: { algorithms: ['HS256'], audience: JWT_AUDIENCE, maxAge: '1d' },
  pgSettings: settings,
  handleErrors: answer,
  pluginHook: makePluginHook([{ 'postgraphile:validationRules:static': (rules) => [...rules, fewCalls] }]),
  appendPlugins: [functionsAlone, noWayBack],
  skipPlugins: [MutationPayloadQueryPlugin, NodePlugin],
  includeExtensionResources: true,
  ignoreRBAC: false,
  disableDefaultMutations: true,
  simpleCollections: 'only',
  dynamicJson: true,
  bodySizeLimit: '1mb',
  disableQueryLog: true,
  retryOnInitFail: true,
}));
server.listen(Number(PORT), HOST);

process.once('SIGTERM', () => {
  server.close(() => pool.end());
  server.closeIdleConnections();
});
