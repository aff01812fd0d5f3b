/** The panel of the left side bar: the snapshots of the current notebook. */
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import * as React from 'react';
import { microvmIcon } from '../icons';
import type { MicroVM, MicroVMs } from '../model';
import type { IPanelActions } from './view';
import { PanelView } from './view';

export namespace SnapshotsPanel {
  export interface IOptions {
    readonly microvms: MicroVMs;
    readonly tracker: INotebookTracker;
    readonly actions: IPanelActions;
    /** Whether a notebook's timeline is on. */
    readonly isTimelineOn: (panel: NotebookPanel) => boolean;
    readonly trans: TranslationBundle;
  }
}

export class SnapshotsPanel extends ReactWidget {
  constructor(private readonly options: SnapshotsPanel.IOptions) {
    super();
    this.id = 'fc-kernel-snapshots';
    this.addClass('fc-Panel');
    this.title.icon = microvmIcon;
    this.title.caption = options.trans.__('Snapshots');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', options.trans.__('MicroVM snapshots'));
    this.node.tabIndex = -1;
    options.microvms.changed.connect(this.onChanged, this);
    options.tracker.currentChanged.connect(this.onNotebook, this);
    this.onNotebook();
  }

  /** The ids of the selected snapshots. */
  get chosen(): readonly string[] {
    return this._chosen;
  }

  dispose(): void {
    if (this.isDisposed) {
      return;
    }
    const { microvms, tracker } = this.options;
    microvms.changed.disconnect(this.onChanged, this);
    tracker.currentChanged.disconnect(this.onNotebook, this);
    this.leave();
    super.dispose();
  }

  protected render(): JSX.Element {
    const { microvms, actions, isTimelineOn, trans } = this.options;
    return (
      <PanelView
        key={this.microvm?.kernelId ?? ''}
        availability={microvms.availability}
        microvm={this.microvm}
        heading={this.notebook?.title.label ?? ''}
        timeline={this.notebook !== null && isTimelineOn(this.notebook)}
        actions={actions}
        trans={trans}
        onChosen={ids => {
          this._chosen = ids;
        }}
      />
    );
  }

  protected onActivateRequest(): void {
    const focus = (): void => {
      const find = (selector: string): HTMLElement | null => this.node.querySelector<HTMLElement>(selector);
      (find('[role="treeitem"][tabindex="0"]') ?? find('button') ?? this.node).focus();
    };
    // What is shown for the first time is not there yet.
    void (this.renderPromise ?? Promise.resolve()).then(focus);
  }

  private onNotebook(): void {
    this.leave();
    this.notebook = this.options.tracker.currentWidget;
    const { notebook } = this;
    if (notebook) {
      notebook.sessionContext.kernelChanged.connect(this.onKernel, this);
      notebook.title.changed.connect(this.onChanged, this);
      notebook.model?.metadataChanged.connect(this.onChanged, this);
      notebook.disposed.connect(this.onNotebookGone, this);
    }
    this.onKernel();
  }

  private onNotebookGone(): void {
    this.leave();
    this.update();
  }

  private onKernel(): void {
    this.microvm?.changed.disconnect(this.onChanged, this);
    const id = this.notebook?.sessionContext.session?.kernel?.id;
    this.microvm = id ? this.options.microvms.microvm(id) : null;
    this.microvm?.changed.connect(this.onChanged, this);
    this.update();
  }

  private leave(): void {
    const { notebook } = this;
    if (notebook && !notebook.isDisposed) {
      notebook.sessionContext.kernelChanged.disconnect(this.onKernel, this);
      notebook.title.changed.disconnect(this.onChanged, this);
      notebook.model?.metadataChanged.disconnect(this.onChanged, this);
      notebook.disposed.disconnect(this.onNotebookGone, this);
    }
    this.microvm?.changed.disconnect(this.onChanged, this);
    this.microvm = null;
    this.notebook = null;
  }

  private onChanged(): void {
    this.update();
  }

  private notebook: NotebookPanel | null = null;
  private microvm: MicroVM | null = null;
  private _chosen: readonly string[] = [];
}
