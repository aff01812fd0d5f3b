import { describe, expect, it } from 'vitest';
import { rows } from '../src/lineage';
import { aSnapshot } from './server';

const shape = (...args: Parameters<typeof rows>): string[] =>
  rows(...args).map(row => `${'  '.repeat(row.level - 1)}${row.snapshot.name}${row.current ? ' *' : ''}`);

describe('the lineage', () => {
  const a = aSnapshot({ name: 'a' });
  const b = aSnapshot({ name: 'b', parent: a.id });
  const c = aSnapshot({ name: 'c', parent: b.id });
  const d = aSnapshot({ name: 'd', parent: a.id });

  it('keeps a line on its level', () => {
    expect(shape([c, a, b], { current: c.id })).toEqual(['a', 'b', 'c *']);
  });

  it('shows what branched off deeper, and the present’s line on the level of its past', () => {
    expect(shape([a, b, c, d], { current: c.id })).toEqual(['a', '  d', 'b', 'c *']);
    expect(shape([a, b, c, d], { current: d.id })).toEqual(['a', '  b', '  c', 'd *']);
  });

  it('marks the past', () => {
    const past = rows([a, b, c, d], { current: d.id })
      .filter(row => row.past)
      .map(row => row.snapshot.name);
    expect(past).toEqual(['a', 'd']);
  });

  it('folds branches', () => {
    expect(shape([a, b, c, d], { current: c.id, folded: new Set([a.id]) })).toEqual(['a', 'b', 'c *']);
  });

  it('goes on where a parent was deleted', () => {
    expect(shape([a, c], { current: null })).toEqual(['a', 'c']);
  });

  it('filters by name and description, flat', () => {
    const e = aSnapshot({ name: 'e', parent: d.id, description: 'before the BIG step' });
    expect(shape([a, b, c, d, e], { current: e.id, filter: 'big' })).toEqual(['e *']);
    expect(shape([a, b, c, d, e], { current: e.id, filter: 'C' })).toEqual(['c']);
  });

  it('hides the timeline’s and keeps who came from whom', () => {
    const auto = aSnapshot({ name: 'auto.abc.cell-1', parent: a.id });
    const f = aSnapshot({ name: 'f', parent: auto.id });
    const g = aSnapshot({ name: 'g', parent: a.id });
    expect(shape([a, auto, f, g], { current: f.id, automatic: false })).toEqual(['a', '  g', 'f *']);
  });

  it('survives rings and many snapshots', () => {
    const one = aSnapshot({ id: 'one', name: 'one', parent: 'other' });
    const other = aSnapshot({ id: 'other', name: 'other', parent: 'one' });
    const self = aSnapshot({ id: 'self', name: 'self', parent: 'self' });
    expect(
      shape([one, other, self], { current: 'one' })
        .map(line => line.trim())
        .sort()
    ).toEqual(['one *', 'other', 'self']);
    const long = Array.from({ length: 2000 }, (_, at) => aSnapshot({ id: `l${at}`, parent: at ? `l${at - 1}` : null }));
    expect(rows(long, { current: 'l1999' })).toHaveLength(2000);
  });
});
