"""Questions about access: who am I, may I, may they, whose token is this. Answered, never stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trimtab.api import JSON
from trimtab.server import errors
from trimtab.server.authentication import User
from trimtab.server.authorization import Attributes
from trimtab.server.bodies import read_kind, write_options
from trimtab.server.http import Reply, Request, json_reply
from trimtab.server.kinds import Kind
from trimtab.server.paths import Target

if TYPE_CHECKING:
    from trimtab.server.server import ApiServer


async def review(server: ApiServer, kind: Kind, target: Target, request: Request) -> Reply:
    """Answers a review. Raises `StatusError` 400, 405, 406."""
    if "as=" in (accept := request.headers.get("accept", "")) and all("as=" in part for part in accept.split(",")):
        raise errors.not_acceptable("application/json, application/yaml, application/vnd.kubernetes.protobuf")
    if request.method != "POST" or target.name:
        raise errors.method_not_allowed()
    body = await read_kind(request, write_options(request), kind.api_version, kind.kind)
    spec = body.get("spec") or {}
    match kind.kind:
        case "SelfSubjectReview":
            status: JSON = {"userInfo": request.user.wire()}
        case "SelfSubjectAccessReview":
            status = _access(server, request.user, spec)
        case "SubjectAccessReview" | "LocalSubjectAccessReview":
            user = User(spec.get("user") or "", tuple(spec.get("groups") or ()))
            if not user.name and not user.groups:
                raise errors.bad_request("spec.user: Required value: at least one of user or group must be specified")
            status = _access(server, user, spec)
        case "SelfSubjectRulesReview":
            status = _rules(server, request.user, spec.get("namespace") or "")
        case _:
            status = _token(server, spec)
    meta = body.get("metadata") or {}
    if kind.kind == "SelfSubjectReview":
        meta = {**meta, "creationTimestamp": server.now()}
    answer = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": meta}
    return json_reply({**answer, "spec": spec, "status": status}, 201)


def _access(server: ApiServer, user: User, spec: JSON) -> JSON:
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if (resource is None) == (path is None):
        raise errors.bad_request(
            "spec: Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified"
        )
    if resource is not None:
        plural = resource.get("resource") or ""
        subresource = resource.get("subresource")
        asked = Attributes(
            resource.get("verb") or "",
            resource.get("group") or "",
            f"{plural}/{subresource}" if subresource else plural,
            resource.get("namespace") or "",
            resource.get("name") or "",
        )
    else:
        asked = Attributes((path or {}).get("verb") or "", path=(path or {}).get("path") or "/")
    allowed = server.authorizer.allows(user, asked)
    return {"allowed": allowed}


def _rules(server: ApiServer, user: User, namespace: str) -> JSON:
    resources: list[JSON] = []
    paths: list[JSON] = []
    for rule in server.authorizer.rules(user, namespace):
        if rule.resources:
            line: JSON = {
                "verbs": list(rule.verbs),
                "apiGroups": list(rule.api_groups),
                "resources": list(rule.resources),
            }
            if rule.resource_names:
                line["resourceNames"] = list(rule.resource_names)
            resources.append(line)
        if rule.non_resource_urls:
            paths.append({"verbs": list(rule.verbs), "nonResourceURLs": list(rule.non_resource_urls)})
    return {"resourceRules": resources, "nonResourceRules": paths, "incomplete": False}


def _token(server: ApiServer, spec: JSON) -> JSON:
    token = spec.get("token") or ""
    audiences = spec.get("audiences") or []
    user = server.authenticator.token_user(token, audiences) if token else None
    if user is None:
        return {"authenticated": False, "error": "the token is not valid here"}
    status: JSON = {"authenticated": True, "user": user.wire()}
    return status | {"audiences": audiences} if audiences else status
