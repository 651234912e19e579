"""Which functions there are, and what they take and give.

One line an overload: name, id, signature; a signature with a receiver is a method's. The ids are those of cel-go and Kubernetes,
because what a call costs depends on them (`costs.py`). The functions are CEL's own, its extensions for strings, lists, sets,
optionals and loops with two variables, and Kubernetes' (regex, URLs, quantities, addresses, formats, versions): what
Kubernetes 1.36 has in every environment, without the authorizer, which expressions in CRDs cannot have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

from trimtab.server.cel import types
from trimtab.server.cel.types import SIMPLE, Type


class Overload(NamedTuple):
    """One signature of a function; of a method the receiver is the first of `args`."""

    id: str
    member: bool
    args: tuple[Type, ...]
    result: Type


_DECLARED = """
_?_:_ conditional (bool, A, A) A
_&&_ logical_and (bool, bool) bool
_||_ logical_or (bool, bool) bool
!_ logical_not (bool) bool
@not_strictly_false not_strictly_false (bool) bool
_==_ equals (A, A) bool
_!=_ not_equals (A, A) bool
_+_ add_bytes (bytes, bytes) bytes
_+_ add_double (double, double) double
_+_ add_duration_duration (duration, duration) duration
_+_ add_duration_timestamp (duration, timestamp) timestamp
_+_ add_timestamp_duration (timestamp, duration) timestamp
_+_ add_int64 (int, int) int
_+_ add_list (list<A>, list<A>) list<A>
_+_ add_string (string, string) string
_+_ add_uint64 (uint, uint) uint
_/_ divide_double (double, double) double
_/_ divide_int64 (int, int) int
_/_ divide_uint64 (uint, uint) uint
_%_ modulo_int64 (int, int) int
_%_ modulo_uint64 (uint, uint) uint
_*_ multiply_double (double, double) double
_*_ multiply_int64 (int, int) int
_*_ multiply_uint64 (uint, uint) uint
-_ negate_double (double) double
-_ negate_int64 (int) int
_-_ subtract_double (double, double) double
_-_ subtract_duration_duration (duration, duration) duration
_-_ subtract_int64 (int, int) int
_-_ subtract_timestamp_duration (timestamp, duration) timestamp
_-_ subtract_timestamp_timestamp (timestamp, timestamp) duration
_-_ subtract_uint64 (uint, uint) uint
_[_] index_list (list<A>, int) A
_[_] index_map (map<A, B>, A) B
_[_] optional_list_index_int (optional<list<V>>, int) optional<V>
_[_] optional_map_index_value (optional<map<K, V>>, K) optional<V>
_[?_] list_optindex_optional_int (list<V>, int) optional<V>
_[?_] optional_list_optindex_optional_int (optional<list<V>>, int) optional<V>
_[?_] map_optindex_optional_value (map<K, V>, K) optional<V>
_[?_] optional_map_optindex_optional_value (optional<map<K, V>>, K) optional<V>
@in in_list (A, list<A>) bool
@in in_map (A, map<A, B>) bool
size size_bytes (bytes) int
size bytes_size bytes.() int
size size_list (list<A>) int
size list_size list<A>.() int
size size_map (map<A, B>) int
size map_size map<A, B>.() int
size size_string (string) int
size string_size string.() int
type type (A) type<A>
bool bool_to_bool (bool) bool
bool string_to_bool (string) bool
bytes bytes_to_bytes (bytes) bytes
bytes string_to_bytes (string) bytes
double double_to_double (double) double
double int64_to_double (int) double
double string_to_double (string) double
double uint64_to_double (uint) double
duration duration_to_duration (duration) duration
duration int64_to_duration (int) duration
duration string_to_duration (string) duration
dyn to_dyn (A) dyn
int int64_to_int64 (int) int
int double_to_int64 (double) int
int duration_to_int64 (duration) int
int string_to_int64 (string) int
int timestamp_to_int64 (timestamp) int
int uint64_to_int64 (uint) int
string string_to_string (string) string
string bool_to_string (bool) string
string bytes_to_string (bytes) string
string double_to_string (double) string
string duration_to_string (duration) string
string int64_to_string (int) string
string timestamp_to_string (timestamp) string
string uint64_to_string (uint) string
string ip_to_string (net.IP) string
string cidr_to_string (net.CIDR) string
timestamp timestamp_to_timestamp (timestamp) timestamp
timestamp int64_to_timestamp (int) timestamp
timestamp string_to_timestamp (string) timestamp
uint uint64_to_uint64 (uint) uint
uint double_to_uint64 (double) uint
uint int64_to_uint64 (int) uint
uint string_to_uint64 (string) uint
contains contains_string string.(string) bool
endsWith ends_with_string string.(string) bool
startsWith starts_with_string string.(string) bool
matches matches (string, string) bool
matches matches_string string.(string) bool
getHours duration_to_hours duration.() int
getMinutes duration_to_minutes duration.() int
getSeconds duration_to_seconds duration.() int
getMilliseconds duration_to_milliseconds duration.() int
charAt string_char_at_int string.(int) string
indexOf string_index_of_string string.(string) int
indexOf string_index_of_string_int string.(string, int) int
indexOf list_a_index_of_int list<A>.(A) int
lastIndexOf string_last_index_of_string string.(string) int
lastIndexOf string_last_index_of_string_int string.(string, int) int
lastIndexOf list_a_last_index_of_int list<A>.(A) int
lowerAscii string_lower_ascii string.() string
upperAscii string_upper_ascii string.() string
replace string_replace_string_string string.(string, string) string
replace string_replace_string_string_int string.(string, string, int) string
split string_split_string string.(string) list<string>
split string_split_string_int string.(string, int) list<string>
substring string_substring_int string.(int) string
substring string_substring_int_int string.(int, int) string
trim string_trim string.() string
format string_format string.(list<dyn>) string
strings.quote strings_quote (string) string
join list_join list<string>.() string
join list_join_string list<string>.(string) string
find string_find_string string.(string) string
findAll string_find_all_string string.(string) list<string>
findAll string_find_all_string_int string.(string, int) list<string>
sets.contains list_sets_contains_list (list<T>, list<T>) bool
sets.equivalent list_sets_equivalent_list (list<T>, list<T>) bool
sets.intersects list_sets_intersects_list (list<T>, list<T>) bool
slice list_slice list<T>.(int, int) list<T>
flatten list_flatten list<list<T>>.() list<T>
flatten list_flatten_int list<dyn>.(int) list<dyn>
lists.range lists_range (int) list<int>
reverse list_reverse list<T>.() list<T>
distinct list_distinct list<T>.() list<T>
first list_first list<V>.() optional<V>
last list_last list<V>.() optional<V>
cel.@mapInsert @mapInsert_map_key_value (map<K, V>, K, V) map<K, V>
cel.@mapInsert @mapInsert_map_map (map<K, V>, map<K, V>) map<K, V>
optional.of optional_of (V) optional<V>
optional.ofNonZeroValue optional_ofNonZeroValue (V) optional<V>
optional.none optional_none () optional<V>
value optional_value optional<V>.() V
hasValue optional_hasValue optional<V>.() bool
or optional_or_optional optional<V>.(optional<V>) optional<V>
orValue optional_orValue_value optional<V>.(V) V
optional.unwrap optional_unwrap (list<optional<V>>) list<V>
unwrapOpt optional_unwrapOpt list<optional<V>>.() list<V>
url string_to_url (string) kubernetes.URL
isURL is_url_string (string) bool
getScheme url_get_scheme kubernetes.URL.() string
getHost url_get_host kubernetes.URL.() string
getHostname url_get_hostname kubernetes.URL.() string
getPort url_get_port kubernetes.URL.() string
getEscapedPath url_get_escaped_path kubernetes.URL.() string
getQuery url_get_query kubernetes.URL.() map<string, list<string>>
quantity string_to_quantity (string) kubernetes.Quantity
isQuantity is_quantity_string (string) bool
sign quantity_sign (kubernetes.Quantity) int
isGreaterThan quantity_is_greater_than kubernetes.Quantity.(kubernetes.Quantity) bool
isGreaterThan semver_is_greater_than kubernetes.Semver.(kubernetes.Semver) bool
isLessThan quantity_is_less_than kubernetes.Quantity.(kubernetes.Quantity) bool
isLessThan semver_is_less_than kubernetes.Semver.(kubernetes.Semver) bool
compareTo quantity_compare_to kubernetes.Quantity.(kubernetes.Quantity) int
compareTo semver_compare_to kubernetes.Semver.(kubernetes.Semver) int
asApproximateFloat quantity_get_float kubernetes.Quantity.() double
asInteger quantity_get_int kubernetes.Quantity.() int
isInteger quantity_is_integer kubernetes.Quantity.() bool
add quantity_add kubernetes.Quantity.(kubernetes.Quantity) kubernetes.Quantity
add quantity_add_int kubernetes.Quantity.(int) kubernetes.Quantity
sub quantity_sub kubernetes.Quantity.(kubernetes.Quantity) kubernetes.Quantity
sub quantity_sub_int kubernetes.Quantity.(int) kubernetes.Quantity
ip string_to_ip (string) net.IP
ip cidr_ip net.CIDR.() net.IP
isIP is_ip (string) bool
ip.isCanonical ip_is_canonical (string) bool
family ip_family net.IP.() int
isUnspecified ip_is_unspecified net.IP.() bool
isLoopback ip_is_loopback net.IP.() bool
isLinkLocalMulticast ip_is_link_local_multicast net.IP.() bool
isLinkLocalUnicast ip_is_link_local_unicast net.IP.() bool
isGlobalUnicast ip_is_global_unicast net.IP.() bool
cidr string_to_cidr (string) net.CIDR
isCIDR is_cidr (string) bool
containsIP cidr_contains_ip_string net.CIDR.(string) bool
containsIP cidr_contains_ip_ip net.CIDR.(net.IP) bool
containsCIDR cidr_contains_cidr_string net.CIDR.(string) bool
containsCIDR cidr_contains_cidr net.CIDR.(net.CIDR) bool
prefixLength cidr_prefix_length net.CIDR.() int
masked cidr_masked net.CIDR.() net.CIDR
validate format-validate kubernetes.NamedFormat.(string) optional<list<string>>
format.named format-named (string) optional<kubernetes.NamedFormat>
semver string_to_semver (string) kubernetes.Semver
semver string_bool_to_semver (string, bool) kubernetes.Semver
isSemver is_semver_string (string) bool
isSemver is_semver_string_bool (string, bool) bool
major semver_major kubernetes.Semver.() int
minor semver_minor kubernetes.Semver.() int
patch semver_patch kubernetes.Semver.() int
"""

FORMATS = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
]

_ORDERED = [
    "bool",
    "int64",
    "int64_double",
    "int64_uint64",
    "uint64",
    "uint64_double",
    "uint64_int64",
    "double",
    "double_int64",
    "double_uint64",
]
_COMPARED = (("_<_", "less"), ("_<=_", "less_equals"), ("_>_", "greater"), ("_>=_", "greater_equals"))
_SORTABLE = ("int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes")
_CALENDAR = (
    ("getFullYear", "year"),
    ("getMonth", "month"),
    ("getDayOfYear", "day_of_year"),
    ("getDayOfMonth", "day_of_month"),
    ("getDate", "day_of_month_1_based"),
    ("getDayOfWeek", "day_of_week"),
    ("getHours", "hours"),
    ("getMinutes", "minutes"),
    ("getSeconds", "seconds"),
    ("getMilliseconds", "milliseconds"),
)


def _families() -> Iterator[str]:
    """The overloads that differ by a type only."""
    for function, name in _COMPARED:
        for ids in _ORDERED:
            left, _, right = ids.partition("_")
            yield f"{function} {name}_{ids} ({_short(left)}, {_short(right or left)}) bool"
        for kind in ("string", "bytes", "timestamp", "duration"):
            yield f"{function} {name}_{kind} ({kind}, {kind}) bool"
    for kind in _SORTABLE:
        yield f"isSorted list_{kind}_is_sorted_bool list<{kind}>.() bool"
        for function in ("min", "max"):
            yield f"{function} list_{kind}_{function}_{kind} list<{kind}>.() {kind}"
        yield f"sort list_{kind}_sort list<{kind}>.() list<{kind}>"
        yield f"@sortByAssociatedKeys list_{kind}_sortByAssociatedKeys list<T>.(list<{kind}>) list<T>"
    for kind in ("int", "uint", "double", "duration"):
        yield f"sum list_{kind}_sum_{kind} list<{kind}>.() {kind}"
    for function, name in _CALENDAR:
        yield f"{function} timestamp_to_{name} timestamp.() int"
        yield f"{function} timestamp_to_{name}_with_tz timestamp.(string) int"
    for name in FORMATS:
        yield f"format.{name} format.{name} () kubernetes.NamedFormat"


def _short(name: str) -> str:
    return name.removesuffix("64")


_LINE = re.compile(r"(\S+) (\S+) (.*?)\.?\((.*?)\) (.+)")


@cache
def functions() -> Mapping[str, tuple[Overload, ...]]:
    """Every function by its name."""
    found: dict[str, list[Overload]] = {}
    for line in (*_DECLARED.strip().split("\n"), *_families()):
        match = _LINE.fullmatch(line)
        assert match is not None, line
        name, identity, receiver, args, result = match.groups()
        given = [part for part in _split(args) if part]
        if receiver:
            given.insert(0, receiver)
        signature = Overload(identity, bool(receiver), tuple(map(_parsed, given)), _parsed(result))
        found.setdefault(name, []).append(signature)
    return {name: tuple(overloads) for name, overloads in found.items()}


def _split(text: str) -> list[str]:
    """At the commas that are not inside of <>."""
    parts, depth = [""], 0
    for character in text:
        depth += {"<": 1, ">": -1}.get(character, 0)
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _parsed(text: str) -> Type:
    name, _, inner = text.partition("<")
    if inner:
        params = tuple(_parsed(part) for part in _split(inner[:-1]))
        return types.optional_of(*params) if name == "optional" else Type(name, name, params)
    return SIMPLE[name] if name in SIMPLE else types.parameter(name)


TYPE_NAMES: Mapping[str, Type] = {
    **{name: t for name, t in SIMPLE.items() if name not in ("null", "dyn", "duration", "timestamp")},
    "list": types.list_of(types.DYN),
    "map": types.map_of(types.DYN, types.DYN),
    "null_type": types.NULL,
    "type": types.ANY_TYPE,
    "optional_type": types.optional_of(types.DYN),
    "google.protobuf.Timestamp": types.TIMESTAMP,
    "google.protobuf.Duration": types.DURATION,
}
"""What names of types expressions may compare with."""
