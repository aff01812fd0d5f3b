/** The lineage as a tree in which several rows can be selected; roles and keys are those of the ARIA practices. */
import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import { bytes, time, timeWithZone, title } from '../format';
import type { IRow } from '../lineage';
import type { ISelection } from './selection';
import * as selections from './selection';

export interface ITreeProps {
  readonly rows: readonly IRow[];
  readonly selection: ISelection;
  readonly trans: TranslationBundle;
  readonly onSelect: (selection: ISelection) => void;
  readonly onFold: (id: string, folded: boolean) => void;
  readonly onRestore: (id: string) => void;
  readonly onRename: (id: string) => void;
  readonly onDelete: (ids: readonly string[]) => void;
}

export function Tree(props: ITreeProps): JSX.Element {
  const { rows, selection, trans } = props;
  const node = React.useRef<HTMLUListElement>(null);
  const order = rows.map(row => row.snapshot.id);
  // One row can be reached with Tab; the arrows go to the others.
  const reachable = selection.active ?? order[0];
  React.useEffect(() => {
    if (selection.active && node.current?.contains(document.activeElement)) {
      const rowNode = node.current.querySelector<HTMLElement>(`[data-snapshot="${CSS.escape(selection.active)}"]`);
      rowNode?.focus();
    }
  }, [selection.active]);
  return (
    <ul
      ref={node}
      role="tree"
      className="fc-Tree"
      aria-label={trans.__('Snapshots')}
      aria-multiselectable="true"
      onKeyDown={event => onKeyDown(event, props, order)}
    >
      {rows.map(row => (
        <Row key={row.snapshot.id} row={row} reachable={row.snapshot.id === reachable} order={order} {...props} />
      ))}
    </ul>
  );
}

function onKeyDown(event: React.KeyboardEvent, props: ITreeProps, order: readonly string[]): void {
  const { rows, onSelect, onFold } = props;
  // The row that has the focus before any was chosen is the first.
  const active = props.selection.active ?? order[0];
  const selection = { ...props.selection, active };
  const row = rows.find(candidate => candidate.snapshot.id === active);
  if (!row || event.altKey) {
    return;
  }
  const go = (id: string | null): void => {
    if (id !== null) {
      onSelect(event.shiftKey ? selections.ranged(selection, id, order) : selections.only(id));
    }
  };
  const accel = event.ctrlKey || event.metaKey;
  switch (accel ? `Accel ${event.key.toLowerCase()}` : event.key) {
    case 'ArrowDown':
      go(selections.stepped(selection, order, 1));
      break;
    case 'ArrowUp':
      go(selections.stepped(selection, order, -1));
      break;
    case 'Home':
      go(order[0]);
      break;
    case 'End':
      go(order[order.length - 1]);
      break;
    case 'ArrowLeft':
      if (row.branches && row.expanded) {
        onFold(active, true);
      } else {
        go(above(rows, row));
      }
      break;
    case 'ArrowRight':
      if (row.branches && !row.expanded) {
        onFold(active, false);
      } else if (row.branches) {
        go(order[rows.indexOf(row) + 1] ?? null);
      }
      break;
    case ' ':
    case 'Accel  ':
      onSelect(selections.toggled(selection, active));
      break;
    case 'Accel a':
      onSelect(selections.all(selection, order));
      break;
    case 'Enter':
      props.onRestore(active);
      break;
    case 'F2':
      props.onRename(active);
      break;
    case 'Delete':
      props.onDelete(selection.chosen.size > 0 ? [...selection.chosen] : [active]);
      break;
    default:
      return;
  }
  event.preventDefault();
  event.stopPropagation();
}

/** The nearest row above that is a level higher. */
function above(rows: readonly IRow[], row: IRow): string | null {
  for (let at = rows.indexOf(row) - 1; at >= 0; at -= 1) {
    if (rows[at].level < row.level) {
      return rows[at].snapshot.id;
    }
  }
  return null;
}

interface IRowProps extends ITreeProps {
  readonly row: IRow;
  readonly reachable: boolean;
  readonly order: readonly string[];
}

function Row(props: IRowProps): JSX.Element {
  const { row, reachable, order, selection, trans, onSelect, onFold, onRestore } = props;
  const { snapshot } = row;
  const isChosen = selection.chosen.has(snapshot.id);
  const onClick = (event: React.MouseEvent<HTMLElement>): void => {
    event.currentTarget.focus();
    if (event.shiftKey) {
      onSelect(selections.ranged(selection, snapshot.id, order));
    } else if (event.ctrlKey || event.metaKey) {
      onSelect(selections.toggled(selection, snapshot.id));
    } else {
      onSelect(selections.only(snapshot.id));
    }
  };
  return (
    <li
      role="treeitem"
      className="fc-Tree-row"
      data-snapshot={snapshot.id}
      data-current={row.current || undefined}
      data-past={row.past || undefined}
      style={{ '--fc-level': row.level - 1 } as React.CSSProperties}
      tabIndex={reachable ? 0 : -1}
      aria-level={row.level}
      aria-selected={isChosen}
      aria-expanded={row.branches ? row.expanded : undefined}
      aria-current={row.current ? 'true' : undefined}
      title={snapshot.description || undefined}
      onClick={onClick}
      onContextMenu={() => {
        if (!isChosen) {
          onSelect(selections.only(snapshot.id));
        }
      }}
      onDoubleClick={() => onRestore(snapshot.id)}
    >
      <span
        className="fc-Tree-fold"
        aria-hidden="true"
        onClick={event => {
          if (row.branches) {
            event.stopPropagation();
            onFold(snapshot.id, row.expanded);
          }
        }}
      >
        {row.branches ? (row.expanded ? '▾' : '▸') : ''}
      </span>
      <span className="fc-Tree-mark" aria-hidden="true" />
      <span className="fc-Tree-text">
        <span className="fc-Tree-name">{title(snapshot)}</span>
        {row.current && <span className="fc-Tree-current">{trans.__('current')}</span>}
        <span className="fc-Tree-facts">
          <time dateTime={snapshot.created} title={timeWithZone(snapshot.created)}>
            {time(snapshot.created)}
          </time>
          <span>{bytes(snapshot.size_bytes)}</span>
          {snapshot.has_notebook && <span>{trans.__('with notebook')}</span>}
        </span>
        {snapshot.description && snapshot.description !== title(snapshot) && (
          <span className="fc-Tree-description">{snapshot.description}</span>
        )}
      </span>
    </li>
  );
}
