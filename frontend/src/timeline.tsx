import { useState } from "preact/hooks";
import { duration } from "./live";
import type { Entry } from "./model";

export function Timeline({ entries }: { entries: Entry[] }) {
  const [words, setWords] = useState("");
  const [all, setAll] = useState(false);
  const wanted = words.toLowerCase();
  const told = all ? entries : entries.filter((entry) => !entry.detail);
  const shown = told.filter((e) => !wanted || `${e.object} ${e.message} ${e.actor}`.toLowerCase().includes(wanted));
  return (
    <section class="timeline" aria-label="Timeline">
      <h2>
        Timeline
        <span class="tools">
        <label><input type="checkbox" checked={all} onChange={(event) => setAll(event.currentTarget.checked)} /> every write</label>
        <input type="search" placeholder="Filter" aria-label="Filter the timeline" value={words}
          onInput={(event) => setWords(event.currentTarget.value)} />
        </span>
      </h2>
      <ol>
        {shown.map((entry) => (
          <li key={entry.id} class={entry.warning ? "warning" : ""}>
            <time dateTime={entry.at} title={entry.at}>{clock(entry.at)}</time>
            <div>
              <p>
                {sentence(entry)}
                {entry.duration_ms !== null && <span class="took">{duration(entry.duration_ms)}</span>}
              </p>
              <p class="quiet">
                {context(entry)}
              </p>
            </div>
          </li>
        ))}
        {shown.length === 0 && <li class="quiet">{wanted ? "Nothing matches." : "Nothing has happened yet."}</li>}
      </ol>
    </section>
  );
}

const WRITES = ["created", "changed", "deleted", "status"];

function sentence(entry: Entry): string {
  if (entry.verb === "turned") return `${entry.object} is ${entry.message}`;
  if (!WRITES.includes(entry.verb)) return entry.message || `${entry.verb} ${entry.object}`;
  return entry.message ? `${entry.verb} ${entry.object}: ${entry.message}` : `${entry.verb} ${entry.object}`;
}

function context(entry: Entry): string {
  const object = [...WRITES, "turned"].includes(entry.verb) ? "" : entry.object;
  const cause = entry.cause === entry.object ? "" : entry.cause;
  return [object, entry.actor.replace(/^trimtab-/, ""), cause && `because of ${cause}`].filter(Boolean).join(" · ");
}

function clock(at: string): string {
  const date = new Date(at);
  const day = new Date().toDateString() === date.toDateString() ? "" : `${date.toLocaleDateString()} `;
  const time = date.toLocaleTimeString([], { hour12: false });
  return `${day}${time}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}
