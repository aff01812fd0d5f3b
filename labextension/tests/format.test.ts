import { describe, expect, it } from 'vitest';
import { bytes, time, timeWithZone } from '../src/format';
import { nextName } from '../src/lineage';

describe('sizes', () => {
  it('have binary units, and one digit where it matters', () => {
    expect([0, 1023, 1024, 5_300_000, 1023 * 2 ** 20, 3 * 2 ** 30].map(bytes)).toEqual([
      '0 B',
      '1023 B',
      '1.0 KiB',
      '5.1 MiB',
      '1023 MiB',
      '3.0 GiB'
    ]);
  });
});

describe('times', () => {
  const created = '2026-01-01T12:00:05Z';
  const date = new Date(created);

  it('are local, with the date where it is another day', () => {
    const clock = date.toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit' });
    expect(time(created, date)).toBe(clock);
    expect(time(created, new Date('2026-03-01T12:00:00Z'))).toBe(`${date.toLocaleDateString()} ${clock}`);
  });

  it('have their zone in the tooltip', () => {
    const zone = new Intl.DateTimeFormat(undefined, { timeZoneName: 'short' })
      .formatToParts(date)
      .find(part => part.type === 'timeZoneName')!.value;
    expect(timeWithZone(created)).toContain(time(created, date).slice(0, 5));
    expect(timeWithZone(created)).toContain(zone);
    expect(timeWithZone('<b>')).toBe('<b>');
  });
});

describe('the name of a snapshot for which none is chosen', () => {
  it('is the one that the server gives', () => {
    expect(nextName([])).toBe('s1');
    expect(nextName(['s1', 'mine', 's9', 's10x'])).toBe('s10');
  });
});
