"""The deeds of pipelines, each as a process: `python -m trimtab.engine.pipelines DATA DEED ...`, started by the node agent as root.

    serve FD          git, webhooks, logs and reports, on a socket that listens already        (pipelines/served.py)
    run               one run: checkout, `trimtab ci run`, report; its images go into the engine's content store
    make|remove UID   the repository of a Pipeline; removed with its checkout and what its images are kept by
    forget UID        a run's log and record
    take LAYOUT NAME  an image for steps that run as pods, into the engine's content store

    root --isolated--> user `trimtab`, its own processes and file system: DATA/pipelines alone --JSON lines--> root --> output

What is pushed is run by nobody else, and what comes back is data. An image comes back as a layout, which a second such process,
that sees the content store and runs nothing of the user's, takes in blob by blob, each compared with its digest.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trimtab.engine import datadir, planning
from trimtab.engine.errors import EngineError
from trimtab.engine.isolation import Send, isolated
from trimtab.runtime.settings import Settings

ENGINE_REGISTRY = "trimtab.local"
NICE = 5
PUSH_BYTES_MAX = 1 << 30
REPOSITORY = {
    "http.receivepack": "true",
    "receive.maxInputSize": str(PUSH_BYTES_MAX),
    "receive.fsckObjects": "true",
    "receive.denyDeletes": "false",
    "gc.autoDetach": "false",
}
NO_IMAGE = "the image of {step} is no longer in the cache: push a change, or run it with a changed image step"

Deed = Callable[[Settings, list[str]], int]


def say(what: dict[str, Any]) -> None:
    """A line for who started this."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def apart(settings: Settings, work: Callable[[Send], Any], *, writable: list[Path], readable: list[Path] = []) -> Any:  # noqa: B006
    """Runs `work` as the engine's user where of all engines only these directories are in reach. Raises `EngineError`."""
    return isolated(
        settings.user,
        work,
        say,
        readable=[*planning.program_directories(), *map(str, readable)],
        writable=list(map(str, writable)),
        concealed=[settings.data, *datadir.data_of_others(), str(datadir.RUN_ROOT)],
    )


def environment(root: Path) -> dict[str, str]:
    """Of what works for pipelines: a home of its own, no configuration of anybody."""
    kept = {name: os.environ[name] for name in (*planning.INHERITED, "PATH", "LANG") if name in os.environ}
    return {
        **kept,
        "HOME": str(root / "home"),
        "XDG_CONFIG_HOME": str(root / "home" / ".config"),
        "TRIMTAB_CI_DIR": str(root / "ci"),
        "TRIMTAB_CI_ENGINE": "1",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }


def git(root: Path, *arguments: str, more: Mapping[str, str] = MappingProxyType({})) -> str:
    """more: of the environment. Raises `EngineError`: git's last line."""
    done = subprocess.run(
        ["git", *arguments],
        env={**environment(root), **more},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise EngineError(f"git {arguments[2] if arguments[0] == '-C' else arguments[0]}: {lines[-1]}")
    return done.stdout


def pipelines(settings: Settings) -> Path:
    return settings.data_path("pipelines")


# Deeds


def serve(settings: Settings, arguments: list[str]) -> int:
    """Serves on the socket of this number."""
    root = pipelines(settings)

    def work(send: Send) -> None:
        import asyncio

        from trimtab.components.pipelines import served

        os.environ.update(environment(root))
        listening = socket.socket(fileno=int(arguments[0]))
        asyncio.run(served.serve(root, listening, send))

    apart(settings, work, writable=[root])
    return 0


def make(settings: Settings, arguments: list[str]) -> int:
    """Makes a repository."""
    root = pipelines(settings)
    apart(settings, lambda _: made(root, arguments[0]), writable=[root])
    return 0


def made(root: Path, uid: str) -> None:
    """The repository is there whole, or not at all. Raises `EngineError`."""
    from trimtab.components.pipelines import served

    served.prepare(root)
    (root / "home").mkdir(mode=0o700, exist_ok=True)
    place = root / "git" / f"{uid}.git"
    fresh = place.with_name(f".{place.name}")
    shutil.rmtree(fresh, ignore_errors=True)
    git(root, "init", "--quiet", "--bare", "--initial-branch=main", str(fresh))
    for name, value in REPOSITORY.items():
        git(root, "-C", str(fresh), "config", name, value)
    fresh.rename(place)


def remove(settings: Settings, arguments: list[str]) -> int:
    """Removes a repository, and lets go of its images."""
    (uid,) = arguments
    root = pipelines(settings)

    def work(_: Send) -> None:
        for path in (root / "git" / f"{uid}.git", root / "work" / uid):
            shutil.rmtree(path, ignore_errors=True)
        (root / "work" / f"{uid}.tests.html").unlink(missing_ok=True)

    def untag(_: Send) -> None:
        from trimtab.content import ContentStore

        store = ContentStore(settings.data_path("content"))
        for name in [name for name in store.tags() if name.startswith(f"{_kept(uid)}/")]:
            store.untag(name)

    apart(settings, work, writable=[root])
    apart(settings, untag, writable=[settings.data_path("content")])
    return 0


def forget(settings: Settings, arguments: list[str]) -> int:
    """Removes what is kept of a run."""
    root = pipelines(settings)
    apart(settings, lambda _: shutil.rmtree(root / "runs" / arguments[0], ignore_errors=True), writable=[root])
    return 0


def run(settings: Settings, arguments: list[str]) -> int:
    """Makes the run that the first line of the input says."""
    order = json.loads(sys.stdin.readline())
    root = pipelines(settings)
    os.nice(NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    login = order.pop("login", {})
    if order["fetch"]:
        try:  # by another process than the one that runs what is fetched: the login ends with it
            apart(settings, lambda _: fetched(root, order, login), writable=[root])
        except EngineError as err:
            order["unfetched"] = str(err)
    outcome = apart(settings, lambda send: carried_out(root, order, send), writable=[root])
    for image in outcome["images"]:
        if layout := image.pop("layout", ""):
            taken_in(settings, order["repository"], image, Path(layout))
    say({"outcome": outcome})
    return 0


def taken_in(settings: Settings, repository: str, image: dict[str, str], layout: Path) -> None:
    """An image into the content store, where it is kept as the newest of its step, signed. Raises `EngineError`."""
    from trimtab.engine import pki

    key = pki.image_key(settings)

    def work(_: Send) -> None:
        from trimtab.content import ContentStore, parse_digest, parse_reference, signing
        from trimtab.content.layout import import_directory

        store = ContentStore(settings.data_path("content"))
        import_directory(store, layout)
        step = "".join(c if c.isascii() and (c.islower() or c.isdigit()) else "-" for c in image["step"].lower())
        digest = parse_digest(image["reference"].rpartition("@")[2])
        store.tag(f"{_kept(repository)}/{step.strip('-')}:latest", digest)
        signing.sign_kept(store, parse_reference(image["reference"]), signing.SigningKey(key))

    apart(settings, work, writable=[settings.data_path("content")], readable=[layout])


def take(settings: Settings, arguments: list[str]) -> int:
    """An image of `trimtab ci run --on` into the content store; the layout is its maker's, and for everybody to read."""
    layout, name = arguments

    def work(_: Send) -> None:
        from trimtab.content import ContentStore
        from trimtab.content.layout import import_directory

        store = ContentStore(settings.data_path("content"))
        for digest in import_directory(store, Path(layout)).values():
            store.tag_build(name, digest)

    apart(settings, work, writable=[settings.data_path("content")], readable=[Path(layout)])
    return 0


def _kept(uid: str) -> str:
    return f"{ENGINE_REGISTRY}/pipelines/{uid}"


# A run, as the engine's user


def fetched(root: Path, order: dict[str, Any], login: Mapping[str, str]) -> None:
    """Brings the commit of a webhook into the Pipeline's repository. Raises `EngineError`."""
    repository = str(root / "git" / f"{order['repository']}.git")
    with tempfile.TemporaryDirectory(dir=root / "home") as place:
        more = _as_who(order["fetch"], login, Path(place)) if login else {}
        git(root, "-C", repository, "fetch", "--quiet", "--no-tags", order["fetch"], order["commit"], more=more)


def _as_who(url: str, login: Mapping[str, str], place: Path) -> dict[str, str]:
    """The environment that lets git in: nothing of it is an argument, which others see, nor in the repository's configuration."""
    if url.startswith("ssh://"):
        for name in ("ssh-privatekey", "known_hosts"):
            if not login.get(name):
                raise EngineError(f"the Secret of spec.webhook.login has no {name}, which {url} asks for")
            (place / name).touch(0o600)
            (place / name).write_text(login[name].rstrip() + "\n")
        options = (
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={place}/known_hosts",
        )
        said = " ".join(f"-o {shlex.quote(one)}" for one in options)
        return {"GIT_SSH_COMMAND": f"ssh -F /dev/null -i {shlex.quote(str(place / 'ssh-privatekey'))} {said}"}
    if not login.get("password"):
        raise EngineError(f"the Secret of spec.webhook.login has no password (a token), which {url} asks for")
    pair = f"{login.get('username') or 'git'}:{login['password'].strip()}"
    said = f"Authorization: Basic {base64.b64encode(pair.encode()).decode()}"
    settings = {f"http.{url}.extraHeader": said, "http.followRedirects": "false"}
    more = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (name, value) in enumerate(settings.items()):
        more |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return more


def carried_out(root: Path, order: dict[str, Any], send: Send) -> dict[str, Any]:
    """Checks the commit out, runs its pipeline, keeps log, record and report. Raises `EngineError`."""
    kept = root / "runs" / order["uid"]
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "outcome.json").unlink(missing_ok=True)
    with (kept / "log").open("wb", buffering=0) as log:
        try:
            project = checked_out(root, order)
            outcome = _pipeline(root, order, project, kept, log, send)
        except EngineError as err:
            log.write(f"{err}\n".encode())
            outcome = {"state": "fault", "message": str(err), "seconds": 0.0, "images": []}
    _write(kept / "outcome.json", json.dumps(outcome))
    return outcome


def checked_out(root: Path, order: dict[str, Any]) -> Path:
    """The project of a commit: one checkout a Pipeline, so that what has not changed is not even written again."""
    repository, work = str(root / "git" / f"{order['repository']}.git"), root / "work" / order["repository"]
    if problem := order.get("unfetched"):
        raise EngineError(problem)
    if not (work / ".git").exists():
        shutil.rmtree(work, ignore_errors=True)
        git(root, "-C", repository, "worktree", "prune")
        git(root, "-C", repository, "worktree", "add", "--quiet", "--force", "--detach", str(work), order["commit"])
    else:
        git(root, "-C", str(work), "checkout", "--quiet", "--force", "--detach", order["commit"])
    # A lock that is not in the repository stays, so that images stay what they are from push to push.
    git(root, "-C", str(work), "clean", "-ffdxq", "-e", "trimtab.lock")
    project: Path = (work / order["directory"]).resolve()
    if not project.is_relative_to(work.resolve()) or not (project / "ship.py").is_file():
        where = f"{order['directory']}/ship.py".lstrip("/")
        raise EngineError(f"there is no {where} in {order['commit'][:12]}: spec.directory says where it is")
    return project


def _pipeline(root: Path, order: dict[str, Any], project: Path, kept: Path, log: Any, send: Send) -> dict[str, Any]:
    read, write = os.pipe()
    command = [
        sys.executable,
        "-I",
        "-m",
        "trimtab.cli",
        "ci",
        "run",
        "-C",
        str(project),
        "-o",
        "json",
        "-v",
        "--plain",
    ]
    command += ["--tell", str(write)]
    if order["pipeline"]:
        command += ["--pipeline", order["pipeline"]]
    for name, value in order["parameters"].items():
        command += ["-p", f"{name}={value}"]
    record_file = kept / "record.json"
    with record_file.open("wb") as out:
        process = subprocess.Popen(
            command,
            env=environment(root),
            cwd=project,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=log,
            pass_fds=[write],
        )
        os.close(write)
        with os.fdopen(read, "rb") as lines:
            for line in lines:
                send(json.loads(line))
        status = process.wait()
    try:
        record = json.loads(record_file.read_bytes())
    except ValueError:
        record_file.unlink()
        said = (kept / "log").read_bytes().decode(errors="replace").strip().splitlines() or [f"exit status {status}"]
        message = said[-1].removeprefix("trimtab: ").replace(f"{project}/", "")[:1000]
        return {"state": "fault", "message": message, "seconds": 0.0, "images": []}
    os.environ.update(environment(root))
    _pages(root, order, project, kept, record)
    images = published(record) if record["state"] == "succeeded" else []
    return {"state": record["state"], "message": record["said"], "seconds": record["seconds"], "images": images}


def published(record: dict[str, Any]) -> list[dict[str, str]]:
    """What the publishing steps of a record left: step, reference and, of images for this engine, their layout.

    Raises:
        EngineError: such an image is not there any more.
    """
    from trimtab.ci.cache.blobs import Blobs, Lost
    from trimtab.ci.cache.index import state_directory
    from trimtab.ci.definition.graph import IMAGE
    from trimtab.ci.images.publish import OUTPUT, reference_of
    from trimtab.ci.runs.ports import EngineFault

    blobs, found = Blobs(state_directory()), []
    for id, step in record["steps"].items():
        if OUTPUT not in step.get("outputs", {}):
            continue
        try:
            reference = reference_of(blobs, step["outputs"])
            image = {"step": step["name"], "reference": reference}
            if reference.startswith(f"{ENGINE_REGISTRY}/"):
                made = [record["steps"][need].get("outputs", {}).get(IMAGE) for need in step.get("needs", ())]
                layouts = [Path(blobs.materialise(tree)) for tree in made if tree]
                digest = reference.rpartition("@")[2]
                of_it = [path for path in layouts if digest in (path / "index.json").read_text()]
                if not of_it:
                    raise EngineError(NO_IMAGE.format(step=id))
                image["layout"] = str(of_it[0])
        except (Lost, EngineFault):
            raise EngineError(NO_IMAGE.format(step=id)) from None
        found.append(image)
    return found


def _pages(root: Path, order: dict[str, Any], project: Path, kept: Path, record: dict[str, Any]) -> None:
    """The run's report and the Pipeline's heat map. What cannot be made is told in the log."""
    cli = [sys.executable, "-I", "-m", "trimtab.cli", "ci"]
    report, heat = kept / "report.html", root / "work" / f"{order['repository']}.tests.html"
    for command in (
        [*cli, "report", "-C", str(project), record["id"], "--to", str(report)],
        [*cli, "tests", "-C", str(project), "--html", str(heat), "--title", order["title"]],
    ):
        done = subprocess.run(command, env=environment(root), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"{command[4]}: {done.stderr.strip()}", file=sys.stderr)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    temporary.rename(path)


DEEDS: dict[str, Deed] = {
    "serve": serve,
    "make": make,
    "remove": remove,
    "forget": forget,
    "run": run,
    "take": take,
}


def main() -> None:
    data, deed, *arguments = sys.argv[1:]
    from trimtab.engine import privileges

    privileges.die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(DEEDS[deed](datadir.load(Path(data)), arguments))
    except EngineError as err:
        say({"error": str(err)})
        sys.exit(1)


if __name__ == "__main__":
    main()
