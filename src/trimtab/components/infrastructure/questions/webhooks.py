"""Admission on a cluster whose API server is not ours: our words about writes of enabled kinds, asked by its webhooks.

    Provider.spec.kinds --rules--> ValidatingWebhookConfiguration --the API server--> https://ADDRESS:PORT/KEY/takes   a write
                                                                                                          /plans   a dry run
                                                                          /reached our own, of a review: whether it comes here at all
    admission.py <-- AdmissionReview

A write passes when nobody answers: what could not be judged then, the object's conditions tell. The configuration is there while this
process works and kinds are enabled; one that a killed process leaves behind points where nobody listens, which holds up nothing.

API servers show no credential to webhooks. Who calls is known by a key in the path: made anew at each start, it stands nowhere but in the
configuration, which administrators alone read.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import logging
import secrets
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from trimtab.api import JSON, Resource, ResourceType
from trimtab.api.core import Namespace
from trimtab.client import ApiError
from trimtab.components.infrastructure.kinds import Provider
from trimtab.components.infrastructure.questions.admission import answered, foreseen, taken
from trimtab.components.infrastructure.questions.gateway import BODY_BYTES_MAX, READS, Answers
from trimtab.components.infrastructure.questions.planning import ASKED_APART
from trimtab.components.infrastructure.questions.reviews import InfrastructureReview
from trimtab.components.infrastructure.schemas import naming
from trimtab.runtime import Owned, Service
from trimtab.runtime.ownership import SYSTEM_NAMESPACE

MANAGER = "trimtab-infrastructure-webhooks"
NAME = "trimtab-infrastructure"
TAKES_S, PLANS_S = 5, 30
"""What a write and a dry run wait at most; an API server allows 30 s."""
WARNING_CHARS_MAX, WARNINGS_CHARS_MAX = 256, 4096
"""What an API server hands on of one warning, and of all."""
CUT = "plan: the rest: trimtab plan"
END_S = 5.0
CHANGED = "request.operation != 'UPDATE' || (!has(object.metadata.deletionTimestamp) && object.spec != oldObject.spec)"
"""Writes of labels, finalizers and the like are nobody's business; ours come by dozens."""
DENIES = (
    "request.operation != 'DELETE' || (!has(oldObject.metadata.deletionTimestamp) && has(oldObject.spec.policy) && "
    "has(oldObject.spec.policy.delete) && oldObject.spec.policy.delete == 'deny')"
)
IS_DRY_RUN = "has(request.dryRun) && request.dryRun"
NOT_APART = f"!has(object.metadata.annotations) || !('{ASKED_APART}' in object.metadata.annotations)"
"""`trimtab plan` asks for plans by themselves."""
TRIAL, TRIALS, TRIAL_S = "trimtab-trial", 15, 2.0
"""An API server takes a second or so to act by a new configuration."""
IS_TRIAL = f"object.metadata.name == '{TRIAL}'"
REVIEWS: JSON = {
    "apiGroups": ["trimtab.dev"],
    "apiVersions": ["v1alpha1"],
    "resources": ["infrastructurereviews"],
    "scope": "Namespaced",
}

log = logging.getLogger(__name__)


class ValidatingWebhookConfiguration(Resource):
    """The kind, as far as it is written here."""

    resource_type: ClassVar[ResourceType] = ResourceType(
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        namespaced=False,
        status=False,
    )


@dataclass(frozen=True)
class Doorway:
    """Where the API server reaches this process. Bound where the process is put together.

    listen, port: 0 is a free one. address: by which others reach it. authority: PEM of who signed what `tls` shows.
    """

    listen: str
    port: int
    address: str
    authority: str
    tls: ssl.SSLContext


async def webhooks(process: Any) -> None:
    """The service: listens, and says so in the cluster. Until cancelled."""
    from aiohttp import web

    doorway: Doorway = process.adapter(Doorway)
    answers = Answers(process)
    key = secrets.token_urlsafe(32)
    reached = asyncio.Event()

    async def asked(request: web.Request) -> web.Response:
        if not hmac.compare_digest(request.match_info["key"], key):
            return web.Response(status=404)
        try:
            review = msgspec.json.decode(await request.read(), type=dict[str, Any])
            if request.match_info["what"] == "reached":
                reached.set()
                return web.json_response(answered(review, {"allowed": True}))
            judge = taken if request.match_info["what"] == "takes" else foreseen
            response = await judge(answers.asker, review["request"])
            if not response["allowed"] and await _goes_with_its_namespace(process, review["request"]):
                response = {"allowed": True}
            said = answered(review, within_limits(response))
        except (msgspec.MsgspecError, KeyError, TypeError):
            return web.Response(status=400, text="that is no AdmissionReview\n")
        return web.Response(body=msgspec.json.encode(said), content_type="application/json")

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_post("/{key}/{what:takes|plans|reached}", asked)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, doorway.listen, doorway.port, ssl_context=doorway.tls).start()
        url = f"https://{doorway.address}:{runner.addresses[0][1]}/{key}"
        await _told(process, url, doorway.authority, reached)
    finally:
        await runner.cleanup()


async def _goes_with_its_namespace(process: Any, request: Any) -> bool:
    """Whether a deletion is that of a namespace: a refusal would hold up what is deleted along with it, and whoever keeps the object keeps
    it all the same, and says so."""
    if request["operation"] != "DELETE":
        return False
    with contextlib.suppress(ApiError, ConnectionError):
        namespace = await process.client.get(Namespace, request.get("namespace") or "")
        return namespace is not None and namespace.metadata.deletion_timestamp is not None
    return False


async def _told(process: Any, url: str, authority: str, reached: asyncio.Event) -> None:
    """Keeps the configuration as the enabled kinds are, until cancelled; then it goes."""
    trying: asyncio.Task[None] | None = None
    changed = asyncio.Event()
    informer = process.informer(Provider)
    end = informer.subscribe(lambda _: changed.set())
    place = ValidatingWebhookConfiguration.resource_type
    there: list[JSON] | None = None
    try:
        await informer.wait_synced()
        changed.set()
        while True:
            await changed.wait()
            changed.clear()
            wanted = rules(informer.list())
            if wanted == there:
                continue
            if wanted:
                await process.client.wire.apply(place, configuration(wanted, url, authority), manager=MANAGER)
                trying = trying or asyncio.create_task(look_for_itself(process, url, reached))
            else:
                await _removed(process)
            there = wanted
    finally:
        end()
        if trying is not None:
            trying.cancel()
            await asyncio.wait([trying])
        with contextlib.suppress(ApiError, ConnectionError, TimeoutError):
            async with asyncio.timeout(END_S):
                await _removed(process, url)


async def look_for_itself(process: Any, url: str, reached: asyncio.Event) -> None:
    """Says so when the API server does not come here: writes pass then, and nobody would notice."""
    meta = {"name": TRIAL, "namespace": SYSTEM_NAMESPACE}
    spec = {"kind": "ProviderConfig", "name": TRIAL, "ask": "plan"}
    place = InfrastructureReview.resource_type
    trial: JSON = {"apiVersion": place.api_version, "kind": place.kind, "metadata": meta, "spec": spec}
    for _ in range(TRIALS):
        with contextlib.suppress(ApiError, ConnectionError):
            await process.client.wire.create(place, trial, manager=MANAGER, dry_run=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TRIAL_S):
                await reached.wait()
                return
    address = url.rpartition("/")[0]
    log.warning(
        "the cluster's API server does not reach %s, where it would ask about writes of providers' kinds: they pass unasked. Give an address "
        "that it reaches as --listen, and a port as --admission-port",
        address,
    )


async def _removed(process: Any, url: str = "") -> None:
    """Takes the configuration away. url: only when it is this process's; another may have taken over."""
    place = ValidatingWebhookConfiguration.resource_type
    found = await process.client.wire.get(place, NAME)
    if found is None:
        return
    urls = [str(hook["clientConfig"].get("url")) for hook in found.get("webhooks") or ()]
    if all(one.startswith(url) for one in urls):
        meta = found["metadata"]
        with contextlib.suppress(ApiError):
            await process.client.wire.delete(place, NAME, uid=meta["uid"], resource_version=meta["resourceVersion"])


def rules(providers: Sequence[Provider]) -> list[JSON]:
    """Of which resources writes are told: one rule a provider with enabled kinds."""
    return [
        {
            "apiGroups": [naming.group(one.name)],
            "apiVersions": [naming.VERSION],
            "resources": sorted(naming.plural(naming.kind_name(one.name, name)) for name in one.spec.kinds),
            "scope": "Namespaced",
        }
        for one in sorted(providers, key=lambda one: one.name)
        if one.spec.kinds
    ]


def configuration(wanted: Sequence[JSON], url: str, authority: str) -> JSON:
    """The ValidatingWebhookConfiguration. url: without the last part of the path. authority: PEM."""

    def hook(
        what: str, within_s: int, operations: list[str], conditions: dict[str, str], about: Sequence[JSON] = wanted
    ) -> JSON:
        return {
            "name": f"{what}.infrastructure.trimtab.dev",
            "clientConfig": {"url": f"{url}/{what}", "caBundle": base64.b64encode(authority.encode()).decode()},
            "rules": [{**rule, "operations": operations} for rule in about],
            "matchConditions": [{"name": name, "expression": text} for name, text in conditions.items()],
            "matchPolicy": "Equivalent",
            "failurePolicy": "Ignore",
            "timeoutSeconds": within_s,
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }

    place = ValidatingWebhookConfiguration.resource_type
    return {
        "apiVersion": place.api_version,
        "kind": place.kind,
        "metadata": {"name": NAME},
        "webhooks": [
            hook("takes", TAKES_S, ["CREATE", "UPDATE", "DELETE"], {"changed": CHANGED, "denies": DENIES}),
            hook("plans", PLANS_S, ["CREATE", "UPDATE"], {"dry-run": IS_DRY_RUN, "not-apart": NOT_APART}),
            hook("reached", TAKES_S, ["CREATE"], {"dry-run": IS_DRY_RUN, "trial": IS_TRIAL}, [REVIEWS]),
        ],
    }


def within_limits(response: JSON) -> JSON:
    """The response with no more warnings, and no longer ones, than an API server hands on."""
    out: list[str] = []
    left = WARNINGS_CHARS_MAX - len(CUT)
    for one in response.get("warnings") or ():
        text = one if len(one) <= WARNING_CHARS_MAX else f"{one[: WARNING_CHARS_MAX - 1]}…"
        if len(text.encode()) > left:
            out.append(CUT)
            break
        out.append(text)
        left -= len(text.encode())
    return {**response, "warnings": out} if out else response


SERVICE = Service(
    "webhooks",
    webhooks,
    reads=(*READS, Namespace),
    owns=(Owned(ValidatingWebhookConfiguration), Owned(InfrastructureReview)),
)
"""For a cluster whose API server is not ours."""

__all__ = [
    "NAME",
    "SERVICE",
    "Doorway",
    "ValidatingWebhookConfiguration",
    "configuration",
    "look_for_itself",
    "rules",
    "within_limits",
]
