"""What Terraform's own command says of the cases of `plan_cases.py`, and what we say, in the same words.

cases --main.tf.json, terraform.tfstate--> terraform plan --> Answer of each          cases --Keeper.look--> Answer of each
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from msgspec import Struct

from plan_cases import Case
from trimtab.components.infrastructure.loop.keeping import Keeper
from trimtab.components.infrastructure.loop.kept import Kept
from trimtab.components.infrastructure.protocol.provider import Applied, Diagnostic, Planned, Provider, State
from trimtab.components.infrastructure.protocol.schema import Block, ProviderSchema
from trimtab.components.infrastructure.protocol.types import Type
from trimtab.components.infrastructure.protocol.values import UNKNOWN, Dynamic, Value, encode_json, known
from trimtab.components.infrastructure.schemas.changes import bare

UNKNOWN_MARK = "(known after apply)"
SOURCE = "oracle/{name}"


class Answer(Struct, frozen=True, omit_defaults=True):
    """action; changed: bare paths whose value changes; replace: those for which it is made anew; after: a hash of the planned value."""

    action: str
    changed: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    after: str = ""


# Terraform's


def ask_terraform(
    terraform: str,
    folder: Path,
    name: str,
    program: Path,
    schema: ProviderSchema,
    config: dict[str, Any],
    cases: list[Case],
) -> dict[str, Answer]:
    """One `terraform plan` of all cases: prior states are taken as they are now, since nothing is refreshed. Raises `RuntimeError`."""
    _write(folder, name, program, schema, config, cases)
    environment = {
        **os.environ,
        "TF_CLI_CONFIG_FILE": str(folder / "cli.tfrc"),
        "CHECKPOINT_DISABLE": "1",
        "TF_IN_AUTOMATION": "1",
    }
    made = _run(
        [terraform, "plan", "-refresh=false", "-input=false", "-lock=false", "-no-color", "-out=plan"],
        folder,
        environment,
    )
    if made.returncode:
        raise RuntimeError(made.stderr.decode()[-3000:] or made.stdout.decode()[-3000:])
    shown = _run([terraform, "show", "-json", "plan"], folder, environment)
    if shown.returncode:
        raise RuntimeError(shown.stderr.decode()[-3000:])
    kinds = {case.name: case.kind for case in cases}
    answers = {}
    for one in json.loads(shown.stdout, parse_float=Decimal)["resource_changes"]:
        if one["name"] in kinds:
            answers[one["name"]] = _answer(schema.resources[kinds[one["name"]]].block, one["change"])
    return answers


def version(terraform: str) -> str:
    return str(
        json.loads(subprocess.run([terraform, "version", "-json"], capture_output=True, check=True).stdout)[
            "terraform_version"
        ]
    )


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=900, check=False)


def _write(
    folder: Path, name: str, program: Path, schema: ProviderSchema, config: dict[str, Any], cases: list[Case]
) -> None:
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    (bin_folder / f"terraform-provider-{name}").symlink_to(program)
    source = SOURCE.format(name=name)
    (folder / "cli.tfrc").write_text(
        f'provider_installation {{\n  dev_overrides {{ "{source}" = "{bin_folder}" }}\n  direct {{}}\n}}\n'
    )
    resources: dict[str, dict[str, Any]] = {"terraform_data": {"later": {"input": 1}}}
    for case in cases:
        if case.config is not None:
            resources.setdefault(case.kind, {})[case.name] = _hcl(case.config)
    main = {
        "terraform": {"required_providers": {name: {"source": source}}},
        "provider": {name: config},
        "resource": resources,
    }
    (folder / "main.tf.json").write_text(json.dumps(main))
    state = {"version": 4, "terraform_version": "1.0.0", "serial": 1, "lineage": "oracle", "outputs": {}}
    (folder / "terraform.tfstate").write_text(
        json.dumps(state | {"resources": [_instance(name, schema, case) for case in cases if case.live is not None]})
    )


def _hcl(value: Any) -> Any:
    if value is UNKNOWN:
        return "${terraform_data.later.id}"
    if isinstance(value, dict):
        return {name: _hcl(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_hcl(one) for one in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


def _instance(name: str, schema: ProviderSchema, case: Case) -> dict[str, Any]:
    found = schema.resources[case.kind]
    instance: dict[str, Any] = {
        "schema_version": found.version,
        "attributes": encode_json(found.block.implied, case.live),
        "sensitive_attributes": list(_sensitive(found.block, case.live, [])),
    }
    if case.tainted:
        instance["status"] = "tainted"
    place = f'provider["registry.terraform.io/{SOURCE.format(name=name)}"]'
    return {"mode": "managed", "type": case.kind, "name": case.name, "provider": place, "instances": [instance]}


def _sensitive(block: Block, value: Any, path: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Where a state has what its schema hides: a state without these would be changed for it."""
    if not isinstance(value, dict):
        return
    for name, one in block.attributes.items():
        at = [*path, {"type": "get_attr", "value": name}]
        if one.sensitive:
            yield at
        elif one.nested is not None:
            yield from _within(one.nested.nesting, Block(attributes=one.nested.attributes), value.get(name), at)
    for name, nested in block.blocks.items():
        yield from _within(nested.nesting, nested.block, value.get(name), [*path, {"type": "get_attr", "value": name}])


def _within(nesting: str, block: Block, value: Any, path: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    if nesting == "list" and isinstance(value, list):
        for i, one in enumerate(value):
            yield from _sensitive(block, one, [*path, {"type": "index", "value": {"value": i, "type": "number"}}])
    elif nesting == "map" and isinstance(value, dict):
        for key, one in value.items():
            yield from _sensitive(block, one, [*path, {"type": "index", "value": {"value": key, "type": "string"}}])
    elif nesting == "set" and value and any(True for one in value for _ in _sensitive(block, one, [])):
        yield path  # a member of a set has no place of its own
    else:
        yield from _sensitive(block, value, path)


def _answer(block: Block, change: dict[str, Any]) -> Answer:
    actions = change["actions"]
    action = {("no-op",): "none", ("create",): "create", ("update",): "update", ("delete",): "delete"}.get(
        tuple(actions), "replace"
    )
    after = _overlaid(change["after"], change.get("after_unknown"))
    of = block.implied
    replace = {".".join(step for step in path if isinstance(step, str)) for path in change.get("replace_paths", [])}
    return said(of, action, change["before"], after, replace)


def _overlaid(value: Any, unknown: Any) -> Any:
    if unknown is True:
        return UNKNOWN_MARK
    if isinstance(unknown, dict) and (isinstance(value, dict) or unknown):
        value = value if isinstance(value, dict) else {}
        return {name: _overlaid(value.get(name), unknown.get(name)) for name in value.keys() | unknown.keys()}
    if isinstance(unknown, list) and isinstance(value, list):
        longer = max(len(value), len(unknown))
        return [_overlaid(*(v[i] if i < len(v) else None for v in (value, unknown))) for i in range(longer)]
    return value


# Ours


class Frozen:
    """A provider whose clouds stand still: what is there is what the case says."""

    def __init__(self, provider: Provider, live: Value) -> None:
        self._provider, self._live = provider, live

    async def validate(self, kind: str, config: Value) -> tuple[Diagnostic, ...]:
        return await self._provider.validate(kind, config)

    async def plan(self, kind: str, prior: State, config: Value) -> Planned:
        return await self._provider.plan(kind, prior, config)

    async def read(self, kind: str, state: State) -> State:
        return State(self._live)

    async def upgrade(self, kind: str, version: int, state: Any) -> Value:
        return await self._provider.upgrade(kind, version, state)

    async def upgrade_identity(self, kind: str, version: int, identity: Value) -> Value:
        return identity

    async def apply(self, kind: str, prior: State, planned: Planned, config: Value) -> Applied:
        raise AssertionError("nothing is applied here")


async def ask_us(provider: Provider, schema: ProviderSchema, case: Case) -> Answer:
    """Raises `ProviderError`."""
    found = schema.resources[case.kind]
    of = found.block.implied
    keeper = Keeper(Frozen(provider, case.live), case.kind, found)
    kept = keeper.keep(Kept.fresh(), State(case.prior), tainted=case.tainted)
    look = await keeper.look(kept, case.config)
    after = None if look.planned is None or look.config is None else look.planned.value
    if look.action == "none":
        after = look.live.value
    replace = (
        {bare(line.path) for line in look.lines if line.replaces}
        if look.action == "replace" and not case.tainted
        else set()
    )
    answer = said(of, look.action, _plain(look.live.value), _plain(after), replace)
    lines = {bare(line.path).removesuffix("[]") for line in look.lines}
    told, changed = ({path.split(".")[0] for path in paths} for paths in (lines, answer.changed))
    # What the older SDK takes for the same (nothing, and what is empty) is no line, though Terraform has it as a change.
    assert look.action in ("none", "delete") or (
        told <= changed if look.planned is not None and look.planned.legacy else told == changed
    ), (
        case.name,
        lines,
        answer,
    )
    return answer


def _plain(value: Any) -> Any:
    match value:
        case Dynamic():
            return _plain(value.value)
        case list():
            return [_plain(one) for one in value]
        case dict():
            return {name: _plain(one) for name, one in value.items()}
    return UNKNOWN_MARK if value is UNKNOWN else value


# Both


def said(of: Type, action: str, before: Any, after: Any, replace: set[str]) -> Answer:
    changed = sorted(set(_places(of, before or {}, after or {}, ""))) if action != "none" else []
    digest = hashlib.sha256(json.dumps(_form(of, after), sort_keys=True).encode()).hexdigest()[:16]
    return Answer(action, tuple(changed), tuple(sorted(replace)), digest)


def _places(of: Type | None, before: Any, after: Any, path: str) -> Any:
    if _form(of, before) == _form(of, after):
        return
    if of is not None and of.kind in ("object", "map") and isinstance(before, dict) and isinstance(after, dict):
        for name in before.keys() | after.keys():
            inner = of.attributes.get(name) or of.element
            below = f"{path}.{name}" if path else name
            yield from _places(inner, before.get(name), after.get(name), below if of.kind == "object" else path)
    elif (
        of is not None
        and of.kind == "list"
        and isinstance(before, list)
        and isinstance(after, list)
        and len(before) == len(after)
    ):
        for a, b in zip(before, after, strict=True):
            yield from _places(of.element, a, b, path)
    else:
        yield path


def _form(of: Type | None, value: Any) -> Any:
    """One form for what means the same: sets in an order of their own, numbers as text, nothing for what is null."""
    match value:
        case dict():
            kinds = of.attributes if of is not None else {}
            inner = {n: _form(kinds.get(n) or (of.element if of else None), one) for n, one in value.items()}
            return {n: one for n, one in inner.items() if one is not None}
        case list():
            made = [_form(of.element if of is not None else None, one) for one in value]
            return (
                sorted(made, key=lambda one: json.dumps(one, sort_keys=True))
                if of is not None and of.kind == "set"
                else made
            )
        case bool() | str() | None:
            return value
    return format(Decimal(str(value)).normalize(), "f")


__all__ = ["Answer", "ask_terraform", "ask_us", "known", "version"]
