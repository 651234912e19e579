"""The messages of the plugin protocol, protocol 5 and 6, from one table, and the few names in which the two differ.

A line is a message: `Name: field=1 field=2:int field=3*:Other`. A field is a string unless a type follows; `*` repeats. A map is what it
is on the wire: repeated entries of key and value. Field numbers are from tfplugin5.proto (5.10) and tfplugin6.proto (6.10) in
hashicorp/terraform-plugin-go; only what something here writes or reads is listed. The classes are made by `protobuf` at run time.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

Version = Literal[5, 6]

TABLE = """
Empty:
DynamicValue: msgpack=1:bytes json=2:bytes
Step: attribute_name=1 element_key_string=2 element_key_int=3:int
AttributePath: steps=1*:Step
Diagnostic: severity=1:int summary=2 detail=3 attribute=4:AttributePath
RawState: json=1:bytes
Block: version=1:int attributes=2*:Attribute block_types=3*:NestedBlock description=4 deprecated=6:bool deprecation_message=7
{attribute}
Object: attributes=1*:Attribute nesting=3:int
NestedBlock: type_name=1 block=2:Block nesting=3:int min_items=4:int max_items=5:int
Schema: version=1:int block=2:Block
SchemaEntry: key=1 value=2:Schema
ServerCapabilities: plan_destroy=1:bool get_provider_schema_optional=2:bool
ClientCapabilities: deferral_allowed=1:bool write_only_attributes_allowed=2:bool
Deferred: reason=1:int
IdentityData: identity_data=1:DynamicValue
IdentityAttribute: name=1 type=2:bytes required_for_import=3:bool optional_for_import=4:bool
IdentitySchema: version=1:int identity_attributes=2*:IdentityAttribute
IdentityEntry: key=1 value=2:IdentitySchema
Identities: identity_schemas=1*:IdentityEntry diagnostics=2*:Diagnostic
ProviderSchema: provider=1:Schema resource_schemas=2*:SchemaEntry data_source_schemas=3*:SchemaEntry diagnostics=4*:Diagnostic server_capabilities=6:ServerCapabilities ephemeral_resource_schemas=8*:SchemaEntry list_resource_schemas=9*:SchemaEntry
ProviderConfig: config=1:DynamicValue
PreparedConfig: prepared_config=1:DynamicValue diagnostics=2*:Diagnostic
Configure: terraform_version=1 config=2:DynamicValue client_capabilities=3:ClientCapabilities
Diagnostics: diagnostics=1*:Diagnostic
Validate: type_name=1 config=2:DynamicValue client_capabilities=3:ClientCapabilities
Upgrade: type_name=1 version=2:int raw_state=3:RawState
Upgraded: upgraded_state=1:DynamicValue diagnostics=2*:Diagnostic
UpgradeIdentity: type_name=1 version=2:int raw_identity=3:RawState
UpgradedIdentity: upgraded_identity=1:IdentityData diagnostics=2*:Diagnostic
Read: type_name=1 current_state=2:DynamicValue private=3:bytes client_capabilities=5:ClientCapabilities current_identity=6:IdentityData
WasRead: new_state=1:DynamicValue diagnostics=2*:Diagnostic private=3:bytes deferred=4:Deferred new_identity=5:IdentityData
Plan: type_name=1 prior_state=2:DynamicValue proposed_new_state=3:DynamicValue config=4:DynamicValue prior_private=5:bytes client_capabilities=7:ClientCapabilities prior_identity=8:IdentityData
Planned: planned_state=1:DynamicValue requires_replace=2*:AttributePath planned_private=3:bytes diagnostics=4*:Diagnostic legacy_type_system=5:bool deferred=6:Deferred planned_identity=7:IdentityData
Apply: type_name=1 prior_state=2:DynamicValue planned_state=3:DynamicValue config=4:DynamicValue planned_private=5:bytes planned_identity=7:IdentityData
Applied: new_state=1:DynamicValue private=2:bytes diagnostics=3*:Diagnostic legacy_type_system=4:bool new_identity=5:IdentityData
Import: type_name=1 id=2 client_capabilities=3:ClientCapabilities identity=4:IdentityData
ImportedResource: type_name=1 state=2:DynamicValue private=3:bytes identity=4:IdentityData
Imported: imported_resources=1*:ImportedResource diagnostics=2*:Diagnostic deferred=3:Deferred
ReadData: type_name=1 config=2:DynamicValue client_capabilities=4:ClientCapabilities
DataRead: state=1:DynamicValue diagnostics=2*:Diagnostic deferred=3:Deferred
Stopped: Error=1
ListResource: type_name=1 config=2:DynamicValue include_resource_object=3:bool limit=4:int
Listed: identity=1:IdentityData display_name=2 resource_object=3:DynamicValue diagnostic=4*:Diagnostic
Timestamp: seconds=1:int nanos=2:int
Open: type_name=1 config=2:DynamicValue client_capabilities=3:ClientCapabilities
Opened: diagnostics=1*:Diagnostic renew_at=2:Timestamp result=3:DynamicValue private=4:bytes deferred=5:Deferred
Renew: type_name=1 private=2:bytes
Renewed: diagnostics=1*:Diagnostic renew_at=2:Timestamp private=3:bytes
"""
ATTRIBUTE: dict[Version, str] = {
    5: "Attribute: name=1 type=2:bytes description=3 required=4:bool optional=5:bool computed=6:bool sensitive=7:bool deprecated=9:bool write_only=10:bool deprecation_message=11",
    6: "Attribute: name=1 type=2:bytes description=3 required=4:bool optional=5:bool computed=6:bool sensitive=7:bool deprecated=9:bool nested_type=10:Object write_only=11:bool deprecation_message=12",
}

METHODS: dict[str, tuple[str, str, str, str]] = {
    "schema": ("GetSchema", "GetProviderSchema", "Empty", "ProviderSchema"),
    "identities": ("GetResourceIdentitySchemas", "GetResourceIdentitySchemas", "Empty", "Identities"),
    "prepare": ("PrepareProviderConfig", "ValidateProviderConfig", "ProviderConfig", "PreparedConfig"),
    "configure": ("Configure", "ConfigureProvider", "Configure", "Diagnostics"),
    "validate": ("ValidateResourceTypeConfig", "ValidateResourceConfig", "Validate", "Diagnostics"),
    "upgrade": ("UpgradeResourceState", "UpgradeResourceState", "Upgrade", "Upgraded"),
    "upgrade_identity": ("UpgradeResourceIdentity", "UpgradeResourceIdentity", "UpgradeIdentity", "UpgradedIdentity"),
    "read": ("ReadResource", "ReadResource", "Read", "WasRead"),
    "plan": ("PlanResourceChange", "PlanResourceChange", "Plan", "Planned"),
    "apply": ("ApplyResourceChange", "ApplyResourceChange", "Apply", "Applied"),
    "import": ("ImportResourceState", "ImportResourceState", "Import", "Imported"),
    "data": ("ReadDataSource", "ReadDataSource", "ReadData", "DataRead"),
    "list": ("ListResource", "ListResource", "ListResource", "Listed"),
    "validate_ephemeral": (
        "ValidateEphemeralResourceConfig",
        "ValidateEphemeralResourceConfig",
        "Validate",
        "Diagnostics",
    ),
    "open": ("OpenEphemeralResource", "OpenEphemeralResource", "Open", "Opened"),
    "renew": ("RenewEphemeralResource", "RenewEphemeralResource", "Renew", "Renewed"),
    "close": ("CloseEphemeralResource", "CloseEphemeralResource", "Renew", "Diagnostics"),
    "stop": ("Stop", "StopProvider", "Empty", "Stopped"),
}
"""What we call a method: its name in protocol 5, in protocol 6, its request and its answer."""


@functools.cache
def messages(version: Version) -> dict[str, Any]:
    """The message classes of a protocol version, by name."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    plain = {"": kinds.TYPE_STRING, "bytes": kinds.TYPE_BYTES, "int": kinds.TYPE_INT64, "bool": kinds.TYPE_BOOL}
    package = f"trimtab.plugin{version}"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for line in TABLE.format(attribute=ATTRIBUTE[version]).strip().splitlines():
        name, _, fields = line.partition(":")
        message = file.message_type.add(name=name)
        for text in fields.split():
            declared, _, of = text.partition(":")
            field, _, number = declared.partition("=")
            added = message.field.add(name=field, number=int(number.rstrip("*")))
            added.label = kinds.LABEL_REPEATED if number.endswith("*") else kinds.LABEL_OPTIONAL
            if of in plain:
                added.type = plain[of]
            else:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".{package}.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = pool.FindFileByName(file.name)
    return {
        name: message_factory.GetMessageClass(descriptor) for name, descriptor in made.message_types_by_name.items()
    }


def path_of(version: Version, method: str) -> str:
    """The gRPC path of a method by our name for it."""
    return f"/tfplugin{version}.Provider/{METHODS[method][0 if version == 5 else 1]}"
