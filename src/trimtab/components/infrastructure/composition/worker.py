"""The process in which compositions run: gives up all that it may do, loads one function, and calls it until nobody asks.

    keeper (as its caller, waits)  --fork-->  worker: process 1 of its own process namespace, user nobody
       '- dies with the caller's end of the socket, and the worker with it

Messages are a length and JSON. Only the standard library, `trimtab.compose`, and the package: of the rest of Trimtab nothing is there.
Started by `sandbox.py`, as a file: python -I -S worker.py SOCKET SETTINGS
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import os
import resource
import select
import socket
import struct
import sys
import threading
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
"""Where the package `trimtab` is."""
HEADER = struct.Struct("<I")
MESSAGE_BYTES_MAX = 16 << 20
ANSWER_BYTES_MAX = 4 << 20
SAID_MAX = 4000
TEXT_MAX = 400
CPU_S = 600
"""CPU time of a worker's life. One that has used half of it ends when its call is done."""
NO_NAMESPACES = 77
"""How the keeper ends where the kernel gives it none."""
SOURCE = "source"
"""The module that a definition's own source is."""


class Refused(Exception):
    """What goes to the claim: a reason for its condition and one line."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def main(handle: int, settings: dict[str, Any]) -> None:
    """The keeper. Ends with the worker's status, 128 more than the signal when it was killed."""
    sys.path.insert(0, str(ROOT))
    compose = importlib.import_module("trimtab.compose")
    confine = importlib.import_module("trimtab.confinement.confine")
    forms = _forms()
    sys.path.pop(0)
    package = [settings["package"]] if settings["package"] else []
    if not confine.enter_namespaces([*confine.LIBRARIES, *sys.path, *package]):
        os._exit(NO_NAMESPACES)
    sys.path += package

    def work(keeper: int) -> None:
        confine.give_up_everything(settings["memory_bytes"], CPU_S, keeper)
        _forget()
        with socket.socket(fileno=handle) as connection:
            serve(connection, settings["idle_s"], Function(compose, forms, settings["limit_text"]))

    confine.keep(handle, work)


def _forms() -> ModuleType:
    """The module beside this one, without the packages that it is in: those load half of Trimtab."""
    spec = importlib.util.spec_from_file_location("composition_forms", HERE / "forms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _forget() -> None:
    """Nothing of Trimtab but `trimtab.compose` can be imported from here on."""
    for name in [name for name in sys.modules if name.startswith("trimtab.") and name != "trimtab.compose"]:
        del sys.modules[name]
    sys.modules["trimtab"].__path__ = []


def serve(connection: socket.socket, idle_s: float, function: Function) -> None:
    """Answers until nobody asks for `idle_s`."""
    waiting = select.poll()
    waiting.register(connection, select.POLLIN)
    while waiting.poll(idle_s * 1000):
        message = _receive(connection)
        if message is None:
            return
        said, last = io.StringIO(), False
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                value = function.answer(message)
            answer = {"value": value}
        except Refused as err:
            answer = {"reason": err.reason, "message": str(err)}
        except MemoryError:
            answer, last = {"reason": "TooMuchMemory", "message": function.too_much}, True
        content = json.dumps(answer | {"said": said.getvalue()[-SAID_MAX:]}).encode()
        if len(content) > ANSWER_BYTES_MAX:
            text = (
                f"compose returned {len(content) >> 20} MiB, more than the {ANSWER_BYTES_MAX >> 20} MiB that are taken"
            )
            content = json.dumps({"reason": "BadOutput", "message": text}).encode()
        connection.sendall(HEADER.pack(len(content)) + content)
        used = resource.getrusage(resource.RUSAGE_SELF)
        if last or used.ru_utime + used.ru_stime > CPU_S / 2 or threading.active_count() > 1:
            return


def _receive(connection: socket.socket) -> Any:
    raw = _exactly(connection, HEADER.size)
    if raw is None:
        return None
    (size,) = HEADER.unpack(raw)
    content = _exactly(connection, size) if size <= MESSAGE_BYTES_MAX else None
    return None if content is None else json.loads(content)


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    content = bytearray()
    while len(content) < size:
        if not (received := connection.recv(min(size - len(content), 1 << 20))):
            return None
        content += received
    return bytes(content)


class Function:
    """A `compose` function and the classes that it names."""

    def __init__(self, compose: Any, forms: Any, limit_text: str) -> None:
        self._compose = compose
        self._forms = forms
        self.too_much = f"compose takes more memory than the {limit_text} that it may"
        self._call: Any = None
        self._spec: Any = None
        self._file = ""
        """The function's own, or the directory of its package."""

    def answer(self, message: dict[str, Any]) -> Any:
        """Raises `Refused`, `MemoryError`."""
        match message["do"]:
            case "load":
                self._load(message)
                return None
            case "describe":
                return self._described()
            case _:
                return self._composed(message)

    # Loading

    def _load(self, message: dict[str, Any]) -> None:
        module_name, _, name = message["function"].partition(":")
        self._file = message["file"] if message["source"] else sys.path[-1]
        file = os.path.basename(message["file"])
        try:
            module = (
                self._source(message["source"], message["file"])
                if message["source"]
                else importlib.import_module(module_name)
            )
        except MemoryError:
            raise
        except BaseException as err:
            if isinstance(err, ModuleNotFoundError) and err.name == module_name:
                raise Refused("FunctionMissing", f"the package has no module {module_name}") from None
            raise Refused(
                "FunctionFailed", f"{file if message['source'] else module_name} cannot be loaded: {self._told(err)}"
            ) from None
        found = getattr(module, name, None)
        if found is None:
            near = [
                n
                for n, one in vars(module).items()
                if callable(one) and getattr(one, "__module__", "") == module.__name__
            ]
            hint = f"; it has {', '.join(sorted(near)[:5])}" if near else ""
            raise Refused("FunctionMissing", f"{file} has no function {name}{hint}: write def {name}(xr, observed)")
        if not callable(found):
            raise Refused("FunctionMissing", f"{file}: {name} is no function")
        self._call = found
        self._spec = self._spec_of(found, message["fields"])

    def _source(self, source: str, file: str) -> ModuleType:
        import linecache

        module = ModuleType(SOURCE)
        module.__file__ = file
        sys.modules[SOURCE] = module
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        exec(compile(source, file, "exec"), module.__dict__)
        return module

    def _spec_of(self, function: Any, fields: dict[str, Any] | None) -> Any:
        """The class of a claim's fields."""
        import inspect
        import typing

        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            raise Refused("FunctionMissing", "its parameters cannot be read: write def compose(xr, observed)") from None
        if len(parameters) != 2:
            raise Refused(
                "FunctionMissing", f"compose has {len(parameters)} parameters: write def compose(xr, observed)"
            )
        try:
            hints = typing.get_type_hints(function)
        except Exception as err:
            raise Refused("FunctionFailed", f"the types of compose cannot be read: {self._told(err)}") from None
        said = hints.get(parameters[0].name)
        if typing.get_origin(said) is self._compose.Claim:
            return typing.get_args(said)[0]
        return self._forms.made(fields) if fields is not None else None

    def _described(self) -> dict[str, Any]:
        """What the function says of its API. Raises `Refused`."""
        said = getattr(self._call, "__trimtab__", None)
        if said is None:
            raise Refused("FunctionMissing", 'compose says no API: write @definition(group="acme.example") above it')
        if self._spec is None:
            raise Refused("FunctionMissing", "compose says no fields: write xr: Claim[Lab], where Lab is a dataclass")
        try:
            fields = self._forms.described(self._spec)
            status = self._forms.described(said.status, "status") if said.status is not None else {}
        except self._forms.BadType as err:
            raise Refused("FunctionFailed", str(err)) from None
        for one in status.values():
            one.pop("required", None)
            one.pop("default", None)
        return {
            "group": said.group,
            "kind": said.kind or self._spec.__name__,
            "version": said.version,
            "plural": said.plural,
            "shortNames": list(said.short_names),
            "connection": dict(said.connection),
            "composes": self._composes(said.composes),
            "fields": fields,
            "status": status,
            "doc": (self._spec.__doc__ or "").strip(),
        }

    def _composes(self, named: Any) -> list[dict[str, str]]:
        """The kinds that it may return: those that it names, or the classes of kinds in its file. Raises `Refused`."""
        kit = self._compose
        here = getattr(self._call, "__globals__", {}).values()
        chosen = list(named) if named is not None else [one for one in here if self._is_kind(one)]
        found: dict[tuple[str, str], dict[str, str]] = {}
        for one in chosen:
            if isinstance(one, kit.Kind):
                place = (one.api_version, one.kind)
                found[place] = {"plural": one.plural} if one.plural else {}
            elif self._is_kind(one):
                found[one.API_VERSION, one.KIND] = {}
            else:
                told = getattr(one, "__name__", None) or _type(one)
                raise Refused(
                    "FunctionFailed",
                    f'composes: {told} is no kind: give a class of a provider\'s stubs, ClusterManifests, or Kind("v1", "ConfigMap")',
                )
        return [
            {"apiVersion": version, "kind": kind, **more} for (version, kind), more in sorted(found.items(), key=str)
        ]

    def _is_kind(self, one: Any) -> bool:
        return isinstance(one, type) and issubclass(one, self._compose.Resource) and bool(getattr(one, "KIND", ""))

    # Calling

    def _composed(self, message: dict[str, Any]) -> Any:
        kit = self._compose
        xr = message["xr"]
        try:
            spec = self._forms.filled(self._spec, xr["spec"]) if self._spec is not None else xr["spec"]
        except (self._forms.BadValue, self._forms.BadType) as err:
            raise Refused("BadField", str(err)) from None
        except (TypeError, ValueError) as err:  # of a class that checks its fields
            raise Refused("BadField", f"spec: {err}") from None
        claim = kit.Claim(xr["name"], xr["namespace"], spec, xr["uid"], xr["labels"], xr["annotations"])
        observed = kit.Observed(
            {name: kit.Child(name, exists=True, **child) for name, child in message["observed"].items()}
        )
        try:
            returned = self._call(claim, observed)
        except MemoryError:
            raise
        except BaseException as err:
            raise Refused("FunctionFailed", self._told(err)) from None
        if not isinstance(returned, (list, tuple)):
            raise Refused("BadOutput", f"compose returned {_type(returned)}: return a list of resources")
        try:
            return self._output(claim, returned)
        except (MemoryError, Refused):
            raise
        except BaseException as err:
            raise Refused("BadOutput", self._told(err)) from None

    def _output(self, claim: Any, returned: Any) -> dict[str, Any]:
        kit = self._compose
        resources: list[Any] = []
        status: dict[str, Any] = {}
        waiting: list[str] = []
        for number, one in enumerate(returned):
            if isinstance(one, kit.Status):
                status |= kit.plain(one.fields)
            elif isinstance(one, kit.Waiting):
                waiting.append(str(one.message))
            elif isinstance(one, kit.Resource):
                api_version, kind = one.place()
                resources.append(
                    {
                        "name": one.name,
                        "apiVersion": api_version,
                        "kind": kind,
                        "labels": dict(one.labels),
                        "annotations": dict(one.annotations),
                        "after": [other if isinstance(other, str) else other.name for other in one.after],
                        "body": self._json(one, one.body(claim)),
                    }
                )
            elif isinstance(one, dict):
                resources.append({"manifest": self._json(one, one)})
            else:
                raise Refused(
                    "BadOutput",
                    f"compose returned {_type(one)} at place {number}: return Resource, Status, Waiting or a manifest",
                )
        return {"resources": resources, "status": self._json("Status", status), "waiting": waiting}

    def _json(self, of: Any, value: Any) -> Any:
        found = self._compose.plain(value)
        try:
            json.dumps(found, allow_nan=False)
        except (TypeError, ValueError) as err:
            what = str(err)
            if "Output" in what:
                what = "an output can be given to a top-level field of a Managed resource only"
            raise Refused("BadOutput", f"{getattr(of, 'name', None) or 'compose'}: {what}") from None
        return found

    def _told(self, err: BaseException) -> str:
        """One line for who reads the claim, with the place in the function's file."""
        if isinstance(err, SyntaxError):
            return f"{os.path.basename(err.filename or '')}:{err.lineno}: {err.msg}"
        if isinstance(err, ModuleNotFoundError) and str(err.name).startswith("trimtab"):
            text = f"there is no {err.name} where compositions run: of Trimtab only trimtab.compose"
        elif isinstance(err, ImportError) and not isinstance(err, ModuleNotFoundError) and "trimtab" in str(err.name):
            text = f"{err.name} has not that: of Trimtab there is only trimtab.compose"
        elif isinstance(err, ModuleNotFoundError):
            text = f"there is no module {err.name}: name it among the package's dependencies"
        elif isinstance(err, OSError):
            text = f"{type(err).__name__}: {err}; a composition has no network, no files and no other processes"
        else:
            text = f"{type(err).__name__}: {err}"
        for frame in reversed(traceback.extract_tb(err.__traceback__)):
            if frame.filename == self._file or (
                self._file.startswith("/") and frame.filename.startswith(f"{self._file}/")
            ):
                text += f" ({os.path.basename(frame.filename)}:{frame.lineno})"
                break
        return "".join(c if c.isprintable() else " " for c in text)[:TEXT_MAX]


def _type(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
