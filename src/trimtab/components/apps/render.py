"""From an App to the Kubernetes objects that make it, as pure functions.

Names: everything of App `shop` is called `shop-...` and labelled `app.kubernetes.io/name=shop`; a process `web` is the
Deployment and Service `shop-web`, the database the StatefulSet and Service `shop-db`, a migration the Job
`shop-migrate-HASH`, where the hash is of all that the migration runs with.
"""

from __future__ import annotations

import base64
import hashlib
import random
import string
from urllib.parse import urlencode

import msgspec

from trimtab.api import ObjectMeta
from trimtab.api.core import (
    PROXIED,
    Container,
    ContainerPort,
    EnvVar,
    EnvVarSource,
    ExecAction,
    HTTPGetAction,
    KeySelector,
    Lifecycle,
    LifecycleHandler,
    PodReadinessGate,
    PodSpec,
    PodTemplateSpec,
    Probe,
    ResourceRequirements,
    Secret,
    Service,
    ServicePort,
    ServiceSpec,
    TCPSocketAction,
    VolumeMount,
)
from trimtab.api.jobs import Job, JobSpec
from trimtab.api.labels import LabelSelector
from trimtab.api.networking import (
    HTTPIngressPath,
    HTTPIngressRule,
    Ingress,
    IngressBackend,
    IngressRule,
    IngressServiceBackend,
    IngressSpec,
    IngressTLS,
    ServiceBackendPort,
)
from trimtab.api.security import Capabilities, PodSecurityContext, SeccompProfile, SecurityContext
from trimtab.api.volumes import PersistentVolumeClaim, PersistentVolumeClaimSpec
from trimtab.api.workloads import (
    Deployment,
    DeploymentSpec,
    DeploymentStrategy,
    RollingUpdateDeployment,
    StatefulSet,
    StatefulSetSpec,
)
from trimtab.components.apps.kinds import App, AppDatabase, AppProcess

POSTGRES_PORT = 5432
POSTGRES_USER_ID = 999
"""The uid and gid that the PostgreSQL image runs as; its volume is made to belong to it."""
PROGRESS_DEADLINE_S = 120
"""A new version that is not ready after so long is reported as failed; the old one serves on meanwhile and after."""
PASSWORD_LENGTH = 32
SECRETS_HASH = "trimtab.dev/secrets-hash"


def labels(app: App, component: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": app.name, "app.kubernetes.io/component": component}


def labels_of_app(app: App) -> dict[str, str]:
    return {"app.kubernetes.io/name": app.name}


def _meta(app: App, suffix: str, component: str) -> ObjectMeta:
    return ObjectMeta(name=f"{app.name}-{suffix}", namespace=app.namespace, labels=labels(app, component))


def random_text(source: random.Random, length: int) -> str:
    return "".join(source.choice(string.ascii_letters + string.digits) for _ in range(length))


def _encoded(values: dict[str, str]) -> dict[str, str]:
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}


# Secrets: immutable, so that a stale cache can never overwrite a password that a database already has


def generated_secret(app: App, name: str, length: int, source: random.Random) -> Secret:
    """The Secret of one generated variable."""
    secret = Secret(data=_encoded({"value": random_text(source, length)}), immutable=True)
    secret.metadata = _meta(app, generated_suffix(name), "secret")
    return secret


def generated_suffix(name: str) -> str:
    return f"secret-{name.lower().replace('_', '-')}"


def database_secret(app: App, source: random.Random) -> Secret:
    """How to reach the database: `url` and its parts."""
    password = random_text(source, PASSWORD_LENGTH)
    host, user, database = f"{app.name}-db", "app", "app"
    secret = Secret(
        data=_encoded(
            {
                "username": user,
                "password": password,
                "dbname": database,
                "host": host,
                "port": str(POSTGRES_PORT),
                "url": f"postgresql://{user}:{password}@{host}:{POSTGRES_PORT}/{database}",
            }
        ),
        immutable=True,
    )
    secret.metadata = _meta(app, "db", "database")
    return secret


# Processes


def _from_secret(variable: str, secret: str, key: str) -> EnvVar:
    return EnvVar(name=variable, value_from=EnvVarSource(secret_key_ref=KeySelector(name=secret, key=key)))


def environment(app: App, extra: dict[str, str] | None = None) -> list[EnvVar]:
    """The variables of a process: plain ones, secrets, and DATABASE_URL where there is a database."""
    plain = {**app.spec.env, **(extra or {})}
    env = [EnvVar(name=name, value=value) for name, value in sorted(plain.items())]
    for name, secret in sorted(app.spec.secrets.items()):
        if secret.generate:
            env.append(_from_secret(name, f"{app.name}-{generated_suffix(name)}", "value"))
        elif secret.secret_name and secret.key:
            env.append(_from_secret(name, secret.secret_name, secret.key))
    if app.spec.database:
        env.append(_from_secret("DATABASE_URL", f"{app.name}-db", "url"))
    return env


def _confined() -> SecurityContext:
    return SecurityContext(
        allow_privilege_escalation=False,
        capabilities=Capabilities(drop=["ALL"]),
        seccomp_profile=SeccompProfile(type="RuntimeDefault"),
    )


def routed_process(app: App) -> str | None:
    """The process that the domains lead to: `web`, else the first that has a port."""
    with_port = [name for name, process in app.spec.processes.items() if process.port]
    if "web" in with_port:
        return "web"
    return with_port[0] if with_port else None


def _probes(process: AppProcess) -> tuple[Probe | None, Probe | None]:
    """Readiness asks every second; liveness gives up on a process only after a minute without an answer."""
    if process.port is None:
        return None, None
    if process.health is None:
        tcp = TCPSocketAction(port=process.port)
        return Probe(tcp_socket=tcp, period_seconds=1, failure_threshold=2), None
    get = HTTPGetAction(port=process.port, path=process.health)
    ready = Probe(http_get=get, period_seconds=1, timeout_seconds=5, failure_threshold=2)
    alive = Probe(http_get=get, period_seconds=10, timeout_seconds=10, failure_threshold=6)
    return ready, alive


def detached_hook(app: App, name: str, address: str) -> Lifecycle:
    """Holds SIGTERM back until the proxy has let go of the pod: a kubelet asks `address` and waits for the answer."""
    selector = ",".join(f"{key}={value}" for key, value in labels(app, name).items())
    path = f"/detached/{app.namespace}?{urlencode({'labels': selector})}"
    return Lifecycle(pre_stop=LifecycleHandler(http_get=HTTPGetAction(host=address, port=80, path=path)))


def deployment(app: App, name: str, secrets_hash: str, hook_address: str = "") -> Deployment:
    """One process of the app. hook_address: of the Service that preStop hooks call, where the nodes are not ours."""
    process = app.spec.processes[name]
    routed = bool(app.spec.domains) and routed_process(app) == name
    ready, alive = _probes(process)
    limits = {key: value for key, value in (("memory", process.memory), ("cpu", process.cpu)) if value}
    container = Container(
        name=name,
        image=app.spec.image,
        command=process.command,
        env=environment(app, process.env),
        ports=[ContainerPort(container_port=process.port, name="http")] if process.port else [],
        readiness_probe=ready,
        liveness_probe=alive,
        resources=ResourceRequirements(limits=dict(limits)) if limits else None,
        lifecycle=detached_hook(app, name, hook_address) if routed and hook_address else None,
        security_context=_confined(),
        termination_message_policy="FallbackToLogsOnError",
    )
    template = PodTemplateSpec(
        metadata=ObjectMeta(labels=labels(app, name), annotations={SECRETS_HASH: secrets_hash} if secrets_hash else {}),
        spec=PodSpec(
            containers=[container],
            termination_grace_period_seconds=process.grace_seconds,
            readiness_gates=[PodReadinessGate(condition_type=PROXIED)] if routed else [],
            automount_service_account_token=False,
            enable_service_links=False,
        ),
    )
    made = Deployment(
        spec=DeploymentSpec(
            replicas=process.replicas,
            selector=LabelSelector(match_labels=labels(app, name)),
            template=template,
            strategy=DeploymentStrategy(
                type="RollingUpdate", rolling_update=RollingUpdateDeployment(max_surge=1, max_unavailable=0)
            ),
            progress_deadline_seconds=PROGRESS_DEADLINE_S,
            revision_history_limit=3,
        )
    )
    made.metadata = _meta(app, name, name)
    return made


def service(app: App, name: str) -> Service | None:
    process = app.spec.processes[name]
    if process.port is None:
        return None
    made = Service(
        spec=ServiceSpec(
            selector=labels(app, name), ports=[ServicePort(name="http", port=80, target_port=process.port)]
        )
    )
    made.metadata = _meta(app, name, name)
    return made


def ingress(app: App) -> Ingress | None:
    name = routed_process(app)
    if not app.spec.domains or name is None:
        return None
    backend = IngressBackend(
        service=IngressServiceBackend(name=f"{app.name}-{name}", port=ServiceBackendPort(number=80))
    )
    made = Ingress(
        spec=IngressSpec(
            ingress_class_name="trimtab",
            rules=[
                IngressRule(host=domain, http=HTTPIngressRule(paths=[HTTPIngressPath(backend=backend)]))
                for domain in app.spec.domains
            ],
            tls=[IngressTLS(hosts=list(app.spec.domains), secret_name=f"{app.name}-tls")],
        )
    )
    made.metadata = _meta(app, name, name)
    return made


# The database


def database_service(app: App) -> Service:
    made = Service(
        spec=ServiceSpec(
            selector=labels(app, "db"),
            ports=[ServicePort(name="postgresql", port=POSTGRES_PORT, target_port=POSTGRES_PORT)],
        )
    )
    made.metadata = _meta(app, "db", "db")
    return made


def database_stateful_set(app: App, database: AppDatabase) -> StatefulSet:
    secret = f"{app.name}-db"
    ask = ExecAction(command=["pg_isready", "-q", "-h", "127.0.0.1", "-U", "app", "-d", "app"])
    container = Container(
        name="postgres",
        image=database.image,
        env=[
            _from_secret("POSTGRES_USER", secret, "username"),
            _from_secret("POSTGRES_PASSWORD", secret, "password"),
            _from_secret("POSTGRES_DB", secret, "dbname"),
            EnvVar(name="PGDATA", value="/var/lib/postgresql/data/pgdata"),
        ],
        ports=[ContainerPort(container_port=POSTGRES_PORT, name="postgresql")],
        volume_mounts=[VolumeMount(name="data", mount_path="/var/lib/postgresql/data")],
        readiness_probe=Probe(exec=ask, period_seconds=2, timeout_seconds=5, failure_threshold=2),
        security_context=_confined(),
        termination_message_policy="FallbackToLogsOnError",
    )
    claim = PersistentVolumeClaim(
        metadata=ObjectMeta(name="data"),
        spec=PersistentVolumeClaimSpec(
            access_modes=["ReadWriteOnce"],
            resources=ResourceRequirements(requests={"storage": database.storage}),
        ),
    )
    made = StatefulSet(
        spec=StatefulSetSpec(
            replicas=1,
            service_name=f"{app.name}-db",
            selector=LabelSelector(match_labels=labels(app, "db")),
            template=PodTemplateSpec(
                metadata=ObjectMeta(labels=labels(app, "db")),
                spec=PodSpec(
                    containers=[container],
                    termination_grace_period_seconds=60,
                    automount_service_account_token=False,
                    enable_service_links=False,
                    security_context=PodSecurityContext(
                        run_as_user=POSTGRES_USER_ID,
                        run_as_group=POSTGRES_USER_ID,
                        fs_group=POSTGRES_USER_ID,
                        fs_group_change_policy="OnRootMismatch",
                    ),
                ),
            ),
            volume_claim_templates=[claim],
        )
    )
    made.metadata = _meta(app, "db", "db")
    return made


# The migration


def migration_job(app: App, secrets_hash: str) -> Job | None:
    """The Job that migrates to this version, named after everything that it runs with: another image or environment
    is another Job, the same is the same."""
    if app.spec.migration is None:
        return None
    container = Container(
        name="migrate",
        image=app.spec.image,
        command=app.spec.migration.command,
        env=environment(app),
        security_context=_confined(),
        termination_message_policy="FallbackToLogsOnError",
    )
    template = PodTemplateSpec(
        metadata=ObjectMeta(
            labels=labels(app, "migrate"), annotations={SECRETS_HASH: secrets_hash} if secrets_hash else {}
        ),
        spec=PodSpec(
            containers=[container],
            restart_policy="Never",
            automount_service_account_token=False,
            enable_service_links=False,
        ),
    )
    digest = hashlib.sha256(msgspec.json.encode(template, order="deterministic")).hexdigest()[:10]
    made = Job(
        spec=JobSpec(template=template, backoff_limit=1, active_deadline_seconds=app.spec.migration.timeout_seconds)
    )
    made.metadata = _meta(app, f"migrate-{digest}", "migrate")
    return made


def hash_of_secrets(secrets: list[Secret]) -> str:
    """Changes when a value does, so that processes are replaced; empty without secrets. Generated ones never change."""
    if not secrets:
        return ""
    content = [(s.name, s.data) for s in sorted(secrets, key=lambda s: s.name)]
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()[:16]
