import {
  action,
  answer,
  cell,
  channels,
  chip,
  create,
  notebookOf,
  dialog,
  expect,
  front,
  idle,
  named,
  output,
  panel,
  picture,
  restored,
  row,
  run,
  showPanel,
  tabs,
  test,
  write
} from './lab';
import { open } from './lab';

const EVIL = '<img src=x onerror="window.evil = true">';

test('the chip tells of the microVM, and of no other kernel', async ({ page, tmpPath }) => {
  await open(page, tmpPath, 'a.ipynb', ['1 + 1']);
  await expect(chip(page)).toContainText('Emulated');
  await expect(chip(page)).toContainText(/\d+ vCPU/);
  await expect(chip(page)).toContainText(/\d+ of \d+ MiB/);
  await expect(chip(page)).toContainText('running');
  await expect(chip(page)).toHaveAttribute('title', /promises no isolation/);
  await chip(page).click();
  await expect(panel(page)).toBeVisible();
  await expect(panel(page)).toContainText('No snapshots yet.');
  await open(page, tmpPath, 'plain.ipynb', ['1 + 1'], { kernel: 'python3' });
  await expect(front(page).locator('.fc-Chip')).toBeHidden();
  await expect(panel(page)).toContainText('Open a notebook with a microVM kernel to see its snapshots.');
});

test('a snapshot that a cell takes appears in the panel', async ({ page, tmpPath }) => {
  await open(page, tmpPath, 'a.ipynb', ['x = 1', '%snapshot from-a-cell -m "in words"']);
  await showPanel(page);
  await run(page, 0);
  await run(page, 1);
  await expect(row(page, 'from-a-cell')).toContainText('in words');
  await expect(row(page, 'from-a-cell')).toHaveAttribute('aria-current', 'true');
});

test('a restore gives the old value to the next cell, in the same tab, without a reconnect', async ({
  page,
  tmpPath
}) => {
  const { opened } = channels(page);
  await open(page, tmpPath, 'a.ipynb', ['x = 1', 'x = 2', 'print("x is", x)']);
  await showPanel(page);
  await run(page, 0);
  await create(page, 'before');
  await run(page, 1);
  await create(page, 'after', 'x is two');
  await row(page, 'before').click();
  const before = opened.length;
  await action(page, 'Restore').click();
  await expect(dialog(page)).toContainText('is lost');
  const back = restored(page);
  await answer(page, 'Restore');
  await back;
  await expect(row(page, 'before')).toHaveAttribute('aria-current', 'true');
  await expect(chip(page)).toHaveAttribute('data-state', 'running');
  await run(page, 2);
  await expect(output(page, 2)).toHaveText('x is 1');
  expect(opened.length).toBe(before);
  await expect(dialog(page)).toHaveCount(0);
  await expect(page.locator('.jp-Notification, .Toastify__toast')).toHaveCount(0);
  // What comes now is a line of its own.
  await write(page, 1, 'x = 3');
  await run(page, 1);
  await create(page, 'another');
  await expect(row(page, 'another')).toHaveAttribute('aria-level', '1');
  await expect(row(page, 'after')).toHaveAttribute('aria-level', '2');
  await picture(page, 'panel');
});

test('a fork opens a tab, and both go their own ways', async ({ page, tmpPath }) => {
  await open(page, tmpPath, 'a.ipynb', ['x = "shared"', 'x += " and source"', 'print(x)']);
  await showPanel(page);
  await run(page, 0);
  await create(page, 'shared');
  await run(page, 1);
  await row(page, 'shared').click();
  await action(page, 'Fork').click();
  await expect(tabs(page)).toHaveCount(2);
  await expect(page.locator('#jp-main-dock-panel .lm-TabBar-tab.lm-mod-current')).not.toContainText(/^a\.ipynb$/);
  await expect(chip(page)).toHaveAttribute('data-state', 'running');
  await idle(page);
  await write(page, 1, 'x += " and fork"');
  await run(page, 1);
  await run(page, 2);
  await expect(output(page, 2)).toHaveText('shared and fork');
  await page.locator('#jp-main-dock-panel').getByRole('tab', { name: 'a.ipynb', exact: true }).click();
  await run(page, 2);
  await expect(output(page, 2)).toHaveText('shared and source');
  // Opened already, so not offered.
  await expect(page.locator('.Toastify__toast')).toHaveCount(0);
});

test('a fork that a cell makes is offered', async ({ page, tmpPath }) => {
  await open(page, tmpPath, 'a.ipynb', ['x = "both"', '%fork', 'print(x)']);
  await run(page, 0);
  await run(page, 1);
  await page.getByRole('button', { name: 'Open in a new tab' }).click();
  await expect(tabs(page)).toHaveCount(2);
  await expect(page.locator('#jp-main-dock-panel .lm-TabBar-tab.lm-mod-current')).not.toContainText(/^a\.ipynb$/);
  await expect(chip(page)).toHaveAttribute('data-state', 'running');
  await idle(page);
  await run(page, 2);
  await expect(output(page, 2)).toHaveText('both');
});

test('a kernel that cannot start says why in one line', async ({ page, tmpPath }) => {
  await page.contents.uploadContent(
    JSON.stringify(notebookOf(['1'], { metadata: { fc_kernel: { vcpu_count: 200 } } })),
    'text',
    `${tmpPath}/large.ipynb`
  );
  await page.evaluate(async path => {
    await (window as any).jupyterapp.commands.execute('docmanager:open', { path });
  }, `${tmpPath}/large.ipynb`);
  await expect(dialog(page)).toContainText('vcpu_count');
  await expect(dialog(page)).toContainText('200');
});

test('notebook and microVM go back together', async ({ page, tmpPath }) => {
  await open(page, tmpPath, 'a.ipynb', ['x = 1\nprint("x is", x)', 'print("later", x)']);
  await showPanel(page);
  await run(page, 0);
  await create(page, 'both');
  await expect(row(page, 'both')).toContainText('with notebook');
  await write(page, 0, 'x = 2');
  await run(page, 0);
  await run(page, 1);
  await expect(output(page, 1)).toHaveText('later 2');
  await row(page, 'both').dblclick();
  await dialog(page).getByLabel('MicroVM and notebook').check();
  await answer(page, 'Restore');
  await expect(output(page, 0)).toHaveText('x is 1');
  await expect(output(page, 1)).toHaveCount(0);
  await expect(cell(page, 0).locator('.cm-content')).toContainText('print("x is", x)');
  await run(page, 1);
  await expect(output(page, 1)).toHaveText('later 1');
});

test('snapshots are renamed, filtered, exported, imported and deleted', async ({ page, tmpPath }) => {
  await open(page, tmpPath, 'a.ipynb', ['x = 1']);
  await showPanel(page);
  await create(page, 'one', 'the first');
  await create(page, 'two');
  await create(page, 'three');
  await row(page, 'two').click();
  await action(page, 'Rename').click();
  await named(page).fill('one');
  await expect(dialog(page).getByRole('alert')).toContainText('already');
  await named(page).fill('second');
  await answer(page, 'Rename');
  await expect(row(page, 'second')).toBeVisible();
  await panel(page).getByRole('searchbox').fill('FIRST');
  await expect(panel(page).getByRole('treeitem')).toHaveCount(1);
  await row(page, 'one').click();
  const [download] = await Promise.all([page.waitForEvent('download'), action(page, 'Export').click()]);
  expect(download.suggestedFilename()).toBe('one.fcsnapshot.tar');
  const file = await download.path();
  await panel(page).getByRole('searchbox').fill('');
  await row(page, 'one').click();
  await row(page, 'second').click({ modifiers: ['Control'] });
  await action(page, 'Delete 2').click();
  await expect(dialog(page)).toContainText('Delete 2 snapshots?');
  await answer(page, 'Delete');
  await expect(panel(page).getByRole('treeitem')).toHaveCount(1);
  // The running microVM uses its current snapshot.
  await row(page, 'three').click();
  await action(page, 'Delete').click();
  await answer(page, 'Delete');
  await expect(dialog(page)).toContainText('“three” could not be deleted');
  await answer(page, 'Close');
  // Galata looks at every request, and 300 MB are too much to look at.
  await page.unrouteAll();
  const [chooser] = await Promise.all([page.waitForEvent('filechooser'), action(page, 'Import').click()]);
  await chooser.setFiles(file);
  await expect(row(page, 'one')).toContainText('the first');
});

test('what the guest and the server say is shown as text', async ({ page, tmpPath }) => {
  await page.route(/\/fc-kernel\/api\/kernels\/[^/]+\/snapshots/, async route => {
    if (route.request().method() !== 'GET') {
      return route.continue();
    }
    const response = await route.fetch();
    const snapshots = await response.json();
    return route.fulfill({ response, json: snapshots.map((each: object) => ({ ...each, name: EVIL })) });
  });
  await open(page, tmpPath, 'a.ipynb', ['x = 1']);
  await showPanel(page);
  await action(page, 'New').click();
  await named(page).fill(EVIL);
  await expect(dialog(page).getByRole('alert')).toContainText('letters');
  await named(page).fill('harmless');
  await dialog(page).getByLabel('Description').fill(`${EVIL} described`);
  await answer(page, 'Create');
  await expect(row(page, EVIL)).toContainText(`${EVIL} described`);
  await row(page, EVIL).click();
  await action(page, 'Restore').click();
  await expect(dialog(page)).toContainText(EVIL);
  await answer(page, 'Cancel');
  await expect(page.locator('img[src="x"]')).toHaveCount(0);
  expect(await page.evaluate(() => (window as any).evil)).toBeUndefined();
});

test('an error is told in one line, with the console behind it', async ({ page, tmpPath }) => {
  await open(page, tmpPath, 'a.ipynb', ['x = 1']);
  await showPanel(page);
  await page.route(/\/fc-kernel\/api\/kernels\/[^/]+\/snapshots/, route =>
    route.request().method() === 'POST'
      ? route.fulfill({
          status: 507,
          json: { message: 'no space for a snapshot', reason: 'QuotaExceeded', details: ['a line', EVIL], field: null }
        })
      : route.continue()
  );
  await action(page, 'New').click();
  await dialog(page).getByRole('button', { name: 'Create' }).click();
  await expect(dialog(page).getByRole('alert')).toHaveText('no space for a snapshot');
  await expect(dialog(page).locator('pre')).toBeHidden();
  await dialog(page).getByText('Details').click();
  await expect(dialog(page).locator('pre')).toContainText(EVIL);
  await answer(page, 'Close');
});

test('without the server extension the chip explains itself', async ({ page, tmpPath }) => {
  const calls = /\/fc-kernel\/api\//;
  await page.route(calls, route => route.fulfill({ status: 404, body: '<h1>404</h1>' }));
  await page.reload();
  await page.contents.uploadContent(JSON.stringify(notebookOf(['1 + 1'])), 'text', `${tmpPath}/a.ipynb`);
  await page.evaluate(async path => {
    await (window as any).jupyterapp.commands.execute('docmanager:open', { path });
  }, `${tmpPath}/a.ipynb`);
  await expect(chip(page)).toHaveAttribute('data-state', 'unavailable');
  await expect(chip(page)).toHaveAttribute('title', /server extension fc_kernel is not enabled/);
  await idle(page);
  await run(page, 0);
  await expect(output(page, 0)).toHaveText('2');
  await expect(dialog(page)).toHaveCount(0);
  // Opening the panel asks the server again, so that a repair is seen.
  await page.unroute(calls);
  await chip(page).click();
  await expect(chip(page)).toHaveAttribute('data-state', 'running');
  await expect(panel(page)).toContainText('No snapshots yet.');
});
