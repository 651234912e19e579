"""Questions on a cluster whose API server is not ours: objects that somebody makes, and that are answered in their status.

    client --InfrastructureReview--> the API: its RBAC decides who may --informer--> gateway.py's answers --> status.answer --> client
           --Secret NAME, owned by it: values that the question needs and nobody else is to read

An engine of ours has subresources for this (`ProviderConfig/plan`); a foreign API server passes nothing on to anybody. No credential of
the caller's leaves the API server, nothing has to be reachable from where the caller is, and the caller's rights are those that it has there.
Whoever asked deletes the review; what is left lying is deleted after ten minutes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from trimtab.api import JSON, Model, Resource, resource
from trimtab.api.core import Secret
from trimtab.client import ApiError, Informer
from trimtab.client.errors import NotFound
from trimtab.components.infrastructure.kinds import ProviderConfig
from trimtab.components.infrastructure.questions.gateway import READS, Answers, Refused
from trimtab.runtime import Owned, Service, Writes

MANAGER = "trimtab-infrastructure-reviews"
KEPT = timedelta(minutes=10)
TIDY_S = 60.0
AT_ONCE = 16
SECRET_WAIT_S = 10.0
LOOK_S = 0.1
ANSWER_BYTES_MAX = 1_000_000
"""An API server keeps no object above 1.5 MB."""
GIVEN = "secrets"
"""Key of the Secret that comes with a review: JSON, the question's `secrets`."""

log = logging.getLogger(__name__)


class ReviewSpec(Model):
    kind: Literal["ProviderConfig", "CompositeDefinition"]
    name: Annotated[str, Meta(min_length=1, max_length=253)]
    """Who is asked: a ProviderConfig of this namespace, or a CompositeDefinition."""
    ask: Literal["plan", "import", "compose"]
    question: Annotated[str, Meta(max_length=1_000_000)] = "{}"
    """JSON, as text: numbers and nulls in it mean what they say to a provider, and no API server is to touch them."""
    given: bool = False
    """There is a Secret of the review's own name, with values that go with the question."""


class ReviewStatus(Model):
    taken: bool = False
    """Somebody answers."""
    code: int = 0
    """200, or as HTTP has it why there is no answer; 0 while there is none yet."""
    answer: str = ""
    """JSON, as text; of a refusal its one line."""


@resource("trimtab.dev/v1alpha1", "infrastructurereviews")
class InfrastructureReview(Resource):
    """A question to the providers and compositions of a namespace. Made by `trimtab plan` and others, and gone a moment later."""

    spec: ReviewSpec = field(default_factory=lambda: ReviewSpec(kind="ProviderConfig", name="?", ask="plan"))
    status: ReviewStatus = field(default_factory=ReviewStatus)


async def reviews(process: Any) -> None:
    """The service that answers. Until cancelled."""
    # A copy of its own: what is asked is no news for the journal.
    informer = Informer(process.client, InfrastructureReview, clock=process.clock)
    answering = _Answering(process)
    informer.subscribe(lambda change: answering.look(change.new))
    try:
        async with asyncio.TaskGroup() as group:
            answering.group = group
            group.create_task(informer.run())
            while True:
                await asyncio.sleep(TIDY_S)
                await answering.tidy(informer.list())
    finally:
        answering.group = None


class _Answering:
    def __init__(self, process: Any) -> None:
        self.group: asyncio.TaskGroup | None = None
        self._process = process
        self._answers = Answers(process)
        self._room = asyncio.Semaphore(AT_ONCE)
        self._begun: set[str] = set()

    def look(self, review: InfrastructureReview | None) -> None:
        """Begins to answer what is new."""
        if review is None or review.status.code or review.metadata.uid in self._begun or self.group is None:
            return
        self._begun.add(review.metadata.uid)
        self.group.create_task(self._one(review))

    async def _one(self, review: InfrastructureReview) -> None:
        try:
            async with self._room:
                await self._write(review, {"taken": True})
                code, answer = await self._answered(review)
                if len(answer) > ANSWER_BYTES_MAX:
                    code, answer = 413, "the answer is too long for an object: ask about fewer objects at once"
                await self._write(review, {"taken": True, "code": code, "answer": answer})
        except NotFound:
            pass  # nobody wants to know any more
        except (ApiError, ConnectionError) as err:
            log.warning("%s was not answered: %s", review.ref, err)
        except Exception:
            log.exception("%s was not answered", review.ref)
            with contextlib.suppress(ApiError, ConnectionError):
                await self._write(
                    review, {"taken": True, "code": 500, "answer": "it failed: see the log of trimtab run"}
                )
        finally:
            self._begun.discard(review.metadata.uid)

    async def _answered(self, review: InfrastructureReview) -> tuple[int, str]:
        spec, namespace = review.spec, review.namespace or ""
        try:
            question = msgspec.json.decode(spec.question, type=dict[str, Any])
            if (
                spec.kind == "ProviderConfig"
                and await self._process.client.get(ProviderConfig, spec.name, namespace) is None
            ):
                raise Refused(404, f"there is no ProviderConfig {spec.name} in namespace {namespace}")
            if spec.given:
                question["secrets"] = await self._given(review)
            answer = await self._answers.told(spec.kind, spec.ask, msgspec.json.encode(question), namespace, spec.name)
        except Refused as err:
            return err.status, str(err)
        except msgspec.MsgspecError as err:
            return 400, f"the question is not understood: {err}"
        return 200, answer.decode()

    async def _given(self, review: InfrastructureReview) -> JSON:
        """The values in the review's own Secret, which is made right after it. Raises `Refused`."""
        deadline = asyncio.get_running_loop().time() + SECRET_WAIT_S
        while True:
            secret = await self._process.client.get(Secret, review.name, review.namespace)
            owners = {owner.uid for owner in secret.metadata.owner_references} if secret is not None else set()
            if secret is not None and review.metadata.uid in owners:
                return msgspec.json.decode(base64.b64decode(secret.data.get(GIVEN, "")), type=dict[str, Any])
            if asyncio.get_running_loop().time() > deadline:
                raise Refused(400, f"the Secret {review.name} that goes with the question was not made")
            await asyncio.sleep(LOOK_S)

    async def _write(self, review: InfrastructureReview, status: JSON) -> None:
        await self._process.client.wire.patch(
            review.resource_type,
            review.name,
            review.namespace,
            {"status": status},
            manager=MANAGER,
            subresource="status",
        )

    async def tidy(self, found: Any) -> None:
        """Deletes what whoever asked has left."""
        old = datetime.now(UTC) - KEPT
        for review in found:
            if review.metadata.creation_timestamp is not None and review.metadata.creation_timestamp < old:
                with contextlib.suppress(ApiError, ConnectionError):
                    await self._process.client.wire.delete(review.resource_type, review.name, review.namespace)


SERVICE = Service(
    "reviews",
    reviews,
    reads=READS,
    owns=(Owned(InfrastructureReview),),
    writes=(Writes(InfrastructureReview, ("status",)),),
)
"""For a cluster whose API server is not ours."""

__all__ = ["GIVEN", "SERVICE", "InfrastructureReview"]
