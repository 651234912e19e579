"""What a CustomResourceDefinition must be, its versions, and the end of one: held to the real API server."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import kubernetes
import pytest
from kubernetes.client.rest import ApiException

WITHIN_S = 60.0
GROUP = "definitions.example.com"
LABEL = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with "
    "an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
)
SEE = "see https://github.com/kubernetes/enhancements/pull/1111"
APPROVED = "api-approved.kubernetes.io"
SCHEMA = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}


def version(name: str = "v1", **more: Any) -> dict[str, Any]:
    return {"name": name, "served": True, "storage": name == "v1", "schema": {"openAPIV3Schema": SCHEMA}, **more}


def definition(*versions: dict[str, Any], group: str = GROUP, name: str = "", **spec: Any) -> dict[str, Any]:
    plural = name or f"d{secrets.token_hex(4)}"
    names = {
        "plural": plural,
        "singular": plural,
        "kind": plural.capitalize(),
        "listKind": f"{plural.capitalize()}List",
    }
    whole = {"group": group, "scope": "Namespaced", "names": names, "versions": list(versions) or [version()], **spec}
    return {"metadata": {"name": f"{plural}.{group}"}, "spec": whole}


@pytest.fixture
def extensions(client: Any) -> Any:
    return kubernetes.client.ApiextensionsV1Api(client)


@pytest.fixture
def made(client: Any, extensions: Any, namespace: str) -> Iterator[Callable[..., str]]:
    """Makes a kind, waits until its first version is served, and returns its plural."""
    plurals: list[str] = []
    objects = kubernetes.client.CustomObjectsApi(client)

    def make(*versions: dict[str, Any]) -> str:
        body = definition(*versions)
        plural = str(body["spec"]["names"]["plural"])
        extensions.create_custom_resource_definition(body)
        plurals.append(plural)
        until_served(objects, namespace, plural, body["spec"]["versions"][0]["name"])
        return plural

    yield make
    for plural in plurals:
        try:
            extensions.delete_custom_resource_definition(f"{plural}.{GROUP}")
        except ApiException as err:
            if err.status != 404:
                raise


def until_served(objects: Any, namespace: str, plural: str, name: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            objects.list_namespaced_custom_object(GROUP, name, namespace, plural)
            return
        except ApiException as err:
            if err.status != 404 or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def refused(extensions: Any, body: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(ApiException) as caught:
        extensions.create_custom_resource_definition(body, dry_run="All")
    assert caught.value.status == 422, caught.value.body
    return [(cause["field"], cause["message"]) for cause in json.loads(caught.value.body)["details"]["causes"]]


def test_names_that_are_none_are_refused(extensions: Any) -> None:
    body = definition(name="things")
    body["spec"]["names"].update(singular="Bad", kind="1Kind", shortNames=["ok", "No"], categories=["all", "-"])

    assert refused(extensions, body) == [
        ("spec.names.singular", f'Invalid value: "Bad": {LABEL}'),
        ("spec.names.kind", f'Invalid value: "1Kind": may have mixed case, but should otherwise match: {LABEL}'),
        ("spec.names.shortNames[1]", f'Invalid value: "No": {LABEL}'),
        ("spec.names.categories[1]", f'Invalid value: "-": {LABEL}'),
    ]
    other = definition(name="things")
    other["metadata"]["name"] = f"others.{GROUP}"
    other["spec"]["names"]["listKind"] = "Things"
    assert refused(extensions, other)[0] == (
        "metadata.name",
        f'Invalid value: "others.{GROUP}": must be spec.names.plural+"."+spec.group',
    )
    assert ("spec.names.listKind", 'Invalid value: "Things": kind and listKind may not be the same') in refused(
        extensions, other
    )


def test_columns_that_are_none_are_refused(extensions: Any) -> None:
    columns = [
        {"name": "A", "type": "text", "jsonPath": ".spec.size"},
        {"name": "B", "type": "string", "format": "x", "jsonPath": ".spec.size"},
        {"name": "C", "type": "string", "jsonPath": "spec.size"},
    ]

    found = refused(extensions, definition(version(), version("v2", additionalPrinterColumns=columns)))

    where = "spec.versions[1].additionalPrinterColumns"
    assert found == [
        (f"{where}[0].type", 'Invalid value: "text": must be one of boolean,date,integer,number,string'),
        (
            f"{where}[1].format",
            'Invalid value: "x": must be one of byte,date,date-time,double,float,int32,int64,password',
        ),
        (f"{where}[2].JSONPath", 'Invalid value: "spec.size": must be a simple json path starting with .'),
    ]


def test_groups_of_kubernetes_need_an_approval(extensions: Any) -> None:
    body = definition(group="things.k8s.io")
    where = f"metadata.annotations[{APPROVED}]"

    assert refused(extensions, body) == [
        (where, f'Required value: protected groups must have approval annotation "{APPROVED}", {SEE}')
    ]
    body["metadata"]["annotations"] = {APPROVED: "nobody"}
    assert refused(extensions, body) == [
        (
            where,
            f'Invalid value: "nobody": protected groups must have approval annotation "{APPROVED}" with either a URL or a reason '
            f'starting with "unapproved", {SEE}',
        )
    ]
    for text in ("unapproved, an experiment", "https://github.com/kubernetes/kubernetes/pull/1"):
        body["metadata"]["annotations"] = {APPROVED: text}
        extensions.create_custom_resource_definition(body, dry_run="All")


def test_every_version_has_its_own_schema_of_one_object(
    client: Any, extensions: Any, namespace: str, made: Callable[..., str]
) -> None:
    objects = kubernetes.client.CustomObjectsApi(client)
    sized = {"type": "object", "properties": {"size": {"type": "integer"}, "unit": {"type": "string", "default": "GB"}}}
    second = version("v2", schema={"openAPIV3Schema": {"type": "object", "properties": {"spec": sized}}})
    plural = made(version(), second)
    kind = plural.capitalize()
    body = {"apiVersion": f"{GROUP}/v2", "kind": kind, "metadata": {"name": "one"}, "spec": {"size": 1, "x": 2}}

    created = objects.create_namespaced_custom_object(GROUP, "v2", namespace, plural, body)
    first = objects.get_namespaced_custom_object(GROUP, "v1", namespace, plural, "one")

    assert created["spec"] == {"size": 1}, "the stored version has no unit"
    assert (first["apiVersion"], first["spec"]) == (f"{GROUP}/v1", {"size": 1})

    moved = [version(storage=False), {**second, "storage": True}]
    changed = extensions.patch_custom_resource_definition(f"{plural}.{GROUP}", {"spec": {"versions": moved}})
    assert changed.status.stored_versions == ["v1", "v2"]
    with pytest.raises(ApiException) as caught:
        extensions.patch_custom_resource_definition(f"{plural}.{GROUP}", {"spec": {"versions": moved[1:]}})
    [cause] = json.loads(caught.value.body)["details"]["causes"]
    assert cause["field"] == "status.storedVersions[0]"
    assert cause["message"].startswith(
        'Invalid value: "v1": missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions'
    )
    extensions.patch_custom_resource_definition_status(f"{plural}.{GROUP}", {"status": {"storedVersions": ["v2"]}})
    extensions.patch_custom_resource_definition(f"{plural}.{GROUP}", {"spec": {"versions": moved[1:]}})
    body["metadata"]["name"] = "two"
    later = objects.create_namespaced_custom_object(GROUP, "v2", namespace, plural, body)
    assert later["spec"] == {"size": 1, "unit": "GB"}


def test_a_definition_takes_its_objects_along_and_may_come_again(
    client: Any, extensions: Any, namespace: str, made: Callable[..., str]
) -> None:
    objects = kubernetes.client.CustomObjectsApi(client)
    plural = made(version())
    body = {"apiVersion": f"{GROUP}/v1", "kind": plural.capitalize(), "metadata": {"name": "one"}, "spec": {"size": 1}}
    objects.create_namespaced_custom_object(GROUP, "v1", namespace, plural, body)

    extensions.delete_custom_resource_definition(f"{plural}.{GROUP}")
    deadline = time.monotonic() + WITHIN_S
    again = definition(version(), name=plural)
    while True:
        try:
            extensions.create_custom_resource_definition(again)
            break
        except ApiException as err:
            if err.status != 409 or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    until_served(objects, namespace, plural, "v1")

    assert objects.list_namespaced_custom_object(GROUP, "v1", namespace, plural)["items"] == []
