"""Whether one of a registry's keys signed what it serves: OpenPGP, checked by `gpgv`.

    armored keys --dearmored--> keyring; keyring, signature, data --gpgv--> its status lines: signed, by a key that has expired, not at all

By its exit status alone gpgv would take a revoked key, and would not take two signatures of which it knows one.
"""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from trimtab.components.infrastructure.programs.fetching import InstallError

BLOCK = re.compile(r"-----BEGIN PGP [^-\n]*-----(.*?)-----END PGP [^-\n]*-----", re.DOTALL)


def verify(what: str, data: bytes, signature: bytes, keys: list[str]) -> str:
    """Returns what there is to say of a signature that is good, or empty. keys: armored. Raises `InstallError` unless one of them made it."""
    program = shutil.which("gpgv")
    if program is None:
        raise InstallError("gpgv is missing, which checks providers' signatures: apt-get install gpgv")
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        files = {"keys.gpg": b"".join(dearmored(key) for key in keys), "sums.sig": signature, "sums": data}
        for name, content in files.items():
            (folder / name).write_bytes(content)
        command = [program, "--homedir", directory, "--status-fd", "1", "--keyring", str(folder / "keys.gpg")]
        done = subprocess.run(
            [*command, str(folder / "sums.sig"), str(folder / "sums")], capture_output=True, text=True, check=False
        )
    said = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("[GNUPG:] ")]
    states = {words[0] for words in said}
    if "GOODSIG" in states and "BADSIG" not in states:
        return ""
    if "EXPKEYSIG" in states and not states & {"BADSIG", "REVKEYSIG"}:
        return f"signed by a key that has expired ({next(words[1] for words in said if words[0] == 'EXPKEYSIG')})"
    if "REVKEYSIG" in states:
        why = "its key was revoked"
    elif "NODATA" in states:
        why = "it is no OpenPGP signature"
    else:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        why = lines[-1] if lines else "gpgv"
    raise InstallError(f"{what}: its signature is not good ({why}): nothing was installed")


def dearmored(text: str) -> bytes:
    """The bytes of ASCII-armored OpenPGP blocks (RFC 9580, 6.2), one or several. Raises `InstallError`."""
    try:
        found = b"".join(_body(match[1]) for match in BLOCK.finditer(text))
    except ValueError:
        found = b""
    if not found:
        raise InstallError("the registry's key is no OpenPGP key")
    return found


def _body(block: str) -> bytes:
    lines = [line.strip() for line in block.strip("\r\n").splitlines()]
    while lines and ":" in lines[0]:
        lines.pop(0)
    return base64.b64decode("".join(line for line in lines if line and not line.startswith("=")), validate=True)
