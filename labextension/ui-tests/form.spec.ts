import { expect, test } from './lab';
import { chip, dialog, open } from './lab';
import type { Page } from './lab';
import type { Locator } from '@playwright/test';

async function inspector(page: Page): Promise<Locator> {
  await page.sidebar.openTab('jp-property-inspector');
  const form = page.getByRole('form', { name: 'MicroVM settings' });
  if (!(await form.isVisible())) {
    await page.locator('#jp-property-inspector').getByText('MicroVM', { exact: true }).click();
  }
  await expect(form).toBeVisible();
  return form;
}

async function settings(page: Page): Promise<unknown> {
  return page.evaluate(() => {
    const model = (window as any).jupyterapp.shell.currentWidget.content.model;
    return model.getMetadata('fc_kernel') ?? null;
  });
}

test('a value over the limit is an error at its field, and what is good is written', async ({ page, tmpPath }) => {
  await open(page, tmpPath, 'a.ipynb', ['1']);
  const form = await inspector(page);
  const vcpus = form.getByLabel('vCPUs');
  await vcpus.fill('200');
  await vcpus.press('Enter');
  const field = form.locator('[data-field="vcpu_count"]');
  await expect(field.getByRole('alert')).toHaveText(/^The administrator’s limit is \d+$/);
  await expect(vcpus).toHaveAttribute('aria-invalid', 'true');
  expect(await settings(page)).toBeNull();
  await vcpus.fill('2');
  await vcpus.press('Enter');
  await expect(field.getByRole('alert')).toBeEmpty();
  await expect(form.getByRole('status')).toContainText('Changed since the kernel started: vCPUs.');
  expect(await settings(page)).toEqual({ vcpu_count: 2 });
  await form.getByRole('button', { name: 'Save and restart…' }).click();
  await dialog(page).getByRole('button', { name: 'Confirm Kernel Restart' }).click();
  await expect(chip(page)).toContainText('2 vCPUs');
  await expect(form.getByRole('status')).toHaveCount(0);
});

test('the server’s word on what is in the notebook is shown at the field', async ({ page, tmpPath }) => {
  await open(page, tmpPath, 'a.ipynb', ['1']);
  await page.evaluate(() => {
    const model = (window as any).jupyterapp.shell.currentWidget.content.model;
    model.setMetadata('fc_kernel', { mem_size_mib: 99999999 });
  });
  const form = await inspector(page);
  const field = form.locator('[data-field="mem_size_mib"]');
  await expect(field.getByRole('alert')).toContainText('99999999');
  await expect(form.getByLabel('Memory (MiB)')).toHaveValue('99999999');
});
