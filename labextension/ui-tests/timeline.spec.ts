import { action, cell, expect, front, idle, output, panel, picture, run, select, showPanel, test } from './lab';
import { open } from './lab';

test('each cell that ran can be gone back to before', async ({ page, tmpPath }) => {
  await open(page, tmpPath, 'a.ipynb', ['x = [1]', 'x.append(2)', '# nothing', 'x.append(3)', 'print("x is", x)']);
  await showPanel(page);
  await action(page, 'Timeline').click();
  await expect(action(page, 'Timeline')).toHaveAttribute('aria-pressed', 'true');
  await expect(panel(page).getByRole('treeitem')).toHaveCount(1);
  // All are sent at once, and yet each has a snapshot of its own.
  await page.menu.clickMenuItem('Run>Run All Cells');
  await expect(output(page, 4)).toHaveText('x is [1, 2, 3]');
  const back = (at: number) => cell(page, at).getByRole('button', { name: 'Restore the microVM to before this cell' });
  await expect(back(4)).toBeVisible();
  for (const at of [0, 1, 3]) {
    await expect(back(at)).toBeVisible();
    await expect(cell(page, at).locator('.fc-Mark-cost')).toHaveText(/\d MiB|\d KiB/);
  }
  await expect(cell(page, 2).locator('.fc-Mark')).toHaveCount(0);
  await expect(panel(page).getByRole('treeitem')).toHaveCount(5);
  await idle(page);
  await picture(page, 'timeline');
  await back(3).click();
  await expect(page.getByText('The microVM was restored to its state before the cell.')).toBeVisible();
  await expect(cell(page, 3).locator('.fc-Mark')).toHaveCount(0);
  await run(page, 4);
  await expect(output(page, 4)).toHaveText('x is [1, 2]');
});

test('the budget keeps the newest, and the timeline can be switched off', async ({ page, tmpPath }) => {
  await page.evaluate(async () => {
    const registry = await (window as any).galata.getPlugin('@jupyterlab/apputils-extension:settings');
    await registry.set('fc-kernel:plugin', 'timelineCount', 2);
  });
  await open(page, tmpPath, 'a.ipynb', ['x = 1', 'x = 2', 'x = 3']);
  await showPanel(page);
  await action(page, 'Timeline').click();
  await expect(panel(page).getByRole('treeitem')).toHaveCount(1);
  for (const at of [0, 1, 2]) {
    await run(page, at);
    await expect(cell(page, at).locator('.fc-Mark-cost')).toBeVisible();
  }
  await expect(panel(page).getByRole('treeitem')).toHaveCount(2);
  await action(page, 'Timeline').click();
  await expect(front(page).locator('.fc-Mark')).toHaveCount(0);
  await select(page, 0);
  await run(page, 0);
  await idle(page);
  await expect(panel(page).getByRole('treeitem')).toHaveCount(2);
});
