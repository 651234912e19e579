"""The route table in Envoy's language: one JSON document per xDS file, and how to read an endpoint file back.

What goes where, so that a change replaces as little as possible and never a connection:

    lds.json          the two listeners. Changes only when a TLS host comes or goes, and then only filter chains
                      change, which Envoy updates in place: connections of the other chains live on
    rds.http.json     the routes of plain HTTP, with the redirects; rds.https.json those behind TLS
    cds.json          one cluster per backend
    eds/NAME.json     the endpoints of one cluster, with what `endpoints` needs to go on after a restart
    sds/NAME.json     one certificate with its key in one file, so that a rotation is one rename

Each document's `version_info` is the hash of its content; Envoy reports it back once it has taken the document in.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from trimtab.api import JSON
from trimtab.components.ingress.endpoints import Address, Written
from trimtab.components.ingress.replies import LOCAL_REPLIES, TOO_LARGE, UNKNOWN_HOST
from trimtab.components.ingress.routes import ACME_PREFIX, Route, Table
from trimtab.runtime.settings import Settings

LISTENERS = "lds.json"
CLUSTERS = "cds.json"
ROUTES_HTTP = "rds.http.json"
ROUTES_HTTPS = "rds.https.json"

CONNECT_TIMEOUT = "2s"
UPSTREAM_IDLE = "1s"
"""Idle connections to an app are closed before the app closes them (gunicorn after 2 s, Node.js and uvicorn after 5 s):
a request on a connection that the app is just closing would fail, and a POST must not be tried again."""
DOWNSTREAM_IDLE = "600s"
HEADERS_TIMEOUT = "15s"
BUFFER_BYTES = 64 * 1024
"""What Envoy holds of one stream before it stops reading from the faster side."""
CONNECTIONS_MAX = 4096
"""Of one cluster; with `PENDING_MAX` requests that wait for one."""
PENDING_MAX = 2048
STREAMS_MAX = 128
NOBODY = {"address_prefix": "255.255.255.255", "prefix_len": 32}
"""No client has this address. An empty list would mean every private address."""
IDEMPOTENT = "GET|HEAD|OPTIONS|TRACE|PUT|DELETE"

_TYPE = "type.googleapis.com/envoy"
_INT64_MAX = str((1 << 63) - 1)


def document(resources: Sequence[JSON]) -> JSON:
    """An xDS file of these resources, with their hash as its version."""
    digest = hashlib.sha256(msgspec.json.encode(resources, order="deterministic")).hexdigest()[:16]
    return {"version_info": digest, "resources": list(resources)}


def endpoint_file_name(cluster: str) -> str:
    """`eds/shop.web.80.json` for `shop/web:80`; none of the three parts can hold a dot."""
    return f"eds/{cluster.replace('/', '.').replace(':', '.')}.json"


def secret_file_name(secret: str) -> str:
    return f"sds/{secret.replace('/', '.', 1)}.json"


# Endpoints


def endpoint_file(cluster: str, endpoints: Mapping[Address, Written]) -> JSON:
    hosts: list[JSON] = []
    for address, written in sorted(endpoints.items()):
        ip, _, port = address.rpartition(":")
        note: JSON = {"pod": written.pod} if written.pod else {}
        if written.draining_since is not None:
            note["draining_since"] = written.draining_since
        host: JSON = {
            "endpoint": {"address": {"socket_address": {"address": ip.strip("[]"), "port_value": int(port)}}},
            "health_status": "DRAINING" if written.draining else "HEALTHY",
        }
        if note:
            host["metadata"] = {"filter_metadata": {"trimtab": note}}
        hosts.append(host)
    assignment = {
        "@type": f"{_TYPE}.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": cluster,
        "endpoints": [{"lb_endpoints": hosts}] if hosts else [],
    }
    return document([assignment])


def endpoints_of(doc: JSON | None) -> dict[Address, Written]:
    """What an endpoint file says; nothing for a file that is not there."""
    out: dict[Address, Written] = {}
    for assignment in (doc or {}).get("resources", []):
        for locality in assignment.get("endpoints", []):
            for host in locality.get("lb_endpoints", []):
                socket = host["endpoint"]["address"]["socket_address"]
                note = host.get("metadata", {}).get("filter_metadata", {}).get("trimtab", {})
                out[join_address(socket)] = Written(note.get("draining_since"), note.get("pod", ""))
    return out


def join_address(socket: Mapping[str, Any]) -> Address:
    """`10.0.0.1:80` or `[fd00::1]:80` of Envoy's socket address."""
    ip = socket["address"]
    return f"[{ip}]:{socket['port_value']}" if ":" in ip else f"{ip}:{socket['port_value']}"


# Clusters


def cluster_file(clusters: Mapping[str, bool], directory: Path) -> JSON:
    """One cluster per name; the value says whether its endpoints speak HTTP/2 without TLS."""
    return document([_cluster(name, http2, directory) for name, http2 in sorted(clusters.items())])


def clusters_of(doc: JSON | None) -> dict[str, bool]:
    """The clusters of a cluster file, with whether they speak HTTP/2."""
    return {c["name"]: "http2_protocol_options" in str(c) for c in (doc or {}).get("resources", [])}


def _cluster(name: str, http2: bool, directory: Path) -> JSON:
    protocol = "http2_protocol_options" if http2 else "http_protocol_options"
    return {
        "@type": f"{_TYPE}.config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _from_file(directory / endpoint_file_name(name))},
        "connect_timeout": CONNECT_TIMEOUT,
        "lb_policy": "LEAST_REQUEST",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "common_lb_config": {
            # Below the threshold Envoy would send requests to draining endpoints too.
            "healthy_panic_threshold": {"value": 0},
            # Envoy holds back changes of health for 1 s unless told otherwise: workers would choose a draining
            # endpoint long after the admin interface reports the drain.
            "update_merge_window": "0s",
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": CONNECTIONS_MAX,
                    "max_pending_requests": PENDING_MAX,
                    "max_requests": CONNECTIONS_MAX,
                    "max_retries": 16,
                }
            ]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": UPSTREAM_IDLE},
                "explicit_http_config": {protocol: {}},
            }
        },
    }


# Routes


def route_files(table: Table, https_port: int, *, http_port: int = 80) -> dict[str, JSON]:
    """The two route files: plain HTTP, which redirects where TLS is declared, and HTTPS."""
    port = None if (http_port, https_port) == (80, 443) else https_port
    return {
        ROUTES_HTTP: document([_route_configuration("http", table, port, plain=True)]),
        ROUTES_HTTPS: document([_route_configuration("https", table, port, plain=False)]),
    }


def clusters_in(doc: JSON | None) -> set[str]:
    """The clusters that a route file sends requests to."""
    return {
        route["route"]["cluster"]
        for configuration in (doc or {}).get("resources", [])
        for host in configuration["virtual_hosts"]
        for route in host["routes"]
        if "route" in route
    }


def routes_by_ingress(docs: Iterable[JSON | None]) -> dict[str, list[JSON]]:
    """What route files say for each Ingress, by its name as `Ref` prints it."""
    out: dict[str, list[JSON]] = {}
    for doc in docs:
        for configuration in (doc or {}).get("resources", []):
            for host in configuration["virtual_hosts"]:
                for route in host["routes"]:
                    if "name" in route:
                        out.setdefault(route["name"], []).append({"host": host["name"], **route})
    return out


def _route_configuration(name: str, table: Table, https_port: int | None, *, plain: bool) -> JSON:
    hosts = [host for host in table.hosts if host]
    return {
        "@type": f"{_TYPE}.config.route.v3.RouteConfiguration",
        "name": name,
        "ignore_port_in_host_matching": True,
        "request_headers_to_remove": ["x-envoy-external-address", "x-envoy-internal"],
        "virtual_hosts": [_virtual_host(host, table, https_port, plain) for host in [*hosts, ""]],
    }


def _virtual_host(host: str, table: Table, https_port: int | None, plain: bool) -> JSON:
    routes = table.effective(host)
    out: list[JSON] = []
    limits = {route.body_bytes_max for route in routes}
    if len(limits) == 1 and (limit := limits.pop()):
        out.append(_too_large({"prefix": "/"}, limit))
    own = set(map(id, table.hosts.get(host, ())))
    acme_served = False
    for route in routes:
        match = _match(route)
        if host.startswith("*.") and id(route) in own:
            match["headers"] = [_one_label(host)]
        acme = route.path == ACME_PREFIX or route.path.startswith(ACME_PREFIX + "/")
        if plain and route.redirect and not acme:
            if route.covers(ACME_PREFIX) and not acme_served:
                acme_served = True
                out.append(_forward({**_prefix(ACME_PREFIX), **_headers_of(match)}, route))
            out.append(_redirect(match, route, https_port))
            continue
        acme_served = acme_served or route.covers(ACME_PREFIX)
        if len({r.body_bytes_max for r in routes}) > 1 and route.body_bytes_max:
            out.append(_too_large(match, route.body_bytes_max))
        out.append(_forward(match, route))
    if host.startswith("*."):
        out.append(_unknown_host({"prefix": "/", "headers": [{**_one_label(host), "invert_match": True}]}))
    elif not host:
        out.append(_unknown_host({"prefix": "/"}))
    return {"name": host or "any", "domains": [host or "*"], "routes": out}


def _prefix(path: str) -> JSON:
    return {"prefix": "/"} if path == "/" else {"path_separated_prefix": path}


def _match(route: Route) -> JSON:
    return {"path": route.path} if route.exact else _prefix(route.path)


def _headers_of(match: JSON) -> JSON:
    return {"headers": match["headers"]} if "headers" in match else {}


def _one_label(host: str) -> JSON:
    """`*` of a host stands for exactly one label, while Envoy's stands for any number."""
    tail = re.escape(host[2:])
    return {"name": ":authority", "string_match": {"safe_regex": {"regex": rf"(?i)[^.:]+\.{tail}(:\d+)?"}}}


def _forward(match: JSON, route: Route) -> JSON:
    return {
        "match": match,
        "name": str(route.ingress),
        "route": {
            "cluster": route.backend.cluster,
            # No limit on a whole answer (downloads, event streams); one on silence.
            "timeout": "0s",
            "idle_timeout": f"{route.idle_timeout_s}s",
            "retry_policy": {
                "retry_on": "connect-failure,refused-stream,reset-before-request",
                "num_retries": 2,
                "retriable_request_headers": [
                    {"name": ":method", "string_match": {"safe_regex": {"regex": IDEMPOTENT}}},
                ],
            },
        },
    }


def _redirect(match: JSON, route: Route, https_port: int | None) -> JSON:
    redirect: JSON = {"https_redirect": True, "response_code": "PERMANENT_REDIRECT"}
    if https_port is not None:
        redirect["port_redirect"] = https_port
    return {"match": match, "name": str(route.ingress), "redirect": redirect}


def _too_large(match: JSON, limit: int) -> JSON:
    longer = {"name": "content-length", "range_match": {"start": str(limit + 1), "end": _INT64_MAX}}
    return {
        "match": {**match, "headers": [*match.get("headers", []), longer]},
        "direct_response": {"status": TOO_LARGE},
    }


def _unknown_host(match: JSON) -> JSON:
    return {"match": match, "direct_response": {"status": UNKNOWN_HOST}}


# Listeners


def listener_file(
    settings: Settings,
    directory: Path,
    chains: Mapping[str, Iterable[str]],
    default: str | None,
    inline: Mapping[str, JSON] | None = None,
) -> JSON:
    """The two listeners. `chains` maps a secret to the host names that it answers for; `default` is the secret for all
    other names. Secrets in `inline` (name to secret file) become part of the listener instead of a file to watch. Without
    any secret there is no HTTPS listener yet."""
    inline = inline or {}
    listeners = [
        {
            **_listener("http", settings, settings.http_port),
            "listener_filters": _proxy_protocol(settings),
            "filter_chains": [{"filters": [_connection_manager("http", settings, directory)]}],
        }
    ]
    if chains or default:
        https: JSON = {
            **_listener("https", settings, settings.https_port),
            "listener_filters": [
                *_proxy_protocol(settings),
                {
                    "name": "envoy.filters.listener.tls_inspector",
                    "typed_config": {"@type": f"{_TYPE}.extensions.filters.listener.tls_inspector.v3.TlsInspector"},
                },
            ],
            "filter_chains": [
                {
                    "filter_chain_match": {"server_names": sorted(hosts)},
                    **_tls_chain(secret, settings, directory, inline.get(secret)),
                }
                for secret, hosts in sorted(chains.items())
            ],
        }
        if default:
            https["default_filter_chain"] = _tls_chain(default, settings, directory)
        listeners.append(https)
    return document(listeners)


def secrets_in(doc: JSON | None) -> set[str]:
    """The secrets that a listener file refers to, without those that are part of it."""
    found: set[str] = set()
    for listener in (doc or {}).get("resources", []):
        for chain in (*listener.get("filter_chains", []), listener.get("default_filter_chain", {})):
            if "transport_socket" in chain:
                tls = chain["transport_socket"]["typed_config"]["common_tls_context"]
                found |= {config["name"] for config in tls.get("tls_certificate_sds_secret_configs", ())}
    return found


def has_https(doc: JSON | None) -> bool:
    """Whether a listener file has the HTTPS listener, which reads the routes of HTTPS."""
    return any(listener["name"] == "https" for listener in (doc or {}).get("resources", []))


def _listener(name: str, settings: Settings, port: int) -> JSON:
    return {
        "@type": f"{_TYPE}.config.listener.v3.Listener",
        "name": name,
        "address": {"socket_address": {"address": settings.listen, "port_value": port}},
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
    }


def _proxy_protocol(settings: Settings) -> list[JSON]:
    """The filter that reads the client's address from a PROXY header, and refuses connections without one: else anybody
    who reaches the port could choose an address."""
    if not settings.proxy_protocol:
        return []
    kind = f"{_TYPE}.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"
    return [{"name": "envoy.filters.listener.proxy_protocol", "typed_config": {"@type": kind}}]


def _tls_chain(secret: str, settings: Settings, directory: Path, inline: JSON | None = None) -> JSON:
    if inline is not None:
        certificate: JSON = {"tls_certificates": [inline["resources"][0]["tls_certificate"]]}
    else:
        source = _from_file(directory / secret_file_name(secret))
        certificate = {"tls_certificate_sds_secret_configs": [{"name": secret, "sds_config": source}]}
    return {
        "name": secret,
        "filters": [_connection_manager("https", settings, directory)],
        "transport_socket_connect_timeout": HEADERS_TIMEOUT,
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{_TYPE}.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                    **certificate,
                },
            },
        },
    }


def _connection_manager(name: str, settings: Settings, directory: Path) -> JSON:
    routes = ROUTES_HTTP if name == "http" else ROUTES_HTTPS
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            "rds": {"route_config_name": name, "config_source": _from_file(directory / routes)},
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {
                        "@type": f"{_TYPE}.extensions.filters.http.router.v3.Router",
                        "suppress_envoy_headers": True,
                    },
                }
            ],
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "http2_protocol_options": {
                "max_concurrent_streams": STREAMS_MAX,
                "initial_stream_window_size": BUFFER_BYTES,
                "initial_connection_window_size": 1 << 20,
                "allow_connect": True,
            },
            "common_http_protocol_options": {"idle_timeout": DOWNSTREAM_IDLE},
            "request_headers_timeout": HEADERS_TIMEOUT,
            # Whoever is on the other side of the connection is the client, and none of Envoy's own request headers
            # (which could ask for retries or timeouts) is taken from it, whatever its address.
            "use_remote_address": True,
            "internal_address_config": {"cidr_ranges": [NOBODY]},
            "append_x_forwarded_port": True,
            "normalize_path": True,
            "server_header_transformation": "PASS_THROUGH",
            "local_reply_config": LOCAL_REPLIES,
            "access_log": [_access_log(settings)],
        },
    }


def _access_log(settings: Settings) -> JSON:
    """One JSON line a request, without the query, which may hold secrets."""
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": f"{_TYPE}.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(settings.data_path("log", "proxy", "access.log")),
            "log_format": {
                "json_format": {
                    "time": "%START_TIME%",
                    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
                    "method": "%REQ(:METHOD)%",
                    "host": "%REQ(:AUTHORITY)%",
                    "path": "%PATH(NQ)%",
                    "protocol": "%PROTOCOL%",
                    "status": "%RESPONSE_CODE%",
                    "flags": "%RESPONSE_FLAGS%",
                    "duration_ms": "%DURATION%",
                    "received_bytes": "%BYTES_RECEIVED%",
                    "sent_bytes": "%BYTES_SENT%",
                    "backend": "%UPSTREAM_CLUSTER%",
                    "endpoint": "%UPSTREAM_HOST%",
                    "ingress": "%ROUTE_NAME%",
                    "request_id": "%REQ(X-REQUEST-ID)%",
                }
            },
        },
    }


# Secrets


def secret_file(name: str, chain_pem: str, key_pem: str) -> JSON:
    """A certificate chain and its key."""
    return document(
        [
            {
                "@type": f"{_TYPE}.extensions.transport_sockets.tls.v3.Secret",
                "name": name,
                "tls_certificate": {
                    "certificate_chain": {"inline_string": chain_pem},
                    "private_key": {"inline_string": key_pem},
                },
            }
        ]
    )


def _from_file(path: Path) -> JSON:
    return {"resource_api_version": "V3", "path_config_source": {"path": str(path)}}
