"""The fixtures of `workload_cluster`, for the tests of this folder."""

from workload_cluster import api, cluster

__all__ = ["api", "cluster"]
