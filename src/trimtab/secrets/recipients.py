"""Age keys. An identity (private) is found where SOPS looks for it; a recipient (public) is named in the file, or by `.sops.yaml`.

SOPS_AGE_KEY, SOPS_AGE_KEY_FILE, SOPS_AGE_KEY_CMD, $XDG_CONFIG_HOME/sops/age/keys.txt      AGE-SECRET-KEY-1... by lines
SOPS_AGE_SSH_PRIVATE_KEY_FILE, ~/.ssh/id_ed25519, ~/.ssh/id_rsa                            SSH keys without a passphrase
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.secrets.errors import SopsError

RULES_FILE = ".sops.yaml"
COMMAND_TIMEOUT_S = 60.0
_RULES = ("unencrypted_suffix", "encrypted_suffix", "unencrypted_regex", "encrypted_regex")
_OTHER_KEYS = ("kms", "pgp", "gcp_kms", "azure_keyvault", "hc_vault_transit_uri", "key_groups")
_SECRET = "AGE-SECRET-KEY-1"


@dataclass(frozen=True)
class Identities:
    """Private keys, and where they came from, for messages."""

    keys: Sequence[Any]
    places: Sequence[str]

    def __str__(self) -> str:
        return ", ".join(self.places) or "nowhere"


def key_file(env: Mapping[str, str] = os.environ) -> Path:
    """Where a person's age keys lie, by SOPS' convention."""
    base = env.get("XDG_CONFIG_HOME") or str(Path(env.get("HOME", "/")) / ".config")
    return Path(base) / "sops/age/keys.txt"


def identities(env: Mapping[str, str] = os.environ) -> Identities:
    """All private keys that there are.

    Raises:
        SopsError: what a variable names is not there or is no key.
    """
    keys: list[Any] = []
    places: list[str] = []
    for place, text in _sources(env):
        found = [_identity(line, place) for line in text.splitlines() if line.strip() and not line.startswith("#")]
        keys += found
        places.append(place)
    for path in _ssh_files(env):
        keys += _ssh_identity(path, asked="SOPS_AGE_SSH_PRIVATE_KEY_FILE" in env)
        places.append(str(path))
    return Identities(keys, places)


def _sources(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if env.get("SOPS_AGE_KEY"):
        yield "SOPS_AGE_KEY", env["SOPS_AGE_KEY"]
    if env.get("SOPS_AGE_KEY_FILE"):
        yield env["SOPS_AGE_KEY_FILE"], _read(Path(env["SOPS_AGE_KEY_FILE"]), "SOPS_AGE_KEY_FILE")
    if env.get("SOPS_AGE_KEY_CMD"):
        yield "SOPS_AGE_KEY_CMD", _output(env["SOPS_AGE_KEY_CMD"], env)
    path = key_file(env)
    if path.is_file():
        yield str(path), _read(path, "the file of age keys")


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as err:
        raise SopsError(f"{what}: {path} cannot be read: {getattr(err, 'strerror', None) or 'no text'}") from None


def _output(command: str, env: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            shlex.split(command), env=dict(env), capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as err:
        raise SopsError(f"SOPS_AGE_KEY_CMD cannot be run: {err}") from None
    if done.returncode:
        raise SopsError(f"SOPS_AGE_KEY_CMD failed with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout


def _identity(line: str, place: str) -> Any:
    import pyrage

    text = line.strip()
    if text.startswith("AGE-SECRET-KEY-PQ-"):
        raise SopsError(f"{place}: post-quantum age keys cannot be used yet; use one of `age-keygen` without -pq")
    if not text.startswith(_SECRET):
        raise SopsError(f"{place}: there is a line that is no age key; keys begin with {_SECRET}")
    try:
        return pyrage.x25519.Identity.from_str(text)
    except pyrage.IdentityError:
        raise SopsError(f"{place}: an age key is damaged (its checksum is wrong)") from None


def _ssh_files(env: Mapping[str, str]) -> list[Path]:
    if env.get("SOPS_AGE_SSH_PRIVATE_KEY_FILE"):
        return [Path(env["SOPS_AGE_SSH_PRIVATE_KEY_FILE"])]
    home = Path(env.get("HOME", "/")) / ".ssh"
    return [path for path in (home / "id_ed25519", home / "id_rsa") if path.is_file()]


def _ssh_identity(path: Path, *, asked: bool) -> list[Any]:
    import pyrage

    try:
        return [pyrage.ssh.Identity.from_buffer(path.read_bytes())]
    except (OSError, pyrage.IdentityError):
        if asked:
            raise SopsError(f"SOPS_AGE_SSH_PRIVATE_KEY_FILE: {path} is no SSH key without a passphrase") from None
        return []


def recipient(text: str) -> Any:
    """A public key: `age1...` or a line of `id_ed25519.pub`. Raises `SopsError`."""
    import pyrage

    try:
        if text.startswith(("ssh-ed25519 ", "ssh-rsa ")):
            return pyrage.ssh.Recipient.from_str(text)
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        raise SopsError(f"{text!r} is no age recipient; write age1..., as `trimtab secret key` prints it") from None


def new_key(path: Path) -> str:
    """Makes an age key in a file that only its owner can read; returns the recipient.

    Raises:
        SopsError: there is a file already, or none can be made.
    """
    import pyrage

    key = pyrage.x25519.Identity.generate()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"# public key: {key.to_public()}\n{key}\n")
    except FileExistsError:
        raise SopsError(f"{path} is there already; it is never overwritten") from None
    except OSError as err:
        raise SopsError(f"{path} cannot be written: {err.strerror}") from None
    return str(key.to_public())


def own_recipients(found: Identities) -> list[str]:
    """The public halves of age keys (SSH keys have none here)."""
    return [str(key.to_public()) for key in found.keys if hasattr(key, "to_public")]


@dataclass(frozen=True)
class Rules:
    """For whom new files are, and what in them is encrypted. selection: as it goes into the file's own part."""

    recipients: Sequence[str]
    selection: Mapping[str, Any] = field(default_factory=dict)


def rules_for(path: Path) -> Rules | None:
    """What the nearest `.sops.yaml` above a file says about it; None when there is none.

    Raises:
        SopsError: it cannot be read, no rule fits, or it asks for what cannot be done here.
    """
    path = path.absolute()
    for directory in path.parents:
        file = directory / RULES_FILE
        if file.is_file():
            return _rules(file, str(path.relative_to(directory)))
    return None


def _rules(file: Path, relative: str) -> Rules | None:
    import yaml

    try:
        doc = yaml.safe_load(_read(file, RULES_FILE))
    except yaml.YAMLError as err:
        raise SopsError(f"{file}: no YAML: {' '.join(str(err).split())}") from None
    entries = doc.get("creation_rules") if isinstance(doc, dict) else None
    if not entries:
        return None
    for number, entry in enumerate(entries, 1):
        where = f"{file}: rule {number}"
        if not isinstance(entry, dict):
            raise SopsError(f"{where} is no mapping")
        try:
            fits = not entry.get("path_regex") or re.search(entry["path_regex"], relative)
        except re.error as err:
            raise SopsError(f"{where}: path_regex: {err}") from None
        if fits:
            return _rule(entry, where)
    raise SopsError(f"{file}: no rule fits {relative}; add one with `path_regex` and `age`")


def _rule(entry: Mapping[str, Any], where: str) -> Rules:
    other = [key for key in (*_OTHER_KEYS, "unencrypted_comment_regex", "encrypted_comment_regex") if entry.get(key)]
    if other:
        raise SopsError(f"{where}: {other[0]} is not known here; make this file with sops, or use `age`")
    named = entry.get("age") or ()
    found = named.split(",") if isinstance(named, str) else named
    recipients = [text.strip() for text in found if text.strip()]
    if not recipients:
        raise SopsError(f"{where} names no `age` recipient")
    selection = {key: entry[key] for key in _RULES if entry.get(key)}
    if entry.get("mac_only_encrypted"):
        selection["mac_only_encrypted"] = True
    return Rules(recipients, selection)
