"""Projected and downwardAPI volumes: what lies in them, who may read it, and when a token is renewed."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from trimtab.api import ObjectMeta, from_wire
from trimtab.api.core import ConfigMap, Pod, Secret, Service, ServiceAccount
from trimtab.components.node.admission import check_pod
from trimtab.components.node.environment import ConfigProblem, Facts
from trimtab.components.node.links import service_links
from trimtab.components.node.projected import Projector
from trimtab.components.node.projection import ProjectedFile, project
from trimtab.components.node.tokens import TokenRequests, claims_of
from trimtab.runtime import Denied

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
TOKEN = {"serviceAccountToken": {"path": "token", "expirationSeconds": 1000}}


class Issuer(TokenRequests):
    """Gives tokens as the API does, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOON
        self.account_uid = "sa-1"
        self.issued = 0

    async def request(self, pod: Pod, audience: str, seconds: int) -> bytes:
        self.issued += 1
        at = int(self.now.timestamp())
        claims = {
            "aud": [audience or "api"],
            "iat": at,
            "exp": at + seconds,
            "jti": self.issued,
            "kubernetes.io": {"serviceaccount": {"uid": self.account_uid}, "pod": {"uid": pod.metadata.uid}},
        }
        return b"e30." + base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=") + b".signature"


class World:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.issuer = Issuer()
        self.projector = Projector(self.issuer, Facts("", "", 2, 1 << 30), lambda: self.issuer.now)
        self.objects: dict[tuple[type, str], Any] = {}
        self.put(ServiceAccount(metadata=ObjectMeta(name="bot", uid="sa-1")))

    def put(self, obj: Any) -> None:
        self.objects[type(obj), obj.metadata.name] = obj

    async def get(self, kind: Any, name: str, namespace: str | None = None, /) -> Any:
        return self.objects.get((kind, name))

    async def show(self, pod: Pod) -> tuple[Mapping[str, ProjectedFile], datetime | None]:
        """What the pod's first volume shows, as it then lies on disk."""
        [volume] = pod.spec.volumes
        assert volume.projected is not None
        files, renew_at = await self.projector.files(pod, volume.projected, self.get, self.directory)
        project(self.directory, files)
        return files, renew_at


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "v")


def pod(*sources: Any, uid: str = "pod-1", **spec: Any) -> Pod:
    container = {"name": "main", "image": "a:1", "resources": {"limits": {"memory": "64Mi"}}}
    body = {
        "serviceAccountName": "bot",
        "containers": [container],
        "volumes": [{"name": "v", "projected": {"sources": list(sources)}}],
        **spec,
    }
    meta = {"name": "web", "namespace": "shop", "uid": uid, "labels": {"b": 'say "x"', "a": "1"}}
    return from_wire(Pod, {"metadata": meta, "spec": body})


async def test_a_token_stays_until_four_fifths_of_its_life_are_over(world: World) -> None:
    first, renew_at = await world.show(pod(TOKEN))
    assert renew_at == NOON + timedelta(seconds=800)

    world.issuer.now = NOON + timedelta(seconds=799)
    again, still = await world.show(pod(TOKEN))
    assert (again["token"], still) == (first["token"], renew_at)

    world.issuer.now = NOON + timedelta(seconds=800)
    renewed, later = await world.show(pod(TOKEN))
    assert renewed["token"] != first["token"]
    assert later == NOON + timedelta(seconds=1600)


async def test_a_long_token_is_renewed_every_day(world: World) -> None:
    week = {"serviceAccountToken": {"path": "token", "expirationSeconds": 7 * 86400}}

    assert (await world.show(pod(week)))[1] == NOON + timedelta(days=1)


async def test_a_token_of_another_account_pod_or_audience_is_not_kept(world: World) -> None:
    first, _ = await world.show(pod(TOKEN))
    audience = {"serviceAccountToken": {"path": "token", "audience": "vault"}}
    vault, _ = await world.show(pod(audience))
    assert vault["token"] != first["token"]

    world.put(ServiceAccount(metadata=ObjectMeta(name="bot", uid="sa-2")))
    world.issuer.account_uid = "sa-2"
    anew, _ = await world.show(pod(audience))
    assert anew["token"] != vault["token"]
    other, _ = await world.show(pod(audience, uid="pod-2"))
    assert other["token"] != anew["token"]
    assert world.issuer.issued == 4


@pytest.mark.parametrize(
    ("security", "mode", "uid"),
    [
        ({}, 0o644, None),
        ({"fsGroup": 5}, 0o600, None),
        ({"runAsUser": 7}, 0o600, 7),
    ],
)
async def test_a_token_is_private_where_its_readers_are_known(
    world: World, security: dict[str, int], mode: int, uid: int | None
) -> None:
    files, _ = await world.show(pod(TOKEN, securityContext=security))

    assert (files["token"].mode, files["token"].uid) == (mode, uid)


async def test_sources_are_laid_over_each_other(world: World) -> None:
    world.put(ConfigMap(metadata=ObjectMeta(name="conf"), data={"a": "1", "b": "2"}))
    world.put(Secret(metadata=ObjectMeta(name="keys"), data={"a": "Mw=="}))
    facts = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "limit", "mode": 0o400, "resourceFieldRef": {"containerName": "main", "resource": "limits.memory"}},
    ]
    files, renew_at = await world.show(
        pod(
            {"configMap": {"name": "conf"}},
            {"secret": {"name": "keys", "items": [{"key": "a", "path": "a"}]}},
            {"configMap": {"name": "absent", "optional": True}},
            {"downwardAPI": {"items": facts}},
        )
    )

    assert {path: file.data for path, file in files.items()} == {
        "a": b"3",
        "b": b"2",
        "labels": b'a="1"\nb="say \\"x\\""',
        "limit": b"67108864",
    }
    assert files["limit"].mode == 0o400
    assert renew_at is None


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ({"configMap": {"name": "absent"}}, 'configmap "absent" not found'),
        ({"secret": {"name": "absent"}}, 'secret "absent" not found'),
        (
            {"serviceAccountToken": {"path": "../token"}},
            "the path '../token' of the service account's token must stay within the volume",
        ),
        (
            {"downwardAPI": {"items": [{"path": "x", "fieldRef": {"fieldPath": "spec.secret"}}]}},
            "the downward API has no field spec.secret; it has metadata.name, status.podIP and others",
        ),
        (
            {
                "downwardAPI": {
                    "items": [
                        {"path": "x", "resourceFieldRef": {"containerName": "no", "resource": "limits.cpu"}},
                    ]
                }
            },
            "the item x names the container 'no', which is not there",
        ),
    ],
)
async def test_what_cannot_be_shown_is_named(world: World, source: Any, text: str) -> None:
    with pytest.raises(ConfigProblem) as refused:
        await world.show(pod(source))

    assert str(refused.value) == text


async def test_a_pod_whose_account_is_gone_gets_no_token(world: World) -> None:
    with pytest.raises(ConfigProblem, match='serviceaccount "ghost" not found'):
        await world.show(pod(TOKEN, serviceAccountName="ghost"))


@pytest.mark.parametrize("token", [b"", b"a.b", b"a.%%%.c", b"e30.e30.x", b"e30.bnVsbA.x", b"e30.W10.x"])
def test_what_is_no_token_has_no_claims(token: bytes) -> None:
    assert claims_of(token) is None


def test_sources_that_nothing_acts_on_are_refused() -> None:
    spec = {
        "containers": [],
        "volumes": [{"name": "v", "projected": {"sources": [TOKEN, {"clusterTrustBundle": {"path": "x"}}]}}],
    }
    with pytest.raises(Denied) as refused:
        check_pod({"spec": spec}, None)

    assert str(refused.value) == (
        "spec.volumes[0].projected.sources[1].clusterTrustBundle: sources of this type are not supported; "
        "use one of configMap, downwardAPI, secret, serviceAccountToken"
    )


# Where services are


def service(name: str, namespace: str, ip: str, *ports: dict[str, Any]) -> Service:
    spec = {"clusterIP": ip, "ports": list(ports)}
    return from_wire(Service, {"metadata": {"name": name, "namespace": namespace}, "spec": spec})


SERVICES = [
    service("kubernetes", "default", "10.0.0.1", {"name": "https", "port": 443}),
    service("redis-master", "shop", "10.0.0.5", {"port": 6379}, {"name": "a-b", "port": 53, "protocol": "UDP"}),
    service("headless", "shop", "None", {"port": 1}),
    service("other", "default", "10.0.0.9", {"port": 1}),
]


def test_containers_are_told_of_the_api_and_of_their_namespaces_services() -> None:
    links = service_links(pod(), SERVICES)

    assert links == {
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
        "KUBERNETES_SERVICE_PORT_HTTPS": "443",
        "KUBERNETES_PORT": "tcp://10.0.0.1:443",
        "KUBERNETES_PORT_443_TCP": "tcp://10.0.0.1:443",
        "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
        "KUBERNETES_PORT_443_TCP_PORT": "443",
        "KUBERNETES_PORT_443_TCP_ADDR": "10.0.0.1",
        "REDIS_MASTER_SERVICE_HOST": "10.0.0.5",
        "REDIS_MASTER_SERVICE_PORT": "6379",
        "REDIS_MASTER_SERVICE_PORT_A_B": "53",
        "REDIS_MASTER_PORT": "tcp://10.0.0.5:6379",
        "REDIS_MASTER_PORT_6379_TCP": "tcp://10.0.0.5:6379",
        "REDIS_MASTER_PORT_6379_TCP_PROTO": "tcp",
        "REDIS_MASTER_PORT_6379_TCP_PORT": "6379",
        "REDIS_MASTER_PORT_6379_TCP_ADDR": "10.0.0.5",
        "REDIS_MASTER_PORT_53_UDP": "udp://10.0.0.5:53",
        "REDIS_MASTER_PORT_53_UDP_PROTO": "udp",
        "REDIS_MASTER_PORT_53_UDP_PORT": "53",
        "REDIS_MASTER_PORT_53_UDP_ADDR": "10.0.0.5",
    }


def test_without_service_links_only_the_api_is_told_of() -> None:
    links = service_links(pod(enableServiceLinks=False), SERVICES)

    assert {name.partition("_")[0] for name in links} == {"KUBERNETES"}
