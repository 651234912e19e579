"""`trimtab provider import`: what exists at a provider's, as a manifest, or taken over at once."""

from __future__ import annotations

import click
import msgspec

from trimtab.api import JSON
from trimtab.client import ApiError, WireClient
from trimtab.components.infrastructure.commands.commanding import Target, dump, finished, known, with_api
from trimtab.components.infrastructure.kinds import ProviderConfig
from trimtab.components.infrastructure.questions.outside import refusal, told
from trimtab.components.infrastructure.schemas import naming
from trimtab.runtime.commands import Refused

APPLIES_AS = "trimtab-cli"
"""The field manager of `trimtab apply`: what was imported is changed by applying its manifest."""


@click.command("import", short_help="What exists, as a manifest.")
@click.argument("provider")
@click.argument("resource")
@click.argument("id", required=False, default="")
@click.option("--name", default="", help="Name of the object.  [default: the resource's own]")
@click.option("-n", "--namespace", default="default", show_default=True, help="Namespace of the object.")
@click.option("--config", default="default", show_default=True, help="ProviderConfig, whose credential sees it.")
@click.option(
    "-o", "--output", "output", type=click.Choice(["yaml", "json", "apply"]), default="yaml", show_default=True
)
@click.pass_obj
def import_(
    target: Target, provider: str, resource: str, id: str, name: str, namespace: str, config: str, output: str
) -> None:
    """Write the manifest of what exists: RESOURCE with ID at PROVIDER. Without ID: list what there is.

    With -o apply the object is made at once; it takes over what exists, and changes nothing of it.

    \b
    trimtab provider import hcloud hcloud_server
    trimtab provider import hcloud hcloud_server 4711 > web.yaml
    trimtab provider import hcloud hcloud_server 4711 -o apply -n shop
    """

    async def work(wire: WireClient) -> JSON:
        made, schema = await known(target, wire, provider)
        if resource not in schema.resources:
            raise Refused(f"{provider} has no resource {resource}: trimtab provider kinds {provider} lists what it has")
        if output == "apply" and resource not in made.spec.kinds:
            raise Refused(f"{resource} is not enabled: trimtab provider enable {provider} {resource}")
        found = await _asked(wire, namespace, config, {"resource": resource, "id": id, "name": name})
        if output == "apply" and found["manifest"] is not None:
            await _apply(wire, found["manifest"])
        return found

    found = finished(with_api(target, work))
    for note in found["notes"]:
        click.echo(f"note: {note}", err=True)
    if found["manifest"] is None:
        if output == "json":
            dump([{"id": one, "words": words} for one, words in found["there"]], output)
            return
        for one, words in found["there"]:
            click.echo(f"{one}  {words}".rstrip())
    elif output == "apply":
        manifest = found["manifest"]
        click.echo(f"{manifest['kind']} {namespace}/{manifest['metadata']['name']} takes over {resource} {id}")
    else:
        dump(found["manifest"], output)


async def _asked(wire: WireClient, namespace: str, config: str, question: JSON) -> JSON:
    try:
        found: JSON = await told(wire, ProviderConfig, namespace, config, "import", question)
    except ApiError as err:
        raise Refused(refusal(err, namespace, config)) from None
    return found


async def _apply(wire: WireClient, manifest: JSON) -> None:
    group, meta = manifest["apiVersion"], manifest["metadata"]
    path = f"/apis/{group}/namespaces/{meta['namespace']}/{naming.plural(manifest['kind'])}/{meta['name']}"
    query = {"fieldManager": APPLIES_AS}
    await wire.send("PATCH", path, query, msgspec.json.encode(manifest), "application/apply-patch+yaml")
