"""Pipelines: `git push` to the engine, and what it runs. How a pipeline is written and run is `trimtab.ci`'s (docs/pipelines.md).

    git push --gateway.py--> served.py (git) --> PipelineRun --run.py--> a process: `trimtab ci run` --> status
                                                                                 App spec.image <--pipeline.py--'

kinds.py, runner.py (what the reconcilers ask of the world), run.py, pipeline.py, gateway.py, then served.py and hook.py, which run in
a process apart. Of an engine of ours only: runs need its content store and its users. `pods` is of the command's side: steps of a run
as pods of any cluster.
"""

from typing import Any

from trimtab.api.core import Secret
from trimtab.components.pipelines.admission import check_pipeline, check_run
from trimtab.components.pipelines.kinds import Pipeline, PipelineRun
from trimtab.components.pipelines.pipeline import deploy, repository
from trimtab.components.pipelines.reasons import REASONS
from trimtab.components.pipelines.run import run
from trimtab.components.pipelines.runner import Runner
from trimtab.runtime import Admission, Command, Component, Endpoint, Need, Owned, Service, Store, View
from trimtab.runtime.settings import Settings

SOCKET = "pipelines.sock"


async def _gateway(process: Any) -> None:
    await process.adapter(Runner).serve(process)


async def _runs_view(client: Any) -> dict[str, Any]:
    from trimtab.components.pipelines.views import runs

    return await runs(client)


def _git() -> str | None:
    import shutil

    return None if shutil.which("git") else "git is missing, which pushes to a Pipeline need: apt-get install git"


def _bubblewrap() -> str | None:
    import shutil

    return (
        None if shutil.which("bwrap") else "bwrap is missing, which runs steps of pipelines: apt-get install bubblewrap"
    )


COMPONENT = Component(
    name="pipelines",
    summary="runs the pipeline of what is pushed, and gives the App its image",
    kinds=(Pipeline, PipelineRun),
    reconcilers=(repository, run, deploy),
    services=(
        Service("gateway", _gateway, place="node", reads=(Pipeline, Secret), owns=(Owned(PipelineRun, shared=False),)),
    ),
    admission=(Admission("pipeline", Pipeline, check_pipeline), Admission("run", PipelineRun, check_run)),
    stores=(
        Store(
            "pipelines",
            "repositories with their Pipeline, logs and reports with their run, the cache as docs/pipelines.md says",
        ),
    ),
    commands=(
        Command("remote", "trimtab.components.pipelines.remote:remote", "Let git push to a Pipeline of the engine."),
    ),
    views=(View("runs", "Pipelines", _runs_view),),
    endpoints=(
        Endpoint(Pipeline, "git", SOCKET),
        Endpoint(Pipeline, "webhook", SOCKET),
        Endpoint(Pipeline, "tests", SOCKET, page=True),
        Endpoint(PipelineRun, "log", SOCKET),
        Endpoint(PipelineRun, "report", SOCKET, page=True),
        Endpoint(PipelineRun, "record", SOCKET),
    ),
    needs=(Need("git", _git), Need("bubblewrap", _bubblewrap)),
    conditions=dict(REASONS),
)


def adapters(settings: Settings) -> dict[type, Any]:
    """What the reconcilers do to the world, on a machine of our own."""
    from trimtab.components.pipelines.process import ProcessRunner

    return {Runner: ProcessRunner(settings)}


__all__ = ["COMPONENT", "Pipeline", "PipelineRun", "adapters"]
