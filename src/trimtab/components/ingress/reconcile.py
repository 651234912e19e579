"""The two reconcilers: `certify` brings each Ingress its certificates, `configure` runs the proxy as a whole.

`configure` has one subject, the IngressClass `trimtab`, because the proxy is one thing: all Ingresses share its hosts and
ports, and a pod may stand behind several of them. A run looks at the API and at the proxy, writes the next documents, and
says in pod conditions what the proxy has acknowledged. While the proxy has something to do, it asks to be run again
shortly; when everything stands, nothing polls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from trimtab.api import JSON, Ref, to_wire
from trimtab.api.core import PROXIED, Pod, Secret, Service
from trimtab.api.networking import SERVICE_NAME_LABEL, EndpointSlice, Ingress, IngressClass
from trimtab.components.ingress import attached, certificates, envoy_config
from trimtab.components.ingress.backends import Upstream, pod_key, upstream
from trimtab.components.ingress.bootstrap import proxy_directory
from trimtab.components.ingress.certificates import CA_SECRET, Pair
from trimtab.components.ingress.endpoints import Address, Phase, Step, step
from trimtab.components.ingress.proxy import Proxy, Seen
from trimtab.components.ingress.publish import Plan, Wished, plan
from trimtab.components.ingress.routes import CLASS, Backend, Problem, Table, build, by_age, generated_secret, is_mine
from trimtab.runtime import Context, Desired, FieldWrite, Owned, Writes, reconciler
from trimtab.runtime.component import Outcome

POLL_S = 0.05
"""While the proxy is taking something in or draining. A swap of two pods takes some six looks."""
SILENT_POLL_S = 0.5
"""While the proxy does not answer: it is being started again."""
RENEWAL_CHECK_S = 86_400.0
"""No timer is longer, so that a machine that slept still renews in time."""

WATCH_SHARE = 0.7
"""Of the proxy's limit of watched files; the rest is for those that it is still draining."""
WATCHES_FIXED = 5
"""Listeners, clusters, two route files, and one for the user's other processes."""

DEFAULT_SECRET = "ingress-default"
"""In `trimtab-system`: answers for names that no Ingress brings a certificate for."""

DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"
PROBLEM = "proxy.trimtab.dev/problem"
"""Annotation of an Ingress: what does not work about it, in one line; absent when all works."""
CERT_MANAGER = ("cert-manager.io/cluster-issuer", "cert-manager.io/issuer")
"""Annotations that say that somebody else will bring the Secret."""


def is_default(ingress_class: IngressClass) -> bool:
    return ingress_class.metadata.annotations.get(DEFAULT_CLASS) == "true"


# Certificates


@reconciler(Ingress, reads=[IngressClass], owns=[Owned(Secret)])
async def certify(ingress: Ingress, ctx: Context) -> Outcome:
    """Issues the Secrets that an Ingress names for TLS and nobody has made."""
    ingress_class = await ctx.get(IngressClass, CLASS)
    if ctx.deleting or ingress_class is None or not is_mine(ingress, default_class=is_default(ingress_class)):
        return Desired()
    owned = {secret.name: secret for secret in await ctx.owned(Secret)}
    wanted: dict[str, list[str]] = {}
    for name in dict.fromkeys(entry.secret_name or generated_secret(ingress) for entry in ingress.spec.tls):
        present = await ctx.get(Secret, name, ingress.namespace)
        if (present is not None and name not in owned) or (present is None and _brought_by_others(ingress)):
            continue
        sharing = await _sharing(ctx, ingress, name, default_class=is_default(ingress_class))
        if name in owned or (sharing and sharing[0].ref == ingress.ref):
            wanted[name] = _tls_hosts(sharing, name)
    if not wanted:
        return Desired()
    ca = await _engine_ca(ctx)
    if isinstance(ca, str):
        ctx.log.warning("no certificate for %s: %s", ingress.ref, ca)
        return Desired(keep=[secret.ref for name, secret in owned.items() if name in wanted])
    keep: list[Ref] = []
    fresh: list[Secret] = []
    for name, hosts in wanted.items():
        secret = owned.get(name)
        if secret and certificates.still_good(secret, hosts, ca, ctx.now):
            keep.append(secret.ref)
            continue
        secret = await certificates.issue(ingress.namespace or "", name, hosts, ca, ctx.now)
        fresh.append(secret)
        ctx.event("CertificateIssued", f"{secret.ref} is good for {', '.join(hosts)} until {_until(secret)}")
    return Desired(
        objects=fresh,
        keep=keep,
        requeue_after_s=_renewal([*fresh, *(owned[ref.name] for ref in keep)], ctx.now),
    )


async def _sharing(ctx: Context, ingress: Ingress, secret: str, *, default_class: bool) -> list[Ingress]:
    """The Ingresses of the namespace that name the same Secret, oldest first; this one alone when it named none."""
    if secret == generated_secret(ingress):
        return [ingress]
    peers = await ctx.list(
        Ingress, ingress.namespace, where=lambda peer: any(entry.secret_name == secret for entry in peer.spec.tls)
    )
    return by_age(p for p in peers if p.metadata.deletion_timestamp is None and is_mine(p, default_class=default_class))


def _tls_hosts(ingresses: Sequence[Ingress], secret: str) -> list[str]:
    hosts: dict[str, None] = {}
    for ingress in ingresses:
        for entry in ingress.spec.tls:
            if (entry.secret_name or generated_secret(ingress)) == secret:
                named = [h.lower() for h in entry.hosts] or [r.host.lower() for r in ingress.spec.rules if r.host]
                hosts.update(dict.fromkeys(named))
    return list(hosts) or ["localhost"]


def _brought_by_others(ingress: Ingress) -> bool:
    return any(note in ingress.metadata.annotations for note in CERT_MANAGER)


async def _engine_ca(ctx: Context) -> Pair | str:
    """The engine's CA, or one line saying why there is none."""
    secret = await ctx.get(Secret, CA_SECRET.name, CA_SECRET.namespace)
    if secret is None:
        return f"{CA_SECRET} does not exist yet; the engine creates it at boot"
    try:
        return certificates.pair_of(secret)
    except ValueError as err:
        return str(err)


def _until(secret: Secret) -> str:
    return secret.metadata.annotations[certificates.NOT_AFTER][:10]


def _renewal(secrets: Sequence[Secret], now: datetime) -> float:
    due = [at for secret in secrets if (at := certificates.renew_at(secret))]
    return min([RENEWAL_CHECK_S, *((at - now).total_seconds() + 1.0 for at in due)])


# The proxy


@reconciler(
    IngressClass,
    reads=[Service, EndpointSlice],
    owns=[Owned(Secret)],
    writes=[
        Writes(Pod, (f"status.conditions[{PROXIED}]",)),
        Writes(Ingress, ("status.loadBalancer", f"metadata.annotations[{PROBLEM}]")),
    ],
    workers=1,
    selects=lambda ingress_class: ingress_class.name == CLASS,
)
async def configure(ingress_class: IngressClass, ctx: Context) -> Outcome:
    """One look at the API and the proxy, and the next documents for it."""
    if ctx.deleting:
        return Desired()
    proxy = ctx.adapter(Proxy)  # type: ignore[type-abstract]
    seen = await proxy.observe()
    ingresses = [
        i
        for i in await ctx.list(Ingress)
        if i.metadata.deletion_timestamp is None and is_mine(i, default_class=is_default(ingress_class))
    ]
    budget = watch_budget(proxy.watches_max)
    table = build(ingresses, backends_max=budget)
    look = await _look_at_backends(ctx, proxy, table, seen)
    certs = await _look_at_certificates(ctx, proxy, table)
    certs.fit(table, budget - len(table.backends()))
    todo = _publish(proxy, table, look, certs, seen)
    problems = [*table.problems, *look.problems(table), *certs.problems, *_refusals(proxy, table, todo.wished)]
    moving = any(s.moving for s in look.steps.values())
    for cluster, found in look.steps.items():
        for address, active in found.cut.items():
            ctx.event(
                "DrainCutShort",
                f"{address} of {cluster} had {active} requests left when its drain time was used up",
                warning=True,
            )
    waits = seen is None or moving or todo.plan.waiting
    poll_s = None if not waits else SILENT_POLL_S if seen is None else POLL_S
    return Desired(
        objects=certs.issued,
        keep=certs.keep,
        writes=[
            *_pod_writes(look),
            *_ingress_writes(ctx, proxy, await ctx.list(Ingress), ingresses, problems, todo.plan),
        ],
        requeue_after_s=poll_s if poll_s is not None else certs.renew_in_s,
    )


def watch_budget(watches_max: int) -> int:
    """How many endpoint and certificate files there may be: what is on its way out is watched for a while too."""
    return max(4, int(watches_max * WATCH_SHARE) - WATCHES_FIXED)


@dataclass
class _Backends:
    """What the API and the proxy say of every backend: by cluster, what is wanted and where each endpoint is."""

    pods: dict[tuple[str, str], Pod] = field(default_factory=dict)
    upstreams: dict[str, Upstream] = field(default_factory=dict)
    steps: dict[str, Step] = field(default_factory=dict)
    pod_of: dict[tuple[str, Address], str] = field(default_factory=dict)
    silent: bool = False

    def problems(self, table: Table) -> list[Problem]:
        out: dict[Problem, None] = {}
        for routes in [*table.hosts.values(), (table.fallback,)]:
            for route in routes:
                said = route and self.upstreams[route.backend.cluster].problem
                if route and said:
                    out[Problem(route.ingress, *said)] = None
        return list(out)

    def phases_of(self, pod: str) -> list[Phase]:
        """Where the endpoints of a pod (as `pod_key` names it) are, over all clusters."""
        phases = [
            s.phases[a] for (c, a), owner in self.pod_of.items() if owner == pod and a in (s := self.steps[c]).phases
        ]
        return [*phases, Phase.LEAVING] if self.silent else phases


async def _look_at_backends(ctx: Context, proxy: Proxy, table: Table, seen: Seen | None) -> _Backends:
    """Takes one step with every cluster that is routed to, or that the proxy still has."""
    documents = proxy.documents
    look = _Backends(silent=seen is None)
    look.pods = {(p.namespace or "", p.name): p for p in await ctx.list(Pod, where=attached.has_gate)}
    backends = {backend.cluster: backend for backend in table.backends()}
    leaving = [*envoy_config.clusters_of(documents.get(envoy_config.CLUSTERS)), *(seen.hosts if seen else ())]
    for cluster in leaving:
        backends.setdefault(cluster, _backend_of(cluster))
    for cluster, backend in sorted(backends.items()):
        written = envoy_config.endpoints_of(documents.get(envoy_config.endpoint_file_name(cluster)))
        service = await ctx.get(Service, backend.service, backend.namespace)
        slices = await ctx.list(EndpointSlice, backend.namespace, labels={SERVICE_NAME_LABEL: backend.service})
        targets = [e.target_ref for s in slices for e in s.endpoints if e.target_ref and e.target_ref.kind == "Pod"]
        names = {(t.namespace or backend.namespace, t.name) for t in targets}
        names |= {(w.pod.split("/")[0], w.pod.split("/")[1]) for w in written.values() if w.pod}
        for namespace, name in sorted(names - look.pods.keys()):
            if pod := await ctx.get(Pod, name, namespace):
                look.pods[namespace, name] = pod
        found = upstream(backend, service, slices, look.pods, written)
        hosts = None if seen is None else seen.hosts.get(cluster, {})
        taken = step(found.wanted, written, hosts, ctx.now.timestamp())
        look.upstreams[cluster] = found
        look.steps[cluster] = taken
        for address, before in written.items():
            look.pod_of[cluster, address] = before.pod
        for address, want in found.wanted.items():
            look.pod_of[cluster, address] = want.pod
    return look


def _backend_of(cluster: str) -> Backend:
    namespace, _, rest = cluster.partition("/")
    service, _, port = rest.partition(":")
    return Backend(namespace, service, port)


def _pod_writes(look: _Backends) -> list[FieldWrite]:
    claimed = {pod for found in look.upstreams.values() for pod in found.claimed}
    writes: list[FieldWrite] = []
    for pod in look.pods.values():
        if not attached.has_gate(pod):
            continue
        key = pod_key(pod)
        condition = attached.condition(pod, look.phases_of(key), wanted=key in claimed)
        before = attached.said(pod)
        if condition is None or (before and (before.status, before.reason) == (condition.status, condition.reason)):
            continue
        fields = {
            "type": condition.type,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message,
        }
        writes.append(FieldWrite(pod.ref, {"status": {"conditions": [fields]}}, "status"))
    return writes


# Certificates at the proxy


@dataclass
class _Certificates:
    """documents: secret files by `namespace/name`, to be watched; inline: those to be part of the listener instead.
    default: the secret for all names without one of their own. ours: those that this component issued."""

    documents: dict[str, JSON] = field(default_factory=dict)
    inline: dict[str, JSON] = field(default_factory=dict)
    ours: set[str] = field(default_factory=set)
    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    default: str | None = None
    problems: list[Problem] = field(default_factory=list)
    issued: list[Secret] = field(default_factory=list)
    keep: list[Ref] = field(default_factory=list)
    renew_in_s: float | None = None

    def fit(self, table: Table, watches_max: int) -> None:
        """Leaves no more than `watches_max` certificates to be watched by the proxy: of those that this component issued,
        which it knows to be good, the youngest become part of the listener; a renewal then ends the connections of that
        host gracefully. A stranger's certificate could spoil the listener for all, so one too many is not served."""
        excess = len(self.documents) - max(watches_max, 1)
        by_name = {f"{c.namespace}/{c.secret}": c for c in table.certificates}
        for name in reversed([n for n in by_name if n in self.chains and n in self.ours]):
            if excess > 0:
                self.inline[name] = self.documents.pop(name)
                excess -= 1
        for name in reversed([n for n in by_name if n in self.chains and n not in self.ours]):
            if excess > 0:
                del self.documents[name], self.chains[name]
                excess -= 1
                text = "spec.tls: the proxy can watch no more certificates; raise the kernel's limit: sysctl -w "
                text += "fs.inotify.max_user_instances=8192"
                self.problems.append(Problem(by_name[name].ingress, "ProxyFull", text))

    def add(self, secret: Secret, pair: Pair) -> str:
        name = f"{secret.namespace}/{secret.name}"
        if certificates.is_issued(secret):
            self.ours.add(name)
        self.documents[name] = envoy_config.secret_file(name, pair.chain, pair.key)
        return name


async def _look_at_certificates(ctx: Context, proxy: Proxy, table: Table) -> _Certificates:
    out = _Certificates()
    await _default_certificate(ctx, proxy, out)
    ca_problem = await _engine_ca(ctx)
    for certificate in table.certificates:
        secret = await ctx.get(Secret, certificate.secret, certificate.namespace)
        if secret is None:
            if isinstance(ca_problem, str):
                text = f"no certificate for {', '.join(certificate.hosts) or 'this Ingress'} yet: {ca_problem}"
                out.problems.append(Problem(certificate.ingress, "CertificateMissing", text))
            continue
        try:
            pair = certificates.pair_of(secret)
            if not certificates.is_issued(secret):
                out.problems += _doubts(certificate.ingress, secret, pair, certificate.hosts, ctx.now)
        except ValueError as err:
            text = f"spec.tls: {err}; HTTPS answers with the engine's own certificate until it is mended"
            out.problems.append(Problem(certificate.ingress, "SecretInvalid", text))
            continue
        name = out.add(secret, pair)
        if certificate.hosts:
            out.chains[name] = certificate.hosts
        else:
            out.default = name
    return out


def _doubts(ingress: Ref, secret: Secret, pair: Pair, hosts: Sequence[str], now: datetime) -> list[Problem]:
    """What is wrong with a certificate that is served all the same. Raises ValueError when it cannot be served."""
    try:
        until, names = certificates.inspect(pair)
    except ValueError as err:
        raise ValueError(f"{secret.ref}: {err}") from None
    missing = [host for host in hosts if not certificates.covers(names, host)]
    out = []
    if until <= now:
        text = f"spec.tls: the certificate in {secret.ref} expired on {until:%Y-%m-%d}; renew it"
        out.append(Problem(ingress, "CertificateExpired", text))
    if missing:
        text = f"spec.tls: the certificate in {secret.ref} is not for {', '.join(missing)}; browsers will warn"
        out.append(Problem(ingress, "CertificateMismatch", text))
    return out


async def _default_certificate(ctx: Context, proxy: Proxy, out: _Certificates) -> None:
    owned = next((s for s in await ctx.owned(Secret) if s.name == DEFAULT_SECRET), None)
    ca = await _engine_ca(ctx)
    hosts = list(dict.fromkeys(["localhost", proxy.settings.node_name, "127.0.0.1", proxy.address]))
    secret = owned
    if isinstance(ca, Pair):
        if owned is None or not certificates.still_good(owned, hosts, ca, ctx.now):
            secret = await certificates.issue(CA_SECRET.namespace or "", DEFAULT_SECRET, hosts, ca, ctx.now)
            out.issued.append(secret)
        else:
            out.keep.append(owned.ref)
    elif owned is not None:
        out.keep.append(owned.ref)
    if secret is not None:
        out.default = out.add(secret, certificates.pair_of(secret))
        out.renew_in_s = _renewal([secret], ctx.now)


# Documents


@dataclass(frozen=True)
class _Todo:
    wished: Wished
    plan: Plan


def _publish(proxy: Proxy, table: Table, look: _Backends, certs: _Certificates, seen: Seen | None) -> _Todo:
    """Writes the next documents."""
    settings = proxy.settings
    directory = proxy_directory(settings)
    routed = {backend.cluster for backend in table.backends()}
    used = {*certs.chains, *([certs.default] if certs.default else [])}
    wished = Wished(
        directory=directory,
        clusters={cluster: look.upstreams[cluster].http2 for cluster in sorted(routed)},
        endpoints={cluster: envoy_config.endpoint_file(cluster, s.write) for cluster, s in look.steps.items()},
        routes=envoy_config.route_files(table, settings.https_port, http_port=settings.http_port),
        listeners=envoy_config.listener_file(settings, directory, certs.chains, certs.default, certs.inline),
        secrets={name: doc for name, doc in certs.documents.items() if name in used},
    )
    todo = plan(wished, proxy.documents, seen, proxy.refused)
    for name, doc in todo.puts.items():
        proxy.write(name, doc)
    for name in todo.removes:
        proxy.remove(name)
    return _Todo(wished, todo)


def _refusals(proxy: Proxy, table: Table, wished: Wished) -> list[Problem]:
    """Who is to be told that the proxy refused a document that is still wished for."""
    out: list[Problem] = []
    wanted = {
        **wished.routes,
        envoy_config.LISTENERS: wished.listeners,
        **{envoy_config.secret_file_name(name): doc for name, doc in wished.secrets.items()},
    }
    for name, refusal in sorted(proxy.refused.items()):
        if name in wanted and wanted[name]["version_info"] != refusal.version:
            continue
        for ingress in _blamed(name, proxy, table, wished):
            text = f"the proxy refused {name} and keeps what it had: {refusal.reason}"
            out.append(Problem(ingress, "ProxyRefused", text))
    return out


def _blamed(name: str, proxy: Proxy, table: Table, wished: Wished) -> list[Ref]:
    """The Ingresses whose change a refused document carries: of a certificate those that name it, else those whose
    routes differ from the ones in place, else all."""
    if name.startswith("sds/"):
        return [
            c.ingress for c in table.certificates if envoy_config.secret_file_name(f"{c.namespace}/{c.secret}") == name
        ]
    before = envoy_config.routes_by_ingress([proxy.documents.get(n) for n in wished.routes])
    after = envoy_config.routes_by_ingress(wished.routes.values())
    refs = {str(route.ingress): route.ingress for routes in table.hosts.values() for route in routes}
    changed = [refs[name] for name in sorted(refs) if before.get(name) != after.get(name)]
    return changed or list(refs.values())


# Ingress status and problems


def _ingress_writes(
    ctx: Context,
    proxy: Proxy,
    everything: Sequence[Ingress],
    mine: Sequence[Ingress],
    problems: Sequence[Problem],
    todo: Plan,
) -> list[FieldWrite]:
    """The address of each Ingress that the proxy serves, and what does not work about each."""
    said: dict[Ref, list[Problem]] = {}
    for problem in dict.fromkeys(problems):
        said.setdefault(problem.ingress, []).append(problem)
    settled = not any(name.startswith(("rds.", envoy_config.LISTENERS)) for name in todo.waiting)
    served = envoy_config.routes_by_ingress(
        proxy.documents.get(name) for name in (envoy_config.ROUTES_HTTP, envoy_config.ROUTES_HTTPS)
    )
    writes: list[FieldWrite] = []
    for ingress in mine:
        if settled:
            balancer: JSON = {"ingress": [_reached_at(proxy)]} if str(ingress.ref) in served else {}
            if to_wire(ingress).get("status", {}).get("loadBalancer", {}) != balancer:
                writes.append(FieldWrite(ingress.ref, {"status": {"loadBalancer": balancer}}, "status"))
        writes += _tell(ctx, ingress, said.get(ingress.ref, []))
    others = {i.ref for i in mine}
    return writes + [w for i in everything if i.ref not in others for w in _tell(ctx, i, [])]


def _reached_at(proxy: Proxy) -> JSON:
    """The proxy's address and, where they are not the usual ones, its ports: the one for TLS first."""
    ports = [proxy.settings.https_port, proxy.settings.http_port]
    if ports == [443, 80]:
        return {"ip": proxy.address}
    return {"ip": proxy.address, "ports": [{"port": port, "protocol": "TCP"} for port in ports]}


def _tell(ctx: Context, ingress: Ingress, problems: Sequence[Problem]) -> list[FieldWrite]:
    """The annotation that says what does not work, and an event when that changes."""
    text = "; ".join(f"{problem.reason}: {problem.message}" for problem in problems)
    before = ingress.metadata.annotations.get(PROBLEM, "")
    if text == before:
        return []
    for problem in problems:
        if problem.message not in before:
            ctx.event(problem.reason, problem.message, warning=True, regarding=ingress.ref)
    return [FieldWrite(ingress.ref, {"metadata": {"annotations": {PROBLEM: text}}} if text else {})]
