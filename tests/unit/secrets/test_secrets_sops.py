"""Files of SOPS 3.11 (recorded/, made by it) are read; what is written is read again, and changes nothing that was not changed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyrage
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trimtab.secrets import documents, sops
from trimtab.secrets.errors import SopsError
from trimtab.secrets.recipients import Identities, Rules
from trimtab.secrets.scalars import plain, written

RECORDED = Path(__file__).parent / "recorded"
KEY = pyrage.x25519.Identity.generate()
OWN = Identities([KEY], ["the test"])
FOR_US = Rules([str(KEY.to_public())])
ENV = {"SOPS_AGE_KEY_FILE": str(RECORDED / "age-key.txt"), "HOME": "/nonexistent"}


@pytest.mark.parametrize("ending", ["yaml", "json", "env", "bin"])
def test_files_that_sops_made(ending: str) -> None:
    opened = sops.load(RECORDED / f"made-by-sops.{ending}", ENV)

    said = (RECORDED / f"read-by-sops.{ending}").read_text()
    if ending == "yaml":
        mine, theirs = (documents.read(text, "yaml") for text in (opened.plain_text(), said))
        assert [(leaf.path, leaf.value) for leaf in mine.leaves] == [(leaf.path, leaf.value) for leaf in theirs.leaves]
    elif ending == "json":
        assert json.loads(opened.plain_text()) == json.loads(said)
    else:
        assert opened.plain_text() == said


def test_a_value_by_its_keys() -> None:
    opened = sops.load(RECORDED / "made-by-sops.yaml", ENV)

    assert opened.value("registry.password") == "p'\"ä\n second"
    assert opened.value('["registry"]["port"]') == "5000"
    assert opened.value("registry.on") == "true"
    assert opened.value("registry.no") == "yes"
    assert opened.value("lists.1.three.2") == "3"
    with pytest.raises(SopsError, match=r"there is no registry\.pass: 'pass' is not there; there are at, big"):
        opened.value("registry.pass")
    with pytest.raises(SopsError, match="lists is not one value"):
        opened.value("lists")


def test_comments_order_and_what_is_not_secret_stay() -> None:
    source = (RECORDED / "plain.yaml").read_text()

    text = sops.encrypt(source, "yaml", FOR_US)

    assert "hosts_unencrypted: [a, 1, 2.5, false]" in text
    for secret in ("trimtab", "second", "nested", "who may push", "in the list", "BEGIN KEY"):
        assert secret not in text
    back = sops.decrypt(text, "yaml", OWN)
    before, after = (documents.read(one, "yaml") for one in (source, back.plain_text()))
    assert [(leaf.path, leaf.value) for leaf in after.leaves] == [(leaf.path, leaf.value) for leaf in before.leaves]


def test_an_edit_changes_the_form_of_what_was_edited_alone() -> None:
    opened = sops.decrypt(sops.encrypt((RECORDED / "plain.yaml").read_text(), "yaml", FOR_US), "yaml", OWN)
    before = opened.document.text([leaf.value for leaf in opened.document.leaves], None).splitlines()

    changed = opened.with_text(opened.plain_text().replace("port: 5000", "port: 5001"))

    after = documents.read(changed, "yaml")
    lines = after.text([leaf.value for leaf in after.leaves], None).splitlines()
    assert [line.split(":")[0].strip() for line in lines if line not in before] == ["port"]
    assert sops.decrypt(changed, "yaml", OWN).value("registry.port") == "5001"


KEYS = st.text("abcäy_ .:-#", min_size=1, max_size=8).filter(lambda k: k.strip() == k and isinstance(plain(k), str))
VALUES = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=30).filter(str.isprintable),
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.sampled_from(
        [
            "yes",
            "null",
            "~",
            "0x1f",
            "1e3",
            "2020-01-02",
            "a\nb",
            "a\n",
            "\n",
            " a",
            "a #b",
            "a: b",
            "- a",
            "é\n",
            "0o7",
        ]
    ),
)
TREES = st.dictionaries(
    KEYS.filter(lambda k: k != "sops"),
    st.recursive(
        VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
    ),
    min_size=1,
    max_size=5,
)


@given(TREES)
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("format", ["yaml", "json"])
def test_whatever_is_written_is_read_again(format: str, tree: dict[str, Any]) -> None:
    text = json.dumps(tree) if format == "json" else yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    source = documents.read(text, format)
    assume(source.leaves)
    opened = sops.decrypt(sops.encrypt(text, format, FOR_US), format, OWN)

    assert _same(opened.tree(), source.tree([leaf.value for leaf in source.leaves]))
    again = documents.read(opened.plain_text(), format)
    assert _same(again.tree([leaf.value for leaf in again.leaves]), opened.tree())


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


@given(VALUES)
def test_a_scalar_means_what_was_written(value: Any) -> None:
    node: Any = yaml.compose(f"key: {written(value, 0)}\n", yaml.SafeLoader)
    scalar = node.value[0][1]
    meant = plain(scalar.value) if scalar.style is None else scalar.value

    assert meant == value
    assert isinstance(meant, bool) == isinstance(value, bool)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("0777", 511),
        ("0o17", 15),
        ("08", 8.0),
        ("1_000", 1000),
        ("+1", 1),
        ("-0x10", -16),
        ("1e3", 1000.0),
    ],
)
def test_scalars_as_go_reads_them(text: str, value: Any) -> None:
    assert plain(text) == value
    assert type(plain(text)) is type(value)


def test_a_timestamp_is_one() -> None:
    assert plain("2020-01-02") == "2020-01-02T00:00:00Z"
    assert plain("2020-1-2 3:04:05.120 ".strip()) == "2020-01-02T03:04:05.12Z"
    assert plain("2020-01-02T03:04:05+01:00") == "2020-01-02T03:04:05+01:00"
    assert plain("2020-13-02") == "2020-13-02"


def encrypted(text: str = "a: one\nb: two\n", **selection: Any) -> str:
    return sops.encrypt(text, "yaml", Rules(FOR_US.recipients, selection))


def swapped(text: str) -> str:
    one, two, *rest = text.split("\n")
    return "\n".join(("a" + two[1:], "b" + one[1:], *rest))


TAMPERED = {
    "a value moved": (
        swapped,
        "a cannot be decrypted: it was changed, or moved here from elsewhere; take it from git's history",
    ),
    "a value dropped": (
        lambda text: text.partition("\n")[2],
        "its authentication code is wrong: it was changed without its key; take it from git's history",
    ),
    "a plain value added": (
        lambda text: "c: three\n" + text,
        "c is not encrypted, though the file's rules say that it is",
    ),
    "no code": (
        lambda text: "\n".join(line for line in text.split("\n") if "mac:" not in line),
        "it has no authentication code: anybody could have changed it; encrypt it anew",
    ),
    "no base64": (
        lambda text: text.replace("data:", "data:!", 1),
        "a: the encrypted form is damaged; take it from git's history",
    ),
    "not encrypted": (lambda _: "a: 1\n", "it is not encrypted; `trimtab secret encrypt` does that"),
    "PGP alone": (
        lambda text: text.replace("    age:", "    pgp:"),
        "it has no age recipient, and only age keys are known here",
    ),
    "by comments": (
        lambda text: text.replace("unencrypted_suffix:", "encrypted_comment_regex:"),
        "it has encrypted_comment_regex, which is not known here; use sops for it",
    ),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_what_was_changed_without_the_key(case: str) -> None:
    change, said = TAMPERED[case]

    with pytest.raises(SopsError) as caught:
        sops.decrypt(change(encrypted()), "yaml", OWN)

    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x 1\nb: *x\n", "line 2: *x: aliases cannot be kept; write it out"),
        ("a: 1\n---\nb: 1\n", "there are several YAML documents in it; put each into a file of its own"),
        ("- a\n", "the file is not a mapping of YAML, like `name: value` by lines"),
        ("{a: 1}\n", "the file is not a mapping of YAML, like `name: value` by lines"),
        ("a: 1\na: 2\n", "line 2: there are two keys a"),
        ("1: a\n", "line 1: the key '1' is no text; put it in quotes"),
        ("a: !mine b\n", "line 1: !mine cannot be kept in a file of secrets; write a text"),
        ("a: [\n", "line 2: expected the node content, but found '<stream end>'"),
        ("sops: mine\na: b\n", "line 1: `sops` is the key of SOPS' own part; rename it"),
    ],
)
def test_what_cannot_be_kept_is_refused(text: str, said: str) -> None:
    with pytest.raises(SopsError) as caught:
        sops.encrypt(text, "yaml", FOR_US)

    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("selection", "hidden"),
    [
        ({"encrypted_regex": "^(password|key)$"}, {"password", "inside"}),
        ({"unencrypted_regex": "^name$"}, {"password", "inside", "n", "x_s"}),
        ({"encrypted_suffix": "_s"}, {"x_s"}),
        ({"encrypted_suffix": "_s", "mac_only_encrypted": True}, {"x_s"}),
        ({}, {"password", "inside", "name", "n", "x_s"}),
    ],
)
def test_which_values_are_encrypted(selection: dict[str, Any], hidden: set[str]) -> None:
    text = encrypted("name: 1\npassword: a1\nkey:\n  inside: b1\nn: 2\nx_s: c1\n", **selection)

    document = documents.read(text, "yaml")
    assert {leaf.path[-1] for leaf in document.leaves if str(leaf.value).startswith("ENC[")} == hidden
    assert sops.decrypt(text, "yaml", OWN).value("password") == "a1"
    plain_change = text.replace("\nn: 2", "\nn: 3") if "encrypted_suffix" in selection else None
    if plain_change and "mac_only_encrypted" in selection:
        assert sops.decrypt(plain_change, "yaml", OWN).value("n") == "3"
    elif plain_change:
        with pytest.raises(SopsError, match="authentication code is wrong"):
            sops.decrypt(plain_change, "yaml", OWN)


def test_rotation_to_others() -> None:
    other = pyrage.x25519.Identity.generate()
    opened = sops.decrypt(encrypted(), "yaml", OWN)

    text = opened.rotated([str(other.to_public())])

    assert sops.decrypt(text, "yaml", Identities([other], [])).tree() == {"a": "one", "b": "two"}
    with pytest.raises(SopsError, match=r"none of your age keys \(the test\) opens it; it is for age1"):
        sops.decrypt(text, "yaml", OWN)
    assert not {line for line in text.splitlines() if "data:" in line} & set(
        opened.document.text([leaf.value for leaf in opened.document.leaves], None).splitlines()
    )


def test_keys_that_only_sops_can_renew() -> None:
    text = encrypted().replace("    lastmodified:", "    pgp:\n        - fp: AA\n          enc: x\n    lastmodified:")
    opened = sops.decrypt(text, "yaml", OWN)

    assert "fp: AA" in opened.with_text("a: three\n")
    with pytest.raises(
        SopsError, match="the file is for pgp keys too, which only sops can rotate: sops rotate -i FILE"
    ):
        opened.rotated()
