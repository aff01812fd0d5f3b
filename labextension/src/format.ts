/** Sizes, durations, times and names as the user reads them. */
import type { TranslationBundle } from '@jupyterlab/translation';
import type { Kernel, Snapshot } from './generated';
import { AUTOMATIC } from './lineage';

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

/** A size in the largest binary unit of which there is at least one. */
export function bytes(size: number): string {
  let unit = 0;
  let value = size;
  while (value >= 1023.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value >= 10 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

export function seconds(value: number): string {
  return value < 10 ? `${value.toFixed(1)} s` : `${Math.round(value)} s`;
}

/** The local time of day; with the date when it was another day. */
export function time(created: string, now: Date = new Date()): string {
  const date = new Date(created);
  if (isNaN(date.getTime())) {
    return created;
  }
  return date.toDateString() === now.toDateString() ? clock(date) : `${date.toLocaleDateString()} ${clock(date)}`;
}

/** The local time with its zone, for tooltips. */
export function timeWithZone(created: string): string {
  const date = new Date(created);
  return isNaN(date.getTime()) ? created : `${date.toLocaleDateString()} ${clock(date, 'short')}`;
}

function clock(date: Date, zone?: 'short'): string {
  const digits = '2-digit';
  return date.toLocaleTimeString(undefined, { hour: digits, minute: digits, second: digits, timeZoneName: zone });
}

/** How a snapshot is called in the UI: the timeline's snapshots are called by their description. */
export function title(snapshot: Snapshot): string {
  return AUTOMATIC.test(snapshot.name) && snapshot.description ? snapshot.description : snapshot.name;
}

export function tierName(tier: Kernel['tier'], trans: TranslationBundle): string {
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

export function tierMeaning(tier: Kernel['tier'], trans: TranslationBundle): string {
  switch (tier) {
    case 'jailed':
      return trans.__('The microVM runs in a jail, under a user of its own.');
    case 'kvm':
      return trans.__('The microVM runs with hardware virtualisation, under your user.');
    case 'emulated':
      return trans.__('Warning: the microVM is emulated. The emulator promises no isolation.');
    case 'none':
      return trans.__('Warning: the kernel runs without a microVM and without isolation.');
    default:
      return trans.__('No microVM is running.');
  }
}
