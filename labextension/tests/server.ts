/** A server in memory: answers the REST API as the real one does, and tells events. */
import type { ServerConnection } from '@jupyterlab/services';
import { Signal } from '@lumino/signaling';
import type { Kernel, PublicEvent, Snapshot, StateChanged } from '../src/generated';
import { Api, EVENT_SCHEMA } from '../src/api';

export function aKernel(changes: Partial<Kernel> = {}): Kernel {
  return {
    kernel_id: 'k1',
    state: 'running',
    tier: 'emulated',
    monitor: 'qemu',
    monitor_version: '7.2.22',
    vcpu_count: 2,
    mem_size_mib: 512,
    mem_used_mib: 310,
    uptime_s: 12.5,
    generation: 1,
    lineage: [],
    current: null,
    scope: 'a.ipynb',
    disk_bytes: 0,
    started: 'template',
    image: 'default',
    vm_id: 'vm1',
    network: 'none',
    ...changes
  };
}

let made = 0;

export function aSnapshot(changes: Partial<Snapshot> = {}): Snapshot {
  made += 1;
  return {
    id: `id${made}`,
    name: `s${made}`,
    description: '',
    created: new Date(Date.UTC(2026, 0, 1, 12, 0, made)).toISOString(),
    size_bytes: 3_000_000,
    parent: null,
    scope: 'a.ipynb',
    kernel_id: 'k1',
    has_notebook: false,
    mem_size_mib: 512,
    vcpu_count: 2,
    image: 'default',
    monitor: 'qemu',
    in_use: false,
    current: false,
    ...changes
  };
}

/** An event without what it has by default. */
type Occurrence =
  | (Partial<StateChanged> & Pick<StateChanged, 'action' | 'kernel_id' | 'state'>)
  | WithoutSeq<Exclude<PublicEvent, StateChanged>>;
type WithoutSeq<E> = E extends PublicEvent ? Omit<E, 'seq'> : never;

type Answer = { readonly status: number; readonly body?: unknown };

/** How requests are answered: `"GET status"` to a body, a status with a body, or a function that gives either. */
export type Routes = Record<string, unknown | ((body: any) => unknown)>;

export class Server {
  /** What was asked, in order. */
  readonly asked: { readonly what: string; readonly body: any }[] = [];

  constructor(readonly routes: Routes = {}) {}

  readonly events = { stream: new Signal<any, any>({}) };

  get api(): Api {
    return new Api(this.settings);
  }

  emit(event: Occurrence): void {
    this.emitted += 1;
    const common = { schema_id: EVENT_SCHEMA, seq: this.emitted };
    const defaults = event.action === 'state' ? { message: '', returncode: null, console: [], vm_ended: false } : {};
    this.events.stream.emit({ ...common, ...defaults, ...event });
  }

  private emitted = 0;

  private get settings(): ServerConnection.ISettings {
    return {
      baseUrl: 'http://here/user/ann/',
      appendToken: false,
      token: '',
      init: {},
      Headers,
      Request,
      WebSocket,
      fetch: async (request: Request) => this.answer(request),
      serializer: { serialize: () => '', deserialize: () => ({}) }
    } as unknown as ServerConnection.ISettings;
  }

  private async answer(request: Request): Promise<Response> {
    const what = `${request.method} ${request.url.replace('http://here/user/ann/fc-kernel/api/', '').replace(/[?&]\d+$/, '')}`;
    const text = request.method === 'GET' ? '' : await request.text();
    const body = text.startsWith('{') ? JSON.parse(text) : text;
    this.asked.push({ what, body });
    const route = this.routes[what];
    const said = await (typeof route === 'function' ? route(body) : route);
    if (said === undefined) {
      return new Response('<h1>404</h1>', { status: 404, statusText: 'Not Found' });
    }
    const answer = (said as Answer).status && !('kernel_id' in (said as object)) ? (said as Answer) : null;
    const status = answer?.status ?? 200;
    const content = answer ? answer.body : said;
    return new Response(status === 204 ? null : JSON.stringify(content), { status });
  }
}

/** Let everything that waits for nothing but its turn have it. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) {
    await Promise.resolve();
    await new Promise(resolve => setImmediate(resolve));
  }
}
