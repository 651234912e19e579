"""Rules of the kinds that make pods from a template and find them by a selector."""

from __future__ import annotations

from typing import Any

import msgspec

from trimtab.api import JSON
from trimtab.api.selector import selects
from trimtab.server import problems
from trimtab.server.errors import Cause
from trimtab.server.kinds import Kind
from trimtab.server.metadata import TEMPLATE_GENERATION, immutable_problems
from trimtab.server.problems import forbidden, invalid, required
from trimtab.server.selectors import selector_of
from trimtab.server.strategies.base import Strategy, Surroundings
from trimtab.server.strategies.pods import pod_template_problems


class WorkloadStrategy(Strategy):
    """Kinds that make pods from a template and find them by a selector."""

    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        spec = new.get("spec") or {}
        selector = spec.get("selector")
        found: list[Cause] = []
        labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
        found += problems.labels(labels, "spec.template.labels")
        if selector is None and kind.kind != "DaemonSet":
            found.append(required("spec.selector"))
        elif selector is None:
            found.append(
                invalid("spec.template.metadata.labels", labels or None, "`selector` does not match template `labels`")
            )
        elif not (selector.get("matchLabels") or selector.get("matchExpressions")):
            what = kind.kind.lower() if kind.kind in ("DaemonSet", "StatefulSet") else "deployment"
            found.append(invalid("spec.selector", {}, f"empty selector is invalid for {what}"))
        elif not selects(selector_of(selector), labels):
            found.append(
                Cause(
                    "spec.template.metadata.labels",
                    f"Invalid value: {msgspec.json.encode(labels).decode()}: `selector` does not match template `labels`",
                )
            )
        if old is not None:
            found += immutable_problems("spec.selector", selector, old["spec"].get("selector"))
        replicas = spec.get("replicas")
        if isinstance(replicas, int) and replicas < 0:
            found.append(Cause("spec.replicas", f"Invalid value: {replicas}: must be greater than or equal to 0"))
        claims = spec.get("volumeClaimTemplates") or ()
        claimed = frozenset((claim.get("metadata") or {}).get("name", "") for claim in claims)
        found += pod_template_problems(spec.get("template"), "spec.template.spec", self.restart_policies, claimed)
        return found

    def status_problems(self, kind: Kind, new: JSON) -> list[Cause]:
        """Counts of pods are not negative, and no more of them are ready than there are."""
        status = new.get("status") or {}
        counts = {name: status.get(name) or 0 for name in self.counts}
        found = [
            invalid(f"status.{name}", count, "must be greater than or equal to 0")
            for name, count in counts.items()
            if count < 0
        ]
        parts = [name for name in self.counts if name not in ("replicas", "unavailableReplicas")]
        found += [
            invalid(f"status.{name}", counts[name], "cannot be greater than status.replicas")
            for name in parts
            if "replicas" in counts and counts[name] > counts["replicas"]
        ]
        if counts.get("availableReplicas", 0) > counts.get("readyReplicas", 0):
            text = f"cannot be greater than {self.ready_words}"
            found.append(invalid("status.availableReplicas", counts["availableReplicas"], text))
        return found

    counts: tuple[str, ...] = ("replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas")
    ready_words = "readyReplicas"
    restart_policies: tuple[str, ...] = ("Always",)


class DeploymentStrategy(WorkloadStrategy):
    counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas")

    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        found = super().problems(around, kind, new, old)
        strategy = new["spec"].get("strategy") or {}
        rolling = strategy.get("rollingUpdate") or {}
        if strategy.get("type") == "Recreate" and rolling:
            found.append(
                Cause(
                    "spec.strategy.rollingUpdate",
                    "Forbidden: may not be specified when strategy `type` is 'Recreate'",
                    "FieldValueForbidden",
                )
            )
        if rolling and _zero(rolling.get("maxSurge")) and _zero(rolling.get("maxUnavailable")):
            found.append(
                Cause(
                    "spec.strategy.rollingUpdate.maxUnavailable",
                    "Invalid value: 0: may not be 0 when `maxSurge` is 0",
                )
            )
        return found


def _zero(value: Any) -> bool:
    return value in (0, "0", "0%")


class ReplicationControllerStrategy(Strategy):
    """The ReplicaSet's ancestor: its selector is a plain map of labels, which may change."""

    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        spec = new.get("spec") or {}
        selector, template, replicas = spec.get("selector"), spec.get("template"), spec.get("replicas")
        found: list[Cause] = []
        if not selector:
            found.append(Cause("spec.selector", "Required value", "FieldValueRequired"))
        if isinstance(replicas, int) and replicas < 0:
            found.append(Cause("spec.replicas", f"Invalid value: {replicas}: must be greater than or equal to 0"))
        if not template:
            return [*found, Cause("spec.template", "Required value", "FieldValueRequired")]
        labels = (template.get("metadata") or {}).get("labels") or {}
        found += problems.labels(labels, "spec.template.metadata.labels")
        if selector and not selector.items() <= labels.items():
            found.append(
                Cause(
                    "spec.template.metadata.labels",
                    f"Invalid value: {msgspec.json.encode(labels).decode()}: `selector` does not match template `labels`",
                )
            )
        return found + pod_template_problems(template, "spec.template.spec", ("Always",))


class PodTemplateStrategy(Strategy):
    """A template that is kept for later; nothing makes pods from it."""

    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        return pod_template_problems(new.get("template"), "template.spec", ("Always", "OnFailure", "Never"))


class DaemonSetStrategy(WorkloadStrategy):
    """Counts the changes of its template in an annotation."""

    counts = (
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
    )

    def receive(self, kind: Kind, new: JSON) -> None:
        annotations = new["metadata"].get("annotations")
        if annotations is None:
            annotations = new["metadata"]["annotations"] = {}
        annotations.setdefault(TEMPLATE_GENERATION, "0")

    def prepare(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        count = "1"
        if old is not None:
            count = (old["metadata"].get("annotations") or {}).get(TEMPLATE_GENERATION, "0")
            if (new.get("spec") or {}).get("template") != (old.get("spec") or {}).get("template") and count.isdigit():
                count = str(int(count) + 1)
        new["metadata"]["annotations"][TEMPLATE_GENERATION] = count
        return []


class StatefulSetStrategy(WorkloadStrategy):
    counts = ("replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas")
    ready_words = "status.readyReplicas"
    _CHANGEABLE = frozenset(
        {
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        }
    )

    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        found = super().problems(around, kind, new, old)
        strategy = new["spec"].get("updateStrategy") or {}
        rolling = strategy.get("rollingUpdate")
        if rolling is not None and strategy.get("type") == "OnDelete":
            shown = {"Partition": rolling.get("partition"), "MaxUnavailable": rolling.get("maxUnavailable")}
            text = "only allowed for updateStrategy 'RollingUpdate'"
            found.append(invalid("spec.updateStrategy.rollingUpdate", shown, text))
        if old is not None:
            before, after = old["spec"], new["spec"]
            fixed = (set(before) | set(after)) - self._CHANGEABLE
            if any(before.get(field) != after.get(field) for field in fixed):
                text = (
                    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
                    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
                )
                found = [cause for cause in found if cause.field != "spec.selector"] + [forbidden("spec", text)]
        return found


class JobStrategy(WorkloadStrategy):
    counts = ("active", "succeeded", "failed", "ready")

    def status_problems(self, kind: Kind, new: JSON) -> list[Cause]:
        found = super().status_problems(kind, new)
        status = new.get("status") or {}
        if (status.get("ready") or 0) > (status.get("active") or 0):
            found.append(invalid("status.ready", status["ready"], "cannot set more ready pods than active"))
        return found

    restart_policies = ("Never", "OnFailure")

    def prepare(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        spec = new.setdefault("spec", {})
        template = spec.setdefault("template", {})
        if old is None and not spec.get("manualSelector"):
            labels = template.setdefault("metadata", {}).setdefault("labels", {})
            uid, name = new["metadata"]["uid"], new["metadata"].get("name") or ""
            labels["batch.kubernetes.io/controller-uid"] = labels["controller-uid"] = uid
            labels["batch.kubernetes.io/job-name"] = labels["job-name"] = name[:63]
            spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
        # A Job without labels has those of its pods (pkg/apis/batch/v1/defaults.go).
        if not new["metadata"].get("labels") and (inherited := (template.get("metadata") or {}).get("labels")):
            new["metadata"]["labels"] = dict(inherited)
        return []

    def complete(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> None:
        if not new["metadata"].get("labels"):
            new["metadata"]["labels"] = dict(new["spec"]["template"]["metadata"]["labels"])

    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        found = super().problems(around, kind, new, old)
        if old is None:
            return found
        before, after = old["spec"], new["spec"]
        found += _template_changes(old, new)
        for field in self._FIXED:
            found += immutable_problems(f"spec.{field}", after.get(field), before.get(field))
        completions = after.get("completions")
        if after.get("completionMode") != "Indexed":
            found += immutable_problems("spec.completions", completions, before.get("completions"))
        elif completions not in (None, before.get("completions"), after.get("parallelism")):
            text = "can only be modified in tandem with spec.parallelism"
            found.append(invalid("spec.completions", completions, text))
        return found

    _FIXED = ("completionMode", "podFailurePolicy", "backoffLimitPerIndex", "successPolicy", "managedBy")


def _template_changes(old: JSON, new: JSON) -> list[Cause]:
    """What may not change of a Job's template: nothing may, but while it is suspended and has no pods, where they run and what
    they are given (pkg/registry/batch/job/strategy.go, pkg/apis/batch/validation)."""
    before, after = old["spec"].get("template"), new["spec"].get("template")
    status = old.get("status") or {}
    suspended = {"type": "Suspended", "status": "True"}.items()
    idle = not status.get("startTime") or any(suspended <= one.items() for one in status.get("conditions") or ())
    if not old["spec"].get("suspend") or not idle or status.get("active"):
        return immutable_problems("spec.template", after, before)
    return immutable_problems("spec.template.spec", _fixed_when_idle(after), _fixed_when_idle(before))


def _fixed_when_idle(template: Any) -> Any:
    spec = {k: v for k, v in template["spec"].items() if k not in ("nodeSelector", "tolerations", "schedulingGates")}
    affinity = {k: v for k, v in (spec.pop("affinity", None) or {}).items() if k != "nodeAffinity"}
    for field in ("containers", "initContainers"):
        spec[field] = [{k: v for k, v in one.items() if k != "resources"} for one in spec.get(field) or ()]
    return {**spec, "affinity": affinity}


class CronJobStrategy(Strategy):
    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        schedule = new["spec"].get("schedule") or ""
        if not schedule:
            return [Cause("spec.schedule", "Required value", "FieldValueRequired")]
        template = (new["spec"].get("jobTemplate") or {}).get("spec", {}).get("template")
        return pod_template_problems(template, "spec.jobTemplate.spec.template.spec", ("Never", "OnFailure"))
