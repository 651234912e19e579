// Where answers come from: the file itself, the engine's endpoint beside this page, or the dashboard around it, which asks for a page
// that has an origin of its own and can ask for nothing itself.

export interface Source {
  live: boolean;
  ask(query: URLSearchParams): Promise<unknown>;
  download(format: string, query: URLSearchParams): void;
  // Tells who is around of the state, for its URL; copy: and puts the whole link into the clipboard.
  tell(state: string, copy: boolean): void;
}

interface Said {
  id: number;
  body?: string;
  problem?: string;
}

export function source(): Source {
  const inside = document.getElementById("data")?.textContent?.trim();
  if (inside) return embedded(JSON.parse(inside));
  return parent === window ? beside() : framed();
}

function embedded(answer: unknown): Source {
  const tell = (state: string) => history.replaceState(null, "", `#${state}`);
  return { live: false, ask: () => Promise.resolve(answer), download: () => undefined, tell };
}

function beside(): Source {
  return {
    live: true,
    async ask(query) {
      const answer = await fetch(`query?${query}`);
      if (!answer.ok) throw new Error((await answer.text()).trim() || answer.statusText);
      return answer.json();
    },
    download: (format, query) => location.assign(`profiles?format=${format}&${query}`),
    tell(state, copy) {
      history.replaceState(null, "", `#${state}`);
      if (copy) navigator.clipboard?.writeText(location.href).catch(() => undefined);
    },
  };
}

function framed(): Source {
  const asked = new Map<number, { resolve(answer: unknown): void; reject(problem: Error): void }>();
  let last = 0;
  addEventListener("message", (event) => {
    const said = event.data as Said;
    const waiting = event.source === parent ? asked.get(said.id) : undefined;
    if (!waiting) return;
    asked.delete(said.id);
    if (said.problem !== undefined) waiting.reject(new Error(said.problem));
    else waiting.resolve(JSON.parse(said.body ?? "null"));
  });
  // To whoever is around: only the dashboard lets this page into a frame.
  const post = (message: object) => parent.postMessage(message, "*");
  return {
    live: true,
    ask: (query) =>
      new Promise((resolve, reject) => {
        asked.set(++last, { resolve, reject });
        post({ id: last, ask: "query", query: query.toString() });
      }),
    download: (format, query) => post({ download: "profiles", query: `format=${format}&${query}` }),
    tell: (state, copy) => post({ state, copy }),
  };
}
