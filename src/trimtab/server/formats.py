"""The string and number formats that Kubernetes checks in a schema; unknown formats pass, as the CRD documentation says.

The list is that of `apiextensions.k8s.io/v1` JSONSchemaProps.format.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Any
from urllib.parse import urlsplit

from trimtab.server.structural import Check, FieldError, Path, add

_UUID = r"[0-9a-f]{8}-?[0-9a-f]{4}-?%s[0-9a-f]{3}-?%s[0-9a-f]{3}-?[0-9a-f]{12}"
_PATTERNS = {
    "bsonobjectid": r"[0-9a-fA-F]{24}",
    "hostname": r"(?=.{1,255}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\.?",
    "mac": r"([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}|([0-9A-Fa-f]{2}[:-]){7}[0-9A-Fa-f]{2}|([0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}",
    "uuid": r"(?i:[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12})",
    "uuid3": "(?i:" + _UUID % ("3", "[0-9a-f]") + ")",
    "uuid4": "(?i:" + _UUID % ("4", "[89ab]") + ")",
    "uuid5": "(?i:" + _UUID % ("5", "[89ab]") + ")",
    "isbn10": r"(?:\d[ -]?){9}[\dXx]",
    "isbn13": r"(?:\d[ -]?){12}\d",
    "isbn": r"(?:\d[ -]?){9}[\dXx]|(?:\d[ -]?){12}\d",
    "creditcard": r"\d(?:[ -]?\d){12,18}",
    "ssn": r"\d{3}[- ]?\d{2}[- ]?\d{4}",
    "hexcolor": r"#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})",
    "rgbcolor": r"rgb\(\s*(?:\d{1,2}|1\d\d|2[0-4]\d|25[0-5])\s*(?:,\s*(?:\d{1,2}|1\d\d|2[0-4]\d|25[0-5])\s*){2}\)",
    "email": r"[^@\s]+@[^@\s]+",
    "k8s-short-name": r"(?=.{1,63}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?",
    "k8s-long-name": r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
    "duration": r"[+-]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)((\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))*|[+-]?0|\d+ ?(w|weeks?|d|days?|h|hours?|hrs?|m|minutes?|mins?|s|seconds?|secs?)",
}
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_INTEGERS = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def valid(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return valid


def is_date_time(text: str) -> bool:
    """Whether a text is a time as RFC 3339 has it."""
    if not _RFC3339.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(re.sub(r"\.\d+", "", text.upper()))
    except ValueError:
        # RFC 3339 allows the leap second, which datetime does not.
        return ":60" in text
    return True


def is_base64(text: str) -> bool:
    """Whether a text is base64 of the usual alphabet, with its padding."""
    try:
        base64.b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _is_uri(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme) or text.startswith("/")


def _is_cidr(text: str) -> bool:
    return "/" in text and _parses(lambda t: ipaddress.ip_network(t, strict=False))(text)


_FORMATS: dict[str, Callable[[str], bool]] = {
    "date-time": is_date_time,
    "datetime": is_date_time,
    "date": _parses(date.fromisoformat),
    "byte": is_base64,
    "ipv4": _parses(ipaddress.IPv4Address),
    "ipv6": _parses(ipaddress.IPv6Address),
    "cidr": _is_cidr,
    "uri": _is_uri,
}


def format_check(name: str) -> Check | None:
    """The check of a string format; None for a format that is not checked."""
    valid = _FORMATS.get(name)
    if valid is None:
        pattern = _PATTERNS.get(name)
        if pattern is None:
            return None
        match = re.compile(pattern).fullmatch

        def valid(text: str) -> bool:
            return match(text) is not None

    accepts = valid

    def check(value: Any, path: Path, errors: list[FieldError]) -> None:
        if value.__class__ is str and not accepts(value):
            add(errors, path, value, f'must be of type {name}: "{value}"')

    return check


def integer_range(name: str) -> Check:
    """The check of `int32` or `int64`."""
    low, high = _INTEGERS[name]

    def check(value: Any, path: Path, errors: list[FieldError]) -> None:
        if not low <= value <= high:
            add(errors, path, value, f"must be of type {name}: it is out of range")

    return check
