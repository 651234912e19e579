"""The cloud's provider gone wrong: what it does wrong stands in the name of the server that it is asked about, all others it keeps well.

    forProvider.name: crash-at-plan --> the process is killed while it plans       type-at-read, garbage-at-apply, hang-at-create, ...

What goes wrong `at-create` does so before anything is made, `at-apply` after it. Runs as `cloud_provider.py` does, from beside it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any

from msgspec import msgpack

import cloud_provider
from cloud_provider import LISTED, METHODS, M, error

GIB = 1 << 30


class Misbehaving(cloud_provider.Servicer):
    def plan(self, request: Any) -> Any:
        right = super().plan(request)
        return self._wrong(request, "plan", request.proposed_new_state, right, "planned_state")

    def read(self, request: Any) -> Any:
        right = super().read(request)
        return self._wrong(request, "read", request.current_state, right, "new_state")

    def apply(self, request: Any) -> Any:
        name = named(request.planned_state)
        if name.startswith("hang-at-create"):
            threading.Event().wait()
        if name.startswith("crash-at-create"):
            die()
        right = super().apply(request)
        return self._wrong(request, "apply", request.planned_state, right, "new_state")

    def validate(self, request: Any) -> Any:
        if named(request.config).startswith("hang-at-validate"):
            threading.Event().wait()
        return super().validate(request)

    def _wrong(self, request: Any, step: str, about: Any, right: dict[str, Any], field: str) -> Any:
        name = named(about)
        fault, _, at = name.partition("-at-")
        if request.type_name != LISTED or at.partition("-")[0] != step or not right.get(field):
            return right

        def state(raw: bytes) -> dict[str, Any]:
            return {**right, field: {"msgpack": raw}}

        plain = msgpack.decode(right[field]["msgpack"])
        match fault:
            case "crash":
                die()
            case "exit":
                os._exit(3)
            case "hang":
                threading.Event().wait()
            case "type":
                return state(msgpack.encode({**plain, "tags": 7}))
            case "missing":
                return state(msgpack.encode({k: v for k, v in plain.items() if k != "size"}))
            case "strange":
                return state(msgpack.encode({**plain, "colour": "red"}))
            case "null":
                return state(b"\xc0")
            case "garbage":
                return state(b"\xc1\xff\x00 garbage")
            case "nan":
                return state(msgpack.encode({**plain, "disk": [{"label": "a", "size": float("nan"), "serial": "b"}]}))
            case "surrogate":
                return state(msgpack.encode({**plain, "size": "XYZ"}).replace(b"\xa3XYZ", b"\xa3\xed\xa0\x80"))
            case "latin":
                return state(msgpack.encode({**plain, "size": "X"}).replace(b"\xa1X", b"\xa1\xe9"))
            case "unknown":
                return state(msgpack.encode({**plain, "size": msgpack.Ext(0, b"\0")}))
            case "protobuf":
                return b"\xff\xff\xff\xff no message"
            case "utf8":
                words = M["Diagnostic"](severity=1, summary="bad XY").SerializeToString().replace(b"XY", b"\xe9\xff")
                fields = M[METHODS[step][3]].DESCRIPTOR.fields_by_name
                tag = fields["diagnostics"].number << 3 | 2
                return bytes([tag, len(words)]) + words
            case "long":
                return error("\x1b[31mIt\ndid\tnot work. " + "x" * (1 << 20), "name", "why " * 10_000)
            case "raise":
                raise RuntimeError("a bug of the provider")
            case "huge":
                return state(msgpack.encode({**plain, "size": "x" * (300 << 20)}))
            case "big":
                return state(msgpack.encode({**plain, "size": os.urandom(1_400_000).hex()}))
            case "memory":
                hoard = bytearray(4 * GIB)
                hoard[::4096] = b"x" * len(hoard[::4096])
            case "stderr":
                line = b"noise " * 1000 + b"\n"
                for _ in range(20_000):
                    os.write(2, line)
            case "stdout":
                for _ in range(20_000):
                    os.write(1, b"noise " * 1000)
            case "children":
                subprocess.Popen(
                    [sys.executable, "-c", "import time; time.sleep(86400)", f"left-by-{name}"], start_new_session=True
                )
                die()
        return right


def named(message: Any) -> str:
    """What the server is called that is asked about."""
    value = msgpack.decode(message.msgpack) if message.msgpack else None
    return str(value["name"]) if isinstance(value, dict) else ""


def die() -> None:
    print("panic: out of luck", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()
