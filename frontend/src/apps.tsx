import { age, useNow } from "./live";
import type { App } from "./model";

export function Apps({ apps }: { apps: App[] }) {
  const now = useNow();
  return (
    <section aria-label="Apps">
      <h2>Apps</h2>
      {apps.length === 0 && <p class="quiet">None yet. Write a <code>ship.py</code> and run <code>trimtab up</code>.</p>}
      {apps.map((app) => (
        <article class={`app ${app.healthy ? "good" : "bad"}`} key={`${app.namespace}/${app.name}`}>
          <h3>
            <span class="dot" aria-label={app.healthy ? "healthy" : "needs attention"} />
            {app.name}
            {app.namespace !== "default" && <span class="quiet"> {app.namespace}</span>}
            <span class="count">{app.ready}</span>
          </h3>
          {app.url && <a class="url" href={app.url}>{app.url}</a>}
          <p class={app.healthy ? "quiet" : "trouble"}>{app.message}</p>
          <ul class="pods">
            {app.pods.map((pod) => (
              <li key={pod.name} class={pod.ready ? "good" : "bad"} title={pod.message || pod.phase}>
                <span class="dot" />
                <b>{pod.process}</b> <span class="mono">{pod.name}</span>
                <span class="quiet">
                  {pod.ready ? "ready" : pod.message || pod.phase}
                  {pod.restarts > 0 && `, restarted ${pod.restarts}×`} · {age(pod.since, now)}
                </span>
              </li>
            ))}
          </ul>
          {app.image && <p class="quiet mono image">{app.image.replace(/@sha256:(.{12}).*/, "@$1…")}</p>}
        </article>
      ))}
    </section>
  );
}
