"""Wheels of Trimtab as later releases might be: this source tree under another version number, with changes."""

from __future__ import annotations

import base64
import hashlib
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEFT_OUT = ("__pycache__",)
Changes = Mapping[str, tuple[str, str]]


def release_wheel(directory: Path, version: str, changes: Changes | None = None) -> Path:
    """Writes `trimtab-VERSION-py3-none-any.whl`. changes: file below src/trimtab -> (text that it has, text instead)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    path = directory / f"trimtab-{version}-py3-none-any.whl"
    left = dict(changes or {}) | {"__init__.py": ('__version__ = "0.1.0"', f'__version__ = "{version}"')}
    rows = []
    with zipfile.ZipFile(path, "w") as wheel:

        def add(name: str, content: bytes) -> None:
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(content)}")
            wheel.writestr(name, content)

        source = ROOT / "src" / "trimtab"
        for file in sorted(source.rglob("*")):
            if not file.is_file() or any(part in LEFT_OUT for part in file.parts):
                continue
            name = str(file.relative_to(source))
            content = file.read_bytes()
            if name in left:
                old, new = left.pop(name)
                assert old in content.decode(), f"{name} has no {old!r}"
                content = content.decode().replace(old, new).encode()
            add(f"trimtab/{name}", content)
        assert not left, f"no such files: {left}"
        info = f"trimtab-{version}.dist-info"
        needs = "".join(f"Requires-Dist: {need}\n" for need in project["dependencies"])
        add(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: trimtab\nVersion: {version}\n{needs}".encode())
        add(f"{info}/WHEEL", b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        add(f"{info}/entry_points.txt", b"[console_scripts]\ntrimtab = trimtab.cli:main\n")
        wheel.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,", ""]))
    return path
