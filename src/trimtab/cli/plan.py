"""`trimtab plan`: what would change, before it does.

files --dry-run apply--> each object as it would be --differences--> plans of ordinary objects
                                    '--providers' kinds, in order of references--> ProviderConfig/plan: what their providers say
no files: every object of a provider's kind --> what its next reconcile would do
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from trimtab.api import JSON, ResourceType
from trimtab.cli.differences import differences, given
from trimtab.cli.files import manifests
from trimtab.cli.output import dump
from trimtab.cli.target import MANAGER, Target
from trimtab.components.infrastructure import planning
from trimtab.components.infrastructure.kinds import ProviderConfig
from trimtab.components.infrastructure.ordering import Circle, is_managed, key_of, place_of, waves

if TYPE_CHECKING:
    from trimtab.client import WireClient

AGENT = "trimtab-plan"
"""The API's judges know it: a plan is asked for apart, a dry run need not answer one."""
AT_ONCE = 20
"""Objects of one question: a credential's reads are rationed, and a question must be answered within a minute."""
FIRST = ("Namespace", "CustomResourceDefinition")
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@click.command()
@click.option(
    "-f", "--filename", "paths", multiple=True, metavar="FILE", help="Files, directories, or - for standard input."
)
@click.option("-n", "--namespace", help="The namespace.  [default: default]")
@click.option("-A", "--all-namespaces", is_flag=True, help="Without files: objects of all namespaces.")
@click.option("-o", "output", type=click.Choice(["text", "json"]), default="text")
@click.pass_obj
def plan(target: Target, paths: tuple[str, ...], namespace: str | None, all_namespaces: bool, output: str) -> None:
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
    if output == "json":
        dump(planning.document(plans), "json")
    else:
        click.echo(planning.text(plans))
    raise click.exceptions.Exit(planning.exit_code(plans))


class Planner:
    """Plans by one API. warnings: where its client puts the API's."""

    def __init__(self, client: WireClient, warnings: list[str]) -> None:
        self._client = client
        self._warnings = warnings
        self._kinds: dict[tuple[str, str], ResourceType] = {}

    # Files

    async def of_files(self, objects: Sequence[JSON], namespace: str) -> list[JSON]:
        """What applying these would do, in the order of what would be done."""
        ordered = sorted(objects, key=lambda obj: FIRST.index(obj["kind"]) if obj["kind"] in FIRST else len(FIRST))
        to_come = {obj["metadata"]["name"] for obj in objects if obj["kind"] == "Namespace"}
        await self._discover()
        plans, managed = [], []
        for obj in ordered:
            one = await self._ordinary(obj, namespace, objects, to_come)
            if is_managed(obj) and one.get("action"):
                managed.append((one.pop("object"), one))
            else:
                one.pop("object", None)
                plans.append(one)
        secrets = _secrets(ordered, namespace)
        told = await self._managed([obj for obj, _ in managed], secrets, _configs(objects, namespace))
        return plans + told

    async def _ordinary(self, obj: JSON, namespace: str, objects: Sequence[JSON], to_come: set[str]) -> JSON:
        """The plan of one object by itself; `object` is what it would be."""
        from trimtab.client import ApiError

        kind = self._kinds.get((obj["apiVersion"], obj["kind"]))
        meta = obj["metadata"]
        blank: JSON = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "name": meta["name"], "namespace": ""}
        if kind is None:
            if _defined(obj, objects):
                return _made(blank, obj, "its kind is defined together with it: nobody has checked it yet")
            text = f"the server has no kind {obj['kind']} in {obj['apiVersion']}: is its CRD installed?"
            return blank | {"action": "", "error": text}
        if kind.namespaced:
            blank["namespace"] = meta.setdefault("namespace", namespace)
        else:
            meta.pop("namespace", None)
        before = await self._client.get(kind, meta["name"], meta.get("namespace"))
        self._warnings.clear()
        try:
            after = await self._client.apply(kind, obj, manager=MANAGER, force=True, dry_run=True)
        except ApiError as err:
            if err.status == 404 and before is None and meta.get("namespace") in to_come:
                return _made(blank, obj, "its namespace is made together with it: nobody has checked it yet")
            return blank | {"action": "", "error": str(err)}
        changes = given(obj) if before is None else differences(before, after)
        action = "create" if before is None else "update" if changes else "none"
        found = {"action": action, "changes": changes, "warnings": list(self._warnings), "object": after}
        return blank | found

    # Objects of providers' kinds

    async def of_all(self, namespace: str | None) -> list[JSON]:
        """What the next reconcile of every object of a namespace, or of all, would do."""
        found = await self._client.read(_CRDS, {"labelSelector": "trimtab.dev/provider"})
        objects: list[JSON] = []
        for one in found.get("items") or []:
            spec = one["spec"]
            version, names = spec["versions"][0]["name"], spec["names"]
            kind = ResourceType(f"{spec['group']}/{version}", names["kind"], names["plural"], namespaced=True)
            objects += (await self._client.list(kind, namespace))["items"]
        return await self._managed(objects, {}, set())

    async def _managed(
        self, objects: Sequence[JSON], secrets: dict[str, dict[str, dict[str, str]]], to_come: set[tuple[str, str]]
    ) -> list[JSON]:
        """secrets: by namespace and name. to_come: ProviderConfigs that are made together with them."""
        try:
            ordered = waves(objects)
        except Circle as err:
            return [_blank(obj) | {"action": "", "error": str(err)} for obj in objects]
        foreseen: dict[str, dict[str, JSON]] = {}
        plans = []
        for wave in ordered:
            for (namespace, config), group in _grouped(wave).items():
                known = foreseen.setdefault(namespace, {})
                for start in range(0, len(group), AT_ONCE):
                    asked = group[start : start + AT_ONCE]
                    question = {"objects": asked, "foreseen": known, "secrets": secrets.get(namespace, {})}
                    told = await self._ask(namespace, config, question, (namespace, config) in to_come)
                    for one in told:
                        key = key_of(one["apiVersion"], one["kind"], one["name"])
                        known[key] = one.pop("outputs", {})
                    plans += told
        return plans

    async def _ask(self, namespace: str, config: str, question: JSON, to_come: bool) -> list[JSON]:
        from trimtab.client import ApiError

        path = ProviderConfig.resource_type.path(namespace, config, "plan")
        try:
            answer = await self._client.send("POST", path, {}, msgspec.json.encode(question))
        except ApiError as err:
            if err.status == 404 and to_come:
                why = f"ProviderConfig {config} is made together with it: its provider can be asked then"
                return [_made(_blank(obj), obj, why) for obj in question["objects"]]
            text = str(err)
            if err.status == 404:
                text = f"there is no ProviderConfig {config} in namespace {namespace}"
            elif err.status == 503:
                text = "the engine's controllers do not answer: trimtab status"
            return [_blank(obj) | {"action": "", "error": text} for obj in question["objects"]]
        plans: list[JSON] = msgspec.json.decode(answer.body)["plans"]
        return plans

    async def _discover(self) -> None:
        self._kinds = {(kind.api_version, kind.kind): kind for kind in reversed(await self._client.discover())}


def _blank(obj: JSON) -> JSON:
    meta = obj["metadata"]
    return {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "name": meta["name"],
        "namespace": meta.get("namespace", ""),
    }


def _made(blank: JSON, obj: JSON, why: str) -> JSON:
    return blank | {"action": "create", "changes": given(obj), "reason": "Unchecked", "message": why}


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


def _grouped(wave: Sequence[JSON]) -> dict[tuple[str, str], list[JSON]]:
    """By namespace and ProviderConfig."""
    out: dict[tuple[str, str], list[JSON]] = {}
    for obj in wave:
        config = ((obj.get("spec") or {}).get("providerRef") or {}).get("name", "default")
        out.setdefault((place_of(obj)[0], config), []).append(obj)
    return out
