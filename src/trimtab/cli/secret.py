"""`trimtab secret`: SOPS files with age keys. Needs no engine; what it writes, sops reads, and the other way round."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trimtab.cli.output import output_option

if TYPE_CHECKING:
    from trimtab.secrets.recipients import Rules
    from trimtab.secrets.sops import Opened

_FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
_AGE = click.option("--age", "recipients", multiple=True, metavar="RECIPIENT", help="Who can read it; repeat for more.")
MEMORY = Path("/dev/shm")


@click.group()
def secret() -> None:
    """Secrets in git: SOPS files with age keys (YAML, JSON, dotenv, anything else as a whole).

    \b
    trimtab secret key --new                      your key; its public half goes into .sops.yaml
    trimtab secret set ci/secrets.yaml registry.password
    trimtab secret edit ci/secrets.yaml

    The public keys for new files come from the nearest .sops.yaml above them (creation_rules: path_regex, age), or from
    --age, or are your own. Private keys are found where sops finds them: SOPS_AGE_KEY, SOPS_AGE_KEY_FILE,
    ~/.config/sops/age/keys.txt, SSH keys.
    """


@secret.command()
@_FILE
@_AGE
def edit(file: Path, recipients: tuple[str, ...]) -> None:
    """Open a file's plain text in $EDITOR; made if it is not there. Values that stay keep their encrypted form.

    The plain text is in memory only (/dev/shm) while the editor runs, readable by you alone.
    """
    from trimtab.secrets import documents, sops
    from trimtab.secrets.errors import SopsError

    opened = sops.load(file) if file.exists() else None
    format = documents.format_of(file)
    text = before = opened.plain_text() if opened else _example(format)
    rules = None if opened else _rules(file, recipients)
    while True:
        text = _edited(text, file)
        if text == before:
            click.echo(f"{file}: nothing was changed")
            return
        try:
            out = opened.with_text(text) if opened else sops.encrypt(text, format, rules or _rules(file, recipients))
            break
        except SopsError as err:
            click.echo(f"trimtab: {file}: {err}", err=True)
            if not sys.stdin.isatty() or not click.confirm("Edit again? (no: the file stays as it was)", default=True):
                raise click.exceptions.Exit(1) from None
    sops.save(file, out)
    click.echo(f"{file}: {'written' if opened else 'made'}")


def _example(format: str) -> str:
    return {"yaml": "registry:\n  password: change me\n", "json": '{\n\t"password": "change me"\n}\n'}.get(
        format, "PASSWORD=change me\n" if format == "dotenv" else ""
    )


def _edited(text: str, file: Path) -> str:
    editor = os.environ.get("SOPS_EDITOR") or os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with _private(text, file.name) as path:
        try:
            done = subprocess.run([*shlex.split(editor), str(path)], check=False)
        except OSError as err:
            raise click.ClickException(
                f"the editor {editor!r} cannot be started ({err.strerror}); set EDITOR"
            ) from None
        if done.returncode:
            raise click.ClickException(f"the editor {editor!r} ended with {done.returncode}; {file} stays as it was")
        return path.read_text()


@contextmanager
def _private(text: str, name: str) -> Iterator[Path]:
    """A file in memory for one user, gone afterwards, also when we are told to end."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with tempfile.TemporaryDirectory(
            dir=MEMORY if os.access(MEMORY, os.W_OK) else None, prefix="trimtab-"
        ) as directory:
            path = Path(directory) / name
            path.touch(mode=0o600)
            path.write_text(text)
            yield path
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@secret.command("set")
@_FILE
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="The value is JSON: a number, a list, an object.")
@_AGE
def set_value(file: Path, key: str, as_json: bool, recipients: tuple[str, ...]) -> None:
    """Set one value, KEY by its names joined with dots. The value is asked for, or read from standard input.

    \b
    trimtab secret set ci/secrets.yaml registry.password
    pwgen 40 1 | trimtab secret set prod.env DB_PASSWORD

    It never stands on a command line, where others of this machine could see it.
    """
    from trimtab.secrets import change, documents, sops

    value: Any = _value(key)
    if as_json:
        try:
            value = json.loads(value)
        except ValueError as err:
            raise click.ClickException(f"the value is no JSON: {err}") from None
    steps = sops.split_key(key)
    if file.exists():
        opened = sops.load(file)
        out = opened.with_text(change.with_value(opened.plain_text(), opened.format, steps, value))
    else:
        format = documents.format_of(file)
        out = sops.encrypt(change.with_value("", format, steps, value), format, _rules(file, recipients))
    sops.save(file, out)
    click.echo(f"{file}: {key} is set")


def _value(key: str) -> str:
    if sys.stdin.isatty():
        return str(click.prompt(key, hide_input=True, confirmation_prompt=True))
    return sys.stdin.read().removesuffix("\n")


@secret.command()
@_FILE
@click.argument("key", required=False)
@output_option("text", "json")
def get(file: Path, key: str | None, fmt: str) -> None:
    """Print the whole plain text, or one value."""
    from trimtab.secrets import sops

    opened = sops.load(file)
    if key is not None:
        value = opened.value(key)
        click.echo(json.dumps(value) if fmt == "json" else value)
    elif fmt == "json":
        click.echo(json.dumps(opened.tree(), indent=2, ensure_ascii=False))
    else:
        click.echo(opened.plain_text(), nl=False)


@secret.command()
@_FILE
@_AGE
def encrypt(file: Path, recipients: tuple[str, ...]) -> None:
    """Encrypt a plain file where it is. What was committed in the clear stays in git's history: change those secrets."""
    from trimtab.secrets import documents, sops
    from trimtab.secrets.errors import SopsError

    try:
        sops.save(file, sops.encrypt(file.read_text(), documents.format_of(file), _rules(file, recipients)))
    except (OSError, UnicodeDecodeError) as err:
        raise SopsError(f"{file}: cannot be read: {getattr(err, 'strerror', None) or 'no text'}") from None
    except SopsError as err:
        raise SopsError(f"{file}: {err}") from None
    click.echo(f"{file}: encrypted")


@secret.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, exists=True, path_type=Path))
@click.option("--add-age", multiple=True, metavar="RECIPIENT", help="Who can read it from now on, too.")
@click.option("--rm-age", multiple=True, metavar="RECIPIENT", help="Who cannot read it any longer.")
def rotate(files: tuple[Path, ...], add_age: tuple[str, ...], rm_age: tuple[str, ...]) -> None:
    """Encrypt everything anew under a new key, for the same people or others.

    Who could read a file before can still read its old versions in git: after --rm-age, change the secrets themselves.
    """
    from trimtab.secrets import sops
    from trimtab.secrets.errors import SopsError

    written = {}
    for file in files:
        opened = sops.load(file)
        try:
            written[file] = opened.rotated(_changed(opened, add_age, rm_age)), len(opened.values)
        except SopsError as err:
            raise SopsError(f"{file}: {err}") from None
    for file, (out, count) in written.items():
        sops.save(file, out)
        click.echo(f"{file}: {count} value{'s' * (count != 1)} under a new key")


def _changed(opened: Opened, add: Sequence[str], remove: Sequence[str]) -> list[str]:
    from trimtab.secrets.errors import SopsError

    for recipient in remove:
        if recipient not in opened.recipients:
            raise SopsError(f"{recipient} cannot read it anyway; it is for {', '.join(opened.recipients)}")
    left = [*(r for r in opened.recipients if r not in remove), *add]
    if not left:
        raise SopsError("nobody could read it any longer; add somebody with --add-age")
    return left


@secret.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, exists=True, path_type=Path))
@output_option("table", "json")
def check(files: tuple[Path, ...], fmt: str) -> None:
    """Check that files can be opened with your keys and were not changed without them; shows who can read them."""
    from trimtab.cli.output import table
    from trimtab.secrets import sops
    from trimtab.secrets.errors import SopsError

    rows, failed = [], False
    for file in files:
        try:
            opened = sops.load(file)
            rows.append((str(file), "ok", len(opened.values), opened.recipients))
        except SopsError as err:
            failed = True
            rows.append((str(file), str(err).removeprefix(f"{file}: "), 0, []))
    if fmt == "json":
        names = ("file", "result", "values", "recipients")
        click.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2))
    else:
        shown = [[name, result, str(count), ", ".join(who)] for name, result, count, who in rows]
        table(["file", "result", "values", "recipients"], shown)
    if failed:
        raise click.exceptions.Exit(1)


@secret.command()
@click.option("--new", is_flag=True, help="Make one if there is none.")
def key(new: bool) -> None:
    """Print the public halves of your age keys: what others put into .sops.yaml so that you can read their files."""
    from trimtab.secrets import recipients
    from trimtab.secrets.errors import SopsError

    own = recipients.own_recipients(recipients.identities())
    if not own and new:
        path = recipients.key_file()
        own = [recipients.new_key(path)]
        click.echo(f"{path} is made; keep a copy of it in a safe place", err=True)
    if not own:
        raise SopsError(f"you have no age key; `trimtab secret key --new` makes {recipients.key_file()}")
    click.echo("\n".join(own))


def _rules(file: Path, named: Sequence[str]) -> Rules:
    """For whom a new file is: those named, else by .sops.yaml, else whoever makes it."""
    from trimtab.secrets import recipients
    from trimtab.secrets.errors import SopsError

    rules = recipients.rules_for(file)
    if named:
        return recipients.Rules(named, rules.selection if rules else {})
    if rules is not None:
        return rules
    own = recipients.own_recipients(recipients.identities())
    if not own:
        raise SopsError(
            f"nobody is named who could read {file}: say --age RECIPIENT, write .sops.yaml, or make a key with "
            "`trimtab secret key --new`"
        )
    return recipients.Rules(own)
