// What the server sends. Mirrors trimtab/web/overview.py; times are RFC 3339, durations milliseconds, sizes bytes.

export interface Pod {
  name: string;
  process: string;
  phase: string;
  ready: boolean;
  restarts: number;
  message: string;
  since: string | null;
}

export interface App {
  namespace: string;
  name: string;
  healthy: boolean;
  reason: string;
  message: string;
  ready: string;
  url: string;
  image: string;
  pods: Pod[];
}

export interface EngineProcess {
  name: string;
  pid: number;
  ready: boolean;
  restarts: number;
  memory_bytes: number;
  since: string | null;
}

export interface Node {
  name: string;
  ready: boolean;
  message: string;
  pods: number;
}

export interface ViewName {
  component: string;
  name: string;
  title: string;
  troubled: number;
}

export interface Overview {
  version: string;
  engine: string;
  processes: EngineProcess[];
  nodes: Node[];
  apps: App[];
  views: ViewName[];
  problems: string[];
}

export interface Entry {
  id: number;
  at: string;
  component: string;
  actor: string;
  verb: string;
  // Another entry tells it in better words.
  detail: boolean;
  object: string;
  cause: string;
  message: string;
  duration_ms: number | null;
  warning: boolean;
}

// A view of a component: a table under a sentence.
export interface ViewData {
  title: string;
  note: string;
  columns: string[];
  rows: Cell[][];
}

export type Cell = string | number | boolean | null | Link;

// What a component's endpoint shows: PLURAL/NAMESPACE/NAME/SUBRESOURCE.
export interface Link {
  text: string;
  page: string;
}
