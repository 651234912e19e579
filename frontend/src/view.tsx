import { useEffect, useRef, useState } from "preact/hooks";
import type { Link, ViewData } from "./model";

// What a document in the frame may say: ask for data of its own object, have some downloaded, keep its state in the URL.
interface Wish {
  id?: number;
  ask?: string;
  download?: string;
  query?: string;
  state?: string;
  copy?: boolean;
}

const WORD = /^[a-z]+$/;

// Data of the object that the document is of: the server knows which of its endpoints give any.
function dataPath(view: string, page: string, endpoint: string, query: string): string {
  return `/api/data/${view.split("/")[0]}/${page.slice(0, page.lastIndexOf("/"))}/${endpoint}?${query}`;
}

async function answered(path: string) {
  const answer = await fetch(path);
  const body = await answer.text();
  return answer.ok ? { body } : { problem: body.trim() || answer.statusText };
}

function saved(path: string) {
  const link = document.createElement("a");
  link.href = path;
  link.download = "";
  link.click();
}

// A document of a component's endpoint, of an origin of its own: what is in it can do nothing here but what `Wish` says. What follows `&`
// in `page` is the document's state.
export function ComponentPage({ view, page }: { view: string; page: string }) {
  const [where = "", state] = page.split(/&(.*)/s);
  const frame = useRef<HTMLIFrameElement>(null);
  const [first] = useState(state);
  useEffect(() => {
    const heard = async (event: MessageEvent<Wish>) => {
      const inside = frame.current?.contentWindow;
      if (!inside || event.source !== inside) return;
      const { id, ask, download, query = "", state, copy } = event.data ?? {};
      if (ask !== undefined && WORD.test(ask)) {
        const said = await answered(dataPath(view, where, ask, query)).catch((error: Error) => ({ problem: error.message }));
        inside.postMessage({ id, ...said }, "*");
      }
      if (download !== undefined && WORD.test(download)) saved(dataPath(view, where, download, query));
      if (state === undefined) return;
      history.replaceState(null, "", `#${view}?${where}${state && `&${state}`}`);
      if (copy) navigator.clipboard?.writeText(location.href).catch(() => undefined);
    };
    addEventListener("message", heard);
    return () => removeEventListener("message", heard);
  }, [view, where]);
  const source = `/api/pages/${view.split("/")[0]}/${where}${first ? `#${first}` : ""}`;
  return (
    <section class="page">
      <h2><a href={`#${view}`}>‹ back</a> {where}</h2>
      <iframe ref={frame} sandbox="allow-scripts" src={source} title={where} />
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
