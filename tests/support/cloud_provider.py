#!/usr/bin/env python3
"""A Terraform provider of our own for the cloud of `cloud.py`, protocol 5 or 6, as a program: `cloud_provider.py [5|6] [FAULT]`.

Written with the project's own messages and values; that those are right is for providers that others wrote to say. FAULT: `silent`
(never greets), `gibberish` (greets with something else), `crash-apply` (ends while it applies), `hang-read`, `nonsense` (answers what fits no schema),
`restless` (every plan has a change), `next` (a later version: no `protected` any more, a `zone` more, another form of state),
`many-N` (N more kinds), `plural` (a data source that lists clusters), `keys` (a kind that nothing can look for, ever), `pins`,
`puks` (a write-only field of servers; both: two), `tells-pins` (in the state, where it must not be), `odd-passwords` (of another type than
it says), `identity-2` (a later version of identities, with another name in them), `lingers` (a data source waits for a network that there is none of).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent import futures
from typing import Any

import grpc
import msgspec

from trimtab.components.infrastructure.protocol.messages import METHODS, Version, messages
from trimtab.components.infrastructure.protocol.types import BOOL, NUMBER, STRING, Type, map_of, object_of, to_json
from trimtab.components.infrastructure.protocol.values import UNKNOWN, decode, encode

VERSION: Version = 5 if "5" in sys.argv[1:] else 6
FAULTS = set(sys.argv[1:]) - {"5", "6"}
M = messages(VERSION)


def attribute(name: str, of: Type, **flags: Any) -> dict[str, Any]:
    return {"name": name, "type": json.dumps(to_json(of)).encode(), **flags}


ID = attribute("id", STRING, computed=True)
NAME = attribute("name", STRING, required=True)
DISK = object_of({"label": STRING, "size": NUMBER, "serial": STRING})
KINDS: dict[str, dict[str, Any]] = {
    "cloud_server": {
        "path": "servers",
        "replace": ("region",),
        "type": object_of(
            {
                "id": STRING,
                "name": STRING,
                "region": STRING,
                "size": STRING,
                "address": STRING,
                "network": STRING,
                "protected": BOOL,
                "password": STRING,
                "tags": map_of(STRING),
                "disk": Type("list", DISK),
            }
        ),
        "block": {
            "attributes": [
                ID,
                NAME,
                attribute("region", STRING, required=True, description="Where it stands. A change makes it anew."),
                attribute("size", STRING, optional=True, computed=True),
                attribute("address", STRING, computed=True),
                attribute("network", STRING, optional=True),
                attribute("protected", BOOL, optional=True),
                attribute("password", STRING, optional=True, sensitive=True),
                attribute("tags", map_of(STRING), optional=True),
            ],
            "block_types": [
                {
                    "type_name": "disk",
                    "nesting": 2,
                    "max_items": 4,
                    "block": {
                        "attributes": [
                            attribute("label", STRING, required=True),
                            attribute("size", NUMBER, required=True),
                            attribute("serial", STRING, computed=True),
                        ]
                    },
                }
            ],
        },
    },
    "cloud_network": {
        "path": "networks",
        "replace": ("range",),
        "type": object_of({"id": STRING, "name": STRING, "range": STRING}),
        "block": {"attributes": [ID, NAME, attribute("range", STRING, optional=True, computed=True)]},
    },
    "cloud_cluster": {
        "path": "clusters",
        "replace": (),
        "type": object_of({"id": STRING, "name": STRING, "nodes": NUMBER, "kubeconfig": STRING}),
        "block": {
            "attributes": [
                ID,
                NAME,
                attribute("nodes", NUMBER, optional=True, computed=True),
                attribute("kubeconfig", STRING, computed=True, sensitive=True),
            ]
        },
    },
    "cloud_bucket": {
        "path": "buckets",
        "replace": ("name",),
        "type": object_of({"id": STRING, "name": STRING, "size": STRING}),
        "block": {"attributes": [ID, NAME, attribute("size", STRING, optional=True)]},
    },
}
LINGERS_S = 3.0
SERVER_VERSION = 2 if "next" in FAULTS else 1
if "next" in FAULTS:
    KINDS["cloud_server"]["type"] = object_of(
        {n: t for n, t in KINDS["cloud_server"]["type"].attributes.items() if n != "protected"} | {"zone": STRING}
    )
    NEXT = [one for one in KINDS["cloud_server"]["block"]["attributes"] if one["name"] != "protected"]
    KINDS["cloud_server"]["block"]["attributes"] = [*NEXT, attribute("zone", STRING, optional=True)]
if "pins" in FAULTS:
    KINDS["cloud_server"]["type"] = object_of({**KINDS["cloud_server"]["type"].attributes, "pin": STRING})
    KINDS["cloud_server"]["block"]["attributes"].append(attribute("pin", STRING, optional=True, write_only=True))
if "puks" in FAULTS:
    KINDS["cloud_server"]["type"] = object_of({**KINDS["cloud_server"]["type"].attributes, "puk": STRING})
    KINDS["cloud_server"]["block"]["attributes"].append(attribute("puk", STRING, optional=True, write_only=True))
if "keys" in FAULTS:
    KINDS["cloud_key"] = {
        "path": "keys",
        "replace": (),
        "type": object_of({"id": STRING, "name": STRING, "text": STRING}),
        "block": {"attributes": [ID, NAME, attribute("text", STRING, optional=True)]},
    }
ID_PART, IDENTITY_VERSION = ("uid", 2) if "identity-2" in FAULTS else ("id", 1)
IDENTITY = object_of({ID_PART: STRING})
LISTED = "cloud_server"
"""Is listed and has an identity; of networks there is a data source, a bucket's id is its name, and clusters cannot be looked for."""
NETWORK_DATA = object_of({"id": STRING, "name": STRING})
ONE_OF_MANY = object_of({"id": STRING, "name": STRING})
CLUSTERS_DATA = object_of({"name": STRING, "clusters": Type("list", ONE_OF_MANY)})
TOKEN = object_of({"scope": STRING, "ttl": NUMBER, "token": STRING})
TOKEN_FIELDS = [
    attribute("scope", STRING, required=True),
    attribute("ttl", NUMBER, optional=True, computed=True, description="In seconds, if it is not renewed."),
    attribute("token", STRING, computed=True, sensitive=True),
]
PROVIDER = object_of({"url": STRING, "token": STRING})


def of_network(number: int) -> dict[str, Any]:
    """One of many more kinds, all kept as networks: two dozen fields with texts, as clouds have them."""
    text = "What this field is for, in a sentence of the usual length, as it stands in the documentation. " * 2
    more = [attribute(f"setting_{i}", STRING, optional=True, description=text) for i in range(20)]
    fields = {"id": STRING, "name": STRING, "range": STRING} | {f"setting_{i}": STRING for i in range(20)}
    block = {"attributes": [ID, NAME, attribute("range", STRING, optional=True, computed=True), *more]}
    return {"path": "networks", "replace": ("range",), "type": object_of(fields), "block": block}


MANY = sum(int(one.removeprefix("many-")) for one in FAULTS if one.startswith("many-"))
KINDS |= {f"cloud_kind_{i:04d}": of_network(i) for i in range(MANY)}

CLUSTERS_BLOCK = {
    "attributes": [
        attribute("name", STRING, optional=True),
        attribute("clusters", Type("list", ONE_OF_MANY), computed=True),
    ]
}


class Api:
    url = token = ""

    def call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {self.token}"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as err:
            with err:
                if err.code == 404:
                    return None
                raise Failed(f"{err.code} {json.loads(err.read()).get('error')}") from None
        except OSError as err:
            raise Failed(f"the cloud hung up: {err}") from None


class Failed(Exception):
    pass


API = Api()


def state_of(kind: str, found: dict[str, Any], known: dict[str, Any] | None) -> dict[str, Any]:
    """The state of what the cloud says there is. What it does not say (a password) is as it was known."""
    of = KINDS[kind]["type"]
    out = {name: found.get(name, (known or {}).get(name)) for name in of.attributes}
    if kind == "cloud_server":
        out["disk"] = [
            {**d, "serial": d.get("serial") or f"{found['id']}-{i}"} for i, d in enumerate(found.get("disk") or [])
        ]
        out["password"] = (known or {}).get("password")
        if "pin" in out:
            out["pin"] = "4711" if "tells-pins" in FAULTS else None
    return out


def identity_of(value: dict[str, Any], kind: str = LISTED, field: str = "identity") -> dict[str, Any]:
    """The part of an answer that says which one it is."""
    if kind != LISTED or value["id"] is UNKNOWN:
        return {}
    return {field: {"identity_data": {"msgpack": encode(IDENTITY, {ID_PART: value["id"]})}}}


def emptied(of: Type, value: Any) -> Any:
    """What the older SDK makes of nothing."""
    return {"string": "", "bool": False, "number": 0, "map": {}}.get(of.kind) if value is None else value


class Servicer:
    def schema(self, _: Any) -> dict[str, Any]:
        return {
            "provider": {
                "block": {
                    "attributes": [
                        attribute("url", STRING, required=True),
                        attribute("token", STRING, required=True, sensitive=True),
                    ]
                }
            },
            "resource_schemas": [
                {"key": k, "value": {"version": SERVER_VERSION if k == LISTED else 1, "block": v["block"]}}
                for k, v in KINDS.items()
            ],
            "data_source_schemas": [
                {"key": "cloud_network", "value": {"block": {"attributes": [ID, NAME]}}},
                *([{"key": "cloud_clusters", "value": {"block": CLUSTERS_BLOCK}}] if "plural" in FAULTS else []),
            ],
            "ephemeral_resource_schemas": [{"key": "cloud_token", "value": {"block": {"attributes": TOKEN_FIELDS}}}],
            "list_resource_schemas": [{"key": LISTED, "value": {"block": {}}}],
        }

    def identities(self, _: Any) -> dict[str, Any]:
        part = {"name": ID_PART, "type": b'"string"', "required_for_import": True}
        return {
            "identity_schemas": [{"key": LISTED, "value": {"version": IDENTITY_VERSION, "identity_attributes": [part]}}]
        }

    def data(self, request: Any) -> dict[str, Any]:
        if request.type_name == "cloud_clusters":
            if (there := API.call("GET", "clusters")) is None:
                raise Failed("404 the clusters cannot be listed")
            found = [{"id": one["id"], "name": one["name"]} for one in there]
            return {"state": {"msgpack": encode(CLUSTERS_DATA, {"name": None, "clusters": found})}}
        name = decode(NETWORK_DATA, request.config.msgpack)["name"]
        found = API.call("GET", f"networks?name={name}")
        until = time.monotonic() + LINGERS_S
        while not found and "lingers" in FAULTS and time.monotonic() < until:
            time.sleep(0.05)
            found = API.call("GET", f"networks?name={name}")
        if not found:
            return error(f"There is no network {name}")
        if len(found) > 1:
            return error(f"There is more than one network {name}")
        return {"state": {"msgpack": encode(NETWORK_DATA, {"id": found[0]["id"], "name": name})}}

    def list_(self, request: Any) -> list[dict[str, Any]]:
        of = KINDS[LISTED]["type"]
        if (there := API.call("GET", "servers")) is None:
            raise Failed("404 the servers cannot be listed")
        return [
            {
                "identity": identity_of(one)["identity"],
                "display_name": one["name"],
                "resource_object": {"msgpack": encode(of, state_of(LISTED, one, None))},
            }
            for one in there[: request.limit]
        ]

    def prepare(self, request: Any) -> dict[str, Any]:
        return {"prepared_config": {"msgpack": request.config.msgpack}} if VERSION == 5 else {}

    def configure(self, request: Any) -> dict[str, Any]:
        config = decode(PROVIDER, request.config.msgpack)
        API.url, API.token = config["url"], config["token"]
        return {} if API.token else error("token: a token is needed", "token")

    def validate(self, request: Any) -> dict[str, Any]:
        config = decode(KINDS[request.type_name]["type"], request.config.msgpack)
        if config.get("region") == "moon":
            return error("There is no region moon", "region", "Regions are eu and us.")
        return {}

    def upgrade(self, request: Any) -> dict[str, Any]:
        state = json.loads(request.raw_state.json)
        if "title" in state:  # as version 0 named it
            state["name"] = state.pop("title")
        if "next" in FAULTS:
            state.pop("protected", None)
        return {"upgraded_state": {"msgpack": encode(KINDS[request.type_name]["type"], state)}}

    def upgrade_identity(self, request: Any) -> dict[str, Any]:
        assert request.version == 1
        return identity_of(json.loads(request.raw_identity.json), field="upgraded_identity")

    def read(self, request: Any) -> dict[str, Any]:
        if "identity-2" in FAULTS:
            assert decode(IDENTITY, request.current_identity.identity_data.msgpack)[ID_PART]
        if "hang-read" in FAULTS:
            threading.Event().wait(3600)
        kind, of = request.type_name, KINDS[request.type_name]["type"]
        known = decode(of, request.current_state.msgpack)
        found = API.call("GET", f"{KINDS[kind]['path']}/{known['id']}")
        if "nonsense" in FAULTS:
            return {"new_state": {"msgpack": b"\x93\x01\x02\x03"}}
        new = None if found is None else state_of(kind, found, known)
        if "legacy" in FAULTS and new is not None:
            new = {name: emptied(of.attributes[name], value) for name, value in new.items()}
        answer = {"new_state": {"msgpack": encode(of, new)}, "private": request.private}
        if "odd-passwords" in FAULTS and new is not None:
            answer["new_state"] = {"msgpack": msgspec.msgpack.encode({**new, "password": ["hush"]})}
        return answer | (identity_of(new, kind, "new_identity") if new is not None else {})

    def plan(self, request: Any) -> dict[str, Any]:
        kind, of = request.type_name, KINDS[request.type_name]["type"]
        prior, proposed = decode(of, request.prior_state.msgpack), decode(of, request.proposed_new_state.msgpack)
        if proposed is None:
            return {"planned_state": {"msgpack": encode(of, None)}}
        if "defers" in FAULTS and kind == LISTED and prior is None and not API.call("GET", "networks"):
            assert request.client_capabilities.deferral_allowed
            self._unknown(kind, proposed)
            return {"planned_state": {"msgpack": encode(of, proposed)}, "deferred": {"reason": 3}}
        if prior is None:
            self._unknown(kind, proposed)
        elif "restless" in FAULTS:
            proposed["size"] = UNKNOWN
        for disk in proposed.get("disk") or []:
            if disk["serial"] is None:
                disk["serial"] = UNKNOWN
        if "twisted" in FAULTS:
            proposed["region"] = "mars"
        changed = [name for name in KINDS[kind]["replace"] if prior is not None and prior[name] != proposed[name]]
        return {
            "planned_state": {"msgpack": encode(of, proposed)},
            "requires_replace": [{"steps": [{"attribute_name": name}]} for name in changed],
            "planned_private": b"planned",
            "legacy_type_system": "legacy" in FAULTS,
        }

    def _unknown(self, kind: str, proposed: dict[str, Any]) -> None:
        for one in KINDS[kind]["block"]["attributes"]:
            if one.get("computed") and proposed[one["name"]] is None:
                proposed[one["name"]] = UNKNOWN
        if kind == "cloud_bucket" and "coy" not in FAULTS:
            proposed["id"] = proposed["name"]

    def apply(self, request: Any) -> dict[str, Any]:
        kind, of = request.type_name, KINDS[request.type_name]["type"]
        prior, planned = decode(of, request.prior_state.msgpack), decode(of, request.planned_state.msgpack)
        path = KINDS[kind]["path"]
        if "crash-apply" in FAULTS:
            print("panic: out of luck", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if planned is None:
            API.call("DELETE", f"{path}/{prior['id']}")
            return {"new_state": {"msgpack": encode(of, None)}}
        body = {k: v for k, v in planned.items() if v is not UNKNOWN and k not in ("id", "password", "disk")}
        if "pins" in FAULTS and kind == LISTED:
            assert planned["pin"] is None  # what is planned is kept: it is in the configuration alone
            body["pin"] = decode(of, request.config.msgpack)["pin"]
            if planned["name"] == "tells":
                return error(f"The pin {body['pin']} is too good", "pin")
        if "disk" in planned:
            body["disk"] = [{k: v for k, v in disk.items() if v is not UNKNOWN} for disk in planned["disk"]]
        found = API.call("POST", path, body) if prior is None else API.call("PUT", f"{path}/{prior['id']}", body)
        if found is None:
            return {**error("The server is gone"), "new_state": {"msgpack": encode(of, prior)}}
        half = found.pop("half", False)
        new = state_of(kind, found, planned)
        if "vague" in FAULTS:
            new["size"] = UNKNOWN
        answer: dict[str, Any] = {"new_state": {"msgpack": encode(of, new)}, "private": b"applied"}
        answer |= identity_of(new, kind, "new_identity")
        if planned["name"] == "half" or half:
            answer |= error("The server was made, but not started", "name")
        return answer

    def import_(self, request: Any) -> dict[str, Any]:
        kind = request.type_name
        named = request.id or decode(IDENTITY, request.identity.identity_data.msgpack)[ID_PART]
        found = API.call("GET", f"{KINDS[kind]['path']}/{named}")
        if found is None:
            return error(f"There is no {kind} {named}")
        state = encode(KINDS[kind]["type"], state_of(kind, found, None))
        return {"imported_resources": [{"type_name": kind, "state": {"msgpack": state}, **identity_of(found, kind)}]}

    def validate_ephemeral(self, request: Any) -> dict[str, Any]:
        config = decode(TOKEN, request.config.msgpack)
        return error("There is no scope moon", "scope") if config["scope"] == "moon" else {}

    def open(self, request: Any) -> dict[str, Any]:
        config = decode(TOKEN, request.config.msgpack)
        if config["scope"] == "later":
            return {"deferred": {"reason": 3}}
        ttl = config["ttl"] or 60
        made = API.call("POST", "tokens", {"scope": config["scope"], "ttl_s": ttl})
        result = {**config, "ttl": ttl, "token": made["token"]}
        return {"result": {"msgpack": encode(TOKEN, result)}, **self._kept(made["id"], ttl)}

    def renew(self, request: Any) -> dict[str, Any]:
        number, ttl = json.loads(request.private)
        if API.call("PUT", f"tokens/{number}", {}) is None:
            return error(f"The token {number} is gone")
        return self._kept(number, ttl)

    def close(self, request: Any) -> dict[str, Any]:
        API.call("DELETE", f"tokens/{json.loads(request.private)[0]}")
        return {}

    def _kept(self, number: str, ttl: float) -> dict[str, Any]:
        """What renewing it and closing it need, and when it is to be renewed."""
        at = time.time() + min(ttl / 2, 1)  # sooner than it has to
        renew_at = {"seconds": int(at), "nanos": int(at % 1 * 1e9)}
        return {"private": json.dumps([number, ttl]).encode(), "renew_at": renew_at}

    def stop(self, _: Any) -> dict[str, Any]:
        return {}


def error(summary: str, path: str = "", detail: str = "") -> dict[str, Any]:
    at = {"steps": [{"attribute_name": path}]} if path else None
    return {"diagnostics": [{"severity": 1, "summary": summary, "detail": detail, "attribute": at}]}


def handler(servicer: Any, name: str) -> Any:
    names5, names6, asks, answers = METHODS[name]
    do = getattr(servicer, method_of(name))
    wire = names5 if VERSION == 5 else names6
    coding = {"request_deserializer": M[asks].FromString, "response_serializer": serialized}

    def stream(request: Any, context: Any) -> Any:
        try:
            yield from (M[answers](**one) for one in do(request))
        except Failed as err:
            yield M[answers](diagnostic=error(str(err))["diagnostics"])

    if name == "list":
        return wire, grpc.unary_stream_rpc_method_handler(stream, **coding)

    def serve(request: Any, context: Any) -> Any:
        try:
            answer = do(request)
            return answer if isinstance(answer, bytes) else M[answers](**answer)
        except Failed as err:
            return M[answers](**error(str(err)))

    return wire, grpc.unary_unary_rpc_method_handler(serve, **coding)


def serialized(answer: Any) -> bytes:
    """What goes over the wire; bytes as they are, whatever they are."""
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def method_of(name: str) -> str:
    """What serves a method: not all names can be Python's."""
    return f"{name}_" if name in ("import", "list") else name


def main(servicer: Any = None) -> None:
    servicer = servicer or Servicer()
    if "TF_PLUGIN_MAGIC_COOKIE" not in os.environ:
        sys.exit("This is a plugin: Trimtab starts it.")
    if "silent" in FAULTS:
        threading.Event().wait(3600)
    if "gibberish" in FAULTS:
        print("hello", flush=True)
        threading.Event().wait(3600)
    served = [name for name in METHODS if hasattr(Servicer, method_of(name))]
    server = grpc.server(futures.ThreadPoolExecutor(64))
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                f"tfplugin{VERSION}.Provider", dict(handler(servicer, name) for name in served)
            ),
        )
    )
    path = os.path.join(os.environ["PLUGIN_UNIX_SOCKET_DIR"], f"plugin-{os.getpid()}")
    server.add_insecure_port(f"unix:{path}")
    server.start()
    print(f"1|{VERSION}|unix|{path}|grpc|", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
