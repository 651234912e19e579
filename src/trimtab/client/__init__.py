"""One async client for both engines: get, list, watch, apply; informer caches.

Reading order: `transport.py` (one method), `asgi.py`, `socket.py` and `http.py` (its implementations), `wire.py` (JSON), `client.py`
(structs), `cache.py` and `informer.py` (a live copy of a kind).
"""

from trimtab.client.asgi import AsgiTransport
from trimtab.client.cache import Change, Index
from trimtab.client.client import Client, Listing, WatchEvent
from trimtab.client.clock import Clock, SystemClock
from trimtab.client.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    FieldCause,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    Unavailable,
)
from trimtab.client.http import HttpTransport
from trimtab.client.informer import Informer
from trimtab.client.kubeconfig import ClusterAccess, KubeconfigError, foreign_kubeconfig
from trimtab.client.socket import SocketTransport
from trimtab.client.transport import Request, Response, Transport
from trimtab.client.wire import RawEvent, WireClient

__all__ = [
    "AlreadyExists",
    "ApiError",
    "AsgiTransport",
    "Change",
    "Client",
    "Clock",
    "ClusterAccess",
    "Conflict",
    "FieldCause",
    "Forbidden",
    "Gone",
    "HttpTransport",
    "Index",
    "Informer",
    "Invalid",
    "KubeconfigError",
    "Listing",
    "NotFound",
    "RawEvent",
    "Request",
    "Response",
    "SocketTransport",
    "SystemClock",
    "Transport",
    "Unavailable",
    "WatchEvent",
    "WireClient",
    "foreign_kubeconfig",
]
