/** The form's place in the notebook's property inspector. */
import type { NotebookPanel } from '@jupyterlab/notebook';
import { NotebookTools } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import type { JSONObject, PartialJSONObject } from '@lumino/coreutils';
import type { Message } from '@lumino/messaging';
import { PanelLayout } from '@lumino/widgets';
import * as React from 'react';
import { ApiError } from '../api';
import { explanation, isMicroVM } from '../chip';
import type { MicroVM, MicroVMs } from '../model';
import { Form } from './fields';
import type { FieldName, IField } from './schema';
import { fieldsOf, withValue } from './schema';

const METADATA = 'fc_kernel';

export namespace SpecTool {
  export interface IOptions {
    readonly microvms: MicroVMs;
    readonly trans: TranslationBundle;
    /** Save a notebook and restart its kernel, asking first. */
    readonly onRestart: (panel: NotebookPanel) => void;
  }
}

export class SpecTool extends NotebookTools.Tool {
  constructor(private readonly options: SpecTool.IOptions) {
    super();
    this.addClass('fc-SpecTool');
    const layout = (this.layout = new PanelLayout());
    this.body = new Body(() => this.content());
    layout.addWidget(this.body);
    options.microvms.changed.connect(this.onServer, this);
  }

  dispose(): void {
    this.options.microvms.changed.disconnect(this.onServer, this);
    this.leave();
    super.dispose();
  }

  protected onAfterShow(msg: Message): void {
    super.onAfterShow(msg);
    this.look();
  }

  protected onAfterAttach(msg: Message): void {
    super.onAfterAttach(msg);
    this.look();
  }

  protected onActiveNotebookPanelChanged(_: Message): void {
    this.leave();
    this.panel = this.notebookTools.activeNotebookPanel;
    this.refused = new Map();
    this.panel?.sessionContext.kernelChanged.connect(this.onKernel, this);
    this.onKernel();
    void this.check();
  }

  protected onActiveNotebookPanelMetadataChanged(_: Message): void {
    this.redraw();
    void this.check();
  }

  private onKernel(): void {
    this.microvm?.changed.disconnect(this.redraw, this);
    const id = this.panel?.sessionContext.session?.kernel?.id;
    this.microvm = id ? this.options.microvms.microvm(id) : null;
    this.microvm?.changed.connect(this.redraw, this);
    this.redraw();
  }

  private onServer(): void {
    this.look();
    this.redraw();
  }

  private leave(): void {
    if (this.panel && !this.panel.isDisposed) {
      this.panel.sessionContext.kernelChanged.disconnect(this.onKernel, this);
    }
    this.microvm?.changed.disconnect(this.redraw, this);
    this.microvm = null;
    this.panel = null;
  }

  /** Get the schema, once the server is known to have one. */
  private look(): void {
    const { microvms } = this.options;
    if (this.fields || this.asking || microvms.availability !== 'ready') {
      return;
    }
    this.asking = microvms.api
      .schema()
      .then(schema => {
        this.fields = fieldsOf(schema);
      })
      .catch(error => {
        this.refused = new Map([['', (error as Error).message]]);
      })
      .finally(() => {
        this.asking = null;
        this.redraw();
        void this.check();
      });
  }

  private get settings(): PartialJSONObject {
    const said = this.panel?.model?.getMetadata(METADATA);
    return typeof said === 'object' && said !== null && !Array.isArray(said) ? said : {};
  }

  private set(name: FieldName, value: string | number | undefined): void {
    const model = this.panel?.model;
    if (!model) {
      return;
    }
    const settings = withValue(this.settings, name, value);
    if (Object.keys(settings).length > 0) {
      model.setMetadata(METADATA, settings);
    } else {
      model.deleteMetadata(METADATA);
    }
  }

  /** Have the server check the settings as it would at a start. */
  private async check(): Promise<void> {
    const { microvms } = this.options;
    const { settings } = this;
    if (microvms.availability !== 'ready' || !this.panel?.model) {
      return;
    }
    const asked = (this.checks += 1);
    let refused = new Map<string, string>();
    try {
      if (Object.keys(settings).length > 0) {
        await microvms.api.check(settings as JSONObject);
      }
    } catch (error) {
      if (error instanceof ApiError && (error.status === 400 || error.status === 422)) {
        refused = new Map([[error.field ?? '', error.message]]);
      }
      // Other errors say nothing about the settings. If something is wrong with these, the start reports it.
    }
    if (asked === this.checks && !this.isDisposed) {
      this.refused = refused;
      this.redraw();
    }
  }

  private redraw(): void {
    if (!this.isDisposed) {
      this.body.update();
    }
  }

  private content(): JSX.Element {
    const { microvms, trans, onRestart } = this.options;
    const { panel } = this;
    const specs = panel?.sessionContext.specsManager.specs?.kernelspecs;
    const name = panel?.sessionContext.session?.kernel?.name ?? panel?.sessionContext.kernelPreference.name;
    if (!panel || !(this.microvm?.kernel || isMicroVM(name ? specs?.[name] : null))) {
      return <p className="fc-Form-note">{trans.__('Only notebooks with a microVM kernel have these settings.')}</p>;
    }
    if (microvms.availability !== 'ready') {
      return <p className="fc-Form-note">{explanation(microvms.availability, trans)}</p>;
    }
    return (
      <Form
        key={panel.id}
        fields={this.fields ?? []}
        settings={this.settings}
        kernel={this.microvm?.kernel ?? null}
        refused={this.refused}
        trans={trans}
        onValue={(field, value) => this.set(field, value)}
        onRestart={() => onRestart(panel)}
      />
    );
  }

  private readonly body: Body;
  private panel: NotebookPanel | null = null;
  private microvm: MicroVM | null = null;
  private fields: IField[] | null = null;
  private asking: Promise<void> | null = null;
  private refused: ReadonlyMap<string, string> = new Map();
  private checks = 0;
}

/** Renders what its owner has to show. */
class Body extends ReactWidget {
  constructor(private readonly content: () => JSX.Element) {
    super();
  }

  protected render(): JSX.Element {
    return this.content();
  }
}
