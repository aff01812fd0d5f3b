/**
 * The timeline of a notebook: a snapshot after each cell that ran.
 *
 * Lab sends all cells of a run at once, so a snapshot that the server takes "after a cell" would find the next one running.
 * Therefore the snapshot is asked for by a request of its own that is sent between two cells, and runs between them.
 */
import { Notification } from '@jupyterlab/apputils';
import type { Cell } from '@jupyterlab/cells';
import type { INotebookTracker, Notebook, NotebookPanel } from '@jupyterlab/notebook';
import { NotebookActions } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { IDisposable } from '@lumino/disposable';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';
import type { Snapshot } from './generated';
import { ApiError } from './api';
import { AUTOMATIC, byTime, isAutomatic, pastOf } from './lineage';
import type { MicroVM } from './model';
import type { Operations } from './operations';

/** Not in `metadata.fc_kernel`: that is the microVM's, and the server refuses names that it does not know. */
const METADATA = 'fc_kernel_timeline';
/** A snapshot's name has 64 characters, of which a prefix and a time take some. */
const MAX_CELL_ID = 40;

export interface IBudget {
  readonly count: number;
  readonly bytes: number;
}

/** The snapshots before and after a cell, and what the latter cost. */
export interface IMark {
  /** The state before the cell; `null` where its snapshot is gone. */
  readonly before: Snapshot | null;
  readonly after: Snapshot;
  readonly cost: ICost;
}

export interface ICost {
  /** Of its own, when it was taken: later ones share what they have in common, and no one's is it then. */
  readonly bytes: number;
  /** How long it took, where that was seen. */
  readonly seconds: number | null;
}

export function isTimelineOn(panel: NotebookPanel): boolean {
  const said = panel.model?.getMetadata(METADATA) as { enabled?: unknown } | undefined;
  return said?.enabled === true;
}

export function setTimeline(panel: NotebookPanel, on: boolean): void {
  if (on) {
    panel.model?.setMetadata(METADATA, { enabled: true });
  } else {
    panel.model?.deleteMetadata(METADATA);
  }
}

/** A cell's id, as it is in the names of its snapshots. */
export function nameOfCell(cellId: string): string {
  return cellId.replace(/[^A-Za-z0-9_-]/g, '_').slice(0, MAX_CELL_ID) || '_';
}

/** Whether running a source can change anything: blank lines and comments cannot. */
export function changesSomething(source: string): boolean {
  return source.split('\n').some(line => line.trim() !== '' && !line.trim().startsWith('#'));
}

/** The cells' marks, by the cells' names, of those cells whose snapshot is the current one or an ancestor of it. */
export function marks(
  snapshots: readonly Snapshot[],
  current: string | null,
  costs: ReadonlyMap<string, ICost> = new Map()
): Map<string, IMark> {
  const past = pastOf(snapshots, current);
  const byId = new Map(snapshots.map(snapshot => [snapshot.id, snapshot]));
  const result = new Map<string, IMark>();
  for (const after of [...snapshots].sort(byTime)) {
    const cell = AUTOMATIC.exec(after.name)?.[2];
    if (cell !== undefined && past.has(after.id)) {
      const before = after.parent === null ? null : (byId.get(after.parent) ?? null);
      result.set(cell, { before, after, cost: costs.get(after.name) ?? { bytes: after.size_bytes, seconds: null } });
    }
  }
  return result;
}

/** The timeline's snapshots that are over its budget: the oldest first, never the current one. */
export function overBudget(snapshots: readonly Snapshot[], current: string | null, budget: IBudget): Snapshot[] {
  const own = snapshots.filter(isAutomatic).sort(byTime);
  let count = own.length;
  let size = own.reduce((sum, snapshot) => sum + snapshot.size_bytes, 0);
  const victims: Snapshot[] = [];
  for (const snapshot of own) {
    if (count <= budget.count && size <= budget.bytes) {
      break;
    }
    if (snapshot.id !== current) {
      victims.push(snapshot);
      count -= 1;
      size -= snapshot.size_bytes;
    }
  }
  return victims;
}

/** What the kernel runs between two cells. The number is the kernel's: it knows which cell ran last. */
export function snapshotCode(name: string): string {
  if (!AUTOMATIC.test(name)) {
    throw new Error(`not a name of the timeline: ${name}`);
  }
  return `get_ipython().run_line_magic("snapshot", '${name} -m After [%d]' % (get_ipython().execution_count - 1))`;
}

interface IRun {
  readonly cell: Cell;
  asked: boolean;
}

export namespace Timeline {
  export interface IOptions {
    readonly operations: Operations;
    readonly tracker: INotebookTracker;
    readonly budget: () => IBudget;
    readonly trans: TranslationBundle;
  }
}

export class Timeline implements IDisposable {
  constructor(private readonly options: Timeline.IOptions) {
    NotebookActions.executionScheduled.connect(this.onScheduled, this);
    NotebookActions.executed.connect(this.onExecuted, this);
  }

  /** Emitted when a snapshot's cost has become known. */
  get measured(): ISignal<this, void> {
    return this._measured;
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  dispose(): void {
    this._disposed = true;
    Signal.clearData(this);
  }

  /** Switch the timeline on, with a first snapshot to go back to, or off. */
  async toggle(panel: NotebookPanel): Promise<void> {
    const on = !isTimelineOn(panel);
    setTimeline(panel, on);
    const microvm = on ? this.options.operations.microvmOf(panel) : null;
    if (microvm) {
      await this.takeByServer(panel, microvm, 'start', this.options.trans.__('Start of the timeline'));
    }
  }

  marksOf(microvm: MicroVM): Map<string, IMark> {
    return marks(microvm.snapshots, microvm.kernel?.current ?? null, this.costs);
  }

  /** Restore the microVM to its state before a cell ran; a notification offers to undo that. */
  async back(microvm: MicroVM, cellId: string): Promise<boolean> {
    const { operations, trans } = this.options;
    const mark = this.marksOf(microvm).get(nameOfCell(cellId));
    if (!mark?.before) {
      return false;
    }
    const left = microvm.snapshot(microvm.kernel?.current ?? null);
    if (!(await operations.restoreNow(microvm, mark.before, 'microvm'))) {
      return false;
    }
    Notification.success(trans.__('The microVM was restored to its state before the cell.'), {
      autoClose: 8000,
      actions: left
        ? [{ label: trans.__('Undo'), callback: () => void operations.restoreNow(microvm, left, 'microvm') }]
        : []
    });
    return true;
  }

  private onScheduled(_: unknown, { notebook, cell }: { notebook: Notebook; cell: Cell }): void {
    const panel = this.panelOf(notebook);
    const microvm = panel && isTimelineOn(panel) ? this.options.operations.microvmOf(panel) : null;
    if (!panel || !microvm) {
      return;
    }
    const runs = this.runs.get(notebook) ?? [];
    this.runs.set(notebook, runs);
    const last = runs[runs.length - 1];
    if (last && !last.asked && speaksPython(panel)) {
      // This cell's request is sent when this function has returned, so the snapshot comes before it.
      last.asked = true;
      void this.takeInKernel(panel, microvm, last.cell);
    }
    if (changesSomething(cell.model.sharedModel.getSource())) {
      runs.push({ cell, asked: false });
    }
  }

  private onExecuted(
    _: unknown,
    { notebook, cell, success, error }: { notebook: Notebook; cell: Cell; success: boolean; error?: unknown }
  ): void {
    const runs = this.runs.get(notebook) ?? [];
    const at = runs.findIndex(run => run.cell === cell);
    const panel = this.panelOf(notebook);
    const microvm = this.options.operations.microvmOf(panel);
    if (at < 0 || !panel || !microvm) {
      return;
    }
    const [run] = runs.splice(at, 1);
    const failed = !success && !!(error as { errorName?: string } | undefined)?.errorName;
    if (!success && !failed) {
      // It was behind a cell that failed, and did not run.
      return;
    }
    if (failed || !run.asked) {
      // A cell that fails takes the requests behind it along, so also the snapshot that was asked for.
      if (speaksPython(panel)) {
        void this.takeInKernel(panel, microvm, cell);
      } else if (runs.length === 0) {
        void this.takeByServer(panel, microvm, cell.model.id, this.options.trans.__('After the last cell that ran'));
      }
    }
  }

  private async takeInKernel(panel: NotebookPanel, microvm: MicroVM, cell: Cell): Promise<void> {
    const kernel = panel.sessionContext.session?.kernel;
    if (!kernel) {
      return;
    }
    const name = this.newName(cell.model.id);
    let began = Date.now();
    try {
      const future = kernel.requestExecute(
        { code: snapshotCode(name), silent: true, store_history: false, stop_on_error: false, allow_stdin: false },
        true
      );
      future.onIOPub = message => {
        if (message.header.msg_type === 'status' && 'busy' === (message.content as any).execution_state) {
          began = Date.now();
        }
      };
      const reply = await future.done;
      const { content } = reply;
      if (content.status === 'ok') {
        await this.taken(microvm, name, (Date.now() - began) / 1000);
      } else if (content.status === 'error') {
        this.stop(panel, content.evalue);
      }
    } catch (error) {
      // The kernel was restored, restarted or lost meanwhile; whoever did that tells.
      console.debug('The timeline’s snapshot was cancelled', error);
    }
  }

  private async takeByServer(panel: NotebookPanel, microvm: MicroVM, cell: string, description: string): Promise<void> {
    const name = this.newName(cell);
    const began = Date.now();
    try {
      await microvm.take(name, description);
      await this.taken(microvm, name, (Date.now() - began) / 1000);
    } catch (error) {
      this.stop(panel, error instanceof ApiError ? error.message : String(error));
    }
  }

  private async taken(microvm: MicroVM, name: string, seconds: number): Promise<void> {
    const size = (): number => microvm.snapshots.find(snapshot => snapshot.name === name)?.size_bytes ?? 0;
    const told = size();
    await microvm.refresh();
    this.costs.set(name, { bytes: Math.max(told, size()), seconds });
    this._measured.emit();
    for (const victim of overBudget(microvm.snapshots, microvm.kernel?.current ?? null, this.options.budget())) {
      try {
        await microvm.drop(victim);
      } catch (error) {
        // In use, say: it is tried again after the next cell.
        console.debug(`The timeline keeps ${victim.name}`, error);
      }
    }
  }

  /** Without snapshots the timeline promises what it does not hold, so it ends where one fails. */
  private stop(panel: NotebookPanel, why: string): void {
    setTimeline(panel, false);
    Notification.error(this.options.trans.__('The timeline was switched off: %1', why), { autoClose: false });
  }

  private newName(cellId: string): string {
    // Two cells may end within one millisecond.
    this.lastTime = Math.max(Date.now(), this.lastTime + 1);
    return `auto.${this.lastTime.toString(36)}.${nameOfCell(cellId)}`;
  }

  private panelOf(notebook: Notebook): NotebookPanel | null {
    return this.options.tracker.find(panel => panel.content === notebook) ?? null;
  }

  private lastTime = 0;
  private _disposed = false;
  private readonly runs = new WeakMap<Notebook, IRun[]>();
  private readonly costs = new Map<string, ICost>();
  private readonly _measured = new Signal<this, void>(this);
}

/** Whether the kernel has our magics. */
function speaksPython(panel: NotebookPanel): boolean {
  return panel.model?.defaultKernelLanguage === 'python';
}
