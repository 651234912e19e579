"""Where a backup's objects are kept: a directory, or a bucket of an S3-compatible store.

Both do the same five things. Objects are written whole or not at all. A directory is flushed to disk once, before the commit
object is written; an S3 store acknowledges what it keeps.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from trimtab.engine.errors import EngineError

S3_ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
)
"""What is read of the environment, under the names that every S3 client knows."""
S3_TIMEOUT = "60s"
DELETED_AT_ONCE = 1000
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Stored:
    """An object that is there."""

    size: int
    modified_s: float


class Missing(EngineError):
    """There is no such object."""


class Objects(Protocol):
    """Named bytes. Names are relative paths of plain characters."""

    where: str
    """For messages: the directory, or `s3://bucket/prefix`."""

    def put(self, name: str, data: bytes) -> None:
        """Writes an object, replacing one of that name."""

    def get(self, name: str) -> bytes:
        """Raises `Missing`."""

    def list(self, prefix: str) -> dict[str, Stored]:
        """All objects whose name begins with `prefix`."""

    def delete(self, names: Iterable[str]) -> None:
        """Removes objects; what is not there is no failure."""

    def flush(self) -> None:
        """Returns once everything written so far survives a power loss."""


def open_objects(target: str, environment: dict[str, str] | None = None) -> Objects:
    """The store that a user means by `target`: a path, or `s3://bucket/prefix`.

    Raises:
        EngineError: it is neither.
    """
    if target.startswith("s3://"):
        return S3(target, dict(os.environ) if environment is None else environment)
    if "://" in target:
        raise EngineError(f"{target}: give a directory or s3://BUCKET/PREFIX")
    return Directory(Path(target).absolute())


class Directory:
    """Objects as files below one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.where = str(root)

    def put(self, name: str, data: bytes) -> None:
        path = self._root / name
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(data)
            partial.replace(path)
        except OSError as err:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise EngineError(f"{path} cannot be written: {err.strerror}") from None

    def get(self, name: str) -> bytes:
        try:
            return (self._root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise Missing(f"{self.where}: there is no {name}") from None
        except OSError as err:
            raise EngineError(f"{self._root / name} cannot be read: {err.strerror}") from None

    def list(self, prefix: str) -> dict[str, Stored]:
        found = {}

        def refuse(err: OSError) -> None:
            if not isinstance(err, FileNotFoundError):
                raise EngineError(f"{err.filename} cannot be read: {err.strerror}")

        for directory, _, files in os.walk(self._root / os.path.dirname(prefix), onerror=refuse):
            for file in files:
                path = os.path.join(directory, file)
                name = os.path.relpath(path, self._root)
                if name.startswith(prefix) and not file.startswith("."):
                    status = os.stat(path)
                    found[name] = Stored(status.st_size, status.st_mtime)
        return found

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                (self._root / name).unlink(missing_ok=True)
            except OSError as err:
                raise EngineError(f"{self._root / name} cannot be deleted: {err.strerror}") from None

    def flush(self) -> None:
        handle = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if _libc.syncfs(handle) != 0:
                raise EngineError(f"{self.where} cannot be written: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(handle)


class S3:
    """Objects in a bucket, through obstore."""

    def __init__(self, target: str, environment: dict[str, str]) -> None:
        from obstore.store import S3Store

        parts = urlsplit(target)
        if not parts.hostname or parts.query:
            raise EngineError(f"{target}: write s3://BUCKET/PREFIX")
        self.where = target.rstrip("/")
        given = {name: environment[name] for name in S3_ENVIRONMENT if environment.get(name)}
        endpoint = given.get("AWS_ENDPOINT_URL")
        options: Any = {"timeout": S3_TIMEOUT}
        if endpoint is not None and endpoint.startswith("http://"):
            options["allow_http"] = True
        for needed in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            if needed not in given:
                raise EngineError(f"{target}: {needed} is not set: export the store's access key")
        where: dict[str, Any] = {
            "prefix": parts.path.strip("/"),
            "session_token": given.get("AWS_SESSION_TOKEN", ""),
            "endpoint": endpoint or "",
        }
        self._store = S3Store(
            parts.netloc,
            access_key_id=given["AWS_ACCESS_KEY_ID"],
            secret_access_key=given["AWS_SECRET_ACCESS_KEY"],
            region=given.get("AWS_REGION", given.get("AWS_DEFAULT_REGION", "us-east-1")),
            virtual_hosted_style_request=endpoint is None,
            client_options=options,
            **{name: value for name, value in where.items() if value},
        )

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError:
            raise Missing(f"{self.where}: there is no {name}") from None
        except (BaseError, OSError) as err:
            raise EngineError(f"{self.where}: {name}: {_one_line(err)}") from None

    def put(self, name: str, data: bytes) -> None:
        import obstore

        with self._errors(name):
            obstore.put(self._store, name, data, use_multipart=False)

    def get(self, name: str) -> bytes:
        import obstore

        with self._errors(name):
            return bytes(obstore.get(self._store, name).bytes())

    def list(self, prefix: str) -> dict[str, Stored]:
        import obstore

        found = {}
        with self._errors(prefix):
            # The library matches whole path segments; the rest of the prefix is matched here.
            for batch in obstore.list(self._store, prefix.rpartition("/")[0] or None):
                for meta in batch:
                    if meta["path"].startswith(prefix):
                        found[meta["path"]] = Stored(meta["size"], meta["last_modified"].timestamp())
        return found

    def delete(self, names: Iterable[str]) -> None:
        import obstore

        wanted = list(names)
        with self._errors("deleting"):
            for start in range(0, len(wanted), DELETED_AT_ONCE):
                with contextlib.suppress(FileNotFoundError):
                    obstore.delete(self._store, wanted[start : start + DELETED_AT_ONCE])

    def flush(self) -> None:
        """What the store acknowledged is kept."""


def _one_line(err: BaseException) -> str:
    """The library's errors go on with a dump of themselves: the first line says it."""
    text = str(err).split("\n")[0].strip()
    return text if len(text) <= 300 else text[:297] + "..."
