// The frame: health at the top, apps and the machine on the left, the live timeline on the right, views by name.
// It can change nothing: the server behind it has no route that writes.
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { Apps } from "./apps";
import { useLive } from "./live";
import { Machine } from "./machine";
import { Timeline } from "./timeline";
import { ComponentPage, ComponentView } from "./view";

function useRoute(): string {
  const [route, setRoute] = useState(location.hash.slice(1));
  useEffect(() => {
    const changed = () => setRoute(location.hash.slice(1));
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}

function Page() {
  const { overview, entries, connected } = useLive();
  const [route, ...rest] = useRoute().split("?");
  const page = rest.join("?");
  if (!overview) return <p class="wait">{connected ? "Reading the state…" : "Connecting…"}</p>;
  const sick = overview.apps.filter((app) => !app.healthy).length;
  const down = overview.processes.filter((process) => !process.ready).length;
  const troubled = overview.views.filter((view) => view.troubled > 0);
  const well = sick === 0 && down === 0 && troubled.length === 0 && overview.problems.length === 0;
  const summary = well
    ? "all is well"
    : [
        ...overview.problems,
        sick && `${sick} of ${overview.apps.length} apps need attention`,
        down && `${down} parts of the engine are down`,
        ...troubled.map((view) => `${view.title.toLowerCase()}: ${view.troubled} need attention`),
      ]
        .filter(Boolean)
        .join(", ");
  return (
    <>
      <header>
        <a class="brand" href="#">
          <svg viewBox="0 0 32 32" aria-hidden="true">
            <path d="M4 6h16v20H10z" fill="currentColor" />
            <path class="tab" d="M21 17h7v9h-7z" />
          </svg>
          Trimtab
        </a>
        <nav>
          <a href="#" class={route === "" ? "here" : ""}>Overview</a>
          {overview.views.map((view) => {
            const to = `${view.component}/${view.name}`;
            return <a href={`#${to}`} class={route === to ? "here" : ""} key={to}>{view.title}{view.troubled > 0 && <span class="troubled">{view.troubled}</span>}</a>;
          })}
        </nav>
        <p class={`health ${!connected ? "stale" : well ? "good" : "bad"}`} role="status">
          {connected ? summary : "connection lost; what you see may be old"}
        </p>
      </header>
      {route ? (
        <main class="single">
          {page ? <ComponentPage view={route} page={page} /> : <ComponentView path={route} />}
        </main>
      ) : (
        <main>
          <div class="left">
            <Apps apps={overview.apps} />
            <Machine nodes={overview.nodes} processes={overview.processes} />
          </div>
          <Timeline entries={entries} />
        </main>
      )}
      <footer>Trimtab {overview.version} · engine {overview.engine} · read-only</footer>
    </>
  );
}

const root = document.getElementById("root");
if (root) render(<Page />, root);
