"""From an engine's settings to the supervisor's plan: which processes, as whom, in which order, and how they stop.

    api ----> controllers, web                   start: an arrow is "once that one is ready"
      \\----> node <---- containerd       envoy
    web, controllers | node | pods, networks | envoy | containerd | api      stop: one step after the other

Controllers stop first, so that nothing replaces the pods that the next steps remove; the API stops last, so that everybody
can write down what it did.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.confinement.outside import WAY_OUT
from trimtab.engine.datadir import SETTINGS, supervisor_run
from trimtab.engine.machine import command as machine_command
from trimtab.engine.plan import NOTIFY, PLAN, write_json
from trimtab.engine.privileges import CAP_NET_BIND_SERVICE
from trimtab.runtime.heartbeat import health_path
from trimtab.runtime.settings import Settings

INHERITED = (*WAY_OUT, "TZ")
"""What of the caller's environment reaches the engine: the way to the world outside. Everything else stays out."""
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NODE_STOP_TIMEOUT_S = 15.0
STOP_PODS_S = 60
"""What a pod's grace period may last at most when the engine stops: twice the usual one, and all pods stop at once."""
STOP_PODS_S_MAX = 3600
"""What `trimtab stop --timeout` may ask for."""
PODS_STEP_S = STOP_PODS_S_MAX + 30.0
"""The step that ends the pods ends by itself, after what `stop` was asked for; this is for one that hangs."""


def program_directories() -> list[str]:
    """Every directory that our Python needs to run: interpreter, environment, packages.

    The current directory, which `python -m` puts on the path, is none of them, and neither is any directory that merely
    contains one: an unprivileged process is to see the program, not what lies around it.
    """
    program = [sys.prefix, sys.base_prefix, os.path.dirname(os.path.realpath(sys.executable))]
    program.append(str(Path(__file__).resolve().parents[2]))
    packages = [os.path.abspath(p) for p in sys.path if p and os.path.isdir(p) and os.path.abspath(p) != os.getcwd()]
    around = [p for p in packages if any(Path(p) in Path(needed).parents for needed in program)]
    return sorted({os.path.abspath(p) for p in (*program, *packages) if p not in around})


def environment(settings: Settings, caller: Mapping[str, str]) -> dict[str, str]:
    """The environment of every process of the engine."""
    return {
        "PATH": SEARCH_PATH,
        "LANG": "C.UTF-8",
        "HOME": settings.data,
        "TRIMTAB_DATA": settings.data,
        "TRIMTAB_SETTINGS": str(settings.data_path(SETTINGS)),
        "NOTIFY_SOCKET": str(supervisor_run(settings) / NOTIFY),
        # One malloc arena instead of eight a core: threads here wait more than they allocate, and idle memory counts.
        "MALLOC_ARENA_MAX": "1",
        **{name: caller[name] for name in INHERITED if name in caller},
    }


def python_module(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-I", "-m", module, *arguments]


def make_plan(settings: Settings, *, node: bool, containerd: list[str], envoy: list[str]) -> dict[str, Any]:
    """The plan as JSON. `containerd` and `envoy` are the command lines of their components; node False: neither a node
    agent nor containerd."""
    processes: list[dict[str, Any]] = [
        {
            "name": "api",
            "argv": python_module("trimtab.engine.processes", "api"),
            "user": settings.user,
            "probe": {"address": str(settings.api_socket), "path": "/readyz"},
            "lively": True,
            "label": "API server",
            "serving": "answering",
        },
        {
            "name": "controllers",
            "argv": python_module("trimtab.engine.processes", "controllers"),
            "user": settings.user,
            "health": str(health_path(settings, "controllers")),
            "after": ["api"],
        },
        {
            "name": "envoy",
            "argv": envoy,
            "user": settings.proxy_user,
            "ambient": [CAP_NET_BIND_SERVICE],
            "probe": {"address": str(settings.envoy_admin_socket), "path": "/ready"},
            "label": "Envoy",
            "serving": "serving",
            "outlives": True,
        },
        {
            "name": "web",
            "argv": python_module("trimtab.web"),
            "user": settings.web_user,
            "ambient": [CAP_NET_BIND_SERVICE] if settings.web_port < 1024 else [],
            "after": ["api"],
            "probe": {"address": [_reachable(settings.listen), settings.web_port], "path": "/healthz"},
            "label": "dashboard",
            "serving": "serving",
        },
    ]
    stop: list[dict[str, Any]] = [{"stop": ["web", "controllers"]}]
    machines = settings.nodes if node else ()
    if node:
        processes[1:1] = [
            {
                "name": "containerd",
                "argv": containerd,
                "probe": {"address": str(settings.containerd_socket)},
                "serving": "serving",
            },
            {
                "name": "node",
                "argv": python_module("trimtab.engine.processes", "node"),
                "health": str(health_path(settings, "node")),
                "after": ["api", "containerd"],
                "label": "node agent",
                "stop_timeout_s": NODE_STOP_TIMEOUT_S,
            },
        ]
        stop += [
            {"stop": ["node", *machines]},
            {
                "run": python_module("trimtab.engine.processes", "stop-pods"),
                "timeout_s": PODS_STEP_S,
                "pods": True,
            },
        ]
    stop.append({"stop": ["envoy"]})
    if node:
        stop += [
            {"stop": ["containerd"]},
            {"run": python_module("trimtab.engine.processes", "clean-up"), "timeout_s": 90.0, "pods": True},
        ]
    stop.append({"stop": ["api"]})
    processes += [machine_process(settings, name) for name in machines]
    return {
        "run": str(supervisor_run(settings)),
        "data": settings.data,
        "user": settings.user,
        "log_dir": str(settings.data_path("log")),
        "env": environment(settings, os.environ),
        "processes": processes,
        "stop": stop,
        "journal": python_module("trimtab.engine.chronicle"),
        "readable": program_directories(),
        "writable": [settings.data, settings.run],
        "hidden": [str(settings.data_path("node")), str(settings.run_path("containerd"))],
    }


def machine_process(settings: Settings, name: str) -> dict[str, Any]:
    """The keeper of a further node, for the engine's supervisor. It is ready once the node's agent takes connections."""
    return {
        "name": name,
        "argv": machine_command(str(machine_file(settings, name))),
        "after": ["api", "node"],
        "probe": {"address": str(settings.node_socket_of(name))},
        "label": f"node {name}",
        "outlives": True,
        "stop_timeout_s": STOP_PODS_S + 45.0,
    }


def machine_file(settings: Settings, name: str) -> Path:
    return supervisor_run(settings) / f"{name}.json"


def machine_spec(settings: Settings, name: str, disk: Path, containerd: list[str]) -> dict[str, Any]:
    """What a further node's keeper is told (`machine.py`), with the plan of the supervisor inside it."""
    log_dir = str(settings.data_path("log", name))
    stop = [
        {"stop": ["node"]},
        {"run": python_module("trimtab.engine.processes", "stop-pods"), "timeout_s": PODS_STEP_S, "pods": True},
        {"stop": ["containerd"]},
        {"run": python_module("trimtab.engine.processes", "clean-up"), "timeout_s": 30.0, "pods": True},
    ]
    processes = [
        {
            "name": "containerd",
            "argv": containerd,
            "probe": {"address": str(settings.containerd_socket)},
            "label": f"containerd of {name}",
            "serving": "serving",
        },
        {
            "name": "node",
            "argv": python_module("trimtab.engine.processes", "node"),
            "health": str(health_path(settings, "node")),
            "after": ["containerd"],
            "label": f"node agent of {name}",
            "stop_timeout_s": NODE_STOP_TIMEOUT_S,
        },
    ]
    return {
        "name": name,
        "disk": str(disk),
        "mount": str(settings.data_path("node")),
        "run": settings.run,
        "own_run": str(settings.node_run(name)),
        "uplink": settings.uplink(name),
        "plan": {
            "run": str(supervisor_run(settings)),
            "data": str(settings.data_path("node")),
            "user": settings.user,
            "log_dir": log_dir,
            "env": environment(settings, os.environ) | {"TRIMTAB_NODE": name},
            "processes": processes,
            "stop": stop,
            "journal": python_module("trimtab.engine.chronicle"),
            "readable": program_directories(),
            "writable": [settings.data, settings.run],
            "hidden": [str(settings.data_path("node"))],
        },
    }


def write_plan(settings: Settings, plan: dict[str, Any]) -> None:
    write_json(str(supervisor_run(settings) / PLAN), plan)


def _reachable(listen: str) -> str:
    return "127.0.0.1" if listen == "0.0.0.0" else listen
