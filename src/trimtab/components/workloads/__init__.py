"""Workloads: what a Deployment, StatefulSet, Job, Service or volume claim means in pods, addresses and volumes.

The built-in controllers of Kubernetes for the embedded engine; on a real cluster they are there already and this component
stays off. One file a reconciler; the arithmetic beside it, pure:

    deployment.py   Deployment -> ReplicaSets        rolling.py (targets), progress.py (conditions)
    replicaset.py   ReplicaSet, ReplicationController -> Pods      names.py (names that repeat), pods.py (what a pod's status says)
    statefulset.py  StatefulSet -> Pods, claims      ordinals.py (order), revisions.py (history)
    daemonset.py    DaemonSet -> one Pod a node
    job.py          Job -> Pods                      job_tally.py (counts), job_plan.py (next step), job_policy.py, indexes.py
    cronjob.py      CronJob -> Jobs                  schedules: api/cron.py
    autoscaler.py   HorizontalPodAutoscaler -> size  autoscale.py (arithmetic), measurements.py, prometheus.py (sources)
    budgets.py      PodDisruptionBudget -> its status
    endpoints.py    Service -> EndpointSlices        older_endpoints.py (Endpoints, in both directions)
    node_life.py    Node -> alive, silent or gone, and its pods      fencing.py (certainty by force, on the machine)
    scheduler.py    Pod -> node                      fit.py, crowd.py (obstacles, scores), preemption.py
    departures.py   Pods that make room or do not bear a taint
    signing.py      CertificateSigningRequest -> certificate      signers.py (rules; the program that signs)
    volumes.py      claims <-> volumes               binding.py (matching), local_class.py, local_data.py (on the node)
"""

from __future__ import annotations

from typing import Any

from trimtab.api.cluster import StorageClass
from trimtab.api.volumes import DIED_WITH
from trimtab.components.workloads.admission import CHECKS
from trimtab.components.workloads.autoscaler import Looks, autoscaler
from trimtab.components.workloads.budgets import disruption_budget
from trimtab.components.workloads.cronjob import cronjob
from trimtab.components.workloads.daemonset import daemonset
from trimtab.components.workloads.departures import make_room, taint_eviction
from trimtab.components.workloads.deployment import deployment
from trimtab.components.workloads.endpoints import endpoints
from trimtab.components.workloads.fencing import Machines, fence
from trimtab.components.workloads.job import job, job_leftovers
from trimtab.components.workloads.local_class import keep_local_class
from trimtab.components.workloads.local_data import LocalDirectories, VolumeDirectories, local_data
from trimtab.components.workloads.measurements import LiveMeasurements, Measurements
from trimtab.components.workloads.node_life import DESTROYED, OUT_OF_SERVICE, Renewals, lost_pods, node_life
from trimtab.components.workloads.older_endpoints import mirror
from trimtab.components.workloads.reasons import REASONS
from trimtab.components.workloads.replicaset import replicaset, replication_controller
from trimtab.components.workloads.scheduler import scheduler
from trimtab.components.workloads.signing import signing
from trimtab.components.workloads.statefulset import statefulset
from trimtab.components.workloads.views import VIEWS
from trimtab.components.workloads.volumes import claim, volume
from trimtab.runtime import Component, Owned, Service
from trimtab.runtime.settings import Settings

__all__ = [
    "COMPONENT",
    "DESTROYED",
    "DIED_WITH",
    "OUT_OF_SERVICE",
    "LocalDirectories",
    "Looks",
    "Machines",
    "Measurements",
    "Renewals",
    "VolumeDirectories",
    "adapters",
]

COMPONENT = Component(
    name="workloads",
    summary="Runs Deployments, StatefulSets, DaemonSets, Jobs and Services: pods, rollouts, addresses, placement, local volumes.",
    reconcilers=(
        deployment,
        replicaset,
        replication_controller,
        statefulset,
        daemonset,
        job,
        job_leftovers,
        cronjob,
        disruption_budget,
        autoscaler,
        endpoints,
        mirror,
        scheduler,
        make_room,
        taint_eviction,
        claim,
        volume,
        local_data,
        node_life,
        lost_pods,
        fence,
        signing,
    ),
    services=(Service("local-class", keep_local_class, reads=(StorageClass,), owns=(Owned(StorageClass),)),),
    admission=CHECKS,
    views=VIEWS,
    conditions=REASONS,
)


def adapters(settings: Settings) -> dict[type, Any]:
    """The adapters that this component's reconcilers ask for in the controllers' process, on a machine of our own."""
    return {Measurements: LiveMeasurements(settings.api_socket), Looks: Looks(), Renewals: Renewals()}
