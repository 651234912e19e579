"""The order in which documents reach the proxy, and what they say."""

from __future__ import annotations

from pathlib import Path

from ingress_world import ingress
from trimtab.components.ingress import envoy_config as envoy
from trimtab.components.ingress.endpoints import Written
from trimtab.components.ingress.proxy import Refusal, Seen
from trimtab.components.ingress.publish import Wished, plan
from trimtab.components.ingress.routes import ACME_PREFIX, Table, build
from trimtab.runtime.settings import Settings

DIR = Path("/data/proxy")
SETTINGS = Settings(id="abcdef", data="/data", run="/run/x")


def wished(table: Table, *, endpoints: dict[str, dict[str, Written]] | None = None) -> Wished:
    clusters = {b.cluster: False for b in table.backends()}
    return Wished(
        directory=DIR,
        clusters=clusters,
        endpoints={c: envoy.endpoint_file(c, (endpoints or {}).get(c, {})) for c in clusters},
        routes=envoy.route_files(table, 443),
        listeners=envoy.listener_file(SETTINGS, DIR, {}, None),
        secrets={},
    )


def empty() -> dict:
    return {
        envoy.CLUSTERS: envoy.document([]),
        **envoy.route_files(Table(), 443),
        envoy.LISTENERS: envoy.listener_file(SETTINGS, DIR, {}, None),
    }


def run_on(documents: dict, clusters: dict | None = None) -> Seen:
    """A proxy that has taken everything in."""
    hosts = {c: {} for c in (clusters if clusters is not None else envoy.clusters_of(documents[envoy.CLUSTERS]))}
    return Seen({name: doc["version_info"] for name, doc in documents.items()}, hosts)


ONE = build([ingress("web", tls=False, backend="one:80")])
TWO = build([ingress("web", tls=False, backend="two:80")])
E1, E2 = envoy.endpoint_file_name("shop/one:80"), envoy.endpoint_file_name("shop/two:80")


def settle(wish: Wished, documents: dict) -> list[list[str]]:
    """Plans and takes in until nothing is left; what each round wrote and removed."""
    rounds = []
    for _ in range(10):
        todo = plan(wish, documents, run_on(documents), {})
        for name in todo.removes:
            del documents[name]
        documents.update(todo.puts)
        if not todo.puts and not todo.removes:
            assert todo.waiting == ()
            return rounds
        rounds.append([*todo.puts, *(f"-{name}" for name in todo.removes)])
    raise AssertionError(rounds)


def test_routes_wait_for_clusters_and_clusters_leave_after_routes():
    documents = empty()
    assert settle(wished(ONE), documents) == [[E1, envoy.CLUSTERS], [envoy.ROUTES_HTTP, envoy.ROUTES_HTTPS]]
    assert settle(wished(TWO), documents) == [
        [E2, envoy.CLUSTERS],
        [envoy.ROUTES_HTTP, envoy.ROUTES_HTTPS],
        [envoy.CLUSTERS],
        [f"-{E1}"],
    ]
    assert set(envoy.clusters_of(documents[envoy.CLUSTERS])) == {"shop/two:80"}


def test_a_cluster_stays_while_the_proxy_has_not_taken_the_new_routes_in():
    documents = empty()
    settle(wished(ONE), documents)
    old = run_on(documents)
    documents.update(plan(wished(TWO), documents, old, {}).puts)
    seen = run_on(documents)
    documents.update(plan(wished(TWO), documents, seen, {}).puts)
    stale = Seen({**run_on(documents).accepted, envoy.ROUTES_HTTP: old.accepted[envoy.ROUTES_HTTP]}, seen.hosts)
    todo = plan(wished(TWO), documents, stale, {})
    assert not todo.puts
    assert not todo.removes
    assert todo.waiting == (envoy.ROUTES_HTTP,)


def test_a_silent_proxy_gets_no_new_routes_and_loses_nothing():
    documents = empty()
    settle(wished(ONE), documents)
    todo = plan(wished(TWO), documents, None, {})
    assert list(todo.puts) == [E2, envoy.CLUSTERS]
    assert not todo.removes
    assert envoy.ROUTES_HTTP in todo.waiting


def test_a_refused_document_is_not_tried_again_and_nobody_waits_for_it():
    documents = empty()
    settle(wished(ONE), documents)
    wish = wished(TWO)
    documents.update(plan(wish, documents, run_on(documents), {}).puts)
    refused = {name: Refusal(doc["version_info"], "no") for name, doc in wish.routes.items()}
    todo = plan(wish, documents, run_on(documents), refused)
    assert not todo.puts
    assert todo.waiting == ()


def test_a_document_changes_its_version_with_its_content_only():
    one = envoy.endpoint_file("shop/one:80", {"10.0.0.1:80": Written(), "10.0.0.2:80": Written(5.0, "a/b/c")})
    again = envoy.endpoint_file("shop/one:80", {"10.0.0.2:80": Written(5.0, "a/b/c"), "10.0.0.1:80": Written()})
    assert one == again
    assert envoy.endpoints_of(one) == {"10.0.0.1:80": Written(), "10.0.0.2:80": Written(5.0, "a/b/c")}
    assert envoy.endpoint_file("shop/one:80", {})["version_info"] != one["version_info"]
    six = envoy.endpoint_file("shop/one:80", {"[fd00::1]:80": Written()})
    assert envoy.endpoints_of(six) == {"[fd00::1]:80": Written()}


def test_plain_http_redirects_except_for_acme():
    table = build([ingress("web", secret="web-tls")])
    http, https = (envoy.route_files(table, 8443, http_port=8080)[n] for n in (envoy.ROUTES_HTTP, envoy.ROUTES_HTTPS))
    plain, secure = (
        next(host["routes"] for host in doc["resources"][0]["virtual_hosts"] if host["name"] == "shop.example.com")
        for doc in (http, https)
    )
    assert plain[1]["match"] == {"path_separated_prefix": ACME_PREFIX}
    assert plain[1]["route"]["cluster"] == "shop/web:80"
    assert plain[2]["redirect"] == {
        "https_redirect": True,
        "response_code": "PERMANENT_REDIRECT",
        "port_redirect": 8443,
    }
    assert [r["route"]["cluster"] for r in secure if "route" in r] == ["shop/web:80"]
    assert envoy.clusters_in(https) == {"shop/web:80"}


def test_no_retry_of_a_post():
    route = envoy.route_files(ONE, 443)[envoy.ROUTES_HTTP]["resources"][0]["virtual_hosts"][0]["routes"][1]["route"]
    policy = route["retry_policy"]
    assert policy["retry_on"] == "connect-failure,refused-stream,reset-before-request"
    methods = policy["retriable_request_headers"][0]["string_match"]["safe_regex"]["regex"]
    assert "POST" not in methods
    assert "PATCH" not in methods


def test_listeners_change_only_by_filter_chains():
    one = envoy.listener_file(SETTINGS, DIR, {"shop/a": ["a.b"]}, "trimtab-system/d")
    two = envoy.listener_file(SETTINGS, DIR, {"shop/a": ["a.b"], "shop/c": ["c.d"]}, "trimtab-system/d")
    assert one["resources"][0] == two["resources"][0]
    https = [{k: v for k, v in d["resources"][1].items() if k != "filter_chains"} for d in (one, two)]
    assert https[0] == https[1]
    assert one["resources"][1]["filter_chains"][0] == two["resources"][1]["filter_chains"][0]
    assert envoy.secrets_in(two) == {"shop/a", "shop/c", "trimtab-system/d"}
