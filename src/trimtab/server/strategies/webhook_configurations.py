"""Rules of MutatingWebhookConfiguration and ValidatingWebhookConfiguration, in the words of the real server."""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from trimtab.api import JSON
from trimtab.server import names
from trimtab.server.errors import Cause
from trimtab.server.kinds import Kind
from trimtab.server.problems import duplicate, invalid, invalids, one_of, required, selector, too_many, unsupported
from trimtab.server.strategies.base import Strategy, Surroundings

_OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
_VERSIONS = ("v1", "v1beta1")
CONDITIONS_MAX = 64
"""Of one webhook."""
_FORM = "; desired format: https://host[/path]"


class WebhookConfigurationStrategy(Strategy):
    def problems(self, around: Surroundings, kind: Kind, new: JSON, old: JSON | None) -> list[Cause]:
        found: list[Cause] = []
        seen: set[str] = set()
        conditions = _conditions(new)
        checked = old is None or conditions != _conditions(old)
        for index, hook in enumerate(new.get("webhooks") or ()):
            at = f"webhooks[{index}]"
            found += _hook_problems(hook, at)
            if checked and conditions[index]:
                found += _condition_problems(conditions[index], f"{at}.matchConditions")
            found += _version_problems(hook.get("admissionReviewVersions") or [], f"{at}.admissionReviewVersions")
            name = hook.get("name") or ""
            if name and name in seen:
                found.append(duplicate(f"{at}.name", name))
            seen.add(name)
        return found


def _hook_problems(hook: JSON, at: str) -> Iterator[Cause]:
    yield from _name_problems(hook.get("name") or "", f"{at}.name")
    for index, rule in enumerate(hook.get("rules") or ()):
        yield from _rule_problems(rule, f"{at}.rules[{index}]")
    yield from one_of(hook, "failurePolicy", ("Fail", "Ignore"), at)
    yield from one_of(hook, "matchPolicy", ("Equivalent", "Exact"), at)
    if hook.get("sideEffects") is None:
        yield required(f"{at}.sideEffects", "must specify one of None, NoneOnDryRun")
    else:
        yield from one_of(hook, "sideEffects", ("None", "NoneOnDryRun"), at)
    timeout_s = hook.get("timeoutSeconds")
    if timeout_s is not None and not 1 <= timeout_s <= 30:
        yield invalid(f"{at}.timeoutSeconds", timeout_s, "the timeout value must be between 1 and 30 seconds")
    for name in ("namespaceSelector", "objectSelector"):
        yield from selector(hook.get(name), f"{at}.{name}")
    yield from one_of(hook, "reinvocationPolicy", ("IfNeeded", "Never"), at)
    yield from _client_problems(hook.get("clientConfig") or {}, f"{at}.clientConfig")


def _conditions(configuration: JSON) -> list[list[JSON]]:
    """Those of each webhook."""
    return [hook.get("matchConditions") or [] for hook in configuration.get("webhooks") or ()]


def _condition_problems(conditions: list[JSON], at: str) -> Iterator[Cause]:
    if len(conditions) > CONDITIONS_MAX:
        yield too_many(at, len(conditions), CONDITIONS_MAX)
    seen: set[str] = set()
    for index, condition in enumerate(conditions):
        here = f"{at}[{index}]"
        yield from _expression_problems((condition.get("expression") or "").strip(), f"{here}.expression")
        name = condition.get("name") or ""
        if not name:
            yield required(f"{here}.name")
            continue
        yield from invalids(f"{here}.name", name, names.qualified_name(name))
        if name in seen:
            yield duplicate(f"{here}.name", name)
        seen.add(name)


def _expression_problems(expression: str, at: str) -> Iterator[Cause]:
    from trimtab.server.cel import CompileError
    from trimtab.server.webhooks.conditions import compiled

    if not expression:
        yield required(at)
        return
    try:
        compiled(expression)
    except CompileError as err:
        yield invalid(at, expression, str(err))


def _name_problems(name: str, at: str) -> Iterator[Cause]:
    if not name:
        yield required(at)
    elif problems := names.dns_subdomain(name):
        yield invalid(at, name, ",".join(problems))
    elif name.count(".") < 2:
        yield invalid(at, name, "should be a domain with at least three segments separated by dots")


def _rule_problems(rule: JSON, at: str) -> Iterator[Cause]:
    operations = rule.get("operations") or []
    if not operations:
        yield required(f"{at}.operations")
    yield from _alone(operations, f"{at}.operations", "operations")
    for index, operation in enumerate(operations):
        if operation not in _OPERATIONS:
            yield unsupported(f"{at}.operations[{index}]", operation, _OPERATIONS)
    for name, what in (("apiGroups", "API groups"), ("apiVersions", "API versions")):
        values = rule.get(name) or []
        if not values:
            yield required(f"{at}.{name}")
        yield from _alone(values, f"{at}.{name}", what)
        if name == "apiVersions":
            yield from (required(f"{at}.{name}[{index}]") for index, value in enumerate(values) if not value)
    yield from _resource_problems(rule.get("resources") or [], f"{at}.resources")
    yield from one_of(rule, "scope", ("*", "Cluster", "Namespaced"), at)


def _resource_problems(resources: list[str], at: str) -> Iterator[Cause]:
    if not resources:
        yield required(at)
    all_subresources: set[str] = set()
    of_all: set[str] = set()
    plain = False
    for index, text in enumerate(resources):
        if not text:
            yield required(f"{at}[{index}]")
            continue
        resource, slash, sub = text.partition("/")
        if not slash:
            plain = text != "*"
            continue
        if resource in all_subresources:
            yield invalid(f"{at}[{index}]", text, f"if '{resource}/*' is present, must not specify {text}")
        if sub in of_all:
            yield invalid(f"{at}[{index}]", text, f"if '*/{sub}' is present, must not specify {text}")
        if sub == "*":
            all_subresources.add(resource)
        if resource == "*":
            of_all.add(sub)
    if len(resources) > 1 and "*/*" in resources:
        yield invalid(at, resources, "if '*/*' is present, must not specify other resources")
    if "*" in resources and plain:
        yield invalid(at, resources, "if '*' is present, must not specify other resources without subresources")


def _version_problems(versions: list[str], at: str) -> Iterator[Cause]:
    if not versions:
        yield required(at, f"must specify one of {', '.join(_VERSIONS)}")
        return
    seen: set[str] = set()
    for index, version in enumerate(versions):
        if version in seen:
            yield invalid(f"{at}[{index}]", version, "duplicate version")
            continue
        seen.add(version)
        yield from invalids(f"{at}[{index}]", version, names.dns_1035_label(version))
    if not seen & set(_VERSIONS):
        yield invalid(at, versions, f"must include at least one of {', '.join(_VERSIONS)}")


def _client_problems(client: JSON, at: str) -> Iterator[Cause]:
    url, service = client.get("url"), client.get("service")
    if (url is None) == (service is None):
        yield required(at, "exactly one of url or service is required")
    elif url is not None:
        yield from _url_problems(url, f"{at}.url")
    elif service is not None:
        yield from _service_problems(service, f"{at}.service")
    if client.get("caBundle") and not _is_bundle(client["caBundle"]):
        text = "unable to load root certificates: unable to parse bytes as PEM block"
        yield Cause(f"{at}.caBundle", f"Invalid value: {text}")


def _is_bundle(bundle: str) -> bool:
    """Whether a caBundle, in base64, can be loaded. The real server notices a bad one when it calls the webhook; here, too soon
    is better than too late."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=base64.b64decode(bundle).decode("ascii"))
    except (ssl.SSLError, ValueError, binascii.Error):
        return False
    return True


def _url_problems(url: str, at: str) -> Iterator[Cause]:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as err:
        yield required(at, f"url must be a valid URL: {err}{_FORM}")
        return
    if parts.scheme != "https":
        yield invalid(at, parts.scheme, f"'https' is the only allowed URL scheme{_FORM}")
    host = parts.netloc.rpartition("@")[2]
    if not host:
        yield invalid(at, host, f"host must be specified{_FORM}")
    if "@" in parts.netloc:
        yield invalid(at, parts.netloc.rpartition("@")[0], "user information is not permitted in the URL")
    if parts.fragment:
        yield invalid(at, parts.fragment, "fragments are not permitted in the URL")
    if parts.query:
        yield invalid(at, parts.query, "query parameters are not permitted in the URL")


def _service_problems(service: JSON, at: str) -> Iterator[Cause]:
    for name in ("name", "namespace"):
        if not service.get(name):
            yield required(f"{at}.{name}")
    port = service.get("port", 443)
    if not 0 < port < 65536:
        yield invalid(f"{at}.port", port, "port is not valid: must be between 1 and 65535, inclusive")
    path = service.get("path")
    if not path or path == "/":
        return
    if path == "//":
        yield invalid(f"{at}.path", path, "segment[0] may not be empty")
        return
    if not path.startswith("/"):
        yield invalid(f"{at}.path", path, "must start with a '/'")
    for index, step in enumerate(path[1:].removesuffix("/").split("/")):
        if not step:
            yield invalid(f"{at}.path", path, f"segment[{index}] may not be empty")
            continue
        for problem in names.dns_subdomain(step):
            yield invalid(f"{at}.path", path, f"segment[{index}]: {problem}")


def _alone(values: list[str], at: str, what: str) -> Iterator[Cause]:
    if len(values) > 1 and "*" in values:
        yield invalid(at, values, f"if '*' is present, must not specify other {what}")
