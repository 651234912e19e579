// What is looked at, as it stands in the URL: whoever opens the link sees the same.

export interface State {
  type: string;
  selector: string;
  start: string;
  end: string;
  by: string;
  compare: string;
  before_selector: string;
  before_start: string;
  before_end: string;
  per: string;
  focus: string;
  ignore: string;
  hide: string;
  search: string;
  zoom: string;
  sandwich: string;
  sort: string;
  table: string;
}

const DEFAULTS: State = {
  type: "cpu", selector: "", start: "-3600", end: "0", by: "function", compare: "", before_selector: "", before_start: "",
  before_end: "", per: "total", focus: "", ignore: "", hide: "", search: "", zoom: "", sandwich: "", sort: "", table: "1",
};

export function parse(hash: string): State {
  const state = { ...DEFAULTS };
  for (const [name, value] of new URLSearchParams(hash)) if (name in state) state[name as keyof State] = value;
  return state;
}

export function written(state: State): string {
  const told = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) if (value !== DEFAULTS[name as keyof State]) told.set(name, value);
  return told.toString();
}

// The same with its times fixed, to be looked at later.
export function fixed(state: State, now: number): State {
  const at = (value: string) => (value === "" || Number(value) > 0 ? value : String(now + Number(value)));
  const [start, end] = [at(state.start), at(state.end)];
  return { ...state, start, end, before_start: at(state.before_start), before_end: at(state.before_end) };
}

// The question to the engine (queries/shapes.py, Question).
export function question(state: State): URLSearchParams {
  const asked = new URLSearchParams({ view: state.compare ? "diff" : "tree" });
  for (const name of ["type", "selector", "start", "end", "by", "focus", "ignore", "hide"] as const) {
    if (state[name]) asked.set(name, state[name]);
  }
  if (!state.compare) return asked;
  if (state.per === "second") asked.set("per", "second");
  if (state.compare === "selector") asked.set("before_selector", state.before_selector);
  if (state.compare === "time" || state.before_start) {
    for (const name of ["before_start", "before_end"] as const) if (state[name]) asked.set(name, state[name]);
  }
  return asked;
}
