/**
 * The dialog that appears when the microVM of an open notebook's kernel has ended by itself: why, the last lines of the guest's
 * console, and a button that restarts the kernel.
 *
 * The server restarts a dead kernel on its own, a few seconds later. So the dialog shows whether that has begun, and its button
 * does not restart the kernel a second time.
 */
import { Dialog, showDialog } from '@jupyterlab/apputils';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import * as React from 'react';
import { showError } from './dialogs';
import type { Kernel, PublicEvent, StateChanged } from './generated';
import type { MicroVM, MicroVMs } from './model';

/** What Lab shows of a kernel that somebody is starting again. */
const RESTARTING = new Set(['autorestarting', 'restarting', 'starting', 'initializing']);
/** What a kernel's connection says of a kernel that the user is restarting or shutting down here. */
const ASKED_FOR = new Set(['restarting', 'terminating']);

export namespace EndDialogs {
  export interface IOptions {
    readonly microvms: MicroVMs;
    readonly tracker: INotebookTracker;
    readonly trans: TranslationBundle;
  }
}

/** Shows the dialog, once for each end of a microVM, however many views of its notebook there are. */
export class EndDialogs {
  constructor(private readonly options: EndDialogs.IOptions) {
    options.microvms.happened.connect(this.onEvent, this);
  }

  private onEvent(_: MicroVMs, event: PublicEvent): void {
    if (event.action !== 'state') {
      return;
    }
    if (event.state !== 'dead') {
      this.ended.delete(event.kernel_id);
    } else if (event.vm_ended && !this.ended.has(event.kernel_id)) {
      const { tracker } = this.options;
      const panel = tracker.find(other => other.sessionContext.session?.kernel?.id === event.kernel_id);
      if (panel && !ASKED_FOR.has(panel.sessionContext.session?.kernel?.status ?? '')) {
        this.ended.add(event.kernel_id);
        void this.show(panel, event);
      }
    }
  }

  private async show(panel: NotebookPanel, event: StateChanged): Promise<void> {
    const { microvms, trans } = this.options;
    if (this.open.has(event.kernel_id)) {
      // The restarted kernel has ended, too. The dialog shows why the first one did.
      return;
    }
    this.open.add(event.kernel_id);
    const microvm = microvms.microvm(event.kernel_id);
    const result = await showDialog({
      title: trans.__('The microVM of “%1” has ended', panel.title.label),
      body: ReactWidget.create(<EndView event={event} microvm={microvm} trans={trans} />),
      buttons: [
        Dialog.cancelButton({ label: trans.__('Close') }),
        Dialog.okButton({ label: trans.__('Restart'), caption: trans.__('Restart the kernel in a new microVM') })
      ]
    });
    this.open.delete(event.kernel_id);
    if (result.button.accept) {
      await this.restart(panel, microvm);
    }
  }

  private async restart(panel: NotebookPanel, microvm: MicroVM): Promise<void> {
    const { sessionContext } = panel;
    const isBack = microvm.kernel !== null && microvm.kernel.state !== 'dead';
    if (panel.isDisposed || isBack || RESTARTING.has(sessionContext.kernelDisplayStatus)) {
      return;
    }
    try {
      const kernel = sessionContext.session?.kernel;
      if (kernel && !kernel.isDisposed) {
        await sessionContext.restartKernel();
      } else {
        // The server has given the kernel up; a new one takes its place.
        await sessionContext.changeKernel({ name: sessionContext.prevKernelName });
      }
    } catch (error) {
      const { trans } = this.options;
      await showError(trans.__('The kernel could not be restarted'), error, trans);
    }
  }

  /** Kernels whose microVM has ended, until they start again. */
  private readonly ended = new Set<string>();
  /** Kernels whose dialog is open. */
  private readonly open = new Set<string>();
}

interface IEndProps {
  readonly event: StateChanged;
  readonly microvm: MicroVM;
  readonly trans: TranslationBundle;
}

function EndView({ event, microvm, trans }: IEndProps): JSX.Element {
  return (
    <div className="fc-Dialog-body fc-Error">
      <p role="alert">{asSentence(event.message) || trans.__('The server did not report why.')}</p>
      <p>{trans.__('Variables and files inside the microVM are lost. The notebook and its snapshots are kept.')}</p>
      <UseSignal signal={microvm.changed}>
        {() => <p role="status">{progress(microvm.kernel?.state ?? 'dead', trans)}</p>}
      </UseSignal>
      <details open>
        <summary>{trans.__('End of the console')}</summary>
        <pre tabIndex={0} aria-label={trans.__('End of the console')}>
          {event.console.join('\n') || trans.__('The console is empty.')}
        </pre>
      </details>
    </div>
  );
}

/** The server's messages begin in lower case, as what comes after a colon. */
function asSentence(message: string): string {
  return message.charAt(0).toUpperCase() + message.slice(1);
}

/** What has become of the kernel since its microVM ended. */
function progress(state: Kernel['state'], trans: TranslationBundle): string {
  switch (state) {
    case 'dead':
      return '';
    case 'booting':
      return trans.__('The kernel is restarting in a new microVM.');
    default:
      return trans.__('The kernel was restarted in a new microVM.');
  }
}
