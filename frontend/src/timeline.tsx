import { useState } from "preact/hooks";
import { duration } from "./live";
import type { Entry } from "./model";

export function Timeline({ entries }: { entries: Entry[] }) {
  const [words, setWords] = useState("");
  const wanted = words.toLowerCase();
  const shown = entries.filter((e) => !wanted || `${e.object} ${e.message} ${e.actor}`.toLowerCase().includes(wanted));
  return (
    <section class="timeline" aria-label="Timeline">
      <h2>
        Timeline
        <input type="search" placeholder="Filter" aria-label="Filter the timeline" value={words}
          onInput={(event) => setWords(event.currentTarget.value)} />
      </h2>
      <ol>
        {shown.map((entry) => (
          <li key={entry.id} class={entry.warning ? "warning" : ""}>
            <time dateTime={entry.at} title={entry.at}>{clock(entry.at)}</time>
            <div>
              <p>
                {entry.message || `${entry.verb} ${entry.object}`}
                {entry.duration_ms !== null && <span class="took">{duration(entry.duration_ms)}</span>}
              </p>
              <p class="quiet">
                {entry.object}
                {entry.actor && ` · ${entry.actor}`}
                {entry.cause && ` · because of ${entry.cause}`}
              </p>
            </div>
          </li>
        ))}
        {shown.length === 0 && <li class="quiet">{wanted ? "Nothing matches." : "Nothing has happened yet."}</li>}
      </ol>
    </section>
  );
}

function clock(at: string): string {
  const date = new Date(at);
  const day = new Date().toDateString() === date.toDateString() ? "" : `${date.toLocaleDateString()} `;
  const time = date.toLocaleTimeString([], { hour12: false });
  return `${day}${time}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}
