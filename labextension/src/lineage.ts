/** The lineage of snapshots, as rows of a tree. */
import type { Snapshot } from './generated';

export interface IRow {
  readonly snapshot: Snapshot;
  /** From 1, as `aria-level`. A line of snapshots stays on its level; what branched off is one level deeper. */
  readonly level: number;
  /** Whether other lines begin at this snapshot, and so can be folded. */
  readonly branches: boolean;
  readonly expanded: boolean;
  /** Whether the microVM's state came from this snapshot, or was last saved as it. */
  readonly current: boolean;
  /** Whether this is the current snapshot or an ancestor of it. */
  readonly past: boolean;
}

export interface IView {
  readonly current: string | null;
  readonly filter?: string;
  readonly automatic?: boolean;
  readonly folded?: ReadonlySet<string>;
}

/** Names that the timeline gives: `auto.<time>.<cell>`. */
export const AUTOMATIC = /^auto\.([0-9a-z]+)\.([A-Za-z0-9_-]+)$/;

export function isAutomatic(snapshot: Snapshot): boolean {
  return AUTOMATIC.test(snapshot.name);
}

/** The name that the server gives to a snapshot for which none is chosen: the next of s1, s2, … */
export function nextName(taken: readonly string[]): string {
  const numbers = taken.map(name => Number(/^s([1-9][0-9]{0,8})$/.exec(name)?.[1] ?? 0));
  return `s${Math.max(0, ...numbers) + 1}`;
}

/** The current snapshot and its ancestors, as far as they are there. */
export function pastOf(snapshots: readonly Snapshot[], current: string | null): ReadonlySet<string> {
  const byId = new Map(snapshots.map(snapshot => [snapshot.id, snapshot]));
  const past = new Set<string>();
  for (let id = current; id !== null && !past.has(id); id = byId.get(id)?.parent ?? null) {
    past.add(id);
  }
  return past;
}

/**
 * The rows in order: each snapshot below the one it came from, older lines first. With a filter the matches only, flat.
 */
export function rows(snapshots: readonly Snapshot[], view: IView): IRow[] {
  const past = pastOf(snapshots, view.current);
  const row = (snapshot: Snapshot, level: number, branches: boolean, expanded: boolean): IRow => ({
    snapshot,
    level,
    branches,
    expanded,
    current: snapshot.id === view.current,
    past: past.has(snapshot.id)
  });
  const shown = snapshots.filter(
    snapshot => view.automatic !== false || !isAutomatic(snapshot) || snapshot.id === view.current
  );
  const wanted = (view.filter ?? '').trim().toLowerCase();
  if (wanted) {
    return [...shown]
      .filter(snapshot => `${snapshot.name}\n${snapshot.description}`.toLowerCase().includes(wanted))
      .sort(byTime)
      .map(snapshot => row(snapshot, 1, false, true));
  }
  const children = childrenOf(shown, snapshots);
  const result: IRow[] = [];
  // Not recursive: a line may be long.
  const waiting = (children.get(null) ?? []).map(snapshot => ({ snapshot, level: 1 })).reverse();
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    const { snapshot, level } = next;
    const kids = children.get(snapshot.id) ?? [];
    const main = kids.find(kid => past.has(kid.id)) ?? kids[kids.length - 1];
    const side = kids.filter(kid => kid !== main);
    const expanded = !view.folded?.has(snapshot.id);
    result.push(row(snapshot, level, side.length > 0, expanded));
    if (main) {
      waiting.push({ snapshot: main, level });
    }
    if (expanded) {
      waiting.push(...side.map(kid => ({ snapshot: kid, level: level + 1 })).reverse());
    }
  }
  return result;
}

/** Shown snapshots under the nearest shown one that they came from; `null` has those that came from none. */
function childrenOf(shown: readonly Snapshot[], all: readonly Snapshot[]): Map<string | null, Snapshot[]> {
  const byId = new Map(all.map(snapshot => [snapshot.id, snapshot]));
  const visible = new Set(shown.map(snapshot => snapshot.id));
  const children = new Map<string | null, Snapshot[]>();
  for (const snapshot of [...shown].sort(byTime)) {
    const seen = new Set([snapshot.id]);
    let parent = snapshot.parent;
    while (parent !== null && !visible.has(parent)) {
      // A parent that was deleted, or a ring in what a hostile import says.
      parent = seen.has(parent) ? null : (byId.get(parent)?.parent ?? null);
      if (parent !== null) {
        seen.add(parent);
      }
    }
    if (parent !== null && ancestors(parent, byId).has(snapshot.id)) {
      parent = null;
    }
    children.set(parent, [...(children.get(parent) ?? []), snapshot]);
  }
  return children;
}

function ancestors(id: string, byId: ReadonlyMap<string, Snapshot>): ReadonlySet<string> {
  const seen = new Set<string>();
  for (let next: string | null = id; next !== null && !seen.has(next); next = byId.get(next)?.parent ?? null) {
    seen.add(next);
  }
  return seen;
}

export function byTime(one: Snapshot, other: Snapshot): number {
  return Date.parse(one.created) - Date.parse(other.created) || one.name.localeCompare(other.name);
}
