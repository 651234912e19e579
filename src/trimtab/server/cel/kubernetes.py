"""Kubernetes' own values: URLs, quantities, addresses, networks, named formats, versions."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from decimal import Decimal
from functools import total_ordering
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from trimtab.api.quantity import parse_quantity
from trimtab.server.cel.standard import Function, integer, no_overload
from trimtab.server.cel.values import INT_MAX, INT_MIN, NONE, EvaluationError, Optional, Special, equal


class Url(Special):
    """An absolute URL, or an absolute path."""

    type_name = "kubernetes.URL"

    def __init__(self, text: str) -> None:
        if not text:
            raise EvaluationError('URL parse error during conversion from string: parse "": empty url')
        try:
            self.parts = urlsplit(text)
            port = self.parts.port
            valid = bool(self.parts.scheme) or text.startswith("/")
        except ValueError:
            valid, port = False, None
        if not valid or any(ord(c) < 0x20 or c == "\x7f" for c in text) or re.search(r"%(?![0-9a-fA-F]{2})", text):
            raise EvaluationError(
                f'URL parse error during conversion from string: parse "{text}": invalid URI for request'
            )
        self.text = text
        self.port = "" if port is None else str(port)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def host(self) -> str:
        return self.parts.netloc.rpartition("@")[2]

    @property
    def hostname(self) -> str:
        host = self.host
        if host.startswith("["):
            return host[1 : host.index("]")]
        return host.partition(":")[0]

    @property
    def path(self) -> str:
        return quote(self.parts.path, safe="/%:@!$&'()*+,;=~-._")

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(self.parts.query, keep_blank_values=True)


@total_ordering
class Quantity(Special):
    """An amount with a suffix."""

    type_name = "kubernetes.Quantity"

    def __init__(self, amount: Decimal, whole: bool = True) -> None:
        self.amount = amount
        self.whole = whole and amount == amount.to_integral_value() and INT_MIN <= amount <= INT_MAX
        """Written as a whole number; `1000m` is none, as in Kubernetes."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and other.amount == self.amount

    def __lt__(self, other: Quantity) -> bool:
        return self.amount < other.amount

    def __hash__(self) -> int:
        return hash(self.amount)


class Ip(Special):
    """An address."""

    type_name = "net.IP"

    def __init__(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        self.address = address

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ip) and other.address == self.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __str__(self) -> str:
        return str(self.address)

    def __len__(self) -> int:
        return len(self.address.packed)


class Cidr(Special):
    """A network, with the address that it was written with."""

    type_name = "net.CIDR"

    def __init__(self, interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> None:
        self.interface = interface

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cidr) and other.interface == self.interface

    def __hash__(self) -> int:
        return hash(self.interface)

    def __str__(self) -> str:
        return str(self.interface)

    def __len__(self) -> int:
        return len(self.interface.packed)

    def contains(self, other: Ip) -> bool:
        return other.address in self.interface.network

    def contains_network(self, other: Cidr) -> bool:
        mine, its = self.interface.network, other.interface.network
        return mine.version == its.version and mine.prefixlen <= its.prefixlen and its.network_address in mine


_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?",
    re.ASCII,
)


@total_ordering
class Semver(Special):
    """A semantic version; build metadata does not count."""

    type_name = "kubernetes.Semver"

    def __init__(self, text: str, normalize: bool = False) -> None:
        match = _SEMVER.fullmatch(_normalized(text) if normalize else text)
        if match is None:
            raise EvaluationError(_why_no_version(text))
        self.release = tuple(map(int, match.groups()[:3]))
        if max(self.release) >= 2**64:
            raise EvaluationError("Invalid character(s) found in major number")
        parts = match[4].split(".") if match[4] else []
        before = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts)
        self.order = (self.release, not before, before)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Semver) and other.order == self.order

    def __lt__(self, other: Semver) -> bool:
        return self.order < other.order

    def __hash__(self) -> int:
        return hash(self.order)


def _normalized(text: str) -> str:
    parts = text.removeprefix("v").split(".", 2)
    parts = [re.sub(r"^0+(?=\d)", "", part) for part in parts]
    if len(parts) < 3:
        if re.search(r"[+-]", parts[-1]):
            raise EvaluationError("short version cannot contain PreRelease/Build meta data")
        parts += ["0"] * (3 - len(parts))
    return ".".join(parts)


def _why_no_version(text: str) -> str:
    if not text:
        return "Version string empty"
    parts = text.split(".", 2)
    if len(parts) != 3:
        return "No Major.Minor.Patch elements found"
    for part, name in zip(parts, ("major", "minor"), strict=False):
        if not part.isdigit():
            return f'Invalid character(s) found in {name} number "{part}"'
        if len(part) > 1 and part[0] == "0":
            return f'{name.capitalize()} number must not contain leading zeroes "{part}"'
    return f'Invalid character(s) found in patch number "{parts[2]}"'


class Format(Special):
    """A named format of strings."""

    type_name = "kubernetes.NamedFormat"

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Format) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


REGEX_SIZES: Mapping[str, int] = {
    "dns1123Label": 30,
    "dns1123Subdomain": 60,
    "dns1035Label": 30,
    "qualifiedName": 60,
    "dns1123LabelPrefix": 30,
    "dns1123SubdomainPrefix": 60,
    "dns1035LabelPrefix": 30,
    "labelValue": 40,
}
"""How long the pattern behind a format is taken to be; 128 for all others."""


# Making them


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise no_overload()
    return value


_FRACTION = re.compile(r"\.|[num]$|e-|E-")


def _quantity(text: Any) -> Quantity:
    try:
        return Quantity(parse_quantity(_text(text)), not _FRACTION.search(text))
    except (ValueError, ArithmeticError):
        raise EvaluationError(
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        ) from None


def _address(text: Any) -> Ip:
    shown = f'"{_text(text)}"'
    if "%" in text and ":" in text:
        raise EvaluationError(f"IP address {shown} with zone value is not allowed")
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        problem = f"ParseAddr({shown}): unable to parse IP"
        raise EvaluationError(f"IP Address {shown} parse error during conversion from string: {problem}") from None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        raise EvaluationError(f"IPv4-mapped IPv6 address {shown} is not allowed")
    return Ip(found)


def _network(text: Any) -> Cidr:
    start = "network address parse error during conversion from string: "
    shown = f'"{_text(text)}"'
    address, slash, bits = text.rpartition("/")
    problem = f"netip.ParsePrefix({shown}): no '/'"
    if slash:
        problem = f'netip.ParsePrefix({shown}): bad bits after slash: "{bits}"'
        try:
            if re.fullmatch(r"0|[1-9][0-9]{0,2}", bits) and "%" not in address:
                found = ipaddress.ip_interface(text)
                if isinstance(found, ipaddress.IPv6Interface) and found.ip.ipv4_mapped is not None:
                    raise EvaluationError(f"{start}IPv4-mapped IPv6 address {shown} is not allowed")
                return Cidr(found)
        except ValueError:
            problem = f'netip.ParsePrefix({shown}): ParseAddr("{address}"): unable to parse IP'
    raise EvaluationError(f"{start}{start}{problem}")


def _valid(make: Function) -> Function:
    """Whether a value can be made from a string."""

    def valid(*args: Any) -> bool:
        _text(args[0])
        try:
            make(*args)
        except EvaluationError:
            return False
        return True

    return valid


def _named(name: Any) -> Optional:
    from trimtab.server.cel.declarations import FORMATS

    return Optional(True, Format(name)) if name in FORMATS else NONE


def _validate(wanted: Any, text: Any) -> Optional:
    from trimtab.server.cel.formats import problems

    if not isinstance(wanted, Format):
        raise no_overload()
    found = problems(wanted.name, _text(text))
    return Optional(True, found) if found else NONE


# Using them


def _of(*classes: type, call: Function) -> Function:
    """A method of one of these classes."""

    def method(value: Any, *args: Any) -> Any:
        if not isinstance(value, classes):
            raise no_overload()
        return call(value, *args)

    return method


def _order(value: Any, other: Any) -> int:
    if type(value) is not type(other) or not isinstance(value, Quantity | Semver):
        raise no_overload()
    if equal(value, other):
        return 0
    return -1 if value < other else 1


def _summed(value: Quantity, other: Any, sign: int) -> Quantity:
    if type(other) is int:
        other = Quantity(Decimal(other))
    if not isinstance(other, Quantity):
        raise no_overload()
    return Quantity(value.amount + sign * other.amount, value.whole and other.whole)


def _as_integer(value: Quantity) -> int:
    if not value.whole:
        raise EvaluationError("cannot convert value to integer")
    return integer(int(value.amount))


def _family(value: Any) -> int:
    return int(value.address.version)


def _within(value: Any, other: Any) -> bool:
    found = _address(other) if isinstance(other, str) else other
    return bool(value.contains(found))


def _within_network(value: Any, other: Any) -> bool:
    found = _network(other) if isinstance(other, str) else other
    return bool(value.contains_network(found))


def _global(value: Ip) -> bool:
    found = value.address
    broadcast = found == ipaddress.IPv4Address("255.255.255.255")
    return not (found.is_unspecified or found.is_loopback or found.is_multicast or found.is_link_local or broadcast)


def _local_multicast(value: Ip) -> bool:
    found = value.address
    if isinstance(found, ipaddress.IPv4Address):
        return found in ipaddress.IPv4Network("224.0.0.0/24")
    return found.packed[0] == 0xFF and found.packed[1] & 0x0F == 2


def _ip(value: Any) -> Ip:
    return Ip(value.interface.ip) if isinstance(value, Cidr) else _address(value)


FUNCTIONS: Mapping[str, Function] = {
    "url": lambda text: Url(_text(text)),
    "isURL": _valid(Url),
    "getScheme": _of(Url, call=lambda url: url.parts.scheme),
    "getHost": _of(Url, call=lambda url: url.host),
    "getHostname": _of(Url, call=lambda url: url.hostname),
    "getPort": _of(Url, call=lambda url: url.port),
    "getEscapedPath": _of(Url, call=lambda url: url.path),
    "getQuery": _of(Url, call=lambda url: url.query),
    "quantity": _quantity,
    "isQuantity": _valid(_quantity),
    "sign": _of(Quantity, call=lambda value: (value.amount > 0) - (value.amount < 0)),
    "isGreaterThan": lambda value, other: _order(value, other) > 0,
    "isLessThan": lambda value, other: _order(value, other) < 0,
    "compareTo": _order,
    "asApproximateFloat": _of(Quantity, call=lambda value: float(value.amount)),
    "asInteger": _of(Quantity, call=_as_integer),
    "isInteger": _of(Quantity, call=lambda value: value.whole),
    "add": _of(Quantity, call=lambda value, other: _summed(value, other, 1)),
    "sub": _of(Quantity, call=lambda value, other: _summed(value, other, -1)),
    "ip": _ip,
    "isIP": _valid(_address),
    "ip.isCanonical": lambda text: str(_address(text)) == text,
    "family": _of(Ip, call=_family),
    "isUnspecified": _of(Ip, call=lambda value: value.address.is_unspecified),
    "isLoopback": _of(Ip, call=lambda value: value.address.is_loopback),
    "isLinkLocalMulticast": _of(Ip, call=_local_multicast),
    "isLinkLocalUnicast": _of(Ip, call=lambda value: value.address.is_link_local),
    "isGlobalUnicast": _of(Ip, call=_global),
    "cidr": _network,
    "isCIDR": _valid(_network),
    "containsIP": _of(Cidr, call=_within),
    "containsCIDR": _of(Cidr, call=_within_network),
    "prefixLength": _of(Cidr, call=lambda value: value.interface.network.prefixlen),
    "masked": _of(Cidr, call=lambda value: Cidr(ipaddress.ip_interface(str(value.interface.network)))),
    "validate": _validate,
    "format.named": _named,
    "semver": lambda text, normalize=False: Semver(_text(text), normalize),
    "isSemver": _valid(Semver),
    "major": _of(Semver, call=lambda value: value.release[0]),
    "minor": _of(Semver, call=lambda value: value.release[1]),
    "patch": _of(Semver, call=lambda value: value.release[2]),
}
