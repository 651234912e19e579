"""The client over real sockets: the engine's unix socket, TLS by kubeconfig, a server that dies and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from api_process import ApiProcess
from trimtab.api import ObjectMeta, Ref
from trimtab.api.core import ConfigMap, Namespace, Pod
from trimtab.client import (
    AlreadyExists,
    Client,
    Conflict,
    Forbidden,
    Gone,
    HttpTransport,
    Informer,
    Invalid,
    NotFound,
    SocketTransport,
)

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    server = ApiProcess(tmp_path_factory.mktemp("api"), tls=True)
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def socket_client(server: ApiProcess, user: str | None = None) -> AsyncIterator[Client]:
    client = Client(SocketTransport(server.socket, user=user))
    try:
        yield client
    finally:
        await client.close()


def config(name: str, **data: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default"), data=data)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - a cache has no event of its own
            await asyncio.sleep(0.01)


async def test_every_verb_over_the_socket(server: ApiProcess) -> None:
    async with socket_client(server) as client:
        made = await client.create(config("verbs", a="1"), manager="test")
        assert made.metadata.uid
        with pytest.raises(AlreadyExists, match='configmaps "verbs" already exists'):
            await client.create(config("verbs"), manager="test")
        applied = await client.apply(config("verbs", b="2"), manager="other")
        assert applied.data == {"a": "1", "b": "2"}
        with pytest.raises(Conflict, match='conflict with "other"'):
            await client.apply(config("verbs", b="3"), manager="third", force=False)
        dry = await client.apply(config("verbs", b="4"), manager="third", dry_run=True)
        assert dry.data["b"] == "4"
        patched = await client.patch(made, {"data": {"c": "3"}}, manager="test")
        assert patched["data"] == {"a": "1", "b": "2", "c": "3"}
        found = await client.get(ConfigMap, "verbs", "default")
        assert found is not None
        assert found.data == {"a": "1", "b": "2", "c": "3"}
        assert "verbs" in [c.name for c in (await client.list(ConfigMap, "default")).items]
        assert (await client.list(ConfigMap, labels="no=such")).items == []
        with pytest.raises(Conflict):
            await client.delete(made, uid="another")
        await client.delete(made)
        await client.delete(made)  # missing_ok
        with pytest.raises(NotFound):
            await client.delete(made, missing_ok=False)
        assert await client.get(ConfigMap, "verbs", "default") is None


async def test_a_bad_object_names_its_field(server: ApiProcess) -> None:
    async with socket_client(server) as client:
        bad = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "ports": 3}]},
        }
        with pytest.raises(Invalid) as caught:
            await client.wire.create(
                Pod.resource_type, bad | {"metadata": {"name": "p", "namespace": "default"}}, manager="t"
            )
        assert "spec.containers[0].ports" in str(caught.value)


async def test_a_list_in_pages_and_a_watch_from_there(server: ApiProcess) -> None:
    async with socket_client(server) as client:
        await client.apply(Namespace(metadata=ObjectMeta(name="pages")), manager="t")
        for i in range(7):
            await client.apply(ConfigMap(metadata=ObjectMeta(name=f"c{i}", namespace="pages")), manager="t")
        whole = await client.wire.list(ConfigMap.resource_type, "pages", chunk=3)
        names = [c["metadata"]["name"] for c in whole["items"]]
        assert [n for n in names if n.startswith("c")] == [f"c{i}" for i in range(7)]
        assert whole["items"][0]["kind"] == "ConfigMap"

        version = whole["metadata"]["resourceVersion"]
        watch = client.watch(ConfigMap, "pages", resource_version=version, timeout_s=30)
        async with aclosing(watch) as events, asyncio.timeout(DEADLINE_S):
            await client.apply(ConfigMap(metadata=ObjectMeta(name="new", namespace="pages")), manager="t")
            await client.delete(Ref("v1", "ConfigMap", "pages", "c0"))
            seen = []
            async for event in events:
                if event.type != "BOOKMARK":
                    seen.append((event.type, event.object.name))
                if len(seen) == 2:
                    break
        assert seen == [("ADDED", "new"), ("DELETED", "c0")]


async def test_a_version_from_nowhere_is_gone_or_refused(server: ApiProcess) -> None:
    async with socket_client(server) as client:
        with pytest.raises((Gone, Invalid)):
            async for _ in client.watch(ConfigMap, resource_version="not-a-version", timeout_s=1):
                pass


async def test_discovery_finds_kinds_by_their_names(server: ApiProcess) -> None:
    async with socket_client(server) as client:
        kinds = {kind.kind: kind for kind in await client.wire.discover()}
    assert kinds["Deployment"].api_version == "apps/v1"
    assert kinds["Deployment"].short_names == ("deploy",)
    assert not kinds["Node"].namespaced


async def test_the_actor_is_named(server: ApiProcess) -> None:
    review = b'{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}'
    async with socket_client(server, user="somebody") as client:
        answer = await client.raw("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=review)
    assert msgspec.json.decode(answer.body)["status"]["userInfo"]["username"] == "somebody"


async def test_tls_with_ca_and_token(server: ApiProcess) -> None:
    async with HttpTransport.for_kubeconfig(server.kubeconfig()) as transport:
        assert (await Client(transport).list(Namespace)).items


async def test_a_wrong_token_is_refused(server: ApiProcess, tmp_path: Path) -> None:
    file = changed(server, tmp_path, lambda document: document["users"][0].update(user={"token": "wrong"}))
    async with HttpTransport.for_kubeconfig(file) as transport:
        with pytest.raises(Forbidden, match="Unauthorized"):
            await Client(transport).list(Namespace)


async def test_tls_without_the_right_ca_is_refused_in_one_line(server: ApiProcess, tmp_path: Path) -> None:
    file = changed(server, tmp_path, lambda document: document["clusters"][0]["cluster"].pop("certificate-authority"))
    async with HttpTransport.for_kubeconfig(file) as transport:
        with pytest.raises(
            ConnectionError, match=r"^the API server at https://127.0.0.1:\d+ cannot be reached: .*certif"
        ):
            await Client(transport).list(Namespace)


def changed(server: ApiProcess, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The server's kubeconfig with a change."""
    document = msgspec.json.decode(server.kubeconfig().read_bytes())
    change(document)
    (folder / "changed").write_bytes(msgspec.json.encode(document))
    return folder / "changed"


async def test_nobody_listens(tmp_path: Path) -> None:
    async with SocketTransport(tmp_path / "none.sock") as transport:
        with pytest.raises(ConnectionError, match=r"the API server at .*/none.sock cannot be reached: "):
            await Client(transport).list(Namespace)


async def test_an_informer_lives_through_kill_and_restart(tmp_path: Path) -> None:
    server = ApiProcess(tmp_path)
    server.start()
    async with socket_client(server) as client:
        informer = Informer(client, ConfigMap)
        told: list[str] = []
        informer.subscribe(lambda change: told.append(change.latest.name))
        task = asyncio.create_task(informer.run())
        try:
            async with asyncio.timeout(DEADLINE_S):
                await informer.wait_synced()
            await client.apply(config("before"), manager="t")
            await until(lambda: "before" in told)

            server.kill()
            server.start()
            with suppress(ConnectionError):  # the connection kept from before died with the server
                await client.apply(config("after"), manager="t")
            await client.apply(config("after"), manager="t")
            await until(lambda: "after" in told)

            assert told.count("before") == 1, "resumed, or listed without telling twice"
            assert informer.get("before", "default") is not None
        finally:
            task.cancel()
            await asyncio.wait([task])
            server.stop()
