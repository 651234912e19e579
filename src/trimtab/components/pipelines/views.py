"""The dashboard's picture of pipelines: the latest runs, newest first, with what each of their steps did; from a run to its report,
and to the heat map of its Pipeline's tests."""

from __future__ import annotations

from datetime import datetime

from trimtab.api import JSON
from trimtab.client import Client
from trimtab.components.pipelines.kinds import PipelineRun

RUNS_MAX = 100
NOTE = "A run's log: kubectl get --raw /apis/trimtab.dev/v1alpha1/namespaces/NAMESPACE/pipelineruns/RUN/log"


async def runs(client: Client) -> JSON:
    """A table: a run a line."""
    found = (await client.list(PipelineRun)).items
    newest = sorted(found, key=lambda r: (str(r.metadata.creation_timestamp), r.name), reverse=True)[:RUNS_MAX]
    return {
        "note": NOTE,
        "columns": ["Run", "Phase", "Tests", "Steps", "Took", "Commit", "Author", "By", "Began", "Message"],
        "rows": [_row(run) for run in newest],
    }


def _row(run: PipelineRun) -> list[str | JSON]:
    spec, status = run.spec, run.status
    slow = sorted((s for s in status.steps if s.state != "hit"), key=lambda s: -s.seconds)[:3]
    return [
        _link(f"{run.namespace}/{run.name}", f"pipelineruns/{run.namespace}/{run.name}/report"),
        status.phase,
        _link("heat map", f"pipelines/{run.namespace}/{spec.pipeline}/tests"),
        status.summary,
        f"{status.seconds:.1f} s" + (f" ({', '.join(f'{s.name} {s.seconds:.1f} s' for s in slow)})" if slow else ""),
        f"{spec.commit[:12]} {spec.message}",
        spec.author,
        f"{spec.trigger} {spec.pusher}".strip(),
        _time(status.started_at),
        status.message,
    ]


def _link(text: str, page: str) -> JSON:
    return {"text": text, "page": page}


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}" if at is not None else ""
