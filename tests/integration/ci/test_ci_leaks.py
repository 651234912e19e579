"""Secrets in every form that programs print them in, against every output of a real run: none may come through.

A step prints the whole corpus, whole and in pieces, puts it into its test report, and fails; another does so and succeeds; an image
is pushed with a login and signed. Then everything that was made is searched: the terminal, what each command prints, the record, the
report, the heat map, the trace, the commit's status, the workflow's summary, the registry, and every file of the cache's directory.

Not searched, because they are what the step itself has made, byte for byte: its declared outputs and, of a failed step, the
state that `trimtab ci shell` enters (`uppers`).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import html
import json
import os
import pty
import shlex
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape

import pytest

from ci_world import busybox_image
from http_posts import Posts, listening
from registries import PASSWORD, USER, answering, docker_registry
from trimtab.cli.ci import main
from trimtab.content import ContentStore, parse_digest, parse_reference
from trimtab.content.signing import SigningKey
from trimtab.secrets import sops
from trimtab.secrets.recipients import Rules, new_key

AWKWARD = "p@ss/w0rd+<&>\"'\\ ünd %41;?=~"
KEY = "-----BEGIN THING-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\nEFAASCBKcwggSjAgEAAoIBAQ\n-----END THING-----\n"
WITHIN_S = 240

SHIP = r"""
from trimtab.ci import image, pipeline, publish, secret, src, step

base = image("busybox:1").workdir("/work")
told = base.add(src("corpus/**")).secret_env("AWKWARD", secret("s.yaml#awkward")).secret_env("KEY", secret("s.yaml#key"))
SAY = '''
told() { while read -r line; do echo "$line" | busybox rev | busybox base64 -d; echo; done < corpus/$1; }
told forms
told forms | dd bs=1 2>/dev/null >&2
told forms | dd bs=7 2>/dev/null
echo "$AWKWARD"; echo "$KEY"; printf %s "$AWKWARD" | busybox base64; printf %s "x$KEY" | busybox base64 | busybox fold -w 20
printf %s "$AWKWARD" | busybox xxd -p; env
mkdir -p made; told report > report.xml
'''

@step
def good():
    return told.run(SAY, junit="report.xml")

@step
def bad():
    return told.run(SAY + "busybox sed -i 's/<!--fails-->/<failure message=\"wrong\"\\/>/' report.xml; exit 3", junit="report.xml")

@step
def app():
    return base.add(src("app/**"))

@pipeline
def ci(note: str = "none"):
    pushed = publish(app(), "HOST/shop/app", tags="1", auth=secret("s.yaml#login"), sign=secret("s.yaml#signing"))
    return pushed & good() & bad()
"""


def corpus(secret: str) -> set[bytes]:
    """What a program may print instead of a secret. Written down here, not taken from what looks for it."""
    data = secret.encode()
    found = {data, data.hex().encode(), data.hex().upper().encode(), data.hex(" ").encode(), data.hex(":").encode()}
    found |= {data.hex().swapcase().encode(), "".join(f"\\x{one:02x}" for one in data).encode()}
    for before in (b"", b"a", b"ab"):
        found |= {base64.b64encode(before + data), base64.urlsafe_b64encode(before + data + before)}
    found.add(base64.encodebytes(data))
    found |= {quote(secret).encode(), quote(secret, safe="").encode(), quote_plus(secret).encode()}
    found |= {
        quote(secret, safe="").lower().encode() if secret.islower() else b"",
        "".join(f"%{b:02X}" for b in data).encode(),
    }
    found |= {json.dumps(secret)[1:-1].encode(), json.dumps(secret, ensure_ascii=False)[1:-1].encode()}
    found |= {
        json.dumps(json.dumps(secret))[3:-3].encode(),
        html.escape(secret).encode(),
        shlex.quote(secret)[1:-1].encode(),
    }
    found |= {
        repr(secret)[1:-1].encode(),
        data.replace(b"\n", b"\n    "),
        *(line for line in data.splitlines() if b"-" not in line[:1]),
    }
    return {form for form in found if len(form) > 5}


def needles() -> dict[bytes, bytes]:
    """By form without white space the form; of base64 only what the secret alone decides."""
    found = {}
    for secret in (AWKWARD, KEY):
        for form in corpus(secret):
            found[b"".join(form.split())] = form
        for before in range(3):
            coded = base64.b64encode(bytes(before) + secret.encode())
            core = coded[-(-before * 8 // 6) : (before + len(secret.encode())) * 8 // 6]
            found[core] = core
    return found


def unpacked(data: bytes) -> Iterator[bytes]:
    """The bytes, and what is compressed, or enveloped as a signed statement, in them."""
    yield data
    if data.startswith(b'{"payloadType"'):
        yield base64.b64decode(json.loads(data)["payload"])
    with contextlib.suppress(zlib.error):
        yield zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data)


@pytest.fixture
def listener() -> Iterator[Posts]:
    """Takes traces and statuses."""
    made = Posts()
    with listening(made):
        yield made


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    state, project = tmp_path / "state", tmp_path / "project"
    (project / "corpus").mkdir(parents=True)
    (project / "app").mkdir()
    (project / "app/data").write_text("app")
    hidden = [base64.b64encode(form)[::-1].decode() for secret in (AWKWARD, KEY) for form in sorted(corpus(secret))]
    (project / "corpus/forms").write_text("".join(f"{line}\n" for line in hidden))
    texts = [form.decode() for secret in (AWKWARD, KEY) for form in sorted(corpus(secret))]
    cases = "".join(
        f"<testcase classname='{escape(text, {chr(39): '&apos;', chr(10): '&#10;'})}' name='t{number}' time='0.1'>"
        f"<!--fails--><system-out>{escape(text)}</system-out></testcase>"
        for number, text in enumerate(texts)
    )
    report = f"<testsuites><testsuite name='s'>{cases}</testsuite></testsuites>".encode()
    (project / "corpus/report").write_text(base64.b64encode(report)[::-1].decode() + "\n")
    recipient = new_key(tmp_path / "keys")
    values = {"awkward": AWKWARD, "key": KEY, "login": f"{USER}:{PASSWORD}", "signing": SigningKey.new()}
    plain = "".join(f"{name}: {json.dumps(value)}\n" for name, value in values.items())
    sops.save(project / "s.yaml", sops.encrypt(plain, "yaml", Rules([recipient])))
    digest = parse_digest(busybox_image(state))
    ContentStore(state).tag(parse_reference(f"busybox@{digest}").tagged, digest)
    (project / "trimtab.lock").write_text(f'{{"version": 1, "images": {{"busybox:1": "{digest}"}}}}')
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TRIMTAB_CI_DIR", str(state))
    return project


def on_a_terminal(arguments: list[str]) -> tuple[int, bytes]:
    """The exit status of `trimtab ci`, and all that it wrote to its terminal."""
    ours, theirs = pty.openpty()
    program = [sys.executable, "-c", "import sys; from trimtab.cli.ci import main; sys.exit(main(sys.argv[1:]))"]
    with subprocess.Popen([*program, *arguments], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        try:
            while piece := os.read(ours, 1 << 16):
                said += piece
        except OSError:  # so a terminal tells that nobody writes to it any more
            pass
        finally:
            os.close(ours)
        return process.wait(WITHIN_S), said


def test_no_form_of_a_secret_is_in_any_output(
    project: Path,
    tmp_path: Path,
    listener: Posts,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {
        "OTEL_EXPORTER_OTLP_ENDPOINT": listener.url,
        "TRIMTAB_CI_STATUS": f"{listener.url}/repos/a/b",
        "TRIMTAB_CI_STATUS_TOKEN": "some-token",
        "TRIMTAB_CI_STATUS_COMMIT": "1" * 40,
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "TERM": "xterm",
    }.items():
        monkeypatch.setenv(name, value)
    outputs: dict[str, bytes] = {}
    with docker_registry(tmp_path / "registry", login=True) as host:
        asyncio.run(answering(host))
        (project / "ship.py").write_text(SHIP.replace("HOST", host))
        status, outputs["terminal"] = on_a_terminal(["run", "-C", str(project), "-v", "-p", f"note={AWKWARD}"])
    assert status == 1, outputs["terminal"].decode(errors="replace")[-3000:]
    for command in (
        ["run", "-o", "json"],
        ["log", "last/bad"],
        ["log", "last/good"],
        ["why", "bad"],
        ["why", "good"],
        ["history"],
        ["tests", "-n", "500"],
        ["tests", "-o", "json", "-n", "500"],
        ["report", "--to", str(tmp_path / "report.html")],
        ["tests", "--html", str(tmp_path / "heat.html")],
    ):
        capsys.readouterr()
        main([command[0], "-C", str(project), *command[1:]])
        said = capsys.readouterr()
        outputs[" ".join(command)] = (said.out + said.err).encode(errors="surrogateescape")
    for name in ("summary.md", "report.html", "heat.html"):
        outputs[name] = (tmp_path / name).read_bytes()
    for path, _, body in listener.taken:
        outputs[f"posted to {path}"] = outputs.get(f"posted to {path}", b"") + body
    for top in ("state", "registry"):
        for path in (tmp_path / top).rglob("*"):
            kept = path.relative_to(tmp_path).parts[1] in ("uppers", "rootfs", "images")
            if path.is_file() and not path.is_symlink() and not kept:
                outputs[str(path.relative_to(tmp_path))] = path.read_bytes()

    # The corpus was printed, and has come everywhere without its secrets.
    assert outputs["terminal"].count(b"***") > 10
    assert outputs["log last/good"].count(b"***") > 10
    for name in ("log last/bad", "report.html", "heat.html", "summary.md", "tests -n 500"):
        assert b"***" in outputs[name], name
    assert b"failure" in outputs[f"posted to /repos/a/b/statuses/{'1' * 40}"]
    statements = [plain for data in outputs.values() for plain in unpacked(data) if b'"externalParameters"' in plain]
    assert any(b'"note":"***"' in one for one in statements)
    leaks = []
    for name, data in outputs.items():
        for plain in unpacked(data):
            bare = b"".join(plain.split())
            leaks += [f"{name}: {form!r}" for needle, form in needles().items() if needle in bare]
    assert leaks == []


def test_the_corpus_would_be_found(tmp_path: Path) -> None:
    for needle, form in needles().items():
        assert needle in b"".join(next(reversed(list(unpacked(gzip.compress(b"x " + form))))).split())
