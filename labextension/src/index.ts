/** The plugins: they connect the parts of this extension with JupyterLab or Notebook 7. */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ILayoutRestorer } from '@jupyterlab/application';
import { ICommandPalette, ISessionContextDialogs, IToolbarWidgetRegistry } from '@jupyterlab/apputils';
import { IDocumentManager } from '@jupyterlab/docmanager';
import { IMainMenu } from '@jupyterlab/mainmenu';
import type { NotebookPanel } from '@jupyterlab/notebook';
import { INotebookTools, INotebookTracker } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { Token } from '@lumino/coreutils';
import { Api } from './api';
import { ChipWidget } from './chip';
import { addCommands, addToMenus, CommandIDs } from './commands';
import { EndDialogs } from './ended';
import { SpecTool } from './form/tool';
import { MicroVMs } from './model';
import { Operations } from './operations';
import { SnapshotsPanel } from './panel/panel';
import { PromptMarks } from './prompts';
import type { IBudget } from './timeline';
import { isTimelineOn, setTimeline, Timeline } from './timeline';

const DOMAIN = 'fc_kernel';
const PLUGIN_ID = 'fc-kernel:plugin';
const MIB = 2 ** 20;

const IMicroVMs = new Token<MicroVMs>('fc-kernel:IMicroVMs', 'The microVMs of this server’s kernels.');

const microvms: JupyterFrontEndPlugin<MicroVMs> = {
  id: 'fc-kernel:microvms',
  description: 'Keeps track of the microVMs of this server’s kernels.',
  autoStart: true,
  provides: IMicroVMs,
  activate: (app: JupyterFrontEnd): MicroVMs => {
    const { serverSettings, events } = app.serviceManager;
    const known = new MicroVMs(new Api(serverSettings), events);
    void known.look();
    return known;
  }
};

const chip: JupyterFrontEndPlugin<void> = {
  id: 'fc-kernel:chip',
  description: 'Shows the microVM of a notebook’s kernel in its toolbar.',
  autoStart: true,
  requires: [IMicroVMs, IToolbarWidgetRegistry],
  optional: [ITranslator],
  activate: (
    app: JupyterFrontEnd,
    known: MicroVMs,
    registry: IToolbarWidgetRegistry,
    translator: ITranslator | null
  ): void => {
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    registry.addFactory<NotebookPanel>(
      'Notebook',
      'fc-kernel-chip',
      panel =>
        new ChipWidget({
          sessionContext: panel.sessionContext,
          microvms: known,
          trans,
          onClick: () => void app.commands.execute(CommandIDs.showPanel)
        })
    );
  }
};

const plugin: JupyterFrontEndPlugin<void> = {
  id: PLUGIN_ID,
  description: 'Snapshots, restores and forks the microVM of a notebook’s kernel.',
  autoStart: true,
  requires: [IMicroVMs, INotebookTracker],
  optional: [ITranslator, ISettingRegistry, ICommandPalette, IMainMenu, IDocumentManager, ILayoutRestorer],
  activate: async (
    app: JupyterFrontEnd,
    known: MicroVMs,
    tracker: INotebookTracker,
    translator: ITranslator | null,
    settings: ISettingRegistry | null,
    palette: ICommandPalette | null,
    menu: IMainMenu | null,
    documents: IDocumentManager | null,
    restorer: ILayoutRestorer | null
  ): Promise<void> => {
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const operations = new Operations({ microvms: known, tracker, services: app.serviceManager, documents, trans });
    new EndDialogs({ microvms: known, tracker, trans });
    let budget: IBudget = { count: 50, bytes: 1024 * MIB };
    let startsOn = false;
    const timeline = new Timeline({ operations, tracker, budget: () => budget, trans });
    const { commands } = app;
    const panel = new SnapshotsPanel({
      microvms: known,
      tracker,
      trans,
      isTimelineOn,
      actions: {
        create: () => void commands.execute(CommandIDs.create),
        restore: id => void commands.execute(CommandIDs.restore, { snapshots: [id] }),
        fork: id => void commands.execute(CommandIDs.fork, id === null ? { now: true } : { snapshots: [id] }),
        rename: id => void commands.execute(CommandIDs.rename, { snapshots: [id] }),
        delete: ids => void commands.execute(CommandIDs.remove, { snapshots: [...ids] }),
        export: id => void commands.execute(CommandIDs.exportOne, { snapshots: [id] }),
        import: () => void commands.execute(CommandIDs.importOne),
        timeline: () => void commands.execute(CommandIDs.timeline)
      }
    });
    addCommands({
      app,
      operations,
      timeline,
      tracker,
      trans,
      showPanel: () => {
        app.shell.activateById(panel.id);
        if (known.availability !== 'ready') {
          // What was missing may have been repaired since.
          void known.look();
        }
      },
      chosen: () => panel.chosen
    });
    addToMenus(palette, menu, trans);
    app.shell.add(panel, 'left', { rank: 450, type: 'Snapshots' });
    restorer?.add(panel, panel.id);
    const adopt = (notebook: NotebookPanel): void => {
      void notebook.context.ready.then(() => {
        if (notebook.isDisposed) {
          return;
        }
        if (startsOn && notebook.model?.getMetadata('fc_kernel_timeline') === undefined) {
          setTimeline(notebook, true);
        }
        new PromptMarks({
          panel: notebook,
          microvms: known,
          timeline,
          trans,
          onBack: (_, cell) => void commands.execute(CommandIDs.back, { cell })
        });
      });
    };
    tracker.forEach(adopt);
    tracker.widgetAdded.connect((_, notebook) => adopt(notebook));
    if (settings) {
      const loaded = await settings.load(PLUGIN_ID);
      const read = (): void => {
        budget = {
          count: loaded.get('timelineCount').composite as number,
          bytes: (loaded.get('timelineSize').composite as number) * MIB
        };
        startsOn = loaded.get('timelineOn').composite as boolean;
      };
      loaded.changed.connect(read);
      read();
    }
  }
};

const form: JupyterFrontEndPlugin<void> = {
  id: 'fc-kernel:form',
  description: 'Edits the microVM settings of a notebook in the property inspector.',
  autoStart: true,
  requires: [IMicroVMs, INotebookTools],
  optional: [ITranslator, ISessionContextDialogs],
  activate: (
    _: JupyterFrontEnd,
    known: MicroVMs,
    tools: INotebookTools,
    translator: ITranslator | null,
    dialogs: ISessionContextDialogs | null
  ): void => {
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const tool = new SpecTool({
      microvms: known,
      trans,
      onRestart: panel => void panel.context.save().then(() => dialogs?.restart(panel.sessionContext))
    });
    tools.addSection({ sectionName: 'fc-kernel', label: trans.__('MicroVM'), rank: 10 });
    tools.addItem({ tool, section: 'fc-kernel' });
  }
};

export default [microvms, chip, plugin, form];
