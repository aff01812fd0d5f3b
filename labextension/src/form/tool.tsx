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
import type { Machine, Machines } from '../model';
import { Form } from './fields';
import type { FieldName, IField } from './schema';
import { fieldsOf, withValue } from './schema';

const METADATA = 'fc_kernel';

export namespace SpecTool {
  export interface IOptions {
    readonly machines: Machines;
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
    options.machines.changed.connect(this.onServer, this);
  }

  dispose(): void {
    this.options.machines.changed.disconnect(this.onServer, this);
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
    this.machine?.changed.disconnect(this.redraw, this);
    const id = this.panel?.sessionContext.session?.kernel?.id;
    this.machine = id ? this.options.machines.machine(id) : null;
    this.machine?.changed.connect(this.redraw, this);
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
    this.machine?.changed.disconnect(this.redraw, this);
    this.machine = null;
    this.panel = null;
  }

  /** Get the schema, once there is a server that has one. */
  private look(): void {
    const { machines } = this.options;
    if (this.fields || this.asking || machines.availability !== 'ready') {
      return;
    }
    this.asking = machines.api
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

  /** Hear what the server says of the settings, as it would say at a start. */
  private async check(): Promise<void> {
    const { machines } = this.options;
    const { settings } = this;
    if (machines.availability !== 'ready' || !this.panel?.model) {
      return;
    }
    const asked = (this.checks += 1);
    let refused = new Map<string, string>();
    try {
      if (Object.keys(settings).length > 0) {
        await machines.api.check(settings as JSONObject);
      }
    } catch (error) {
      if (error instanceof ApiError && (error.status === 400 || error.status === 422)) {
        refused = new Map([[error.field ?? '', error.message]]);
      }
      // Anything else says nothing about the settings, and the start will tell.
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
    const { machines, trans, onRestart } = this.options;
    const { panel } = this;
    const specs = panel?.sessionContext.specsManager.specs?.kernelspecs;
    const name = panel?.sessionContext.session?.kernel?.name ?? panel?.sessionContext.kernelPreference.name;
    if (!panel || !(this.machine?.kernel || isMicroVM(name ? specs?.[name] : null))) {
      return <p className="fc-Form-note">{trans.__('For notebooks whose kernel runs in a microVM.')}</p>;
    }
    if (machines.availability !== 'ready') {
      return <p className="fc-Form-note">{explanation(machines.availability, trans)}</p>;
    }
    return (
      <Form
        key={panel.id}
        fields={this.fields ?? []}
        settings={this.settings}
        kernel={this.machine?.kernel ?? null}
        refused={this.refused}
        trans={trans}
        onValue={(field, value) => this.set(field, value)}
        onRestart={() => onRestart(panel)}
      />
    );
  }

  private readonly body: Body;
  private panel: NotebookPanel | null = null;
  private machine: Machine | null = null;
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
