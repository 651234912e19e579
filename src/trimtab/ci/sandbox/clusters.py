"""The cluster of a step: made before its commands run, gone after them, and named by a kubeconfig in its sandbox.

    with_cluster(cluster())               --> `trimtab cluster create --owner RUNNER` --> kubeconfig --> ... --> `cluster delete`
    with_cluster(cluster(like="first"))   --> the same, as a copy of a frozen one
    with_cluster(cluster(context="prod")) --> this context, alone, out of the runner's kubeconfig

The `trimtab` command makes it, as a process: nothing here knows an engine. The lease is the runner's, so the clusters of a run that
is killed go without it. A cluster's API listens on the machine's loopback, so the step shares the machine's network.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from trimtab.ci.cache.blobs import Blobs
from trimtab.ci.definition.values import VARIANT
from trimtab.ci.runs.ports import EngineFault, Job, Stop

KUBECONFIG = "/run/trimtab/kubeconfig"
"""Where a step finds it; `KUBECONFIG` says so."""
PROOFS = ("token", "password", "client-key-data")


@contextmanager
def given(job: Job, blobs: Blobs, write: Callable[[bytes], None], stop: Stop) -> Iterator[Job]:
    """The job with its cluster; as it is when it has none. Raises `EngineFault` when the cluster cannot be had."""
    wanted = job.action.get("cluster")
    if wanted is None:
        yield job
        return
    file = job.directory / "kubeconfig"
    made = ""
    try:
        if context := wanted.get("context"):
            _write(file, login(context))
        else:
            how = ["--like", wanted["like"]] if "like" in wanted else _variant(job, blobs, wanted)
            made, text = _create(job, how, write, stop)
            _write(file, text)
        yield replace(job, files={str(file): KUBECONFIG}, secrets={**job.secrets, "KUBECONFIG": KUBECONFIG})
    finally:
        file.unlink(missing_ok=True)
        if made:
            done = subprocess.run(_command("delete", made), capture_output=True, text=True, check=False)
            if done.returncode != 0:
                write(f"cluster {made}: {_last(done.stderr)}\n".encode())


def _write(file: Path, text: str) -> None:
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as out:
        out.write(text)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-I", "-m", "trimtab.cli", "cluster", *arguments]


def _variant(job: Job, blobs: Blobs, wanted: Mapping[str, str]) -> list[str]:
    """The variant as it was when the step's key was made: out of the store, not out of the project."""
    if "variant" not in wanted:
        return []
    [tree] = [laid.tree for laid in job.inputs if laid.to == VARIANT]
    return ["--variant", str(Path(blobs.materialise(tree), wanted["variant"]))]


def _create(job: Job, variant: list[str], write: Callable[[bytes], None], stop: Stop) -> tuple[str, str]:
    """A cluster for this step: its name and its kubeconfig. Its progress goes into the step's log."""
    name = f"ci-{os.getpid()}-{os.urandom(3).hex()}"
    argv = _command("create", "--name", name, "--owner", str(os.getpid()), "-o", "json", *variant)
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    stop.then(process.terminate)
    assert process.stdout is not None
    assert process.stderr is not None
    last = ""
    with process, process.stderr as progress:
        for line in progress:
            last = line
            write(line.encode())
        answer = process.stdout.read()
    if process.returncode != 0:
        raise EngineFault(f"{job.step}: no cluster: {_last(last)}")
    [made] = json.loads(answer)
    return made["name"], Path(made["kubeconfig"]).read_text()


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["it ended without a word"])[-1].removeprefix("trimtab: ")


# A cluster of somebody else


def login(context: str) -> str:
    """`only`, out of this process's environment and once in a run: what is taken out of a step's output is what the step was given."""
    return _read(context, os.environ.get("KUBECONFIG", ""), os.environ.get("HOME", "/root"))


@cache
def _read(context: str, kubeconfig: str, home: str) -> str:
    return only(context, {"KUBECONFIG": kubeconfig, "HOME": home})


def proofs(kubeconfig: str) -> dict[str, str]:
    """By name what in a kubeconfig proves who one is: as it stands there, and a key also as what that means."""
    user = json.loads(kubeconfig)["users"][0]["user"]
    found = {name: str(user[name]) for name in PROOFS if user.get(name)}
    if key := found.get("client-key-data"):
        with suppress(ValueError):
            found["client-key"] = base64.b64decode(key).decode(errors="replace")
    return found


def only(context: str, environ: Mapping[str, str]) -> str:
    """The part of the user's kubeconfig that a context needs, with the files it names inside.

    Raises:
        EngineFault: there is no such context, or its login is a program, which a sandbox cannot run, or a file of it cannot be read.
    """
    import yaml

    places = [Path(one) for one in environ.get("KUBECONFIG", "").split(":") if one]
    places = places or [Path(environ.get("HOME", "/root"), ".kube", "config")]
    found: dict[str, tuple[dict[str, Any], Path]] = {}
    names: list[str] = []
    for path in places:
        try:
            doc = yaml.safe_load(path.read_text()) or {}
        except FileNotFoundError:
            continue
        except (OSError, yaml.YAMLError) as err:
            raise EngineFault(f"{path} cannot be read: {' '.join(str(err).split())}") from None
        for kind in ("contexts", "clusters", "users"):
            for one in doc.get(kind) or ():
                found.setdefault(f"{kind}/{one['name']}", (one, path.parent))
                names += [one["name"]] if kind == "contexts" else []
    if f"contexts/{context}" not in found:
        known = ", ".join(names) or "none"
        raise EngineFault(f"no context {context!r} in {', '.join(map(str, places))}; there are: {known}")
    chosen, _ = found[f"contexts/{context}"]
    parts: dict[str, list[dict[str, Any]]] = {"contexts": [chosen]}
    for kind, key in (("clusters", "cluster"), ("users", "user")):
        name = chosen["context"].get(key)
        if f"{kind}/{name}" not in found:
            raise EngineFault(f"context {context!r} names the {key} {name!r}, which its kubeconfig does not have")
        one, near = found[f"{kind}/{name}"]
        try:
            parts[kind] = [{"name": name, key: _inlined(one[key] or {}, near, context)}]
        except OSError as err:
            raise EngineFault(
                f"context {context!r} names a file that cannot be read: {err.filename}: {err.strerror}"
            ) from None
    return json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": context, **parts})


def _inlined(values: dict[str, Any], near: Path, context: str) -> dict[str, Any]:
    """What a cluster or a user says, the content of files instead of their names."""
    if "exec" in values or "auth-provider" in values:
        raise EngineFault(f"context {context!r} logs in by a program, which a step cannot run: make a token for it")
    out = dict(values)
    for name in ("certificate-authority", "client-certificate", "client-key"):
        if name in out:
            out[f"{name}-data"] = base64.b64encode((near / out.pop(name)).read_bytes()).decode()
    if "tokenFile" in out:
        out["token"] = (near / out.pop("tokenFile")).read_text().strip()
    return out
