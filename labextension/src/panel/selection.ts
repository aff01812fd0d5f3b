/** Which rows are chosen and which has the focus: pure transitions, driven by keys and clicks. */

export interface ISelection {
  readonly chosen: ReadonlySet<string>;
  /** The row that has the focus when the tree has it. */
  readonly active: string | null;
  /** Where a range begins. */
  readonly anchor: string | null;
}

export const NOTHING: ISelection = { chosen: new Set(), active: null, anchor: null };

export function only(id: string): ISelection {
  return { chosen: new Set([id]), active: id, anchor: id };
}

export function toggled(selection: ISelection, id: string): ISelection {
  const chosen = new Set(selection.chosen);
  if (!chosen.delete(id)) {
    chosen.add(id);
  }
  return { chosen, active: id, anchor: id };
}

/** All from the anchor to `id`, in the order of the rows. */
export function ranged(selection: ISelection, id: string, order: readonly string[]): ISelection {
  const anchor = selection.anchor ?? id;
  const [from, to] = [order.indexOf(anchor), order.indexOf(id)].sort((one, other) => one - other);
  return { chosen: new Set(from < 0 ? [id] : order.slice(from, to + 1)), active: id, anchor };
}

export function all(selection: ISelection, order: readonly string[]): ISelection {
  return { ...selection, chosen: new Set(order), active: selection.active ?? order[0] ?? null };
}

/** The row that is `step` below the active one; the first one when none is active. */
export function stepped(selection: ISelection, order: readonly string[], step: number): string | null {
  if (order.length === 0) {
    return null;
  }
  const at = selection.active === null ? -1 : order.indexOf(selection.active);
  return at < 0 ? order[0] : order[Math.min(Math.max(at + step, 0), order.length - 1)];
}

/** Without the rows that are gone. */
export function kept(selection: ISelection, order: readonly string[]): ISelection {
  const there = new Set(order);
  const chosen = new Set([...selection.chosen].filter(id => there.has(id)));
  const active = selection.active !== null && there.has(selection.active) ? selection.active : null;
  const anchor = selection.anchor !== null && there.has(selection.anchor) ? selection.anchor : active;
  const isSame = chosen.size === selection.chosen.size && active === selection.active && anchor === selection.anchor;
  return isSame ? selection : { chosen, active, anchor };
}
