"""The server's own judgement of a valid object: components' checks, Pod Security, LimitRanges, ResourceQuotas.

What it fills in beforehand stands with the kinds (`strategies/`); webhooks, who are asked in between, in `webhooks/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from trimtab.api import JSON
from trimtab.server import errors, limit_range, pod_security, quotas
from trimtab.server.bodies import Options
from trimtab.server.errors import Cause
from trimtab.server.kinds import Kind
from trimtab.server.strategies import Surroundings
from trimtab.server.strategies.resizing import SUBRESOURCE as RESIZE
from trimtab.server.views import as_stored

Check = Callable[[JSON, JSON | None], list[str]]


class OwnAdmission:
    """What judges writes inside of the server."""

    def __init__(self, around: Surroundings, admission: Sequence[tuple[str, str, Check]]) -> None:
        self._around = around
        self._checks: Mapping[tuple[str, str], list[Check]] = _by_kind(admission)

    def judge(self, kind: Kind, new: JSON, old: JSON | None, options: Options, subresource: str) -> None:
        """Warns in the options. Raises `StatusError`."""
        self._ask_components(kind, new, old, options)
        if not kind.crd and not kind.group.endswith(".k8s.io"):
            self._keep_pods_secure(kind, new, old, options)
        if kind.namespaced and subresource in ("", RESIZE):
            self._keep_in_bounds(kind, new, None if subresource else old)

    def ration(self, kind: Kind, new: JSON, old: JSON | None, subresource: str = "") -> None:
        """Asks the namespace's ResourceQuotas, last of all and under its lock. Raises `StatusError` 403."""
        if old is not None and kind.kind not in ("PersistentVolumeClaim", "Service") and subresource != RESIZE:
            return
        meta = new["metadata"]
        found = self._around.quotas(meta.get("namespace") or "")
        if text := quotas.refusal(found, kind, new, old, self._around.counted):
            raise errors.forbidden(kind.plural, kind.group, meta.get("name") or "", text)

    def _ask_components(self, kind: Kind, new: JSON, old: JSON | None, options: Options) -> None:
        version = kind.api_version
        if not kind.crd and kind.stored_api_version != version:
            version, new, old = kind.stored_api_version, as_stored(kind, new), as_stored(kind, old) if old else None
        for check in self._checks.get((version, kind.kind), ()):
            try:
                options.warnings += check(new, old)
            except Exception as err:
                field, message = getattr(err, "field", None), getattr(err, "message", None)
                if field is None or message is None:
                    raise
                errors.raise_problems(kind.kind, kind.group, new, [Cause(field, message)])

    def _keep_pods_secure(self, kind: Kind, new: JSON, old: JSON | None, options: Options) -> None:
        """Asks Pod Security about pods, what would make pods, and namespaces. Raises `StatusError`."""
        if kind.kind == "Namespace":
            found = [
                Cause(path, text) for path, text in pod_security.label_problems(new["metadata"].get("labels") or {})
            ]
            errors.raise_problems(kind.kind, kind.group, new, found)
            options.warnings += pod_security.stricter_warnings(self._around, new, old)
            return
        pod = pod_security.pod_in(kind, new)
        if pod is None or (old is not None and pod.get("spec") == (pod_security.pod_in(kind, old) or {}).get("spec")):
            return
        meta = new["metadata"]
        refusal, warning = pod_security.verdict(
            self._around.namespace_labels(meta.get("namespace") or ""), pod, is_pod=kind.kind == "Pod"
        )
        if refusal:
            raise errors.forbidden(kind.plural, kind.group, meta.get("name") or "", refusal)
        if warning:
            options.warnings.append(warning)

    def _keep_in_bounds(self, kind: Kind, new: JSON, old: JSON | None) -> None:
        """Asks LimitRanges. Raises `StatusError`."""
        if kind.group:
            return
        name, namespace = new["metadata"].get("name") or "", new["metadata"].get("namespace") or ""
        if kind.kind == "LimitRange":
            found = [Cause(path, text) for path, text in limit_range.problems(new)]
            errors.raise_problems(kind.kind, kind.group, new, found)
        if kind.kind in ("Pod", "PersistentVolumeClaim") and old is None:
            told = limit_range.refusals(kind.kind, new, self._around.limit_ranges(namespace))
            if told:
                text = told[0] if len(told) == 1 else f"[{', '.join(told)}]"
                raise errors.forbidden(kind.plural, kind.group, name, text)


def _by_kind(admission: Sequence[tuple[str, str, Check]]) -> dict[tuple[str, str], list[Check]]:
    checks: dict[tuple[str, str], list[Check]] = {}
    for api_version, kind, check in admission:
        checks.setdefault((api_version, kind), []).append(check)
    return checks
