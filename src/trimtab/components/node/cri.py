"""The CRI over gRPC to containerd's socket, and the parts of containerd's own API that CRI 1.6 lacks (events, exec with
pipes of our own). grpc is imported when the first channel is opened: no other process of the engine pays for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.components.node.messages import CONTAINERD, CRI
from trimtab.components.node.sandboxes import (
    CONTAINER_NAME,
    POD_UID,
    ContainerView,
    Event,
    ExitEvent,
    ImageInfo,
    OomEvent,
    Reconnected,
    RuntimeFailure,
    Sandbox,
    State,
    StoredImage,
)
from trimtab.components.node.wire import Codec

RUNTIME, IMAGES = "/runtime.v1.RuntimeService/", "/runtime.v1.ImageService/"
NAMESPACE = "k8s.io"
"""containerd's namespace of everything that CRI made."""

CALL_S = 30.0
"""Deadline of a plain call: containerd under load answers in well under a second, a dead disk never does."""
RUN_SANDBOX_S = 120.0
PULL_S = 1800.0
RECONNECT_S_MIN = 0.02
RECONNECT_S_MAX = 1.0
HELLO_TOPIC = "/trimtab/hello"

STATES: tuple[State, ...] = ("created", "running", "exited", "unknown")
PROCESS_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Process"


class Cri:
    """A `ContainerRuntime` that is containerd. Must be used and closed in one event loop."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._channel_: Any = None
        self._methods: dict[str, Any] = {}

    @property
    def _channel(self) -> Any:
        if self._channel_ is None:
            import grpc.aio

            self._channel_ = grpc.aio.insecure_channel(
                f"unix:{self._socket}",
                options=[
                    ("grpc.max_receive_message_length", 16 << 20),
                    ("grpc.initial_reconnect_backoff_ms", 50),
                    ("grpc.min_reconnect_backoff_ms", 50),
                    ("grpc.max_reconnect_backoff_ms", int(RECONNECT_S_MAX * 1000)),
                    ("grpc.use_local_subchannel_pool", 1),
                ],
            )
        return self._channel_

    async def close(self) -> None:
        if self._channel_ is not None:
            await self._channel_.close()
            self._channel_ = None
            self._methods.clear()

    async def call(
        self,
        path: str,
        request: Mapping[str, Any],
        request_type: str,
        response_type: str = "Empty",
        *,
        timeout_s: float | None = CALL_S,
        codec: Codec = CRI,
    ) -> dict[str, Any]:
        """One unary call.

        Raises:
            RuntimeFailure: with containerd's words, shortened to what a person can use.
        """
        import grpc

        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = self._channel.unary_unary(
                path,
                request_serializer=functools.partial(codec.encode, request_type),
                response_deserializer=functools.partial(codec.decode, response_type),
            )
        metadata = (("containerd-namespace", NAMESPACE),)
        try:
            return await method(request, timeout=timeout_s, metadata=metadata)  # type: ignore[no-any-return]
        except grpc.aio.AioRpcError as err:
            raise RuntimeFailure(explain(err.details() or ""), err.code().name) from None

    # Sandboxes

    async def run_sandbox(self, config: Mapping[str, Any]) -> str:
        request = {"config": config}
        response = await self.call(
            RUNTIME + "RunPodSandbox", request, "RunPodSandboxRequest", "Id", timeout_s=RUN_SANDBOX_S
        )
        return str(response["id"])

    async def sandbox_ip(self, sandbox_id: str) -> str:
        status = await self._sandbox_status(sandbox_id)
        return str(status.get("network", {}).get("ip", ""))

    async def sandbox_netns(self, sandbox_id: str) -> str | None:
        """The path of its network namespace; None for a pod on the host's network."""
        response = await self.call(
            RUNTIME + "PodSandboxStatus",
            {"pod_sandbox_id": sandbox_id, "verbose": True},
            "PodSandboxStatusRequest",
            "PodSandboxStatusResponse",
        )
        info = json.loads(response.get("info", {}).get("info", "{}"))
        for namespace in info.get("runtimeSpec", {}).get("linux", {}).get("namespaces", []):
            if namespace.get("type") == "network":
                return namespace.get("path") or None
        return None

    async def _sandbox_status(self, sandbox_id: str) -> dict[str, Any]:
        request = {"pod_sandbox_id": sandbox_id}
        response = await self.call(
            RUNTIME + "PodSandboxStatus", request, "PodSandboxStatusRequest", "PodSandboxStatusResponse"
        )
        return response.get("status", {})  # type: ignore[no-any-return]

    async def stop_sandbox(self, sandbox_id: str) -> None:
        await self._quietly_gone("StopPodSandbox", sandbox_id)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        await self._quietly_gone("RemovePodSandbox", sandbox_id)

    async def _quietly_gone(self, method: str, ident: str) -> None:
        try:
            await self.call(RUNTIME + method, {"id": ident}, "Id", timeout_s=RUN_SANDBOX_S)
        except RuntimeFailure as err:
            if not err.gone:
                raise

    async def sandboxes(self, uid: str | None = None) -> Sequence[Sandbox]:
        request = {"filter": {"label_selector": {POD_UID: uid}}} if uid else {}
        response = await self.call(
            RUNTIME + "ListPodSandbox", request, "ListPodSandboxRequest", "ListPodSandboxResponse"
        )
        return [await self._with_ip(_sandbox(item)) for item in response.get("items", [])]

    async def _with_ip(self, sandbox: Sandbox) -> Sandbox:
        if not sandbox.ready:
            return sandbox
        try:
            return replace(sandbox, ip=await self.sandbox_ip(sandbox.id))
        except RuntimeFailure as err:
            if err.gone:
                return replace(sandbox, ready=False)
            raise

    # Containers

    async def create_container(
        self, sandbox_id: str, config: Mapping[str, Any], sandbox_config: Mapping[str, Any]
    ) -> str:
        request = {"pod_sandbox_id": sandbox_id, "config": config, "sandbox_config": sandbox_config}
        response = await self.call(
            RUNTIME + "CreateContainer", request, "CreateContainerRequest", "Id", timeout_s=RUN_SANDBOX_S
        )
        return str(response["id"])

    async def start_container(self, container_id: str) -> None:
        await self.call(RUNTIME + "StartContainer", {"id": container_id}, "Id", timeout_s=RUN_SANDBOX_S)

    async def update_container(self, container_id: str, resources: Mapping[str, int]) -> None:
        """The score for the kernel's choice of whom to end stays as it was: runc changes cgroups only."""
        linux = {name: amount for name, amount in resources.items() if name != "oom_score_adj"}
        request = {"container_id": container_id, "linux": linux}
        await self.call(RUNTIME + "UpdateContainerResources", request, "UpdateContainerResourcesRequest")

    async def stop_container(self, container_id: str, timeout_s: float) -> None:
        request = {"container_id": container_id, "timeout": max(0, round(timeout_s))}
        try:
            await self.call(
                RUNTIME + "StopContainer", request, "StopContainerRequest", timeout_s=timeout_s + RUN_SANDBOX_S
            )
        except RuntimeFailure as err:
            if not err.gone:
                raise

    async def remove_container(self, container_id: str) -> None:
        await self._quietly_gone("RemoveContainer", container_id)

    async def containers(self, uid: str | None = None) -> Sequence[ContainerView]:
        request = {"filter": {"label_selector": {POD_UID: uid}}} if uid else {}
        response = await self.call(
            RUNTIME + "ListContainers", request, "ListContainersRequest", "ListContainersResponse"
        )
        views = []
        for item in response.get("containers", []):
            try:
                views.append(replace(await self.container(item["id"]), sandbox_id=item.get("pod_sandbox_id", "")))
            except RuntimeFailure as err:
                if not err.gone:
                    raise
        return views

    async def container(self, container_id: str) -> ContainerView:
        request = {"container_id": container_id}
        response = await self.call(
            RUNTIME + "ContainerStatus", request, "ContainerStatusRequest", "ContainerStatusResponse"
        )
        return _container(response.get("status", {}))

    async def exec(self, container_id: str, command: Sequence[str], timeout_s: float) -> tuple[int, bytes]:
        request = {"container_id": container_id, "cmd": list(command), "timeout": max(1, round(timeout_s))}
        response = await self.call(
            RUNTIME + "ExecSync", request, "ExecSyncRequest", "ExecSyncResponse", timeout_s=timeout_s + 5
        )
        return response.get("exit_code", 0), response.get("stdout", b"") + response.get("stderr", b"")

    async def reopen_log(self, container_id: str) -> None:
        await self.call(RUNTIME + "ReopenContainerLog", {"id": container_id}, "Id")

    async def attach_url(self, container_id: str, *, stdin: bool, output: bool, tty: bool) -> str:
        """Where containerd's streaming server takes an attach to the container's first process."""
        request = {
            "container_id": container_id,
            "stdin": stdin,
            "tty": tty,
            "stdout": output,
            "stderr": output and not tty,
        }
        response = await self.call(RUNTIME + "Attach", request, "AttachRequest", "AttachResponse")
        return str(response["url"])

    async def stats(self) -> dict[str, dict[str, Any]]:
        """CPU and memory of every running container by its id."""
        response = await self.call(RUNTIME + "ListContainerStats", {}, "Empty", "ListContainerStatsResponse")
        return {item["attributes"]["id"]: item for item in response.get("stats", [])}

    # Images

    async def image(self, reference: str) -> ImageInfo | None:
        request = {"image": {"image": reference}, "verbose": True}
        response = await self.call(IMAGES + "ImageStatus", request, "ImageStatusRequest", "ImageStatusResponse")
        image = response.get("image")
        if image is None:
            return None
        uid = image.get("uid")
        config = json.loads(response.get("info", {}).get("info", "{}")).get("imageSpec", {})
        return ImageInfo(
            id=image.get("id", ""),
            digests=tuple(image.get("repo_digests", ())),
            uid=None if uid is None else uid.get("value", 0),
            username=image.get("username", ""),
            architecture=config.get("architecture", ""),
        )

    async def images(self) -> Sequence[StoredImage]:
        response = await self.call(IMAGES + "ListImages", {}, "ListImagesRequest", "ListImagesResponse")
        return [
            StoredImage(
                item.get("id", ""),
                (*item.get("repo_tags", ()), *item.get("repo_digests", ())),
                item.get("size", 0),
            )
            for item in response.get("images", [])
        ]

    async def remove_image(self, reference: str) -> None:
        request = {"image": {"image": reference}}
        try:
            await self.call(IMAGES + "RemoveImage", request, "RemoveImageRequest", timeout_s=RUN_SANDBOX_S)
        except RuntimeFailure as err:
            if not err.gone:
                raise

    async def pull(self, reference: str, auth: Mapping[str, str] | None) -> str:
        request = {"image": {"image": reference}, "auth": auth}
        response = await self.call(IMAGES + "PullImage", request, "PullImageRequest", "Id", timeout_s=PULL_S)
        return str(response.get("id", ""))

    # Status

    async def problem(self) -> str | None:
        """None when the runtime and its pod network are ready, else what is not."""
        try:
            response = await self.call(RUNTIME + "Status", {}, "Empty", "StatusResponse", timeout_s=5)
        except RuntimeFailure as err:
            return f"containerd does not answer: {err}"
        for condition in response.get("status", {}).get("conditions", []):
            if not condition.get("status"):
                return str(condition.get("message") or condition.get("reason") or condition.get("type"))
        return None

    async def version(self) -> str:
        response = await self.call(RUNTIME + "Version", {}, "Empty", "VersionResponse")
        return f"{response.get('runtime_name', '')}://{response.get('runtime_version', '')}"

    # containerd's own services

    async def events(self) -> AsyncIterator[Event]:
        import grpc

        subscribe = self._channel.unary_stream(
            "/containerd.services.events.v1.Events/Subscribe",
            request_serializer=functools.partial(CONTAINERD.encode, "SubscribeRequest"),
            response_deserializer=functools.partial(CONTAINERD.decode, "Envelope"),
        )
        topics = ("/tasks/exit", "/tasks/oom", HELLO_TOPIC)
        pause_s = RECONNECT_S_MIN
        while True:
            stream = subscribe({"filters": [f'topic=="{topic}"' for topic in topics]}, wait_for_ready=True)
            hello = asyncio.create_task(self._hello())
            try:
                async for envelope in stream:
                    if envelope.get("topic") == HELLO_TOPIC:
                        if not hello.done():
                            hello.cancel()
                            yield Reconnected()
                        continue
                    pause_s = RECONNECT_S_MIN
                    event = _event(envelope)
                    if event is not None:
                        yield event
            except grpc.aio.AioRpcError:
                pass  # containerd is away or was restarted; the shims keep the containers
            finally:
                hello.cancel()
                stream.cancel()
            await asyncio.sleep(pause_s)
            pause_s = min(RECONNECT_S_MAX, pause_s * 2)

    async def _hello(self) -> None:
        """Says hello on the event bus until cancelled: the subscription stands once it hears us. (containerd sends nothing
        when a subscription begins, and an event before that would be missed.)"""
        request = {"topic": HELLO_TOPIC, "event": {"type_url": "trimtab.dev/hello", "value": b"{}"}}
        while True:
            with contextlib.suppress(RuntimeFailure):
                await self.call(
                    "/containerd.services.events.v1.Events/Publish", request, "PublishRequest", codec=CONTAINERD
                )
            await asyncio.sleep(RECONNECT_S_MIN)

    async def process_spec(self, container_id: str) -> dict[str, Any]:
        """The OCI process of a container as it was started: the base of an exec in it."""
        response = await self.call(
            "/containerd.services.containers.v1.Containers/Get",
            {"id": container_id},
            "GetContainerRequest",
            "GetContainerResponse",
            codec=CONTAINERD,
        )
        spec = json.loads(response["container"]["spec"]["value"])
        return spec["process"]  # type: ignore[no-any-return]

    async def task(
        self,
        method: str,
        request: Mapping[str, Any],
        request_type: str,
        response_type: str = "Empty",
        timeout_s: float | None = CALL_S,
    ) -> dict[str, Any]:
        """A call of containerd's task service."""
        path = f"/containerd.services.tasks.v1.Tasks/{method}"
        return await self.call(path, request, request_type, response_type, timeout_s=timeout_s, codec=CONTAINERD)

    async def task_pid(self, container_id: str) -> int:
        """The process id, on the host, of a container's first process."""
        response = await self.task("Get", {"container_id": container_id}, "GetTaskRequest", "GetTaskResponse")
        return int(response["process"]["pid"])


def _time(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)


def _sandbox(item: Mapping[str, Any]) -> Sandbox:
    meta = item.get("metadata", {})
    return Sandbox(
        id=item["id"],
        uid=meta.get("uid", ""),
        name=meta.get("name", ""),
        namespace=meta.get("namespace", ""),
        attempt=meta.get("attempt", 0),
        ready=item.get("state", 0) == 0,
        created_at=_time(item.get("created_at", 0)),
    )


def _container(status: Mapping[str, Any]) -> ContainerView:
    labels = status.get("labels", {})
    meta = status.get("metadata", {})
    started, finished = status.get("started_at", 0), status.get("finished_at", 0)
    return ContainerView(
        id=status["id"],
        sandbox_id="",
        pod_uid=labels.get(POD_UID, ""),
        name=meta.get("name") or labels.get(CONTAINER_NAME, ""),
        attempt=meta.get("attempt", 0),
        state=STATES[status.get("state", 0)],
        created_at=_time(status.get("created_at", 0)),
        started_at=_time(started) if started else None,
        finished_at=_time(finished) if finished else None,
        exit_code=status.get("exit_code", 0),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        image=status.get("image", {}).get("image", ""),
        image_ref=status.get("image_ref", ""),
        annotations=status.get("annotations", {}),
    )


def _event(envelope: Mapping[str, Any]) -> Event | None:
    payload = envelope.get("event", {}).get("value", b"")
    if envelope.get("topic") == "/tasks/oom":
        return OomEvent(CONTAINERD.decode("TaskOOM", payload).get("container_id", ""))
    task = CONTAINERD.decode("TaskExit", payload)
    if task.get("id") != task.get("container_id"):
        return None  # an exec in the container, not its first process
    at = task.get("exited_at", {})
    moment = datetime.fromtimestamp(at.get("seconds", 0) + at.get("nanos", 0) / 1e9, UTC)
    return ExitEvent(task.get("container_id", ""), task.get("exit_status", 0), moment)


KNOWN_CAUSES = (
    ("no such host", "the registry's name does not resolve"),
    ("connection refused", "the registry refuses the connection"),
    ("i/o timeout", "the registry does not answer"),
    ("401 Unauthorized", "the registry wants a login: add an imagePullSecret"),
    ("authorization failed", "the registry wants a login: add an imagePullSecret"),
    ("pull access denied", "no such image, or the registry wants a login: add an imagePullSecret"),
    (": not found", "no such image"),
    ("no match for platform", "the image is not built for this machine's architecture"),
    ("x509:", "the registry's certificate is not trusted"),
    ("no space left on device", "the node's disk is full"),
    ("wrong diff id calculated on extraction", "a layer of it is not what the image's configuration says"),
    ("mismatched image rootfs and manifest layers", "a layer of it is not what the image's configuration says"),
)
_UNPACKING = re.compile(r"failed to extract layer \S+: (.*)")
_SNAPSHOT = re.compile(r"/\S*/snapshots/\d+/fs")


def explain(details: str) -> str:
    """containerd's chain of `doing x: doing y: cause`, without the repetitions of its RPC layers."""
    text = details.replace("rpc error: code = Unknown desc = ", "").replace("rpc error: code = NotFound desc = ", "")
    parts: list[str] = []
    for part in text.split(": "):
        if part and part not in parts:
            parts.append(part)
    return ": ".join(parts) or "containerd gave no reason"


def explain_pull(details: str) -> str:
    """One line on a failed pull: the cause in plain words where it is a known one."""
    for sign, words in KNOWN_CAUSES:
        if sign in details:
            return words
    if (found := _UNPACKING.search(details)) is not None:
        # Where on the machine that was to be is nobody's business who reads a pod's status.
        return f"a layer of it cannot be unpacked: {_SNAPSHOT.sub('', found[1]).removesuffix(': unknown')}"
    return details
