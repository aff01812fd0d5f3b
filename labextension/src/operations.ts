/**
 * What can be done with a machine: ask where something may be lost, have the server do it, tell what went wrong. Views learn
 * of the outcome through the model, as of anything else that happens.
 */
import { Notification } from '@jupyterlab/apputils';
import { PathExt } from '@jupyterlab/coreutils';
import type { IDocumentManager } from '@jupyterlab/docmanager';
import type { INotebookContent } from '@jupyterlab/nbformat';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { ServiceManager } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { IFork, IMachineEvent, ISnapshot } from './api';
import * as dialogs from './dialogs';
import { title } from './format';
import type { Machine, Machines } from './model';

export namespace Operations {
  export interface IOptions {
    readonly machines: Machines;
    readonly tracker: INotebookTracker;
    readonly services: ServiceManager.IManager;
    /** Opens notebooks; where there is none, forks are told of and not opened. */
    readonly documents: IDocumentManager | null;
    readonly trans: TranslationBundle;
  }
}

export class Operations {
  constructor(private readonly options: Operations.IOptions) {
    options.machines.happened.connect(this.onEvent, this);
  }

  /** The machine of the notebook in front, if its kernel is in one. */
  current(): Machine | null {
    return this.machineOf(this.options.tracker.currentWidget);
  }

  machineOf(panel: NotebookPanel | null): Machine | null {
    const id = panel?.sessionContext.session?.kernel?.id;
    const machine = id ? this.options.machines.machine(id) : null;
    return machine?.kernel ? machine : null;
  }

  async create(machine: Machine): Promise<void> {
    const { trans } = this.options;
    const naming = await dialogs.askForName({
      title: trans.__('New snapshot'),
      accept: trans.__('Create'),
      value: { name: '', description: '' },
      taken: machine.snapshots.map(snapshot => snapshot.name),
      mayBeEmpty: true,
      trans
    });
    if (naming) {
      await this.createNow(machine, naming);
    }
  }

  /** Take a snapshot of the machine together with the notebook as it is on the screen. */
  async createNow(machine: Machine, naming?: dialogs.INaming): Promise<void> {
    const notebook = this.notebookOf(machine)?.model?.toJSON() as unknown as INotebookContent | undefined;
    await this.attempt(this.options.trans.__('No snapshot was taken'), machine, () =>
      this.api.create(machine.kernelId, {
        ...(naming?.name ? { name: naming.name } : {}),
        ...(naming?.description ? { description: naming.description } : {}),
        ...(notebook ? { notebook: untrusted(notebook) } : {})
      })
    );
  }

  /** Ask, and put the machine back; and the notebook, where that was chosen. */
  async restore(machine: Machine, snapshot: ISnapshot): Promise<void> {
    const panel = this.notebookOf(machine);
    const choice = await dialogs.askToRestore(snapshot, snapshot.has_notebook && !!panel?.model, this.options.trans);
    if (choice) {
      await this.restoreNow(machine, snapshot, choice);
    }
  }

  /** Put the machine back without a question; whether that went well. */
  async restoreNow(machine: Machine, snapshot: ISnapshot, choice: dialogs.RestoreChoice): Promise<boolean> {
    const done = await this.attempt(
      this.options.trans.__('“%1” was not restored', title(snapshot)),
      machine,
      async () => {
        // Fetched first: without it nothing has happened yet.
        const notebook = choice === 'machine-and-notebook' ? await this.api.notebook(snapshot.id) : null;
        await this.api.restore(machine.kernelId, snapshot.id);
        const model = notebook && this.notebookOf(machine)?.model;
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
  async fork(machine: Machine, snapshot?: ISnapshot): Promise<void> {
    const panel = this.notebookOf(machine);
    this.forking += 1;
    await this.attempt(this.options.trans.__('The kernel was not forked'), machine, async () => {
      if (panel?.context.model.dirty && !panel.context.model.readOnly) {
        // The copy is made of the file.
        await panel.context.save();
      }
      const forks = await this.api.fork(machine.kernelId, {
        ...(snapshot ? { snapshot: snapshot.id } : {}),
        ...(panel ? { path: panel.context.path } : {})
      });
      for (const fork of forks) {
        this.opened.add(fork.kernel_id);
        await this.open(machine, fork);
      }
    });
    this.forking -= 1;
    this.offerForks();
  }

  async rename(machine: Machine, snapshot: ISnapshot): Promise<void> {
    const { trans } = this.options;
    const naming = await dialogs.askForName({
      title: trans.__('Rename “%1”', title(snapshot)),
      accept: trans.__('Rename'),
      value: { name: snapshot.name, description: snapshot.description },
      taken: machine.snapshots.filter(other => other.id !== snapshot.id).map(other => other.name),
      mayBeEmpty: false,
      trans
    });
    if (naming) {
      await this.attempt(trans.__('“%1” keeps its name', title(snapshot)), machine, () =>
        this.api.change(snapshot.id, {
          ...(naming.name !== snapshot.name ? { name: naming.name } : {}),
          ...(naming.description !== snapshot.description ? { description: naming.description } : {})
        })
      );
    }
  }

  async delete(machine: Machine, snapshots: readonly ISnapshot[]): Promise<void> {
    const { trans } = this.options;
    if (snapshots.length === 0 || !(await dialogs.askToDelete(snapshots, trans))) {
      return;
    }
    for (const snapshot of snapshots) {
      const done = await this.attempt(trans.__('“%1” was not deleted', title(snapshot)), machine, async () => {
        await this.api.delete(snapshot.id);
        return true;
      });
      if (!done) {
        break;
      }
    }
  }

  export(snapshot: ISnapshot): void {
    const link = document.createElement('a');
    link.href = this.api.exportUrl(snapshot.id);
    link.download = '';
    document.body.appendChild(link);
    link.click();
    link.remove();
  }

  /** Let somebody choose a file, and take its snapshot into the machine's scope. */
  import(machine: Machine): void {
    const input = document.createElement('input');
    input.type = 'file';
    input.accept = '.tar';
    input.addEventListener('change', () => {
      const file = input.files?.[0];
      const scope = machine.kernel?.scope;
      if (file && scope !== undefined) {
        void this.attempt(this.options.trans.__('“%1” was not imported', file.name), machine, () =>
          this.api.import(scope, file)
        );
      }
    });
    input.click();
  }

  async console(machine: Machine): Promise<void> {
    const { trans } = this.options;
    await this.attempt(trans.__('The console cannot be read'), machine, async () => {
      await dialogs.showConsole(await this.api.console(machine.kernelId), trans);
    });
  }

  /** The notebook on the screen whose kernel a machine runs. */
  notebookOf(machine: Machine): NotebookPanel | null {
    return this.options.tracker.find(panel => panel.sessionContext.session?.kernel?.id === machine.kernelId) ?? null;
  }

  private get api() {
    return this.options.machines.api;
  }

  /** Do something; what goes wrong is told in a dialog. The result is `undefined` then. */
  private async attempt<T>(heading: string, machine: Machine, act: () => Promise<T>): Promise<T | undefined> {
    try {
      const result = await act();
      await machine.refresh();
      return result;
    } catch (error) {
      void machine.refresh();
      await dialogs.showError(heading, error, this.options.trans);
      return undefined;
    }
  }

  private async open(source: Machine, fork: IFork): Promise<void> {
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
      Notification.info(trans.__('The fork’s notebook is “%1”', path));
    }
  }

  /** Give a fork that has no notebook a copy of its source's, and a session on it. */
  private async giveNotebook(source: Machine, fork: IFork): Promise<string | null> {
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

  /** Forks that a cell made, and machines that died, are told of by whoever shows their notebook. */
  private onEvent(_: Machines, event: IMachineEvent): void {
    const { machines, trans } = this.options;
    const machine = machines.known(event.kernel_id);
    if (!machine || !this.notebookOf(machine)) {
      return;
    }
    if (event.action === 'fork') {
      this.told.push(...(event.forks ?? []).map(fork => ({ machine, fork })));
      this.offerForks();
    } else if (event.action === 'state' && event.state === 'dead' && event.message) {
      const { message } = event;
      void this.api
        .console(machine.kernelId)
        .catch(() => [])
        .then(lines => dialogs.showError(trans.__('The kernel’s machine has ended'), new Error(message), trans, lines));
    }
  }

  /** Offer to open the forks that were told of, but for those that were asked for here. */
  private offerForks(): void {
    if (this.forking > 0) {
      // Which are our own is known when the server has answered.
      return;
    }
    const { trans } = this.options;
    for (const { machine, fork } of this.told.splice(0)) {
      if (this.opened.has(fork.kernel_id)) {
        continue;
      }
      const open = (): void => {
        void this.attempt(trans.__('The fork was not opened'), machine, () => this.open(machine, fork));
      };
      Notification.info(trans.__('This kernel was forked: “%1”', fork.name), {
        actions: [{ label: trans.__('Open in a new tab'), callback: open, displayType: 'accent' }],
        autoClose: false
      });
    }
  }

  /** How many forks the server is making for us. */
  private forking = 0;
  /** Forks that have a tab here. */
  private readonly opened = new Set<string>();
  private readonly told: { readonly machine: Machine; readonly fork: IFork }[] = [];
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
