/** The commands: for the palette, the Kernel menu, the context menu, shortcuts, and the panel. */
import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { ICommandPalette } from '@jupyterlab/apputils';
import { Dialog } from '@jupyterlab/apputils';
import type { IMainMenu } from '@jupyterlab/mainmenu';
import type { INotebookTracker } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import type { Snapshot } from './generated';
import * as dialogs from './dialogs';
import { forkIcon, microvmIcon } from './icons';
import { byTime } from './lineage';
import type { MicroVM } from './model';
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
  /** The snapshots that are selected in the panel. */
  readonly chosen: () => readonly string[];
}

/** Add the commands, and the context menu of the panel's rows. */
export function addCommands(context: ICommandContext): void {
  const { app, operations, timeline, tracker, trans, showPanel } = context;
  const { commands } = app;
  const isEnabled = (): boolean => operations.current() !== null;
  /** The snapshots that a command is about: those it was given, else those selected in the panel. */
  const meant = (microvm: MicroVM, args: ReadonlyPartialJSONObject): Snapshot[] => {
    const ids = Array.isArray(args.snapshots) ? args.snapshots : context.chosen();
    return ids.map(id => microvm.snapshot(id as string)).filter((found): found is Snapshot => found !== undefined);
  };
  /** The one snapshot that a command is about; the user is asked when it is not clear. */
  const one = async (
    microvm: MicroVM,
    args: ReadonlyPartialJSONObject,
    heading: string,
    accept: string
  ): Promise<Snapshot | null> => {
    const found = meant(microvm, args);
    if (found.length === 1 || microvm.snapshots.length === 0) {
      return found[0] ?? null;
    }
    return dialogs.askForSnapshot([...microvm.snapshots].sort(byTime), heading, accept, trans);
  };
  const add = (
    id: string,
    label: string,
    run: (microvm: MicroVM, args: ReadonlyPartialJSONObject) => unknown,
    options: Partial<CommandRegistry.ICommandOptions> = {}
  ): void => {
    commands.addCommand(id, {
      label,
      isEnabled,
      execute: async args => {
        const microvm = operations.current();
        // A key that is pressed twice asks once.
        if (microvm && Dialog.tracker.size === 0) {
          await run(microvm, args);
        }
      },
      ...options
    });
  };
  const hasSnapshots = (): boolean => (operations.current()?.snapshots.length ?? 0) > 0;

  commands.addCommand(CommandIDs.showPanel, {
    label: trans.__('Show MicroVM Snapshots'),
    icon: microvmIcon,
    execute: showPanel
  });
  add(CommandIDs.create, trans.__('New MicroVM Snapshot…'), microvm => operations.create(microvm));
  add(CommandIDs.createNow, trans.__('Quick MicroVM Snapshot'), microvm => operations.createNow(microvm));
  add(
    CommandIDs.restore,
    trans.__('Restore MicroVM Snapshot…'),
    async (microvm, args) => {
      const snapshot = await one(microvm, args, trans.__('Choose a snapshot'), trans.__('Choose'));
      if (snapshot) {
        await operations.restore(microvm, snapshot);
      }
    },
    { isEnabled: hasSnapshots }
  );
  add(
    CommandIDs.fork,
    trans.__('Fork MicroVM into a New Tab'),
    (microvm, args) => operations.fork(microvm, args.now === true ? undefined : meant(microvm, args)[0]),
    { icon: forkIcon }
  );
  add(
    CommandIDs.rename,
    trans.__('Rename MicroVM Snapshot…'),
    async (microvm, args) => {
      const snapshot = await one(microvm, args, trans.__('Choose a snapshot'), trans.__('Choose'));
      if (snapshot) {
        await operations.rename(microvm, snapshot);
      }
    },
    { isEnabled: hasSnapshots }
  );
  add(
    CommandIDs.remove,
    trans.__('Delete MicroVM Snapshots…'),
    async (microvm, args) => {
      let snapshots: (Snapshot | null)[] = meant(microvm, args);
      if (snapshots.length === 0) {
        snapshots = [await one(microvm, args, trans.__('Choose a snapshot'), trans.__('Choose'))];
      }
      await operations.delete(
        microvm,
        snapshots.filter((snapshot): snapshot is Snapshot => snapshot !== null)
      );
    },
    { isEnabled: hasSnapshots }
  );
  add(
    CommandIDs.exportOne,
    trans.__('Export MicroVM Snapshot…'),
    async (microvm, args) => {
      const snapshot = await one(microvm, args, trans.__('Choose a snapshot'), trans.__('Export'));
      if (snapshot) {
        operations.export(snapshot);
      }
    },
    { isEnabled: hasSnapshots }
  );
  add(CommandIDs.importOne, trans.__('Import MicroVM Snapshot…'), microvm => operations.import(microvm));
  add(CommandIDs.console, trans.__('Show MicroVM Console'), microvm => operations.console(microvm));
  add(
    CommandIDs.timeline,
    trans.__('MicroVM Timeline: Take a Snapshot after Each Cell'),
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
    trans.__('Restore MicroVM to before This Cell'),
    (microvm, args) => {
      const cellId = typeof args.cell === 'string' ? args.cell : tracker.activeCell?.model.id;
      return cellId === undefined ? undefined : timeline.back(microvm, cellId);
    },
    {
      isEnabled: () => {
        const microvm = operations.current();
        const cell = tracker.activeCell;
        return !!microvm && !!cell && !!timeline.marksOf(microvm).get(nameOfCell(cell.model.id))?.before;
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
