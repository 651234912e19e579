"""What an image should be: `ImageSpec`, declared by an app, checked before anything is fetched or run.

A spec is turned into at most four layers, the slowest to change first: Debian base, further Debian packages, Python
packages, the user's own files. Or the image is a Dockerfile's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

import msgspec

from trimtab.content.errors import BadReference, BadSpec
from trimtab.content.reference import parse_reference

LOCAL_REGISTRY = "trimtab.local"

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(?:=[A-Za-z0-9.+:~-]+)?")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}|[0-9]{1,9}")
_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_PLATFORMS = ("linux/amd64", "linux/arm64")


class ImageSpec(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One image. Paths in the image are absolute; paths of sources are relative to the build's context directory."""

    name: str
    """The repository: `shipnotes` or `shop/web`. The image becomes `trimtab.local/NAME@sha256:...`."""
    from_: str | None = msgspec.field(default=None, name="from")
    """An image to build on, from the local store or a registry. Without it: Debian's Python if `python` is given,
    Debian's base files if only `debian` is, else nothing."""
    debian: list[str] = []
    """Debian packages, each with what it depends on."""
    omit: list[str] = []
    """Debian packages to leave out although something depends on them."""
    python: list[str] | str | None = None
    """Requirements, or the path of a requirements.txt or pyproject.toml. An empty list: Python without packages."""
    wheels_only: bool = True
    """Refuse Python packages that have no wheel. False runs their build scripts on this machine."""
    files: dict[str, str] = {}
    """{path in the image: file or directory of the context}."""
    inline: dict[str, str] = {}
    """{path in the image: text}; executable if the text starts with `#!`."""
    links: dict[str, str] = {}
    """{path in the image: what this symbolic link points to}."""
    ignore: list[str] = []
    """Patterns of files to leave out, as in a .dockerignore; the context's own .dockerignore counts too."""
    exclude: list[str] = []
    """Globs of files of Debian packages to leave out, such as `/usr/lib/postgresql/*/lib/bitcode/*`."""
    writable: list[str] = []
    """Directories that belong to `user`."""
    env: dict[str, str] = {}
    user: str | None = None
    """A name (made if Debian's base does not have it) or a number. Default: `app` (1000) with `python`, else root."""
    uid: int = 1000
    """The number of a user that is made."""
    workdir: str | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    ports: list[int] = []
    labels: dict[str, str] = {}
    stop_signal: str = ""
    platform: str | None = None
    """`linux/amd64` or `linux/arm64`; default: this machine's. No emulation is needed for another."""
    dockerfile: str | None = None
    """A Dockerfile in the context, built by buildah; then only `name`, `labels` and `platform` may be set besides."""
    build_args: dict[str, str] = {}
    """For the Dockerfile's ARGs."""

    def check(self) -> None:
        """Raises BadSpec with one line that names the field."""
        for found in _problems(self):
            raise BadSpec(f"image {self.name or '?'}: {found}")


def _problems(spec: ImageSpec) -> Iterator[str]:
    """Each thing that is wrong, without the image's name."""
    try:
        reference = parse_reference(f"{LOCAL_REGISTRY}/{spec.name}")
        if reference.tag != "latest" or reference.digest or ":" in spec.name:
            yield f"name {spec.name!r} must not have a tag or digest"
    except BadReference:
        yield f"name {spec.name!r} must be lower-case letters, digits, '-', '.', '/'"
    if spec.from_ is not None:
        try:
            parse_reference(spec.from_)
        except BadReference as error:
            yield f"from: {error}"
    for field in ("debian", "omit"):
        for package in getattr(spec, field):
            if not _PACKAGE.fullmatch(package):
                yield f"{field}: {package!r} is not a Debian package name"
    for field in ("files", "inline", "links"):
        for path in getattr(spec, field):
            if not _is_inside(path) and not (field == "files" and path == "/"):
                yield f"{field}: {path!r} must be an absolute path in the image, without '..'"
    for path, source in spec.files.items():
        if PurePosixPath(source).is_absolute() or ".." in PurePosixPath(source).parts:
            yield f"files: {source!r} (for {path}) must be inside the project directory"
    for path in spec.writable:
        if not _is_inside(path):
            yield f"writable: {path!r} must be an absolute path in the image, without '..'"
    if spec.workdir is not None and not spec.workdir.startswith("/"):
        yield f"workdir: {spec.workdir!r} must be absolute"
    if spec.user is not None and not _USER.fullmatch(spec.user):
        yield f"user: {spec.user!r} must be a name or a number"
    for name in spec.env:
        if not _ENV.fullmatch(name):
            yield f"env: {name!r} is not a variable name"
    for port in spec.ports:
        if not 0 < port < 65536:
            yield f"ports: {port} is not between 1 and 65535"
    if spec.platform is not None and spec.platform not in _PLATFORMS:
        yield f"platform: {spec.platform!r} is not one of {', '.join(_PLATFORMS)}"
    if spec.dockerfile is not None:
        allowed = ("name", "dockerfile", "build_args", "labels", "platform", "omit", "exclude")
        for field in spec.__struct_fields__:
            if field not in allowed and getattr(spec, field) != getattr(ImageSpec(name=spec.name), field):
                yield f"{field.rstrip('_')} cannot be set together with dockerfile; say it in the Dockerfile"
    elif spec.build_args:
        yield "build_args are for a dockerfile, and there is none"


def _is_inside(path: str) -> bool:
    return path.startswith("/") and ".." not in PurePosixPath(path).parts and path != "/" and "\0" not in path
