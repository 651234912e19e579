"""`trimtab composition`: from a Python file to a CompositeDefinition, tried out here; packages of compositions on this machine.

render FILE: what to apply. grant NAME: what a definition lacks that is there. test FILE --xr xr.yaml: what it would make. install, list,
remove: packages.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml
from msgspec import convert

from trimtab.api import JSON, from_wire, to_wire
from trimtab.api.resource import InvalidObject
from trimtab.client import WireClient
from trimtab.client.errors import NotFound
from trimtab.components.infrastructure.commands.commanding import (
    OUTPUT,
    STATE,
    Chosen,
    Target,
    choose_state,
    dump,
    finished,
    runs_here,
    with_api,
)
from trimtab.components.infrastructure.composition import grants
from trimtab.components.infrastructure.composition.kinds import ComposedKind, CompositeDefinition, plural_of
from trimtab.components.infrastructure.composition.output import BadOutput, NotNamed, Wanted, checked, refuse_unnamed
from trimtab.components.infrastructure.composition.packages import NotInstalled, Shelf
from trimtab.components.infrastructure.composition.sandbox import Functions
from trimtab.components.infrastructure.composition.terms import Failed, Function
from trimtab.components.infrastructure.schemas.naming import plural
from trimtab.runtime.commands import Refused

T = TypeVar("T")
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
WITHIN_S = 5.0


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@STATE
@click.pass_obj
def composition(target: Chosen, state: Path | None) -> None:
    """APIs of your own, each from one Python function.

    \b
    trimtab composition render lab.py | kubectl apply -f -      publishes the API that lab.py describes
    trimtab composition grant labs.acme.example                 what a definition that is there lacks, to be applied
    trimtab composition test lab.py --xr lab.yaml               what it would make of a claim, here and now
    trimtab composition install acme-platform==1.2.0            a function that comes as a package
    """
    choose_state(target, state)


@composition.command()
@click.argument("file", type=FILE, required=False)
@click.option("--package", default="", metavar="NAME==VERSION", help="Of an installed package, instead of a file.")
@click.option("--function", "entry", default="source:compose", metavar="MODULE:FUNCTION", help="Within the package.")
@click.pass_obj
def render(target: Target, file: Path | None, package: str, entry: str) -> None:
    """Print the CompositeDefinition that FILE, or a package's function, describes, and the roles that go with it.

    It is for an administrator to apply: with the roles the controllers may publish this one API, and make what its claims are composed of.
    """
    function = _function(target, file, package, entry)
    said = _run(_with(lambda running: running.describe(function)))
    many = said["plural"] or plural(said["kind"])
    names: JSON = {"kind": said["kind"]}
    names |= {"plural": said["plural"]} if said["plural"] else {}
    names |= {"shortNames": said["shortNames"]} if said["shortNames"] else {}
    compose: JSON = {"source": _Text(function.source)} if file is not None else {"package": package, "function": entry}
    spec: JSON = {"group": said["group"], "names": names, "version": said["version"], "fields": said["fields"]}
    spec |= {key: said[key] for key in ("status", "connection") if said[key]}
    _print(_definition(f"{many}.{said['group']}", spec | {"composes": said["composes"], "compose": compose}))


def _definition(name: str, spec: JSON) -> JSON:
    place = CompositeDefinition.resource_type
    return {"apiVersion": place.api_version, "kind": place.kind, "metadata": {"name": name}, "spec": spec}


def _print(made: JSON, *, roles_alone: bool = False) -> None:
    """The roles of a definition, then the definition. Raises `Refused`."""
    try:
        found = from_wire(CompositeDefinition, made)
    except InvalidObject as err:
        raise Refused(f"{made['metadata']['name']}: {err.problem}") from None
    documents = [*map(to_wire, grants.roles(found)), *([] if roles_alone else [made])]
    click.echo(yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120), nl=False)


@composition.command()
@click.argument("name")
@click.pass_obj
def grant(target: Target, name: str) -> None:
    """Print the roles that the definition NAME, which is in the API, needs: for an administrator to apply.

    One that names no kinds of what its claims are composed of is printed with them: those that its function says, and those of the
    claims that there are.
    """
    found, used = finished(with_api(target, lambda wire: _granted(wire, name)))
    spec = found["spec"]
    if spec.get("composes"):
        _print(found, roles_alone=True)
        return
    source, package = spec["compose"].get("source", ""), spec["compose"].get("package", "")
    if source or package:
        try:
            function = (
                Function(name=name, source=source, timeout_s=WITHIN_S)
                if source
                else _function(target, None, package, spec["compose"]["function"])
            )
            said = _run(_with(lambda running: running.describe(function)))
            used |= {(one["apiVersion"], one["kind"]): one.get("plural", "") for one in said["composes"]}
        except Refused:
            pass  # a definition that was written by hand: its function says no API
    composes = [
        {"apiVersion": version, "kind": kind} | ({"plural": plural} if plural else {})
        for (version, kind), plural in sorted(used.items())
    ]
    if source:
        spec["compose"]["source"] = _Text(source)
    _print(_definition(name, spec | {"composes": composes}))


async def _granted(wire: WireClient, name: str) -> tuple[JSON, dict[tuple[str, str], str]]:
    """A definition, and the kinds of what its claims are composed of now: (apiVersion, kind) -> nothing, or an irregular plural."""
    place = CompositeDefinition.resource_type
    made = await wire.get(place, name)
    if made is None:
        raise Refused(f"there is no CompositeDefinition {name}: trimtab get compositedefinitions lists them")
    spec = made["spec"]
    try:
        group = f"/apis/{spec['group']}/{spec.get('version', 'v1alpha1')}"
        claims = (await wire.read(f"{group}/{name.partition('.')[0]}"))["items"]
    except NotFound:
        claims = []
    used: dict[tuple[str, str], str] = {}
    for row in (row for claim in claims for row in (claim.get("status") or {}).get("resources") or ()):
        used[row["apiVersion"], row["kind"]] = ""
    for version, kind in used:
        served = (await wire.read(f"/apis/{version}" if "/" in version else f"/api/{version}"))["resources"]
        regular = plural_of(ComposedKind(version, kind))
        called = next((one["name"] for one in served if one["kind"] == kind and "/" not in one["name"]), regular)
        used[version, kind] = "" if called == regular else called
    return _definition(name, spec), used


@composition.command()
@click.argument("file", type=FILE, required=False)
@click.option("--xr", "claim", type=FILE, required=True, help="A claim, as it would be applied.")
@click.option("--observed", type=FILE, help="What there is by then: name -> {ready, message, status}.")
@click.option("--package", default="", metavar="NAME==VERSION", help="Of an installed package, instead of a file.")
@click.option("--function", "entry", default="source:compose", metavar="MODULE:FUNCTION", help="Within the package.")
@click.option("-o", "output", type=click.Choice(["yaml", "json"]), default="yaml")
@click.pass_obj
def test(
    target: Target, file: Path | None, claim: Path, observed: Path | None, package: str, entry: str, output: str
) -> None:
    """Print what FILE, or a package's function, makes of a claim: shut in as in an engine, but nothing is applied."""
    function = _function(target, file, package, entry)
    given = _read(claim)
    meta = given.get("metadata") or {}
    xr: JSON = {
        "name": str(meta.get("name") or "claim"),
        "namespace": str(meta.get("namespace") or "default"),
        "uid": "",
        "labels": meta.get("labels") or {},
        "annotations": meta.get("annotations") or {},
        "spec": given.get("spec") or {},
    }
    there = {name: _child(name, one) for name, one in (_read(observed) if observed is not None else {}).items()}

    async def work(running: Functions) -> tuple[Any, list[JSON] | None]:
        returned = await running.compose(function, xr, there)
        try:
            return returned, (await running.describe(function))["composes"]
        except Failed:  # it says no API: its definition was written by hand
            return returned, None

    returned, composes = _run(_with(work))
    try:
        wanted = checked(returned, xr["name"], xr["namespace"])
        if composes is not None:
            refuse_unnamed(wanted, [convert(one, ComposedKind) for one in composes])
    except (BadOutput, NotNamed) as err:
        raise Refused(str(err)) from None
    objects = _objects(wanted)
    if output == "json":
        click.echo(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    else:
        click.echo(yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, allow_unicode=True), nl=False)
    if wanted.status:
        click.echo(f"status: {json.dumps(wanted.status)}", err=True)
    if wanted.waiting:
        click.echo(f"waiting: {wanted.waiting}", err=True)


@composition.command()
@click.argument("requirement", required=False, default="")
@click.option(
    "--path", type=click.Path(path_type=Path, exists=True), help="A wheel, a directory of wheels, or a project."
)
@click.option("--lock", type=FILE, help="Requirements with hashes, instead of those that pip finds now.")
@click.pass_obj
def install(target: Target, requirement: str, path: Path | None, lock: Path | None) -> None:
    """Install a package, NAME==VERSION, with what it needs in a directory of its own."""
    from trimtab.components.infrastructure.composition.installing import InstallFailed
    from trimtab.components.infrastructure.composition.installing import install as installed

    if not requirement and path is None:
        raise Refused("name a package, as acme-platform==1.2.0, or give --path")
    try:
        name, count = installed(_shelf(target), requirement, path=path, lock=lock)
    except (InstallFailed, NotInstalled, OSError) as err:
        raise Refused(str(err)) from None
    click.echo(f"{name}: installed, {count} {'package' if count == 1 else 'packages'}")


@composition.command("list")
@OUTPUT
@click.pass_obj
def list_(target: Target, output: str) -> None:
    """Packages on this machine."""
    found = _shelf(target).installed()
    if output != "text":
        dump(found, output)
    else:
        click.echo("\n".join(found) or "no package is installed: trimtab composition install NAME==VERSION")


@composition.command()
@click.argument("requirement")
@click.pass_obj
def remove(target: Target, requirement: str) -> None:
    """Remove a package. Definitions that name it say so from then on; what there is stays."""
    try:
        _shelf(target).remove(requirement)
    except NotInstalled as err:
        raise Refused(str(err)) from None
    click.echo(f"{requirement}: removed")


def _shelf(target: Target) -> Shelf:
    if not target.is_embedded:
        finished(with_api(target, lambda wire: runs_here(target, wire)))
    return Shelf(target.runner().data_path("compositions"))


def _function(target: Target, file: Path | None, package: str, entry: str) -> Function:
    if (file is None) == (not package):
        raise Refused("give either FILE or --package")
    if file is not None:
        return Function(name=file.name, source=file.read_text(), timeout_s=WITHIN_S)
    try:
        return Function(name=package, package=_shelf(target).place(package), entry=entry, timeout_s=WITHIN_S)
    except NotInstalled as err:
        raise Refused(str(err)) from None


def _read(path: Path) -> JSON:
    try:
        found = yaml.safe_load(path.read_text())
    except yaml.YAMLError as err:
        raise Refused(f"{path.name}: {' '.join(str(err).split())}") from None
    if not isinstance(found, dict):
        raise Refused(f"{path.name}: it is no object")
    return found


def _child(name: str, one: Any) -> JSON:
    if not isinstance(one, dict) or (strange := one.keys() - {"ready", "message", "status", "kind"}):
        known = "ready, message, kind, status"
        raise Refused(
            f"--observed: {name}: {'it is no map' if not isinstance(one, dict) else min(strange)}; there are {known}"
        )
    return {"ready": bool(one.get("ready")), "message": "", "kind": "", "status": {}} | one


def _objects(wanted: Wanted) -> list[JSON]:
    return [{"apiVersion": one.api_version, "kind": one.kind, **_first(one.object)} for one in wanted.parts]


def _first(found: JSON) -> JSON:
    return {"metadata": found["metadata"], **found}


async def _with(work: Any) -> Any:
    running = Functions()
    try:
        return await work(running)
    finally:
        await running.close()


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except Failed as err:
        raise Refused(str(err)) from None


class _Text(str):
    """A text of several lines, as it is."""


class _Dumper(yaml.SafeDumper):
    """YAML that a person reads: no anchors, texts of several lines as such."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _as_it_is(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", "\n".join(line.rstrip() for line in str(text).split("\n")), style="|"
    )


_Dumper.add_representer(_Text, _as_it_is)
