/**
 * A client of the REST API of the server extension `fc-kernel`. Nothing else in this extension asks the server about microVMs.
 * The types of its answers and events are generated: see `generated.ts`.
 */
import { URLExt } from '@jupyterlab/coreutils';
import type { INotebookContent } from '@jupyterlab/nbformat';
import { ServerConnection } from '@jupyterlab/services';
import type { JSONObject, ReadonlyJSONObject } from '@lumino/coreutils';
import type {
  ChangeSnapshot,
  Console,
  CreateSnapshot,
  Fork,
  ForkedKernel,
  Kernel,
  Snapshot,
  Status
} from './generated';

export const EVENT_SCHEMA = 'https://fc-kernel.readthedocs.io/events/v1';

/** The server refused a request or failed. `message` is one line to show, `details` are the last lines of the guest's console. */
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

/** The status of a request that was not answered, because there is no network, say. */
export const NO_ANSWER = 0;

export class Api {
  constructor(private readonly settings: ServerConnection.ISettings = ServerConnection.makeSettings()) {}

  status(): Promise<Status> {
    return this.ask('GET', 'status');
  }

  /** The JSON Schema of `metadata.fc_kernel`, with the administrator's limits. */
  schema(): Promise<JSONObject> {
    return this.ask('GET', 'schema');
  }

  /** Have the server check settings as it would at a start; throws an {@link ApiError} with `field` when it refuses one. */
  async check(settings: ReadonlyJSONObject): Promise<void> {
    await this.ask('POST', 'schema', settings);
  }

  kernel(kernelId: string): Promise<Kernel> {
    return this.ask('GET', `kernels/${encodeURIComponent(kernelId)}`);
  }

  snapshots(kernelId: string): Promise<Snapshot[]> {
    return this.ask('GET', `kernels/${encodeURIComponent(kernelId)}/snapshots`);
  }

  create(kernelId: string, options: CreateSnapshot): Promise<Snapshot> {
    return this.ask('POST', `kernels/${encodeURIComponent(kernelId)}/snapshots`, options);
  }

  restore(kernelId: string, snapshotId: string): Promise<Kernel> {
    return this.ask('POST', `kernels/${encodeURIComponent(kernelId)}/restore`, { snapshot: snapshotId });
  }

  fork(kernelId: string, options: Fork): Promise<ForkedKernel[]> {
    return this.ask('POST', `kernels/${encodeURIComponent(kernelId)}/fork`, options);
  }

  change(snapshotId: string, options: ChangeSnapshot): Promise<Snapshot> {
    return this.ask('PATCH', `snapshots/${encodeURIComponent(snapshotId)}`, options);
  }

  async delete(snapshotId: string): Promise<void> {
    await this.ask('DELETE', `snapshots/${encodeURIComponent(snapshotId)}`);
  }

  notebook(snapshotId: string): Promise<INotebookContent> {
    return this.ask('GET', `snapshots/${encodeURIComponent(snapshotId)}/notebook`);
  }

  import(scope: string, file: Blob): Promise<Snapshot> {
    return this.ask('POST', `snapshots/import?scope=${encodeURIComponent(scope)}`, file);
  }

  async console(kernelId: string): Promise<readonly string[]> {
    const { lines } = await this.ask<Console>('GET', `kernels/${encodeURIComponent(kernelId)}/console`);
    return lines;
  }

  /** The address from which a browser downloads a snapshot. A snapshot may be larger than what a page should hold. */
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
      throw new ApiError(NO_ANSWER, `The Jupyter server did not answer: ${(error as Error).message}`);
    }
    if (!response.ok) {
      throw await refusal(response);
    }
    return (response.status === 204 ? undefined : await response.json()) as T;
  }
}

async function refusal(response: Response): Promise<ApiError> {
  let body: Record<string, unknown> = {};
  try {
    body = await response.json();
  } catch {
    // Not our answer but a proxy's page, say. Its status tells what it means.
  }
  const text = (value: unknown): string => (typeof value === 'string' ? value : '');
  return new ApiError(
    response.status,
    text(body.message) || `${response.status} ${response.statusText}`.trim(),
    text(body.reason),
    Array.isArray(body.details) ? body.details.map(String) : [],
    text(body.field) || null
  );
}
