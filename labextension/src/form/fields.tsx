/** The form: one labelled input for each field, with its limits, its error and whether its value applies only later. */
import type { TranslationBundle } from '@jupyterlab/translation';
import type { PartialJSONObject } from '@lumino/coreutils';
import * as React from 'react';
import type { Kernel } from '../generated';
import type { FieldName, IField } from './schema';
import { textOf, valueOf } from './schema';

export interface IFormProps {
  readonly fields: readonly IField[];
  /** `metadata.fc_kernel` of the notebook. */
  readonly settings: PartialJSONObject;
  /** The running kernel: settings that differ from it apply at its next start. */
  readonly kernel: Kernel | null;
  /** The server's errors about the settings, by field; the empty name has those that belong to no field. */
  readonly refused: ReadonlyMap<string, string>;
  readonly trans: TranslationBundle;
  readonly onValue: (name: FieldName, value: string | number | undefined) => void;
  readonly onRestart: () => void;
}

export function Form(props: IFormProps): JSX.Element {
  const { fields, settings, kernel, refused, trans, onRestart } = props;
  const later = kernel ? fields.filter(field => isLater(field, settings, kernel)) : [];
  const others = [...refused].filter(([name]) => !fields.some(field => field.name === name));
  return (
    <form className="fc-Form" onSubmit={event => event.preventDefault()} aria-label={trans.__('MicroVM settings')}>
      {fields.map(field => (
        <Field key={field.name} field={field} {...props} />
      ))}
      {others.map(([name, message]) => (
        <div key={name} className="fc-Field-error" role="alert">
          {message}
        </div>
      ))}
      <p className="fc-Form-note">{trans.__('Saved in the notebook. Applies at the next kernel start.')}</p>
      {later.length > 0 && (
        <div className="fc-Form-later" role="status">
          <span>
            {trans.__('Changed since the kernel started: %1.', later.map(field => label(field.name, trans)).join(', '))}
          </span>
          <button type="button" className="jp-mod-styled jp-mod-accept" onClick={onRestart}>
            {trans.__('Save and restart…')}
          </button>
        </div>
      )}
    </form>
  );
}

export function label(name: FieldName, trans: TranslationBundle): string {
  switch (name) {
    case 'image':
      return trans.__('Image');
    case 'vcpu_count':
      return trans.__('vCPUs');
    case 'mem_size_mib':
      return trans.__('Memory (MiB)');
    case 'network':
      return trans.__('Network');
  }
}

/** Whether a setting differs from what the microVM has. */
function isLater(field: IField, settings: PartialJSONObject, kernel: Kernel): boolean {
  const wanted = settings[field.name];
  return wanted != null && kernel[field.name] != null && wanted !== kernel[field.name];
}

function Field(props: IFormProps & { readonly field: IField }): JSX.Element {
  const { field, settings, kernel, refused, trans, onValue } = props;
  const saved = textOf(settings[field.name]);
  const [text, setText] = React.useState(saved);
  const [fault, setFault] = React.useState('');
  React.useEffect(() => {
    // What is typed stays until the notebook's value changes.
    setText(saved);
    setFault('');
  }, [saved]);
  const standard = field.standard ? trans.__('Default: %1', field.standard) : trans.__('Default');
  const id = `fc-form-${field.name}`;
  const wrong = fault || (text === saved ? (refused.get(field.name) ?? '') : '');
  const commit = (next: string): void => {
    try {
      const value = valueOf(field, next, trans);
      setFault('');
      if (textOf(value) !== saved) {
        onValue(field.name, value);
      }
    } catch (error) {
      // Not written: the notebook keeps what it had.
      setFault((error as Error).message);
    }
  };
  const common = {
    id,
    className: 'jp-mod-styled',
    name: field.name,
    'aria-invalid': wrong !== '',
    'aria-describedby': `${id}-limits ${id}-error`
  };
  return (
    <div className="fc-Field" data-field={field.name}>
      <label htmlFor={id}>{label(field.name, trans)}</label>
      {field.choices ? (
        <select
          {...common}
          value={text}
          onChange={event => {
            setText(event.target.value);
            commit(event.target.value);
          }}
        >
          <option value="">{standard}</option>
          {/* A notebook from elsewhere may hold a value that is not allowed here; it is shown all the same. */}
          {(field.choices.includes(saved) || saved === '' ? field.choices : [saved, ...field.choices]).map(choice => (
            <option key={choice} value={choice}>
              {choice}
            </option>
          ))}
        </select>
      ) : (
        <input
          {...common}
          type="text"
          inputMode={field.isNumber ? 'numeric' : undefined}
          value={text}
          placeholder={standard}
          spellCheck={false}
          autoComplete="off"
          onChange={event => setText(event.target.value)}
          onBlur={() => commit(text)}
          onKeyDown={event => {
            if (event.key === 'Enter') {
              event.preventDefault();
              commit(text);
            }
          }}
        />
      )}
      <span id={`${id}-limits`} className="fc-Field-limits">
        {[limits(field, trans), running(field, settings, kernel, trans)].filter(Boolean).join(' ')}
      </span>
      <div id={`${id}-error`} className="fc-Field-error" role="alert">
        {wrong}
      </div>
    </div>
  );
}

function limits(field: IField, trans: TranslationBundle): string {
  if (field.minimum !== null && field.maximum !== null) {
    return trans.__('Allowed: %1 to %2.', field.minimum, field.maximum);
  }
  return field.maximum !== null ? trans.__('Maximum: %1.', field.maximum) : '';
}

function running(field: IField, settings: PartialJSONObject, kernel: Kernel | null, trans: TranslationBundle): string {
  if (!kernel || kernel[field.name] == null) {
    return '';
  }
  return isLater(field, settings, kernel)
    ? trans.__('Current: %1. The new value applies at the next kernel start.', kernel[field.name]!)
    : trans.__('Current: %1.', kernel[field.name]!);
}
