// A tree of functions with its values and the place of each node: from an answer, or made anew from another by filters and sandwiches.
import type { DiffAnswer, FunctionRow, Side, TreeAnswer } from "./answers";

export interface Func {
  name: string;
  file: string;
  line: number;
  binary: string;
  kind: string;
  reason: string;
}

// Values of one side, by node.
export interface Values {
  self: Float64Array;
  total: Float64Array;
  units: number;
  side: Side;
}

export interface Profile {
  type: string;
  unit: string;
  per: "total" | "request" | "second";
  functions: Func[];
  fn: Int32Array;
  parent: Int32Array;
  depth: Int32Array;
  after: Values;
  before: Values | null;
  pruned: number;
  // Nodes by level and within it from left to right; levels[d] is where level d begins.
  order: Int32Array;
  levels: number[];
  // Of each node its edges, as parts of the root. In a diff the width is the mean of both sides, so that both are seen.
  left: Float64Array;
  right: Float64Array;
}

function funcOf([name, file = "", line = 0, binary = "", kind = "", reason = ""]: FunctionRow): Func {
  return { name, file, line, binary, kind, reason };
}

export function load(answer: TreeAnswer | DiffAnswer): Profile {
  const functions = answer.functions.map(funcOf);
  const fn = Int32Array.from(answer.function);
  const parent = Int32Array.from(answer.parent);
  const values = (self: number[], total: number[], side: Side): Values => ({
    self: Float64Array.from(self), total: Float64Array.from(total), units: side.units || total[0] || 1, side,
  });
  const shared = { type: answer.type, unit: answer.unit, functions, fn, parent, pruned: answer.pruned };
  if (answer.answer === "tree") {
    return placed({ ...shared, per: "total", after: values(answer.self, answer.total, answer.side), before: null });
  }
  return placed({
    ...shared,
    per: answer.per,
    after: values(answer.after_self, answer.after_total, answer.after),
    before: values(answer.before_self, answer.before_total, answer.before),
  });
}

type Unplaced = Omit<Profile, "depth" | "order" | "levels" | "left" | "right">;

// How wide a node is, in a unit of its own: additive, so children never stick out of their parent.
export function weightOf(profile: Unplaced, node: number): number {
  const after = profile.after.total[node]! / profile.after.units;
  return profile.before ? after + profile.before.total[node]! / profile.before.units : after;
}

function placed(profile: Unplaced): Profile {
  const size = profile.parent.length;
  const depth = new Int32Array(size);
  const below: number[][] = [];
  for (let node = 0; node < size; node++) below.push([]);
  for (let node = 1; node < size; node++) below[profile.parent[node]!]!.push(node);
  const weight = new Float64Array(size);
  for (let node = 0; node < size; node++) weight[node] = weightOf(profile, node);
  const left = new Float64Array(size);
  const right = new Float64Array(size);
  right[0] = 1;
  const whole = weight[0] || 1;
  const order = new Int32Array(size);
  const levels = [0];
  let [end, from] = [1, 0];
  while (from < end) {
    const until = end;
    levels.push(until);
    for (; from < until; from++) {
      const node = order[from]!;
      let at = left[node]!;
      for (const child of below[node]!.sort((a, b) => weight[b]! - weight[a]!)) {
        depth[child] = depth[node]! + 1;
        left[child] = at;
        at += weight[child]! / whole;
        right[child] = at;
        order[end++] = child;
      }
    }
  }
  return { ...profile, depth, order, levels, left, right };
}

// Makes a tree by walking another.
class Builder {
  private readonly below = new Map<number, number>();
  readonly fn: number[] = [];
  readonly parent: number[] = [];
  private readonly after: number[] = [];
  private readonly before: number[] = [];
  constructor(private readonly from: Profile, root: number) {
    this.add(-1, root);
  }
  private add(parent: number, fn: number): number {
    this.fn.push(fn);
    this.after.push(0);
    this.before.push(0);
    return this.parent.push(parent) - 1;
  }
  child(parent: number, fn: number): number {
    const key = parent * this.from.functions.length + fn;
    let node = this.below.get(key);
    if (node === undefined) this.below.set(key, (node = this.add(parent, fn)));
    return node;
  }
  cost(node: number, after: number, before: number) {
    this.after[node]! += after;
    this.before[node]! += before;
  }
  build(keepUnits: boolean): Profile {
    const { from } = this;
    const values = (own: number[], like: Values): Values => {
      const self = Float64Array.from(own);
      const total = self.slice();
      for (let node = total.length - 1; node > 0; node--) total[this.parent[node]!]! += total[node]!;
      return { self, total, units: keepUnits || from.per !== "total" ? like.units : total[0] || 1, side: like.side };
    };
    return placed({
      type: from.type, unit: from.unit, per: from.per, functions: from.functions, fn: Int32Array.from(this.fn),
      parent: Int32Array.from(this.parent), pruned: from.pruned, after: values(this.after, from.after),
      before: from.before && values(this.before, from.before),
    });
  }
}

export interface Filter {
  focus: string;
  ignore: string;
  hide: string;
}

// The functions that a pattern is found in. One that is no regular expression is looked for as it stands.
export function matching(functions: Func[], pattern: string): Uint8Array {
  let found: RegExp;
  try {
    found = new RegExp(pattern, "i");
  } catch {
    found = new RegExp(pattern.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"), "i");
  }
  return Uint8Array.from(functions, (f) => Number(found.test(f.name) || found.test(f.file) || found.test(f.binary)));
}

// As tree.py filters stacks: focus keeps those with a match, ignore drops them, hide leaves the functions out.
export function filtered(profile: Profile, filter: Filter): Profile {
  const { focus, ignore, hide } = filter;
  if (!focus && !ignore && !hide) return profile;
  const none = new Uint8Array(profile.functions.length);
  const [wanted, unwanted, hidden] = [focus, ignore, hide].map((p) => (p ? matching(profile.functions, p) : none));
  const built = new Builder(profile, profile.fn[0]!);
  const size = profile.parent.length;
  const place = new Int32Array(size);
  const has = new Uint8Array(size);
  has[0] = focus ? 0 : 1;
  const gone = new Uint8Array(size);
  // A second pass adds nodes only for what is kept, so that no empty ones are left.
  for (let node = 1; node < size; node++) {
    const [up, fn] = [profile.parent[node]!, profile.fn[node]!];
    has[node] = has[up]! | wanted![fn]!;
    gone[node] = gone[up]! | unwanted![fn]!;
  }
  const kept = new Uint8Array(size);
  for (let node = size - 1; node >= 0; node--) {
    if (has[node] && !gone[node] && (profile.after.self[node] || profile.before?.self[node])) kept[node] = 1;
    if (kept[node] && node) kept[profile.parent[node]!]! |= 2;
  }
  for (let node = 0; node < size; node++) {
    const fn = profile.fn[node]!;
    if (node && kept[node]) {
      const up = place[profile.parent[node]!]!;
      place[node] = hidden![fn] ? up : built.child(up, fn);
    }
    if (kept[node]! & 1) built.cost(place[node]!, profile.after.self[node]!, profile.before?.self[node] ?? 0);
  }
  return built.build(false);
}

// Nodes of some functions that have no other such above them: what they cost counts once.
export function outermost(profile: Profile, wanted: Uint8Array): number[] {
  const inside = new Uint8Array(profile.parent.length);
  const found: number[] = [];
  for (let node = 1; node < inside.length; node++) {
    const [up, match] = [inside[profile.parent[node]!]!, wanted[profile.fn[node]!]!];
    inside[node] = up | match;
    if (match && !up) found.push(node);
  }
  return found;
}

export interface Sandwich {
  callers: Profile;
  callees: Profile;
}

export function sandwich(profile: Profile, fn: number): Sandwich {
  const wanted = new Uint8Array(profile.functions.length);
  wanted[fn] = 1;
  const roots = outermost(profile, wanted);
  const [callers, callees] = [new Builder(profile, fn), new Builder(profile, fn)];
  const before = (column: "self" | "total", node: number) => profile.before?.[column][node] ?? 0;
  const place = new Int32Array(profile.parent.length).fill(-1);
  for (const root of roots) place[root] = 0;
  for (let node = 1; node < place.length; node++) {
    const up = place[profile.parent[node]!]!;
    if (place[node]! < 0 && up >= 0) place[node] = callees.child(up, profile.fn[node]!);
    if (place[node]! >= 0) callees.cost(place[node]!, profile.after.self[node]!, before("self", node));
  }
  for (const root of roots) {
    let at = 0;
    for (let up = profile.parent[root]!; up > 0; up = profile.parent[up]!) at = callers.child(at, profile.fn[up]!);
    callers.cost(at, profile.after.total[root]!, before("total", root));
  }
  return { callers: callers.build(true), callees: callees.build(true) };
}

export interface TableRow {
  fn: number;
  self: number;
  total: number;
  beforeSelf: number;
  beforeTotal: number;
}

// What each function costs itself and in all.
export function table(profile: Profile): TableRow[] {
  const rows = profile.functions.map((_, fn) => ({ fn, self: 0, total: 0, beforeSelf: 0, beforeTotal: 0 }));
  for (let node = 1; node < profile.parent.length; node++) {
    const row = rows[profile.fn[node]!]!;
    row.self += profile.after.self[node]!;
    row.beforeSelf += profile.before?.self[node] ?? 0;
    let up = profile.parent[node]!;
    while (up > 0 && profile.fn[up] !== profile.fn[node]) up = profile.parent[up]!;
    if (up > 0) continue;
    row.total += profile.after.total[node]!;
    row.beforeTotal += profile.before?.total[node] ?? 0;
  }
  return rows.filter((row) => row.total || row.beforeTotal);
}

// A short name of a node that does not depend on the others: FNV-1a over the names above it.
export function pathHash(profile: Profile, node: number): string {
  const names: string[] = [];
  for (let at = node; at > 0; at = profile.parent[at]!) names.push(profile.functions[profile.fn[at]!]!.name);
  let hash = 0x811c9dc5;
  for (const code of new TextEncoder().encode(names.join("\0"))) hash = Math.imul(hash ^ code, 0x01000193) >>> 0;
  return hash.toString(36);
}

export function nodeOf(profile: Profile, hash: string): number {
  for (let node = 1; hash && node < profile.parent.length; node++) if (pathHash(profile, node) === hash) return node;
  return 0;
}
