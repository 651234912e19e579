"""What the proxy needs besides its configuration: the IngressClass that the reconcilers hang on, and an access log that
does not fill the disk.

The log is rotated by renaming it and asking Envoy to open its files anew, so no line is lost: until then Envoy goes on
writing to the renamed file.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.api import ObjectMeta
from trimtab.api.networking import IngressClass, IngressClassSpec
from trimtab.components.ingress.proxy import Proxy
from trimtab.components.ingress.reconcile import DEFAULT_CLASS
from trimtab.components.ingress.routes import CLASS

if TYPE_CHECKING:
    from trimtab.runtime.process import Process

CONTROLLER = "trimtab.dev/ingress"
MANAGER = "trimtab-ingress-upkeep"

LOOK_EVERY_S = 600.0
LOG_BYTES_MAX = 64 << 20
"""About 200,000 requests. Looked at every ten minutes, so a busy log may grow beyond it."""
LOGS_KEPT = 4


def ingress_class(*, default: bool = True) -> IngressClass:
    """The class of this component; the default one of an engine of ours."""
    return IngressClass(
        metadata=ObjectMeta(name=CLASS, annotations={DEFAULT_CLASS: "true"} if default else {}),
        spec=IngressClassSpec(controller=CONTROLLER),
    )


async def upkeep(process: Process, *, default: bool = True) -> None:
    """Keeps the IngressClass there and the logs small, until cancelled. default: Ingresses without a class are ours."""
    classes = process.informer(IngressClass)
    await classes.wait_synced()
    proxy = process.adapter(Proxy)  # type: ignore[type-abstract]
    gone = asyncio.Event()
    end = classes.subscribe(lambda change: gone.set() if change.new is None else None)
    try:
        while True:
            gone.clear()
            if classes.get(CLASS) is None:
                await process.client.apply(ingress_class(default=default), manager=MANAGER)
            await rotate(proxy, proxy.settings.data_path("log", "proxy", "access.log"))
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await gone.wait()
    finally:
        end()


async def rotate(proxy: Proxy, log: Path, *, bytes_max: int = LOG_BYTES_MAX) -> bool:
    """Moves a log that has grown too long to `NAME.1`, older ones up to `NAME.4`; returns whether it did."""
    try:
        if log.stat().st_size <= bytes_max:
            return False
    except FileNotFoundError:
        return False
    for number in range(LOGS_KEPT - 1, 0, -1):
        with suppress(FileNotFoundError):
            os.replace(log.with_name(f"{log.name}.{number}"), log.with_name(f"{log.name}.{number + 1}"))
    os.replace(log, log.with_name(f"{log.name}.1"))
    await proxy.reopen_logs()
    return True
