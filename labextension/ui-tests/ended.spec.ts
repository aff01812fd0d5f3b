import { execFileSync } from 'node:child_process';
import { chip, dialog, expect, idle, output, picture, run, tabs, test } from './lab';
import { open } from './lab';
import type { Page } from './lab';

/** End the monitor of the current notebook's microVM, as the host's out-of-memory killer would. */
async function killMonitor(page: Page): Promise<void> {
  const id = await page.evaluate(
    () => (window as any).jupyterapp.shell.currentWidget.sessionContext.session.kernel.id as string
  );
  const { vm_id } = await (await page.request.get(`fc-kernel/api/kernels/${id}`)).json();
  const ps = execFileSync(process.env.FC_KERNEL_PYTHON ?? 'python', ['-m', 'fc_kernel.cli', 'ps', '--json']);
  const entry = (JSON.parse(String(ps)) as { vm_id: string; pid: number }[]).find(each => each.vm_id === vm_id);
  expect(entry).toBeDefined();
  process.kill(entry!.pid, 'SIGKILL');
}

function ended(page: Page) {
  return dialog(page).filter({ hasText: 'The microVM of “a.ipynb” has ended' });
}

test('a microVM that has ended by itself is reported once, and the keyboard restarts its kernel', async ({
  page,
  tmpPath
}) => {
  // Lab's own dialogs follow, one for each view, when the server has restarted the kernel first.
  await page.addLocatorHandler(
    dialog(page).filter({ hasText: 'Kernel Restarting' }),
    async other => {
      await other.getByRole('button').click();
    },
    { noWaitAfter: true }
  );
  await open(page, tmpPath, 'a.ipynb', ['x = 1', 'print("x" in globals())']);
  await run(page, 0);
  await page.evaluate(async () => {
    await (window as any).jupyterapp.commands.execute('docmanager:clone', { options: { mode: 'tab-after' } });
  });
  await expect(tabs(page)).toHaveCount(2);
  await killMonitor(page);
  await expect(ended(page)).toBeVisible();
  await expect(ended(page).getByRole('alert')).toContainText('The microVM ended: ');
  await expect(ended(page).locator('pre')).toContainText(/\S/);
  await expect(ended(page).locator('pre')).not.toHaveText('The console is empty.');
  const restart = ended(page).getByRole('button', { name: 'Restart', exact: true });
  await expect(restart).toBeFocused();
  await picture(page, 'ended');
  await page.keyboard.press('Enter');
  await expect(ended(page)).toHaveCount(0);
  await expect(chip(page)).toHaveAttribute('data-state', 'running');
  await idle(page);
  await run(page, 1);
  await expect(output(page, 1)).toHaveText('False');
  await expect(ended(page)).toHaveCount(0);
});

test('a restart and a shutdown by the user are not reported', async ({ page, tmpPath }) => {
  await open(page, tmpPath, 'a.ipynb', ['x = 1']);
  await run(page, 0);
  await page.evaluate(async () => {
    await (window as any).jupyterapp.shell.currentWidget.sessionContext.restartKernel();
  });
  await expect(chip(page)).toHaveAttribute('data-state', 'running');
  await idle(page);
  await run(page, 0);
  await page.evaluate(async () => {
    await (window as any).jupyterapp.shell.currentWidget.sessionContext.shutdown();
  });
  await expect(chip(page)).toBeHidden();
  await expect(dialog(page)).toHaveCount(0);
});
