"""The way from a write to the webhooks that want to hear of it, which is no way at all while nobody has configured any.

`Hooks.asked` says whether somebody is to be asked about a request; the rest of `webhooks/` is loaded when the first configuration is
there. What the server does by itself (it empties namespaces, it collects garbage) nobody is asked about.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.api import JSON
from trimtab.server.audit import asking
from trimtab.server.bodies import Options
from trimtab.server.clock import Clock
from trimtab.server.kinds import Kind
from trimtab.server.paths import Target
from trimtab.store import Store

if TYPE_CHECKING:
    from trimtab.server.registry import Registry
    from trimtab.server.webhooks.admission import Admission, Ask
    from trimtab.server.webhooks.configurations import Concerned

CONFIGURATIONS = "/admissionregistration.k8s.io/"
_OPTIONS = {"CREATE": "CreateOptions", "UPDATE": "UpdateOptions", "DELETE": "DeleteOptions"}


class Asked(ABC):
    """One request that others are asked about: `change`, then `judge`, both raise `StatusError`."""

    @property
    @abstractmethod
    def warnings(self) -> list[str]: ...

    @property
    @abstractmethod
    def annotations(self) -> Mapping[str, str]: ...

    @abstractmethod
    async def change(
        self,
        obj: JSON | None,
        old: JSON | None,
        default: Callable[[JSON], None] = lambda obj: None,
        admit: Callable[[JSON], None] = lambda obj: None,
    ) -> JSON:
        """The object as the others want it; empty when there is none (a deletion). default: completes an object that was patched;
        admit: the server's own admission, which looks at it again."""

    @abstractmethod
    async def judge(self, obj: JSON | None, old: JSON | None = None) -> None:
        """Asks whether the write may happen."""


class AskedWebhooks(Asked):
    """One request that webhooks are asked about."""

    def __init__(self, admission: Admission, concerned: Concerned, ask: Ask) -> None:
        self._admission = admission
        self._concerned = concerned
        self._ask = ask

    @property
    def warnings(self) -> list[str]:
        return self._ask.warnings

    @property
    def annotations(self) -> Mapping[str, str]:
        return self._ask.annotations

    async def change(
        self,
        obj: JSON | None,
        old: JSON | None,
        default: Callable[[JSON], None] = lambda obj: None,
        admit: Callable[[JSON], None] = lambda obj: None,
    ) -> JSON:
        ask = self._ask
        ask.obj, ask.old = obj, old
        await self._admission.mutate(self._concerned, ask, default, admit)
        return ask.obj or {}

    async def judge(self, obj: JSON | None, old: JSON | None = None) -> None:
        self._ask.obj, self._ask.old = obj, old
        await self._admission.validate(self._concerned, self._ask)


class Hooks:
    """The webhooks of one server, if any."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        clock: Clock,
        labels: Callable[[str], Mapping[str, str]],
        judges: Mapping[str, Path],
    ) -> None:
        """labels: those of a namespace. judges: how a custom kind's group ends -> where its component listens (`judging.py`)."""
        self._judges = judges
        self._store = store
        self._registry = registry
        self._clock = clock
        self._labels = labels
        self._admission: Admission | None = None

    def asked(
        self,
        kind: Kind,
        operation: str,
        options: Options,
        *,
        name: str,
        namespace: str,
        subresource: str = "",
        body: tuple[str, str, str] | None = None,
    ) -> Asked | None:
        """Whom to ask about a request; None: nobody. body: group, version and kind of an object that is not of the resource's."""
        asked = self._webhooks(kind, operation, options, name, namespace, subresource, body)
        if kind.crd and not subresource and asking.get() is not None:
            for suffix, socket in self._judges.items():
                if kind.group.endswith(suffix):
                    from trimtab.server.judging import Judged

                    return Judged(asked, socket, kind, operation, dry_run=options.dry_run)
        return asked

    def _webhooks(
        self,
        kind: Kind,
        operation: str,
        options: Options,
        name: str,
        namespace: str,
        subresource: str,
        body: tuple[str, str, str] | None,
    ) -> Asked | None:
        if self._admission is None:
            if not self._store.list(CONFIGURATIONS, limit=1):
                return None
            from trimtab.server.webhooks.admission import Admission

            self._admission = Admission(self._store, self._registry, self._clock, self._labels)
        if asking.get() is None:
            return None
        concerned = self._admission.concerned(kind, operation, subresource)
        if concerned is None:
            return None
        from trimtab.server.webhooks.admission import Ask

        wire: JSON = {}
        if operation in _OPTIONS:
            wire = {"kind": _OPTIONS[operation], "apiVersion": "meta.k8s.io/v1", **options.asked}
        if not kind.namespaced and kind.plural == "namespaces" and not kind.group:
            namespace = name
        ask = Ask(kind, operation, namespace, name, subresource, None, None, wire, body, options.dry_run)
        if options.timeout_s is not None:
            ask.limit(options.timeout_s)
        return AskedWebhooks(self._admission, concerned, ask)

    async def about(
        self,
        kind: Kind,
        target: Target,
        operation: str,
        options: Options,
        body: tuple[str, str, str],
        obj: JSON,
        old: JSON | None = None,
    ) -> JSON:
        """The object of a subresource (see `asked` for `body`) as webhooks want it; the same where nobody is asked.

        Raises:
            StatusError: somebody refuses, or cannot be asked.
        """
        namespace, subresource = target.namespace or "", target.subresource
        asked = self.asked(
            kind, operation, options, name=target.name, namespace=namespace, subresource=subresource, body=body
        )
        if asked is None:
            return obj
        group, version, name = body
        whole = {"kind": name, "apiVersion": f"{group}/{version}" if group else version, **obj}
        if operation != "CONNECT":
            whole["metadata"] = {"name": target.name, "namespace": namespace, **(obj.get("metadata") or {})}
        whole = await asked.change(whole, old)
        await asked.judge(whole, old)
        options.warnings += asked.warnings
        return whole

    def close(self) -> None:
        if self._admission is not None:
            self._admission.close()


def notes_of(asked: Asked | None) -> Mapping[str, str]:
    """What webhooks want to have noted of a request."""
    return asked.annotations if asked is not None else {}
