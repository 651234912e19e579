"""Deletion: finalizers, preconditions, propagation, grace, namespaces, collections."""

from __future__ import annotations

from typing import Any

from api_in_process import Api

CONFIGS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"


def config(name: str, **meta: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **meta}}


def owned_by(*owners: dict[str, Any], block: bool = False) -> dict[str, Any]:
    return {
        "ownerReferences": [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "name": owner["metadata"]["name"],
                "uid": owner["metadata"]["uid"],
                "blockOwnerDeletion": block,
            }
            for owner in owners
        ]
    }


async def test_deletion_answers_with_what_was_deleted(api: Api) -> None:
    created = (await api.post(CONFIGS, config("a"))).ok()

    answer = (await api.delete(f"{CONFIGS}/a")).ok()

    assert answer["status"] == "Success"
    assert answer["details"] == {"name": "a", "kind": "configmaps", "uid": created["metadata"]["uid"]}
    again = await api.delete(f"{CONFIGS}/a")
    assert (again.status, again.message) == (404, 'configmaps "a" not found')


async def test_preconditions_protect_from_deleting_another(api: Api) -> None:
    created = (await api.post(CONFIGS, config("a"))).ok()
    uid = created["metadata"]["uid"]

    refused = await api.delete(f"{CONFIGS}/a", {"preconditions": {"uid": "other"}})

    assert refused.status == 409
    assert refused.message == (
        'Operation cannot be fulfilled on configmaps "a": Precondition failed: UID in precondition: other, UID in object '
        f"meta: {uid}"
    )
    (await api.delete(f"{CONFIGS}/a", {"preconditions": {"uid": uid}})).ok()


async def test_finalizers_hold_an_object_until_the_last_is_gone(api: Api) -> None:
    (await api.post(CONFIGS, config("a", finalizers=["x.io/one", "x.io/two"]))).ok()

    marked = (await api.delete(f"{CONFIGS}/a")).ok()
    assert marked["metadata"]["deletionTimestamp"]
    assert (await api.delete(f"{CONFIGS}/a")).ok()["metadata"] == marked["metadata"]

    more = await api.patch(f"{CONFIGS}/a", {"metadata": {"finalizers": ["x.io/one", "x.io/two", "x.io/three"]}})
    assert more.status == 422
    assert more.message == (
        'ConfigMap "a" is invalid: metadata.finalizers: Forbidden: no new finalizers can be added if the object is being '
        'deleted, found new finalizers []string{"x.io/three"}'
    )
    (await api.patch(f"{CONFIGS}/a", {"metadata": {"finalizers": ["x.io/two"]}})).ok()
    assert (await api.get(f"{CONFIGS}/a")).status == 200
    (await api.patch(f"{CONFIGS}/a", {"metadata": {"finalizers": None}})).ok()
    assert (await api.get(f"{CONFIGS}/a")).status == 404


async def test_dependants_follow_their_owner(api: Api) -> None:
    owner = (await api.post(CONFIGS, config("owner"))).ok()
    child = (await api.post(CONFIGS, config("child", **owned_by(owner)))).ok()
    (await api.post(CONFIGS, config("grandchild", **owned_by(child)))).ok()

    (await api.delete(f"{CONFIGS}/owner")).ok()

    await api.gone(f"{CONFIGS}/child")
    await api.gone(f"{CONFIGS}/grandchild")


async def test_a_dependant_of_two_owners_stays_for_the_other(api: Api) -> None:
    one, two = [(await api.post(CONFIGS, config(name))).ok() for name in ("one", "two")]
    (await api.post(CONFIGS, config("child", **owned_by(one, two)))).ok()

    (await api.delete(f"{CONFIGS}/one")).ok()

    child = await api.eventually(
        f"{CONFIGS}/child", lambda answer: len(answer.body["metadata"]["ownerReferences"]) == 1
    )
    assert child["metadata"]["ownerReferences"][0]["name"] == "two"
    (await api.delete(f"{CONFIGS}/two")).ok()
    await api.gone(f"{CONFIGS}/child")


async def test_an_object_whose_owner_never_was_is_collected(api: Api) -> None:
    ghost = {"metadata": {"name": "ghost", "uid": "no-such-uid"}}
    (await api.post(CONFIGS, config("child", **owned_by(ghost)))).ok()

    await api.gone(f"{CONFIGS}/child")


async def test_orphans_outlive_their_owner(api: Api) -> None:
    owner = (await api.post(CONFIGS, config("owner"))).ok()
    (await api.post(CONFIGS, config("child", **owned_by(owner)))).ok()

    (await api.delete(f"{CONFIGS}/owner?propagationPolicy=Orphan")).ok()

    await api.gone(f"{CONFIGS}/owner")
    assert "ownerReferences" not in (await api.get(f"{CONFIGS}/child")).ok()["metadata"]


async def test_foreground_waits_for_blocking_dependants(api: Api) -> None:
    owner = (await api.post(CONFIGS, config("owner"))).ok()
    held = config("child", finalizers=["x.io/hold"], **owned_by(owner, block=True))
    (await api.post(CONFIGS, held)).ok()

    marked = (await api.delete(f"{CONFIGS}/owner", {"propagationPolicy": "Foreground"})).ok()
    assert marked["metadata"]["finalizers"] == ["foregroundDeletion"]
    await api.eventually(f"{CONFIGS}/child", lambda answer: "deletionTimestamp" in answer.body["metadata"])
    assert (await api.get(f"{CONFIGS}/owner")).status == 200

    (await api.patch(f"{CONFIGS}/child", {"metadata": {"finalizers": None}})).ok()
    await api.gone(f"{CONFIGS}/owner")


async def test_cycles_of_owners_are_collected_in_the_foreground(api: Api) -> None:
    one = (await api.post(CONFIGS, config("one"))).ok()
    two = (await api.post(CONFIGS, config("two", **owned_by(one, block=True)))).ok()
    (await api.patch(f"{CONFIGS}/one", {"metadata": owned_by(two, block=True)})).ok()

    (await api.delete(f"{CONFIGS}/one")).ok()

    await api.gone(f"{CONFIGS}/one")
    await api.gone(f"{CONFIGS}/two")


# Pods


async def make_pod(api: Api, node: str | None, **more: Any) -> dict[str, Any]:
    spec = {"containers": [{"name": "c", "image": "i"}], **({"nodeName": node} if node else {}), **more}
    created: dict[str, Any] = (await api.post(PODS, {"metadata": {"name": "p"}, "spec": spec})).ok()
    return created


async def test_a_pod_without_a_node_goes_at_once(api: Api) -> None:
    await make_pod(api, None)
    (await api.delete(f"{PODS}/p")).ok()
    assert (await api.get(f"{PODS}/p")).status == 404


async def test_a_pod_on_a_node_waits_for_its_containers(api: Api) -> None:
    created = await make_pod(api, "n1", terminationGracePeriodSeconds=7)

    marked = (await api.delete(f"{PODS}/p")).ok()
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 7
    shorter = (await api.delete(f"{PODS}/p?gracePeriodSeconds=3")).ok()
    assert shorter["metadata"]["deletionGracePeriodSeconds"] == 3
    longer = (await api.delete(f"{PODS}/p?gracePeriodSeconds=60")).ok()
    assert longer["metadata"]["deletionGracePeriodSeconds"] == 3

    options = {"gracePeriodSeconds": 0, "preconditions": {"uid": created["metadata"]["uid"]}}
    (await api.delete(f"{PODS}/p", options)).ok()
    assert (await api.get(f"{PODS}/p")).status == 404


async def test_an_eviction_respects_disruption_budgets(api: Api) -> None:
    labels = {"app": "db"}
    spec = {"containers": [{"name": "c", "image": "i"}], "nodeName": "n1"}
    (await api.post(PODS, {"metadata": {"name": "p", "labels": labels}, "spec": spec})).ok()
    running = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
    (await api.patch(f"{PODS}/p/status", running)).ok()
    budget = {"metadata": {"name": "db"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": labels}}}
    (await api.post("/apis/policy/v1/namespaces/default/poddisruptionbudgets", budget)).ok()

    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
    refused = await api.post(f"{PODS}/p/eviction", eviction)

    assert refused.status == 429
    assert refused.message == (
        "Cannot evict pod as it would violate the pod's disruption budget. "
        "The disruption budget db needs 1 healthy pods and has 1 currently"
    )
    assert refused.body["details"]["causes"] == [
        {"reason": "DisruptionBudget", "message": "The disruption budget db needs 1 healthy pods and has 1 currently"}
    ]
    (await api.delete("/apis/policy/v1/namespaces/default/poddisruptionbudgets/db")).ok()
    another = {**eviction, "deleteOptions": {"preconditions": {"uid": "of another"}}}
    assert (await api.post(f"{PODS}/p/eviction", another)).status == 409
    untouched = (await api.get(f"{PODS}/p")).ok()
    assert [c["type"] for c in untouched["status"]["conditions"]] == ["Ready"]
    version = {"preconditions": {"resourceVersion": untouched["metadata"]["resourceVersion"]}}
    (await api.post(f"{PODS}/p/eviction", {**eviction, "deleteOptions": version})).ok()
    evicted = (await api.get(f"{PODS}/p")).ok()
    assert evicted["metadata"]["deletionTimestamp"]
    said = {c["type"]: c.get("reason") for c in evicted["status"]["conditions"]}
    assert said == {"Ready": None, "DisruptionTarget": "EvictionByEvictionAPI"}


async def test_a_pod_is_bound_once(api: Api) -> None:
    await make_pod(api, None)
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": "n1"},
    }

    (await api.post(f"{PODS}/p/binding", binding)).ok()
    again = await api.post(f"{PODS}/p/binding", binding)

    bound = (await api.get(f"{PODS}/p")).ok()
    assert bound["spec"]["nodeName"] == "n1"
    assert [c["type"] for c in bound["status"]["conditions"]] == ["PodScheduled"]
    assert again.status == 409
    assert again.message.endswith('pod p is already assigned to node "n1"')


# Namespaces and collections


async def test_a_namespace_takes_its_content_along(api: Api) -> None:
    (await api.post("/api/v1/namespaces", config("shop"))).ok()
    for name in ("a", "b"):
        (await api.post("/api/v1/namespaces/shop/configmaps", config(name))).ok()
    (await api.post("/api/v1/namespaces/shop/secrets", config("held", finalizers=["x.io/hold"]))).ok()

    marked = (await api.delete("/api/v1/namespaces/shop")).ok()
    assert marked["status"]["phase"] == "Terminating"
    late = await api.post("/api/v1/namespaces/shop/configmaps", config("late"))
    assert (late.status, late.body["details"]["causes"][0]["reason"]) == (403, "NamespaceTerminating")
    assert late.message == (
        "configmaps is forbidden: unable to create new content in namespace shop because it is being terminated"
    )
    await api.gone("/api/v1/namespaces/shop/configmaps/a")
    assert (await api.get("/api/v1/namespaces/shop")).status == 200

    (await api.patch("/api/v1/namespaces/shop/secrets/held", {"metadata": {"finalizers": None}})).ok()
    await api.gone("/api/v1/namespaces/shop")
    assert [r.key for r in api.server.store.list("/") if "/shop/" in r.key] == []


async def test_every_namespace_gets_a_service_account(api: Api) -> None:
    (await api.post("/api/v1/namespaces", config("shop"))).ok()
    await api.eventually("/api/v1/namespaces/shop/serviceaccounts/default", lambda answer: answer.status == 200)


async def test_a_collection_is_deleted_by_selector(api: Api) -> None:
    for name, app in (("a", "web"), ("b", "web"), ("c", "db")):
        (await api.post(CONFIGS, config(name, labels={"app": app}))).ok()

    deleted = (await api.delete(f"{CONFIGS}?labelSelector=app=web")).ok()

    assert [item["metadata"]["name"] for item in deleted["items"]] == ["a", "b"]
    assert [item["metadata"]["name"] for item in (await api.get(CONFIGS)).ok()["items"]] == ["c"]


async def test_a_dry_run_deletes_nothing(api: Api) -> None:
    (await api.post(CONFIGS, config("a"))).ok()
    (await api.delete(f"{CONFIGS}/a?dryRun=All")).ok()
    assert (await api.get(f"{CONFIGS}/a")).status == 200
