// What the engine answers. Mirrors trimtab/components/profiling/queries/shapes.py; trees are columns, node 0 is the root.

export type FunctionRow = [name: string, file: string, line: number, binary: string, kind: string, reason: string];

export interface Side {
  total: number;
  samples?: number;
  units?: number;
  lost?: Record<string, number>;
  start?: number;
  end?: number;
  selector?: string;
}

export interface TreeAnswer {
  answer: "tree";
  type: string;
  unit: string;
  side: Side;
  functions: FunctionRow[];
  function: number[];
  parent: number[];
  self: number[];
  total: number[];
  pruned: number;
}

export interface DiffAnswer {
  answer: "diff";
  type: string;
  unit: string;
  per: "total" | "request" | "second";
  before: Side;
  after: Side;
  functions: FunctionRow[];
  function: number[];
  parent: number[];
  before_self: number[];
  before_total: number[];
  after_self: number[];
  after_total: number[];
  pruned: number;
}

export interface LabelsAnswer {
  answer: "labels";
  labels: Record<string, string[]>;
  types: [string, string][];
}
