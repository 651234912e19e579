"""What the pages of infrastructure show can be typed: its commands parse, its objects have fields that there are, its function runs."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
import yaml

from trimtab.api import from_wire
from trimtab.cli.root import root
from trimtab.components.infrastructure.kinds import Managed, ManagedSpec, Provider, ProviderConfig
from trimtab.components.infrastructure.remote import ClusterManifests

DOCS = Path(__file__).parents[3] / "docs"
TEXT = "\n".join((DOCS / f"{page}.md").read_text() for page in ("infrastructure", "compositions", "cluster-manifests"))
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)
OWN = {kind.resource_type.kind: kind for kind in (Provider, ProviderConfig, ClusterManifests)}


def commands() -> Iterator[str]:
    """Every line or backticked text that begins with `trimtab`, without what comes after a pipe, `>` or `#`."""
    page = re.sub(r"```\w*\n.*?```", "", TEXT, flags=re.DOTALL)
    lines = [line.strip() for line in page.splitlines() if line.startswith("    trimtab ")]
    lines += re.findall(r"`(trimtab [a-z][^`]*)`", page.replace("\\|", "|"))
    for line in lines:
        yield re.split(r"\s+[#|>]\s*|\s+or\s+", f"{line} ")[0].strip()


def typed(line: str) -> list[str]:
    """What a shell makes of it; places to fill in are filled in, what may be left out is."""
    return [word for word in shlex.split(re.sub(r"\[[^\]]*\]", "", line).replace("...", "")) if word]


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_a_command_parses(line: str) -> None:
    arguments, command, context = typed(line)[1:], root, click.Context(root, info_name="trimtab")
    while isinstance(command, click.Group) and arguments:
        found = command.get_command(context, arguments[0])
        assert found is not None, f"{line}: there is no command {arguments[0]}"
        command, arguments = found, arguments[1:]  # type: ignore[assignment]
        context = click.Context(command, parent=context, info_name=command.name)
    if isinstance(command, click.Group):
        return
    known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"-h", "--help"}
    strange = [
        word for word in arguments if word.startswith("-") and word != "-" and word.partition("=")[0] not in known
    ]
    assert not strange, f"{line}: {command.name} has no {strange}"
    places = sum(1 for one in command.params if isinstance(one, click.Argument) and one.nargs != -1)
    takes_more = any(isinstance(one, click.Argument) and one.nargs == -1 for one in command.params)
    valued = {
        option for one in command.params if isinstance(one, click.Option) and not one.is_flag for option in one.opts
    }
    given = [
        w
        for before, w in zip(["", *arguments], arguments, strict=False)
        if not w.startswith("-") and before not in valued
    ]
    assert takes_more or len(given) <= places, f"{line}: {command.name} takes {places}, not {given}"


def objects() -> list[Any]:
    found = []
    for language, text in BLOCKS:
        if language == "yaml":
            found += [one for one in yaml.safe_load_all(text) if one]
    return found


@pytest.mark.parametrize("shown", objects(), ids=lambda one: str(one.get("kind", "part")))
def test_an_object_has_fields_that_there_are(shown: dict[str, Any]) -> None:
    kind = shown.get("kind", "")
    if kind in OWN:
        from_wire(OWN[kind], shown)
        known = msgspec.json.schema(OWN[kind])["$defs"]
        assert set(shown["spec"]) <= set(known[f"{kind}Spec"]["properties"])
        return
    if kind == "Secret":
        assert shown["stringData"]
        return
    spec = shown.get("spec", shown)
    fields = msgspec.json.schema(ManagedSpec)["$defs"]["ManagedSpec"]["properties"]
    assert set(spec) <= set(fields), f"{set(spec) - set(fields)} are no fields of {Managed.__name__}"
    msgspec.convert(spec, ManagedSpec)


def test_its_functions_are_python() -> None:
    sources = [text for language, text in BLOCKS if language == "python"]
    assert sources
    for source in sources:
        assert "compose" in {one.name for one in ast.parse(source).body if isinstance(one, ast.FunctionDef)}
