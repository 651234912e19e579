"""Who may ask, and what: tokens, impersonation, roles, reviews."""

from __future__ import annotations

import asyncio
import base64
import hmac
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from api_in_process import Api, Watching, running_api
from trimtab.server import ServerSettings
from trimtab.server.bootstrap import bootstrap

CONFIGS = "/api/v1/namespaces/default/configmaps"
ROLES = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles"
BINDINGS = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings"
REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    (tmp_path / "admin.token").write_text("secret-of-the-admin\n")
    settings = ServerSettings(admin_token_file=tmp_path / "admin.token", service_account_key=tmp_path / "sa.key")
    async with running_api(settings=settings) as running:
        yield running


async def token_of(api: Api, account: str = "default") -> str:
    url = f"/api/v1/namespaces/default/serviceaccounts/{account}"
    await api.eventually(url, lambda answer: answer.status == 200)
    answer = (await api.post(f"{url}/token", {"spec": {"expirationSeconds": 600}})).ok()
    return str(answer["status"]["token"])


async def grant(api: Api, rules: list[dict[str, Any]], subject: dict[str, Any], name: str = "reader") -> None:
    (await api.post(ROLES, {"metadata": {"name": name}, "rules": rules})).ok()
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    (await api.post(BINDINGS, {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]})).ok()


BOB = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}
READ_CONFIGS = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]


async def test_the_admins_token_may_do_everything(api: Api) -> None:
    admin = api.with_headers(authorization="Bearer secret-of-the-admin")

    assert (await admin.post(CONFIGS, {"metadata": {"name": "a"}})).status == 201


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer a.b.c", "Basic YTpi", "Bearer"])
async def test_a_wrong_token_is_401(api: Api, header: str) -> None:
    answer = await api.with_headers(authorization=header).get(CONFIGS)

    assert (answer.status, answer.message) == (401, "Unauthorized")


async def test_without_a_token_only_health_and_version_answer(api: Api) -> None:
    nobody = api.with_headers()

    assert (await nobody.get("/version")).status == 200
    assert (await nobody.get("/readyz")).status == 200
    refused = await nobody.get(CONFIGS)
    assert refused.status == 403
    assert refused.message == (
        'configmaps is forbidden: User "system:anonymous" cannot list resource "configmaps" in API group "" in the '
        'namespace "default"'
    )
    assert (await nobody.get("/apis")).message == 'forbidden: User "system:anonymous" cannot get path "/apis"'


async def test_a_service_account_may_what_its_roles_say(api: Api) -> None:
    token = await token_of(api)
    account = api.with_headers(authorization=f"Bearer {token}")
    assert (await account.get(CONFIGS)).status == 403

    await grant(api, READ_CONFIGS, {"kind": "ServiceAccount", "name": "default", "namespace": "default"})

    assert (await account.get(CONFIGS)).status == 200
    assert (await account.get(f"{CONFIGS}?watch=1")).status == 403
    assert (await account.get("/api/v1/configmaps")).status == 403
    assert (await account.post(CONFIGS, {"metadata": {"name": "a"}})).status == 403
    (await api.delete(f"{BINDINGS}/reader")).ok()
    assert (await account.get(CONFIGS)).status == 403


async def test_a_token_dies_with_its_account(api: Api) -> None:
    (await api.post("/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "bot"}})).ok()
    account = api.with_headers(authorization=f"Bearer {await token_of(api, 'bot')}")
    me = (await account.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", {})).ok()
    assert me["status"]["userInfo"]["username"] == "system:serviceaccount:default:bot"

    (await api.delete("/api/v1/namespaces/default/serviceaccounts/bot")).ok()

    assert (await account.get("/version")).status == 401


async def test_a_forged_token_is_refused(api: Api) -> None:
    head, claims, signature = (await token_of(api)).split(".")
    forged = f"{head}.{claims[:-4]}AAAA.{signature}"

    assert (await api.with_headers(authorization=f"Bearer {forged}").get("/version")).status == 401


async def test_rules_of_names_subresources_and_wildcards(api: Api) -> None:
    rules = [
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"], "verbs": ["get"]},
        {"apiGroups": ["apps"], "resources": ["*"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["*"]},
    ]
    await grant(api, rules, BOB)
    bob = api.with_headers(trusted=True, impersonate_user="bob", impersonate_group="none")

    async def may(verb: str, group: str, resource: str, name: str = "", subresource: str = "") -> bool:
        attributes = {
            "namespace": "default",
            "verb": verb,
            "group": group,
            "resource": resource,
            "name": name,
            "subresource": subresource,
        }
        answer = (await bob.post(REVIEW, {"spec": {"resourceAttributes": attributes}})).ok()
        return bool(answer["status"]["allowed"])

    (
        await api.post(
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            {
                "metadata": {"name": "bob-basic"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": "system:basic-user",
                },
                "subjects": [BOB],
            },
        )
    ).ok()
    assert await may("get", "", "configmaps", "one")
    assert not await may("get", "", "configmaps", "two")
    assert not await may("list", "", "configmaps")
    assert await may("get", "apps", "deployments")
    assert await may("create", "", "pods", subresource="log")
    assert not await may("get", "", "pods")


async def test_the_engines_socket_names_its_actor(api: Api) -> None:
    actor = api.with_headers(trusted=True, impersonate_user="system:trimtab:controllers")

    me = (await actor.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", {})).ok()

    assert me["status"]["userInfo"] == {
        "username": "system:trimtab:controllers",
        "groups": ["system:masters", "system:authenticated"],
    }


async def test_impersonation_needs_the_right_to(api: Api) -> None:
    admin = api.with_headers(authorization="Bearer secret-of-the-admin", impersonate_user="bob")
    account = api.with_headers(authorization=f"Bearer {await token_of(api)}", impersonate_user="bob")

    assert (await admin.get(CONFIGS)).message.startswith('configmaps is forbidden: User "bob" cannot list')
    assert (await account.get(CONFIGS)).message == (
        'users "bob" is forbidden: User "system:serviceaccount:default:default" cannot impersonate resource "users" in API '
        'group "" at the cluster scope'
    )
    groups_alone = api.with_headers(authorization="Bearer secret-of-the-admin", impersonate_group="x")
    assert (await groups_alone.get(CONFIGS)).status == 400


async def test_nobody_grants_more_than_they_have(api: Api) -> None:
    manage = [{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["create"]}]
    await grant(api, manage + READ_CONFIGS, BOB)
    bob = api.with_headers(trusted=True, impersonate_user="bob", impersonate_group="none")

    within = await bob.post(ROLES, {"metadata": {"name": "mine"}, "rules": READ_CONFIGS})
    beyond = await bob.post(
        ROLES,
        {"metadata": {"name": "more"}, "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]},
    )
    admin = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    bound = await bob.post(BINDINGS, {"metadata": {"name": "all"}, "roleRef": admin, "subjects": [BOB]})

    assert within.status == 201
    assert (beyond.status, beyond.message) == (
        403,
        'roles.rbac.authorization.k8s.io "more" is forbidden: user "bob" (groups=["none" '
        '"system:authenticated"]) is attempting to grant RBAC permissions not currently held:\n'
        '{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}',
    )
    assert bound.status == 403


async def test_the_view_role_reads_all_but_secrets(api: Api) -> None:
    view = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
    (await api.post(BINDINGS, {"metadata": {"name": "bob"}, "roleRef": view, "subjects": [BOB]})).ok()
    bob = api.with_headers(trusted=True, impersonate_user="bob", impersonate_group="none")

    assert (await bob.get(CONFIGS)).status == 200
    assert (await bob.get("/apis/apps/v1/namespaces/default/deployments")).status == 200
    assert (await bob.get("/api/v1/namespaces/default/secrets")).status == 403
    assert (await bob.delete(f"{CONFIGS}/a")).status == 403


async def test_a_token_review(api: Api) -> None:
    url = "/apis/authentication.k8s.io/v1/tokenreviews"
    good = (await api.post(url, {"spec": {"token": await token_of(api)}})).ok()
    bad = (await api.post(url, {"spec": {"token": "x"}})).ok()

    assert good["status"]["authenticated"] is True
    assert good["status"]["user"]["username"] == "system:serviceaccount:default:default"
    assert bad["status"] == {"authenticated": False, "error": "the token is not valid here"}


async def test_streams_need_the_right_to_create_them(api: Api) -> None:
    await grant(api, [{"apiGroups": [""], "resources": ["pods", "pods/exec"], "verbs": ["get"]}], BOB)
    bob = api.with_headers(trusted=True, impersonate_user="bob", impersonate_group="none")

    answer = await bob.get("/api/v1/namespaces/default/pods/p/exec?command=sh")

    assert (answer.status, answer.body["reason"]) == (403, "Forbidden")


# What stays open

WATCH_CONFIGS = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["watch"]}]
BOT = {"kind": "ServiceAccount", "name": "bot", "namespace": "default"}
ACCOUNT = "/api/v1/namespaces/default/serviceaccounts/bot"


async def bots_watch(api: Api, token: str = "") -> Watching:
    (await api.post("/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "bot"}})).ok()
    await grant(api, WATCH_CONFIGS, BOT)
    account = api.with_headers(authorization=f"Bearer {token or await token_of(api, 'bot')}")
    watching = await account.watch(f"{CONFIGS}?watch=true")
    (await api.post(CONFIGS, {"metadata": {"name": "seen"}})).ok()
    while (await watching.next())["object"]["metadata"]["name"] != "seen":
        pass
    return watching


@pytest.mark.parametrize("gone", [ACCOUNT, f"{BINDINGS}/reader"])
async def test_a_watch_ends_with_the_token_and_with_the_permission(api: Api, gone: str) -> None:
    watching = await bots_watch(api)
    assert len(api.server.sessions) == 1

    (await api.delete(gone)).ok()

    assert await asyncio.wait_for(watching.rest(), 60) == []
    assert len(api.server.sessions) == 0


async def test_a_watch_goes_on_when_others_lose_their_permission(api: Api) -> None:
    watching = await bots_watch(api)
    await grant(api, READ_CONFIGS, BOB, name="bobs")

    (await api.delete(f"{BINDINGS}/bobs")).ok()
    (await api.post(CONFIGS, {"metadata": {"name": "later"}})).ok()

    assert (await watching.next())["object"]["metadata"]["name"] == "later"
    await watching.close()
    assert len(api.server.sessions) == 0


async def test_a_watch_ends_when_its_token_expires(api: Api) -> None:
    (await api.post("/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "short"}})).ok()
    await grant(api, WATCH_CONFIGS, {**BOT, "name": "short"})
    account = (await api.get("/api/v1/namespaces/default/serviceaccounts/short")).ok()
    token, _ = api.server.tokens.issue("default", "short", account["metadata"]["uid"], (), 1, None)
    watching = await api.with_headers(authorization=f"Bearer {token}").watch(f"{CONFIGS}?watch=true")

    await asyncio.wait_for(watching.rest(), 60)

    assert len(api.server.sessions) == 0


RBAC_GROUP = "rbac.authorization.k8s.io"
ROLES_OF_ALL = f"/apis/{RBAC_GROUP}/v1/clusterroles"


async def test_roles_of_an_older_version_are_widened_unless_their_owner_says_no(api: Api) -> None:
    url = f"{ROLES_OF_ALL}/system:aggregate-to-edit"
    own = {"apiGroups": ["example.org"], "resources": ["things"], "verbs": ["get"]}
    now = (await api.get(url)).ok()["rules"]
    older = [{**rule, "resources": [r for r in rule["resources"] if r != "pods/ephemeralcontainers"]} for rule in now]
    (await api.patch(url, {"rules": [*older, own]})).ok()

    await bootstrap(api.server)
    widened = (await api.get(url)).ok()["rules"]
    revision = api.server.store.revision
    await bootstrap(api.server)

    assert api.server.store.revision == revision, "once is enough"
    assert own in widened
    assert len(widened) == len(now) + 1
    assert any("pods/ephemeralcontainers" in rule["resources"] for rule in widened)
    no = {"metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}, "rules": [own]}
    (await api.patch(url, no)).ok()
    await bootstrap(api.server)
    assert (await api.get(url)).ok()["rules"] == [own]


async def test_who_edits_has_what_viewers_are_given_and_who_administers_has_both(api: Api) -> None:
    (await api.patch(f"{ROLES_OF_ALL}/view", {"metadata": {"labels": {f"{RBAC_GROUP}/aggregate-to-edit": None}}})).ok()
    await bootstrap(api.server)  # as of an engine that was begun by an older version
    rule = {"apiGroups": ["example.org"], "resources": ["things"], "verbs": ["get"]}
    labels = {f"{RBAC_GROUP}/aggregate-to-view": "true"}
    (await api.post(ROLES_OF_ALL, {"metadata": {"name": "things", "labels": labels}, "rules": [rule]})).ok()

    rules = {level: api.server.authorizer.role_rules("ClusterRole", "", level) for level in ("view", "edit", "admin")}

    assert all(any("things" in rule.resources for rule in found) for found in rules.values()), rules


async def test_roles_that_aggregate_each_other_end(api: Api) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        gathers = {"clusterRoleSelectors": [{"matchLabels": {"to": name}}]}
        meta = {"name": name, "labels": {"to": other}}
        (await api.post(ROLES_OF_ALL, {"metadata": meta, "aggregationRule": gathers})).ok()

    assert api.server.authorizer.role_rules("ClusterRole", "", "a") == ()


async def test_anybody_can_check_a_token_with_the_published_key(api: Api) -> None:
    account = api.with_headers(authorization=f"Bearer {await token_of(api)}")
    told = (await account.get("/.well-known/openid-configuration")).ok()
    assert told["issuer"] == "https://kubernetes.default.svc.cluster.local"
    assert told["jwks_uri"].endswith("/openid/v1/jwks")
    (key,) = msgspec.json.decode((await account.get("/openid/v1/jwks")).ok())["keys"]
    assert (key["kty"], key["crv"], key["alg"], key["use"]) == ("EC", "P-256", "ES256", "sig")

    head, claims, signature = (await token_of(api)).split(".")
    assert msgspec.json.decode(unpadded(head)) == {"alg": "ES256", "kid": key["kid"], "typ": "JWT"}
    place = ec.EllipticCurvePublicNumbers(number(unpadded(key["x"])), number(unpadded(key["y"])), ec.SECP256R1())
    pair = encode_dss_signature(number(unpadded(signature)[:32]), number(unpadded(signature)[32:]))
    place.public_key().verify(pair, f"{head}.{claims}".encode(), ec.ECDSA(SHA256()))
    assert (await api.with_headers(authorization="").get("/openid/v1/jwks")).status == 403


async def test_a_token_of_an_earlier_version_is_read_until_it_expires(api: Api, tmp_path: Path) -> None:
    _, claims, _ = (await token_of(api)).split(".")
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').decode().rstrip("=")
    secret = (tmp_path / "sa.key").read_bytes()
    made = hmac.new(secret, f"{head}.{claims}".encode(), "sha256").digest()
    earlier = f"{head}.{claims}.{base64.urlsafe_b64encode(made).decode().rstrip('=')}"
    url = "/apis/authentication.k8s.io/v1/tokenreviews"
    assert (await api.post(url, {"spec": {"token": earlier}})).ok()["status"]["authenticated"] is True
    for bad in (f"{head}.{claims}.", f"{head}.{claims}.AAAA", f"{claims}.{claims}.AAAA", "..", "e30.e30.e30"):
        assert (await api.post(url, {"spec": {"token": bad}})).ok()["status"]["authenticated"] is False


async def test_a_token_review_tells_which_token_it_was(api: Api) -> None:
    url = "/apis/authentication.k8s.io/v1/tokenreviews"
    user = (await api.post(url, {"spec": {"token": await token_of(api)}})).ok()["status"]["user"]
    assert user["extra"]["authentication.kubernetes.io/credential-id"][0].startswith("JTI=")


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def number(data: bytes) -> int:
    return int.from_bytes(data)


async def test_an_apply_creates_only_for_who_may_create(api: Api) -> None:
    change = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "patch", "update"]}]
    named = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"], "resourceNames": ["mine"]}]
    await grant(api, change + named, BOB)
    bob = api.with_headers(trusted=True, impersonate_user="bob", impersonate_group="none")

    async def applied(name: str) -> Any:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}}
        return await bob.patch(f"{CONFIGS}/{name}?fieldManager=bob", body, "application/apply-patch+yaml")

    other = await applied("others")
    assert (other.status, other.message) == (
        403,
        'configmaps "others" is forbidden: User "bob" cannot create resource "configmaps" in API group "" in the namespace "default"',
    )
    assert (await api.get(f"{CONFIGS}/others")).status == 404
    assert (await applied("mine")).status == 201
    assert (await applied("mine")).status == 200


async def test_a_role_gathers_what_its_selectors_say(api: Api) -> None:
    label = {"example.org/to-bob": "true", "tier": "low"}
    for name, labels in (("chosen", label), ("other", {"tier": "high"})):
        rule = {"apiGroups": ["example.org"], "resources": [name], "verbs": ["get"]}
        (await api.post(ROLES_OF_ALL, {"metadata": {"name": name, "labels": labels}, "rules": [rule]})).ok()
    chosen = [
        {"key": "example.org/to-bob", "operator": "Exists"},
        {"key": "tier", "operator": "NotIn", "values": ["high"]},
    ]
    gathered = {"clusterRoleSelectors": [{"matchExpressions": chosen}]}
    (await api.post(ROLES_OF_ALL, {"metadata": {"name": "bobs"}, "rules": [], "aggregationRule": gathered})).ok()
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "bobs"}
    url = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
    (await api.post(url, {"metadata": {"name": "bobs"}, "roleRef": reference, "subjects": [BOB]})).ok()
    bob = api.with_headers(trusted=True, impersonate_user="bob", impersonate_group="none")

    async def may(resource: str) -> bool:
        asked = {"verb": "get", "group": "example.org", "resource": resource}
        return bool((await bob.post(REVIEW, {"spec": {"resourceAttributes": asked}})).ok()["status"]["allowed"])

    assert await may("chosen")
    assert not await may("other")
    (await api.delete(f"{ROLES_OF_ALL}/chosen")).ok()
    assert not await may("chosen")
