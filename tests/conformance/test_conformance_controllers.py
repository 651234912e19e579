"""What the server itself makes of a ReplicationController and a PodTemplate: defaults, refusals, scale, in the words of the real one."""

from __future__ import annotations

import json
from typing import Any

import kubernetes
import pytest
from kubernetes.client.rest import ApiException

TEMPLATE = {
    "metadata": {"labels": {"app": "old"}},
    "spec": {"containers": [{"name": "c", "image": "registry.invalid/i:1"}]},
}


@pytest.fixture
def core(client: Any) -> Any:
    return kubernetes.client.CoreV1Api(client)


def refused(core: Any, namespace: str, spec: dict[str, Any]) -> str:
    with pytest.raises(ApiException) as caught:
        core.create_namespaced_replication_controller(namespace, {"metadata": {"name": "no"}, "spec": spec})
    assert caught.value.status == 422
    return str(json.loads(caught.value.body)["message"])


def test_a_replication_controller_takes_selector_labels_and_size_from_its_template(core: Any, namespace: str) -> None:
    made = core.create_namespaced_replication_controller(
        namespace, {"metadata": {"name": "old"}, "spec": {"template": TEMPLATE, "replicas": 0}}
    )
    assert (made.spec.selector, made.metadata.labels) == ({"app": "old"}, {"app": "old"})
    assert made.metadata.generation == 1
    assert made.spec.template.spec.restart_policy == "Always"
    scale = core.read_namespaced_replication_controller_scale("old", namespace)
    assert scale.status.selector == "app=old"
    core.patch_namespaced_replication_controller_scale("old", namespace, {"spec": {"replicas": 3}})
    assert core.read_namespaced_replication_controller("old", namespace).spec.replicas == 3


def test_a_replication_controller_that_could_not_find_its_pods_is_refused(core: Any, namespace: str) -> None:
    said = refused(core, namespace, {"selector": {"app": "new"}, "template": TEMPLATE})
    assert said == (
        'ReplicationController "no" is invalid: spec.template.metadata.labels: Invalid value: {"app":"old"}: '
        "`selector` does not match template `labels`"
    )
    assert "spec.template: Required value" in refused(core, namespace, {"selector": {"app": "new"}})
    never = {**TEMPLATE, "spec": {**TEMPLATE["spec"], "restartPolicy": "Never"}}
    assert 'spec.template.spec.restartPolicy: Unsupported value: "Never"' in refused(
        core, namespace, {"template": never}
    )


def test_a_pod_template_is_kept_with_its_defaults(core: Any, namespace: str) -> None:
    made = core.create_namespaced_pod_template(namespace, {"metadata": {"name": "later"}, "template": TEMPLATE})
    assert made.template.spec.restart_policy == "Always"
    assert made.template.spec.containers[0].termination_message_path == "/dev/termination-log"
    listed = core.list_pod_template_for_all_namespaces(field_selector="metadata.name=later")
    assert [item.metadata.name for item in listed.items] == ["later"]
