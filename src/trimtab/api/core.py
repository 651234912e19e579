"""The `v1` kinds but for volumes and nodes: namespaces, configuration, pods, services, events. Fields that something acts on."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import field

from trimtab.api.placement import Affinity, TopologySpreadConstraint
from trimtab.api.pod_network import HostAlias, PodDNSConfig
from trimtab.api.projection import DownwardAPIVolume, FieldSelector, KeyToPath, ProjectedVolume, ResourceFieldSelector
from trimtab.api.resource import Condition, Model, ObjectMeta, Resource, resource
from trimtab.api.security import PodSecurityContext, SecurityContext


class LocalRef(Model):
    name: str = ""


class ObjectReference(Model):
    api_version: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    field_path: str = ""
    resource_version: str = ""


class NamespaceStatus(Model):
    phase: str = ""


class NamespaceSpec(Model):
    finalizers: list[str] = []


@resource("v1", "namespaces", namespaced=False, short_names=("ns",))
class Namespace(Resource):
    spec: NamespaceSpec = field(default_factory=NamespaceSpec)
    status: NamespaceStatus = field(default_factory=NamespaceStatus)


@resource("v1", "configmaps", short_names=("cm",), status=False)
class ConfigMap(Resource):
    data: dict[str, str] = {}
    binary_data: dict[str, str] = {}
    immutable: bool | None = None


@resource("v1", "secrets", status=False)
class Secret(Resource):
    """`data` holds base64 text; `string_data` is write-only plain text."""

    type: str = "Opaque"
    data: dict[str, str] = {}
    string_data: dict[str, str] = {}
    immutable: bool | None = None


@resource("v1", "serviceaccounts", short_names=("sa",), status=False)
class ServiceAccount(Resource):
    automount_service_account_token: bool | None = None
    image_pull_secrets: list[LocalRef] = []


# Pods


class KeySelector(Model):
    name: str = ""
    key: str = ""
    optional: bool | None = None


class EnvVarSource(Model):
    config_map_key_ref: KeySelector | None = None
    secret_key_ref: KeySelector | None = None
    field_ref: FieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None


class EnvVar(Model):
    name: str
    value: str | None = None
    value_from: EnvVarSource | None = None


class EnvFromRef(Model):
    name: str = ""
    optional: bool | None = None


class EnvFromSource(Model):
    prefix: str | None = None
    config_map_ref: EnvFromRef | None = None
    secret_ref: EnvFromRef | None = None


class ContainerPort(Model):
    container_port: int
    name: str | None = None
    protocol: str = "TCP"
    host_port: int | None = None
    host_ip: str | None = field(default=None, name="hostIP")


class HTTPHeader(Model):
    name: str
    value: str


class HTTPGetAction(Model):
    port: int | str
    path: str = "/"
    scheme: str = "HTTP"
    host: str | None = None
    http_headers: list[HTTPHeader] = []


class TCPSocketAction(Model):
    port: int | str
    host: str | None = None


class ExecAction(Model):
    command: list[str] = []


class GRPCAction(Model):
    port: int
    service: str | None = None


class Probe(Model):
    """Times in seconds, as Kubernetes has them. None means the API's default (10, 1, 1, 3)."""

    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    exec: ExecAction | None = None
    grpc: GRPCAction | None = None
    initial_delay_seconds: int | None = None
    period_seconds: int | None = None
    timeout_seconds: int | None = None
    success_threshold: int | None = None
    failure_threshold: int | None = None
    termination_grace_period_seconds: int | None = None


class VolumeMount(Model):
    name: str
    mount_path: str
    sub_path: str | None = None
    sub_path_expr: str | None = None
    read_only: bool | None = None


class ResourceRequirements(Model):
    limits: dict[str, str | int] = {}
    requests: dict[str, str | int] = {}


class SleepAction(Model):
    seconds: int


class LifecycleHandler(Model):
    exec: ExecAction | None = None
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    sleep: SleepAction | None = None


class Lifecycle(Model):
    post_start: LifecycleHandler | None = None
    pre_stop: LifecycleHandler | None = None


class ContainerResizePolicy(Model):
    resource_name: str = ""
    restart_policy: str = ""


class Container(Model):
    name: str
    image: str = ""
    image_pull_policy: str | None = None
    command: list[str] = []
    args: list[str] = []
    working_dir: str | None = None
    env: list[EnvVar] = []
    env_from: list[EnvFromSource] = []
    ports: list[ContainerPort] = []
    volume_mounts: list[VolumeMount] = []
    resources: ResourceRequirements | None = None
    resize_policy: list[ContainerResizePolicy] = []
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    security_context: SecurityContext | None = None
    restart_policy: str | None = None
    stdin: bool | None = None
    stdin_once: bool | None = None
    tty: bool | None = None
    termination_message_path: str | None = None
    termination_message_policy: str | None = None


class EphemeralContainer(Container):
    """One that is added to a running pod to look into it; started once."""

    target_container_name: str | None = None
    """Whose processes it sees."""


class ConfigMapVolume(Model):
    name: str = ""
    items: list[KeyToPath] = []
    default_mode: int | None = None
    optional: bool | None = None


class SecretVolume(Model):
    secret_name: str = ""
    items: list[KeyToPath] = []
    default_mode: int | None = None
    optional: bool | None = None


class EmptyDirVolume(Model):
    medium: str | None = None
    size_limit: str | int | None = None


class HostPathVolume(Model):
    path: str
    type: str | None = None


class ClaimVolume(Model):
    claim_name: str
    read_only: bool | None = None


class Volume(Model):
    name: str
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    empty_dir: EmptyDirVolume | None = None
    host_path: HostPathVolume | None = None
    persistent_volume_claim: ClaimVolume | None = None
    projected: ProjectedVolume | None = None
    downward_api: DownwardAPIVolume | None = field(default=None, name="downwardAPI")


class PodSchedulingGate(Model):
    name: str


class PodReadinessGate(Model):
    condition_type: str


class Toleration(Model):
    key: str | None = None
    operator: str | None = None
    value: str | None = None
    effect: str | None = None
    toleration_seconds: int | None = None


class PodSpec(Model):
    containers: list[Container] = []
    init_containers: list[Container] = []
    ephemeral_containers: list[EphemeralContainer] = []
    volumes: list[Volume] = []
    restart_policy: str | None = None
    termination_grace_period_seconds: int | None = None
    active_deadline_seconds: int | None = None
    node_name: str | None = None
    node_selector: dict[str, str] = {}
    service_account_name: str | None = None
    service_account: str | None = None
    """The older name of the same."""
    automount_service_account_token: bool | None = None
    security_context: PodSecurityContext | None = None
    image_pull_secrets: list[LocalRef] = []
    hostname: str | None = None
    subdomain: str | None = None
    set_hostname_as_fqdn: bool | None = field(default=None, name="setHostnameAsFQDN")
    host_network: bool | None = None
    host_pid: bool | None = field(default=None, name="hostPID")
    host_ipc: bool | None = field(default=None, name="hostIPC")
    share_process_namespace: bool | None = None
    dns_policy: str | None = None
    dns_config: PodDNSConfig | None = None
    host_aliases: list[HostAlias] = []
    readiness_gates: list[PodReadinessGate] = []
    enable_service_links: bool | None = None
    scheduler_name: str | None = None
    tolerations: list[Toleration] = []
    affinity: Affinity | None = None
    topology_spread_constraints: list[TopologySpreadConstraint] = []
    scheduling_gates: list[PodSchedulingGate] = []
    priority_class_name: str | None = None
    priority: int | None = None
    preemption_policy: str | None = None
    runtime_class_name: str | None = None
    overhead: dict[str, str | int] = {}


class ContainerStateWaiting(Model):
    reason: str = ""
    message: str = ""


class ContainerStateRunning(Model):
    started_at: datetime | None = None


class ContainerStateTerminated(Model):
    exit_code: int = 0
    signal: int | None = None
    reason: str = ""
    message: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    container_id: str = field(default="", name="containerID")


class ContainerState(Model):
    waiting: ContainerStateWaiting | None = None
    running: ContainerStateRunning | None = None
    terminated: ContainerStateTerminated | None = None


class ContainerStatus(Model, omit_defaults=False):
    name: str
    ready: bool = False
    restart_count: int = 0
    image: str = ""
    image_id: str = field(default="", name="imageID")
    container_id: str = field(default="", name="containerID")
    started: bool | None = None
    state: ContainerState = field(default_factory=ContainerState)
    last_state: ContainerState = field(default_factory=ContainerState)
    resources: ResourceRequirements | None = None
    """What it was given, which follows what the spec asks for."""


class PodIP(Model):
    ip: str = ""


class PodStatus(Model):
    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: list[Condition] = []
    container_statuses: list[ContainerStatus] = []
    init_container_statuses: list[ContainerStatus] = []
    ephemeral_container_statuses: list[ContainerStatus] = []
    pod_ip: str = field(default="", name="podIP")
    pod_ips: list[PodIP] = field(default_factory=list, name="podIPs")
    host_ip: str = field(default="", name="hostIP")
    start_time: datetime | None = None
    qos_class: str = ""
    nominated_node_name: str = ""


class PodTemplateSpec(Model):
    metadata: ObjectMeta = field(default_factory=ObjectMeta)
    spec: PodSpec = field(default_factory=PodSpec)


@resource("v1", "pods", short_names=("po",), categories=("all",))
class Pod(Resource):
    spec: PodSpec = field(default_factory=PodSpec)
    status: PodStatus = field(default_factory=PodStatus)


PROXIED = "proxy.trimtab.dev/attached"
"""A pod's readiness gate and condition. True: every proxy reports the pod's endpoint up. False or absent: no proxy sends
it anything. Unknown: it is on its way into a proxy and may be receiving requests already. A pod with this gate is stopped
only once the condition is False or was never set (or its drain deadline passed), so SIGTERM always follows the
acknowledgement of the proxies and never races it."""

HOOK_NAMESPACE, HOOK_SERVICE = "trimtab-system", "proxy-hooks"
"""The Service that preStop hooks call where the nodes are not ours: `GET /detached/NAMESPACE?labels=SELECTOR` is answered once
the proxies send nothing more to the pods of that selector that are being deleted. Absent on an engine of our own, whose node
agent waits for `PROXIED` by itself."""


# Services


class ServicePort(Model):
    port: int
    name: str | None = None
    protocol: str = "TCP"
    target_port: int | str | None = None
    node_port: int | None = None
    app_protocol: str | None = None


class ClientIPConfig(Model):
    timeout_seconds: int | None = None


class SessionAffinityConfig(Model):
    client_ip: ClientIPConfig | None = field(default=None, name="clientIP")


class ServiceSpec(Model):
    selector: dict[str, str] = {}
    ports: list[ServicePort] = []
    type: str | None = None
    cluster_ip: str | None = field(default=None, name="clusterIP")
    external_name: str | None = None
    publish_not_ready_addresses: bool | None = None
    session_affinity: str | None = None
    session_affinity_config: SessionAffinityConfig | None = None
    external_traffic_policy: str | None = None
    internal_traffic_policy: str | None = None
    external_ips: list[str] = field(default=[], name="externalIPs")
    load_balancer_class: str | None = None
    load_balancer_source_ranges: list[str] = []
    allocate_load_balancer_node_ports: bool | None = None
    cluster_ips: list[str] = field(default=[], name="clusterIPs")
    ip_families: list[str] = []
    ip_family_policy: str | None = None


class LoadBalancerIngress(Model):
    ip: str | None = None
    hostname: str | None = None


class LoadBalancerStatus(Model):
    ingress: list[LoadBalancerIngress] = []


class ServiceStatus(Model):
    load_balancer: LoadBalancerStatus = field(default_factory=LoadBalancerStatus)
    conditions: list[Condition] = []


@resource("v1", "services", short_names=("svc",), categories=("all",))
class Service(Resource):
    """A headless service has `cluster_ip == "None"`."""

    spec: ServiceSpec = field(default_factory=ServiceSpec)
    status: ServiceStatus = field(default_factory=ServiceStatus)


@resource("v1", "endpoints", short_names=("ep",), status=False)
class Endpoints(Resource, omit_defaults=False):
    """The older form of EndpointSlices: one object a service, with its name."""

    subsets: list[dict[str, Any]] = []


# Events


class EventSource(Model):
    component: str = ""
    host: str = ""


@resource("v1", "events", short_names=("ev",), status=False)
class Event(Resource):
    involved_object: ObjectReference = field(default_factory=ObjectReference)
    type: str = "Normal"
    reason: str = ""
    message: str = ""
    count: int = 1
    first_timestamp: datetime | None = None
    last_timestamp: datetime | None = None
    source: EventSource = field(default_factory=EventSource)
    reporting_component: str = ""
    reporting_instance: str = ""
