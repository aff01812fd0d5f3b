/** The chip in a notebook's toolbar: tier, size and state of the microVM in which the kernel runs. */
import type { ISessionContext } from '@jupyterlab/apputils';
import type { KernelSpec } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import type { IDisposable } from '@lumino/disposable';
import * as React from 'react';
import type { Kernel } from './generated';
import { tierMeaning, tierName } from './format';
import type { Availability, MicroVM, MicroVMs } from './model';

/** The provisioner named by the kernel specs whose kernels run in a microVM. */
const PROVISIONER = 'fc-provisioner';

/** What the chip shows. */
export type ChipView =
  | { readonly kind: 'nothing' }
  | { readonly kind: 'starting' }
  | { readonly kind: 'unavailable'; readonly why: Exclude<Availability, 'ready' | 'unknown'> }
  | { readonly kind: 'microvm'; readonly kernel: Kernel };

export interface IChipInput {
  readonly availability: Availability;
  /** Whether the kernel spec says that its kernels run in a microVM. */
  readonly promised: boolean;
  /** Whether a kernel is about to start. */
  readonly starting: boolean;
  /** Whether there is a kernel. */
  readonly present: boolean;
  readonly kernel: Kernel | null;
}

/** Decides what the chip shows. */
export function chipView(input: IChipInput): ChipView {
  const { availability, promised, starting, present, kernel } = input;
  if (present && kernel) {
    return { kind: 'microvm', kernel };
  }
  if (!promised || availability === 'unknown') {
    return { kind: 'nothing' };
  }
  if (availability !== 'ready') {
    return { kind: 'unavailable', why: availability };
  }
  return starting ? { kind: 'starting' } : { kind: 'nothing' };
}

/** Whether kernels of a spec run in a microVM. */
export function isMicroVM(spec: KernelSpec.ISpecModel | undefined | null): boolean {
  const provisioner = spec?.metadata?.kernel_provisioner as { provisioner_name?: unknown } | undefined;
  return provisioner?.provisioner_name === PROVISIONER;
}

export function stateName(state: Kernel['state'], trans: TranslationBundle): string {
  switch (state) {
    case 'booting':
      return trans.__('booting');
    case 'running':
      return trans.__('running');
    case 'pausing':
      return trans.__('pausing');
    case 'restoring':
      return trans.__('restoring');
    default:
      return trans.__('dead');
  }
}

/** Why microVMs are not shown, as a sentence. */
export function explanation(why: Availability, trans: TranslationBundle): string {
  switch (why) {
    case 'gateway':
      return trans.__('The kernels of this server run on a gateway. Their microVMs cannot be reached from here.');
    case 'missing':
      return trans.__(
        'The server extension fc_kernel is not enabled. Run “jupyter server extension enable fc_kernel” and restart the server.'
      );
    default:
      return trans.__('The server did not report its microVMs. See the server’s log.');
  }
}

interface IChipProps {
  readonly view: ChipView;
  readonly trans: TranslationBundle;
  readonly onClick: () => void;
}

export function Chip({ view, trans, onClick }: IChipProps): JSX.Element | null {
  switch (view.kind) {
    case 'nothing':
      return null;
    case 'starting':
      return (
        <ChipButton
          look="booting"
          label={trans.__('MicroVM: booting')}
          title={trans.__('The microVM is booting.')}
          onClick={onClick}
        >
          <span>{trans.__('MicroVM')}</span>
          <span className="fc-Chip-state">{stateName('booting', trans)}</span>
        </ChipButton>
      );
    case 'unavailable': {
      const why = explanation(view.why, trans);
      return (
        <ChipButton look="unavailable" label={trans.__('MicroVM: %1', why)} title={why} onClick={onClick}>
          <span>{trans.__('MicroVM')}</span>
          <span className="fc-Chip-state">
            {view.why === 'gateway' ? trans.__('on a gateway') : trans.__('unknown')}
          </span>
        </ChipButton>
      );
    }
    case 'microvm':
      return <MicroVMChip kernel={view.kernel} trans={trans} onClick={onClick} />;
  }
}

function MicroVMChip(props: { kernel: Kernel; trans: TranslationBundle; onClick: () => void }): JSX.Element {
  const { kernel, trans, onClick } = props;
  const tier = tierName(kernel.tier, trans);
  const state = stateName(kernel.state, trans);
  const vcpus = kernel.vcpu_count === null ? '' : trans._n('%1 vCPU', '%1 vCPUs', kernel.vcpu_count);
  const used = kernel.mem_used_mib === null ? '?' : String(Math.round(kernel.mem_used_mib));
  const memory = kernel.mem_size_mib === null ? '' : trans.__('%1 of %2 MiB', used, kernel.mem_size_mib);
  const known = [kernel.tier && tier, vcpus, memory && trans.__('memory %1', memory), state].filter(Boolean);
  const isWarning = kernel.tier === 'emulated' || kernel.tier === 'none';
  return (
    <ChipButton
      look={kernel.state}
      tier={kernel.tier ?? undefined}
      label={trans.__('MicroVM: %1. Show its snapshots', known.join(', '))}
      title={[
        kernel.state === 'booting' ? trans.__('The microVM is booting.') : tierMeaning(kernel.tier, trans),
        `${kernel.monitor ?? ''} ${kernel.monitor_version ?? ''}`.trim(),
        kernel.image ? trans.__('Image %1, network %2', kernel.image, kernel.network ?? 'none') : ''
      ]
        .filter(Boolean)
        .join('\n')}
      onClick={onClick}
    >
      <span className="fc-Chip-tier">
        {isWarning && <span aria-hidden="true">⚠ </span>}
        {tier}
      </span>
      {vcpus && <span className="fc-Chip-vcpus">{vcpus}</span>}
      {memory && <span className="fc-Chip-memory">{memory}</span>}
      <span className="fc-Chip-state">{state}</span>
    </ChipButton>
  );
}

interface IChipButtonProps {
  readonly look: string;
  readonly tier?: string;
  readonly label: string;
  readonly title: string;
  readonly onClick: () => void;
  readonly children: React.ReactNode;
}

function ChipButton({ look, tier, label, title, onClick, children }: IChipButtonProps): JSX.Element {
  return (
    <button
      type="button"
      className="fc-Chip-button"
      data-state={look}
      data-tier={tier}
      aria-label={label}
      title={title}
      onClick={onClick}
    >
      {children}
    </button>
  );
}

export namespace ChipWidget {
  export interface IOptions {
    readonly sessionContext: ISessionContext;
    readonly microvms: MicroVMs;
    readonly trans: TranslationBundle;
    readonly onClick: () => void;
  }
}

/** The chip of one notebook. */
export class ChipWidget extends ReactWidget {
  constructor(private readonly options: ChipWidget.IOptions) {
    super();
    this.addClass('fc-Chip');
    const { sessionContext, microvms } = options;
    sessionContext.kernelChanged.connect(this.onKernel, this);
    sessionContext.statusChanged.connect(this.refresh, this);
    microvms.changed.connect(this.refresh, this);
    this.onKernel();
  }

  /** What the chip shows now. */
  get view(): ChipView {
    const { sessionContext, microvms } = this.options;
    const kernel = sessionContext.session?.kernel;
    const name = kernel?.name ?? sessionContext.kernelPreference.name;
    const specs = sessionContext.specsManager.specs?.kernelspecs;
    const status = sessionContext.kernelDisplayStatus;
    return chipView({
      availability: microvms.availability,
      promised: isMicroVM(name ? specs?.[name] : undefined),
      starting: status === 'starting' || status === 'restarting' || status === 'initializing',
      present: !!kernel,
      kernel: this.microvm?.kernel ?? null
    });
  }

  dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this.unwatch();
    const { sessionContext, microvms } = this.options;
    sessionContext.kernelChanged.disconnect(this.onKernel, this);
    sessionContext.statusChanged.disconnect(this.refresh, this);
    microvms.changed.disconnect(this.refresh, this);
    super.dispose();
  }

  protected render(): JSX.Element {
    const { view } = this;
    this.setHidden(view.kind === 'nothing');
    return <Chip view={view} trans={this.options.trans} onClick={this.options.onClick} />;
  }

  private onKernel(): void {
    this.unwatch();
    const id = this.options.sessionContext.session?.kernel?.id;
    if (id) {
      this.microvm = this.options.microvms.microvm(id);
      this.microvm.changed.connect(this.refresh, this);
      this.watching = this.options.microvms.watch(id);
    }
    this.refresh();
  }

  private unwatch(): void {
    this.microvm?.changed.disconnect(this.refresh, this);
    this.microvm = null;
    this.watching?.dispose();
    this.watching = null;
  }

  private refresh(): void {
    // Hidden widgets are not rendered, and rendering is what says whether there is something to show.
    if (!this.isDisposed) {
      this.setHidden(this.view.kind === 'nothing');
      this.update();
    }
  }

  private microvm: MicroVM | null = null;
  private watching: IDisposable | null = null;
}
