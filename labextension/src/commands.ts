/** The commands: for the palette, the Kernel menu, the context menu, shortcuts, and the panel. */
import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { ICommandPalette } from '@jupyterlab/apputils';
import { Dialog } from '@jupyterlab/apputils';
import type { IMainMenu } from '@jupyterlab/mainmenu';
import type { INotebookTracker } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import type { ISnapshot } from './api';
import * as dialogs from './dialogs';
import { forkIcon, machineIcon } from './icons';
import { byTime } from './lineage';
import type { Machine } from './model';
import type { Operations } from './operations';
import type { Timeline } from './timeline';
import { isTimelineOn, nameOfCell } from './timeline';

export namespace CommandIDs {
  export const showPanel = 'fc-kernel:show-snapshots';
  export const create = 'fc-kernel:create-snapshot';
  export const createNow = 'fc-kernel:create-snapshot-now';
  export const restore = 'fc-kernel:restore-snapshot';
  export const fork = 'fc-kernel:fork';
  export const rename = 'fc-kernel:rename-snapshot';
  export const remove = 'fc-kernel:delete-snapshots';
  export const exportOne = 'fc-kernel:export-snapshot';
  export const importOne = 'fc-kernel:import-snapshot';
  export const console = 'fc-kernel:show-console';
  export const timeline = 'fc-kernel:toggle-timeline';
  export const back = 'fc-kernel:back-before-cell';
}

export interface ICommandContext {
  readonly app: JupyterFrontEnd;
  readonly operations: Operations;
  readonly timeline: Timeline;
  readonly tracker: INotebookTracker;
  readonly trans: TranslationBundle;
  /** Bring the panel to the front. */
  readonly showPanel: () => void;
  /** The snapshots that are chosen in the panel. */
  readonly chosen: () => readonly string[];
}

/** Add the commands, and the context menu of the panel's rows. */
export function addCommands(context: ICommandContext): void {
  const { app, operations, timeline, tracker, trans, showPanel } = context;
  const { commands } = app;
  const isEnabled = (): boolean => operations.current() !== null;
  /** The snapshots that a command is about: those it was given, else those chosen in the panel. */
  const meant = (machine: Machine, args: ReadonlyPartialJSONObject): ISnapshot[] => {
    const ids = Array.isArray(args.snapshots) ? args.snapshots : context.chosen();
    return ids.map(id => machine.snapshot(id as string)).filter((found): found is ISnapshot => found !== undefined);
  };
  /** The one snapshot that a command is about; asked for where it is not clear. */
  const one = async (
    machine: Machine,
    args: ReadonlyPartialJSONObject,
    heading: string,
    accept: string
  ): Promise<ISnapshot | null> => {
    const found = meant(machine, args);
    if (found.length === 1 || machine.snapshots.length === 0) {
      return found[0] ?? null;
    }
    return dialogs.askForSnapshot([...machine.snapshots].sort(byTime), heading, accept, trans);
  };
  const add = (
    id: string,
    label: string,
    run: (machine: Machine, args: ReadonlyPartialJSONObject) => unknown,
    options: Partial<CommandRegistry.ICommandOptions> = {}
  ): void => {
    commands.addCommand(id, {
      label,
      isEnabled,
      execute: async args => {
        const machine = operations.current();
        // A key that is pressed twice asks once.
        if (machine && Dialog.tracker.size === 0) {
          await run(machine, args);
        }
      },
      ...options
    });
  };
  const hasSnapshots = (): boolean => (operations.current()?.snapshots.length ?? 0) > 0;

  commands.addCommand(CommandIDs.showPanel, {
    label: trans.__('Show Snapshots of the MicroVM'),
    icon: machineIcon,
    execute: showPanel
  });
  add(CommandIDs.create, trans.__('New MicroVM Snapshot…'), machine => operations.create(machine));
  add(CommandIDs.createNow, trans.__('New MicroVM Snapshot'), machine => operations.createNow(machine));
  add(
    CommandIDs.restore,
    trans.__('Restore MicroVM Snapshot…'),
    async (machine, args) => {
      const snapshot = await one(machine, args, trans.__('Which snapshot?'), trans.__('Choose'));
      if (snapshot) {
        await operations.restore(machine, snapshot);
      }
    },
    { isEnabled: hasSnapshots }
  );
  add(
    CommandIDs.fork,
    trans.__('Fork MicroVM into a New Tab'),
    (machine, args) => operations.fork(machine, args.now === true ? undefined : meant(machine, args)[0]),
    { icon: forkIcon }
  );
  add(
    CommandIDs.rename,
    trans.__('Rename MicroVM Snapshot…'),
    async (machine, args) => {
      const snapshot = await one(machine, args, trans.__('Which snapshot?'), trans.__('Choose'));
      if (snapshot) {
        await operations.rename(machine, snapshot);
      }
    },
    { isEnabled: hasSnapshots }
  );
  add(
    CommandIDs.remove,
    trans.__('Delete MicroVM Snapshots…'),
    async (machine, args) => {
      let snapshots: (ISnapshot | null)[] = meant(machine, args);
      if (snapshots.length === 0) {
        snapshots = [await one(machine, args, trans.__('Which snapshot?'), trans.__('Choose'))];
      }
      await operations.delete(
        machine,
        snapshots.filter((snapshot): snapshot is ISnapshot => snapshot !== null)
      );
    },
    { isEnabled: hasSnapshots }
  );
  add(
    CommandIDs.exportOne,
    trans.__('Export MicroVM Snapshot…'),
    async (machine, args) => {
      const snapshot = await one(machine, args, trans.__('Which snapshot?'), trans.__('Export'));
      if (snapshot) {
        operations.export(snapshot);
      }
    },
    { isEnabled: hasSnapshots }
  );
  add(CommandIDs.importOne, trans.__('Import MicroVM Snapshot…'), machine => operations.import(machine));
  add(CommandIDs.console, trans.__('Show Console of the MicroVM'), machine => operations.console(machine));
  add(
    CommandIDs.timeline,
    trans.__('MicroVM Timeline: Snapshot after Each Cell'),
    async () => {
      const panel = tracker.currentWidget;
      if (panel) {
        await timeline.toggle(panel);
      }
    },
    {
      isToggleable: true,
      isToggled: () => tracker.currentWidget !== null && isTimelineOn(tracker.currentWidget)
    }
  );
  add(
    CommandIDs.back,
    trans.__('MicroVM: Back to before This Cell'),
    (machine, args) => {
      const cellId = typeof args.cell === 'string' ? args.cell : tracker.activeCell?.model.id;
      return cellId === undefined ? undefined : timeline.back(machine, cellId);
    },
    {
      isEnabled: () => {
        const machine = operations.current();
        const cell = tracker.activeCell;
        return !!machine && !!cell && !!timeline.marksOf(machine).get(nameOfCell(cell.model.id))?.before;
      }
    }
  );

  const rows = [CommandIDs.restore, CommandIDs.fork, CommandIDs.rename, CommandIDs.exportOne, CommandIDs.remove];
  rows.forEach((command, rank) => app.contextMenu.addItem({ command, selector: '.fc-Tree-row', rank }));
}

/** Where the commands are found. */
export function addToMenus(palette: ICommandPalette | null, menu: IMainMenu | null, trans: TranslationBundle): void {
  const category = trans.__('MicroVM');
  const ids = [
    CommandIDs.showPanel,
    CommandIDs.create,
    CommandIDs.createNow,
    CommandIDs.restore,
    CommandIDs.fork,
    CommandIDs.rename,
    CommandIDs.remove,
    CommandIDs.exportOne,
    CommandIDs.importOne,
    CommandIDs.timeline,
    CommandIDs.back,
    CommandIDs.console
  ];
  ids.forEach(command => palette?.addItem({ command, category }));
  menu?.kernelMenu.addGroup(
    [
      CommandIDs.create,
      CommandIDs.restore,
      CommandIDs.fork,
      CommandIDs.timeline,
      CommandIDs.back,
      CommandIDs.showPanel,
      CommandIDs.console
    ].map(command => ({ command })),
    30
  );
}
