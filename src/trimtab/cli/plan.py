"""`trimtab plan`: what would change, before it does.

files --dry-run apply--> each object as it would be --differences--> plans of ordinary objects
                                    '--providers' kinds, in order of references--> ProviderConfig/plan: what their providers say
no files: every object of a provider's kind --> what its next reconcile would do
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from trimtab.api import JSON, ResourceType
from trimtab.cli.composed import Claims
from trimtab.cli.differences import differences, given
from trimtab.cli.files import manifests
from trimtab.cli.output import dump, output_option
from trimtab.cli.target import MANAGER, Target
from trimtab.components.infrastructure.kinds import ProviderConfig
from trimtab.components.infrastructure.questions import outside as questions
from trimtab.components.infrastructure.questions import planning
from trimtab.components.infrastructure.questions.ordering import is_managed
from trimtab.components.infrastructure.questions.planning import ASKED_APART

if TYPE_CHECKING:
    from trimtab.client import WireClient

DEPTH_MAX = 8
"""Claims of claims of claims."""
AGENT = "trimtab-plan"
"""The API's judges know it: a plan is asked for apart, a dry run need not answer one."""
TELL_S = 1.0
FIRST = ("Namespace", "CustomResourceDefinition")


@click.command()
@click.option(
    "-f", "--filename", "paths", multiple=True, metavar="FILE", help="Files, directories, or - for standard input."
)
@click.option("-n", "--namespace", help="The namespace.  [default: default]")
@click.option("-A", "--all-namespaces", is_flag=True, help="Without files: objects of all namespaces.")
@output_option("text", "json", "yaml")
@click.pass_obj
def plan(target: Target, paths: tuple[str, ...], namespace: str | None, all_namespaces: bool, fmt: str) -> None:
    """Show what would change, before it does; nothing is changed.

    With files: what `trimtab apply` of them would do, and what providers would then do. Without: what the next reconcile of every object of
    a provider's kind would do.

    \b
    trimtab plan -f infrastructure/
    trimtab plan -A -o json

    Exit status: 0 nothing would change, 2 something would, 1 somebody could not say.
    """
    objects = manifests(paths) if paths else []
    where = None if all_namespaces else namespace or target.default_namespace()

    async def run() -> list[JSON]:
        from trimtab.client import WireClient

        warnings: list[str] = []
        async with target.transport() as transport:
            planner = Planner(WireClient(transport, agent=AGENT, on_warning=warnings.append), warnings)
            if paths:
                return await planner.of_files([obj for _, obj in objects], where or target.default_namespace())
            return await planner.of_all(where)

    plans = asyncio.run(run())
    if fmt != "text":
        dump(planning.document(plans), fmt)
    else:
        click.echo(planning.text(plans))
    raise click.exceptions.Exit(planning.exit_code(plans))


class Progress:
    """What somebody who waits reads: a line on stderr for each second, from the first on."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told >= TELL_S and done < total:
            self._told = now
            click.echo(f"{done:,} of {total:,} planned", err=True)


class Planner:
    """Plans by one API. warnings: where its client puts the API's."""

    def __init__(self, client: WireClient, warnings: list[str]) -> None:
        self._client = client
        self._warnings = warnings
        self._kinds: dict[tuple[str, str], ResourceType] = {}
        self._reviewed = False
        """The API does not see which program asks: dry runs are marked, so that their plan is not made twice."""
        self._tell = Progress()

    # Files

    async def of_files(self, objects: Sequence[JSON], namespace: str) -> list[JSON]:
        """What applying these would do, in the order of what would be done."""
        ordered = sorted(objects, key=lambda obj: FIRST.index(obj["kind"]) if obj["kind"] in FIRST else len(FIRST))
        to_come = {obj["metadata"]["name"] for obj in objects if obj["kind"] == "Namespace"}
        await self._discover()
        claims = Claims(self._client, self._kinds)
        await claims.load()
        plans: list[JSON] = []
        managed: list[JSON] = []
        queue = deque((obj, 0) for obj in ordered)
        while queue:
            self._tell(len(plans), len(plans) + len(managed) + len(queue))
            obj, depth = queue.popleft()
            one = await self._ordinary(obj, namespace, objects, to_come)
            would_be = one.pop("object", None)
            if would_be is not None and is_managed(obj):
                managed.append(would_be)
                continue
            plans.append(one)
            definition = claims.definition(obj)
            if would_be is not None and definition is not None and depth < DEPTH_MAX:
                found = await claims.expand(definition, would_be)
                queue.extend((child, depth + 1) for child in found.objects)
                plans += found.going
                if found.error:
                    one |= {"action": "", "error": found.error}
                elif found.waiting:
                    one |= {"reason": "WaitsForMore", "message": found.waiting}
        told = await questions.plans_of(
            self._client,
            managed,
            secrets=_secrets(ordered, namespace),
            to_come=_configs(objects, namespace),
            tell=self._tell,
        )
        return plans + told

    async def _ordinary(self, obj: JSON, namespace: str, objects: Sequence[JSON], to_come: set[str]) -> JSON:
        """The plan of one object by itself; `object` is what it would be."""
        from trimtab.client import ApiError

        kind = self._kinds.get((obj["apiVersion"], obj["kind"]))
        meta = obj["metadata"]
        blank = questions.identity(obj)
        if kind is None:
            if _defined(obj, objects):
                why = "its kind is defined together with it: nobody has checked it yet"
                return questions.unchecked(obj, why, given(obj))
            text = f"the server has no kind {obj['kind']} in {obj['apiVersion']}: is its CRD installed?"
            return blank | {"action": "", "error": text}
        if kind.namespaced:
            meta.setdefault("namespace", namespace)
        else:
            meta.pop("namespace", None)
        blank = questions.identity(obj)
        before = await self._client.get(kind, meta["name"], meta.get("namespace"))
        self._warnings.clear()
        try:
            marks = self._reviewed and is_managed(obj)
            asked = _marked(obj) if marks else obj
            after = await self._client.apply(kind, asked, manager=MANAGER, force=True, dry_run=True)
            if marks:
                del after["metadata"]["annotations"][ASKED_APART]
        except ApiError as err:
            if err.status == 404 and before is None and meta.get("namespace") in to_come:
                why = "its namespace is made together with it: nobody has checked it yet"
                return questions.unchecked(obj, why, given(obj))
            return blank | {"action": "", "error": str(err)}
        changes = given(obj) if before is None else differences(before, after)
        action = "create" if before is None else "update" if changes else "none"
        found = {"action": action, "changes": changes, "warnings": list(self._warnings), "object": after}
        return blank | found

    async def of_all(self, namespace: str | None) -> list[JSON]:
        """What the next reconcile of every object of a provider's kind would do, in a namespace or in all."""
        objects = await questions.kept_objects(self._client, namespace)
        return await questions.plans_of(self._client, objects, tell=self._tell)

    async def _discover(self) -> None:
        self._kinds = {(kind.api_version, kind.kind): kind for kind in reversed(await self._client.discover())}
        self._reviewed = await questions.reviewed(self._client)


def _marked(obj: JSON) -> JSON:
    meta = obj["metadata"]
    return {**obj, "metadata": {**meta, "annotations": {**(meta.get("annotations") or {}), ASKED_APART: ""}}}


def _defined(obj: JSON, objects: Sequence[JSON]) -> bool:
    group, _, _ = obj["apiVersion"].rpartition("/")
    return any(
        other["kind"] == "CustomResourceDefinition"
        and other.get("spec", {}).get("group") == group
        and other["spec"].get("names", {}).get("kind") == obj["kind"]
        for other in objects
    )


def _secrets(objects: Sequence[JSON], namespace: str) -> dict[str, dict[str, dict[str, str]]]:
    """Data of the Secrets among them, by namespace and name: fields may refer to them."""
    out: dict[str, dict[str, dict[str, str]]] = {}
    for obj in objects:
        if (obj["apiVersion"], obj["kind"]) == ("v1", "Secret"):
            texts = {k: base64.b64encode(str(v).encode()).decode() for k, v in (obj.get("stringData") or {}).items()}
            meta = obj["metadata"]
            of = out.setdefault(meta.get("namespace") or namespace, {})
            of[meta["name"]] = {**(obj.get("data") or {}), **texts}
    return out


def _configs(objects: Sequence[JSON], namespace: str) -> set[tuple[str, str]]:
    return {
        (obj["metadata"].get("namespace") or namespace, obj["metadata"]["name"])
        for obj in objects
        if obj["kind"] == ProviderConfig.resource_type.kind
        and obj["apiVersion"] == ProviderConfig.resource_type.api_version
    }
