"""The history of a StatefulSet's or DaemonSet's pod template, kept as ControllerRevisions.

A StatefulSet in mid-update runs two templates at once, and a pod of the older one that is lost must come back as it
was. So both are kept as objects, each a patch that `kubectl rollout undo` can send as it is. A pod names its revision in the
label `controller-revision-hash`: a StatefulSet's by the revision's name, a DaemonSet's by its hash, which the revision then has as
a label of the same name (as in Kubernetes; one without it goes by its name).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from trimtab.api import InvalidObject, ObjectMeta
from trimtab.api.core import PodTemplateSpec
from trimtab.api.workloads import ControllerRevision, DaemonSet, StatefulSet
from trimtab.components.workloads.names import same_template, template_hash

REVISION_LABEL = "controller-revision-hash"
HASH_LABEL = "controller.kubernetes.io/hash"
HISTORY_DEFAULT = 10
NAME_BASE_LENGTH_MAX = 52
"""So that the name, with a hash of 10, is valid as the value of a label."""


@dataclass(frozen=True)
class History:
    """The revisions to keep; `update` is the present template's; `apply` are new or have a new number."""

    update: ControllerRevision
    kept: tuple[ControllerRevision, ...]
    apply: tuple[ControllerRevision, ...]

    def named(self, name: str) -> ControllerRevision | None:
        return next((r for r in (*self.kept, self.update) if r.name == name), None)


def template_of(revision: ControllerRevision) -> PodTemplateSpec:
    """The pod template that a revision holds.

    Raises:
        InvalidObject: somebody edited it into something else.
    """
    try:
        template = {key: value for key, value in revision.data["spec"]["template"].items() if key != "$patch"}
        return msgspec.convert(template, PodTemplateSpec)
    except (KeyError, AttributeError, TypeError, msgspec.ValidationError) as err:
        raise InvalidObject(revision.ref, f"data.spec.template is not a pod template: {err}") from None


def of(subject: StatefulSet | DaemonSet) -> Callable[[ControllerRevision], bool]:
    """Whether a revision that nobody owns was made for a set of this name."""
    base = f"{subject.name[:NAME_BASE_LENGTH_MAX]}-"
    return lambda revision: (
        revision.name.startswith(base) and not revision.metadata.labels.keys().isdisjoint((HASH_LABEL, REVISION_LABEL))
    )


def mark(revision: ControllerRevision) -> str:
    """What the label of a DaemonSet's pod says of its revision."""
    return revision.metadata.labels.get(REVISION_LABEL) or revision.name


def history(
    subject: StatefulSet | DaemonSet, known: Sequence[ControllerRevision], used: set[str], limit: int
) -> History:
    """The history with the present template as its newest entry; of those not in `used`, the newest `limit` stay."""
    by_number = sorted(known, key=lambda r: (r.revision, r.name))
    same = [r for r in by_number if same_template(template_of(r), subject.spec.template)]
    others = [r for r in by_number if r not in same[-1:]]
    number = max((r.revision for r in others), default=0) + 1
    if same and same[-1].revision >= number:
        update, apply = same[-1], []
    else:
        update = _render(subject, same[-1] if same else None, [r.name for r in known], number)
        apply = [update]
    spare = [r for r in others if used.isdisjoint((r.name, mark(r)))]
    dropped = {r.name for r in spare[: max(0, len(spare) - limit)]}
    return History(update, tuple(r for r in others if r.name not in dropped), tuple(apply))


def _render(
    subject: StatefulSet | DaemonSet, found: ControllerRevision | None, taken: Sequence[str], number: int
) -> ControllerRevision:
    digest = template_hash(subject.spec.template)
    name = found.name if found else f"{subject.name[:NAME_BASE_LENGTH_MAX]}-{digest}"
    salt = 0
    while found is None and name in taken:
        salt += 1
        digest = template_hash(subject.spec.template, salt)
        name = f"{subject.name[:NAME_BASE_LENGTH_MAX]}-{digest}"
    if found:
        own = {key: found.metadata.labels[key] for key in (HASH_LABEL, REVISION_LABEL) if key in found.metadata.labels}
    else:
        own = {REVISION_LABEL if isinstance(subject, DaemonSet) else HASH_LABEL: digest}
    template = msgspec.to_builtins(subject.spec.template, str_keys=True)
    return ControllerRevision(
        metadata=ObjectMeta(
            name=name,
            namespace=subject.namespace,
            labels={**subject.spec.template.metadata.labels, **own},
        ),
        data={"spec": {"template": {**template, "$patch": "replace"}}},
        revision=number,
    )
