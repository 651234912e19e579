"""Reading a kubeconfig: file -> context -> cluster and user -> `ClusterAccess` (server, CA, token or client certificate).

Every way that the file can be wrong ends in one line that names the file, the entry and the fix. Programs named by `exec`
are run to get a token, as kubectl does; the removed `auth-provider` plug-ins are refused by name. A kubeconfig that somebody else wrote
(`foreign_kubeconfig`) has all in itself: neither programs nor files of this machine are touched for it.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

EXEC_TIMEOUT_S = 60
FOREIGN_BYTES_MAX = 128 << 10
"""A kubeconfig has a few KiB: of somebody else's no more is read, for reading YAML holds everything else up meanwhile."""


class KubeconfigError(ValueError):
    """One line: the file, what is wrong in it, what to do."""


@dataclass(frozen=True)
class _Source:
    """Where a kubeconfig is from, for error texts, and the folder of the files that it may name; None: it may name nothing."""

    where: str
    folder: Path | None

    def __str__(self) -> str:
        return self.where


@dataclass
class ClusterAccess:
    """How to reach one cluster as one user."""

    server: str
    namespace: str = "default"
    ca: bytes = b""
    insecure: bool = False
    tls_server_name: str | None = None
    token: str = ""
    token_file: Path | None = None
    client_certificate: bytes = b""
    client_key: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def current_token(self) -> str:
        """The bearer token; read anew from its file each time, for projected tokens are replaced while we run."""
        if self.token_file is not None:
            return self.token_file.read_text().strip()
        return self.token

    def ssl_context(self) -> ssl.SSLContext | None:
        """None for plain http."""
        if not self.server.startswith("https:"):
            return None
        context = ssl.create_default_context(cadata=self.ca.decode() if self.ca else None)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.client_certificate:
            # ssl reads certificates from files only.
            with tempfile.NamedTemporaryFile(suffix=".pem") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(self.client_certificate + b"\n" + self.client_key)
                file.flush()
                context.load_cert_chain(file.name)
        return context


def default_kubeconfig() -> Path:
    """`$KUBECONFIG` (its first file) or `~/.kube/config`."""
    named = os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    return Path(named) if named else Path.home() / ".kube" / "config"


def read_kubeconfig(path: Path, context: str | None = None) -> ClusterAccess:
    """The access that `path` describes for `context` (default: its current-context).

    Raises:
        KubeconfigError: the file cannot be read, is not a kubeconfig, or an entry in it is missing or malformed.
    """
    return _described(_Source(str(path), path.parent), _parsed(path, _text(path)), context)


def foreign_kubeconfig(text: str, where: str) -> ClusterAccess:
    """The access that a kubeconfig of somebody else's describes for its current-context. where: what it is from, for error texts.

    Raises:
        KubeconfigError: as `read_kubeconfig`, and for `exec` and for files: what it says would be done with our rights. For YAML that
            stands for more than it is (aliases), too.
    """
    if len(text) > FOREIGN_BYTES_MAX:
        raise KubeconfigError(
            f"{where}: it is longer than the {FOREIGN_BYTES_MAX >> 10} KiB that a kubeconfig may have"
        )
    _refuse_aliases(where, text)
    return _described(_Source(where, None), _parsed(where, text), None)


def _refuse_aliases(where: str, text: str) -> None:
    """Raises `KubeconfigError`. What is no YAML is said when it is read."""
    import yaml

    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise KubeconfigError(f"{where}: it has aliases (*name): write out what they stand for")
    except yaml.YAMLError:
        return


def _described(path: _Source, document: dict[str, Any], context: str | None) -> ClusterAccess:
    name = context or document.get("current-context")
    if not name:
        raise KubeconfigError(f"{path}: no current-context is set; name one with --context")
    chosen = _entry(path, document, "contexts", "context", str(name))
    cluster = _entry(path, document, "clusters", "cluster", str(chosen.get("cluster", "")))
    server = cluster.get("server")
    if not isinstance(server, str) or not server.startswith(("http://", "https://")):
        raise KubeconfigError(
            f"{path}: cluster '{chosen.get('cluster')}': server must be an http(s) URL, not {server!r}"
        )
    access = ClusterAccess(
        server=server.rstrip("/"),
        namespace=chosen.get("namespace") or "default",
        ca=_data(path, cluster, "certificate-authority"),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        tls_server_name=cluster.get("tls-server-name"),
    )
    if chosen.get("user"):
        _authenticate(path, access, _entry(path, document, "users", "user", str(chosen["user"])), str(chosen["user"]))
    _check(path, access)
    return access


def kubeconfig_text(cluster: str, user: str, access: ClusterAccess) -> str:
    """The kubeconfig of one user of one cluster, as YAML. Without a name the user and the context are named as the cluster."""
    import yaml

    entry: dict[str, str] = {"server": access.server}
    if access.ca:
        entry["certificate-authority-data"] = base64.b64encode(access.ca).decode()
    if access.tls_server_name:
        entry["tls-server-name"] = access.tls_server_name
    name = f"{user}@{cluster}" if user else cluster
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": cluster, "cluster": entry}],
        "users": [{"name": name, "user": {"token": access.token}}],
        "contexts": [{"name": name, "context": {"cluster": cluster, "user": name, "namespace": access.namespace}}],
    }
    return str(yaml.safe_dump(document, sort_keys=False))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise KubeconfigError(f"{path}: no such file; name a kubeconfig with --kubeconfig or $KUBECONFIG") from None
    except (OSError, UnicodeDecodeError) as err:
        raise KubeconfigError(f"{path}: cannot be read: {err}") from None


def _parsed(path: Path | str, text: str) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(text)
    except RecursionError:
        raise KubeconfigError(
            f"{path}: not valid YAML: it is nested too deeply; restore the file or write it anew"
        ) from None
    except yaml.YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        problem = getattr(err, "problem", None) or "not YAML"
        raise KubeconfigError(f"{path}: not valid YAML{where}: {problem}; restore the file or write it anew") from None
    if not isinstance(document, dict) or not isinstance(document.get("clusters"), list):
        raise KubeconfigError(
            f"{path}: not a kubeconfig (it has no list of clusters); restore the file or write it anew"
        )
    return document


def _entry(path: _Source, document: dict[str, Any], section: str, kind: str, name: str) -> dict[str, Any]:
    entries = document.get(section) or []
    if isinstance(entries, list):
        for entry in entries:
            if isinstance(entry, dict) and entry.get("name") == name:
                value = entry.get(kind)
                if isinstance(value, dict):
                    return value
                raise KubeconfigError(f"{path}: {kind} '{name}' has no '{kind}' mapping")
        known = ", ".join(str(e.get("name")) for e in entries if isinstance(e, dict)) or "none"
        raise KubeconfigError(f"{path}: no {kind} is named '{name}' (there are: {known})")
    raise KubeconfigError(f"{path}: '{section}' must be a list")


def _data(path: _Source, entry: dict[str, Any], name: str) -> bytes:
    """`NAME-data` (base64) or the file that `NAME` names, relative to the kubeconfig; empty when neither is there."""
    if encoded := entry.get(f"{name}-data"):
        try:
            return base64.b64decode(str(encoded), validate=True)
        except binascii.Error:
            raise KubeconfigError(f"{path}: {name}-data is not base64") from None
    if not entry.get(name):
        return b""
    if path.folder is None:
        raise KubeconfigError(f"{path}: {name} names a file of some machine; give {name}-data")
    file = path.folder / str(entry[name])
    try:
        return file.read_bytes()
    except OSError as err:
        raise KubeconfigError(f"{path}: {name}: {file}: {err.strerror}") from None


def _authenticate(path: _Source, access: ClusterAccess, user: dict[str, Any], name: str) -> None:
    if path.folder is None and (named := [key for key in ("exec", "tokenFile") if user.get(key)]):
        raise KubeconfigError(
            f"{path}: user '{name}': {named[0]} is refused, for it would run or read something of this machine's; give a token or a "
            "client certificate"
        )
    access.client_certificate = _data(path, user, "client-certificate")
    access.client_key = _data(path, user, "client-key")
    if bool(access.client_certificate) != bool(access.client_key):
        raise KubeconfigError(f"{path}: user '{name}': client-certificate and client-key must both be given")
    if user.get("token"):
        access.token = str(user["token"])
    elif user.get("tokenFile") and path.folder is not None:
        access.token_file = path.folder / str(user["tokenFile"])
    elif user.get("exec"):
        access.token = _run_exec(path, user["exec"], name)
    elif user.get("auth-provider"):
        raise KubeconfigError(
            f"{path}: user '{name}': auth-provider plug-ins were removed from Kubernetes; use exec or a token"
        )
    elif user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}"
        access.headers = {**access.headers, "Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    if user.get("as"):
        access.headers = {**access.headers, "Impersonate-User": str(user["as"])}


def _run_exec(path: _Source, spec: dict[str, Any], name: str) -> str:
    command = [str(spec.get("command", "")), *(str(a) for a in spec.get("args") or ())]
    env = {**os.environ, **{str(e["name"]): str(e["value"]) for e in spec.get("env") or ()}}
    info = {"apiVersion": spec.get("apiVersion", ""), "kind": "ExecCredential", "spec": {"interactive": False}}
    env["KUBERNETES_EXEC_INFO"] = msgspec.json.encode(info).decode()
    try:
        done = subprocess.run(command, env=env, capture_output=True, timeout=EXEC_TIMEOUT_S, check=True)
        return str(msgspec.json.decode(done.stdout)["status"]["token"])
    except FileNotFoundError:
        raise KubeconfigError(f"{path}: user '{name}': the program '{command[0]}' is not installed") from None
    except subprocess.SubprocessError as err:
        said = getattr(err, "stderr", b"") or b""
        line = said.decode("utf-8", "replace").strip().splitlines()[-1:] or [str(err)]
        raise KubeconfigError(f"{path}: user '{name}': '{command[0]}' failed: {line[0]}") from None
    except (msgspec.MsgspecError, KeyError, TypeError):
        raise KubeconfigError(f"{path}: user '{name}': '{command[0]}' printed no token") from None


def _check(path: _Source, access: ClusterAccess) -> None:
    try:
        access.ssl_context()
    except (ssl.SSLError, ValueError):
        what = "client-certificate or client-key" if access.client_certificate else "certificate-authority"
        raise KubeconfigError(
            f"{path}: {what} is not a valid PEM certificate; restore the file or write it anew"
        ) from None
