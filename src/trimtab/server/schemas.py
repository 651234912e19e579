"""The door to schemas: built-in kinds by name, custom kinds compiled from their CRD.

What a `Schema` can do stands in `structural.py`; where built-in definitions come from in `definitions.py`; how a CRD's
schema becomes one, and what a structural schema must be, in `crd_schema.py`
and `structural_rules.py`.
"""

from trimtab.server.crd_schema import SchemaInvalid, check_rules, compile_crd_schema
from trimtab.server.definitions import builtin, kinds, kubernetes_version
from trimtab.server.structural import FieldError, Schema

__all__ = [
    "FieldError",
    "Schema",
    "SchemaInvalid",
    "builtin",
    "check_rules",
    "compile_crd_schema",
    "kinds",
    "kubernetes_version",
]
