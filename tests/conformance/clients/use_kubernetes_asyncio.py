"""kubernetes_asyncio: CRUD, paging, the dynamic client, a watch that resumes, leader election on a Lease."""

import asyncio
import sys

from crd import boat
from kubernetes_asyncio import client, config, dynamic, watch

MERGE = "application/merge-patch+json"
kubeconfig, namespace = sys.argv[1:]


async def main() -> None:
    await config.load_kube_config(kubeconfig)
    async with client.ApiClient() as connection:
        core = client.CoreV1Api(connection)
        for number in range(5):
            await core.create_namespaced_config_map(
                namespace, {"metadata": {"name": f"c{number}", "labels": {"mine": "yes"}}, "data": {"a": "1"}}
            )
        page = await core.list_namespaced_config_map(namespace, limit=2, label_selector="mine=yes")
        names = [c.metadata.name for c in page.items]
        while page.metadata._continue:
            page = await core.list_namespaced_config_map(
                namespace, limit=2, label_selector="mine=yes", _continue=page.metadata._continue
            )
            names += [c.metadata.name for c in page.items]
        assert names == ["c0", "c1", "c2", "c3", "c4"], names

        version = page.metadata.resource_version
        await core.patch_namespaced_config_map("c0", namespace, {"data": {"a": "2"}}, _content_type=MERGE)
        await core.delete_namespaced_config_map("c1", namespace)
        seen = []
        async with watch.Watch() as events:
            async for event in events.stream(
                core.list_namespaced_config_map, namespace, resource_version=version, label_selector="mine=yes"
            ):
                seen.append((event["type"], event["object"].metadata.name))
                if event["type"] == "DELETED":
                    break
        assert seen == [("MODIFIED", "c0"), ("DELETED", "c1")], seen
        try:
            await core.replace_namespaced_config_map(
                "c2", namespace, {"metadata": {"name": "c2", "resourceVersion": "1"}}
            )
            raise AssertionError("an old version was taken")
        except client.ApiException as error:
            if error.status != 409:
                raise

        dynamic_client = await dynamic.DynamicClient(connection)
        boats = await dynamic_client.resources.get(api_version="clients.example/v1", kind="Boat")
        await boats.server_side_apply(body=boat("sloop", length=9), namespace=namespace, field_manager="me")
        sloop = await boats.get(name="sloop", namespace=namespace)
        assert (sloop.spec.length, sloop.spec.sails) == (9, 1)
        custom = client.CustomObjectsApi(connection)
        await custom.patch_namespaced_custom_object_status(
            "clients.example", "v1", namespace, "boats", "sloop", {"status": {"afloat": True}}, _content_type=MERGE
        )
        scale = await custom.get_namespaced_custom_object_scale("clients.example", "v1", namespace, "boats", "sloop")
        assert scale["spec"]["replicas"] == 1, scale
        await custom.delete_namespaced_custom_object("clients.example", "v1", namespace, "boats", "sloop")

        review = await client.AuthorizationV1Api(connection).create_self_subject_access_review(
            {"spec": {"resourceAttributes": {"verb": "create", "resource": "pods", "namespace": namespace}}}
        )
        assert review.status.allowed
        account = await core.create_namespaced_service_account(namespace, {"metadata": {"name": "robot"}})
        token = await core.create_namespaced_service_account_token(
            account.metadata.name, namespace, {"spec": {"audiences": [], "expirationSeconds": 600}}
        )
        assert token.status.token.count(".") == 2
        await core.delete_collection_namespaced_config_map(namespace, label_selector="mine=yes")
        assert not (await core.list_namespaced_config_map(namespace, label_selector="mine=yes")).items


asyncio.run(main())
print("ok")
