/** What the tests do to a JupyterLab with real microVMs. */
import type { IJupyterLabPageFixture } from '@jupyterlab/galata';
import { expect, galata, test as base } from '@jupyterlab/galata';
import type { APIRequestContext, Locator } from '@playwright/test';

export type Page = IJupyterLabPageFixture;

export const test = base.extend<{ nothingIsLeft: void }>({
  // Not filtered: a fork's session is made by the server.
  kernels: async ({}, use) => use(null as never),
  sessions: async ({}, use) => use(null as never),
  mockSettings: async ({}, use) =>
    use({
      ...galata.DEFAULT_SETTINGS,
      '@jupyterlab/apputils-extension:notification': { fetchNews: 'false', checkForUpdates: false }
    }),
  nothingIsLeft: [
    async ({ request, tmpPath }, use) => {
      await clear(request, tmpPath);
      await use();
      await clear(request, tmpPath);
    },
    { auto: true }
  ]
});

export { expect };

/** End all kernels, and delete the snapshots of a folder's notebooks; others are somebody's: the store is the user's. */
async function clear(request: APIRequestContext, folder: string): Promise<void> {
  for (const session of await (await request.get('api/sessions')).json()) {
    await request.delete(`api/sessions/${session.id}`);
  }
  for (const snapshot of await (await request.get('fc-kernel/api/snapshots')).json()) {
    if (snapshot.scope.startsWith(`${folder}/`)) {
      await request.delete(`fc-kernel/api/snapshots/${snapshot.id}`);
    }
  }
}

interface INotebookOptions {
  readonly kernel?: string;
  readonly metadata?: object;
}

/** A notebook with these cells. */
export function notebookOf(cells: readonly string[], options: INotebookOptions = {}): object {
  const kernel = options.kernel ?? 'fc-python3';
  return {
    nbformat: 4,
    nbformat_minor: 5,
    metadata: { kernelspec: { name: kernel, display_name: kernel, language: 'python' }, ...options.metadata },
    cells: cells.map((source, at) => ({
      id: `cell-${at}`,
      cell_type: 'code',
      source,
      metadata: {},
      outputs: [],
      execution_count: null
    }))
  };
}

/** Open a new notebook with these cells, and wait until its microVM runs. */
export async function open(
  page: Page,
  folder: string,
  name: string,
  cells: readonly string[],
  options: INotebookOptions = {}
): Promise<void> {
  await page.contents.uploadContent(JSON.stringify(notebookOf(cells, options)), 'text', `${folder}/${name}`);
  await page.evaluate(async path => {
    await (window as any).jupyterapp.commands.execute('docmanager:open', { path });
  }, `${folder}/${name}`);
  await expect(front(page)).toBeVisible();
  if ((options.kernel ?? 'fc-python3') === 'fc-python3') {
    await expect(chip(page)).toHaveAttribute('data-state', 'running');
  }
  await idle(page);
}

/** The tabs of documents. */
export function tabs(page: Page): Locator {
  return page.locator('#jp-main-dock-panel .lm-TabBar-tab[data-type="document-title"]');
}

/** The notebook in front. */
export function front(page: Page): Locator {
  return page.locator('.jp-NotebookPanel:not(.lm-mod-hidden)');
}

export function chip(page: Page): Locator {
  return front(page).locator('.fc-Chip-button');
}

export function cell(page: Page, at: number): Locator {
  return front(page).locator('.jp-Notebook .jp-Cell').nth(at);
}

export function output(page: Page, at: number): Locator {
  return cell(page, at).locator('.jp-OutputArea-output');
}

/** Wait until the kernel of the notebook in front has nothing to do. */
export async function idle(page: Page): Promise<void> {
  await expect(front(page).locator('.jp-Notebook-ExecutionIndicator')).toHaveAttribute('data-status', 'idle');
}

/** Run a cell and wait for its number. */
export async function run(page: Page, at: number): Promise<void> {
  await select(page, at);
  await page.keyboard.press('Control+Enter');
  await expect(cell(page, at).locator('.jp-InputPrompt')).toHaveText(/\[\d+\]:/);
}

/** Give a cell the focus, in command mode. */
export async function select(page: Page, at: number): Promise<void> {
  await cell(page, at).locator('.jp-InputPrompt').click();
}

/** Replace a cell's source. */
export async function write(page: Page, at: number, source: string): Promise<void> {
  await cell(page, at).locator('.cm-content').click();
  await page.keyboard.press('Control+A');
  await page.keyboard.type(source);
  await page.keyboard.press('Escape');
}

/** Resolves when the server has put a microVM back. */
export async function restored(page: Page): Promise<void> {
  const response = await page.waitForResponse(answer => new URL(answer.url()).pathname.endsWith('/restore'));
  expect(response.status()).toBe(200);
}

export function panel(page: Page): Locator {
  return page.locator('#fc-kernel-snapshots');
}

export async function showPanel(page: Page): Promise<Locator> {
  await chip(page).click();
  await expect(panel(page)).toBeVisible();
  return panel(page);
}

export function row(page: Page, name: string): Locator {
  return panel(page)
    .getByRole('treeitem')
    .filter({ has: page.locator('.fc-Tree-name').getByText(name, { exact: true }) });
}

export function action(page: Page, name: string): Locator {
  return panel(page).getByRole('group').getByRole('button', { name, exact: true });
}

export function dialog(page: Page): Locator {
  return page.locator('.jp-Dialog');
}

/** A dialog's input of that label. */
export function named(page: Page, label = 'Name'): Locator {
  return dialog(page).getByRole('textbox', { name: label, exact: true });
}

/** Press a dialog's button and wait until it has gone; another dialog may have come. */
export async function answer(page: Page, label: string): Promise<void> {
  const button = dialog(page).getByRole('button', { name: label, exact: true });
  await button.click();
  await expect(button).toHaveCount(0);
}

/** Take a snapshot with the panel. */
export async function create(page: Page, name: string, description = ''): Promise<void> {
  await action(page, 'New').click();
  await named(page).fill(name);
  await dialog(page).getByLabel('Description').fill(description);
  await answer(page, 'Create');
  await expect(row(page, name)).toBeVisible();
}

/** The id of the kernel of the notebook in front, and the number of times its channels were opened. */
export function channels(page: Page): { readonly opened: string[] } {
  const opened: string[] = [];
  page.on('websocket', socket => {
    if (socket.url().includes('/channels')) {
      opened.push(socket.url());
    }
  });
  return { opened };
}

/** Keep a picture beside the results. */
export async function picture(page: Page, name: string): Promise<void> {
  await page.screenshot({ path: `${process.env.FC_KERNEL_UI_RESULTS ?? '../test-results'}/pictures/${name}.png` });
}
