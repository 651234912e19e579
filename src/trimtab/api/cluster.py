"""Cluster furniture: `storage.k8s.io/v1`, `coordination.k8s.io/v1`, `rbac.authorization.k8s.io/v1`, CRDs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import field

from trimtab.api.labels import LabelSelector
from trimtab.api.resource import Condition, Model, Resource, resource


@resource("storage.k8s.io/v1", "storageclasses", namespaced=False, short_names=("sc",), status=False)
class StorageClass(Resource):
    provisioner: str = ""
    parameters: dict[str, str] = {}
    reclaim_policy: str | None = None
    volume_binding_mode: str | None = None
    allow_volume_expansion: bool | None = None


class LeaseSpec(Model):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: datetime | None = None
    renew_time: datetime | None = None
    lease_transitions: int | None = None


@resource("coordination.k8s.io/v1", "leases", status=False)
class Lease(Resource):
    spec: LeaseSpec = field(default_factory=LeaseSpec)


class PolicyRule(Model):
    verbs: list[str] = []
    api_groups: list[str] = []
    resources: list[str] = []
    resource_names: list[str] = []
    non_resource_urls: list[str] = field(default_factory=list, name="nonResourceURLs")


class Subject(Model):
    kind: str
    name: str
    namespace: str | None = None
    api_group: str | None = None


class RoleRef(Model, omit_defaults=False):
    kind: str
    name: str
    api_group: str = "rbac.authorization.k8s.io"


@resource("rbac.authorization.k8s.io/v1", "roles", status=False)
class Role(Resource):
    rules: list[PolicyRule] = []


@resource("rbac.authorization.k8s.io/v1", "rolebindings", status=False)
class RoleBinding(Resource):
    role_ref: RoleRef | None = None
    subjects: list[Subject] = []


class AggregationRule(Model):
    cluster_role_selectors: list[LabelSelector] = []


@resource("rbac.authorization.k8s.io/v1", "clusterroles", namespaced=False, status=False)
class ClusterRole(Resource):
    rules: list[PolicyRule] = []
    aggregation_rule: AggregationRule | None = None


@resource("rbac.authorization.k8s.io/v1", "clusterrolebindings", namespaced=False, status=False)
class ClusterRoleBinding(Resource):
    role_ref: RoleRef | None = None
    subjects: list[Subject] = []


class CustomResourceDefinitionStatus(Model):
    conditions: list[Condition] = []


@resource("apiextensions.k8s.io/v1", "customresourcedefinitions", namespaced=False, short_names=("crd", "crds"))
class CustomResourceDefinition(Resource):
    """The spec stays JSON: its schema half is arbitrary and is read by the server alone."""

    spec: dict[str, Any] = {}
    status: CustomResourceDefinitionStatus = field(default_factory=CustomResourceDefinitionStatus)
