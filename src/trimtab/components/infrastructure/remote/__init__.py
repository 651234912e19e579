"""What is to be in a cluster that Trimtab made: manifests applied through its kubeconfig, kept so, and applied anew in the next one.

ClusterManifests, Secret (kubeconfig) --access.py--> the cluster's API
    order.py (what first) --> bring.py (apply, prune, remember in there) --> readiness.py (what does not run yet, and why)
    --> reconcile.py: status, Events; another cluster behind the same Secret: everything anew
"""

from trimtab.components.infrastructure.remote.access import Clusters, OverHttp
from trimtab.components.infrastructure.remote.kinds import ClusterManifests
from trimtab.components.infrastructure.remote.reconcile import REASONS, manifests

__all__ = ["REASONS", "ClusterManifests", "Clusters", "OverHttp", "manifests"]
