import { nullTranslator } from '@jupyterlab/translation';
import * as React from 'react';
import { createRoot } from 'react-dom/client';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Snapshot } from '../src/generated';
import { nameFault } from '../src/dialogs';
import { MicroVM } from '../src/model';
import { untrusted } from '../src/operations';
import { PanelView } from '../src/panel/view';
import { aKernel, aSnapshot, Server } from './server';

const trans = nullTranslator.load('');
const EVIL = '<img src=x onerror=alert(1)>';

describe('the panel', () => {
  const a = aSnapshot({ name: 'a' });
  const b = aSnapshot({ name: 'b', parent: a.id, has_notebook: true });
  const side = aSnapshot({ name: 'side', parent: a.id });
  const actions = {
    create: vi.fn(),
    restore: vi.fn(),
    fork: vi.fn(),
    rename: vi.fn(),
    delete: vi.fn(),
    export: vi.fn(),
    import: vi.fn(),
    timeline: vi.fn()
  };
  let node: HTMLElement;
  let chosen: readonly string[] = [];

  const show = async (snapshots: readonly Snapshot[], current: string | null = b.id): Promise<void> => {
    const server = new Server({
      'GET kernels/k1': aKernel({ current, disk_bytes: 9_000_000 }),
      'GET kernels/k1/snapshots': snapshots
    });
    const microvm = new MicroVM(server.api, 'k1');
    await microvm.refresh();
    React.act(() =>
      createRoot(node).render(
        <PanelView
          availability="ready"
          microvm={microvm}
          heading="a.ipynb"
          timeline={false}
          actions={actions}
          trans={trans}
          onChosen={ids => (chosen = ids)}
        />
      )
    );
  };
  const items = (): HTMLElement[] => [...node.querySelectorAll<HTMLElement>('[role="treeitem"]')];
  const item = (name: string): HTMLElement =>
    items().find(each => each.querySelector('.fc-Tree-name')!.textContent === name)!;
  const press = (key: string, options: KeyboardEventInit = {}): void => {
    React.act(() => {
      document.activeElement!.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, ...options }));
    });
  };
  const click = (target: Element, options: MouseEventInit = {}): void => {
    React.act(() => {
      target.dispatchEvent(new MouseEvent('click', { bubbles: true, ...options }));
    });
  };
  const button = (label: string): HTMLElement =>
    [...node.querySelectorAll<HTMLElement>('[role="group"] button')].find(each => each.textContent === label)!;

  beforeEach(() => {
    vi.clearAllMocks();
    node = document.body.appendChild(document.createElement('div'));
  });
  afterEach(() => node.remove());

  it('shows the current snapshot, in a tree', async () => {
    await show([a, b, side]);
    expect(items().map(each => [each.getAttribute('aria-level'), each.getAttribute('aria-current')])).toEqual([
      ['1', null],
      ['2', null],
      ['1', 'true']
    ]);
    expect(item('a').getAttribute('aria-expanded')).toBe('true');
    expect(item('b').textContent).toContain('2.9 MiB');
    expect(item('b').textContent).toContain('with notebook');
    expect(node.querySelector('.fc-Panel-sum')!.textContent).toBe('3 snapshots, 8.6 MiB');
  });

  it('shows what comes from the guest as text', async () => {
    await show([aSnapshot({ name: EVIL, description: `${EVIL} too` })], null);
    expect(node.querySelector('.fc-Tree-name')!.textContent).toBe(EVIL);
    expect(node.querySelector('.fc-Tree-description')!.textContent).toBe(`${EVIL} too`);
    expect(node.querySelector('img')).toBeNull();
  });

  it('can be used with the keyboard alone', async () => {
    await show([a, b, side]);
    expect(items().map(each => each.tabIndex)).toEqual([0, -1, -1]);
    item('a').focus();
    press('ArrowDown');
    expect(document.activeElement).toBe(item('side'));
    expect(item('side').getAttribute('aria-selected')).toBe('true');
    press('ArrowLeft');
    expect(document.activeElement).toBe(item('a'));
    press('ArrowLeft');
    expect(item('side')).toBeUndefined();
    press('ArrowRight');
    press('End');
    expect(document.activeElement).toBe(item('b'));
    press('Enter');
    expect(actions.restore).toHaveBeenCalledWith(b.id);
    press('F2');
    expect(actions.rename).toHaveBeenCalledWith(b.id);
    press('ArrowUp', { shiftKey: true });
    press('Delete');
    expect(actions.delete).toHaveBeenCalledWith([side.id, b.id]);
    press('a', { ctrlKey: true });
    expect(chosen).toHaveLength(3);
    press(' ');
    expect(chosen).toHaveLength(2);
  });

  it('lets several be chosen with the mouse, and acts on them', async () => {
    await show([a, b, side]);
    expect(button('Restore').getAttribute('aria-disabled')).toBe('true');
    click(button('Restore'));
    expect(actions.restore).not.toHaveBeenCalled();
    click(button('Fork'));
    expect(actions.fork).toHaveBeenCalledWith(null);
    click(item('a'));
    click(button('Restore'));
    expect(actions.restore).toHaveBeenCalledWith(a.id);
    click(item('b'), { ctrlKey: true });
    expect(button('Restore').getAttribute('aria-disabled')).toBe('true');
    click(button('Delete 2'));
    expect(actions.delete).toHaveBeenCalledWith([a.id, b.id]);
  });

  it('filters', async () => {
    await show([a, b, side]);
    const input = node.querySelector<HTMLInputElement>('input[type="search"]')!;
    React.act(() => {
      Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value')!.set!.call(input, 'sid');
      input.dispatchEvent(new Event('input', { bubbles: true }));
    });
    expect(items()).toHaveLength(1);
    expect(item('side').getAttribute('aria-level')).toBe('1');
  });
});

describe('names', () => {
  it('are checked as the server does', () => {
    const fault = (name: string, mayBeEmpty = false): string => nameFault(name, ['taken'], mayBeEmpty, trans);
    expect(fault('good-1.x_Y')).toBe('');
    expect(fault('', true)).toBe('');
    expect(fault('')).not.toBe('');
    expect(fault('.x')).not.toBe('');
    expect(fault(EVIL)).not.toBe('');
    expect(fault('x'.repeat(65))).not.toBe('');
    expect(fault('taken')).not.toBe('');
  });
});

describe('a notebook of a snapshot', () => {
  it('is not trusted, whatever it says', () => {
    const notebook = {
      nbformat: 4,
      nbformat_minor: 5,
      metadata: {},
      cells: [{ cell_type: 'code', source: '1', metadata: { trusted: true, tags: ['x'] }, outputs: [] }]
    } as any;
    expect(untrusted(notebook).cells[0].metadata).toEqual({ tags: ['x'] });
    expect(notebook.cells[0].metadata.trusted).toBe(true);
  });
});
