"""Ingress objects in, one route table out: which host and path goes to which service, decided oldest first.

All Ingresses of the class meet here, and only here. Each rule becomes a `Route` under its host; when two Ingresses
declare the same host, path and path type, the older one keeps it and the younger one is told so by a `Problem`. Bad
input (a host that is no name, a path without a slash) is left out with a problem of its own, so that one Ingress never
stops the others. Nothing here knows Envoy; `envoy_config` turns the table into its language.

How a request finds its route: the most specific host that has a rule for the path (exact name, then `*.name` for
exactly one label, then rules without a host), and within a host the exact path, then the longest prefix by path
elements. What no rule matches goes to a default backend, if there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from trimtab.api import Ref
from trimtab.api.networking import HTTPIngressPath, Ingress, IngressBackend

CLASS = "trimtab"
"""The IngressClass whose Ingresses this component serves."""

CLASS_ANNOTATION = "kubernetes.io/ingress.class"
SSL_REDIRECT = "nginx.ingress.kubernetes.io/ssl-redirect"
BODY_SIZE = "nginx.ingress.kubernetes.io/proxy-body-size"
READ_TIMEOUT = "nginx.ingress.kubernetes.io/proxy-read-timeout"
UNDERSTOOD = frozenset({SSL_REDIRECT, BODY_SIZE, READ_TIMEOUT})
"""The annotations of the field's best known controller that are acted on here; others of its prefix get a warning."""

BODY_BYTES_MAX = 1 << 30
"""A request that announces a longer body is answered 413, unless `proxy-body-size` says otherwise."""
READ_TIMEOUT_S = 300
"""A stream on which nothing moves for so long ends with 504, unless `proxy-read-timeout` says otherwise."""

BACKENDS_MAX = 4096

ACME_PREFIX = "/.well-known/acme-challenge"

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
_PATH = re.compile(r"/[^?#\x00-\x20\x7f]*")
_SIZE = re.compile(r"(\d+)([kKmMgG]?)")


@dataclass(frozen=True, order=True, slots=True)
class Backend:
    """A port of a service; `port` is its name or number as the Ingress has it."""

    namespace: str
    service: str
    port: str

    @property
    def cluster(self) -> str:
        """The name of Envoy's cluster for it: `shop/web:80`."""
        return f"{self.namespace}/{self.service}:{self.port}"

    @property
    def service_ref(self) -> Ref:
        return Ref("v1", "Service", self.namespace, self.service)


@dataclass(frozen=True, slots=True)
class Route:
    """One path of one host. `exact` or else a prefix by path elements; `path` has no slash at its end except "/"."""

    path: str
    exact: bool
    backend: Backend
    ingress: Ref
    redirect: bool = False
    """True: over plain HTTP it is answered with a redirect to HTTPS."""
    body_bytes_max: int = BODY_BYTES_MAX
    """0: no limit."""
    idle_timeout_s: int = READ_TIMEOUT_S

    @property
    def everything(self) -> bool:
        return self.path == "/" and not self.exact

    @property
    def order(self) -> tuple[bool, int, str]:
        """Sorts exact paths first, then long prefixes before short ones."""
        return (not self.exact, -len(self.path), self.path)

    def covers(self, path: str) -> bool:
        """True when a request for `path` (or anything below it) would take this prefix route."""
        return not self.exact and (self.path == "/" or path == self.path or path.startswith(self.path + "/"))


@dataclass(frozen=True, slots=True)
class Certificate:
    """The Secret that answers for `hosts`; no hosts: it answers for every name that no other certificate covers."""

    namespace: str
    secret: str
    hosts: tuple[str, ...]
    ingress: Ref


@dataclass(frozen=True, order=True, slots=True)
class Problem:
    """Something about an Ingress that does not work: a reason of the component's `conditions`, one line for a user."""

    ingress: Ref
    reason: str
    message: str


@dataclass(frozen=True)
class Table:
    """hosts maps a host pattern ("" is any host) to its routes in order of precedence; `fallback` takes the rest."""

    hosts: dict[str, tuple[Route, ...]] = field(default_factory=dict)
    fallback: Route | None = None
    certificates: tuple[Certificate, ...] = ()
    problems: tuple[Problem, ...] = ()

    def backends(self) -> list[Backend]:
        """Every backend that some route names, once, in a stable order."""
        found = {route.backend for routes in self.hosts.values() for route in routes}
        if self.fallback:
            found.add(self.fallback.backend)
        return sorted(found)

    def effective(self, host: str) -> list[Route]:
        """The routes that a request for `host` is matched against, first match wins: its own, those of the wildcard
        that covers it, those without a host, the fallback; nothing after one that takes everything."""
        layers = [self.hosts.get(host, ())]
        if host and not host.startswith("*."):
            layers.append(self.hosts.get(wildcard_of(host), ()))
        if host:
            layers.append(self.hosts.get("", ()))
        layers.append((self.fallback,) if self.fallback else ())
        out: list[Route] = []
        seen: set[tuple[str, bool]] = set()
        for layer in layers:
            for route in layer:
                if (route.path, route.exact) not in seen:
                    seen.add((route.path, route.exact))
                    out.append(route)
            if any(route.everything for route in layer):
                break
        return out


def wildcard_of(host: str) -> str:
    """`*.example.com` for `a.example.com`: the only wildcard that covers it, since `*` stands for one label."""
    return "*." + host.partition(".")[2]


def is_mine(ingress: Ingress, *, default_class: bool) -> bool:
    """Whether the Ingress asks for this controller, by class, by the old annotation, or by naming none when this is
    the default class."""
    name = ingress.spec.ingress_class_name or ingress.metadata.annotations.get(CLASS_ANNOTATION)
    return name == CLASS or (not name and default_class)


def by_age(ingresses: Iterable[Ingress]) -> list[Ingress]:
    """Oldest first, then by namespace and name: the order in which conflicts are decided."""
    newest = datetime.max.replace(tzinfo=UTC)
    return sorted(ingresses, key=lambda i: (i.metadata.creation_timestamp or newest, i.namespace or "", i.name))


def generated_secret(ingress: Ingress) -> str:
    """The Secret for a `tls` entry that names none."""
    return f"{ingress.name[:240]}-engine-tls"


def build(ingresses: Sequence[Ingress], *, backends_max: int = BACKENDS_MAX) -> Table:
    """The route table of all Ingresses of the class (deleting ones are to be left out by the caller). Backends beyond
    `backends_max` are left out, the youngest first."""
    return _Builder(backends_max).add_all(by_age(ingresses))


class _Builder:
    def __init__(self, backends_max: int) -> None:
        self.backends_max = backends_max
        self.backends: set[Backend] = set()
        self.hosts: dict[str, dict[tuple[str, bool], Route]] = {}
        self.certificates: dict[tuple[str, str], Certificate] = {}
        self.cert_of_host: dict[str, Certificate] = {}
        self.fallback: Route | None = None
        self.defaults: list[tuple[list[str], Route]] = []
        self.problems: list[Problem] = []

    def add_all(self, ingresses: Sequence[Ingress]) -> Table:
        for ingress in ingresses:
            self._add_certificates(ingress)
        for ingress in ingresses:
            self._add_rules(ingress)
        for hosts, route in self.defaults:
            for host in hosts:
                self.hosts.setdefault(host, {}).setdefault(("/", False), route)
            self.fallback = self.fallback or route
        return Table(
            hosts={
                host: tuple(sorted(routes.values(), key=lambda route: route.order))
                for host, routes in sorted(self.hosts.items())
                if routes
            },
            fallback=self.fallback,
            certificates=tuple(self.certificates.values()),
            problems=tuple(dict.fromkeys(self.problems)),
        )

    def _problem(self, ingress: Ingress, reason: str, message: str) -> None:
        self.problems.append(Problem(ingress.ref, reason, message))

    # TLS

    def _add_certificates(self, ingress: Ingress) -> None:
        for entry in ingress.spec.tls:
            hosts = (
                [h.lower() for h in entry.hosts] or [(rule.host or "").lower() for rule in ingress.spec.rules] or [""]
            )
            key = (ingress.namespace or "", entry.secret_name or generated_secret(ingress))
            mine = [host for host in hosts if self._may_certify(ingress, host, key)]
            if not mine:
                continue
            old = self.certificates.get(key)
            names = dict.fromkeys([*(old.hosts if old else ()), *(h for h in mine if h)])
            certificate = Certificate(*key, tuple(names), old.ingress if old else ingress.ref)
            self.certificates[key] = certificate
            for host in mine:
                self.cert_of_host[host] = certificate

    def _may_certify(self, ingress: Ingress, host: str, key: tuple[str, str]) -> bool:
        if host and not _HOST.fullmatch(host):
            self._problem(
                ingress,
                "InvalidHost",
                f'spec.tls: "{host}" is no host name; write it like shop.example.com or *.example.com',
            )
            return False
        taken = self.cert_of_host.get(host)
        if taken is None or (taken.namespace, taken.secret) == key:
            return True
        self._problem(
            ingress,
            "CertificateTaken",
            f"spec.tls: {taken.ingress}, which is older, already answers for {host or 'all other hosts'} with Secret"
            f" {taken.namespace}/{taken.secret}; name the host in one Ingress only",
        )
        return False

    # Rules

    def _add_rules(self, ingress: Ingress) -> None:
        hosts: list[str] = []
        for number, rule in enumerate(ingress.spec.rules):
            host = (rule.host or "").lower()
            if host and not _HOST.fullmatch(host):
                self._problem(
                    ingress,
                    "InvalidHost",
                    f'spec.rules[{number}].host: "{rule.host}" is no host name; write it like shop.example.com or *.example.com',
                )
                continue
            hosts.append(host)
            for at, path in enumerate(rule.http.paths if rule.http else []):
                self._add_path(ingress, host, path, f"spec.rules[{number}].http.paths[{at}]")
        if ingress.spec.default_backend:
            backend = self._backend(ingress, ingress.spec.default_backend, "spec.defaultBackend")
            if backend:
                redirect = (
                    self._redirects(ingress, "") if not hosts else any(self._redirects(ingress, h) for h in hosts)
                )
                route = self._route(ingress, "/", False, backend, redirect)
                if not hosts and any(not taken for taken, _ in self.defaults):
                    self._problem(
                        ingress,
                        "PathTaken",
                        "spec.defaultBackend: an older Ingress already takes all requests that match no rule; keep one of them",
                    )
                else:
                    self.defaults.append((hosts, route))

    def _add_path(self, ingress: Ingress, host: str, path: HTTPIngressPath, where: str) -> None:
        text = path.path or "/"
        if not _PATH.fullmatch(text):
            self._problem(ingress, "InvalidPath", f'{where}.path: "{text}" must start with / and hold no ?, # or space')
            return
        backend = self._backend(ingress, path.backend, f"{where}.backend")
        if backend is None:
            return
        exact = path.path_type == "Exact"
        if not exact:
            text = text.rstrip("/") or "/"
        routes = self.hosts.setdefault(host, {})
        taken = routes.get((text, exact))
        if taken is None:
            routes[text, exact] = self._route(ingress, text, exact, backend, self._redirects(ingress, host))
        elif taken.ingress != ingress.ref:
            self._problem(
                ingress,
                "PathTaken",
                f"{where}: {taken.ingress}, which is older, already serves {host or '*'}{text}; change the path or delete one",
            )
        elif taken.backend != backend:
            self._problem(
                ingress, "PathTaken", f"{where}: {host or '*'}{text} stands twice in this Ingress; the first one serves"
            )

    def _backend(self, ingress: Ingress, backend: IngressBackend, where: str) -> Backend | None:
        service = backend.service
        port = service and (service.port.name or (str(service.port.number) if service.port.number else None))
        if not service or not port:
            self._problem(ingress, "BackendUnsupported", f"{where}: only a service with a port can be served; name one")
            return None
        found = Backend(ingress.namespace or "", service.name, port)
        if found not in self.backends and len(self.backends) >= self.backends_max:
            self._problem(
                ingress,
                "ProxyFull",
                f"{where}: the proxy can serve {self.backends_max} services on this machine; raise the kernel's limit: "
                "sysctl -w fs.inotify.max_user_instances=8192",
            )
            return None
        self.backends.add(found)
        return found

    def _route(self, ingress: Ingress, path: str, exact: bool, backend: Backend, redirect: bool) -> Route:
        notes = ingress.metadata.annotations
        body, idle = BODY_BYTES_MAX, READ_TIMEOUT_S
        try:
            body = parse_size(notes[BODY_SIZE]) if BODY_SIZE in notes else body
            idle = parse_seconds(notes[READ_TIMEOUT]) if READ_TIMEOUT in notes else idle
        except ValueError as err:
            self._problem(ingress, "InvalidAnnotation", str(err))
        return Route(path, exact, backend, ingress.ref, redirect, body, idle)

    def _redirects(self, ingress: Ingress, host: str) -> bool:
        if ingress.metadata.annotations.get(SSL_REDIRECT) == "false":
            return False
        return host in self.cert_of_host or (bool(host) and wildcard_of(host) in self.cert_of_host)


def parse_size(text: str) -> int:
    """Bytes of `8m`, `100k`, `1g` or a plain number, as the annotation has them.

    Raises:
        ValueError: one line naming the annotation.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f'{BODY_SIZE}: "{text}" is no size; write it like 8m, 1g, or 0 for no limit')
    return int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2].lower()]


def parse_seconds(text: str) -> int:
    """Whole seconds above 0.

    Raises:
        ValueError: one line naming the annotation.
    """
    if not text.strip().isdigit() or not int(text):
        raise ValueError(f'{READ_TIMEOUT}: "{text}" is no number of seconds; write it like 60')
    return int(text)
