"""Profiling: what every process on the machine spends its time on, always on, kept, and compared at every deploy.

    agent/ (root) --batch.py--> storage/ --> queries/ --> commands.py, served.py          formats/: pprof, OTLP, speedscope
       bpf/                         symbols/ --'

kinds.py, measurer.py (what is asked of the world), reconcile.py, service.py; process.py and gateway.py do it on a machine. Nothing
but the agent runs all the time: what answers and what keeps house are processes that end. Of an engine of ours only.

What measures and what parses are processes of this package, too, and count their memory: the declaration (declaration.py) is loaded
when somebody asks for it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.components.profiling.declaration import COMPONENT, adapters, comparing
    from trimtab.components.profiling.kinds import Profiler


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trimtab.components.profiling import declaration

    return getattr(declaration, name)


__all__ = ["COMPONENT", "Profiler", "adapters", "comparing"]
