import { describe, expect, it } from 'vitest';
import { changesSomething, marks, nameOfCell, overBudget, snapshotCode } from '../src/timeline';
import { aSnapshot } from './server';

describe('the timeline', () => {
  const start = aSnapshot({ name: 'auto.a.start' });
  const one = aSnapshot({ name: 'auto.b.one', parent: start.id });
  const two = aSnapshot({ name: 'auto.c.two', parent: one.id });

  it('knows the state before each cell', () => {
    const found = marks([start, one, two], two.id, new Map([[two.name, { bytes: 7, seconds: 0.25 }]]));
    expect(found.get('one')).toEqual({ before: start, after: one, cost: { bytes: one.size_bytes, seconds: null } });
    expect(found.get('two')).toEqual({ before: one, after: two, cost: { bytes: 7, seconds: 0.25 } });
  });

  it('marks only cells that the present has come by', () => {
    expect([...marks([start, one, two], one.id).keys()]).toEqual(['start', 'one']);
    expect(marks([start, one, two], null).size).toBe(0);
  });

  it('takes a cell’s latest run', () => {
    const again = aSnapshot({ name: 'auto.d.one', parent: two.id });
    expect(marks([again, start, one, two], again.id).get('one')).toMatchObject({ before: two, after: again });
  });

  it('offers no way back where the state before is gone', () => {
    expect(marks([one, two], two.id).get('one')?.before).toBeNull();
  });

  it('is pruned by count and by size, oldest first, never the present', () => {
    const named = aSnapshot({ name: 'mine' });
    const all = [named, two, one, start];
    expect(overBudget(all, two.id, { count: 3, bytes: 9e6 })).toEqual([]);
    expect(overBudget(all, two.id, { count: 2, bytes: 9e6 })).toEqual([start]);
    expect(overBudget(all, two.id, { count: 9, bytes: 3e6 })).toEqual([start, one]);
    expect(overBudget(all, start.id, { count: 1, bytes: 9e6 })).toEqual([one, two]);
  });

  it('skips what changes nothing', () => {
    expect(changesSomething('# a comment\n\n  # another')).toBe(false);
    expect(changesSomething('x = 1  # one')).toBe(true);
  });

  it('sends no code that a cell’s id could be', () => {
    expect(nameOfCell(`x'); import os #${'y'.repeat(99)}`)).toMatch(/^[A-Za-z0-9_-]{40}$/);
    expect(snapshotCode(`auto.k2.${nameOfCell('4f-2')}`)).toContain('auto.k2.4f-2 -m');
    expect(() => snapshotCode("auto.k2.x' + evil()")).toThrow();
  });
});
