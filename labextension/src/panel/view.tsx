/** The panel's content: actions, filter and tree; or why there is none. */
import type { TranslationBundle } from '@jupyterlab/translation';
import type { LabIcon } from '@jupyterlab/ui-components';
import {
  addIcon,
  deleteIcon,
  downloadIcon,
  editIcon,
  fileUploadIcon,
  historyIcon,
  undoIcon
} from '@jupyterlab/ui-components';
import * as React from 'react';
import { explanation, stateName } from '../chip';
import { bytes, tierName } from '../format';
import { isAutomatic, rows } from '../lineage';
import type { Availability, MicroVM } from '../model';
import { forkIcon } from '../icons';
import type { ISelection } from './selection';
import { kept, NOTHING } from './selection';
import { Tree } from './tree';

/** What the panel's buttons and keys do; each asks before something is lost. */
export interface IPanelActions {
  create(): void;
  restore(id: string): void;
  fork(id: string | null): void;
  rename(id: string): void;
  delete(ids: readonly string[]): void;
  export(id: string): void;
  import(): void;
  timeline(): void;
}

export interface IPanelProps {
  readonly availability: Availability;
  readonly microvm: MicroVM | null;
  /** The notebook's name. */
  readonly heading: string;
  /** Whether the notebook's timeline is on. */
  readonly timeline: boolean;
  readonly actions: IPanelActions;
  readonly trans: TranslationBundle;
  /** Called whenever other rows are selected. */
  readonly onChosen: (ids: readonly string[]) => void;
}

export function PanelView(props: IPanelProps): JSX.Element {
  const { availability, microvm, trans } = props;
  if (microvm?.kernel) {
    return <MicroVMView {...props} microvm={microvm} />;
  }
  const known = availability === 'ready' || availability === 'unknown';
  return (
    <div className="fc-Panel-empty" role="status">
      {known
        ? trans.__('Open a notebook with a microVM kernel to see its snapshots.')
        : explanation(availability, trans)}
    </div>
  );
}

function MicroVMView(props: IPanelProps & { readonly microvm: MicroVM }): JSX.Element {
  const { microvm, heading, timeline, actions, trans, onChosen } = props;
  const kernel = microvm.kernel!;
  const [filter, setFilter] = React.useState('');
  const [automatic, setAutomatic] = React.useState(true);
  const [folded, setFolded] = React.useState<ReadonlySet<string>>(new Set());
  const [selected, setSelection] = React.useState<ISelection>(NOTHING);
  const { snapshots } = microvm;
  const shown = rows(snapshots, { current: kernel.current, filter, automatic, folded });
  const selection = kept(
    selected,
    shown.map(row => row.snapshot.id)
  );
  const chosen = [...selection.chosen];
  const chosenKey = chosen.join();
  React.useEffect(() => {
    onChosen(chosen);
  }, [chosenKey]);
  const one = chosen.length === 1 ? chosen[0] : null;
  const fold = (id: string, isFolded: boolean): void => {
    const next = new Set(folded);
    if (isFolded) {
      next.add(id);
    } else {
      next.delete(id);
    }
    setFolded(next);
  };
  const isBusy = kernel.state !== 'running';
  return (
    <>
      <div className="fc-Panel-microvm">
        <strong>{heading}</strong>
        <span>{`${tierName(kernel.tier, trans)}, ${stateName(kernel.state, trans)}`}</span>
      </div>
      <div role="group" className="fc-Panel-actions" aria-label={trans.__('Snapshot actions')}>
        <Action
          icon={addIcon}
          label={trans.__('New')}
          title={trans.__('New snapshot')}
          onClick={actions.create}
          disabled={isBusy}
        />
        <Action
          icon={undoIcon}
          label={trans.__('Restore')}
          title={trans.__('Restore the selected snapshot')}
          onClick={() => one && actions.restore(one)}
          disabled={!one || isBusy}
        />
        <Action
          icon={forkIcon}
          label={trans.__('Fork')}
          title={
            one
              ? trans.__('Fork the selected snapshot into a new tab')
              : trans.__('Fork the running kernel into a new tab')
          }
          onClick={() => actions.fork(one)}
          disabled={chosen.length > 1 || isBusy}
        />
        <Action icon={editIcon} label={trans.__('Rename')} onClick={() => one && actions.rename(one)} disabled={!one} />
        <Action
          icon={deleteIcon}
          label={chosen.length > 1 ? trans.__('Delete %1', chosen.length) : trans.__('Delete')}
          onClick={() => actions.delete(chosen)}
          disabled={chosen.length === 0}
        />
        <Action
          icon={downloadIcon}
          label={trans.__('Export')}
          onClick={() => one && actions.export(one)}
          disabled={!one}
        />
        <Action icon={fileUploadIcon} label={trans.__('Import')} onClick={actions.import} />
        <Action
          icon={historyIcon}
          label={trans.__('Timeline')}
          title={trans.__('Take a snapshot after each cell of this notebook')}
          onClick={actions.timeline}
          pressed={timeline}
        />
      </div>
      <div className="fc-Panel-filter">
        <input
          type="search"
          className="jp-mod-styled"
          placeholder={trans.__('Filter')}
          aria-label={trans.__('Filter snapshots by name and description')}
          value={filter}
          onChange={event => setFilter(event.target.value)}
        />
        {snapshots.some(isAutomatic) && (
          <label>
            <input type="checkbox" checked={automatic} onChange={event => setAutomatic(event.target.checked)} />
            {trans.__('Show timeline snapshots')}
          </label>
        )}
      </div>
      {microvm.trouble && (
        <div className="fc-Panel-trouble" role="alert">
          {microvm.trouble.message}
        </div>
      )}
      {shown.length > 0 ? (
        <Tree
          rows={shown}
          selection={selection}
          trans={trans}
          onSelect={setSelection}
          onFold={fold}
          onRestore={actions.restore}
          onRename={actions.rename}
          onDelete={actions.delete}
        />
      ) : (
        <div className="fc-Panel-empty" role="status">
          {snapshots.length > 0 ? trans.__('No snapshots match the filter.') : trans.__('No snapshots yet.')}
        </div>
      )}
      <div className="fc-Panel-sum" aria-live="polite">
        {trans._n('%1 snapshot', '%1 snapshots', snapshots.length)}, {bytes(kernel.disk_bytes)}
        {!kernel.current && snapshots.length > 0 && <> · {trans.__('no current snapshot')}</>}
      </div>
    </>
  );
}

interface IActionProps {
  readonly icon: LabIcon;
  readonly label: string;
  readonly title?: string;
  readonly disabled?: boolean;
  readonly pressed?: boolean;
  readonly onClick: () => void;
}

function Action({ icon, label, title, disabled, pressed, onClick }: IActionProps): JSX.Element {
  return (
    <button
      type="button"
      className="fc-Action"
      title={title ?? label}
      // Not `disabled`: that would take the focus away from under the keyboard.
      aria-disabled={disabled ?? false}
      aria-pressed={pressed}
      onClick={() => {
        if (!disabled) {
          onClick();
        }
      }}
    >
      <icon.react tag="span" aria-hidden="true" elementSize="normal" />
      <span className="fc-Action-label">{label}</span>
    </button>
  );
}
