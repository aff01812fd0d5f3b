import { nullTranslator } from '@jupyterlab/translation';
import * as React from 'react';
import { createRoot } from 'react-dom/client';
import { describe, expect, it, vi } from 'vitest';
import { Form } from '../src/form/fields';
import { fieldsOf, valueOf, withValue } from '../src/form/schema';
import { aKernel } from './server';

const trans = nullTranslator.load('');
const NAME = '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$';
const schema: any = {
  properties: {
    boot_args: { anyOf: [{ type: 'string' }, { type: 'null' }] },
    image: { anyOf: [{ $ref: '#/$defs/Name' }, { type: 'null' }], description: 'name of the guest image' },
    vcpu_count: { anyOf: [{ type: 'integer', minimum: 1, maximum: 4 }, { type: 'null' }], default: 1 },
    mem_size_mib: { anyOf: [{ type: 'integer', minimum: 1, maximum: 4096 }, { type: 'null' }] },
    network: { anyOf: [{ type: 'string', enum: ['none', 'nat'] }, { type: 'null' }] }
  },
  $defs: { Name: { type: 'string', pattern: NAME } }
};

describe('the form’s fields', () => {
  const fields = fieldsOf(schema);
  const field = (name: string) => fields.find(each => each.name === name)!;

  it('are those of the schema that are for authors', () => {
    expect(fields.map(each => each.name)).toEqual(['image', 'vcpu_count', 'mem_size_mib', 'network']);
    expect(field('vcpu_count')).toMatchObject({ isNumber: true, minimum: 1, maximum: 4, standard: '1' });
    expect(field('network').choices).toEqual(['none', 'nat']);
    expect(field('image').pattern).toBe(NAME);
  });

  it('take what the schema allows and say what is wrong with the rest', () => {
    expect(valueOf(field('vcpu_count'), ' 4 ', trans)).toBe(4);
    expect(valueOf(field('vcpu_count'), '', trans)).toBeUndefined();
    expect(() => valueOf(field('vcpu_count'), '5', trans)).toThrow('The administrator’s limit is 4');
    expect(() => valueOf(field('vcpu_count'), '0', trans)).toThrow('The minimum is 1');
    expect(() => valueOf(field('vcpu_count'), '1.5', trans)).toThrow('not a whole number');
    expect(() => valueOf(field('image'), '../x', trans)).toThrow('letters');
    expect(() => valueOf(field('network'), 'lan', trans)).toThrow('“lan” is not allowed. Allowed: none, nat');
  });

  it('leave the other settings alone', () => {
    expect(withValue({ vcpu_count: 1, more: [1] }, 'vcpu_count', 2)).toEqual({ vcpu_count: 2, more: [1] });
    expect(withValue({ vcpu_count: 1 }, 'vcpu_count', undefined)).toEqual({});
  });
});

describe('the form', () => {
  const onValue = vi.fn();
  const show = (changes: object): HTMLElement => {
    const node = document.createElement('div');
    React.act(() =>
      createRoot(node).render(
        <Form
          fields={fieldsOf(schema)}
          settings={{}}
          kernel={aKernel()}
          refused={new Map()}
          trans={trans}
          onValue={onValue}
          onRestart={() => undefined}
          {...changes}
        />
      )
    );
    return node;
  };
  const type = (node: HTMLElement, name: string, text: string): void => {
    const input = node.querySelector<HTMLInputElement>(`input[name="${name}"]`)!;
    React.act(() => {
      Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value')!.set!.call(input, text);
      input.dispatchEvent(new Event('input', { bubbles: true }));
    });
    React.act(() => {
      input.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', bubbles: true }));
    });
  };

  it('writes what is allowed and shows the limit where it is not', () => {
    const node = show({});
    type(node, 'vcpu_count', '3');
    expect(onValue).toHaveBeenLastCalledWith('vcpu_count', 3);
    onValue.mockClear();
    type(node, 'vcpu_count', '99');
    expect(onValue).not.toHaveBeenCalled();
    const field = node.querySelector('[data-field="vcpu_count"]')!;
    expect(field.querySelector('[role="alert"]')!.textContent).toBe('The administrator’s limit is 4');
    expect(field.querySelector('input')!.getAttribute('aria-invalid')).toBe('true');
  });

  it('shows at the field what the server says of what is there, and the value as text', () => {
    const evil = '<img src=x onerror=alert(1)>';
    const node = show({ settings: { image: evil }, refused: new Map([['image', `image is '${evil}'`]]) });
    const field = node.querySelector('[data-field="image"]')!;
    expect(field.querySelector('[role="alert"]')!.textContent).toContain(evil);
    expect(field.querySelector('input')!.value).toBe(evil);
    expect(node.querySelector('img')).toBeNull();
  });

  it('says what has changed since the kernel started', () => {
    const node = show({ settings: { vcpu_count: 4, mem_size_mib: 512 } });
    expect(node.querySelector('[role="status"]')!.textContent).toContain('Changed since the kernel started: vCPUs.');
  });
});
