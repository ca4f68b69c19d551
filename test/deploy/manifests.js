// Reads Kubernetes manifests, and compares each document with the schema that CloudNativePG
// publishes for its kind:
//
//   node manifests.js FILE…
//
// A schema has nothing against a field that it does not know, so each document is given to
// TypeScript as well, which has.  Prints a line for each document that holds, and what is
// wrong with the others; the status is 0 only where nothing is.
import fs from 'node:fs';
import ts from 'typescript';
import yaml from 'js-yaml';
import * as models from '@kubernetes-models/cloudnative-pg/postgresql.cnpg.io/v1';

const MODELS = '@kubernetes-models/cloudnative-pg/postgresql.cnpg.io/v1';
let wrong = 0;

function complain(file, text) {
  wrong++;
  console.log(`${file}: ${text}`);
}

// What a value of the schema's type may not be, as TypeScript says it.
function unknownFields(document) {
  const name = new URL('document.ts', import.meta.url).pathname;
  const text = `import type { I${document.kind} } from '${MODELS}';\n`
    + `export const it: I${document.kind} = ${JSON.stringify(document, null, 1)};\n`;
  const options = {
    noEmit: true, strict: true, skipLibCheck: true, types: [],
    module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext,
  };
  const host = ts.createCompilerHost(options);
  const { getSourceFile, readFile, fileExists } = host;

  host.fileExists = (file) => file === name || fileExists(file);
  host.readFile = (file) => (file === name ? text : readFile(file));
  host.getSourceFile = (file, version) => (file === name
    ? ts.createSourceFile(file, text, version) : getSourceFile(file, version));
  return ts.getPreEmitDiagnostics(ts.createProgram([name], options, host))
    .map((diagnostic) => ts.flattenDiagnosticMessageText(diagnostic.messageText, '\n'));
}

for (const file of process.argv.slice(2)) {
  for (const document of yaml.loadAll(fs.readFileSync(file, 'utf8'))) {
    const before = wrong;
    const Model = models[document?.kind];

    if (!Model) {
      complain(file, `there is no kind ${document?.kind} in ${MODELS}`);
      continue;
    }
    try {
      new Model(document).validate();
    } catch (error) {
      complain(file, error.message);
    }
    unknownFields(document).forEach((text) => complain(file, text));
    if (wrong === before) console.log(`${document.kind} holds`);
  }
}
process.exitCode = wrong ? 1 : 0;
