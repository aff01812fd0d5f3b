import { nullTranslator } from '@jupyterlab/translation';
import * as React from 'react';
import { createRoot } from 'react-dom/client';
import { describe, expect, it } from 'vitest';
import type { ChipView, IChipInput } from '../src/chip';
import { Chip, chipView, isMicroVM } from '../src/chip';
import { aKernel } from './server';

const trans = nullTranslator.load('');
const kernel = aKernel();

describe('what the chip shows', () => {
  const cases: [string, Partial<IChipInput>, ChipView][] = [
    ['a microVM', { kernel }, { kind: 'microvm', kernel }],
    ['nothing of another kernel', { promised: false }, { kind: 'nothing' }],
    ['nothing where the kernel is another than its spec says', {}, { kind: 'nothing' }],
    ['a kernel that starts', { present: false, starting: true }, { kind: 'starting' }],
    ['nothing before anything is known', { availability: 'unknown' }, { kind: 'nothing' }],
    ['that there is a gateway', { availability: 'gateway' }, { kind: 'unavailable', why: 'gateway' }],
    ['that the extension is missing', { availability: 'missing' }, { kind: 'unavailable', why: 'missing' }],
    ['nothing of other kernels then', { availability: 'missing', promised: false }, { kind: 'nothing' }]
  ];
  it.each(cases)('%s', (_, input, view) => {
    expect(
      chipView({ availability: 'ready', promised: true, starting: false, present: true, kernel: null, ...input })
    ).toEqual(view);
  });

  it('goes by the provisioner', () => {
    const spec = (metadata: object) => ({ metadata }) as any;
    expect(isMicroVM(spec({ kernel_provisioner: { provisioner_name: 'fc-provisioner' } }))).toBe(true);
    expect(isMicroVM(spec({ kernel_provisioner: { provisioner_name: 'local-provisioner' } }))).toBe(false);
    expect(isMicroVM(spec({}))).toBe(false);
    expect(isMicroVM(undefined)).toBe(false);
  });
});

describe('the chip', () => {
  const show = (view: ChipView): HTMLElement => {
    const node = document.createElement('div');
    React.act(() => createRoot(node).render(<Chip view={view} trans={trans} onClick={() => undefined} />));
    return node;
  };

  it('has tier, vCPUs, memory and state, in words', () => {
    const button = show({ kind: 'microvm', kernel }).querySelector('button')!;
    expect([...button.children].map(child => child.textContent)).toEqual([
      '⚠ Emulated',
      '2 vCPUs',
      '310 of 512 MiB',
      'running'
    ]);
    expect(button.getAttribute('aria-label')).toBe(
      'MicroVM: Emulated, 2 vCPUs, memory 310 of 512 MiB, running. Show its snapshots'
    );
    expect(button.title).toContain('promises no isolation');
    expect(button.dataset).toMatchObject({ tier: 'emulated', state: 'running' });
  });

  it('warns of no tier that isolates', () => {
    const button = show({ kind: 'microvm', kernel: aKernel({ tier: 'jailed' }) }).querySelector('button')!;
    expect(button.textContent).not.toContain('⚠');
  });

  it('says what it does not know', () => {
    const dead = aKernel({ state: 'dead', tier: null, vcpu_count: null, mem_size_mib: null, mem_used_mib: null });
    const node = show({ kind: 'microvm', kernel: dead });
    expect(node.textContent).toBe('MicroVMdead');
    expect(node.querySelector('button')!.getAttribute('aria-label')).toBe('MicroVM: dead. Show its snapshots');
    expect(show({ kind: 'unavailable', why: 'missing' }).querySelector('button')!.title).toContain('server extension');
  });
});
