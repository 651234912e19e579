"""What is special about single kinds when they are written: what the server fills in, what may not change, what must agree.

Everything that a schema can say stands in the schema; here is the rest, one small class a kind. A kind without an entry has
no rules beyond its schema.
"""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.api import JSON
from trimtab.server.errors import Cause
from trimtab.server.kinds import Kind
from trimtab.server.strategies.base import Strategy, Surroundings
from trimtab.server.strategies.certificates import GROUP as CERTIFICATES
from trimtab.server.strategies.certificates import CertificateStrategy
from trimtab.server.strategies.core import (
    ClaimStrategy,
    ConfigMapStrategy,
    CrdStrategy,
    IngressStrategy,
    LimitRangeStrategy,
    NamespaceStrategy,
    PersistentVolumeStrategy,
    PriorityClassStrategy,
    RoleBindingStrategy,
    SecretStrategy,
    ServiceStrategy,
)
from trimtab.server.strategies.pods import NodeStrategy, PodStrategy
from trimtab.server.strategies.rules import RULES
from trimtab.server.strategies.stored import STORED
from trimtab.server.strategies.webhook_configurations import WebhookConfigurationStrategy
from trimtab.server.strategies.workloads import (
    CronJobStrategy,
    DaemonSetStrategy,
    DeploymentStrategy,
    JobStrategy,
    PodTemplateStrategy,
    ReplicationControllerStrategy,
    StatefulSetStrategy,
    WorkloadStrategy,
)

__all__ = ["CrdStrategy", "Strategy", "Surroundings", "rules_of", "strategy_of"]

_NONE = Strategy()
_ADMISSION = "admissionregistration.k8s.io"
_RBAC = "rbac.authorization.k8s.io"
_STRATEGIES: dict[tuple[str, str], Strategy] = {
    ("", "Namespace"): NamespaceStrategy(),
    ("", "Secret"): SecretStrategy(),
    ("", "ConfigMap"): ConfigMapStrategy(),
    ("", "LimitRange"): LimitRangeStrategy(),
    ("", "Service"): ServiceStrategy(),
    ("", "Node"): NodeStrategy(),
    ("", "Pod"): PodStrategy(),
    ("", "PersistentVolume"): PersistentVolumeStrategy(),
    ("", "PersistentVolumeClaim"): ClaimStrategy(),
    ("", "PodTemplate"): PodTemplateStrategy(),
    ("", "ReplicationController"): ReplicationControllerStrategy(),
    ("apps", "Deployment"): DeploymentStrategy(),
    ("apps", "ReplicaSet"): WorkloadStrategy(),
    ("apps", "DaemonSet"): DaemonSetStrategy(),
    ("apps", "StatefulSet"): StatefulSetStrategy(),
    ("batch", "Job"): JobStrategy(),
    ("batch", "CronJob"): CronJobStrategy(),
    (CERTIFICATES, "CertificateSigningRequest"): CertificateStrategy(),
    ("networking.k8s.io", "Ingress"): IngressStrategy(),
    (_RBAC, "RoleBinding"): RoleBindingStrategy(),
    (_RBAC, "ClusterRoleBinding"): RoleBindingStrategy(),
    (_ADMISSION, "MutatingWebhookConfiguration"): WebhookConfigurationStrategy(),
    (_ADMISSION, "ValidatingWebhookConfiguration"): WebhookConfigurationStrategy(),
    ("apiextensions.k8s.io", "CustomResourceDefinition"): CrdStrategy(),
    ("scheduling.k8s.io", "PriorityClass"): PriorityClassStrategy(),
    **STORED,
}


def rules_of(kind: Kind, obj: JSON) -> Iterator[Cause]:
    """What is wrong with an object of a built-in kind by itself, beyond its schema."""
    rules = None if kind.crd else RULES.get((kind.group, kind.kind))
    return rules(obj) if rules is not None else iter(())


def strategy_of(kind: Kind) -> Strategy:
    return _NONE if kind.crd else _STRATEGIES.get((kind.group, kind.kind), _NONE)
