"""How an image came to be, as an in-toto statement with the SLSA provenance predicate 1: out of what, by whom, when, by which run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from trimtab.content.digest import Digest, hex_of

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://trimtab.dev/pipeline/v1"


class Material(msgspec.Struct, frozen=True):
    """Something that went in. uri: `git+https://...@commit`, `oci://python:3.11`; digest: by algorithm, in hex."""

    uri: str
    digest: Mapping[str, str]


def statement(
    name: str,
    image: Digest,
    *,
    builder: str,
    run: str,
    step: str,
    parameters: Mapping[str, Any],
    materials: Sequence[Material],
    started: datetime,
    finished: datetime,
) -> bytes:
    """The statement's bytes, canonical. name: the image's without a tag; builder: who ran the pipeline; times are UTC."""
    return msgspec.json.encode(
        {
            "_type": STATEMENT,
            "subject": [{"name": name, "digest": {"sha256": hex_of(image)}}],
            "predicateType": PREDICATE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": {"step": step, "parameters": dict(parameters)},
                    "resolvedDependencies": [{"uri": one.uri, "digest": dict(one.digest)} for one in materials],
                },
                "runDetails": {
                    "builder": {"id": builder},
                    "metadata": {
                        "invocationId": run,
                        "startedOn": f"{started:%Y-%m-%dT%H:%M:%SZ}",
                        "finishedOn": f"{finished:%Y-%m-%dT%H:%M:%SZ}",
                    },
                },
            },
        },
        order="deterministic",
    )
