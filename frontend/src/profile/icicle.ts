// Draws a tree on a canvas, root on top (or at the bottom): as many nodes as are wide enough to be seen, whatever the tree's size.
import { change } from "./words";
import type { Profile } from "./profile";

const ROW = 19;
const GAP = 1;
const SEEN_PX = 0.4;
const TEXT_PX = 28;
const MOVE_MS = 160;

// Hue by kind of frame; a shade of it by name.
const HUES: Record<string, number> = { native: 36, kernel: 268, python: 150, jit: 195, named: 215, mark: 0, label: 215 };

export interface Hooks {
  hover(node: number, event: MouseEvent | null): void;
  choose(node: number): void;
  zoom(node: number): void;
}

export class Icicle {
  private profile: Profile | null = null;
  private matches: Uint8Array | null = null;
  private selected = 0;

  get chosen(): number {
    return this.selected;
  }

  private root = 0;
  private view = [0, 1];
  private moving = 0;
  private asked = 0;
  private shades: string[] = [];
  private readonly canvas = document.createElement("canvas");
  private readonly spacer = document.createElement("div");
  private readonly context = this.canvas.getContext("2d", { alpha: false })!;
  private readonly dark = matchMedia("(prefers-color-scheme: dark)");

  constructor(private readonly box: HTMLElement, private readonly hooks: Hooks, private readonly flip = false) {
    this.spacer.className = "spacer";
    this.spacer.append(this.canvas);
    box.append(this.spacer);
    new ResizeObserver(() => this.later()).observe(box);
    box.addEventListener("scroll", () => this.later(), { passive: true });
    this.dark.addEventListener("change", () => this.repaint());
    this.canvas.addEventListener("mousemove", (event) => hooks.hover(this.nodeAt(event), event));
    this.canvas.addEventListener("mouseleave", () => hooks.hover(-1, null));
    this.canvas.addEventListener("click", (event) => {
      const node = this.nodeAt(event);
      if (node < 0) return;
      this.select(node);
      hooks.zoom(node);
    });
    box.addEventListener("keydown", (event) => this.key(event));
  }

  show(profile: Profile, root = 0) {
    const same = this.profile === profile;
    this.profile = profile;
    this.root = root;
    this.view = [profile.left[root]!, profile.right[root]!];
    if (!same) this.selected = root;
    this.repaint();
  }

  zoom(node: number) {
    if (!this.profile) return;
    this.root = node;
    const from = [...this.view];
    const to = [this.profile.left[node]!, this.profile.right[node]!];
    const began = performance.now();
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    cancelAnimationFrame(this.moving);
    const step = (now: number) => {
      const part = still ? 1 : Math.min(Math.max((now - began) / MOVE_MS, 0), 1);
      const eased = 1 - (1 - part) ** 3;
      this.view = [0, 1].map((i) => from[i]! + (to[i]! - from[i]!) * eased);
      this.draw();
      if (part < 1) this.moving = requestAnimationFrame(step);
    };
    this.moving = requestAnimationFrame(step);
  }

  highlight(matches: Uint8Array | null) {
    this.matches = matches;
    this.later();
  }

  select(node: number) {
    this.selected = node;
    this.hooks.choose(node);
    const y = this.rowTop(this.profile!.depth[node]!);
    if (y < this.box.scrollTop) this.box.scrollTop = y;
    else if (y + ROW > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = y + ROW - this.box.clientHeight;
    this.later();
  }

  repaint() {
    if (!this.profile) return;
    this.shades = this.profile.functions.map((f) => shade(f.kind, f.name, this.dark.matches));
    this.spacer.style.height = `${this.height()}px`;
    if (this.flip) requestAnimationFrame(() => (this.box.scrollTop = this.box.scrollHeight));
    this.later();
  }

  private later() {
    cancelAnimationFrame(this.asked);
    this.asked = requestAnimationFrame(() => this.draw());
  }

  private height(): number {
    return (this.profile!.levels.length - 1) * ROW;
  }

  private rowTop(depth: number): number {
    return this.flip ? this.height() - (depth + 1) * ROW : depth * ROW;
  }

  draw() {
    const { profile, context, box } = this;
    if (!profile) return;
    const ratio = devicePixelRatio;
    const [width, height] = [box.clientWidth, box.clientHeight];
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
      this.canvas.style.width = `${width}px`;
      this.canvas.style.height = `${height}px`;
    }
    const dark = this.dark.matches;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = dark ? "#171e27" : "#ffffff";
    context.fillRect(0, 0, width, height);
    context.font = "12px ui-monospace, 'Cascadia Mono', monospace";
    context.textBaseline = "middle";
    const letter = context.measureText("m").width;
    const [from, to] = this.view as [number, number];
    const scale = width / (to - from || 1);
    for (let depth = 0; depth + 1 < profile.levels.length; depth++) {
      const y = this.rowTop(depth) - box.scrollTop;
      if (y + ROW < 0 || y > height) continue;
      const end = profile.levels[depth + 1]!;
      for (let at = this.firstSeen(depth, from); at < end; at++) {
        const node = profile.order[at]!;
        const x = (profile.left[node]! - from) * scale;
        if (x > width) break;
        const wide = (profile.right[node]! - profile.left[node]!) * scale;
        if (wide >= SEEN_PX) this.node(node, Math.max(x, 0), y, Math.min(x + wide, width), letter, dark);
      }
    }
  }

  // The first of a level's nodes that reaches into the view; they stand from left to right.
  private firstSeen(depth: number, from: number): number {
    const { order, levels, right } = this.profile!;
    let [low, high] = [levels[depth]!, levels[depth + 1]!];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (right[order[middle]!]! > from + 1e-12) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  private node(node: number, x: number, y: number, end: number, letter: number, dark: boolean) {
    const { context, profile } = this;
    const fn = profile!.fn[node]!;
    const wide = Math.max(end - x - (end - x > 3 ? GAP : 0), 0.5);
    const faint = (this.matches && !this.matches[fn]) || profile!.depth[node]! < profile!.depth[this.root]!;
    context.globalAlpha = faint ? 0.35 : 1;
    context.fillStyle = this.colour(node, fn, dark);
    context.fillRect(x, y, wide, ROW - GAP);
    if (node === this.selected) {
      context.strokeStyle = dark ? "#ffffff" : "#1d2733";
      context.lineWidth = 2;
      context.strokeRect(x + 1, y + 1, Math.max(wide - 2, 0), ROW - GAP - 2);
    }
    if (wide > TEXT_PX) {
      const room = Math.floor((wide - 8) / letter);
      const name = profile!.functions[fn]!.name;
      context.fillStyle = dark ? "#f1f4f8" : "#10151c";
      context.fillText(name.length > room ? `${name.slice(0, Math.max(room - 1, 0))}…` : name, x + 4, y + ROW / 2);
    }
    context.globalAlpha = 1;
  }

  private colour(node: number, fn: number, dark: boolean): string {
    const { before, after } = this.profile!;
    if (!before) return node ? this.shades[fn]! : dark ? "#33404f" : "#d5dce4";
    const { kind, by } = change(this.profile!, after.total[node]!, before.total[node]!);
    if (kind === "new") return dark ? "#8e44c9" : "#cf9bf5";
    if (kind === "vanished") return dark ? "#1f6d78" : "#8ed6df";
    const part = Math.min(Math.abs(by) / (Math.max(after.total[node]! / after.units, before.total[node]! / before.units) || 1), 1);
    const strength = Math.min(part * 1.6, 1);
    if (strength < 0.03) return dark ? "#33404f" : "#e2e7ed";
    const hue = kind === "grew" ? 8 : 212;
    return dark ? `hsl(${hue} ${20 + 55 * strength}% ${27 + 12 * strength}%)` : `hsl(${hue} ${30 + 60 * strength}% ${90 - 22 * strength}%)`;
  }

  private nodeAt(event: MouseEvent): number {
    const { profile } = this;
    if (!profile) return -1;
    const [from, to] = this.view as [number, number];
    const y = event.offsetY + this.box.scrollTop;
    const depth = Math.floor((this.flip ? this.height() - y : y) / ROW);
    if (depth < 0 || depth + 1 >= profile.levels.length) return -1;
    const x = from + (event.offsetX / this.box.clientWidth) * (to - from);
    const at = this.firstSeen(depth, x);
    const node = at < profile.levels[depth + 1]! ? profile.order[at]! : -1;
    return node >= 0 && profile.left[node]! <= x ? node : -1;
  }

  private key(event: KeyboardEvent) {
    const { profile, selected } = this;
    if (!profile || event.ctrlKey || event.metaKey || event.altKey) return;
    const next = this.neighbour(this.flip ? ({ ArrowUp: "ArrowDown", ArrowDown: "ArrowUp" }[event.key] ?? event.key) : event.key);
    if (event.key === "Enter") this.hooks.zoom(selected);
    else if (next >= 0) this.select(next);
    else return;
    event.preventDefault();
  }

  private neighbour(key: string): number {
    const { profile, selected } = this;
    const { order, levels, depth, parent } = profile!;
    const level = depth[selected]!;
    if (key === "ArrowUp") return parent[selected]!;
    if (key === "ArrowDown") {
      const below = order.slice(levels[level + 1] ?? order.length, levels[level + 2] ?? order.length);
      return below.find((node) => parent[node] === selected) ?? -1;
    }
    if (key !== "ArrowLeft" && key !== "ArrowRight") return -1;
    const at = order.indexOf(selected, levels[level]!) + (key === "ArrowLeft" ? -1 : 1);
    return at >= levels[level]! && at < levels[level + 1]! ? order[at]! : -1;
  }
}

function shade(kind: string, name: string, dark: boolean): string {
  let hash = 7;
  for (let i = 0; i < name.length; i++) hash = (hash * 31 + name.charCodeAt(i)) >>> 0;
  const hue = (HUES[kind] ?? 215) + (hash % 23) - 11;
  const light = (hash >>> 8) % 9;
  return dark ? `hsl(${hue} 38% ${30 + light}%)` : `hsl(${hue} 62% ${72 + light}%)`;
}
