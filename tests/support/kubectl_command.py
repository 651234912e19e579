"""kubectl for a test: as an administrator, and as a ServiceAccount that has the rights which it was given and no other."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml


class Kubectl:
    """`kubectl(...)` runs it in a namespace; nothing is checked."""

    def __init__(self, kubeconfig: Path, namespace: str = "default") -> None:
        program = shutil.which("kubectl")
        if program is None:
            pytest.skip("kubectl is not on PATH: install it to check that it works with this API")
        self.kubeconfig = kubeconfig
        self._start = [program, "--kubeconfig", str(kubeconfig), "-n", namespace]

    def __call__(self, *arguments: str, given: Any = None) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as cache:
            return subprocess.run(
                [*self._start, "--cache-dir", cache, *arguments, *(() if given is None else ("-f", "-"))],
                input=given if given is None or isinstance(given, str) else json.dumps(given),
                capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip

    def done(self, *arguments: str, given: Any = None) -> str:
        """What it said; it has to succeed."""
        ended = self(*arguments, given=given)
        assert ended.returncode == 0, f"kubectl {' '.join(arguments)}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def names(self, kind: str, *more: str) -> list[str]:
        """Of all that there are."""
        return self("get", kind, "-o", "name", *more).stdout.split()

    def rights(self, namespace: str = "default") -> Callable[[str, str], bool]:
        """What its user may in a namespace, as one answer of the API has it: rights(verb, "servers.cloud.tf.trimtab.dev")."""
        asked = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview"}
        path = f"/apis/{asked['apiVersion']}/selfsubjectrulesreviews"
        rules = json.loads(self.done("create", "--raw", path, given=asked | {"spec": {"namespace": namespace}}))

        def may(verb: str, kind: str) -> bool:
            resource, _, group = kind.partition(".")
            wanted = {"verbs": verb, "apiGroups": group, "resources": resource}
            return any(
                all({value, "*"} & set(rule.get(part) or ()) for part, value in wanted.items())
                for rule in rules["status"]["resourceRules"]
                if not rule.get("resourceNames")
            )

        return may

    def account(self, name: str, folder: Path) -> Path:
        """The kubeconfig of a new ServiceAccount, with all in itself; it may nothing yet."""
        self.done("create", "serviceaccount", name)
        token = self.done("create", "token", name, "--duration=2h").strip()
        path = folder / f"{name}.kubeconfig"
        path.write_text(whole(self.kubeconfig, token))
        return path


def whole(kubeconfig: Path, token: str = "") -> str:
    """A kubeconfig with all in itself, as clouds hand them out; with this token, if one is given."""
    config = yaml.safe_load(kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    if "certificate-authority" in cluster:
        authority = Path(cluster.pop("certificate-authority")).read_bytes()
        cluster["certificate-authority-data"] = base64.b64encode(authority).decode()
    if token:
        config["users"][0]["user"] = {"token": token}
    return json.dumps(config)
