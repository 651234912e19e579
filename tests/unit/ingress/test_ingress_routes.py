"""Which Ingress serves which host and path."""

from __future__ import annotations

import pytest

from trimtab.api import from_wire
from trimtab.api.networking import Ingress
from trimtab.components.ingress.admission import check_ingress
from trimtab.components.ingress.routes import BODY_BYTES_MAX, build, is_mine, parse_size
from trimtab.runtime import Denied


def ingress(name, rules=(), *, tls=(), default=None, created="2026-01-01T00:00:00Z", notes=None, cls="trimtab"):
    """`rules`: (host, path, path type, service:port)."""
    hosts = {}
    for host, path, kind, backend in rules:
        hosts.setdefault(host, []).append({"path": path, "pathType": kind, "backend": _backend(backend)})
    spec = {
        "ingressClassName": cls,
        "rules": [{"host": host, "http": {"paths": paths}} for host, paths in hosts.items()],
        "tls": [{"hosts": list(h), **({"secretName": s} if s else {})} for h, s in tls],
    }
    if default:
        spec["defaultBackend"] = _backend(default)
    meta = {"name": name, "namespace": "shop", "creationTimestamp": created, "annotations": notes or {}}
    return from_wire(Ingress, {"metadata": meta, "spec": spec})


def _backend(text):
    service, _, port = text.partition(":")
    return {"service": {"name": service, "port": {"number": int(port)} if port.isdigit() else {"name": port}}}


def served(table, host):
    return [(r.path, "=" if r.exact else "*", r.backend.cluster) for r in table.effective(host)]


def test_exact_then_longest_prefix_then_root():
    table = build(
        [
            ingress(
                "web",
                [
                    ("a.example.com", "/", "Prefix", "web:80"),
                    ("a.example.com", "/api/v2/", "Prefix", "v2:http"),
                    ("a.example.com", "/api", "Prefix", "api:80"),
                    ("a.example.com", "/api", "Exact", "exact:80"),
                ],
            )
        ]
    )
    assert served(table, "a.example.com") == [
        ("/api", "=", "shop/exact:80"),
        ("/api/v2", "*", "shop/v2:http"),
        ("/api", "*", "shop/api:80"),
        ("/", "*", "shop/web:80"),
    ]


def test_wildcard_and_hostless_rules_take_what_the_exact_host_leaves():
    table = build(
        [
            ingress(
                "web",
                [
                    ("a.example.com", "/a", "Prefix", "a:80"),
                    ("*.example.com", "/w", "Prefix", "w:80"),
                    (None, "/any", "Prefix", "any:80"),
                ],
                default="rest:80",
            )
        ]
    )
    # The Ingress's own default backend closes each of its hosts.
    assert served(table, "a.example.com") == [("/a", "*", "shop/a:80"), ("/", "*", "shop/rest:80")]
    assert [r[0] for r in served(table, "*.example.com")] == ["/w", "/"]
    table = build([ingress("web", [("a.b.c", "/a", "Prefix", "a:80"), ("*.b.c", "/w", "Prefix", "w:80")])])
    assert [r[0] for r in served(table, "a.b.c")] == ["/a", "/w"]


def test_the_older_ingress_keeps_a_path_and_the_younger_is_told():
    young = ingress("young", [("a.b", "/x", "Prefix", "two:80")], created="2026-02-01T00:00:00Z")
    old = ingress("old", [("a.b", "/x/", "Prefix", "one:80")])
    table = build([young, old])
    assert served(table, "a.b") == [("/x", "*", "shop/one:80")]
    assert [(p.ingress.name, p.reason, p.message) for p in table.problems] == [
        (
            "young",
            "PathTaken",
            "spec.rules[0].http.paths[0]: Ingress shop/old, which is older, already serves a.b/x; change the path or delete one",
        )
    ]


def test_the_older_certificate_answers_and_redirects_hold_for_declared_hosts_only():
    old = ingress("old", [("a.b", "/", "Prefix", "one:80")], tls=[(["a.b"], "old-tls")])
    young = ingress("young", [("c.b", "/", "Prefix", "w:80")], tls=[(["a.b"], "x")], created="2026-02-01T00:00:00Z")
    table = build([old, young])
    assert [(c.secret, c.hosts) for c in table.certificates] == [("old-tls", ("a.b",))]
    assert table.problems[0].reason == "CertificateTaken"
    assert [r.redirect for r in table.effective("a.b")] == [True]
    assert [r.redirect for r in table.effective("c.b")] == [False]


def test_tls_without_hosts_or_secret_covers_the_rules_of_its_ingress():
    table = build([ingress("web", [("a.b", "/", "Prefix", "w:80")], tls=[([], None)])])
    assert [(c.secret, c.hosts) for c in table.certificates] == [("web-engine-tls", ("a.b",))]
    assert table.effective("a.b")[0].redirect
    bare = build([ingress("web", default="w:80", tls=[([], "wild")])])
    assert [(c.secret, c.hosts) for c in bare.certificates] == [("wild", ())]
    assert bare.effective("")[0].redirect


def test_a_wildcard_certificate_makes_its_hosts_redirect_unless_told_otherwise():
    rules = [("a.example.com", "/", "Prefix", "w:80")]
    tls = [(["*.example.com"], "wild")]
    assert build([ingress("w", rules, tls=tls)]).effective("a.example.com")[0].redirect
    notes = {"nginx.ingress.kubernetes.io/ssl-redirect": "false"}
    assert not build([ingress("w", rules, tls=tls, notes=notes)]).effective("a.example.com")[0].redirect


@pytest.mark.parametrize(
    ("host", "path", "reason", "text"),
    [
        ("sh op", "/", "InvalidHost", 'spec.rules[0].host: "sh op" is no host name'),
        ("*", "/", "InvalidHost", "write it like shop.example.com or *.example.com"),
        ("a.*.b", "/", "InvalidHost", "no host name"),
        ("a.b", "x", "InvalidPath", 'spec.rules[0].http.paths[0].path: "x" must start with /'),
        ("a.b", "/x?y", "InvalidPath", "hold no ?, # or space"),
    ],
)
def test_bad_input_is_left_out_with_one_line(host, path, reason, text):
    bad = ingress("bad", [(host, path, "Prefix", "w:80")])
    good = ingress("good", [("c.d", "/", "Prefix", "w:80")])
    table = build([bad, good])
    assert list(table.hosts) == ["c.d"]
    assert table.problems[0].reason == reason
    assert text in table.problems[0].message


def test_only_one_default_backend_for_everything():
    table = build([ingress("a", default="one:80"), ingress("b", default="two:80", created="2026-03-01T00:00:00Z")])
    assert table.fallback.backend.cluster == "shop/one:80"
    assert [p.ingress.name for p in table.problems] == ["b"]


def test_annotations_of_the_field():
    notes = {
        "nginx.ingress.kubernetes.io/proxy-body-size": "8m",
        "nginx.ingress.kubernetes.io/proxy-read-timeout": "60",
    }
    route = build([ingress("w", [("a.b", "/", "Prefix", "w:80")], notes=notes)]).effective("a.b")[0]
    assert (route.body_bytes_max, route.idle_timeout_s) == (8 << 20, 60)
    bad = {"nginx.ingress.kubernetes.io/proxy-body-size": "lots"}
    table = build([ingress("w", [("a.b", "/", "Prefix", "w:80")], notes=bad)])
    assert table.effective("a.b")[0].body_bytes_max == BODY_BYTES_MAX
    assert table.problems[0].reason == "InvalidAnnotation"
    assert parse_size("0") == 0


def test_class():
    assert is_mine(ingress("a", cls="trimtab"), default_class=False)
    assert not is_mine(ingress("a", cls="nginx"), default_class=True)
    assert is_mine(ingress("a", cls=None), default_class=True)
    assert not is_mine(ingress("a", cls=None), default_class=False)


def wire(rules, notes=None, cls="trimtab"):
    from trimtab.api import to_wire

    return to_wire(ingress("w", rules, notes=notes, cls=cls))


def test_admission_refuses_what_can_never_be_served():
    with pytest.raises(Denied) as denied:
        check_ingress(wire([("sh op", "/", "Prefix", "w:80")]), None)
    assert str(denied.value) == (
        'spec.rules[0].host: "sh op" is no host name; write it like shop.example.com or *.example.com'
    )
    with pytest.raises(Denied) as denied:
        check_ingress(
            wire([("a.b", "/", "Prefix", "w:80")], {"nginx.ingress.kubernetes.io/proxy-read-timeout": "soon"}), None
        )
    assert denied.value.field == "metadata.annotations[nginx.ingress.kubernetes.io/proxy-read-timeout]"
    assert denied.value.message == '"soon" is no number of seconds; write it like 60'


def test_admission_warns_of_annotations_that_nothing_acts_on():
    notes = {"nginx.ingress.kubernetes.io/rewrite-target": "/"}
    assert check_ingress(wire([("a.b", "/", "Prefix", "w:80")], notes), None) == [
        "metadata.annotations[nginx.ingress.kubernetes.io/rewrite-target]: nothing acts on this annotation"
    ]
    assert check_ingress(wire([("a.b", "/", "Prefix", "w:80")], notes, cls="nginx"), None) == []
