"""`trimtab upgrade`: another version of the program takes over an engine that serves, and gives it back if it cannot.

    new environment beside the old --> what does it know? --> copies of store and settings --> note it as the engine's program
        --> old supervisor, API, controllers, node agents end; containers and Envoy go on --> the new ones start, migrate, adopt
        --> healthy within the deadline? done : end them, put back what was migrated, start the old ones

Pods and proxy are not touched: requests go on being served. What is not there for a second or two is the API.

Between the two versions stands what the supervisor writes down (`state.json`, `plan.json`, pid files): each version reads that of the
one before and of the one after it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from trimtab.engine import accounts, datadir, lifecycle, local, planning, programs, systemd
from trimtab.engine.errors import EngineError, NotRunning
from trimtab.engine.plan import PLAN, read_json
from trimtab.engine.programs import Program
from trimtab.runtime.settings import Settings

Say = Callable[[str], None]

DEADLINE_S = 120.0
"""How long the new version may take until everything that served before serves again."""
STEADY_S = 5.0
"""Everything must be well for so long at a stretch: what crashes at once is not healthy."""
INSTALL_S_MAX = 900.0
START_S_MAX = 200.0
BEFORE = "before-upgrade"
PROVIDERS = "/apis/trimtab.dev/v1alpha1/providers"
_KNOWN = """
import json, trimtab
from trimtab.engine import datadir
from trimtab.store import FORMAT
from trimtab.engine.registry import COMPONENTS
print(json.dumps({"version": trimtab.__version__, "data": datadir.FORMAT, "store": FORMAT, "components": len(COMPONENTS)}))
"""


class Known(msgspec.Struct):
    """What a version says of itself."""

    version: str
    data: int
    store: int
    components: int


class _Unhealthy(Exception):
    """The new version does not serve; the text says what."""


def upgrade(data: Path, source: str, say: Say, *, deadline_s: float = DEADLINE_S) -> Program:
    """Upgrades the running engine at `data` to `source`, a wheel or a version. Returns the program that now runs it.

    Raises:
        EngineError: nothing was changed, or the old version serves again; says which and why.
    """
    lifecycle.require_root("trimtab upgrade")
    settings = datadir.load(data)
    if lifecycle.supervisor_of(settings) is None:
        raise NotRunning(
            f"the engine at {data} does not run: start it, so that the new version can be seen to be healthy"
        )
    old = programs.recorded(data) or programs.itself()
    new = install(data, source, say)
    try:
        _judge(settings, old, new, known(new))
        if new == old:
            say(f"{new.version} from this very file runs already")
            return new
    except EngineError:
        _drop(data, new)
        raise
    return _switch(settings, old, new, say, deadline_s)


def back(data: Path, say: Say, *, sure: bool) -> Program:
    """Returns to the version before the last upgrade, with the store of then when it cannot read the newer one, and if the user
    is `sure`.

    Raises:
        EngineError: there is none, it does not start, or the user was not sure.
    """
    lifecycle.require_root("trimtab upgrade --back")
    settings = datadir_of(data)
    former = programs.recorded(data, programs.FORMER)
    if former is None:
        raise EngineError(
            f"the engine at {data} was never upgraded, or the version before is gone: there is nothing to go back to"
        )
    knows = known(former)
    if not sure and _store_format(settings) > knows.store:
        saved = datetime.fromtimestamp(settings.data_path("store", BEFORE, "store.sqlite").stat().st_mtime, UTC)
        raise EngineError(
            f"{former.version} cannot read the store that a newer version has migrated: it would get that of {saved:%Y-%m-%d %H:%M} "
            "UTC back, and what was written since would be kept aside. Add --yes if that is meant"
        )
    _return(settings, former, knows, say)
    _tell(settings, "upgraded", f"returned to {former.version}")
    return former


def _store_format(settings: Settings) -> int:
    """The format of the store, whoever has it open."""
    db = sqlite3.connect(f"file:{settings.data_path('store', 'store.sqlite')}?mode=ro", uri=True)
    try:
        return int(db.execute("PRAGMA user_version").fetchone()[0])
    finally:
        db.close()


def datadir_of(data: Path) -> Settings:
    """The settings, also when a newer version has written them: from before the upgrade then."""
    try:
        return datadir.load(data)
    except NotRunning:
        raise
    except EngineError:
        saved = data / programs.PROGRAMS / datadir.SETTINGS
        if not saved.exists():
            raise
        shutil.copyfile(saved, data / datadir.SETTINGS)
        return datadir.load(data)


# The new environment


def install(data: Path, source: str, say: Say) -> Program:
    """Makes an environment with the program of `source` (a wheel's path or a version), with all that it needs.

    Raises:
        EngineError: there is no such file or version, or it cannot be installed; the last line of pip says why.
    """
    wheel = Path(source)
    if source.endswith(".whl"):
        if not zipfile.is_zipfile(wheel):
            raise EngineError(
                f"{source} is no wheel: give the path of a trimtab-VERSION-py3-none-any.whl, or a version"
            )
        name = f"{_version_in(wheel)}-{hashlib.sha256(wheel.read_bytes()).hexdigest()[:8]}"
        wanted = str(wheel.absolute())
    else:
        if not programs.version_key(source):
            raise EngineError(
                f"{source!r} is neither a wheel nor a version: give one like 0.2.0, or the path of a wheel"
            )
        name, wanted = source, f"trimtab=={source}"
    prefix = data / programs.PROGRAMS / name
    done = prefix / "installed"
    if not done.exists():
        say(f"installing {name} beside the version that runs")
        shutil.rmtree(prefix, ignore_errors=True)
        prefix.parent.mkdir(mode=0o755, exist_ok=True)
        environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
        try:
            _run([sys.executable, "-m", "venv", str(prefix)], environment, f"no environment for {name}")
            pip = [str(prefix / "bin" / "python"), "-m", "pip", "install", "-q", wanted]
            _run(pip, environment, f"{name} cannot be installed")
        except EngineError:
            shutil.rmtree(prefix, ignore_errors=True)
            raise
        done.touch()
    return Program(str(prefix), known(Program(str(prefix), "")).version)


def _version_in(wheel: Path) -> str:
    parts = wheel.name.split("-")
    if parts[0] != "trimtab" or len(parts) < 3:
        raise EngineError(f"{wheel} is not Trimtab: give the path of a trimtab-VERSION-py3-none-any.whl")
    return parts[1]


def _run(argv: list[str], environment: dict[str, str], what: str) -> None:
    umask = os.umask(0o022)  # its users are others than root
    try:
        done = subprocess.run(
            argv, env=environment, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False, cwd="/"
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"{what}: it took longer than {INSTALL_S_MAX:.0f} s") from None
    finally:
        os.umask(umask)
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()] or ["?"]
        raise EngineError(f"{what}: {lines[-1].removeprefix('ERROR: ')}")


def known(program: Program) -> Known:
    """Asks a program what it is and what data it knows; that also shows that its modules load.

    Raises:
        EngineError: it does not even start.
    """
    done = subprocess.run(
        [program.python, "-I", "-c", _KNOWN], capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )
    if done.returncode != 0:
        raise EngineError(f"{program.prefix} does not start: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=Known)


def _judge(settings: Settings, old: Program, new: Program, knows: Known) -> None:
    """Raises EngineError when the new version is older, or would not know the data."""
    from trimtab.store import FORMAT as STORE_FORMAT

    if knows.data < datadir.FORMAT or knows.store < STORE_FORMAT:
        raise EngineError(
            f"{new.version} knows data format {knows.data} and store format {knows.store}, the data here has "
            f"{datadir.FORMAT} and {STORE_FORMAT}: data is never read backwards; restore a backup that it made"
        )
    if programs.version_key(new.version) < programs.version_key(old.version):
        raise EngineError(
            f"{new.version} is older than {old.version}, which runs: `trimtab upgrade --back` returns to the version before the "
            "last upgrade"
        )


def _drop(data: Path, program: Program) -> None:
    """Removes an environment that is not used after all."""
    if program not in (programs.recorded(data), programs.recorded(data, programs.FORMER)):
        shutil.rmtree(program.prefix, ignore_errors=True)


# The switch


def _switch(settings: Settings, old: Program, new: Program, say: Say, deadline_s: float) -> Program:
    data = Path(settings.data)
    serving = ready_pods(settings)
    _save(settings)
    say("store and settings are saved")
    programs.record(data, old, programs.FORMER)
    programs.record(data, new)
    began = time.monotonic()
    try:
        _replace(settings, new, say)
        _wait_until_healthy(settings, serving, began + deadline_s)
    except (_Unhealthy, EngineError) as err:
        say(f"{new.version} is not healthy: {err}")
        _return(settings, old, known(old), say)
        _tell(settings, "failed", f"upgrade to {new.version} failed ({err}); {old.version} serves again")
        raise EngineError(f"{new.version} did not become healthy ({err}): {old.version} serves again") from None
    took_s = time.monotonic() - began
    _tell(settings, "upgraded", f"upgraded from {old.version} to {new.version} in {took_s:.1f} s", took_s * 1000)
    say(f"{new.version} runs after {took_s:.1f} s; `trimtab upgrade --back` returns to {old.version}")
    define_anew(settings, new, say)
    _forget_others(data, (old, new))
    return new


def define_anew(settings: Settings, program: Program, say: Say) -> None:
    """Gives the kinds of installed providers the definitions that a version has for them, which only an administrator may write. What fails
    is said: the kinds go on as they are."""
    listed = local.get_json(settings.api_socket, PROVIDERS) or {}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    for name in (one["metadata"]["name"] for one in listed.get("items", ()) if one["spec"].get("kinds")):
        command = program.command(Path(settings.data), "provider", "enable", name)
        try:
            _run(command, {**environment, programs.ITSELF: "1"}, f"the kinds of provider {name} stay as they were")
        except EngineError as err:
            say(f"{err}; give it again: trimtab provider enable {name}")


def _replace(settings: Settings, program: Program, say: Say) -> None:
    """Ends everything but containers and proxy, and starts it again by another program."""
    node = any(
        p["name"] == "node" for p in (read_json(str(datadir.supervisor_run(settings) / PLAN)) or {})["processes"]
    )
    by_systemd = systemd.runs(Path(settings.data))
    lifecycle.stop(settings, keep_pods=True, say=lambda line: None)
    if by_systemd:  # which starts it again by itself, through the command that becomes the engine's program
        lifecycle.wait_for_running(Path(settings.data), lifecycle.Options({}, node=node), lambda line: None)
        return
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            program.command(Path(settings.data), "start", *([] if node else ["--no-node"])),
            env={**environment, programs.ITSELF: "1"},
            capture_output=True, text=True, timeout=START_S_MAX, check=False, cwd="/",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise _Unhealthy(f"its start took longer than {START_S_MAX:.0f} s") from None
    if done.returncode != 0:
        raise _Unhealthy((done.stderr.strip().splitlines() or ["its start failed"])[-1].removeprefix("trimtab: "))


def ready_pods(settings: Settings) -> set[str]:
    """The uids of the pods that are Ready."""
    listed = local.get_json(settings.api_socket, "/api/v1/pods") or {}
    return {
        pod["metadata"]["uid"]
        for pod in listed.get("items", ())
        if "deletionTimestamp" not in pod["metadata"]
        and any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", ()))
    }


def _wait_until_healthy(settings: Settings, serving: set[str], deadline: float) -> None:
    """Returns once every process has been ready, and every pod that was, for STEADY_S.

    Raises:
        _Unhealthy: not within the deadline; names what is not well.
    """
    well_since: float | None = None
    restarts: dict[str, int] = {}
    while True:
        now = time.monotonic()
        trouble, counts = _trouble(settings, serving)
        if trouble or any(counts[name] > restarts.get(name, counts[name]) for name in counts):
            well_since = None
        elif well_since is None:
            well_since = now
        elif now - well_since >= STEADY_S:
            return
        restarts = counts
        if now >= deadline:
            raise _Unhealthy(trouble or "its processes do not stay up")
        time.sleep(0.1)


def _trouble(settings: Settings, serving: set[str]) -> tuple[str, dict[str, int]]:
    """What is not well, "" for nothing; and how often each process was restarted."""
    processes: dict[str, dict[str, Any]] = lifecycle.state_of(settings).get("processes", {})
    counts = {name: process.get("restarts", 0) for name, process in processes.items()}
    for name, process in processes.items():
        if process["state"] != "ready":
            return f"{name} is {process['state']}: {lifecycle.last_line(settings, name)}", counts
    if not processes or lifecycle.supervisor_of(settings) is None:
        return "its supervisor does not run", counts
    if local.get(settings.api_socket, "/readyz")[0] != 200:
        return "the API server does not answer", counts
    there = local.get_json(settings.api_socket, "/api/v1/pods")
    if there is None:
        return "the API server does not answer", counts
    exist = {pod["metadata"]["uid"] for pod in there.get("items", ())}
    lost = (serving & exist) - ready_pods(settings)
    return (f"{len(lost)} of {len(serving)} pods are not ready any more" if lost else ""), counts


# What may have to be put back


def _save(settings: Settings) -> None:
    """Copies the store (beside itself, as its user) and the settings."""
    from trimtab.store import copy_log

    store = settings.data_path("store", "store.sqlite")

    def copy() -> None:
        aside = store.parent / BEFORE
        aside.mkdir(mode=0o700, exist_ok=True)
        copy_log(store, aside / store.name)

    accounts.as_user(settings.user, planning.program_directories(), [settings.data], copy)
    (Path(settings.data) / programs.PROGRAMS).mkdir(mode=0o755, exist_ok=True)
    shutil.copyfile(settings.data_path(datadir.SETTINGS), settings.data_path(programs.PROGRAMS, datadir.SETTINGS))


def _return(settings: Settings, old: Program, knows: Known, say: Say) -> None:
    """Ends what runs but for containers and proxy, puts back what the old version could not read, and starts it.

    Raises:
        EngineError: the old version does not start either.
    """
    programs.record(Path(settings.data), old)  # first: systemd starts at once what is noted
    lifecycle.stop(settings, keep_pods=True, say=lambda line: None)
    if _put_back(settings, knows):
        say("the store is that of before the upgrade again: what was written since is in store.sqlite.newer")
    try:
        _replace(settings, old, say)
        _wait_until_healthy(settings, set(), time.monotonic() + DEADLINE_S)
    except _Unhealthy as err:
        raise EngineError(f"{old.version} does not start either ({err}): see {settings.data_path('log')}") from None
    say(f"{old.version} runs again")


def _put_back(settings: Settings, knows: Known) -> bool:
    """Puts back the store and the settings if they are newer than a program knows; returns whether the store was."""
    from trimtab.store import outdate

    saved = settings.data_path(programs.PROGRAMS, datadir.SETTINGS)
    document = read_json(str(settings.data_path(datadir.SETTINGS))) or {}
    if document.get("format", 1) > knows.data and saved.exists():
        shutil.copyfile(saved, settings.data_path(datadir.SETTINGS))
    store = settings.data_path("store", "store.sqlite")
    newer = store.with_name("store.sqlite.newer")

    def put_back() -> None:
        db = sqlite3.connect(store)
        try:
            found = int(db.execute("PRAGMA user_version").fetchone()[0])
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            db.close()
        if found <= knows.store:
            return
        made = store.with_name("store.sqlite.restored")
        shutil.copyfile(store.parent / BEFORE / store.name, made)
        made.chmod(0o600)
        db = sqlite3.connect(made)
        with db:
            outdate(db)
        db.close()
        store.replace(newer)
        for end in ("-wal", "-shm"):
            Path(f"{store}{end}").unlink(missing_ok=True)
        made.replace(store)

    newer.unlink(missing_ok=True)
    accounts.as_user(settings.user, planning.program_directories(), [settings.data], put_back)
    return newer.exists()


def _forget_others(data: Path, kept: tuple[Program, ...]) -> None:
    """Removes the environments of earlier upgrades; the last two stay, since processes of them may still run (Envoy)."""
    prefixes = {os.path.realpath(program.prefix) for program in kept}
    for path in (data / programs.PROGRAMS).iterdir():
        if path.is_dir() and os.path.realpath(path) not in prefixes and not _in_use(path):
            shutil.rmtree(path, ignore_errors=True)


def _in_use(prefix: Path) -> bool:
    """Whether a process runs a program below a directory."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                if os.readlink(f"/proc/{entry.name}/exe").startswith(f"{prefix}/"):
                    return True
                if f"{prefix}/".encode() in Path(f"/proc/{entry.name}/cmdline").read_bytes():
                    return True
            except OSError:
                continue
    return False


def _tell(settings: Settings, verb: str, message: str, duration_ms: float | None = None) -> None:
    """Says it on the timeline."""
    entry = {"at": time.time(), "process": "engine", "verb": verb, "message": message, "duration_ms": duration_ms}

    def write() -> None:
        from trimtab.engine.chronicle import write as append

        append(Path(settings.data), [json.loads(json.dumps(entry))])

    accounts.as_user(settings.user, planning.program_directories(), [settings.data], write)
