import { useEffect, useRef, useState } from "preact/hooks";
import type { Cell, ViewData } from "./model";

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

// Characters of a cell that may be cut off: all of it is said when it is pointed at.
const LONG = 60;

function cellOf(view: string, cell: Cell) {
  if (cell === null) return "";
  return typeof cell === "object" ? <a href={`#${view}?${cell.page}`}>{cell.text}</a> : String(cell);
}

const AGAIN_MS = 3000;
const ROWS_A_PAGE = 100;

// What is there now, read again a while after the last answer: however long a view takes, it comes.
function useView(path: string): { data: ViewData | null; problem: string } {
  const [data, setData] = useState<ViewData | null>(null);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    const stop = new AbortController();
    let timer = 0;
    const read = async () => {
      try {
        if (document.hidden) return;
        const answer = await fetch(`/api/views/${path}`, { signal: stop.signal });
        if (!answer.ok) throw new Error((await answer.text()) || answer.statusText);
        setData(await answer.json());
        setProblem("");
      } catch (error) {
        if (!stop.signal.aborted) setProblem((error as Error).message);
      } finally {
        if (!stop.signal.aborted) timer = setTimeout(read, AGAIN_MS);
      }
    };
    setData(null);
    setProblem("");
    read();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [path]);
  return { data, problem };
}

function text(cell: Cell) {
  return cell === null ? "" : typeof cell === "object" ? cell.text : String(cell);
}

// A component's view: its rows by page, those with all words of the filter.
export function ComponentView({ path }: { path: string }) {
  const { data, problem } = useView(path);
  const [words, setWords] = useState("");
  const [wanted, setPage] = useState(0);
  useEffect(() => {
    setWords("");
    setPage(0);
  }, [path]);
  if (problem) return <p class="trouble">{problem}</p>;
  if (!data) return <p class="wait">Reading…</p>;
  const sought = words.toLowerCase().split(/\s+/).filter(Boolean);
  const matching = sought.length
    ? data.rows.filter((row) => {
        const line = row.map(text).join(" ").toLowerCase();
        return sought.every((word) => line.includes(word));
      })
    : data.rows;
  const pages = Math.max(1, Math.ceil(matching.length / ROWS_A_PAGE));
  const page = Math.min(wanted, pages - 1);
  const first = page * ROWS_A_PAGE;
  const shown = matching.slice(first, first + ROWS_A_PAGE);
  return (
    <section class="view">
      <h2>
        {data.title}
        <span class="tools">
          {pages > 1 && (
            <span class="pages">
              <button type="button" aria-label="The page before" disabled={page === 0} onClick={() => setPage(page - 1)}>‹</button>
              {first + 1} to {first + shown.length} of {matching.length}
              <button type="button" aria-label="The next page" disabled={page === pages - 1} onClick={() => setPage(page + 1)}>›</button>
            </span>
          )}
          <input type="search" placeholder="Filter" aria-label="Filter the rows" value={words}
            onInput={(event) => { setWords(event.currentTarget.value); setPage(0); }} />
        </span>
      </h2>
      {data.note && <p class="quiet">{data.note}</p>}
      <table>
        <thead><tr>{data.columns.map((column) => <th key={column}>{column}</th>)}</tr></thead>
        <tbody>
          {shown.map((row, index) => (
            <tr key={first + index}>
              {row.map((cell, at) => <td key={at}><div title={text(cell).length > LONG ? text(cell) : undefined}>{cellOf(path, cell)}</div></td>)}
            </tr>
          ))}
        </tbody>
      </table>
      {shown.length === 0 && <p class="quiet">{sought.length ? "Nothing matches." : "Nothing here."}</p>}
    </section>
  );
}
