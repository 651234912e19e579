"""kr8s: objects, selectors, patches, custom kinds, waits, and a watch that is left after its first event."""

import sys

import kr8s
from crd import boat
from kr8s.objects import ConfigMap, Deployment, new_class

kubeconfig, namespace = sys.argv[1:]
api = kr8s.api(kubeconfig=kubeconfig, namespace=namespace)

config = ConfigMap({"metadata": {"name": "one", "namespace": namespace}, "data": {"a": "1"}}, api=api)
config.create()
assert config.exists()
config.label({"tier": "front"})
config.annotate({"note": "x"})
config.patch({"data": {"b": "2"}})
config.refresh()
assert dict(config.data) == {"a": "1", "b": "2"}
assert [c.name for c in api.get("configmaps", namespace=namespace, label_selector={"tier": "front"})] == ["one"]
assert [c.name for c in ConfigMap.list(namespace=namespace, field_selector="metadata.name=one", api=api)] == ["one"]

for event, found in api.watch("configmaps", namespace=namespace, label_selector="tier=front"):
    assert (event, found.name) == ("ADDED", "one")
    break
seen = config.metadata.resourceVersion
config.patch({"data": {"c": "3"}})
for event, found in api.watch("configmaps", namespace=namespace, label_selector="tier=front", since=seen):
    assert (event, found.data.c) == ("MODIFIED", "3")
    break

spec = {
    "replicas": 1,
    "selector": {"matchLabels": {"app": "web"}},
    "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}},
}
web = Deployment({"metadata": {"name": "web", "namespace": namespace}, "spec": spec}, api=api)
web.create()
web.patch({"spec": {"replicas": 3}})
assert web.replicas == 3
web.scale(0)
assert web.replicas == 0

Boat = new_class(kind="Boat", version="clients.example/v1", namespaced=True, scalable=True, plural="boats")
sloop = Boat({**boat("sloop", length=9), "metadata": {"name": "sloop", "namespace": namespace}}, api=api)
sloop.create()
sloop.patch({"status": {"conditions": [{"type": "Afloat", "status": "True"}]}}, subresource="status")
sloop.wait("condition=Afloat", timeout=30)
sloop.wait("jsonpath='{.spec.sails}'=1", timeout=30)
assert [b.name for b in api.get("boats.clients.example", namespace=namespace)] == ["sloop"]

try:
    ConfigMap.get("none", namespace=namespace, api=api)
    raise AssertionError("what is not there was found")
except kr8s.NotFoundError:
    pass
for made in (config, web, sloop):
    made.delete()
    made.wait("delete", timeout=30)
print("ok")
