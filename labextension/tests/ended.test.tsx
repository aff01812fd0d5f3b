import { nullTranslator } from '@jupyterlab/translation';
import * as React from 'react';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { EndDialogs } from '../src/ended';
import { MicroVMs } from '../src/model';
import { aKernel, Server, settled } from './server';

const EVIL = '<img src=x onerror=alert(1)>';
const END = {
  kernel_id: 'k1',
  action: 'state',
  state: 'dead',
  vm_ended: true,
  message: 'the microVM ended: killed by signal 9',
  returncode: -9,
  console: ['[    0.1] booting', `last words ${EVIL}`]
} as const;

describe('the dialog at the end of a microVM', () => {
  let server: Server;
  let microvms: MicroVMs;
  let sessionContext: any;

  const aPanel = (): any => ({ isDisposed: false, title: { label: 'a.ipynb' }, sessionContext });

  /** Events reach React outside of its own handlers. */
  const happens = async (event: Parameters<Server['emit']>[0]): Promise<void> => {
    await React.act(async () => {
      server.emit(event);
      await settled();
    });
  };
  const shown = (): HTMLElement[] => [...document.querySelectorAll<HTMLElement>('.jp-Dialog')];
  const button = (label: string): HTMLElement =>
    [...shown()[0].querySelectorAll<HTMLElement>('button')].find(each => each.textContent === label)!;
  const press = async (label: string): Promise<void> => {
    await React.act(async () => {
      button(label).click();
      await settled();
    });
  };

  beforeEach(async () => {
    server = new Server({
      'GET status': { version: '0.1.0', tier: 'emulated', gateway: false },
      'GET kernels/k1': aKernel({ state: 'dead' }),
      'GET kernels/k1/snapshots': []
    });
    microvms = new MicroVMs(server.api, server.events);
    await microvms.look();
    microvms.microvm('k1');
    await settled();
    sessionContext = {
      session: { kernel: { id: 'k1', status: 'idle', isDisposed: false } },
      kernelDisplayStatus: 'idle',
      prevKernelName: 'fc-python3',
      restartKernel: vi.fn(async () => undefined),
      changeKernel: vi.fn(async () => null)
    };
    // Two views of one notebook.
    const panels = [aPanel(), aPanel()];
    const tracker: any = { find: (test: (panel: any) => boolean) => panels.find(test) };
    new EndDialogs({ microvms, tracker, trans: nullTranslator.load('') });
  });

  afterEach(async () => {
    if (shown().length > 0) {
      await press('Close');
    }
    microvms.dispose();
    document.body.replaceChildren();
  });

  it('says why, shows the console as text, and has two answers', async () => {
    await happens(END);
    expect(shown()).toHaveLength(1);
    const [dialog] = shown();
    expect(dialog.querySelector('.jp-Dialog-header')!.textContent).toContain('The microVM of “a.ipynb” has ended');
    expect(dialog.querySelector('[role="alert"]')!.textContent).toBe('The microVM ended: killed by signal 9');
    expect(dialog.querySelector('pre')!.textContent).toBe(`[    0.1] booting\nlast words ${EVIL}`);
    expect(dialog.querySelector('details')!.open).toBe(true);
    expect(dialog.querySelector('pre')!.tabIndex).toBe(0);
    expect(dialog.querySelector('img')).toBeNull();
    expect([...dialog.querySelectorAll('.jp-Dialog-footer button')].map(each => each.textContent)).toEqual([
      'Close',
      'Restart'
    ]);
  });

  it('appears once for an end, and again for the next', async () => {
    await happens(END);
    await happens(END);
    await press('Close');
    await happens(END);
    expect(shown()).toHaveLength(0);
    await happens({ kernel_id: 'k1', action: 'state', state: 'booting' });
    await happens(END);
    expect(shown()).toHaveLength(1);
    // The restarter's kernel ends, too, while somebody reads.
    await happens({ kernel_id: 'k1', action: 'state', state: 'booting' });
    await happens(END);
    await press('Close');
    expect(shown()).toHaveLength(0);
  });

  it('does not appear when only the kernel process ended, or when no open notebook has the kernel', async () => {
    await happens({ ...END, vm_ended: false, message: 'the kernel process ended with status 0' });
    await happens({ ...END, kernel_id: 'other' });
    expect(shown()).toHaveLength(0);
  });

  it.each(['restarting', 'terminating'])('does not appear while the user has it %s', async status => {
    sessionContext.session.kernel.status = status;
    await happens(END);
    expect(shown()).toHaveLength(0);
  });

  it('restarts the kernel, or leaves it', async () => {
    await happens(END);
    await press('Restart');
    expect(sessionContext.restartKernel).toHaveBeenCalledTimes(1);
    await happens({ kernel_id: 'k1', action: 'state', state: 'booting' });
    await happens(END);
    await press('Close');
    expect(sessionContext.restartKernel).toHaveBeenCalledTimes(1);
    expect(sessionContext.changeKernel).not.toHaveBeenCalled();
  });

  it('starts a new kernel where the server has given the old one up', async () => {
    await happens(END);
    sessionContext.session.kernel.isDisposed = true;
    await press('Restart');
    expect(sessionContext.changeKernel).toHaveBeenCalledWith({ name: 'fc-python3' });
    expect(sessionContext.restartKernel).not.toHaveBeenCalled();
  });

  it('shows that the server restarts the kernel, and does not do so twice', async () => {
    await happens(END);
    const status = shown()[0].querySelector('[role="status"]')!;
    expect(status.textContent).toBe('');
    await happens({ kernel_id: 'k1', action: 'state', state: 'booting' });
    expect(status.textContent).toBe('The kernel is restarting in a new microVM.');
    server.routes['GET kernels/k1'] = aKernel();
    await happens({ kernel_id: 'k1', action: 'state', state: 'running' });
    expect(status.textContent).toBe('The kernel was restarted in a new microVM.');
    await press('Restart');
    expect(sessionContext.restartKernel).not.toHaveBeenCalled();
  });

  it('tells an error of the restart', async () => {
    sessionContext.restartKernel.mockRejectedValue(new Error('no memory left'));
    await happens(END);
    await press('Restart');
    expect(shown()[0].querySelector('.jp-Dialog-header')!.textContent).toBe('The kernel could not be restarted');
    expect(shown()[0].querySelector('[role="alert"]')!.textContent).toBe('no memory left');
  });
});
