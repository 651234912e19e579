"""Every component of an engine, in the order in which their kinds are installed and their reconcilers start.

An explicit tuple: what is on stands here and nowhere else.
"""

from __future__ import annotations

from trimtab.components.apps import COMPONENT as APPS
from trimtab.components.ingress import COMPONENT as INGRESS
from trimtab.components.node import COMPONENT as NODE
from trimtab.components.workloads import COMPONENT as WORKLOADS
from trimtab.runtime.component import Component

COMPONENTS: tuple[Component, ...] = (WORKLOADS, NODE, INGRESS, APPS)
