"""Values that nobody thinks of: each is refused in one line or means what it says; none ends a run with a traceback."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from trimtab.components.infrastructure.durations import seconds
from trimtab.components.infrastructure.loop.connection import TemplateFault, filled
from trimtab.components.infrastructure.loop.gathering import ignored_paths, put_given, text_of
from trimtab.components.infrastructure.loop.kept import Kept
from trimtab.components.infrastructure.programs.registry import InstallError, Source, from_path, from_registry
from trimtab.components.infrastructure.programs.shelf import Shelf
from trimtab.components.infrastructure.protocol.launch import read_greeting
from trimtab.components.infrastructure.protocol.schema import Attribute, Block, NestedBlock
from trimtab.components.infrastructure.protocol.types import NUMBER, STRING, list_of, object_of, set_of
from trimtab.components.infrastructure.protocol.values import ValueFault, decode_json
from trimtab.components.infrastructure.schemas.changes import differences, ignoring, steps
from trimtab.components.infrastructure.schemas.mapping import FieldFault, configured


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [("1h30m", 5400), ("90s", 90), ("1.5h", 5400), ("500ms", 0.5), ("2m", 120), ("", 0), ("soon", 0), ("1h5", 3600)],
)
def test_durations_are_those_of_go(text: str, expected_s: float) -> None:
    assert seconds(text) == expected_s


def test_a_duration_of_many_digits_is_very_long() -> None:
    assert seconds("9" * 400 + "s") == float("inf")


# Templates


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ config | b64decode | json }}", "key: json: it is bytes, not text"),
        (r'{{ none | default("\q") }}', r'key: default("\q"): what is within is no JSON text'),
        ("{{ name | b64decode }}", "key: b64decode: "),
    ],
)
def test_a_template_that_cannot_be_filled_says_why(template: str, said: str) -> None:
    with pytest.raises(TemplateFault) as refused:
        filled({"key": template}, {"config": "/w==", "name": "ä"})
    assert str(refused.value).startswith(said)


def test_base64_may_have_lines() -> None:
    assert filled({"key": "{{ config | b64decode }}"}, {"config": "aGVs\nbG8=\n"}) == {"key": b"hello"}
    assert filled({"key": '{{ none | default("a | b") }}'}, {}) == {"key": b"a | b"}


# References


@pytest.mark.parametrize("field", ["pool[0].network", "pool[", "[", "a.b.c", "pool[1]", "name[0]", "[0]"])
def test_a_reference_into_what_is_not_given_is_refused(field: str) -> None:
    with pytest.raises(FieldFault) as refused:
        put_given({"name": "web"}, field, "7")
    assert str(refused.value) == f"spec.references: {field} is no place in forProvider"


def test_a_reference_into_what_is_given_is_filled_in() -> None:
    given = {"pool": [{"size": 1}], "tags": {"a": "b"}}
    assert put_given(given, "pool[0].network", "7")["pool"] == [{"size": 1, "network": "7"}]
    assert put_given(given, 'tags["a.b"]', "7")["tags"] == {"a": "b", "a.b": "7"}
    assert put_given(given, "id", "7")["id"] == "7"


def test_references_make_up_a_list() -> None:
    given: dict[str, Any] = {"networks": ["1"], "pool": [{}]}
    for field, value in (
        ("networks[1]", "7"),
        ("networks[2]", "8"),
        ("pool[0].subnets[0]", "a"),
        ("pool[0].subnets[1]", "b"),
    ):
        given = put_given(given, field, value)
    assert given == {"networks": ["1", "7", "8"], "pool": [{"subnets": ["a", "b"]}]}


@pytest.mark.parametrize("path", ["a[", "a[x]", '["a', "a[-1]"])
def test_what_is_no_path_is_said_to_be_none(path: str) -> None:
    with pytest.raises(ValueError, match=r"^.* is no path of a field$"):
        steps(path)


# Programs


def archive(flags: int) -> bytes:
    """Of a provider, with a flag or a method that nobody has asked for."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as made:
        made.writestr("terraform-provider-x_v1.0.0", b"\x7fELF")
    raw = bytearray(packed.getvalue())
    at = raw.find(b"PK\x01\x02")
    if flags:
        raw[at + 8] |= flags
    else:
        raw[at + 10] = 99
    return bytes(raw)


@pytest.mark.parametrize("flags", [0, 1])
def test_an_archive_that_cannot_be_unpacked_is_refused_in_one_line(tmp_path: Path, flags: int) -> None:
    path = tmp_path / "provider.zip"
    path.write_bytes(archive(flags))
    with pytest.raises(InstallError) as refused:
        from_path(path)
    assert str(refused.value).startswith(f"{path}: cannot be unpacked (")


def test_a_download_that_breaks_off_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(InstallError, match=rf"^registry x\.example: http://127\.0\.0\.1:{port}/\S+: it broke off"):
            from_registry(Source("x.example", "a", "b"), "", print, base=f"http://127.0.0.1:{port}")
        thread.join()


def test_what_was_left_half_installed_is_not_there(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    checksum = shelf.put(b"\x7fELF")
    left = tmp_path / ".new-abc"
    left.mkdir()
    (left / "terraform-provider").write_bytes(b"half")
    assert shelf.installed() == [checksum]


def test_a_provider_that_greets_with_a_socket_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "link").symlink_to(tmp_path / "engine.sock")
    assert read_greeting(f"1|5|unix|{mine}/plugin|grpc|", mine).address == f"unix:{mine}/plugin"
    for path in (tmp_path / "engine.sock", mine / "../engine.sock", mine / "link"):
        with pytest.raises(ValueError, match=r"^it listens at .*, which is not in the directory that it was given$"):
            read_greeting(f"1|5|unix|{path}|grpc|", mine)


# Values


def test_json_of_any_depth_is_refused_in_one_line() -> None:
    with pytest.raises(ValueFault, match=r"^the provider sent no JSON: "):
        decode_json(STRING, b"[" * 200_000)


def test_differences_of_long_sets_are_quick_and_right() -> None:
    of = set_of(object_of({"name": STRING, "ports": list_of(STRING)}))
    before = [{"name": f"rule-{i}", "ports": [str(i), str(i + 1)]} for i in range(2000)]
    after = [*reversed(before[1:]), {"name": "new", "ports": []}]
    found = [(one.path, one.before, one.after) for one in differences(of, before, after)]
    assert found == [("[]", before[0], "(absent)"), ("[]", "(absent)", {"name": "new", "ports": []})]


# Secrets, states and plans


def test_what_a_secret_holds_is_not_said_when_it_does_not_fit() -> None:
    block = Block(attributes={"sizes": Attribute(type=list_of(NUMBER), optional=True, sensitive=True)})
    for text in ('["hunter2"]', "hunter2", "[" * 100_000):
        with pytest.raises(FieldFault) as refused:
            configured(block, {"sizesSecretRef": {"name": "a", "key": "k"}}, lambda name, key, text=text: text)  # type: ignore[misc]
        assert str(refused.value) == "spec.forProvider.sizesSecretRef: the Secret's k is no JSON of list of number"


def test_a_secret_that_is_no_text_is_not_sent_as_another() -> None:
    data = {"k": base64.b64encode(b"caf\xe9").decode()}
    with pytest.raises(LookupError, match=r"^what the Secret login has at k is no text \(UTF-8\)$"):
        text_of("login", data, "k")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"key": "no hex"}, "non-hexadecimal"),
        ({"private": "not base64!"}, "base64"),
        ({"state": ["a"]}, "what it says of the resource is no object"),
        ({"lives": "two"}, "Expected `int`"),
    ],
)
def test_a_state_that_somebody_wrote_over_is_said_to_be_unreadable(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=r"^the kept state cannot be read: ") as refused:
        Kept.decode(json.dumps(wrong).encode())
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_members_of_sets_cannot_be_ignored_one_by_one() -> None:
    """What is there comes in another order than what is given: by place, one member would get what is another's."""
    rule = NestedBlock("set", Block(attributes={"host_port": Attribute(type=NUMBER, optional=True)}))
    pool = NestedBlock(
        "list", Block(attributes={"count": Attribute(type=NUMBER, optional=True)}, blocks={"host_rule": rule})
    )
    block = Block(blocks={"pool": pool})
    said = "spec.ignoreChanges: {} is within a set, whose members nothing tells apart: name pool[*].hostRule, all of it"
    for pattern in ("pool[*].hostRule[*].hostPort", "pool[0].hostRule[1].hostPort"):
        with pytest.raises(FieldFault) as refused:
            ignored_paths(block, [pattern])
        assert str(refused.value) == said.format(pattern)
    patterns = ["pool[*].hostRule", "pool[*].count", "pool"]
    assert ignored_paths(block, patterns) == ["pool[*].host_rule", "pool[*].count", "pool"]
    live = {"pool": [{"count": 1, "host_rule": [{"host_port": 2}, {"host_port": 1}]}]}
    config = {"pool": [{"count": 3, "host_rule": [{"host_port": 1}]}]}
    assert ignoring(block, live, config, ["pool[*].host_rule"]) == {"pool": [{**live["pool"][0], "count": 3}]}
