"""What is wrong with a CustomResourceDefinition, in the words of the real API server.

Its problems are refused when it is written, naming the path, and never found later. The schema's own rules stand in
`structural_rules.py`, those of validation rules in `rule_checks.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from trimtab.api import JSON
from trimtab.server.errors import Cause
from trimtab.server.names import dns_1035_label, dns_subdomain
from trimtab.server.structural import value_text

APPROVED = "api-approved.kubernetes.io"
"""The annotation that definitions in Kubernetes' own groups need."""

_COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
_COLUMN_FORMATS = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")


SELECTABLE_MAX = 8
"""Selectable fields of one version."""


def problems(crd: JSON, old: JSON | None, taken: Callable[[str, str], str | None]) -> list[Cause]:
    """What is wrong with a CRD. `taken(group, name)` names the CRD that holds a plural, singular, short name or kind."""
    spec = crd.get("spec") or {}
    names = spec.get("names") or {}
    plural, group, scope = names.get("plural") or "", spec.get("group") or "", spec.get("scope") or ""
    found: list[Cause] = []
    name = crd["metadata"].get("name") or ""
    if name != f"{plural}.{group}":
        found.append(_invalid("metadata.name", name, 'must be spec.names.plural+"."+spec.group'))
    if not group:
        found.append(_required("spec.group"))
    elif wrong := dns_subdomain(group):
        found.append(_invalid("spec.group", group, ",".join(wrong)))
    elif "." not in group:
        found.append(_invalid("spec.group", group, "should be a domain with at least one dot"))
    if not scope:
        found.append(_required("spec.scope"))
    elif scope not in ("Cluster", "Namespaced"):
        text = f'Unsupported value: {value_text(scope)}: supported values: "Cluster", "Namespaced"'
        found.append(Cause("spec.scope", text, "FieldValueNotSupported"))
    found += _version_problems(spec.get("versions") or [])
    found += _name_problems(names)
    if (spec.get("conversion") or {}).get("strategy") == "Webhook":
        text = 'Unsupported value: "Webhook": conversion webhooks are not called here: use "None"'
        found.append(Cause("spec.conversion.strategy", text, "FieldValueNotSupported"))
    found += _stored_problems(crd)
    found += _approval_problems(crd, old)
    if old is not None and old["spec"]["scope"] != scope:
        found.append(_invalid("spec.scope", scope, "field is immutable"))
    for what in filter(None, (plural, names.get("singular"), names.get("kind"), *(names.get("shortNames") or ()))):
        holder = taken(group, what)
        if holder is not None and holder != name:
            found.append(_invalid("spec.names", what, f"already in use by {holder}"))
    return found


def _invalid(path: str, value: object, problem: str) -> Cause:
    return Cause(path, f"Invalid value: {value_text(value)}: {problem}")


def _required(path: str, problem: str = "") -> Cause:
    return Cause(path, f"Required value{': ' if problem else ''}{problem}", "FieldValueRequired")


def _name_problems(names: JSON) -> Iterator[Cause]:
    for field in ("plural", "singular", "kind", "listKind"):
        if not names.get(field):
            yield _required(f"spec.names.{field}")
    for field in ("plural", "singular"):
        if names.get(field) and (wrong := dns_1035_label(names[field])):
            yield _invalid(f"spec.names.{field}", names[field], ",".join(wrong))
    for field in ("kind", "listKind"):
        if names.get(field) and (wrong := dns_1035_label(names[field].lower())):
            problem = f"may have mixed case, but should otherwise match: {','.join(wrong)}"
            yield _invalid(f"spec.names.{field}", names[field], problem)
    yield from _label_problems("spec.names.shortNames", names.get("shortNames"))
    if names.get("kind") and names["kind"] == names.get("listKind"):
        yield _invalid("spec.names.listKind", names["listKind"], "kind and listKind may not be the same")
    yield from _label_problems("spec.names.categories", names.get("categories"))


def _label_problems(path: str, values: list[str] | None) -> Iterator[Cause]:
    for index, value in enumerate(values or ()):
        if wrong := dns_1035_label(value):
            yield _invalid(f"{path}[{index}]", value, ",".join(wrong))


def _stored_problems(crd: JSON) -> Iterator[Cause]:
    """A version in which objects may be stored stays, until `status.storedVersions` does not name it any more."""
    there = {version.get("name") for version in crd["spec"].get("versions") or ()}
    for index, version in enumerate((crd.get("status") or {}).get("storedVersions") or ()):
        if version not in there:
            problem = (
                f"missing from spec.versions; {version} was previously a storage version, and must remain in spec.versions until "
                f"a storage migration ensures no data remains persisted in {version} and removes {version} from "
                "status.storedVersions"
            )
            yield _invalid(f"status.storedVersions[{index}]", version, problem)


def _approval(crd: JSON) -> tuple[str, str]:
    """(state, annotation) of the approval of a definition."""
    text = (crd["metadata"].get("annotations") or {}).get(APPROVED) or ""
    if not text or text.startswith("unapproved"):
        return ("bypassed" if text else "missing"), text
    try:
        parts = urlsplit(text)
    except ValueError:
        return "invalid", text
    return ("approved" if parts.scheme and parts.netloc else "invalid"), text


def _approval_problems(crd: JSON, old: JSON | None) -> Iterator[Cause]:
    group = crd["spec"].get("group") or ""
    if not any(group == own or group.endswith(f".{own}") for own in ("k8s.io", "kubernetes.io")):
        return
    state, text = _approval(crd)
    if (old is not None and _approval(old)[0] == state) or state in ("approved", "bypassed"):
        return
    path = f"metadata.annotations[{APPROVED}]"
    problem = f'protected groups must have approval annotation "{APPROVED}"'
    see = "see https://github.com/kubernetes/enhancements/pull/1111"
    if state == "missing":
        yield _required(path, f"{problem}, {see}")
    else:
        yield _invalid(path, text, f'{problem} with either a URL or a reason starting with "unapproved", {see}')


def _schema_in(version: JSON) -> Any:
    return (version.get("schema") or {}).get("openAPIV3Schema")


def _version_problems(versions: list[JSON]) -> Iterator[Cause]:
    shared = bool(versions) and all(_schema_in(version) == _schema_in(versions[0]) for version in versions)
    for index, version in enumerate(versions):
        if _schema_in(version) is None:
            yield _required(f"spec.versions[{index}].schema.openAPIV3Schema")
    for index, version in enumerate(versions):
        path = f"spec.versions[{index}]"
        if wrong := dns_1035_label(version.get("name") or ""):
            yield _invalid(f"{path}.name", version.get("name") or "", ",".join(wrong))
        schema = _schema_in(version)
        if schema is not None and not (shared and index):
            # The real server keeps a schema that all versions share in one place.
            yield from _schema_problems(schema, "spec.validation" if shared else f"{path}.schema")
        columns = version.get("additionalPrinterColumns") or ()
        for number, column in enumerate(columns):
            yield from _column_problems(column, f"{path}.additionalPrinterColumns[{number}]")
        if schema is not None:
            yield from _selectable_problems(version, schema, path)
    names = [version.get("name") for version in versions]
    if len(set(names)) != len(names):
        yield Cause("spec.versions", "Invalid value: must contain unique version names")
    if sum(1 for version in versions if version.get("storage")) != 1:
        yield Cause("spec.versions", "Invalid value: must have exactly one version marked as storage version")


def _schema_problems(schema: JSON, path: str) -> Iterator[Cause]:
    from trimtab.server.schemas import SchemaInvalid, check_rules, compile_crd_schema

    try:
        compile_crd_schema(schema)
        check_rules(schema)
    except SchemaInvalid as err:
        yield from (Cause(f"{path}.{e.path}", e.message, e.reason) for e in err.errors)


def _column_problems(column: JSON, path: str) -> Iterator[Cause]:
    if not column.get("name"):
        yield _required(f"{path}.name")
    types = f"must be one of {','.join(_COLUMN_TYPES)}"
    if not column.get("type"):
        yield _required(f"{path}.type", types)
    elif column["type"] not in _COLUMN_TYPES:
        yield _invalid(f"{path}.type", column["type"], types)
    if column.get("format") and column["format"] not in _COLUMN_FORMATS:
        yield _invalid(f"{path}.format", column["format"], f"must be one of {','.join(_COLUMN_FORMATS)}")
    if not column.get("jsonPath"):
        yield _required(f"{path}.JSONPath")
    elif column["jsonPath"][0] != ".":
        yield _invalid(f"{path}.JSONPath", column["jsonPath"], "must be a simple json path starting with .")


def _selectable_problems(version: JSON, schema: JSON, path: str) -> Iterator[Cause]:
    """What is wrong with the fields that field selectors shall name."""
    if not version.get("selectableFields"):
        return
    from trimtab.server.rule_paths import RulePathError, schema_at

    seen: set[str] = set()
    for index, entry in enumerate(version["selectableFields"]):
        where = f"{path}.selectableFields[{index}].jsonPath"
        written = entry.get("jsonPath") or ""
        if not written:
            yield Cause(where, "Required value", "FieldValueRequired")
            continue
        try:
            shown, found = schema_at(written, schema, brackets=False)
        except RulePathError as err:
            yield Cause(where, f'Invalid value: "{written}": is an invalid path: {err}')
            continue
        if shown.startswith(".metadata"):
            yield Cause(where, f'Invalid value: "{written}": must not point to fields in metadata')
        if found.get("type") not in ("string", "boolean", "integer"):
            problem = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."
            yield Cause(where, f'Invalid value: "{written}": {problem}')
        if shown in seen:
            yield Cause(where, f'Duplicate value: "{written}"', "FieldValueDuplicate")
        seen.add(shown)
    if len(seen) > SELECTABLE_MAX:
        problem = f"Too many: {len(seen)}: must have at most {SELECTABLE_MAX} items"
        yield Cause(f"{path}.selectableFields", problem, "FieldValueTooMany")
