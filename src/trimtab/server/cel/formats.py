"""What `format.dns1123Label().validate(text)` and its siblings say of a string, in Kubernetes' words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"

_LABEL_MESSAGE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an "
    "alphanumeric character"
)
_SUBDOMAIN_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end "
    "with an alphanumeric character"
)
_LABEL_1035_MESSAGE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end "
    "with an alphanumeric character"
)
_NAME_MESSAGE = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
)


def _shape(message: str, pattern: str, *examples: str) -> str:
    shown = " or ".join(f"'{example}', " for example in examples)
    return f"{message} (e.g. {shown}regex used for validation is '{pattern}')"


def _too_long(limit: int) -> str:
    return f"must be no more than {limit} bytes"


def _checked(
    pattern: str, limit: int, message: str, *examples: str, prefix: bool = False
) -> Callable[[str], list[str]]:
    def check(text: str) -> list[str]:
        if prefix and text.endswith("-"):
            text = text[:-1] + "a"
        found = [_too_long(limit)] if len(text) > limit else []
        return found if re.fullmatch(pattern, text, re.ASCII) else [*found, _shape(message, pattern, *examples)]

    return check


_label = (_LABEL, 63, _LABEL_MESSAGE, "my-name", "123-abc")
_subdomain = (_SUBDOMAIN, 253, _SUBDOMAIN_MESSAGE, "example.com")
_label_1035 = (_LABEL_1035, 63, _LABEL_1035_MESSAGE, "my-name", "abc-123")


def _qualified(text: str) -> list[str]:
    found: list[str] = []
    parts = text.split("/")
    if len(parts) > 2:
        message = _shape(f"a valid label key {_NAME_MESSAGE}", _QUALIFIED, "MyName", "my.name", "123-abc")
        return [f"{message} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"]
    name = parts[-1]
    if len(parts) == 2:
        if not parts[0]:
            found.append("prefix part must be non-empty")
        else:
            found += [f"prefix part {problem}" for problem in _checked(*_subdomain)(parts[0])]
    if not name:
        found.append("name part must be non-empty")
    elif len(name) > 63:
        found.append(f"name part {_too_long(63)}")
    if not re.fullmatch(_QUALIFIED, name, re.ASCII):
        found.append("name part " + _shape(_NAME_MESSAGE, _QUALIFIED, "MyName", "my.name", "123-abc"))
    return found


def _label_value(text: str) -> list[str]:
    found = [_too_long(63)] if len(text) > 63 else []
    pattern = f"({_QUALIFIED})?"
    if not re.fullmatch(pattern, text, re.ASCII):
        message = (
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
            "end with an alphanumeric character"
        )
        found.append(_shape(message, pattern, "MyValue", "my_value", "12345"))
    return found


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
    "dns1123Label": _checked(*_label),
    "dns1123Subdomain": _checked(*_subdomain),
    "dns1035Label": _checked(*_label_1035),
    "qualifiedName": _qualified,
    "dns1123LabelPrefix": _checked(*_label, prefix=True),
    "dns1123SubdomainPrefix": _checked(*_subdomain, prefix=True),
    "dns1035LabelPrefix": _checked(*_label_1035, prefix=True),
    "labelValue": _label_value,
    "uri": _uri,
    "uuid": _of_schema("uuid", "does not match the UUID format"),
    "byte": _of_schema("byte", "invalid base64"),
    "date": _of_schema("date", "invalid date"),
    "datetime": _of_schema("date-time", "invalid datetime"),
}


def problems(name: str, text: str) -> list[str]:
    """What is wrong with a string; empty when it has the format."""
    return _CHECKS[name](text)
