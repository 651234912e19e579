// The parts beside the drawing: the table, the tooltip, the crumbs of the zoom, the legend. Text goes in as text, never as markup.
import { type Profile, table, type TableRow } from "./profile";
import { change, per, percent, place, quantity } from "./words";

const ROWS_MAX = 200;

export function element(name: string, attributes: Record<string, string> = {}, ...children: (Node | string)[]): HTMLElement {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}

export const byId = <T extends HTMLElement = HTMLInputElement>(id: string) => document.getElementById(id) as T;

interface TableHooks {
  sort(column: string): void;
  choose(name: string): void;
  sandwich(fn: number): void;
}

type Column = [key: string, title: string, value: (row: TableRow) => number, text: (row: TableRow) => string];

function columns(profile: Profile): Column[] {
  const { after, before, unit } = profile;
  if (!before) {
    const whole = after.total[0] || 1;
    return [
      ["self", "self", (row) => row.self, (row) => quantity(row.self, unit)],
      ["self%", "self %", (row) => row.self, (row) => percent(row.self / whole)],
      ["total", "total", (row) => row.total, (row) => quantity(row.total, unit)],
      ["total%", "total %", (row) => row.total, (row) => percent(row.total / whole)],
    ];
  }
  return [
    ["before", "before", (row) => row.beforeTotal, (row) => per(profile, row.beforeTotal, before.units)],
    ["after", "after", (row) => row.total, (row) => per(profile, row.total, after.units)],
    ["change", "change", (row) => Math.abs(change(profile, row.total, row.beforeTotal).by), (row) => change(profile, row.total, row.beforeTotal).text],
    ["self", "self", (row) => Math.abs(change(profile, row.self, row.beforeSelf).by), (row) => change(profile, row.self, row.beforeSelf).text],
  ];
}

const tables = new WeakMap<Profile, TableRow[]>();

export function drawTable(profile: Profile, sort: string, matches: Uint8Array | null, hooks: TableHooks) {
  const all = columns(profile);
  const chosen = all.find(([key]) => key === sort) ?? (profile.before ? all[2]! : all[0]!);
  let known = tables.get(profile);
  if (!known) tables.set(profile, (known = table(profile)));
  const rows = known.filter((row) => row.fn !== profile.fn[0] && (!matches || matches[row.fn]));
  const sorted = rows.map((row) => [chosen[2](row), row] as const).sort((a, b) => b[0] - a[0]);
  const head = element("tr");
  for (const [key, title] of [...all.map(([key, title]) => [key, title] as const), ["", "function"] as const]) {
    const button = element("button", { type: "button" }, title);
    const cell = element("th", key === chosen[0] ? { "aria-sort": "descending", scope: "col" } : { scope: "col" }, button);
    if (key) button.addEventListener("click", () => hooks.sort(key));
    head.append(cell);
  }
  const side = byId<HTMLElement>("side");
  side.querySelector("thead")!.replaceChildren(head);
  side.querySelector("tbody")!.replaceChildren(
    ...sorted.slice(0, ROWS_MAX).map(([, row]) => {
      const f = profile.functions[row.fn]!;
      const inner = element("button", { type: "button", title: `Callers and callees of ${f.name}` }, "⇅");
      inner.addEventListener("click", (event) => {
        event.stopPropagation();
        hooks.sandwich(row.fn);
      });
      const { kind } = change(profile, row.total, row.beforeTotal);
      const cells = all.map(([key, , , text]) => element("td", key === "change" && kind ? { class: kind } : {}, text(row)));
      const line = element("tr", { title: [f.name, place(f), f.reason].filter(Boolean).join("\n") }, ...cells, element("td", {}, inner, f.name));
      line.addEventListener("click", () => hooks.choose(f.name));
      return line;
    }),
  );
}

export function drawTip(profile: Profile, node: number, event: MouseEvent | null) {
  const tip = byId<HTMLElement>("tip");
  tip.hidden = node < 0 || !event;
  if (tip.hidden || !event) return;
  const f = profile.functions[profile.fn[node]!]!;
  tip.replaceChildren(element("b", {}, f.name));
  const where = place(f);
  if (where && where !== f.name) tip.append(element("p", {}, where));
  if (f.binary && f.file) tip.append(element("p", { class: "quiet" }, f.binary));
  if (f.reason) tip.append(element("p", { class: "trouble" }, f.kind === "mark" ? f.reason : `no name: ${f.reason}`));
  for (const text of said(profile, node)) tip.append(element("p", {}, text));
  const { kind, text } = change(profile, profile.after.total[node]!, profile.before?.total[node] ?? 0);
  if (kind) tip.append(element("p", { class: kind }, kind === "new" ? "new: not in the profile before" : text));
  const [x, y] = [event.clientX + 14, event.clientY + 16];
  tip.style.left = `${Math.max(Math.min(x, innerWidth - tip.offsetWidth - 8), 4)}px`;
  tip.style.top = `${y + tip.offsetHeight > innerHeight ? Math.max(y - tip.offsetHeight - 28, 4) : y}px`;
}

// A node's values in words.
export function said(profile: Profile, node: number): string[] {
  const line = (name: string, values: NonNullable<Profile["before"]>) =>
    `${name}${quantity(values.total[node]!, profile.unit)} (${per(profile, values.total[node]!, values.units)}), itself ${quantity(values.self[node]!, profile.unit)}`;
  if (!profile.before) return [line("", profile.after)];
  return [line("before: ", profile.before), line("after: ", profile.after)];
}

export function drawCrumbs(profile: Profile, root: number, zoom: (node: number) => void, extra: HTMLElement[]) {
  const path: number[] = [];
  for (let at = root; at >= 0; at = profile.parent[at]!) path.unshift(at);
  const crumbs = path.map((node) => {
    const button = element("button", { type: "button" }, profile.functions[profile.fn[node]!]!.name);
    button.addEventListener("click", () => zoom(node));
    return button;
  });
  byId<HTMLElement>("crumbs").replaceChildren(...extra, ...crumbs);
}

const LEGENDS = {
  merge: [["hsl(36 60% 60%)", "native"], ["hsl(268 50% 65%)", "kernel"], ["hsl(150 45% 55%)", "Python"], ["hsl(195 50% 55%)", "JIT"], ["hsl(0 55% 62%)", "incomplete"]],
  diff: [["hsl(8 75% 55%)", "grew"], ["hsl(212 75% 55%)", "shrank"], ["#a855e0", "new"], ["#2f9aa6", "vanished"]],
};

export function drawLegend(profile: Profile) {
  const entries = LEGENDS[profile.before ? "diff" : "merge"];
  byId<HTMLElement>("legend").replaceChildren(
    ...entries.map(([colour, name]) => {
      const spot = element("i");
      spot.style.background = colour!;
      return element("span", {}, spot, name!);
    }),
  );
}
