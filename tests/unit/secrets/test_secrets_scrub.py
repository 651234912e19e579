"""No form of a secret comes through, however it is written and split; everything else does, byte by byte."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import shlex
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trimtab.secrets.scrub import MARK, SENT_MAX, Scrubber

PASSWORD = 'p4ss/wörd+"quoted"&<tag>\\ =end'
PEM = (
    "-----BEGIN KEY-----\n"
    + "\n".join(f"MIIEvQIBADANBgkqhkiG9w0BAQEFAASC{i:032x}" for i in range(20))
    + "\n-----END KEY-----\n"
)


FORMS: dict[str, Callable[[str], bytes]] = {
    "raw": lambda v: v.encode(),
    "base64": lambda v: base64.b64encode(v.encode()),
    "base64 with a newline in it": lambda v: base64.b64encode(f"{v}\n".encode()),
    "base64 of a login": lambda v: base64.b64encode(f"user:{v}".encode()),
    "base64 after one byte": lambda v: base64.b64encode(f"u{v}:and more".encode()),
    "base64 after two bytes": lambda v: base64.b64encode(f"uu{v}".encode()),
    "base64 for URLs": lambda v: base64.urlsafe_b64encode(v.encode()),
    "base64 without padding": lambda v: base64.b64encode(v.encode()).rstrip(b"="),
    "base64 by lines": lambda v: base64.encodebytes(v.encode()),
    "hex": lambda v: v.encode().hex().encode(),
    "HEX": lambda v: v.encode().hex().upper().encode(),
    "hex by words": lambda v: v.encode().hex(" ", 2).encode(),
    "hex with colons": lambda v: v.encode().hex(":").encode(),
    "URL": lambda v: quote(v, safe="").encode(),
    "URL's path": lambda v: quote(v).encode(),
    "URL, lower case": lambda v: re.sub("%..", lambda m: m[0].lower(), quote(v, safe="")).encode(),
    "form": lambda v: quote_plus(v).encode(),
    "JSON": lambda v: json.dumps({"a": v}).encode(),
    "JSON, not ASCII": lambda v: json.dumps({"a": v}, ensure_ascii=False).encode(),
    "JSON in JSON": lambda v: json.dumps(json.dumps({"a": v})).encode(),
    "shell": lambda v: shlex.quote(v).encode(),
    "Python": lambda v: repr(v).encode(),
    "Python's bytes": lambda v: repr(v.encode()).encode(),
    "HTML": lambda v: html.escape(v).encode(),
    "indented": lambda v: "\n".join(f"      {line}" for line in v.splitlines()).encode(),
    "traceback": lambda v: f"ValueError: {v!r} is wrong\n".encode(),
}


def other(character: str) -> str:
    """Another one that is written the same way."""
    return "MWQZmwqz0369"[ord(character) * 5 % 12] if character.isascii() and character.isalnum() else character


def own_part(data: bytes, like: bytes) -> bytes:
    """What of a form only the secret decides, without the bytes that may be out before more comes, or shared with the next ones."""
    core, like = bare(data), bare(like)
    start = len(os.path.commonprefix([core, like])) + SENT_MAX + 1
    end = len(os.path.commonprefix([core[::-1], like[::-1]])) + 2
    return core[start : len(core) - end]


def windows(data: bytes, size: int = 5) -> set[bytes]:
    """All that stands in it, by parts that are too short to be of use."""
    core = bare(data)
    return {core[at : at + size] for at in range(len(core) - size + 1)}


def said(scrubber: Scrubber, writes: list[bytes]) -> bytes:
    stream = scrubber.stream()
    return b"".join(map(stream.feed, writes)) + stream.close()


def written(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def bare(data: bytes) -> bytes:
    return b"".join(data.split())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 3, 7, 64, 100_000])
@pytest.mark.parametrize("value", [PASSWORD, PEM, "hunter22"], ids=["password", "key", "short"])
def test_no_form_comes_through_however_it_is_split(value: str, form: str, size: int) -> None:
    data = FORMS[form](value)
    around = b"before [" + data + b"] after\n"

    out = said(Scrubber({"s": value}), written(around, size))

    assert out.startswith(b"before [")
    assert out.endswith(b"] after\n")
    assert not windows(own_part(data, FORMS[form]("".join(map(other, value))))) & windows(out)
    assert MARK in out


@given(st.lists(st.binary(max_size=40), max_size=30), st.text(min_size=4, max_size=20))
@example([b"stop\n", b"s", b"ecret"], "secret")
def test_what_is_no_secret_comes_through_byte_by_byte(writes: list[bytes], value: str) -> None:
    scrubber = Scrubber([value])
    data = b"".join(writes)
    if any(piece in bare(data) for piece in scrubber.pieces):
        return
    assert said(scrubber, writes) == data


@given(st.lists(st.sampled_from([b"sec", b"ret", b"secret", b"cre", b"ts", b" ", b"\n", b"t"]), max_size=30))
def test_a_secret_in_many_writes(writes: list[bytes]) -> None:
    out = said(Scrubber(["secret"]), writes)

    assert b"secret" not in bare(out)
    assert bare(b"".join(writes)).replace(b"secret", b"") == bare(out).replace(MARK, b"") or b"secretsecret" in bare(
        b"".join(writes)
    )


def test_a_line_is_shown_at_once_unless_a_secret_may_have_begun() -> None:
    stream = Scrubber(["password"]).stream()

    assert stream.feed(b"make: stop\n") == b"make: stop\n"
    assert stream.feed(b"the pass") == b"the "
    assert stream.feed(b"age\n") == b"passage\n"
    assert stream.feed(b"pa") == b"pa"
    assert stream.feed(b"ssword!") == b"***!"
    assert SENT_MAX == 2


def test_two_secrets_that_overlap() -> None:
    assert said(Scrubber(["abcdef", "defghi"]), [b"-abcdef", b"ghi-"]).count(b"ghi") == 0
    assert said(Scrubber(["abcdef", "defghi"]), [b"-abcdefghi-"]) == b"-***-"


def test_short_values_are_not_looked_for() -> None:
    assert Scrubber(["", "1", "abc"]).text("1 abc") == "1 abc"


def test_many_long_secrets() -> None:
    scrubber = Scrubber([PEM.replace("MII", f"M{i}I") for i in range(20)])

    assert scrubber.text("nothing of it\n" * 1000) == "nothing of it\n" * 1000
    assert "BEGIN" not in scrubber.text(PEM.replace("MII", "M7I"))
