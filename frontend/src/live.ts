// One event stream feeds the whole page. The browser reconnects by itself; meanwhile the page says that it is stale.
import { useEffect, useState } from "preact/hooks";
import type { Entry, Overview } from "./model";

const ENTRIES_MAX = 500;

export interface Live {
  overview: Overview | null;
  entries: Entry[];
  connected: boolean;
}

export function useLive(): Live {
  const [overview, setOverview] = useState<Overview | null>(null);
  const [entries, setEntries] = useState<Entry[]>([]);
  const [connected, setConnected] = useState(false);
  useEffect(() => {
    const stream = new EventSource("/api/stream");
    stream.onopen = () => setConnected(true);
    stream.onerror = () => setConnected(false);
    stream.addEventListener("overview", (event) => setOverview(JSON.parse(event.data)));
    stream.addEventListener("timeline", (event) => {
      const fresh: Entry[] = JSON.parse(event.data);
      setEntries((old) => merged(old, fresh));
    });
    return () => stream.close();
  }, []);
  return { overview, entries, connected };
}

// Newest first, each once: after a reconnect the server sends the last ones again.
function merged(old: Entry[], fresh: Entry[]): Entry[] {
  const byId = new Map(old.map((entry) => [entry.id, entry]));
  for (const entry of fresh) byId.set(entry.id, entry);
  return [...byId.values()].sort((a, b) => b.id - a.id).slice(0, ENTRIES_MAX);
}

// A clock for ages, once a second, only while the page is visible.
export function useNow(): number {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => document.hidden || setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, []);
  return now;
}

export function age(since: string | null, now: number): string {
  if (!since) return "";
  const seconds = Math.max(0, Math.round((now - Date.parse(since)) / 1000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

export function duration(ms: number): string {
  return ms < 10_000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

export function size(bytes: number): string {
  return `${Math.round(bytes / 1_048_576)} MiB`;
}
