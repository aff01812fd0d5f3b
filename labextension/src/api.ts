/**
 * The REST API of the server extension `fc-kernel`, and its events. Nothing else in this extension talks to the server
 * about machines.
 */
import { URLExt } from '@jupyterlab/coreutils';
import type { INotebookContent } from '@jupyterlab/nbformat';
import { ServerConnection } from '@jupyterlab/services';
import type { JSONObject, ReadonlyJSONObject } from '@lumino/coreutils';

export const EVENT_SCHEMA = 'https://fc-kernel.readthedocs.io/events/v1';

/** What a machine is doing. */
export type MachineState = 'booting' | 'running' | 'pausing' | 'restoring' | 'dead';

/** What isolation a machine really gives. */
export type Tier = 'jailed' | 'kvm' | 'emulated' | 'none';

/** A kernel and its machine; what is `null` is not known while there is no machine. */
export interface IKernel {
  readonly kernel_id: string;
  readonly state: MachineState;
  readonly tier: Tier | null;
  readonly monitor: string | null;
  readonly monitor_version: string | null;
  readonly vcpu_count: number | null;
  readonly mem_size_mib: number | null;
  readonly mem_used_mib: number | null;
  readonly uptime_s: number | null;
  readonly generation: number;
  readonly lineage: readonly { readonly id: string; readonly name: string }[];
  /** The snapshot that the machine's present goes on from. */
  readonly current: string | null;
  readonly scope: string;
  readonly disk_bytes: number;
  readonly started: string | null;
  readonly image: string | null;
  readonly vm_id: string | null;
  readonly network: string | null;
}

export interface ISnapshot {
  readonly id: string;
  readonly name: string;
  readonly description: string;
  readonly created: string;
  readonly size_bytes: number;
  readonly parent: string | null;
  readonly scope: string;
  readonly kernel_id: string | null;
  readonly has_notebook: boolean;
  readonly mem_size_mib: number;
  readonly vcpu_count: number;
  readonly image: string;
  readonly monitor: string;
  readonly in_use: boolean;
}

/** A kernel made by a fork; `path` is that of its notebook, a copy of the source's. */
export interface IFork {
  readonly kernel_id: string;
  readonly name: string;
  readonly path?: string | null;
  readonly session_id?: string | null;
}

export interface IStatus {
  readonly version: string;
  readonly tier: Tier | null;
  readonly gateway: boolean;
}

/** What happened to a machine, as the server tells all clients. */
export interface IMachineEvent {
  readonly kernel_id: string | null;
  readonly action: 'state' | 'snapshot' | 'restore' | 'fork' | 'rename' | 'delete';
  readonly state?: MachineState;
  readonly snapshot?: ISnapshot;
  readonly forks?: readonly IFork[];
  /** One line for people. */
  readonly message?: string;
}

/** The server refused, or could not. `message` is one clear line, `details` the tail of the machine's console. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly reason: string = '',
    readonly details: readonly string[] = [],
    /** The dotted path of the setting that was refused, where it was one. */
    readonly field: string | null = null
  ) {
    super(message);
    this.name = 'ApiError';
  }
}

/** Without a network there is no answer, and so no status. */
export const NO_ANSWER = 0;

export class Api {
  constructor(private readonly settings: ServerConnection.ISettings = ServerConnection.makeSettings()) {}

  status(): Promise<IStatus> {
    return this.ask('GET', 'status');
  }

  /** The JSON Schema of `metadata.fc_kernel`, with the administrator's limits. */
  schema(): Promise<JSONObject> {
    return this.ask('GET', 'schema');
  }

  /** Have the server look at settings as it would at a start; throws an {@link ApiError} with `field` where it refuses. */
  async check(settings: ReadonlyJSONObject): Promise<void> {
    await this.ask('POST', 'schema', settings);
  }

  kernel(kernelId: string): Promise<IKernel> {
    return this.ask('GET', `kernels/${encodeURIComponent(kernelId)}`);
  }

  snapshots(kernelId: string): Promise<ISnapshot[]> {
    return this.ask('GET', `kernels/${encodeURIComponent(kernelId)}/snapshots`);
  }

  create(
    kernelId: string,
    options: { name?: string; description?: string; notebook?: INotebookContent }
  ): Promise<ISnapshot> {
    return this.ask('POST', `kernels/${encodeURIComponent(kernelId)}/snapshots`, options);
  }

  restore(kernelId: string, snapshotId: string): Promise<IKernel> {
    return this.ask('POST', `kernels/${encodeURIComponent(kernelId)}/restore`, { snapshot: snapshotId });
  }

  fork(kernelId: string, options: { snapshot?: string; path?: string; count?: number }): Promise<IFork[]> {
    return this.ask('POST', `kernels/${encodeURIComponent(kernelId)}/fork`, options);
  }

  change(snapshotId: string, options: { name?: string; description?: string }): Promise<ISnapshot> {
    return this.ask('PATCH', `snapshots/${encodeURIComponent(snapshotId)}`, options);
  }

  async delete(snapshotId: string): Promise<void> {
    await this.ask('DELETE', `snapshots/${encodeURIComponent(snapshotId)}`);
  }

  notebook(snapshotId: string): Promise<INotebookContent> {
    return this.ask('GET', `snapshots/${encodeURIComponent(snapshotId)}/notebook`);
  }

  import(scope: string, file: Blob): Promise<ISnapshot> {
    return this.ask('POST', `snapshots/import?scope=${encodeURIComponent(scope)}`, file);
  }

  async console(kernelId: string): Promise<readonly string[]> {
    const { lines } = await this.ask<{ lines: string[] }>('GET', `kernels/${encodeURIComponent(kernelId)}/console`);
    return lines;
  }

  /** Where a browser downloads a snapshot from: it may be larger than what a page should hold. */
  exportUrl(snapshotId: string): string {
    const url = new URL(this.url(`snapshots/${encodeURIComponent(snapshotId)}/export`), document.baseURI);
    const xsrf = document.cookie.match('\\b_xsrf=([^;]*)\\b');
    if (xsrf) {
      url.searchParams.append('_xsrf', xsrf[1]);
    }
    return url.toString();
  }

  private url(path: string): string {
    return URLExt.join(this.settings.baseUrl, 'fc-kernel', 'api', path);
  }

  private async ask<T>(method: string, path: string, body?: unknown): Promise<T> {
    const init: RequestInit = { method };
    if (body instanceof Blob) {
      init.body = body;
      init.headers = { 'Content-Type': 'application/octet-stream' };
    } else if (body !== undefined) {
      init.body = JSON.stringify(body);
    }
    let response: Response;
    try {
      response = await ServerConnection.makeRequest(this.url(path), init, this.settings);
    } catch (error) {
      throw new ApiError(NO_ANSWER, `The Jupyter server does not answer: ${(error as Error).message}`);
    }
    if (!response.ok) {
      throw await refusal(response);
    }
    return (response.status === 204 ? undefined : await response.json()) as T;
  }
}

async function refusal(response: Response): Promise<ApiError> {
  let said: Record<string, unknown> = {};
  try {
    said = await response.json();
  } catch {
    // A proxy's page, say: what it means is in its status.
  }
  const text = (value: unknown): string => (typeof value === 'string' ? value : '');
  return new ApiError(
    response.status,
    text(said.message) || `${response.status} ${response.statusText}`.trim(),
    text(said.reason),
    Array.isArray(said.details) ? said.details.map(String) : [],
    text(said.field) || null
  );
}
