/** The dialogs: questions before something is done, and errors. Whatever is put into them is shown as text, never as HTML. */
import { Dialog, showDialog } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import * as React from 'react';
import type { Snapshot } from './generated';
import { ApiError } from './api';
import { bytes, time, timeWithZone, title } from './format';
import { nextName } from './lineage';

/** The names that the server takes. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const MAX_DESCRIPTION = 2000;

export interface INaming {
  readonly name: string;
  readonly description: string;
}

/** What is wrong with a name, as a sentence; empty when nothing is. `taken` are the names of the other snapshots. */
export function nameFault(
  name: string,
  taken: readonly string[],
  mayBeEmpty: boolean,
  trans: TranslationBundle
): string {
  if (name === '') {
    return mayBeEmpty ? '' : trans.__('Enter a name.');
  }
  if (!NAME.test(name)) {
    return trans.__('A name has at most 64 letters, digits, “.”, “_” and “-”, and begins with a letter or a digit.');
  }
  return taken.includes(name) ? trans.__('A snapshot with this name already exists.') : '';
}

interface INamingProps {
  readonly value: INaming;
  readonly fault: string;
  readonly placeholder: string;
  readonly trans: TranslationBundle;
  readonly onChange: (value: INaming) => void;
}

function NamingFields({ value, fault, placeholder, trans, onChange }: INamingProps): JSX.Element {
  return (
    <>
      <label className="fc-Field">
        <span>{trans.__('Name')}</span>
        <input
          className="jp-mod-styled"
          name="name"
          defaultValue={value.name}
          placeholder={placeholder}
          maxLength={64}
          spellCheck={false}
          autoComplete="off"
          aria-invalid={fault !== ''}
          aria-describedby="fc-naming-fault"
          onChange={event => onChange({ ...value, name: event.target.value.trim() })}
        />
      </label>
      <div id="fc-naming-fault" className="fc-Field-error" role="alert">
        {fault}
      </div>
      <label className="fc-Field">
        <span>{trans.__('Description')}</span>
        <textarea
          className="jp-mod-styled"
          name="description"
          rows={3}
          maxLength={MAX_DESCRIPTION}
          defaultValue={value.description}
          onChange={event => onChange({ ...value, description: event.target.value })}
        />
      </label>
    </>
  );
}

class NamingBody extends ReactWidget implements Dialog.IBodyWidget<INaming> {
  constructor(private readonly options: Omit<INamingProps, 'onChange' | 'fault'> & { check(name: string): string }) {
    super();
    this.addClass('fc-Dialog-body');
    this.value = options.value;
    this.fault = this.value.name ? options.check(this.value.name) : '';
  }

  getValue(): INaming {
    return this.value;
  }

  protected render(): JSX.Element {
    return (
      <NamingFields
        {...this.options}
        value={this.value}
        fault={this.fault}
        onChange={value => {
          this.value = value;
          this.fault = this.options.check(value.name);
          this.update();
        }}
      />
    );
  }

  private value: INaming;
  private fault: string;
}

/** Ask for a name and a description until they are valid; `null` when the user cancels. */
export async function askForName(options: {
  readonly title: string;
  readonly accept: string;
  readonly value: INaming;
  readonly taken: readonly string[];
  readonly mayBeEmpty: boolean;
  readonly trans: TranslationBundle;
}): Promise<INaming | null> {
  const { trans } = options;
  const check = (name: string): string => nameFault(name, options.taken, options.mayBeEmpty, trans);
  let { value } = options;
  for (;;) {
    const placeholder = options.mayBeEmpty ? nextName(options.taken) : '';
    const result = await showDialog({
      title: options.title,
      body: new NamingBody({ value, placeholder, trans, check }),
      focusNodeSelector: 'input[name="name"]',
      buttons: [Dialog.cancelButton(), Dialog.okButton({ label: options.accept })]
    });
    if (!result.button.accept || !result.value) {
      return null;
    }
    value = result.value;
    if (!check(value.name)) {
      return value;
    }
  }
}

export type RestoreChoice = 'microvm' | 'microvm-and-notebook';

interface IRestoreProps {
  readonly snapshot: Snapshot;
  readonly choice: RestoreChoice;
  /** Whether the snapshot has a notebook, and there is one on the screen that it can replace. */
  readonly offersNotebook: boolean;
  readonly trans: TranslationBundle;
  readonly onChange: (choice: RestoreChoice) => void;
}

function RestoreQuestion({ snapshot, choice, offersNotebook, trans, onChange }: IRestoreProps): JSX.Element {
  const option = (value: RestoreChoice, label: string, meaning: string): JSX.Element => (
    <label className="fc-Choice">
      <input type="radio" name="fc-restore" value={value} checked={choice === value} onChange={() => onChange(value)} />
      <span>
        <strong>{label}</strong>
        <span>{meaning}</span>
      </span>
    </label>
  );
  return (
    <>
      <p title={timeWithZone(snapshot.created)}>
        {trans.__(
          'The microVM returns to the state of “%1” (%2). Everything since then is lost: variables, files inside the microVM, and cells that run or wait. Snapshots are kept.',
          title(snapshot),
          time(snapshot.created)
        )}
      </p>
      {offersNotebook && (
        <div role="radiogroup" aria-label={trans.__('What to restore')}>
          {option('microvm', trans.__('MicroVM only'), trans.__('The notebook stays as it is.'))}
          {option(
            'microvm-and-notebook',
            trans.__('MicroVM and notebook'),
            trans.__(
              'The snapshot’s cells and outputs replace those of the notebook. The file changes only when you save it.'
            )
          )}
        </div>
      )}
    </>
  );
}

class RestoreBody extends ReactWidget implements Dialog.IBodyWidget<RestoreChoice> {
  constructor(private readonly options: Omit<IRestoreProps, 'choice' | 'onChange'>) {
    super();
    this.addClass('fc-Dialog-body');
  }

  getValue(): RestoreChoice {
    return this.choice;
  }

  protected render(): JSX.Element {
    return (
      <RestoreQuestion
        {...this.options}
        choice={this.choice}
        onChange={choice => {
          this.choice = choice;
          this.update();
        }}
      />
    );
  }

  private choice: RestoreChoice = 'microvm';
}

/** Ask whether, and what, to restore. */
export async function askToRestore(
  snapshot: Snapshot,
  offersNotebook: boolean,
  trans: TranslationBundle
): Promise<RestoreChoice | null> {
  const result = await showDialog({
    title: trans.__('Restore “%1”?', title(snapshot)),
    body: new RestoreBody({ snapshot, offersNotebook, trans }),
    buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: trans.__('Restore') })]
  });
  return result.button.accept ? (result.value ?? 'microvm') : null;
}

/** Ask whether to delete. */
export async function askToDelete(snapshots: readonly Snapshot[], trans: TranslationBundle): Promise<boolean> {
  const freed = bytes(snapshots.reduce((sum, snapshot) => sum + snapshot.size_bytes, 0));
  const result = await showDialog({
    title: trans._n('Delete %1 snapshot?', 'Delete %1 snapshots?', snapshots.length),
    body: ReactWidget.create(
      <div className="fc-Dialog-body">
        <ul className="fc-Dialog-list">
          {snapshots.map(snapshot => (
            <li key={snapshot.id}>{title(snapshot)}</li>
          ))}
        </ul>
        <p>
          {trans._n(
            'The snapshot cannot be recovered. About %2 will be freed.',
            'The snapshots cannot be recovered. About %2 will be freed.',
            snapshots.length,
            freed
          )}
        </p>
      </div>
    ),
    buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: trans.__('Delete') })]
  });
  return result.button.accept;
}

/** Ask for one of the snapshots. */
export async function askForSnapshot(
  snapshots: readonly Snapshot[],
  heading: string,
  accept: string,
  trans: TranslationBundle
): Promise<Snapshot | null> {
  let chosen = snapshots[snapshots.length - 1];
  const result = await showDialog({
    title: heading,
    body: ReactWidget.create(
      <label className="fc-Dialog-body fc-Field">
        <span>{trans.__('Snapshot')}</span>
        <select
          className="jp-mod-styled"
          defaultValue={chosen.id}
          onChange={event => {
            chosen = snapshots.find(snapshot => snapshot.id === event.target.value) ?? chosen;
          }}
        >
          {snapshots.map(snapshot => (
            <option key={snapshot.id} value={snapshot.id} title={timeWithZone(snapshot.created)}>
              {`${title(snapshot)} (${time(snapshot.created)})`}
            </option>
          ))}
        </select>
      </label>
    ),
    focusNodeSelector: 'select',
    buttons: [Dialog.cancelButton(), Dialog.okButton({ label: accept })]
  });
  return result.button.accept ? chosen : null;
}

/** Show an error: its one line, and the last lines of the guest's console behind “Details”. */
export async function showError(heading: string, error: unknown, trans: TranslationBundle): Promise<void> {
  const message = error instanceof Error ? error.message : String(error);
  const details = error instanceof ApiError ? error.details : [];
  await showDialog({
    title: heading,
    body: ReactWidget.create(
      <div className="fc-Dialog-body fc-Error">
        <p role="alert">{message}</p>
        {details.length > 0 && (
          <details>
            <summary>{trans.__('Details')}</summary>
            <pre>{details.join('\n')}</pre>
          </details>
        )}
      </div>
    ),
    buttons: [Dialog.okButton({ label: trans.__('Close') })]
  });
}

/** Show the last lines of a guest's console. */
export async function showConsole(lines: readonly string[], trans: TranslationBundle): Promise<void> {
  await showDialog({
    title: trans.__('MicroVM console'),
    body: ReactWidget.create(
      <div className="fc-Dialog-body fc-Error">
        <pre tabIndex={0}>{lines.join('\n') || trans.__('The console is empty.')}</pre>
      </div>
    ),
    buttons: [Dialog.okButton({ label: trans.__('Close') })]
  });
}
