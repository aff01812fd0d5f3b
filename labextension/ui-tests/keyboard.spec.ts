import { action, dialog, expect, named, output, panel, restored, row, run, test } from './lab';
import { open } from './lab';

test('everything can be done with the keyboard alone', async ({ page, tmpPath }) => {
  await open(page, tmpPath, 'a.ipynb', ['x = 1', 'x = 2', 'print("x is", x)']);
  await run(page, 0);
  // New: a shortcut, a name, Enter.
  await page.keyboard.press('Control+Alt+s');
  await expect(named(page)).toBeFocused();
  await page.keyboard.type('one');
  await page.keyboard.press('Enter');
  // The panel is not shown yet, but knows.
  await expect(page.locator('.fc-Tree-row')).toHaveCount(1);
  await run(page, 1);
  await page.keyboard.press('Control+Alt+m');
  await expect(row(page, 'one')).toBeFocused();
  // Rename in place.
  await page.keyboard.press('F2');
  await expect(named(page)).toBeFocused();
  await page.keyboard.press('Control+A');
  await page.keyboard.type('renamed');
  await page.keyboard.press('Enter');
  await expect(row(page, 'renamed')).toBeVisible();
  // Restore: the question has its answer under Tab and Enter.
  await row(page, 'renamed').focus();
  await page.keyboard.press('Enter');
  const restore = dialog(page).getByRole('button', { name: 'Restore', exact: true });
  await expect(restore).toBeFocused();
  await page.keyboard.press('Escape');
  await expect(dialog(page)).toHaveCount(0);
  await row(page, 'renamed').focus();
  await page.keyboard.press('Enter');
  await expect(restore).toBeFocused();
  const back = restored(page);
  await page.keyboard.press('Enter');
  await back;
  await expect(dialog(page)).toHaveCount(0);
  await expect(row(page, 'renamed')).toHaveAttribute('aria-current', 'true');
  // The actions are reached with Shift+Tab from the tree.
  await row(page, 'renamed').focus();
  await page.keyboard.press('Shift+Tab');
  await page.keyboard.press('Shift+Tab');
  await expect(action(page, 'Timeline')).toBeFocused();
  await run(page, 2);
  await expect(output(page, 2)).toHaveText('x is 1');
  // Two more, of which the older is deleted.
  for (const name of ['two', 'three']) {
    await page.keyboard.press('Control+Alt+s');
    await expect(named(page)).toBeFocused();
    await page.keyboard.type(name);
    await page.keyboard.press('Enter');
    await expect(row(page, name)).toBeVisible();
  }
  await page.keyboard.press('Control+Alt+m');
  await page.keyboard.press('Home');
  await page.keyboard.press('ArrowDown');
  await expect(row(page, 'two')).toBeFocused();
  await page.keyboard.press('Delete');
  await expect(dialog(page)).toContainText('Delete 1 snapshot?');
  await expect(dialog(page).getByRole('button', { name: 'Delete', exact: true })).toBeFocused();
  await page.keyboard.press('Enter');
  await expect(row(page, 'two')).toHaveCount(0);
  await expect(panel(page).getByRole('treeitem')).toHaveCount(2);
});
