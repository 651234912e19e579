"""`trimtab ci check` and `trimtab ci lock`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from trimtab.ci.cache.index import state_directory
from trimtab.ci.definition import check as checks
from trimtab.ci.definition import lock as locks
from trimtab.ci.definition import params
from trimtab.ci.definition.evaluate import Definition, evaluate, load
from trimtab.ci.definition.site import DefinitionError, Site
from trimtab.ci.definition.values import Base
from trimtab.ci.runs.prepare import FILE, choose
from trimtab.cli.ci import GREEN, WRONG
from trimtab.cli.ci.options import parameters, parser, project, with_pipeline


def check(arguments: list[str]) -> int:
    """Prints all that is wrong, or the JSON Schema of the parameters."""
    options = parser("check", "Find everything that is wrong before anything runs.")
    with_pipeline(options)
    options.add_argument(
        "--schema", action="store_true", help="print the JSON Schema of the pipeline's parameters instead"
    )
    options.add_argument("-o", dest="output", choices=("text", "json"), default="text", help="default: text")
    said, further = options.parse_known_args(arguments)
    directory = project(said.directory)
    given = parameters(options, said.parameters, further)
    if said.schema:
        definition = load(directory / FILE)
        print(json.dumps(checks.schema(definition, choose(definition, said.pipeline)), indent=2))
        return GREEN
    by_pipeline = {}
    if given or said.pipeline:
        definition = load(directory / FILE)
        by_pipeline[choose(definition, said.pipeline).name] = given
    problems = checks.check(directory, by_pipeline)
    if said.output == "json":
        print(json.dumps([_plain(one) for one in problems], indent=2))
    else:
        for one in problems:
            print(checks.Problem(Site(os.path.relpath(one.site.file), one.site.line), one.message, one.warning))
        wrong = sum(1 for one in problems if not one.warning)
        print(f"{wrong} problem{'s' * (wrong != 1)}" if wrong else "nothing is wrong")
    return WRONG if any(not one.warning for one in problems) else GREEN


def _plain(problem: checks.Problem) -> dict[str, object]:
    return {
        "file": problem.site.file,
        "line": problem.site.line,
        "message": problem.message,
        "level": "warning" if problem.warning else "error",
    }


def lock(arguments: list[str]) -> int:
    """Resolves the images of all pipelines into the lock."""
    options = parser(
        "lock", "Resolve the images of all pipelines into trimtab.lock, anew where they are there already."
    )
    options.add_argument("images", nargs="*", metavar="IMAGE", help="only these; the others stay as they are")
    options.add_argument("--missing", action="store_true", help="only those that have no digest yet")
    options.add_argument("-p", dest="parameters", action="append", default=[], metavar="NAME=VALUE", help="a parameter")
    said = options.parse_args(arguments)
    directory = project(said.directory)
    wanted = _bases(load(directory / FILE), parameters(options, said.parameters, []))
    known = locks.read(directory)
    for name in said.images:
        if name not in wanted:
            options.error(f"no pipeline has image {name}; they have {', '.join(wanted) or 'none'}")
    chosen = {name: base for name, base in wanted.items() if locks.pinned(name) is None}
    if said.images:
        chosen = {name: chosen[name] for name in said.images if name in chosen}
    if said.missing:
        chosen = {name: base for name, base in chosen.items() if name not in known}
    found: dict[str, str] = {}
    if chosen:
        from trimtab.ci.images.bases import Images

        found = Images(Path(state_directory()), lambda line: print(f"  {line}")).resolve(chosen.values())
    after = {name: digest for name, digest in {**known, **found}.items() if name in wanted}
    changed = locks.write(directory, after)
    for name, digest in found.items():
        before = known.get(name)
        word = "new" if before is None else "as before" if before == digest else f"was {before[:19]}"
        print(f"{name}  {digest[:19]}  {word}")
    for name in known.keys() - after.keys():
        print(f"{name}  no longer used")
    print(f"{locks.NAME} {'written' if changed else 'is as it was'}")
    return GREEN


def _bases(definition: Definition, given: Mapping[str, str]) -> dict[str, Base]:
    """The images of all pipelines; where a parameter has neither value nor default, with the first value that may be."""
    found: dict[str, Base] = {}
    for pipeline in definition.pipelines.values():
        declared = params.declared(pipeline.function)
        try:
            values = params.values(declared, {**params.examples(declared), **given})
        except ValueError as err:
            raise DefinitionError(f"{pipeline.name}(): {err}", pipeline.site) from None
        found.update(locks.bases(evaluate(definition, pipeline, values)))
    return found
