/** The timeline's marks at the cells of one notebook: what each cell's snapshot cost, and a button that restores the state before the cell. */
import type { Cell } from '@jupyterlab/cells';
import type { NotebookPanel } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';
import { undoIcon } from '@jupyterlab/ui-components';
import type { IDisposable } from '@lumino/disposable';
import { Debouncer } from '@lumino/polling';
import { bytes, seconds } from './format';
import type { MicroVM, MicroVMs } from './model';
import type { IMark, Timeline } from './timeline';
import { isTimelineOn, nameOfCell } from './timeline';

/** Cells come in crowds when a notebook opens. */
const SETTLE_MS = 50;

export namespace PromptMarks {
  export interface IOptions {
    readonly panel: NotebookPanel;
    readonly microvms: MicroVMs;
    readonly timeline: Timeline;
    readonly trans: TranslationBundle;
    readonly onBack: (microvm: MicroVM, cellId: string) => void;
  }
}

export class PromptMarks implements IDisposable {
  constructor(private readonly options: PromptMarks.IOptions) {
    const { panel, timeline } = options;
    panel.sessionContext.kernelChanged.connect(this.onKernel, this);
    panel.content.modelContentChanged.connect(this.onChanged, this);
    panel.content.activeCellChanged.connect(this.onChanged, this);
    panel.model?.metadataChanged.connect(this.onChanged, this);
    timeline.measured.connect(this.onChanged, this);
    panel.disposed.connect(this.dispose, this);
    this.onKernel();
  }

  get isDisposed(): boolean {
    return this.settle.isDisposed;
  }

  dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this.settle.dispose();
    this.microvm?.changed.disconnect(this.onChanged, this);
    this.options.timeline.measured.disconnect(this.onChanged, this);
  }

  private onKernel(): void {
    this.microvm?.changed.disconnect(this.onChanged, this);
    const id = this.options.panel.sessionContext.session?.kernel?.id;
    this.microvm = id ? this.options.microvms.microvm(id) : null;
    this.microvm?.changed.connect(this.onChanged, this);
    this.onChanged();
  }

  private onChanged(): void {
    if (!this.isDisposed) {
      void this.settle.invoke().catch(() => undefined);
    }
  }

  private place(): void {
    const { panel, timeline } = this.options;
    if (panel.isDisposed) {
      return;
    }
    const marks = this.microvm && isTimelineOn(panel) ? timeline.marksOf(this.microvm) : new Map<string, IMark>();
    for (const cell of panel.content.widgets) {
      const mark = marks.get(nameOfCell(cell.model.id));
      if (mark && !cell.inputArea) {
        void cell.ready.then(() => this.onChanged());
      }
      this.mark(cell, mark);
    }
  }

  private mark(cell: Cell, mark: IMark | undefined): void {
    const area = cell.inputArea?.node;
    const old = area?.querySelector(':scope > .fc-Mark');
    const key = mark ? `${mark.before?.id} ${mark.after.id} ${mark.cost.bytes} ${mark.cost.seconds}` : '';
    if (!area || (old as HTMLElement | null)?.dataset.key === key) {
      return;
    }
    old?.remove();
    const { microvm } = this;
    if (!mark || !microvm) {
      return;
    }
    const { trans, onBack } = this.options;
    const took = mark.cost.seconds === null ? [] : [seconds(mark.cost.seconds)];
    const cost = [bytes(mark.cost.bytes), ...took].join(' · ');
    const node = document.createElement('div');
    node.className = 'fc-Mark';
    node.dataset.key = key;
    if (mark.before) {
      const button = document.createElement('button');
      button.type = 'button';
      button.className = 'fc-Mark-back';
      button.title = trans.__('Restore the microVM to before this cell');
      button.setAttribute('aria-label', button.title);
      undoIcon.element({ container: button, elementSize: 'small' });
      button.addEventListener('click', event => {
        event.stopPropagation();
        onBack(microvm, cell.model.id);
      });
      node.appendChild(button);
    }
    const label = document.createElement('span');
    label.className = 'fc-Mark-cost';
    label.title = trans.__('Size and duration of the snapshot after this cell');
    label.textContent = cost;
    node.appendChild(label);
    area.appendChild(node);
  }

  private microvm: MicroVM | null = null;
  private readonly settle = new Debouncer(() => this.place(), SETTLE_MS);
}
