/**
 * The model: what is known of the microVMs. Data flows one way: the server's answers and events come in here, and views read it
 * when `changed` is emitted. Whoever changes something asks the server; the change comes back as an event.
 */
import type { IDisposable } from '@lumino/disposable';
import { DisposableDelegate } from '@lumino/disposable';
import { Debouncer, Poll } from '@lumino/polling';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';
import type { Api } from './api';
import type { Kernel, PublicEvent, Snapshot } from './generated';
import { ApiError, EVENT_SCHEMA } from './api';

/** Whether the server can report its microVMs. */
export type Availability = 'unknown' | 'ready' | 'missing' | 'gateway' | 'failed';

/** The part of Lab's event manager that is used here. */
export interface IEvents {
  readonly stream: ISignal<any, { readonly schema_id: string }>;
}

/** No event reports the memory in use; it is asked for this often while it is shown. */
const LOOK_MS = 10_000;
/** Events come in bursts, and one request answers them all. */
const SETTLE_MS = 200;

/** One kernel and what is known of its microVM. */
export class MicroVM implements IDisposable {
  constructor(
    private readonly api: Api,
    readonly kernelId: string
  ) {}

  /** `null` until the server has answered, and for kernels that run in no microVM. */
  get kernel(): Kernel | null {
    return this._kernel;
  }

  get snapshots(): readonly Snapshot[] {
    return this._snapshots;
  }

  /** Whether the server has answered whether this kernel runs in a microVM. */
  get isKnown(): boolean {
    return this._known;
  }

  /** The error of the last request, if it failed. */
  get trouble(): ApiError | null {
    return this._trouble;
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  snapshot(id: string | null): Snapshot | undefined {
    return this._snapshots.find(snapshot => snapshot.id === id);
  }

  dispose(): void {
    this._disposed = true;
    this.settle.dispose();
    Signal.clearData(this);
  }

  /** Ask the server for the kernel and its snapshots. Never throws: an error becomes `trouble`. */
  refresh(): Promise<void> {
    return this.look(async () => {
      const kernel = await this.api.kernel(this.kernelId);
      return { kernel, snapshots: await this.api.snapshots(this.kernelId) };
    });
  }

  /** Ask for the kernel; for the snapshots only when it shows that they differ from those known, as when an event was lost. */
  refreshKernel(): Promise<void> {
    return this.look(async () => {
      const kernel = await this.api.kernel(this.kernelId);
      const known = this._kernel;
      const isSame = known && known.current === kernel.current && known.disk_bytes === kernel.disk_bytes;
      return { kernel, snapshots: isSame ? this._snapshots : await this.api.snapshots(this.kernelId) };
    });
  }

  /** Have the server take a snapshot without the notebook; throws an {@link ApiError}. */
  async take(name: string, description: string): Promise<void> {
    await this.api.create(this.kernelId, { name, description });
  }

  /** Have the server delete a snapshot; throws an {@link ApiError}. */
  async drop(snapshot: Snapshot): Promise<void> {
    await this.api.delete(snapshot.id);
  }

  /** Take in an event; one that is about another kernel matters when it is about a snapshot of the same notebook. */
  apply(event: PublicEvent): void {
    const own = event.kernel_id === this.kernelId;
    const snapshot = 'snapshot' in event ? event.snapshot : null;
    if (!own && !(snapshot && snapshot.scope === this._kernel?.scope)) {
      return;
    }
    if (event.action === 'delete') {
      this._snapshots = this._snapshots.filter(other => other.id !== event.snapshot.id);
    } else if (snapshot && event.action !== 'fork') {
      const others = this._snapshots.filter(other => other.id !== snapshot.id);
      this._snapshots = [...others, snapshot];
    }
    if (own && this._kernel) {
      this._kernel = { ...this._kernel, ...changeBy(event) };
    }
    this.version += 1;
    this._changed.emit();
    void this.settle.invoke().catch(() => undefined);
  }

  private async look(ask: () => Promise<{ kernel: Kernel; snapshots: readonly Snapshot[] }>): Promise<void> {
    const version = this.version;
    try {
      const { kernel, snapshots } = await ask();
      if (version !== this.version) {
        // An event overtook the answer, so the server is asked again.
        this._known = true;
        this._kernel = this._kernel ?? kernel;
        void this.settle.invoke().catch(() => undefined);
      } else {
        this._known = true;
        this._trouble = null;
        this._kernel = kernel;
        this._snapshots = snapshots;
      }
    } catch (error) {
      const trouble = error instanceof ApiError ? error : new ApiError(0, String(error));
      if (trouble.status === 404) {
        // There is no microVM, or none any more. What is known of it is still shown.
        this._known = true;
        this._kernel = this._kernel && { ...this._kernel, state: 'dead' };
        this._trouble = null;
      } else {
        this._trouble = trouble;
      }
    }
    if (!this._disposed) {
      this._changed.emit();
    }
  }

  private _kernel: Kernel | null = null;
  private _snapshots: readonly Snapshot[] = [];
  private _known = false;
  private _trouble: ApiError | null = null;
  private _disposed = false;
  /** Raised with every event, so that an older answer does not undo it. */
  private version = 0;
  private readonly settle = new Debouncer(() => this.refresh(), SETTLE_MS);
  private readonly _changed = new Signal<this, void>(this);
}

/** What an event changes in its own kernel. */
function changeBy(event: PublicEvent): Partial<Kernel> {
  switch (event.action) {
    case 'state':
      return { state: event.state };
    case 'snapshot':
    case 'restore':
      return { current: event.snapshot.id };
    default:
      return {};
  }
}

/** All microVMs that some view shows. */
export class MicroVMs implements IDisposable {
  constructor(
    readonly api: Api,
    events: IEvents
  ) {
    this.events = events;
    events.stream.connect(this.onEvent, this);
    this.poll = new Poll({
      auto: false,
      factory: () => Promise.all([...this.watched.keys()].map(id => this.microvm(id).refreshKernel())),
      frequency: { interval: LOOK_MS, backoff: true, max: 12 * LOOK_MS },
      name: 'fc-kernel:microvms',
      standby: 'when-hidden'
    });
  }

  get availability(): Availability {
    return this._availability;
  }

  /** Emitted when the availability has changed. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Every event of the server, after the microVMs have taken it in. */
  get happened(): ISignal<this, PublicEvent> {
    return this._happened;
  }

  get isDisposed(): boolean {
    return this.poll.isDisposed;
  }

  /** Ask the server whether it can report its microVMs. Never throws. */
  async look(): Promise<Availability> {
    try {
      const status = await this.api.status();
      this._availability = status.gateway ? 'gateway' : 'ready';
    } catch (error) {
      const status = error instanceof ApiError ? error.status : 0;
      this._availability = status === 404 ? 'missing' : status === 501 ? 'gateway' : 'failed';
    }
    if (this._availability === 'ready') {
      this.microvms.forEach(microvm => void microvm.refresh());
      if (this.watched.size > 0) {
        void this.poll.start();
      }
    }
    this._changed.emit();
    return this._availability;
  }

  /** The microVM of a kernel. The first call makes it, and asks the server for it. */
  microvm(kernelId: string): MicroVM {
    let microvm = this.microvms.get(kernelId);
    if (!microvm) {
      microvm = new MicroVM(this.api, kernelId);
      this.microvms.set(kernelId, microvm);
      if (this._availability === 'ready') {
        void microvm.refresh();
      }
    }
    return microvm;
  }

  /** The microVM of a kernel, if {@link microvm} was called for it before. */
  known(kernelId: string | null): MicroVM | undefined {
    return kernelId === null ? undefined : this.microvms.get(kernelId);
  }

  /** Keep asking the server for a kernel until the result is disposed. */
  watch(kernelId: string): IDisposable {
    this.watched.set(kernelId, (this.watched.get(kernelId) ?? 0) + 1);
    if (this._availability === 'ready') {
      void this.poll.start();
    }
    return new DisposableDelegate(() => {
      const left = (this.watched.get(kernelId) ?? 1) - 1;
      if (left > 0) {
        this.watched.set(kernelId, left);
        return;
      }
      this.watched.delete(kernelId);
      if (this.watched.size === 0 && !this.poll.isDisposed) {
        void this.poll.stop();
      }
    });
  }

  dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this.events.stream.disconnect(this.onEvent, this);
    this.poll.dispose();
    this.microvms.forEach(microvm => microvm.dispose());
    this.microvms.clear();
    Signal.clearData(this);
  }

  private onEvent(_: unknown, emission: { readonly schema_id: string }): void {
    if (emission.schema_id !== EVENT_SCHEMA) {
      return;
    }
    const event = emission as unknown as PublicEvent;
    this.microvms.forEach(microvm => microvm.apply(event));
    this._happened.emit(event);
  }

  private _availability: Availability = 'unknown';
  private readonly events: IEvents;
  private readonly microvms = new Map<string, MicroVM>();
  private readonly watched = new Map<string, number>();
  private readonly poll: Poll;
  private readonly _changed = new Signal<this, void>(this);
  private readonly _happened = new Signal<this, PublicEvent>(this);
}
