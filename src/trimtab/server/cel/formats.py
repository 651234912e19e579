"""What `format.dns1123Label().validate(text)` and its siblings say of a string, in Kubernetes' words."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trimtab.server.names import dns_1035_label, dns_label, dns_subdomain, label_value, qualified_name


def _prefix(check: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """The check of what a name begins with: it may end with a dash."""
    return lambda text: check(f"{text[:-1]}a" if text.endswith("-") else text)


def _uri(text: str) -> list[str]:
    from trimtab.server.cel.kubernetes import Url
    from trimtab.server.cel.values import EvaluationError

    try:
        Url(text)
    except EvaluationError as err:
        return [str(err).partition("from string: ")[2]]
    return []


def _of_schema(name: str, problem: str) -> Callable[[str], list[str]]:
    """The same check as the format of that name in a schema."""

    def check(text: str) -> list[str]:
        from trimtab.server.formats import format_check
        from trimtab.server.structural import FieldError

        errors: list[FieldError] = []
        found = format_check(name)
        if found is not None:
            found(text, None, errors)
        return [problem] if errors else []

    return check


_CHECKS: Mapping[str, Callable[[str], list[str]]] = {
    "dns1123Label": dns_label,
    "dns1123Subdomain": dns_subdomain,
    "dns1035Label": dns_1035_label,
    "qualifiedName": qualified_name,
    "dns1123LabelPrefix": _prefix(dns_label),
    "dns1123SubdomainPrefix": _prefix(dns_subdomain),
    "dns1035LabelPrefix": _prefix(dns_1035_label),
    "labelValue": label_value,
    "uri": _uri,
    "uuid": _of_schema("uuid", "does not match the UUID format"),
    "byte": _of_schema("byte", "invalid base64"),
    "date": _of_schema("date", "invalid date"),
    "datetime": _of_schema("date-time", "invalid datetime"),
}


def problems(name: str, text: str) -> list[str]:
    """What is wrong with a string; empty when it has the format."""
    return _CHECKS[name](text)
