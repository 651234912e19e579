"""What a pod's readiness gate says: from the phases of its endpoints at the proxy to the condition `PROXIED`, or nothing.

The condition is the handshake of a rollout. True lets the Deployment count the new pod and delete an old one; False lets
the node send SIGTERM to a pod that is being deleted. It therefore turns True only on the proxy's own word that every
endpoint of the pod is up, and False only on its word that none is left. Before the proxy learns of an endpoint at all,
the condition becomes Unknown: from then on the pod may be receiving requests, so it must not be stopped without a drain.
"""

from __future__ import annotations

from collections.abc import Collection

from trimtab.api import Condition
from trimtab.api.core import PROXIED, Pod
from trimtab.components.ingress.endpoints import Phase

ATTACHED = ("True", "Attached", "the proxy reports every endpoint of the pod up")
ATTACHING = ("Unknown", "Attaching", "the pod's endpoints are being given to the proxy")
NOT_PROXIED = ("True", "NotProxied", "no Ingress sends requests to this pod")
DETACHED = ("False", "Detached", "no proxy sends requests to this pod any more")
NOT_SERVING = ("False", "ContainersNotReady", "the pod's containers are not ready, so the proxy sends it nothing")

_IN_THE_WAY = frozenset({Phase.DRAINING, Phase.LEAVING})


def containers_ready(pod: Pod) -> bool:
    """Every container is ready, whatever the readiness gates say."""
    if pod.status.phase in ("Succeeded", "Failed"):
        return False
    for known in pod.status.conditions:
        if known.type == "ContainersReady":
            return known.status == "True"
    ready = {status.name for status in pod.status.container_statuses if status.ready}
    return bool(pod.spec.containers) and all(c.name in ready for c in pod.spec.containers)


def has_gate(pod: Pod) -> bool:
    return any(gate.condition_type == PROXIED for gate in pod.spec.readiness_gates)


def said(pod: Pod) -> Condition | None:
    """What the pod's condition says now."""
    return next((c for c in pod.status.conditions if c.type == PROXIED), None)


def announced(pod: Pod) -> bool:
    """Whether the pod may be given to the proxy: it has no gate, or its condition says so already."""
    before = said(pod)
    return not has_gate(pod) or (before is not None and before.status != "False")


def condition(pod: Pod, phases: Collection[Phase], *, wanted: bool) -> Condition | None:
    """What the condition should say, or None to leave it as it is.

    phases: of every endpoint of the pod in every cluster. wanted: some backend would have the pod serve.
    """
    gone = all(phase is Phase.GONE for phase in phases)
    before = said(pod)
    if pod.metadata.deletion_timestamp is not None:
        return _say(DETACHED) if gone and before is not None else None
    if not containers_ready(pod):
        return _say(NOT_SERVING) if gone and before is not None else None
    if wanted:
        if not announced(pod):
            return _say(ATTACHING)
        up = phases and all(phase is Phase.UP or phase is Phase.GONE for phase in phases) and not gone
        return _say(ATTACHED) if up else None
    return None if any(phase in _IN_THE_WAY for phase in phases) else _say(NOT_PROXIED)


def _say(words: tuple[str, str, str]) -> Condition:
    status, reason, message = words
    return Condition(type=PROXIED, status=status, reason=reason, message=message)
