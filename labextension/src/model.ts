/**
 * What is known of the machines. It flows one way: the server's answers and events come in here, views read and are told by
 * `changed`; whoever wants something else asks the server, and hears of it as everybody does.
 */
import type { IDisposable } from '@lumino/disposable';
import { DisposableDelegate } from '@lumino/disposable';
import { Debouncer, Poll } from '@lumino/polling';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';
import type { Api, IKernel, IMachineEvent, ISnapshot } from './api';
import { ApiError, EVENT_SCHEMA } from './api';

/** Whether the server can tell of machines at all. */
export type Availability = 'unknown' | 'ready' | 'missing' | 'gateway' | 'failed';

/** The part of Lab's event manager that is used. */
export interface IEvents {
  readonly stream: ISignal<any, { readonly schema_id: string }>;
}

/** Memory in use has no event; it is looked at this often while it is on the screen. */
const LOOK_MS = 10_000;
/** Events come in bursts, and one look answers them all. */
const SETTLE_MS = 200;

/** One kernel and what is known of it. */
export class Machine implements IDisposable {
  constructor(
    private readonly api: Api,
    readonly kernelId: string
  ) {}

  /** `null` until the server has told, and for kernels in no machine. */
  get kernel(): IKernel | null {
    return this._kernel;
  }

  get snapshots(): readonly ISnapshot[] {
    return this._snapshots;
  }

  /** Whether the server has told whether this kernel is in a machine. */
  get isKnown(): boolean {
    return this._known;
  }

  /** What kept the last look from its answer. */
  get trouble(): ApiError | null {
    return this._trouble;
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  snapshot(id: string | null): ISnapshot | undefined {
    return this._snapshots.find(snapshot => snapshot.id === id);
  }

  dispose(): void {
    this._disposed = true;
    this.settle.dispose();
    Signal.clearData(this);
  }

  /** Look at the kernel and its snapshots. Never throws: what went wrong is `trouble`. */
  refresh(): Promise<void> {
    return this.look(async () => {
      const kernel = await this.api.kernel(this.kernelId);
      return { kernel, snapshots: await this.api.snapshots(this.kernelId) };
    });
  }

  /** Look at the kernel; at the snapshots only where it tells of others than are known, as when an event was lost. */
  refreshKernel(): Promise<void> {
    return this.look(async () => {
      const kernel = await this.api.kernel(this.kernelId);
      const known = this._kernel;
      const isSame = known && known.current === kernel.current && known.disk_bytes === kernel.disk_bytes;
      return { kernel, snapshots: isSame ? this._snapshots : await this.api.snapshots(this.kernelId) };
    });
  }

  /** Have the server take a snapshot without the notebook; throws what the server says. */
  async take(name: string, description: string): Promise<void> {
    await this.api.create(this.kernelId, { name, description });
  }

  /** Have the server delete a snapshot; throws what the server says. */
  async drop(snapshot: ISnapshot): Promise<void> {
    await this.api.delete(snapshot.id);
  }

  /** Take in what the server tells everybody. */
  apply(event: IMachineEvent): void {
    const own = event.kernel_id === this.kernelId;
    const { snapshot } = event;
    if (!own && !(snapshot && snapshot.scope === this._kernel?.scope)) {
      return;
    }
    if (event.action === 'delete') {
      this._snapshots = this._snapshots.filter(other => other.id !== snapshot?.id);
    } else if (snapshot && event.action !== 'fork') {
      const others = this._snapshots.filter(other => other.id !== snapshot.id);
      this._snapshots = [...others, snapshot];
    }
    if (own && this._kernel) {
      const current =
        snapshot && (event.action === 'snapshot' || event.action === 'restore') ? snapshot.id : this._kernel.current;
      this._kernel = { ...this._kernel, current, state: event.state ?? this._kernel.state };
    }
    this.version += 1;
    this._changed.emit();
    void this.settle.invoke().catch(() => undefined);
  }

  private async look(ask: () => Promise<{ kernel: IKernel; snapshots: readonly ISnapshot[] }>): Promise<void> {
    const version = this.version;
    try {
      const { kernel, snapshots } = await ask();
      if (version !== this.version) {
        // An event overtook the answer, and has asked for another look.
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
        // No machine, or none any more; what it was is still worth showing.
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

  private _kernel: IKernel | null = null;
  private _snapshots: readonly ISnapshot[] = [];
  private _known = false;
  private _trouble: ApiError | null = null;
  private _disposed = false;
  /** Raised with every event, so that an older answer does not undo it. */
  private version = 0;
  private readonly settle = new Debouncer(() => this.refresh(), SETTLE_MS);
  private readonly _changed = new Signal<this, void>(this);
}

/** All machines that somebody looks at. */
export class Machines implements IDisposable {
  constructor(
    readonly api: Api,
    events: IEvents
  ) {
    this.events = events;
    events.stream.connect(this.onEvent, this);
    this.poll = new Poll({
      auto: false,
      factory: () => Promise.all([...this.watched.keys()].map(id => this.machine(id).refreshKernel())),
      frequency: { interval: LOOK_MS, backoff: true, max: 12 * LOOK_MS },
      name: 'fc-kernel:machines',
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

  /** Every event of the server, after the machines have taken it in. */
  get happened(): ISignal<this, IMachineEvent> {
    return this._happened;
  }

  get isDisposed(): boolean {
    return this.poll.isDisposed;
  }

  /** Ask the server whether it can tell of machines. Never throws. */
  async look(): Promise<Availability> {
    try {
      const status = await this.api.status();
      this._availability = status.gateway ? 'gateway' : 'ready';
    } catch (error) {
      const status = error instanceof ApiError ? error.status : 0;
      this._availability = status === 404 ? 'missing' : status === 501 ? 'gateway' : 'failed';
    }
    if (this._availability === 'ready') {
      this.machines.forEach(machine => void machine.refresh());
      if (this.watched.size > 0) {
        void this.poll.start();
      }
    }
    this._changed.emit();
    return this._availability;
  }

  /** The machine of a kernel; made, and looked at, when it is asked for the first time. */
  machine(kernelId: string): Machine {
    let machine = this.machines.get(kernelId);
    if (!machine) {
      machine = new Machine(this.api, kernelId);
      this.machines.set(kernelId, machine);
      if (this._availability === 'ready') {
        void machine.refresh();
      }
    }
    return machine;
  }

  /** The machine of a kernel that somebody has asked for before. */
  known(kernelId: string | null): Machine | undefined {
    return kernelId === null ? undefined : this.machines.get(kernelId);
  }

  /** Keep looking at a kernel until the result is disposed. */
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
    this.machines.forEach(machine => machine.dispose());
    this.machines.clear();
    Signal.clearData(this);
  }

  private onEvent(_: unknown, emission: { readonly schema_id: string }): void {
    if (emission.schema_id !== EVENT_SCHEMA) {
      return;
    }
    const event = emission as unknown as IMachineEvent;
    this.machines.forEach(machine => machine.apply(event));
    this._happened.emit(event);
  }

  private _availability: Availability = 'unknown';
  private readonly events: IEvents;
  private readonly machines = new Map<string, Machine>();
  private readonly watched = new Map<string, number>();
  private readonly poll: Poll;
  private readonly _changed = new Signal<this, void>(this);
  private readonly _happened = new Signal<this, IMachineEvent>(this);
}
