"""The kind ClusterManifests: what is to be in the cluster behind a kubeconfig."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from trimtab.api import Condition, Model, Resource, resource
from trimtab.components.infrastructure.kinds import Duration, SecretKey

MANIFESTS_MAX = 500


class CarriedSecret(Model):
    """A Secret of this namespace that is in the cluster under the same name, with what it has here."""

    name: str
    namespace: str = ""
    """In the cluster; the kubeconfig's when it is empty."""


class OutputField(Model):
    """A field of one of the objects, as the cluster has it."""

    kind: str
    name: str
    field: str
    """Its path: `status.url`, `status.loadBalancer.ingress[0].ip`."""


class ClusterManifestsSpec(Model):
    kubeconfig: SecretKey
    """The Secret of this namespace, and the key in it, that hold the kubeconfig. It has its credentials in itself: no `exec`, no files."""
    manifests: Annotated[list[dict[str, Any]], Meta(max_length=MANIFESTS_MAX)] = []
    """Objects, in any order. Namespaces and definitions of kinds come first in there, objects of those kinds last."""
    secrets: Annotated[list[CarriedSecret], Meta(max_length=MANIFESTS_MAX)] = []
    """What is secret and has to be in there, too: it is carried over from Secrets of this namespace, again when they change."""
    outputs: dict[str, OutputField] = {}
    """What is shown in `status.outputs` of the objects in there; never of a Secret."""
    interval: Duration = "1m"
    """How often it is looked whether all is in there as it should be."""
    deletion: Literal["prune", "leave"] = "prune"
    """What happens in the cluster when this object is deleted."""
    abandon_after: Duration = "10m"
    """How long a cluster that cannot be reached may hold up the deletion of this object. What is left in it then is said by an Event."""


class ClusterManifestsStatus(Model):
    observed_generation: int = 0
    cluster_uid: str = ""
    """Which cluster it was, last: the uid of its namespace kube-system."""
    objects: int = 0
    """How many objects of the list are in there."""
    kubeconfig: str = ""
    """A digest of the kubeconfig that all of this was seen with."""
    outputs: dict[str, Any] = {}
    conditions: list[Condition] = []


REMOVED = "Removed"


@resource(
    "trimtab.dev/v1alpha1",
    "clustermanifests",
    columns=(
        ("Applied", "string", ".status.conditions[?(@.type=='Applied')].status"),
        ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status"),
        ("Objects", "integer", ".status.objects"),
        ("Message", "string", ".status.conditions[?(@.type=='Ready')].message"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ),
)
class ClusterManifests(Resource):
    """Manifests in the cluster behind a kubeconfig Secret: applied, kept as they are here, and applied anew in the cluster after it."""

    spec: ClusterManifestsSpec = field(
        default_factory=lambda: ClusterManifestsSpec(kubeconfig=SecretKey(name="?", key="?"))
    )
    status: ClusterManifestsStatus = field(default_factory=ClusterManifestsStatus)

    @property
    def removed(self) -> bool:
        """Whether it is deleted, and has no more to do in the cluster."""
        return any(one.reason == REMOVED for one in self.status.conditions)
