/** Reads the form's fields from the JSON Schema of `metadata.fc_kernel`, and the values from the texts in the fields. */
import type { JSONObject, JSONValue, PartialJSONObject } from '@lumino/coreutils';
import type { TranslationBundle } from '@jupyterlab/translation';

/** The settings that the form offers; the others are for administrators. */
export const FIELDS = ['image', 'vcpu_count', 'mem_size_mib', 'network'] as const;
export type FieldName = (typeof FIELDS)[number];

export interface IField {
  readonly name: FieldName;
  readonly description: string;
  readonly isNumber: boolean;
  readonly minimum: number | null;
  readonly maximum: number | null;
  readonly pattern: string | null;
  /** The allowed values, where the schema lists them. */
  readonly choices: readonly string[] | null;
  /** The default, as text. */
  readonly standard: string;
}

/** The fields that the schema has. */
export function fieldsOf(schema: JSONObject): IField[] {
  const properties = object(schema.properties);
  return FIELDS.filter(name => name in properties).map(name => {
    const property = resolve(properties[name], schema);
    const variants = [property, ...list(property.anyOf).map(variant => resolve(variant, schema))];
    // Optional fields are "this or null".
    const said = Object.assign({}, ...variants.filter(variant => variant.type !== 'null').reverse()) as JSONObject;
    const isNumber = said.type === 'integer' || said.type === 'number';
    const choices = list(said.enum).filter((choice): choice is string => typeof choice === 'string');
    return {
      name,
      description: typeof said.description === 'string' ? said.description : '',
      isNumber,
      minimum: number(said.minimum),
      maximum: number(said.maximum),
      pattern: typeof said.pattern === 'string' ? said.pattern : null,
      choices: choices.length > 0 ? choices : typeof said.const === 'string' ? [said.const] : null,
      standard: textOf(property.default)
    };
  });
}

/** The value that a field's text stands for; `undefined` is the default. Throws an error that says what is wrong with it. */
export function valueOf(field: IField, text: string, trans: TranslationBundle): string | number | undefined {
  const wanted = text.trim();
  if (wanted === '') {
    return undefined;
  }
  if (!field.isNumber) {
    if (field.choices && !field.choices.includes(wanted)) {
      throw new Error(trans.__('“%1” is not allowed. Allowed: %2', wanted, field.choices.join(', ')));
    }
    if (field.pattern && !matches(field.pattern, wanted)) {
      throw new Error(
        trans.__('A name has at most 64 letters, digits, “.”, “_” and “-”, and begins with a letter or a digit.')
      );
    }
    return wanted;
  }
  const value = Number(wanted);
  if (!Number.isInteger(value)) {
    throw new Error(trans.__('“%1” is not a whole number', wanted));
  }
  if (field.maximum !== null && value > field.maximum) {
    throw new Error(trans.__('The administrator’s limit is %1', field.maximum));
  }
  if (field.minimum !== null && value < field.minimum) {
    throw new Error(trans.__('The minimum is %1', field.minimum));
  }
  return value;
}

/** The settings with one field set, or without it for the default. */
export function withValue(
  settings: PartialJSONObject,
  name: FieldName,
  value: string | number | undefined
): PartialJSONObject {
  const { [name]: _, ...others } = settings;
  return value === undefined ? others : { ...others, [name]: value };
}

/** A value from a notebook as the text in a field. */
export function textOf(value: unknown): string {
  return typeof value === 'string' || typeof value === 'number'
    ? String(value)
    : value == null
      ? ''
      : JSON.stringify(value);
}

function matches(pattern: string, text: string): boolean {
  try {
    return new RegExp(pattern).test(text);
  } catch {
    // A pattern of another dialect; the server looks at it too.
    return true;
  }
}

function resolve(value: JSONValue | undefined, schema: JSONObject): JSONObject {
  const here = object(value);
  if (typeof here.$ref !== 'string') {
    return here;
  }
  const [, name] = /^#\/\$defs\/(.+)$/.exec(here.$ref) ?? [];
  return { ...object(name === undefined ? undefined : object(schema.$defs)[name]), ...here };
}

function object(value: JSONValue | undefined): JSONObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : {};
}

function list(value: JSONValue | undefined): JSONValue[] {
  return Array.isArray(value) ? value : [];
}

function number(value: JSONValue | undefined): number | null {
  return typeof value === 'number' ? value : null;
}
