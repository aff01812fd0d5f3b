import { action, dialog, expect, output, panel, row, run, test } from './lab';
import { open } from './lab';

test('everything can be done with the keyboard alone', async ({ page, tmpPath }) => {
  await open(page, tmpPath, 'a.ipynb', ['x = 1', 'x = 2', 'print("x is", x)']);
  await run(page, 0);
  // New: a shortcut, a name, Enter.
  await page.keyboard.press('Control+Alt+s');
  await expect(dialog(page).getByLabel('Name')).toBeFocused();
  await page.keyboard.type('one');
  await page.keyboard.press('Enter');
  await expect(dialog(page)).toHaveCount(0);
  await run(page, 1);
  await page.keyboard.press('Control+Alt+m');
  await expect(row(page, 'one')).toBeFocused();
  // Rename in place.
  await page.keyboard.press('F2');
  await expect(dialog(page).getByLabel('Name')).toBeFocused();
  await page.keyboard.press('Control+A');
  await page.keyboard.type('renamed');
  await page.keyboard.press('Enter');
  await expect(row(page, 'renamed')).toBeVisible();
  // Restore: the question has its answer under Tab and Enter.
  await row(page, 'renamed').focus();
  await page.keyboard.press('Enter');
  await expect(dialog(page)).toBeVisible();
  await page.keyboard.press('Escape');
  await expect(dialog(page)).toHaveCount(0);
  await row(page, 'renamed').focus();
  await page.keyboard.press('Enter');
  await expect(dialog(page)).toBeVisible();
  await page.keyboard.press('Enter');
  await expect(dialog(page)).toHaveCount(0);
  await expect(row(page, 'renamed')).toHaveAttribute('aria-current', 'true');
  // The actions are reached with Shift+Tab from the tree.
  await row(page, 'renamed').focus();
  await page.keyboard.press('Shift+Tab');
  await page.keyboard.press('Shift+Tab');
  await expect(action(page, 'Timeline')).toBeFocused();
  await run(page, 2);
  await expect(output(page, 2)).toHaveText('x is 1');
  await page.keyboard.press('Control+Alt+m');
  await page.keyboard.press('Control+A');
  await page.keyboard.press('Delete');
  await expect(dialog(page)).toContainText('Delete 1 snapshot?');
  await page.keyboard.press('Enter');
  await expect(panel(page)).toContainText('No snapshots yet.');
});
