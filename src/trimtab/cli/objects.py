"""`trimtab get | apply | delete`: for people without kubectl. The server makes the tables, as it does for kubectl."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click
import msgspec

from trimtab.api import JSON, Ref, ResourceType
from trimtab.cli.files import manifests
from trimtab.cli.kinds import kind_and_name, resolve, resolve_one
from trimtab.cli.output import dump, output_option, table
from trimtab.cli.target import MANAGER, Target
from trimtab.engine.errors import EngineError, NotFound

if TYPE_CHECKING:
    from trimtab.client import WireClient

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
_NAMESPACE = click.option("-n", "--namespace", help="The namespace.  [default: default]")


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="KIND [NAME...]")
@_NAMESPACE
@click.option("-A", "--all-namespaces", is_flag=True, help="Objects of all namespaces.")
@click.option("-l", "--selector", default="", help="Only objects with these labels: app=web,tier!=cache.")
@click.option("-w", "--watch", is_flag=True, help="Go on and show every change.")
@output_option("table", "wide", "json", "yaml", "name")
@click.pass_obj
def get(
    target: Target,
    what: tuple[str, ...],
    namespace: str | None,
    all_namespaces: bool,
    selector: str,
    watch: bool,
    fmt: str,
) -> None:
    """List objects of a kind, or show some by name.

    \b
    trimtab get pods -A
    trimtab get deploy,svc
    trimtab get app/web -o yaml
    """

    async def run() -> None:
        text, names = kind_and_name(what)
        where = None if all_namespaces else namespace or target.default_namespace()
        async with target.client() as client:
            kinds = await resolve(client, text)
            if names and len(kinds) > 1:
                raise EngineError("names need one kind: write KIND/NAME")
            if fmt in ("table", "wide"):
                shown = 0
                for kind in kinds:
                    shown += await _print_table(
                        client, kind, where, names, selector, wide=fmt == "wide", titled=len(kinds) > 1
                    )
                if not shown and not watch:
                    click.echo(_nothing(kinds, where), err=True)
            else:
                objects = [obj for kind in kinds for obj in await _objects(client, kind, where, names, selector)]
                _print_objects(objects, fmt, single=bool(names) and len(names) == 1)
            if watch:
                await _watch(client, kinds, where, names, selector, fmt)

    asyncio.run(run())


def _nothing(kinds: list[ResourceType], namespace: str | None) -> str:
    what = ", ".join(kind.plural for kind in kinds)
    inside = f" in namespace {namespace}" if namespace and any(kind.namespaced for kind in kinds) else ""
    return f"there are no {what}{inside}"


async def _objects(
    client: WireClient, kind: ResourceType, namespace: str | None, names: list[str], selector: str
) -> list[JSON]:
    if not names:
        items: list[JSON] = (await client.list(kind, namespace, labels=selector))["items"]
        return items
    found = []
    for name in names:
        obj = await client.get(kind, name, namespace)
        if obj is None:
            raise NotFound(
                f"there is no {Ref(kind.api_version, kind.kind, namespace if kind.namespaced else None, name)}"
            )
        found.append(obj)
    return found


def _print_objects(objects: list[JSON], fmt: str, *, single: bool) -> None:
    if fmt == "name":
        for obj in objects:
            click.echo(f"{obj['kind'].lower()}/{obj['metadata']['name']}")
    else:
        for obj in objects:
            obj["metadata"].pop("managedFields", None)
        dump(objects[0] if single else {"apiVersion": "v1", "kind": "List", "items": objects}, fmt)


async def _print_table(
    client: WireClient,
    kind: ResourceType,
    namespace: str | None,
    names: list[str],
    selector: str,
    *,
    wide: bool,
    titled: bool,
) -> int:
    """Prints the server's table of a kind; returns the number of rows."""
    tables = []
    if names:
        for name in names:
            tables.append(await client.read(kind.path(namespace, name), accept=TABLE))
    else:
        tables.append(
            await client.read(kind.path(namespace), {"labelSelector": selector} if selector else {}, accept=TABLE)
        )
    columns = [c for c in tables[0]["columnDefinitions"] if wide or not c.get("priority")]
    indexes = [tables[0]["columnDefinitions"].index(c) for c in columns]
    headers = [c["name"] for c in columns]
    everywhere = kind.namespaced and namespace is None
    rows = []
    for answer in tables:
        for row in answer.get("rows") or ():
            cells: list[Any] = [row["cells"][i] for i in indexes]
            if everywhere:
                cells.insert(0, row.get("object", {}).get("metadata", {}).get("namespace", ""))
            if titled:
                cells[-len(indexes)] = f"{kind.kind.lower()}/{cells[-len(indexes)]}"
            rows.append(cells)
    if rows:
        table(["namespace", *headers] if everywhere else headers, rows)
        if titled:
            click.echo()
    return len(rows)


async def _watch(
    client: WireClient, kinds: list[ResourceType], namespace: str | None, names: list[str], selector: str, fmt: str
) -> None:
    """Prints one line (or document) for every change until interrupted."""
    if len(kinds) != 1:
        raise EngineError("--watch follows one kind: give one")
    kind = kinds[0]
    version = (await client.read(kind.path(namespace), {"limit": "1"}))["metadata"]["resourceVersion"]
    async with aclosing(client.watch(kind, namespace, labels=selector, resource_version=version)) as events:
        async for event in events:
            obj: JSON = msgspec.json.decode(event.object)
            if event.type == "BOOKMARK" or (names and obj["metadata"]["name"] not in names):
                continue
            if fmt in ("json", "yaml"):
                _print_objects([obj], fmt, single=True)
            else:
                state = obj.get("status", {}).get("phase") or ""
                click.echo(f"{event.type.lower():<9} {Ref.of_wire(obj)} {state}".rstrip())


@click.command()
@click.option(
    "-f",
    "--filename",
    "paths",
    multiple=True,
    required=True,
    metavar="FILE",
    help="A file, a directory, or - for standard input; may be repeated.",
)
@_NAMESPACE
@click.option("--dry-run", is_flag=True, help="Let the server check everything, and change nothing.")
@click.option("--force-conflicts", is_flag=True, help="Take over fields that another manager set.")
@click.pass_obj
def apply(target: Target, paths: tuple[str, ...], namespace: str | None, dry_run: bool, force_conflicts: bool) -> None:
    """Create or change objects from files (server-side apply)."""

    async def run() -> None:
        objects = manifests(paths)
        default = namespace or target.default_namespace()
        failed = 0
        async with target.client() as client:
            for where, obj in objects:
                try:
                    click.echo(await _apply_one(client, obj, default, dry_run=dry_run, force=force_conflicts))
                except Exception as err:
                    from trimtab.cli.failures import explain

                    told = explain(err)
                    if told is None or told[1] == 3:
                        raise
                    failed += 1
                    click.echo(f"trimtab: {where}: {told[0]}", err=True)
        if failed:
            raise click.exceptions.Exit(1)

    asyncio.run(run())


async def _apply_one(client: WireClient, obj: JSON, namespace: str, *, dry_run: bool, force: bool) -> str:
    kind = await _kind_of(client, obj)
    meta = obj["metadata"]
    if kind.namespaced:
        meta.setdefault("namespace", namespace)
    else:
        meta.pop("namespace", None)
    before = await client.get(kind, meta["name"], meta.get("namespace"))
    after = await client.apply(kind, obj, manager=MANAGER, force=force, dry_run=dry_run)
    if before is None:
        outcome = "created"
    elif _essence(before) == _essence(after):
        outcome = "unchanged"
    else:
        outcome = "changed"
    return f"{Ref.of_wire(obj)} {outcome}" + (" (dry run)" if dry_run else "")


def _essence(obj: JSON) -> JSON:
    """An object without what the server counts and notes about it."""
    noted = ("managedFields", "resourceVersion", "generation")
    return {**obj, "metadata": {key: value for key, value in obj["metadata"].items() if key not in noted}}


async def _kind_of(client: WireClient, obj: JSON) -> ResourceType:
    """The kind that a manifest names, by its exact apiVersion."""
    from trimtab.api import kind_of

    known = kind_of(obj["apiVersion"], obj["kind"])
    if known is not None and known.resource_type.builtin:
        return known.resource_type
    everything = await client.discover()
    for kind in everything:
        if (kind.api_version, kind.kind) == (obj["apiVersion"], obj["kind"]):
            return kind
    same = sorted({kind.api_version for kind in everything if kind.kind == obj["kind"]})
    hint = f": it is in {', '.join(same)}" if same else ": is its CRD installed?"
    raise EngineError(f"the server has no kind {obj['kind']} in {obj['apiVersion']}{hint}")


@click.command()
@click.argument("what", nargs=-1, metavar="KIND NAME...")
@click.option("-f", "--filename", "paths", multiple=True, metavar="FILE", help="Delete what these files declare.")
@_NAMESPACE
@click.option("-l", "--selector", default="", help="All objects of the kind with these labels.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return once they are gone.")
@click.option("--grace-period", type=click.IntRange(0), help="Seconds that a pod has to end.")
@click.pass_obj
def delete(
    target: Target,
    what: tuple[str, ...],
    paths: tuple[str, ...],
    namespace: str | None,
    selector: str,
    wait: bool,
    grace_period: int | None,
) -> None:
    """Delete objects by name, by labels, or what files declare.

    \b
    trimtab delete pod web-0
    trimtab delete deploy/web svc/web
    trimtab delete -f shop.yaml
    """
    if bool(what) == bool(paths):
        raise click.UsageError("give either KIND NAME... or -f FILE")

    async def run() -> None:
        default = namespace or target.default_namespace()
        async with target.client() as client:
            doomed: list[tuple[ResourceType, str, str | None]] = []
            if paths:
                for _, obj in reversed(manifests(paths)):
                    kind = await _kind_of(client, obj)
                    meta = obj["metadata"]
                    doomed.append((kind, meta["name"], meta.get("namespace", default) if kind.namespaced else None))
            elif all("/" in word for word in what):
                for word in what:
                    text, _, name = word.partition("/")
                    kind = await resolve_one(client, text)
                    doomed.append((kind, name, default if kind.namespaced else None))
            else:
                text, names = kind_and_name(what)
                kind = await resolve_one(client, text)
                if not names:
                    if not selector:
                        raise EngineError(
                            f"name what to delete: `trimtab delete {text} NAME`, or choose by labels with -l"
                        )
                    listed = await client.list(kind, default, labels=selector)
                    names = [obj["metadata"]["name"] for obj in listed["items"]]
                doomed += [(kind, name, default if kind.namespaced else None) for name in names]
            await _delete_all(client, doomed, wait=wait, grace_period_s=grace_period)

    asyncio.run(run())


async def _delete_all(
    client: WireClient, doomed: list[tuple[ResourceType, str, str | None]], *, wait: bool, grace_period_s: int | None
) -> None:
    from trimtab.client import NotFound as Missing

    missing = 0
    going = []
    for kind, name, namespace in doomed:
        ref = Ref(kind.api_version, kind.kind, namespace, name)
        try:
            await client.delete(kind, name, namespace, grace_period_s=grace_period_s, propagation="Background")
        except Missing:
            missing += 1
            click.echo(f"trimtab: there is no {ref}", err=True)
            continue
        click.echo(f"{ref} deleted")
        going.append((kind, name, namespace))
    if wait:
        for kind, name, namespace in going:
            await _until_gone(client, kind, name, namespace)
    if missing:
        raise click.exceptions.Exit(4)


async def _until_gone(client: WireClient, kind: ResourceType, name: str, namespace: str | None) -> None:
    while (obj := await client.get(kind, name, namespace)) is not None:
        version = obj["metadata"]["resourceVersion"]
        async with aclosing(
            client.watch(kind, namespace, name=name, resource_version=version, timeout_s=300)
        ) as events:
            async for event in events:
                if event.type == "DELETED":
                    return
