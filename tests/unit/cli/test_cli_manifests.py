"""What people write: manifests, kinds, durations; and what they read when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab.api import ResourceType
from trimtab.api.core import ConfigMap, Pod, Secret
from trimtab.cli.describe import lines
from trimtab.cli.durations import seconds
from trimtab.cli.files import manifests
from trimtab.cli.kinds import kind_and_name, resolve
from trimtab.cli.output import age, table_lines
from trimtab.cli.terminal import exit_status
from trimtab.client import ApiError
from trimtab.engine.errors import EngineError, NotFound

POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n"
APP = ResourceType("trimtab.dev/v1alpha1", "App", "apps", short_names=())


class Discovery:
    """Only the part of the client that looks kinds up."""

    async def discover(self) -> list[ResourceType]:
        return [Pod.resource_type, ConfigMap.resource_type, APP]


def test_documents_lists_and_directories(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{POD}---\n---\n{POD.replace('web', 'db')}")
    (tmp_path / "b.json").write_text(
        '{"kind": "List", "apiVersion": "v1", "items": [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}]}'
    )
    (tmp_path / "notes.txt").write_text("no manifest")

    found = manifests([str(tmp_path)])

    assert [obj["metadata"]["name"] for _, obj in found] == ["web", "db", "s"]
    assert found[1][0] == f"{tmp_path}/a.yaml, document 3"
    assert found[2][0] == f"{tmp_path}/b.json, items[0]"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("a: b: c", r"m\.yaml, line 1: mapping values are not allowed"),
        ("- a", r"m\.yaml: an object \(apiVersion, kind, metadata\) is expected, not list"),
        ("kind: Pod", r"m\.yaml: apiVersion is missing"),
        ("apiVersion: v1\nkind: Pod", r"m\.yaml: metadata\.name is missing"),
        ("", r"there is no object in .*m\.yaml"),
    ],
)
def test_wrong_manifests_name_the_place(tmp_path: Path, content: str, line: str) -> None:
    (tmp_path / "m.yaml").write_text(content)
    with pytest.raises(EngineError, match=line):
        manifests([str(tmp_path / "m.yaml")])


def test_a_missing_file_is_named() -> None:
    with pytest.raises(EngineError, match=r"^/no/such\.yaml cannot be read: No such file or directory$"):
        manifests(["/no/such.yaml"])


@pytest.mark.parametrize("word", ["pod", "pods", "po", "Pod", "POD"])
async def test_all_spellings_of_a_kind(word: str) -> None:
    assert await resolve(Discovery(), word) == [Pod.resource_type]  # type: ignore[arg-type]


async def test_kinds_by_group_by_category_and_unknown() -> None:
    client = Discovery()
    assert await resolve(client, "apps.trimtab.dev") == [APP]  # type: ignore[arg-type]
    assert await resolve(client, "pods,cm") == [Pod.resource_type, ConfigMap.resource_type]  # type: ignore[arg-type]
    assert Pod.resource_type in await resolve(client, "all")  # type: ignore[arg-type]
    with pytest.raises(NotFound, match=r"^the server has no kind 'podss': did you mean pods\?$"):
        await resolve(client, "podss")  # type: ignore[arg-type]


def test_kind_and_name_forms() -> None:
    assert kind_and_name(["pod", "a", "b"]) == ("pod", ["a", "b"])
    assert kind_and_name(["pod/a", "pod/b"]) == ("pod", ["a", "b"])
    assert kind_and_name(["pods"]) == ("pods", [])
    with pytest.raises(EngineError, match="not both"):
        kind_and_name(["pod", "pod/a"])
    with pytest.raises(EngineError, match="write every object as pod/NAME"):
        kind_and_name(["pod/a", "svc/b"])


def test_durations() -> None:
    assert [seconds(t) for t in ("30s", "1h30m", "2d", "0.5s")] == [30, 5400, 172800, 0.5]
    for wrong in ("", "5", "m5", "5 m", "1w"):
        with pytest.raises(EngineError, match="is no duration: write 30s, 5m, 2h or 1d"):
            seconds(wrong)
    assert [age(s) for s in (5, 150, 8000, 200000)] == ["5s", "2m", "2h", "2d"]


def test_tables_are_aligned_without_trailing_blanks() -> None:
    assert table_lines(("name", "ready"), [("web-0", "1/1"), ("a", None)]) == [
        "NAME    READY",
        "web-0   1/1",
        "a       <none>",
    ]


def test_describe_shows_no_secret() -> None:
    assert Secret.resource_type.kind == "Secret"
    text = "\n".join(
        lines({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"password": "aHVudGVyMg=="}})
    )
    assert "aHVudGVyMg==" not in text
    assert "password: 9 bytes" in text


def test_the_exit_status_of_a_command() -> None:
    assert exit_status({"status": "Success"}) == 0
    failed = {
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": "7"}]},
    }
    assert exit_status(failed) == 7
    with pytest.raises(ConnectionError, match="ended before the command did"):
        exit_status(None)
    with pytest.raises(ApiError, match="no such container"):
        exit_status({"status": "Failure", "message": "no such container", "code": 500})


def test_a_directory_of_an_app_says_how_its_objects_are_had(tmp_path: Path) -> None:
    (tmp_path / "ship.py").write_text("")
    with pytest.raises(EngineError) as caught:
        manifests([str(tmp_path)])
    assert str(caught.value) == (
        f"{tmp_path} holds no file that ends in .yaml, .yml, .json; of the app in it: trimtab up {tmp_path} --print"
    )
