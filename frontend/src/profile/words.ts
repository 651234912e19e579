// Values in words, as queries/terminal.py writes them.
import type { Func, Profile } from "./profile";

const SCALES: Record<string, [number, string][]> = {
  nanoseconds: [[1e9, "s"], [1e6, "ms"], [1e3, "µs"], [1, "ns"]],
  bytes: [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]],
};

export function quantity(value: number, unit: string): string {
  const scale = SCALES[unit];
  if (!scale) return Math.round(value).toLocaleString("en");
  const [size, name] = scale.find(([least]) => Math.abs(value) >= least) ?? scale[scale.length - 1]!;
  const digits = size === 1 ? 0 : value / size < 10 ? 2 : 1;
  return `${(value / size).toLocaleString("en", { minimumFractionDigits: value ? digits : 0, maximumFractionDigits: digits })} ${name}`;
}

export const percent = (part: number) => `${(100 * part).toFixed(part < 0.01 ? 2 : 1)} %`;

export type Change = "" | "new" | "vanished" | "grew" | "shrank";

// How a value differs, once each side is divided by its units. What was not there has not grown by a factor: it is new.
export function change(profile: Profile, after: number, before: number): { kind: Change; text: string; by: number } {
  if (!profile.before) return { kind: "", text: "", by: 0 };
  const [a, b] = [after / profile.after.units, before / profile.before.units];
  if (!b) return a ? { kind: "new", text: "new", by: a } : { kind: "", text: "", by: 0 };
  if (!a) return { kind: "vanished", text: "vanished", by: -b };
  const sign = a > b ? "+" : "";
  const text = profile.per === "total" ? `${sign}${(100 * (a - b)).toFixed(1)} pts` : `${sign}${(100 * (a / b - 1)).toFixed(0)} %`;
  return { kind: a > b ? "grew" : a < b ? "shrank" : "", text, by: a - b };
}

export const per = (profile: Profile, value: number, units: number) =>
  profile.per === "total" ? percent(value / units) : quantity(value / units, profile.unit);

export function place(f: Func): string {
  if (!f.file) return f.binary;
  return f.line ? `${f.file}:${f.line}` : f.file;
}
