import type { PlaywrightTestConfig } from '@playwright/test';

/** A guest under emulation is about eleven times slower than the host, and the host may be busy. */
const DEADLINE_MS = 180_000;

const config: PlaywrightTestConfig = {
  testDir: '.',
  outputDir: process.env.FC_KERNEL_UI_RESULTS ?? '../test-results',
  timeout: 2 * DEADLINE_MS,
  expect: { timeout: DEADLINE_MS / 2 },
  // The microVMs share what memory there is.
  workers: 1,
  fullyParallel: false,
  forbidOnly: true,
  retries: 0,
  reporter: [['list']],
  use: {
    baseURL: process.env.FC_KERNEL_UI_URL,
    actionTimeout: DEADLINE_MS / 2,
    viewport: { width: 1280, height: 900 },
    trace: 'off',
    video: 'off',
    screenshot: 'only-on-failure',
    launchOptions: {
      executablePath: process.env.FC_KERNEL_CHROMIUM ?? '/usr/bin/chromium',
      args: [
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--no-first-run',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
        '--disable-dev-shm-usage'
      ]
    }
  }
};

export default config;
