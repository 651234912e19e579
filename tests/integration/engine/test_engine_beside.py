"""`trimtab run` beside another Kubernetes: what it puts there, what it leaves alone, and what it refuses before it begins."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from api_in_process import running_api
from trimtab.api import Ref
from trimtab.api.cluster import CustomResourceDefinition
from trimtab.api.core import HOOK_NAMESPACE, HOOK_SERVICE, Secret, Service
from trimtab.client import Client
from trimtab.client.asgi import AsgiTransport
from trimtab.engine import beside
from trimtab.engine.errors import EngineError
from trimtab.engine.processes import JOURNAL
from trimtab.runtime.journal import Entry, Journal
from trimtab.server import create_app

SERVER = "https://prod.example.com:6443"
KINDS = (
    "apps", "clustermanifests", "compositedefinitions", "effects", "infrastructurereviews", "providerconfigs", "providers"
)  # fmt: skip
TRIMTAB = str(Path(sys.executable).with_name("trimtab"))


def test_what_it_prepares_is_made_once_and_left_alone_then(tmp_path: Path) -> None:
    settings = beside.settings_for(SERVER, beside.Options(tmp_path))

    async def main() -> None:
        async with running_api() as api:
            client = Client(AsgiTransport(create_app(api.server, trusted=True)))
            await beside.prepare(client, settings)
            first = await client.get(Secret, "engine-ca", HOOK_NAMESPACE)
            hooks = await client.get(Service, HOOK_SERVICE, HOOK_NAMESPACE)
            definitions = {crd.name for crd in (await client.list(CustomResourceDefinition)).items}

            await beside.prepare(client, settings)

            again = await client.get(Secret, "engine-ca", HOOK_NAMESPACE)
            assert first is not None
            assert again is not None
            assert hooks is not None
            assert again.data == first.data
            assert hooks.spec.selector == {}
            assert definitions == {f"{name}.trimtab.dev" for name in KINDS}
            await client.close()

    asyncio.run(main())


def test_a_state_directory_with_too_long_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="the path is too long for a socket in it: give a shorter one as --state"):
        beside.settings_for(SERVER, beside.Options(tmp_path / ("x" * 100)))


def test_each_cluster_has_a_state_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    assert beside.default_state(SERVER) == tmp_path / "trimtab" / "prod.example.com-6443"


def kubeconfig(folder: Path) -> Path:
    path = folder / "config"
    path.write_text(
        "{apiVersion: v1, kind: Config, current-context: prod, users: [{name: me, user: {token: t}}],"
        " clusters: [{name: prod, cluster: {server: 'https://127.0.0.1:1'}}],"
        " contexts: [{name: prod, context: {cluster: prod, user: me}}]}"
    )
    return path


def trimtab(*arguments: str) -> str:
    """What a command that fails says."""
    done = subprocess.run(
        [TRIMTAB, *arguments], capture_output=True, text=True, timeout=60, env={**os.environ}, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr


def test_without_a_cluster_it_says_how_to_name_one() -> None:
    assert trimtab("run") == (
        "trimtab: run is for another cluster: name it with --context or --kubeconfig; ours is `trimtab start`\n"
    )


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])

        said = trimtab(
            "--kubeconfig", str(kubeconfig(tmp_path)), "run", "--state", str(tmp_path / "s"),
            "--listen", "127.0.0.1", "--http-port", port, "--https-port", "8443",
        )  # fmt: skip

    assert said == (
        f"trimtab: 127.0.0.1:{port} cannot be listened on (Address already in use): give another port as --http-port\n"
    )


def test_a_directory_that_another_run_uses_is_refused(tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        said = trimtab("--kubeconfig", str(kubeconfig(tmp_path)), "run", "--state", str(tmp_path))

    assert said == f"trimtab: another `trimtab run` uses {tmp_path}: end it, or give another --state\n"


def test_the_journal_of_another_cluster_is_read_where_run_keeps_it(tmp_path: Path) -> None:
    config, state = str(kubeconfig(tmp_path)), tmp_path / "state"

    assert trimtab("--kubeconfig", config, "timeline", "--state", str(state)) == (
        f"trimtab: {state}/journal/journal.sqlite: no journal; it is kept where `trimtab run` runs for this cluster:"
        " ask there, or give its --state\n"
    )
    assert trimtab("why", "app/shop", "--state", str(state)) == (
        "trimtab: --state belongs to another cluster's `trimtab run`: name it with --context, or give --data\n"
    )

    journal = Journal(state.joinpath(*JOURNAL))
    shop = Ref("trimtab.dev/v1alpha1", "App", "default", "shop")
    web = Ref("apps/v1", "Deployment", "default", "shop-web")
    journal.append(Entry(datetime.now(UTC), "apps", "apps", "created", web, cause=shop, message="one replica"))
    journal.close()
    done = subprocess.run(
        [TRIMTAB, "--kubeconfig", config, "why", "deployment/shop-web", "--state", str(state)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    assert "App default/shop" in done.stdout
