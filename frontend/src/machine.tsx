import { age, size, useNow } from "./live";
import type { EngineProcess, Node } from "./model";

export function Machine({ nodes, processes }: { nodes: Node[]; processes: EngineProcess[] }) {
  const now = useNow();
  const total = processes.reduce((sum, process) => sum + process.memory_bytes, 0);
  return (
    <section aria-label="Engine">
      <h2>Engine</h2>
      <table>
        <thead>
          <tr><th>Part</th><th class="number">Memory</th><th class="number">Restarts</th><th class="number">Up</th></tr>
        </thead>
        <tbody>
          {processes.map((process) => (
            <tr key={process.name} class={process.ready ? "good" : "bad"}>
              <td><span class="dot" /> {process.name}</td>
              <td class="number">{process.memory_bytes ? size(process.memory_bytes) : ""}</td>
              <td class="number">{process.restarts || ""}</td>
              <td class="number">{age(process.since, now)}</td>
            </tr>
          ))}
          {nodes.map((node) => (
            <tr key={node.name} class={node.ready ? "good" : "bad"} title={node.message}>
              <td><span class="dot" /> node {node.name}</td>
              <td class="number" colSpan={3}>{node.ready ? `${node.pods} pods` : node.message}</td>
            </tr>
          ))}
        </tbody>
        {total > 0 && <tfoot><tr><td>all</td><td class="number">{size(total)}</td><td /><td /></tr></tfoot>}
      </table>
    </section>
  );
}
