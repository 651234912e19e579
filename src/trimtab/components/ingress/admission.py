"""What is said about an Ingress at the moment it is written: refused is what can never be served, and annotations of
other controllers that nothing acts on here get a warning."""

from __future__ import annotations

from trimtab.api import JSON, from_wire
from trimtab.api.networking import Ingress
from trimtab.components.ingress.routes import (
    BODY_SIZE,
    READ_TIMEOUT,
    UNDERSTOOD,
    build,
    is_mine,
    parse_seconds,
    parse_size,
)
from trimtab.runtime import Denied

FOREIGN = ("nginx.ingress.kubernetes.io/", "traefik.ingress.kubernetes.io/", "haproxy.org/")


def check_ingress(new: JSON, old: JSON | None) -> list[str]:
    """Warnings about an Ingress of this class.

    Raises:
        Denied: naming the host, path or annotation that can never work.
    """
    ingress = from_wire(Ingress, new)
    if not is_mine(ingress, default_class=True) or ingress.metadata.deletion_timestamp is not None:
        return []
    for name, parse in ((BODY_SIZE, parse_size), (READ_TIMEOUT, parse_seconds)):
        if name in ingress.metadata.annotations:
            try:
                parse(ingress.metadata.annotations[name])
            except ValueError as err:
                raise Denied(f"metadata.annotations[{name}]", str(err).partition(": ")[2]) from None
    warnings = [
        f"metadata.annotations[{name}]: nothing acts on this annotation"
        for name in sorted(ingress.metadata.annotations)
        if name.startswith(FOREIGN) and name not in UNDERSTOOD
    ]
    for problem in build([ingress]).problems:
        field, _, message = problem.message.partition(": ")
        if problem.reason in ("InvalidHost", "InvalidPath"):
            raise Denied(field, message)
        warnings.append(problem.message)
    return warnings
