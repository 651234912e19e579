// The page of profiles: controls on top, the tree as an icicle, a table beside it. All that is looked at stands in the URL.
import type { DiffAnswer, LabelsAnswer, TreeAnswer } from "./answers";
import { Icicle } from "./icicle";
import { byId, drawCrumbs, drawLegend, drawTable, drawTip, element, said } from "./parts";
import { filtered, load, matching, nodeOf, outermost, pathHash, type Profile, sandwich } from "./profile";
import { source } from "./source";
import { fixed, parse, question, type State, written } from "./state";
import { percent, quantity } from "./words";

const data = source();
let state: State = parse(location.hash.slice(1));
let whole: Profile | null = null;
let shown: Profile | null = null;
let upper: Profile | null = null;
let matches: Uint8Array | null = null;
let trail: number[] = [];
let asking = 0;
let listing = 0;

const tree = new Icicle(byId("tree"), { hover: (node, event) => shown && drawTip(shown, node, event), choose: tell, zoom });
const callers = new Icicle(byId("callers"), { hover: (node, event) => upper && drawTip(upper, node, event), choose: () => undefined, zoom: zoomCallers }, true);

function tell(node: number) {
  if (shown) byId<HTMLElement>("status").textContent = [shown.functions[shown.fn[node]!]!.name, ...said(shown, node)].join(" · ");
}

// State

function change(part: Partial<State>, copy = false) {
  state = { ...state, ...part };
  data.tell(written(state), copy);
}

function zoom(node: number, back = false) {
  if (!shown) return;
  if (!back) trail.push(nodeOf(shown, state.zoom));
  change({ zoom: node ? pathHash(shown, node) : "" });
  tree.zoom(node);
  crumbs(node);
}

function zoomCallers(node: number) {
  callers.zoom(node);
}

function goBack() {
  if (trail.length) zoom(trail.pop()!, true);
  else if (state.zoom) zoom(0, true);
  else if (state.sandwich) leaveSandwich();
}

function crumbs(root: number) {
  const leave = element("button", { type: "button", class: "quiet" }, "‹ whole profile");
  leave.addEventListener("click", leaveSandwich);
  drawCrumbs(shown!, root, zoom, state.sandwich ? [leave] : []);
}

function openSandwich(name: string) {
  trail = [];
  change({ sandwich: name, zoom: "" });
  show();
}

function leaveSandwich() {
  openSandwich("");
}

// Showing

function show() {
  if (!whole) return;
  const left = data.live ? whole : filtered(whole, { focus: state.focus, ignore: state.ignore, hide: state.hide });
  const fn = state.sandwich ? left.functions.findIndex((f, at) => at !== left.fn[0] && f.name === state.sandwich) : -1;
  const between = fn >= 0 ? sandwich(left, fn) : null;
  shown = between ? between.callees : left;
  upper = between ? between.callers : null;
  byId<HTMLElement>("callers").hidden = !upper;
  document.body.classList.toggle("bare", state.table !== "1");
  const root = nodeOf(shown, state.zoom);
  tree.show(shown, root);
  if (upper) callers.show(upper);
  drawLegend(shown);
  search();
  crumbs(root);
  summary(left);
}

function summary(profile: Profile) {
  const { after, before, unit, type, pruned } = profile;
  const side = (values: typeof after) => `${quantity(values.total[0]!, unit)} in ${Math.round(values.side.samples ?? 0).toLocaleString("en")} samples`;
  const lost = Object.entries(after.side.lost ?? {}).map(([reason, count]) => `${count.toLocaleString("en")} ${reason}`);
  const parts = [
    `${type}: ${before ? `${side(before)} before, ${side(after)} after` : side(after)}`,
    `${profile.parent.length.toLocaleString("en")} nodes`,
    pruned ? `${pruned.toLocaleString("en")} too small to be told of` : "",
    lost.length ? `samples lost: ${lost.join(", ")}` : "",
  ];
  byId<HTMLElement>("status").textContent = after.total[0] || before?.total[0] ? parts.filter(Boolean).join(" · ") : "No samples of this.";
}

function search() {
  if (!shown) return;
  matches = state.search ? matching(shown.functions, state.search) : null;
  tree.highlight(matches);
  callers.highlight(matches);
  byId<HTMLElement>("share").textContent = matches ? percent(shareOf(shown, matches)) : "";
  cancelAnimationFrame(listing);
  listing = requestAnimationFrame(list);
}

function list() {
  if (!shown) return;
  drawTable(shown, state.sort, matches, {
    sort: (column) => (change({ sort: column }), search()),
    choose: (name) => setSearch(state.search === literal(name) ? "" : literal(name)),
    sandwich: (fn) => openSandwich(shown!.functions[fn]!.name),
  });
}

const literal = (name: string) => `^${name.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")}$`;

function shareOf(profile: Profile, wanted: Uint8Array): number {
  const sum = outermost(profile, wanted).reduce((total, node) => total + profile.after.total[node]!, 0);
  return sum / (profile.after.total[0] || 1);
}

function setSearch(text: string) {
  byId("search").value = text;
  change({ search: text });
  search();
}

// Asking

async function ask() {
  const mine = ++asking;
  const status = byId<HTMLElement>("status");
  status.className = "";
  status.textContent = "Reading…";
  try {
    const answer = (await data.ask(question(state))) as TreeAnswer | DiffAnswer;
    if (mine !== asking) return;
    whole = load(answer);
    trail = [];
    show();
  } catch (problem) {
    if (mine !== asking) return;
    status.className = "trouble";
    status.textContent = (problem as Error).message;
  }
}

async function askLabels() {
  const query = new URLSearchParams({ view: "labels", start: state.start, end: state.end });
  const { labels, types } = (await data.ask(query)) as LabelsAnswer;
  const type = byId<HTMLSelectElement>("type");
  const names = [...new Set([...types.map(([name]) => name), state.type])];
  type.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
  type.value = state.type;
  const groups = Object.entries(labels).map(([name, values]) => {
    const options = values.slice(0, 500).map((value) => element("option", { value: `${name}=${JSON.stringify(value)}` }, value || "(none)"));
    return element("optgroup", { label: name }, ...options);
  });
  byId<HTMLSelectElement>("label").replaceChildren(element("option", { value: "" }, "+ label"), ...groups);
}

// Controls

const TEXTS = ["selector", "before_selector", "focus", "ignore", "hide"] as const;
const CHOICES = ["type", "compare", "per", "by"] as const;
const TIMES = { from: "start", until: "end", before_from: "before_start", before_until: "before_end" } as const;

function local(seconds: string): string {
  const at = Number(seconds) > 0 ? Number(seconds) : Date.now() / 1000 + Number(seconds);
  return new Date((at - new Date(at * 1000).getTimezoneOffset() * 60) * 1000).toISOString().slice(0, 16);
}

function fill() {
  for (const name of [...TEXTS, ...CHOICES]) byId(name).value = state[name];
  const relative = Number(state.start) <= 0 && state.end === "0";
  const range = byId<HTMLSelectElement>("range");
  range.value = relative && [...range.options].some((option) => option.value === state.start) ? state.start : "fixed";
  byId("fixed").hidden = range.value !== "fixed";
  for (const [id, name] of Object.entries(TIMES)) byId(id).value = state[name] === "" ? "" : local(state[name]);
  byId("search").value = state.search;
  byId("before_selector").hidden = state.compare !== "selector";
  byId("before_time").hidden = state.compare !== "time";
  byId("per").hidden = !state.compare;
  document.querySelector(".filters")!.classList.toggle("used", Boolean(state.focus || state.ignore || state.hide));
  for (const part of document.querySelectorAll<HTMLElement>(".live")) part.hidden = !data.live;
}

function asked(part: Partial<State>) {
  change({ ...part, zoom: "" });
  fill();
  if (data.live) void ask();
  else show();
}

for (const name of [...TEXTS, ...CHOICES]) {
  byId(name).addEventListener("change", () => asked({ [name]: byId(name).value }));
}
for (const [id, name] of Object.entries(TIMES)) {
  byId(id).addEventListener("change", () => {
    const at = Date.parse(byId(id).value) / 1000;
    if (at) asked({ [name]: String(at) });
  });
}
byId("range").addEventListener("change", () => {
  const { value } = byId("range");
  asked(value === "fixed" ? fixed(state, Math.floor(Date.now() / 1000)) : { start: value, end: "0" });
});
byId("label").addEventListener("change", () => {
  const { value } = byId("label");
  byId("label").value = "";
  if (value) asked({ selector: [state.selector, value].filter(Boolean).join(",") });
});
byId("search").addEventListener("input", () => setSearch(byId("search").value));
byId("toggle").addEventListener("click", () => (change({ table: state.table === "1" ? "0" : "1" }), show()));
byId("refresh").addEventListener("click", () => void ask());
byId("link").addEventListener("click", () => {
  change(data.live ? fixed(state, Math.floor(Date.now() / 1000)) : {}, true);
  fill();
  byId<HTMLElement>("status").textContent = "The address now is a link to just this; it was copied where the browser lets it.";
});
byId("download").addEventListener("change", () => {
  const query = question(state);
  query.delete("view");
  data.download(byId("download").value, query);
  byId("download").value = "";
});
byId<HTMLFormElement>("controls").addEventListener("submit", (event) => event.preventDefault());

addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
  if (event.key === "Escape") {
    if (typing) (event.target as HTMLElement).blur();
    else if (state.search) setSearch("");
    else goBack();
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") byId("search").focus();
  else if (event.key === "Backspace") goBack();
  else if (event.key === "t") byId("toggle").click();
  else if (event.key === "r" && data.live) void ask();
  else if (event.key === "s" && shown) openSandwich(shown.functions[shown.fn[tree.chosen]!]!.name);
  else return;
  event.preventDefault();
});
addEventListener("hashchange", () => {
  state = parse(location.hash.slice(1));
  fill();
  if (data.live) void ask();
  else show();
});

fill();
if (data.live) askLabels().catch(() => undefined);
void ask();
