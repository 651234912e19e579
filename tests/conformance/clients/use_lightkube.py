"""lightkube: typed objects, apply with conflicts, generic resources, chunked lists, watches that resume."""

import sys

from crd import boat
from lightkube import ApiError, Client, KubeConfig
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.apps_v1 import DeploymentSpec
from lightkube.models.autoscaling_v1 import ScaleSpec
from lightkube.models.core_v1 import Container, PodSpec, PodTemplateSpec
from lightkube.models.meta_v1 import LabelSelector, ObjectMeta
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import ConfigMap
from lightkube.types import CascadeType, PatchType

kubeconfig, namespace = sys.argv[1:]
client = Client(config=KubeConfig.from_file(kubeconfig), namespace=namespace, field_manager="one")

for number in range(5):
    client.create(ConfigMap(metadata=ObjectMeta(name=f"c{number}", labels={"n": str(number)}), data={"a": "1"}))
assert [c.metadata.name for c in client.list(ConfigMap, labels={"n": ["1", "3"]})] == ["c1", "c3"]
assert len([c for c in client.list(ConfigMap, chunk_size=2) if c.metadata.name.startswith("c")]) >= 5
listed = client.list(ConfigMap)
list(listed)
version = listed.resourceVersion
client.patch(ConfigMap, "c0", {"data": {"a": "2"}})
client.patch(ConfigMap, "c0", [{"op": "remove", "path": "/data/a"}], patch_type=PatchType.JSON)
client.delete(ConfigMap, "c4")
seen = []
for event, found in client.watch(ConfigMap, resource_version=version):
    seen.append((event, found.metadata.name, found.data))
    if event == "DELETED":
        break
assert seen == [("MODIFIED", "c0", {"a": "2"}), ("MODIFIED", "c0", None), ("DELETED", "c4", {"a": "1"})], seen

template = PodTemplateSpec(
    metadata=ObjectMeta(labels={"app": "web"}), spec=PodSpec(containers=[Container(name="web", image="web:1")])
)
spec = DeploymentSpec(replicas=1, selector=LabelSelector(matchLabels={"app": "web"}), template=template)
web = Deployment(apiVersion="apps/v1", kind="Deployment", metadata=ObjectMeta(name="web"), spec=spec)
client.apply(web)
spec.replicas = 2
try:
    client.apply(web, field_manager="two")
    raise AssertionError("another's field was taken without force")
except ApiError as error:
    if error.status.code != 409 or ".spec.replicas" not in error.status.message:
        raise
assert client.apply(web, field_manager="two", force=True).spec.replicas == 2
client.replace(
    Deployment.Scale(metadata=ObjectMeta(name="web", namespace=namespace), spec=ScaleSpec(replicas=4)), "web"
)
assert client.get(Deployment, "web").spec.replicas == 4
client.patch(Deployment.Status, "web", {"status": {"replicas": 1}}, patch_type=PatchType.MERGE)
client.delete(Deployment, "web", cascade=CascadeType.FOREGROUND)

Boat = create_namespaced_resource("clients.example", "v1", "Boat", "boats")
client.create(Boat(**boat("sloop", length=9)))
client.patch(Boat.Status, "sloop", {"status": {"afloat": True}}, patch_type=PatchType.MERGE)
sloop = client.get(Boat, "sloop")
assert (sloop.spec, sloop.status) == ({"length": 9, "sails": 1}, {"afloat": True})
client.deletecollection(Boat)
assert not list(client.list(Boat))
client.deletecollection(ConfigMap)
assert not list(client.list(ConfigMap, labels={"n": ["0", "1", "2", "3"]}))
print("ok")
