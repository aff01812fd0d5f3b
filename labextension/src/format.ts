/** Numbers and times as people read them. */
import type { TranslationBundle } from '@jupyterlab/translation';
import type { ISnapshot, Tier } from './api';
import { AUTOMATIC } from './lineage';

const UNITS = ['B', 'KB', 'MB', 'GB', 'TB'];

export function bytes(size: number): string {
  let unit = 0;
  let value = size;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value >= 10 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

export function seconds(value: number): string {
  return value < 10 ? `${value.toFixed(1)} s` : `${Math.round(value)} s`;
}

/** The time of day; with the date when it was another day. */
export function time(created: string, now: Date = new Date()): string {
  const date = new Date(created);
  if (isNaN(date.getTime())) {
    return created;
  }
  const clock = date.toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit' });
  return date.toDateString() === now.toDateString() ? clock : `${date.toLocaleDateString()} ${clock}`;
}

/** What a snapshot is called on the screen: the timeline's have a description in place of a name. */
export function title(snapshot: ISnapshot): string {
  return AUTOMATIC.test(snapshot.name) && snapshot.description ? snapshot.description : snapshot.name;
}

export function tierName(tier: Tier | null, trans: TranslationBundle): string {
  switch (tier) {
    case 'jailed':
      return trans.__('Jailed');
    case 'kvm':
      return trans.__('KVM');
    case 'emulated':
      return trans.__('Emulated');
    case 'none':
      return trans.__('No isolation');
    default:
      return trans.__('MicroVM');
  }
}

export function tierMeaning(tier: Tier | null, trans: TranslationBundle): string {
  switch (tier) {
    case 'jailed':
      return trans.__('A virtual machine in a jail, under a user of its own');
    case 'kvm':
      return trans.__('A virtual machine on the processor’s own virtualisation, under your user');
    case 'emulated':
      return trans.__('Warning: an emulated machine. It works, but its emulator promises no isolation');
    case 'none':
      return trans.__('Warning: no machine at all, and no isolation');
    default:
      return trans.__('There is no machine at the moment');
  }
}
