"""What a user writes in `ship.py` or `ship.yaml`, checked before anything runs.

    from trimtab.ship import App, Image, Postgres, Process

    app = App(
        "shipnotes",
        image=Image(requirements="requirements.txt"),
        processes={"web": Process("gunicorn shipnotes:app", port=8000, health="/healthz")},
        database=Postgres(),
        migrate="python3 -m shipnotes.migrate",
        domains=["shipnotes.localhost"],
    )

Each constructor checks what it is given and raises `BadDeclaration`, whose text names the file and line, the field, and
the fix. The YAML form has the same fields; it passes through the same constructors.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from trimtab.components.apps.kinds import (
    DNS_LABEL,
    AppDatabase,
    AppMigration,
    AppProcess,
    AppSecret,
    AppSpec,
)
from trimtab.components.apps.kinds import (
    App as AppResource,
)
from trimtab.content.spec import ImageSpec

ENV_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
HOST_NAME = re.compile(r"^(\*\.)?([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)*[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
QUANTITY = re.compile(r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")
POSTGRES_VERSIONS = ("15",)
"""What Debian 12 carries."""


class BadDeclaration(ValueError):
    """`FILE:LINE: FIELD: what is wrong; what to write`."""


def _line_of_user() -> str:
    """`FILE:LINE` of the innermost caller outside of Trimtab, which is the user's file; empty when there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if frame.f_globals.get("__name__") == SHIP_MODULE:
            return f"{Path(name).name}:{frame.f_lineno}: "
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""


SHIP_MODULE = "__trimtab_ship__"
"""The `__name__` that a `ship.py` runs under, by which its frames are known."""


def _bad(field_name: str, problem: str) -> BadDeclaration:
    return BadDeclaration(f"{_line_of_user()}{field_name}: {problem}")


def _check_type(field_name: str, value: object, types: type | tuple[type, ...], what: str) -> None:
    if not isinstance(value, types) or (isinstance(value, bool) and types is int):
        raise _bad(field_name, f"expected {what}, got {value!r}")


def _command(field_name: str, command: object) -> list[str]:
    """A command as a list; a text is split as a shell would, but no shell will run it."""
    if isinstance(command, str):
        try:
            words = shlex.split(command)
        except ValueError as err:
            raise _bad(field_name, f"{command!r} cannot be split into words: {err}") from None
        shell = {"|", "&&", "||", ";", ">", "<", "&"} & set(words)
        if shell:
            raise _bad(
                field_name, f"{sorted(shell)[0]!r} needs a shell, and none runs this; put it in a script of the image"
            )
    elif isinstance(command, Sequence) and all(isinstance(word, str) for word in command):
        words = list(command)
    else:
        raise _bad(field_name, f"expected a text or a list of texts, got {command!r}")
    if not words:
        raise _bad(field_name, "is empty; write the program and its arguments")
    return words


def _env(field_name: str, env: object) -> dict[str, str]:
    if not isinstance(env, Mapping):
        raise _bad(field_name, f"expected a mapping of names to texts, got {env!r}")
    for name, value in env.items():
        if not isinstance(name, str) or not ENV_NAME.match(name):
            raise _bad(field_name, f"{name!r} is not an environment variable's name")
        if not isinstance(value, str):
            raise _bad(f"{field_name}.{name}", f"expected a text, got {value!r}; quote it")
    return dict(env)


@dataclass(frozen=True)
class Image:
    """How the app's image is made: from Debian packages, Python requirements and files; or FROM a reference; or a
    Dockerfile (needs buildah).

    requirements: a requirements file's path, or a list of requirements; installed as wheels.
    packages: Debian package names.
    files: what of the app's directory goes into the image at /app: paths or `{path in image: path here}`.
    base: an image reference to build upon, instead of the minimal Debian with Python.
    dockerfile: the path of a Dockerfile to build instead of all of the above.
    """

    requirements: str | Sequence[str] = ()
    packages: Sequence[str] = ()
    files: Sequence[str] | Mapping[str, str] = (".",)
    base: str | None = None
    dockerfile: str | None = None
    python: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.packages, str) or not all(isinstance(p, str) for p in self.packages):
            raise _bad("image.packages", f"expected a list of Debian package names, got {self.packages!r}")
        for package in self.packages:
            if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", package):
                raise _bad("image.packages", f"{package!r} is not a Debian package's name")
        if isinstance(self.files, str):
            raise _bad("image.files", f'expected a list, got a text; write ["{self.files}"]')
        if self.dockerfile and (self.requirements or self.packages or self.base):
            raise _bad("image.dockerfile", "a Dockerfile says it all; drop requirements, packages and base")

    def spec(self, name: str) -> ImageSpec:
        """What the image builder is asked for: the files under /app, which is also where commands start."""
        if self.dockerfile:
            return ImageSpec(name=name, dockerfile=self.dockerfile)
        files = self.files
        if not isinstance(files, Mapping):
            files = {"/app" if path in (".", "./") else f"/app/{path.strip('/')}": path for path in files}
        requirements = self.requirements if isinstance(self.requirements, str) else list(self.requirements)
        return ImageSpec(
            name=name,
            from_=self.base,
            debian=list(self.packages),
            python=requirements if requirements or (self.python and not self.base) else None,
            files=dict(files),
            workdir="/app",
        )


@dataclass(frozen=True)
class Process:
    """One kind of process: its command, and for a server its port and health path."""

    command: str | Sequence[str]
    port: int | None = None
    health: str | None = None
    scale: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    memory: str | None = None
    cpu: str | None = None
    grace_seconds: int = 30

    def __post_init__(self) -> None:
        _command("command", self.command)
        if self.port is not None:
            _check_type("port", self.port, int, "a port number")
            if not 1 <= self.port <= 65535:
                raise _bad("port", f"{self.port} is not a port; write 1 to 65535")
        if self.health is not None:
            _check_type("health", self.health, str, "a path")
            if not self.health.startswith("/"):
                raise _bad("health", f'{self.health!r} is not a path; write "/{self.health}"')
            if self.port is None:
                raise _bad("health", "a health path needs a port; add port=")
        _check_type("scale", self.scale, int, "a number of processes")
        if not 0 <= self.scale <= 100:
            raise _bad("scale", f"{self.scale} is out of range; write 0 to 100")
        _check_type("grace_seconds", self.grace_seconds, int, "a number of seconds")
        if not 1 <= self.grace_seconds <= 3600:
            raise _bad("grace_seconds", f"{self.grace_seconds} is out of range; write 1 to 3600")
        _env("env", self.env)
        for name in ("memory", "cpu"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and QUANTITY.match(value)):
                example = "256Mi" if name == "memory" else "500m"
                raise _bad(name, f'{value!r} is not a quantity; write for example "{example}"')


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server of the app's own, reached through the environment variable DATABASE_URL."""

    version: str = "15"
    storage: str = "1Gi"

    def __post_init__(self) -> None:
        if self.version not in POSTGRES_VERSIONS:
            raise _bad("database.version", f"{self.version!r} is not available; write {' or '.join(POSTGRES_VERSIONS)}")
        if not isinstance(self.storage, str) or not QUANTITY.match(self.storage):
            raise _bad("database.storage", f'{self.storage!r} is not a size; write for example "1Gi"')


@dataclass(frozen=True)
class Secret:
    """The source of a secret environment variable; its value never stands in `ship.py` or in the App."""

    source: AppSecret
    variable: str | None = None

    @classmethod
    def generated(cls, length: int = 43) -> Secret:
        """A random text, made once and kept."""
        _check_type("length", length, int, "a number of characters")
        if not 8 <= length <= 256:
            raise _bad("length", f"{length} is out of range; write 8 to 256")
        return cls(AppSecret(generate=length))

    @classmethod
    def of(cls, name: str, key: str) -> Secret:
        """A key of a Secret that exists in the app's namespace."""
        return cls(AppSecret(secret_name=name, key=key))

    @classmethod
    def from_env(cls, variable: str) -> Secret:
        """The value that `variable` has where `trimtab up` runs; it is kept in a Secret."""
        if not isinstance(variable, str) or not ENV_NAME.match(variable):
            raise _bad("variable", f"{variable!r} is not an environment variable's name")
        return cls(AppSecret(), variable)


@dataclass(frozen=True)
class App:
    """One web application. `ship.py` assigns it to a module variable."""

    name: str
    image: Image | str = field(default_factory=Image)
    processes: Mapping[str, Process] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    database: Postgres | None = None
    migrate: str | Sequence[str] | None = None
    domains: Sequence[str] = ()

    def __post_init__(self) -> None:
        _check_type("name", self.name, str, "a text")
        if not re.match(DNS_LABEL, self.name):
            raise _bad("name", f"{self.name!r} must be lower-case letters, digits and '-', 40 at most, a letter first")
        if not isinstance(self.image, Image | str):
            raise _bad("image", f"expected Image(...) or an image reference, got {self.image!r}")
        if not isinstance(self.processes, Mapping) or not self.processes:
            raise _bad("processes", 'name at least one, such as {"web": Process("gunicorn app:app", port=8000)}')
        for name, process in self.processes.items():
            if not isinstance(name, str) or not re.match(r"^[a-z]([-a-z0-9]{0,18}[a-z0-9])?$", name):
                raise _bad("processes", f"{name!r} must be lower-case letters, digits and '-', 20 at most")
            if not isinstance(process, Process):
                raise _bad(f"processes.{name}", f"expected Process(...), got {process!r}")
        _env("env", self.env)
        for name, secret in dict(self.secrets).items():
            if not ENV_NAME.match(name):
                raise _bad("secrets", f"{name!r} is not an environment variable's name")
            if not isinstance(secret, Secret):
                raise _bad(
                    f"secrets.{name}", "expected Secret.generated(), Secret.of(name, key) or Secret.from_env(variable)"
                )
        if self.database is not None and not isinstance(self.database, Postgres):
            raise _bad("database", f"expected Postgres(), got {self.database!r}")
        if self.migrate is not None:
            _command("migrate", self.migrate)
        if isinstance(self.domains, str):
            raise _bad("domains", f'expected a list, got a text; write ["{self.domains}"]')
        for domain in self.domains:
            if not isinstance(domain, str) or not HOST_NAME.match(domain) or len(domain) > 253:
                raise _bad(
                    "domains", f"{domain!r} is not a host name; write it in lower case, without https:// or a path"
                )
        if len(set(self.domains)) != len(self.domains):
            raise _bad("domains", "a name stands there twice; drop one")
        if self.domains and not any(p.port for p in self.processes.values()):
            raise _bad("domains", "no process has a port to send their requests to; add port= to one")

    def resource(self, namespace: str, image: str, database_image: str | None) -> AppResource:
        """The App object, with the images by digest."""
        spec = AppSpec(
            image=image,
            processes={
                name: AppProcess(
                    command=_command("command", p.command),
                    port=p.port,
                    health=p.health,
                    replicas=p.scale,
                    env=dict(p.env),
                    memory=p.memory,
                    cpu=p.cpu,
                    grace_seconds=p.grace_seconds,
                )
                for name, p in self.processes.items()
            },
            env=dict(self.env),
            secrets={
                name: secret.source if not secret.variable else AppSecret(secret_name=self.given_secret, key=name)
                for name, secret in self.secrets.items()
            },
            domains=list(self.domains),
        )
        if self.database is not None:
            assert database_image is not None, "an app with a database is given its image"
            spec.database = AppDatabase(image=database_image, storage=self.database.storage)
        if self.migrate is not None:
            spec.migration = AppMigration(command=_command("migrate", self.migrate))
        made = AppResource(spec=spec)
        made.metadata.name = self.name
        made.metadata.namespace = namespace
        return made

    @property
    def given_secret(self) -> str:
        """The Secret that keeps the values that `trimtab up` took from its environment."""
        return f"{self.name}-given"

    def given_values(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The values of `Secret.from_env`, read from `environ`.

        Raises:
            BadDeclaration: a variable is not set.
        """
        values = {}
        for name, secret in self.secrets.items():
            if secret.variable:
                if secret.variable not in environ:
                    raise BadDeclaration(
                        f"secrets.{name}: the environment variable {secret.variable} is not set; set it and run again"
                    )
                values[name] = environ[secret.variable]
        return values


# Reading the file


def load(directory: Path) -> App:
    """The app that `ship.py` or `ship.yaml` of the directory declares.

    Raises:
        BadDeclaration: no such file, two of them, a mistake in it; the text names file and line.
    """
    python, yaml = directory / "ship.py", directory / "ship.yaml"
    if not directory.is_dir():
        raise BadDeclaration(f"{directory}: no such directory")
    if python.exists() and yaml.exists():
        raise BadDeclaration(f"{directory}: has both ship.py and ship.yaml; keep one")
    if python.exists():
        return _load_python(python)
    if yaml.exists():
        return _load_yaml(yaml)
    raise BadDeclaration(f"{directory}: has no ship.py or ship.yaml; write one, see the README's ten lines")


def _load_python(path: Path) -> App:
    namespace: dict[str, Any] = {"__name__": SHIP_MODULE, "__file__": str(path)}
    try:
        code = compile(path.read_text("utf-8"), str(path), "exec")
    except (SyntaxError, UnicodeDecodeError) as err:
        line = getattr(err, "lineno", None) or 1
        raise BadDeclaration(f"ship.py:{line}: {getattr(err, 'msg', err)}") from None
    sys.path.insert(0, str(path.parent))
    try:
        exec(code, namespace)
    except BadDeclaration:
        raise
    except Exception as err:
        raise BadDeclaration(f"ship.py:{_line_in(path, err)}: {_told(err)}") from None
    finally:
        sys.path.remove(str(path.parent))
    apps = {id(v): v for v in namespace.values() if isinstance(v, App)}
    if len(apps) != 1:
        found = "none" if not apps else ", ".join(repr(a.name) for a in apps.values())
        raise BadDeclaration(f"ship.py: must assign exactly one App to a variable; found {found}")
    return next(iter(apps.values()))


def _told(err: Exception) -> str:
    """The exception in a line; of a misspelt field, what was meant."""
    if isinstance(err, TypeError) and (found := _UNKNOWN_FIELD.match(str(err))):
        known = {cls.__name__: [field.name for field in fields(cls)] for cls in _YAML_FIELDS}.get(found[1], [])
        if known:
            return f"{found[1]} has no field {found[2]!r}; known are {', '.join(known)}"
    return f"{type(err).__name__}: {err}"


def _line_in(path: Path, err: Exception) -> int:
    """The last line of `path` that the error passed through."""
    line, step = 1, err.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == str(path):
            line = step.tb_lineno
        step = step.tb_next
    return line


_UNKNOWN_FIELD = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")
_YAML_FIELDS: dict[type, tuple[str, ...]] = {
    App: ("name", "image", "processes", "env", "secrets", "database", "migrate", "domains"),
    Image: ("requirements", "packages", "files", "base", "dockerfile", "python"),
    Process: ("command", "port", "health", "scale", "env", "memory", "cpu", "graceSeconds"),
    Postgres: ("version", "storage"),
}


def _load_yaml(path: Path) -> App:
    import yaml

    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise BadDeclaration(f"ship.yaml:{line}: {getattr(err, 'problem', None) or err}") from None
    try:
        return _app_of_yaml(data)
    except BadDeclaration as err:
        raise BadDeclaration(f"ship.yaml: {err}") from None


def _arguments(cls: type, where: str, data: object) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise BadDeclaration(f"{where or 'the file'}: expected a mapping, got {data!r}")
    for key in data:
        if key not in _YAML_FIELDS[cls]:
            raise BadDeclaration(
                f"{where + '.' if where else ''}{key}: unknown field; known are {', '.join(_YAML_FIELDS[cls])}"
            )
    return {re.sub("[A-Z]", lambda m: "_" + m[0].lower(), k): v for k, v in data.items()}


def _made(cls: type, where: str, data: object) -> Any:
    arguments = _arguments(cls, where, data)
    try:
        return cls(**arguments)
    except BadDeclaration as err:
        raise BadDeclaration(f"{where + '.' if where else ''}{err}") from None
    except TypeError as err:
        raise BadDeclaration(f"{where or 'the file'}: {err}") from None


def _app_of_yaml(data: object) -> App:
    arguments = _arguments(App, "", data)
    if isinstance(arguments.get("image"), Mapping):
        arguments["image"] = _made(Image, "image", arguments["image"])
    processes = arguments.get("processes")
    if isinstance(processes, Mapping):
        arguments["processes"] = {n: _made(Process, f"processes.{n}", p) for n, p in processes.items()}
    if arguments.get("database") is not None:
        database = arguments["database"]
        arguments["database"] = _made(Postgres, "database", {} if database is True else database)
    if isinstance(arguments.get("secrets"), Mapping):
        arguments["secrets"] = {n: _secret_of_yaml(n, s) for n, s in arguments["secrets"].items()}
    if "name" not in arguments:
        raise BadDeclaration("name: missing; every app has one")
    return App(**arguments)


def _secret_of_yaml(name: str, data: object) -> Secret:
    match data:
        case {"generate": int(length)}:
            return Secret.generated(length)
        case {"env": str(variable)}:
            return Secret.from_env(variable)
        case {"secretName": str(secret), "key": str(key)}:
            return Secret.of(secret, key)
    raise BadDeclaration(
        f"secrets.{name}: write {{generate: LENGTH}}, {{env: VARIABLE}} or {{secretName: NAME, key: KEY}}"
    )
