"""A cluster's API behind the kubeconfig of a Secret: which cluster it is, which kinds it has, its objects one by one.

Everything is asked anew in each run: nothing is kept of a cluster between two of them, connections neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import msgspec

from trimtab.api import JSON, ResourceType
from trimtab.client import ApiError, Client, ClusterAccess, Conflict, HttpTransport, NotFound, Transport
from trimtab.client.wire import WireClient
from trimtab.components.infrastructure.remote.order import Item

MANAGER = "trimtab-manifests"
OWNER_LABEL = "trimtab.dev/manifests"
"""On what was made in there: the uid of the ClusterManifests that it is of."""
ADOPT = "trimtab.dev/adopt"
INVENTORY_NAMESPACE = "kube-system"
NAMESPACE = ResourceType("v1", "Namespace", "namespaces", namespaced=False)
CONFIG_MAP = ResourceType("v1", "ConfigMap", "configmaps")
POD = ResourceType("v1", "Pod", "pods")


class Clusters(Protocol):
    """Clusters elsewhere."""

    def transport(self, access: ClusterAccess) -> Transport:
        """The API of one of them; the caller closes it."""


class OverHttp:
    """Clusters where their kubeconfigs say."""

    def transport(self, access: ClusterAccess) -> Transport:
        return HttpTransport(access, foreign=True)


class Unreachable(Exception):
    """The cluster does not answer, or not as a cluster does: one line."""


class CredentialsRefused(Exception):
    """The cluster does not know, or no longer knows, whom the kubeconfig names: one line."""


class InventoryFault(Exception):
    """What the cluster remembers of what was brought in cannot be read: one line."""


@asynccontextmanager
async def reached(clusters: Clusters, access: ClusterAccess) -> AsyncIterator[Cluster]:
    """The cluster, for one run. Raises `Unreachable` and `CredentialsRefused`, also for what is asked of it later."""
    transport = clusters.transport(access)
    try:
        yield Cluster(Client(transport, agent="trimtab-manifests").wire, access.namespace)
    except ConnectionError as err:
        raise Unreachable(str(err)) from None
    except (KeyError, TypeError, AttributeError, IndexError, msgspec.MsgspecError) as err:
        # Whoever answers there may answer anything.
        raise Unreachable(f"{access.server} answers what no cluster does: {type(err).__name__}: {err!s:.200}") from err
    except ApiError as err:
        if err.status == 401:
            raise CredentialsRefused(
                f"{access.server} does not accept the kubeconfig's credentials; they may have been replaced"
            ) from None
        raise Unreachable(f"{access.server}: {err}") from None
    finally:
        await transport.close()


class Cluster:
    """One cluster during one run."""

    def __init__(self, wire: WireClient, namespace: str) -> None:
        self.wire = wire
        self.namespace = namespace or "default"
        self._kinds: dict[str, Mapping[str, ResourceType]] = {}

    async def uid(self) -> str:
        """Which cluster this is. Raises `Unreachable` when what answers is none."""
        found = await self.wire.get(NAMESPACE, INVENTORY_NAMESPACE)
        if found is None:
            raise Unreachable("what answers there is no whole cluster: it has no namespace kube-system")
        return str(found["metadata"]["uid"])

    async def kind(self, item: Item) -> ResourceType | None:
        """None: it has no such kind (yet)."""
        if item.api_version not in self._kinds:
            self._kinds[item.api_version] = await self._served(item.api_version)
        return self._kinds[item.api_version].get(item.kind)

    def forget_kinds(self) -> None:
        """New ones may have come."""
        self._kinds.clear()

    async def _served(self, api_version: str) -> Mapping[str, ResourceType]:
        root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        try:
            document = await self.wire.read(root)
        except NotFound:
            return {}
        return {
            entry["kind"]: ResourceType(api_version, entry["kind"], entry["name"], namespaced=entry["namespaced"])
            for entry in document.get("resources", ())
            if "/" not in entry["name"]
        }

    def placed(self, item: Item, kind: ResourceType) -> Item:
        """With the namespace that it has in there."""
        namespace = (item.namespace or self.namespace) if kind.namespaced else ""
        return Item(item.api_version, item.kind, namespace, item.name)

    async def get(self, kind: ResourceType, item: Item) -> JSON | None:
        return await self.wire.get(kind, item.name, item.namespace or None)

    async def apply(self, kind: ResourceType, item: Item, manifest: JSON, owner: str) -> JSON:
        """Server-side apply under our own field manager, with the label that says whose it is."""
        meta = {k: v for k, v in manifest["metadata"].items() if k not in ("uid", "resourceVersion", "managedFields")}
        meta["labels"] = {**(meta.get("labels") or {}), OWNER_LABEL: owner}
        if item.namespace:
            meta["namespace"] = item.namespace
        body = {k: v for k, v in manifest.items() if k != "status"} | {"metadata": meta}
        return await self.wire.apply(kind, body, manager=MANAGER)

    async def delete(self, kind: ResourceType, item: Item, uid: str) -> None:
        """Asks for it; an object that is gone, or another one by now, is left alone."""
        try:
            await self.wire.delete(kind, item.name, item.namespace or None, uid=uid, propagation="Background")
        except (NotFound, Conflict):
            return

    async def pods(self, namespace: str, labels: Mapping[str, str]) -> list[JSON]:
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        found: list[JSON] = (await self.wire.list(POD, namespace, labels=selector))["items"]
        return found

    # What is remembered in there

    async def inventory(self, owner: str) -> list[Item] | None:
        """What was ever put in for this owner and is not known to be gone; None: nothing ever was, in this cluster."""
        found = await self.wire.get(CONFIG_MAP, inventory_name(owner), INVENTORY_NAMESPACE)
        if found is None:
            return None
        try:
            rows = msgspec.json.decode(found["data"]["objects"], type=list[tuple[str, str, str, str]])
        except (msgspec.DecodeError, msgspec.ValidationError, KeyError) as err:
            why = "it has no objects" if isinstance(err, KeyError) else err
            where = f"ConfigMap {INVENTORY_NAMESPACE}/{inventory_name(owner)} in the cluster"
            raise InventoryFault(
                f"{where}, which says what was brought in, was changed and cannot be read ({why}): delete it; what is no "
                "longer in spec.manifests is then not deleted in there"
            ) from None
        return [Item(*row) for row in rows]

    async def remember(self, owner: str, items: list[Item], whose: str) -> None:
        """whose: NAMESPACE/NAME, for people who find it."""
        rows = [[item.api_version, item.kind, item.namespace, item.name] for item in sorted(items)]
        meta: dict[str, Any] = {"name": inventory_name(owner), "namespace": INVENTORY_NAMESPACE}
        meta |= {"labels": {OWNER_LABEL: owner}, "annotations": {"trimtab.dev/cluster-manifests": whose}}
        data = {"objects": msgspec.json.encode(rows).decode()}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}
        await self.wire.apply(CONFIG_MAP, body, manager=MANAGER)

    async def forget(self, owner: str) -> None:
        try:
            await self.wire.delete(CONFIG_MAP, inventory_name(owner), INVENTORY_NAMESPACE)
        except NotFound:
            return


def inventory_name(owner: str) -> str:
    """Of what a cluster remembers of the objects that one ClusterManifests brought. owner: its uid."""
    return f"trimtab-manifests-{hashlib.blake2s(owner.encode(), digest_size=8).hexdigest()}"
