"""Node: pods run as containers on this machine, with addresses, names, probes, logs and shells.

    Pod -> reconcile.py -> decide.py (pure: what next?) -> agent.py -> cri.py -> containerd
                        -> status.py (pure: how is it?)
    ClusterImagePolicy     -> trust.py: whose signature an image must carry
    Service, EndpointSlice -> rules.py    -> services.py -> nftables;  dns.py answers their names
    NetworkPolicy          -> policies.py -> services.py -> nftables
    API server -> streams.py: logs, exec, attach, port-forward

Read `decide.py` and `reconcile.py` first, then `picture.py` and `agent.py`.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from trimtab.api.cluster import Lease
from trimtab.api.core import Namespace, Pod, ServiceAccount
from trimtab.api.core import Service as ApiService
from trimtab.api.networking import EndpointSlice
from trimtab.api.nodes import Node
from trimtab.api.policies import NetworkPolicy
from trimtab.components.node.admission import check_pod
from trimtab.components.node.balancer import REASONS as BALANCER_REASONS
from trimtab.components.node.cleanup import Stopping, cleanup, pod_cgroups, remove_cgroups, remove_networks, stop_pods
from trimtab.components.node.containerd import containerd_command, containerd_config
from trimtab.components.node.kinds import ClusterImagePolicy
from trimtab.components.node.needs import NEEDS
from trimtab.components.node.policy_admission import check_policy
from trimtab.components.node.reconcile import run_pod
from trimtab.components.node.status import REASONS
from trimtab.components.node.trust_admission import check_image_policy
from trimtab.runtime import Admission, Component, Owned, Posts, Service, Store, Writes
from trimtab.runtime.settings import Settings


async def _pods(process: Any) -> None:
    from trimtab.components.node.serve import run_pods

    await run_pods(process)


async def _node(process: Any) -> None:
    from trimtab.components.node.heartbeat import run_heartbeat

    await run_heartbeat(process)


async def _services(process: Any) -> None:
    from trimtab.components.node.services import run_services

    await run_services(process)


async def _balancer(process: Any) -> None:
    from trimtab.components.node.balancer import run_balancer

    await run_balancer(process)


async def _streams(process: Any) -> None:
    from trimtab.components.node.listen import serve_streams

    await serve_streams(process)


async def _upkeep(process: Any) -> None:
    from trimtab.components.node.upkeep import run_upkeep

    await run_upkeep(process)


async def _pressure(process: Any) -> None:
    from trimtab.components.node.pressure import run_pressure

    await run_pressure(process)


COMPONENT = Component(
    name="node",
    summary="Runs pods as containers on this machine, with networks, volumes, probes, logs and shells",
    kinds=(Pod, ClusterImagePolicy),
    reconcilers=(run_pod,),
    services=(
        Service("pods", _pods, place="node", reads=(Pod, ApiService), posts=(Posts(ServiceAccount, "token"),)),
        Service("node", _node, place="node", reads=(Node,), owns=(Owned(Node), Owned(Lease))),
        Service("services", _services, place="node", reads=(ApiService, EndpointSlice, NetworkPolicy, Pod, Namespace)),
        Service(
            "balancer",
            _balancer,
            place="node",
            reads=(ApiService,),
            writes=(Writes(ApiService, ("status.loadBalancer", "status.conditions[LoadBalancerPortsError]")),),
        ),
        Service("streams", _streams, place="node", reads=(Pod,)),
        Service("upkeep", _upkeep, place="node"),
        Service("pressure", _pressure, place="node", reads=(Pod, Node)),
    ),
    admission=(
        Admission("pod-on-node", Pod, check_pod),
        Admission("policy-on-node", NetworkPolicy, check_policy),
        Admission("image-policy-on-node", ClusterImagePolicy, check_image_policy),
    ),
    needs=NEEDS,
    stores=(Store("node", "images until unused, volumes until released; containers are made anew", owner="node"),),
    conditions={**REASONS, **BALANCER_REASONS},
    guards=(ClusterImagePolicy,),
)


def adapters(settings: Settings, block: Any = None) -> dict[type, Any]:
    """The adapters that this component's reconciler and services ask for, on a real machine. Must be called as root.

    block: what mounts attached volumes (`volumes.BlockVolumes`)."""
    from trimtab.client.clock import SystemClock
    from trimtab.components.node import machine
    from trimtab.components.node.agent import NodeAgent
    from trimtab.components.node.cri import Cri
    from trimtab.components.node.disk import NodeDisk
    from trimtab.components.node.environment import Facts
    from trimtab.components.node.heartbeat import memory
    from trimtab.components.node.hostdns import facts_for
    from trimtab.components.node.network import host_address
    from trimtab.components.node.node_config import NodeConfig, parse
    from trimtab.components.node.picture import NodeIdentity
    from trimtab.components.node.pod_rules import PodRules
    from trimtab.components.node.pressure import Pressure
    from trimtab.components.node.probes import Handler, Target, ask
    from trimtab.components.node.projected import Projector
    from trimtab.components.node.tokens import TokenRequests
    from trimtab.components.node.trust import Trust
    from trimtab.components.node.usage import Usage, group_reading, machine_reading
    from trimtab.content import ContentStore

    config = parse(settings.node_config)
    clock = SystemClock()
    cri = Cri(settings.containerd_socket)

    async def asker(handler: Handler, target: Target, timeout_s: float) -> Any:
        return await ask(handler, target, cri, timeout_s)

    node = NodeIdentity(settings.node_name, host_address(), os.cpu_count() or 1, memory("MemTotal"))
    rules, tokens = PodRules(), TokenRequests()
    projector = Projector(tokens, Facts("", "", node.cpu, node.memory_bytes), clock.now)
    disk = NodeDisk(settings, projector, config, block)
    agent = NodeAgent(cri, disk, asker, node, facts_for(settings), clock.now, rules)
    agent.trust = Trust(lambda: ContentStore(settings.data_path("content")), settings.image_registry)
    of_pods = partial(group_reading, machine.cgroups(), settings.cgroup)
    usage = Usage(cri.stats, machine_reading if settings.first_node else of_pods, clock.now)
    return {
        NodeAgent: agent,
        Cri: cri,
        PodRules: rules,
        TokenRequests: tokens,
        Usage: usage,
        NodeConfig: config,
        Pressure: Pressure(),
    }


__all__ = [
    "COMPONENT",
    "Stopping",
    "adapters",
    "cleanup",
    "containerd_command",
    "containerd_config",
    "pod_cgroups",
    "remove_cgroups",
    "remove_networks",
    "stop_pods",
]
