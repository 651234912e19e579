"""Which texts are names: DNS labels and subdomains, keys and values of labels, keys of configuration, names of ports and variables.

Each function returns what is wrong with a text, in the words of the real server, and nothing where nothing is. Patterns and words are
those of k8s.io/apimachinery `util/validation`.
"""

from __future__ import annotations

import ipaddress
import re

LABEL_MAX = 63
NAME_MAX = 253

_DNS_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_DNS_LABEL}(\.{_DNS_LABEL})*"
_DNS_1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_CONFIG_KEY = "[-._a-zA-Z0-9]+"

_DNS_LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an "
    "alphanumeric character"
)
_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end "
    "with an alphanumeric character"
)
_DNS_1035_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end "
    "with an alphanumeric character"
)
_WILDCARD_TEXT = (
    "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case "
    "alphanumeric characters, '-' or '.' and end with an alphanumeric character"
)
_QUALIFIED_TEXT = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
)
_LABEL_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with "
    "an alphanumeric character"
)
_CONFIG_KEY_TEXT = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
_ENVIRONMENT_TEXT = "a valid environment variable name must consist only of printable ASCII characters other than '='"


def _wrong(text: str, pattern: str, *examples: str) -> str:
    given = " or ".join(f"'{example}', " for example in examples)
    return f"{text} (e.g. {given}regex used for validation is '{pattern}')"


def _long(limit: int, unit: str = "characters") -> str:
    return f"must be no more than {limit} {unit}"


def dns_label(text: str) -> list[str]:
    """A lowercase RFC 1123 label."""
    found = [_long(LABEL_MAX)] if len(text) > LABEL_MAX else []
    if not re.fullmatch(_DNS_LABEL, text):
        if re.fullmatch(_SUBDOMAIN, text):
            found.append("must not contain dots")
        else:
            found.append(_wrong(_DNS_LABEL_TEXT, _DNS_LABEL, "my-name", "123-abc"))
    return found


def dns_1035_label(text: str) -> list[str]:
    found = [_long(LABEL_MAX)] if len(text) > LABEL_MAX else []
    if not re.fullmatch(_DNS_1035, text):
        found.append(_wrong(_DNS_1035_TEXT, _DNS_1035, "my-name", "abc-123"))
    return found


def dns_subdomain(text: str) -> list[str]:
    """A lowercase RFC 1123 subdomain."""
    found = [_long(NAME_MAX)] if len(text) > NAME_MAX else []
    if not re.fullmatch(_SUBDOMAIN, text):
        found.append(_wrong(_SUBDOMAIN_TEXT, _SUBDOMAIN, "example.com"))
    return found


def wildcard_subdomain(text: str) -> list[str]:
    found = [_long(NAME_MAX)] if len(text) > NAME_MAX else []
    pattern = rf"\*\.{_SUBDOMAIN}"
    if not re.fullmatch(pattern, text):
        found.append(_wrong(_WILDCARD_TEXT, pattern, "*.example.com"))
    return found


def qualified_name(text: str) -> list[str]:
    """A label's or annotation's key: a name, with a subdomain as prefix or without one."""
    found: list[str] = []
    parts = text.split("/")
    name = parts[-1]
    if len(parts) == 2:
        if not parts[0]:
            found.append("prefix part must be non-empty")
        else:
            found += [f"prefix part {problem}" for problem in dns_subdomain(parts[0])]
    elif len(parts) > 2:
        example = _wrong(_QUALIFIED_TEXT, _QUALIFIED, "MyName", "my.name", "123-abc")
        text = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        return [f"a valid label key {example} {text}"]
    if not name:
        found.append("name part must be non-empty")
    elif len(name) > LABEL_MAX:
        found.append(f"name part {_long(LABEL_MAX, 'bytes')}")
    if not re.fullmatch(_QUALIFIED, name):
        found.append(f"name part {_wrong(_QUALIFIED_TEXT, _QUALIFIED, 'MyName', 'my.name', '123-abc')}")
    return found


def label_value(text: str) -> list[str]:
    found = [_long(LABEL_MAX, "bytes")] if len(text) > LABEL_MAX else []
    if text and not re.fullmatch(_QUALIFIED, text):
        found.append(_wrong(_LABEL_VALUE_TEXT, f"({_QUALIFIED})?", "MyValue", "my_value", "12345"))
    return found


def config_key(text: str) -> list[str]:
    """A key of a ConfigMap or a Secret."""
    found = [_long(NAME_MAX)] if len(text) > NAME_MAX else []
    if not re.fullmatch(_CONFIG_KEY, text):
        found.append(_wrong(_CONFIG_KEY_TEXT, _CONFIG_KEY, "key.name", "KEY_NAME", "key-name"))
    return found + _no_way_up(text)


def _no_way_up(text: str) -> list[str]:
    if text in (".", ".."):
        return [f"must not be '{text}'"]
    return ["must not start with '..'"] if text.startswith("..") else []


def environment_name(text: str) -> list[str]:
    """The name of an environment variable."""
    if not text:
        return [f"environment variable name {_ENVIRONMENT_TEXT}"]
    return [] if all(" " <= char <= "~" and char != "=" for char in text) else [_ENVIRONMENT_TEXT]


def port_number(value: int) -> list[str]:
    return [] if 1 <= value <= 65535 else ["must be between 1 and 65535, inclusive"]


def port_name(text: str) -> list[str]:
    """An IANA service name."""
    found = []
    if len(text) > 15:
        found.append(_long(15))
    if not re.fullmatch("[-a-z0-9]+", text):
        found.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", text):
        found.append("must contain at least one letter (a-z)")
    if "--" in text:
        found.append("must not contain consecutive hyphens")
    if text and (text[0] == "-" or text[-1] == "-"):
        found.append("must not begin or end with a hyphen")
    return found


def percent(text: str) -> list[str]:
    if re.fullmatch("[0-9]+%", text):
        return []
    return [_wrong("a valid percent string must be a numeric string followed by an ending '%'", "[0-9]+%", "1%", "93%")]


def ip_address(text: str) -> list[str]:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]
    return []


def path_segment(text: str) -> list[str]:
    """A name that may stand between two slashes of a URL."""
    if text in (".", ".."):
        return [f"may not be '{text}'"]
    return [f"may not contain '{char}'" for char in "/%" if char in text]
