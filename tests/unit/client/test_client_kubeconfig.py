"""A kubeconfig is read, or refused with one line that names the file, the entry and the fix."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from trimtab.client.kubeconfig import KubeconfigError, foreign_kubeconfig, read_kubeconfig

GOOD = """
current-context: dev
clusters:
- name: c1
  cluster: {server: "https://10.0.0.1:6443/", insecure-skip-tls-verify: true}
- name: plain
  cluster: {server: "http://localhost:8001"}
contexts:
- name: dev
  context: {cluster: c1, user: u1, namespace: team}
- name: proxy
  context: {cluster: plain}
- name: broken-user
  context: {cluster: c1, user: nobody}
- name: by-program
  context: {cluster: plain, user: program}
- name: by-missing-program
  context: {cluster: plain, user: missing}
- name: half
  context: {cluster: plain, user: half}
users:
- name: u1
  user: {token: secret}
- name: program
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: sh
      args: ["-c", "echo '{\\"status\\": {\\"token\\": \\"from program\\"}}'"]
- name: missing
  user: {exec: {command: no-such-program-anywhere}}
- name: half
  user: {client-certificate-data: "aGVsbG8="}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "config"
    file.write_text(GOOD)
    return file


def test_the_current_context(path: Path) -> None:
    access = read_kubeconfig(path)

    assert (access.server, access.namespace, access.current_token()) == ("https://10.0.0.1:6443", "team", "secret")
    assert access.insecure
    assert access.ssl_context() is not None


def test_a_named_context_without_user(path: Path) -> None:
    access = read_kubeconfig(path, "proxy")

    assert (access.server, access.namespace, access.current_token()) == ("http://localhost:8001", "default", "")
    assert access.ssl_context() is None


def test_a_token_from_a_program(path: Path) -> None:
    assert read_kubeconfig(path, "by-program").current_token() == "from program"


def test_a_token_file_is_read_each_time(tmp_path: Path, path: Path) -> None:
    (tmp_path / "token").write_text("one\n")
    path.write_text(GOOD.replace("{token: secret}", "{tokenFile: token}"))
    access = read_kubeconfig(path)
    assert access.current_token() == "one"

    (tmp_path / "token").write_text("two\n")

    assert access.current_token() == "two"


@pytest.mark.parametrize(
    ("text", "context", "says"),
    [
        (
            "a: [",
            None,
            "{path}: not valid YAML at line 1: expected the node content",
        ),
        ("\x00\x01", None, "{path}: not valid YAML"),
        ("just text", None, "{path}: not a kubeconfig (it has no list of clusters); restore the file or write it anew"),
        ("clusters: []", None, "{path}: no current-context is set; name one with --context"),
        (GOOD, "prod", "{path}: no context is named 'prod' (there are: dev, proxy, broken-user,"),
        (GOOD, "broken-user", "{path}: no user is named 'nobody' (there are: u1, program, missing, half)"),
        (GOOD, "by-missing-program", "{path}: user 'missing': the program 'no-such-program-anywhere' is not installed"),
        (GOOD, "half", "{path}: user 'half': client-certificate and client-key must both be given"),
        (
            GOOD.replace("https://10.0.0.1:6443/", "10.0.0.1"),
            None,
            "{path}: cluster 'c1': server must be an http(s) URL, not '10.0.0.1'",
        ),
        (
            GOOD.replace("insecure-skip-tls-verify: true", "certificate-authority: ca.crt"),
            None,
            "{path}: certificate-authority: {folder}/ca.crt: No such file or directory",
        ),
        (
            GOOD.replace("insecure-skip-tls-verify: true", "certificate-authority-data: '***'"),
            None,
            "{path}: certificate-authority-data is not base64",
        ),
        (
            GOOD.replace(
                "insecure-skip-tls-verify: true",
                f"certificate-authority-data: {base64.b64encode(b'nonsense').decode()}",
            ),
            None,
            "{path}: certificate-authority is not a valid PEM certificate; restore the file or write it anew",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(path: Path, text: str, context: str | None, says: str) -> None:
    path.write_text(text)

    with pytest.raises(KubeconfigError) as caught:
        read_kubeconfig(path, context)

    assert str(caught.value).startswith(says.format(path=path, folder=path.parent))
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(KubeconfigError, match="no such file; name a kubeconfig with --kubeconfig or"):
        read_kubeconfig(tmp_path / "none")


@pytest.mark.parametrize(
    ("user", "cluster", "says"),
    [
        ('{exec: {command: sh, args: ["-c", "touch /tmp/x"]}}', "", "exec is refused, for it would run or read something of this machine's"),
        ("{tokenFile: /etc/shadow}", "", "tokenFile is refused"),
        ("{token: t, tokenFile: /etc/shadow}", "", "tokenFile is refused"),
        ("{client-key: /etc/ssl/private/key.pem}", "", "client-key names a file of some machine; give client-key-data"),
        ("{token: t}", ", certificate-authority: /etc/shadow", "certificate-authority names a file of some machine"),
    ],
)  # fmt: skip
def test_the_kubeconfig_of_a_stranger_touches_nothing_here(user: str, cluster: str, says: str) -> None:
    text = f"""
current-context: it
clusters: [{{name: c, cluster: {{server: "https://10.0.0.1:6443"{cluster}}}}}]
contexts: [{{name: it, context: {{cluster: c, user: u}}}}]
users: [{{name: u, user: {user}}}]
"""
    with pytest.raises(KubeconfigError, match=r"^Secret shop/prod key kubeconfig: ") as refused:
        foreign_kubeconfig(text, "Secret shop/prod key kubeconfig")
    assert says in str(refused.value)


def test_the_kubeconfig_of_a_stranger_that_has_all_in_itself() -> None:
    access = foreign_kubeconfig(GOOD, "it")
    assert (access.server, access.token) == ("https://10.0.0.1:6443", "secret")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "a: &a [x, x]\nb: &b [*a, *a]\nclusters: [{name: *b}]",
            "it has aliases (*name): write out what they stand for",
        ),
        ("clusters: " + "[" * 5000, "not valid YAML"),
        ("#" * (200 << 10), "it is longer than the 128 KiB that a kubeconfig may have"),
    ],
    ids=["aliases", "depth", "length"],
)
def test_the_kubeconfig_of_a_stranger_that_is_made_to_hold_us_up(text: str, says: str) -> None:
    with pytest.raises(KubeconfigError) as refused:
        foreign_kubeconfig(text, "Secret shop/prod key kubeconfig")
    assert str(refused.value).startswith(f"Secret shop/prod key kubeconfig: {says}")
