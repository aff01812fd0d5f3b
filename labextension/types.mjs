/**
 * Generates `src/generated.ts`, the types of the server's answers and events, from the OpenAPI description on standard input.
 * With `--check` nothing is written, and what is out of date is an error.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import process from 'node:process';
import { json } from 'node:stream/consumers';
import openapiTS, { astToString } from 'openapi-typescript';

const TARGET = new URL('src/generated.ts', import.meta.url);
const HEAD = '// Generated from the server’s OpenAPI description by “npm run types”; changes belong there.\n\n';

const { components, ...description } = await json(process.stdin);
// A model's title repeats its name.
const isTitle = (name, value) => name === 'title' && typeof value === 'string';
const models = JSON.parse(JSON.stringify(components), (name, value) => (isTitle(name, value) ? undefined : value));
// The extension uses the models; the routes' own types would be four times as long.
const ast = await openapiTS(
  { ...description, components: models, paths: {} },
  { immutable: true, rootTypes: true, rootTypesNoSchemaPrefix: true, defaultNonNullable: false, silent: true }
);
const types = HEAD + astToString(ast);
if (!process.argv.includes('--check')) {
  writeFileSync(TARGET, types);
} else if (readFileSync(TARGET, 'utf8') !== types) {
  console.error('src/generated.ts is out of date: run “npm run types” and commit the result');
  process.exit(1);
}
