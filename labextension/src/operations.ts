/**
 * What the user can do with a microVM: each operation asks before something is lost, has the server do it and shows an error
 * when that fails. Views see the result through the model, as they see everything else.
 */
import { Notification } from '@jupyterlab/apputils';
import { PathExt } from '@jupyterlab/coreutils';
import type { IDocumentManager } from '@jupyterlab/docmanager';
import type { INotebookContent } from '@jupyterlab/nbformat';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { ServiceManager } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { ForkedKernel, PublicEvent, Snapshot } from './generated';
import * as dialogs from './dialogs';
import { title } from './format';
import type { MicroVM, MicroVMs } from './model';

export namespace Operations {
  export interface IOptions {
    readonly microvms: MicroVMs;
    readonly tracker: INotebookTracker;
    readonly services: ServiceManager.IManager;
    /** Opens notebooks; without it a fork's notebook is named in a notification and not opened. */
    readonly documents: IDocumentManager | null;
    readonly trans: TranslationBundle;
  }
}

export class Operations {
  constructor(private readonly options: Operations.IOptions) {
    options.microvms.happened.connect(this.onEvent, this);
  }

  /** The microVM of the current notebook's kernel, if it runs in one. */
  current(): MicroVM | null {
    return this.microvmOf(this.options.tracker.currentWidget);
  }

  microvmOf(panel: NotebookPanel | null): MicroVM | null {
    const id = panel?.sessionContext.session?.kernel?.id;
    const microvm = id ? this.options.microvms.microvm(id) : null;
    return microvm?.kernel ? microvm : null;
  }

  async create(microvm: MicroVM): Promise<void> {
    const { trans } = this.options;
    const naming = await dialogs.askForName({
      title: trans.__('New snapshot'),
      accept: trans.__('Create'),
      value: { name: '', description: '' },
      taken: microvm.snapshots.map(snapshot => snapshot.name),
      mayBeEmpty: true,
      trans
    });
    if (naming) {
      await this.createNow(microvm, naming);
    }
  }

  /** Take a snapshot of the microVM together with the notebook as it is on the screen. */
  async createNow(microvm: MicroVM, naming?: dialogs.INaming): Promise<void> {
    const notebook = this.notebookOf(microvm)?.model?.toJSON() as unknown as INotebookContent | undefined;
    await this.attempt(this.options.trans.__('The snapshot could not be taken'), microvm, () =>
      this.api.create(microvm.kernelId, {
        ...(naming?.name ? { name: naming.name } : {}),
        ...(naming?.description ? { description: naming.description } : {}),
        ...(notebook ? { notebook: untrusted(notebook) } : {})
      })
    );
  }

  /** Ask, and restore the microVM; also the notebook, if the user chose that. */
  async restore(microvm: MicroVM, snapshot: Snapshot): Promise<void> {
    const panel = this.notebookOf(microvm);
    const choice = await dialogs.askToRestore(snapshot, snapshot.has_notebook && !!panel?.model, this.options.trans);
    if (choice) {
      await this.restoreNow(microvm, snapshot, choice);
    }
  }

  /** Restore the microVM without asking; returns whether that succeeded. */
  async restoreNow(microvm: MicroVM, snapshot: Snapshot, choice: dialogs.RestoreChoice): Promise<boolean> {
    const done = await this.attempt(
      this.options.trans.__('“%1” could not be restored', title(snapshot)),
      microvm,
      async () => {
        // Fetched first: if that fails, nothing has been restored yet.
        const notebook = choice === 'microvm-and-notebook' ? await this.api.notebook(snapshot.id) : null;
        await this.api.restore(microvm.kernelId, snapshot.id);
        const model = notebook && this.notebookOf(microvm)?.model;
        if (model) {
          model.fromJSON(untrusted(notebook));
          model.dirty = true;
        }
        return true;
      }
    );
    return done ?? false;
  }

  /** A new kernel from a snapshot, or from now, with a copy of the notebook in a new tab. */
  async fork(microvm: MicroVM, snapshot?: Snapshot): Promise<void> {
    const panel = this.notebookOf(microvm);
    this.forking += 1;
    await this.attempt(this.options.trans.__('The kernel could not be forked'), microvm, async () => {
      if (panel?.context.model.dirty && !panel.context.model.readOnly) {
        // The copy is made of the file.
        await panel.context.save();
      }
      const forks = await this.api.fork(microvm.kernelId, {
        ...(snapshot ? { snapshot: snapshot.id } : {}),
        ...(panel ? { path: panel.context.path } : {})
      });
      for (const fork of forks) {
        this.opened.add(fork.kernel_id);
        await this.open(microvm, fork);
      }
    });
    this.forking -= 1;
    this.offerForks();
  }

  async rename(microvm: MicroVM, snapshot: Snapshot): Promise<void> {
    const { trans } = this.options;
    const naming = await dialogs.askForName({
      title: trans.__('Rename “%1”', title(snapshot)),
      accept: trans.__('Rename'),
      value: { name: snapshot.name, description: snapshot.description },
      taken: microvm.snapshots.filter(other => other.id !== snapshot.id).map(other => other.name),
      mayBeEmpty: false,
      trans
    });
    if (naming) {
      await this.attempt(trans.__('“%1” could not be renamed', title(snapshot)), microvm, () =>
        this.api.change(snapshot.id, {
          ...(naming.name !== snapshot.name ? { name: naming.name } : {}),
          ...(naming.description !== snapshot.description ? { description: naming.description } : {})
        })
      );
    }
  }

  async delete(microvm: MicroVM, snapshots: readonly Snapshot[]): Promise<void> {
    const { trans } = this.options;
    if (snapshots.length === 0 || !(await dialogs.askToDelete(snapshots, trans))) {
      return;
    }
    for (const snapshot of snapshots) {
      const done = await this.attempt(trans.__('“%1” could not be deleted', title(snapshot)), microvm, async () => {
        await this.api.delete(snapshot.id);
        return true;
      });
      if (!done) {
        break;
      }
    }
  }

  export(snapshot: Snapshot): void {
    const link = document.createElement('a');
    link.href = this.api.exportUrl(snapshot.id);
    link.download = '';
    document.body.appendChild(link);
    link.click();
    link.remove();
  }

  /** Let the user choose a file, and import its snapshot into the scope of the microVM. */
  import(microvm: MicroVM): void {
    const input = document.createElement('input');
    input.type = 'file';
    input.accept = '.tar';
    input.addEventListener('change', () => {
      const file = input.files?.[0];
      const scope = microvm.kernel?.scope;
      if (file && scope !== undefined) {
        void this.attempt(this.options.trans.__('“%1” could not be imported', file.name), microvm, () =>
          this.api.import(scope, file)
        );
      }
    });
    input.click();
  }

  async console(microvm: MicroVM): Promise<void> {
    const { trans } = this.options;
    await this.attempt(trans.__('The console could not be read'), microvm, async () => {
      await dialogs.showConsole(await this.api.console(microvm.kernelId), trans);
    });
  }

  /** The open notebook whose kernel runs in a microVM. */
  notebookOf(microvm: MicroVM): NotebookPanel | null {
    return this.options.tracker.find(panel => panel.sessionContext.session?.kernel?.id === microvm.kernelId) ?? null;
  }

  private get api() {
    return this.options.microvms.api;
  }

  /** Do something; an error is shown in a dialog, and the result is `undefined` then. */
  private async attempt<T>(heading: string, microvm: MicroVM, act: () => Promise<T>): Promise<T | undefined> {
    try {
      const result = await act();
      await microvm.refresh();
      return result;
    } catch (error) {
      void microvm.refresh();
      await dialogs.showError(heading, error, this.options.trans);
      return undefined;
    }
  }

  private async open(source: MicroVM, fork: ForkedKernel): Promise<void> {
    const { documents, services, trans } = this.options;
    await services.sessions.refreshRunning();
    let path = fork.path ?? null;
    if (path === null) {
      const running = [...services.sessions.running()].find(session => session.kernel?.id === fork.kernel_id);
      path = running?.path ?? (await this.giveNotebook(source, fork));
    }
    if (path === null) {
      return;
    }
    if (documents) {
      // A notebook that is opened takes the session that its path has.
      documents.openOrReveal(path);
    } else {
      Notification.info(trans.__('The notebook of the fork is “%1”', path));
    }
  }

  /** Give a fork that has no notebook a copy of its source's, and a session on it. */
  private async giveNotebook(source: MicroVM, fork: ForkedKernel): Promise<string | null> {
    const { services } = this.options;
    const panel = this.notebookOf(source);
    if (!panel) {
      return null;
    }
    const { path: original } = panel.context;
    const { path } = await services.contents.copy(original, PathExt.dirname(original));
    const session = await services.sessions.startNew({
      path,
      name: PathExt.basename(path),
      type: 'notebook',
      // The REST API takes a running kernel's id; the type knows only of names.
      kernel: { id: fork.kernel_id } as { name?: string }
    });
    session.dispose();
    return path;
  }

  /** Offer the forks that a cell made, where the notebook of their source is open. */
  private onEvent(_: MicroVMs, event: PublicEvent): void {
    const microvm = this.options.microvms.known(event.kernel_id);
    if (event.action === 'fork' && microvm && this.notebookOf(microvm)) {
      this.told.push(...event.forks.map(fork => ({ microvm, fork })));
      this.offerForks();
    }
  }

  /** Offer to open the forks that events have named, except those that were asked for here. */
  private offerForks(): void {
    if (this.forking > 0) {
      // Which are our own is known when the server has answered.
      return;
    }
    const { trans } = this.options;
    for (const { microvm, fork } of this.told.splice(0)) {
      if (this.opened.has(fork.kernel_id)) {
        continue;
      }
      const open = (): void => {
        void this.attempt(trans.__('The fork could not be opened'), microvm, () => this.open(microvm, fork));
      };
      Notification.info(trans.__('This kernel was forked. The fork is “%1”.', fork.name), {
        actions: [{ label: trans.__('Open in a new tab'), callback: open, displayType: 'accent' }],
        autoClose: false
      });
    }
  }

  /** How many forks the server is making for us. */
  private forking = 0;
  /** Forks that have a tab here. */
  private readonly opened = new Set<string>();
  private readonly told: { readonly microvm: MicroVM; readonly fork: ForkedKernel }[] = [];
}

/**
 * A notebook whose cells are not trusted. What is in a snapshot may have come with a file from anywhere, and trust is not for
 * a file to claim; nor is it worth storing.
 */
export function untrusted(notebook: INotebookContent): INotebookContent {
  return {
    ...notebook,
    cells: (notebook.cells ?? []).map(cell => {
      const { trusted: _, ...metadata } = (cell.metadata ?? {}) as Record<string, unknown>;
      return { ...cell, metadata } as typeof cell;
    })
  };
}
