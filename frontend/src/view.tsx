import { useEffect, useState } from "preact/hooks";
import type { Link, ViewData } from "./model";

// A document of a component's endpoint, of an origin of its own: what is in it can do nothing here.
export function ComponentPage({ view, page }: { view: string; page: string }) {
  const component = view.split("/")[0];
  return (
    <section class="page">
      <h2><a href={`#${view}`}>‹ back</a> {page}</h2>
      <iframe sandbox="allow-scripts" src={`/api/pages/${component}/${page}`} title={page} />
    </section>
  );
}

function cellOf(view: string, cell: string | number | boolean | null | Link) {
  if (cell === null) return "";
  return typeof cell === "object" ? <a href={`#${view}?${cell.page}`}>{cell.text}</a> : String(cell);
}

// A component's view: read again whenever the overview beats, so that it is as live as the rest.
export function ComponentView({ path, beat }: { path: string; beat: unknown }) {
  const [data, setData] = useState<ViewData | null>(null);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    const stop = new AbortController();
    fetch(`/api/views/${path}`, { signal: stop.signal })
      .then(async (answer) => {
        if (!answer.ok) throw new Error((await answer.text()) || answer.statusText);
        setData(await answer.json());
        setProblem("");
      })
      .catch((error: Error) => error.name !== "AbortError" && setProblem(error.message));
    return () => stop.abort();
  }, [path, beat]);
  if (problem) return <p class="trouble">{problem}</p>;
  if (!data) return <p class="wait">Reading…</p>;
  return (
    <section>
      <h2>{data.title}</h2>
      {data.note && <p class="quiet">{data.note}</p>}
      <table>
        <thead><tr>{data.columns.map((column) => <th key={column}>{column}</th>)}</tr></thead>
        <tbody>
          {data.rows.map((row, index) => (
            <tr key={index}>{row.map((cell, at) => <td key={at}>{cellOf(path, cell)}</td>)}</tr>
          ))}
        </tbody>
      </table>
      {data.rows.length === 0 && <p class="quiet">Nothing here.</p>}
    </section>
  );
}
