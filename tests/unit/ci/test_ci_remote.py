"""The shared cache: who finds what, what is sent and fetched, who may write where, and servers that fail."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from ci_project import graph_of, missed, run, same, write_project
from ci_stores import Objects, object_server, silent_server
from engine_at_rest import s3_server
from engine_under_test import free_port
from registries import answering, docker_registry
from steps_in_process import Project
from trimtab.ci.cache import remote, remote_http
from trimtab.ci.cache.blobs import Blobs
from trimtab.ci.cache.identity import identity
from trimtab.ci.cache.index import state_directory
from trimtab.ci.cache.lookups import LocalLookups
from trimtab.ci.definition.site import DefinitionError
from trimtab.ci.runs.ports import EngineFault, Found


class Machine:
    """A machine with a cache of its own and a copy of the project."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.project = write_project(directory / "project")
        self.monkeypatch = monkeypatch
        self.said: list[str] = []
        self.fetched = 0
        self.sent = 0

    def run(self, scope: str = "") -> dict[str, Found]:
        """Runs the pipeline as `scope`; gives what was known of each step."""
        self.monkeypatch.setenv("TRIMTAB_CI_SCOPE", scope)
        state = state_directory({"TRIMTAB_CI_DIR": str(self.directory / "state"), "TRIMTAB_CI_SCOPE": scope})
        lookups = LocalLookups(self.project, state, tell=self.said.append)
        try:
            return run(lookups, graph_of(self.project), same)
        finally:
            lookups.close()
            if lookups._remote is not None:
                self.fetched, self.sent = lookups._remote.fetched_bytes, lookups._remote.sent_bytes

    def is_a_clone_of(self, url: str) -> None:
        git("init", "--quiet", str(self.project))
        git("-C", str(self.project), "remote", "add", "origin", url)

    def edit(self, path: str, text: str) -> None:
        (self.project / path).write_text(text)


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Machine]]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return lambda name: Machine(tmp_path / name, monkeypatch)


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[Objects]:
    objects = Objects()
    with object_server(objects) as address:
        monkeypatch.setenv("TRIMTAB_CI_CACHE", address)
        yield objects


NEVER = dict.fromkeys(("deps", "build", "unit"), "never run before")


def test_what_one_machine_made_another_does_not_make(machines: Callable[[str], Machine], objects: Objects) -> None:
    one, other = machines("one"), machines("other")
    assert missed(one.run("trusted")) == NEVER
    before = len(objects.asked)
    assert missed(other.run()) == {}
    assert objects.count("PUT") == sum(method == "PUT" for method, _ in objects.asked[:before])
    assert not any("/b/" in path for _, path in objects.asked[before:]), "blobs were fetched that no step takes"
    assert one.said == other.said == []


def test_why_compares_with_what_another_machine_ran_of_this_project(
    machines: Callable[[str], Machine], objects: Objects
) -> None:
    one, fresh, stranger = machines("one"), machines("fresh"), machines("stranger")
    for machine, url in (
        (one, "git@forge.example:team/shop.git"),
        (fresh, "https://ci:token@forge.example/team/shop"),
        (stranger, "https://forge.example/team/other.git"),
    ):
        machine.is_a_clone_of(url)
    one.run("trusted")
    fresh.edit("app/models.py", "new")
    assert missed(fresh.run()) == {"build": "input /w: app/models.py changed"}
    stranger.edit("deps.txt", "theirs")
    stranger.edit("app/models.py", "theirs")
    stranger.edit("tests/test_a.py", "theirs")
    assert missed(stranger.run("trusted")) == NEVER
    again = machines("again")
    again.is_a_clone_of("ssh://git@forge.example/team/shop.git")
    again.edit("app/views.py", "new")
    assert missed(again.run()) == {"build": "input /w: app/views.py changed"}


def test_projects_of_one_machine_are_not_compared_with_each_other(
    machines: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machines("one"), machines("other")
    other.directory = one.directory  # one state
    one.run()
    other.edit("deps.txt", "theirs")
    other.edit("app/models.py", "theirs")
    other.edit("tests/test_a.py", "theirs")
    assert missed(other.run()) == NEVER
    other.edit("deps.txt", "again")
    assert missed(other.run()) == {"deps": "input /w: deps.txt changed"}


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://forge.example/team/shop.git", "forge.example/team/shop"),
        ("https://anna:token@Forge.example/team/shop/", "forge.example/team/shop"),
        ("git@forge.example:team/shop.git", "forge.example/team/shop"),
        ("ssh://git@forge.example/team/shop", "forge.example/team/shop"),
        ("/srv/git/shop.git", "/srv/git/shop.git"),
    ],
)
def test_a_project_is_known_by_where_it_comes_from(tmp_path: Path, url: str, name: str) -> None:
    project = tmp_path / "clone" / "services" / "web"
    project.mkdir(parents=True)
    assert identity(str(project)) == str(project)
    git("init", "--quiet", str(tmp_path / "clone"))
    assert identity(str(project)) == str(project)
    git("-C", str(tmp_path / "clone"), "remote", "add", "upstream", "https://forge.example/elsewhere")
    git("-C", str(tmp_path / "clone"), "remote", "add", "origin", url)
    assert identity(str(project)) == f"{name}//services/web"
    assert identity(str(tmp_path / "clone")) == name
    empty = ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "-m", "a")
    git("-C", str(tmp_path / "clone"), *empty)
    git("-C", str(tmp_path / "clone"), "worktree", "add", "--quiet", str(tmp_path / "beside"))
    assert identity(str(tmp_path / "beside")) == name


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True, capture_output=True, timeout=60)


def test_what_a_step_takes_is_fetched_and_only_what_is_new_is_sent(
    machines: Callable[[str], Machine], objects: Objects
) -> None:
    one, other = machines("one"), machines("other")
    one.run("trusted")
    other.edit("app/models.py", "new")
    assert set(missed(other.run("trusted"))) == {"build"}
    held = dict(objects.held)
    assert missed(one.run("trusted")) == {}
    one.edit("app/models.py", "new")
    assert missed(one.run("trusted")) == {}
    assert objects.held == held


def test_what_was_found_by_content_is_here_before_it_is_taken(
    machines: Callable[[str], Machine], objects: Objects
) -> None:
    """`build` is made anew and comes out as before, so `deps` of another definition is found; `unit` takes it in the sandbox."""
    one, other = machines("one"), machines("other")
    one.run("trusted")
    other.edit("deps.txt", "new, but what is made of it is the same")
    other.edit("tests/test_a.py", "new")
    found = other.run()
    assert set(missed(found)) == {"deps", "unit"}
    known = found["build"].result
    assert known is not None
    Blobs(str(other.directory / "state")).whole(known.outputs["out"])


def test_a_result_that_was_fetched_is_known_without_the_server(
    machines: Callable[[str], Machine], objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machines("one"), machines("other")
    one.run("trusted")
    other.run()
    asked = len(objects.asked)
    assert missed(other.run()) == {}
    assert len(objects.asked) == asked


def test_a_miss_is_explained_by_what_others_have_kept(machines: Callable[[str], Machine], objects: Objects) -> None:
    one, other = machines("one"), machines("other")
    one.run("trusted")
    other.run()
    other.edit("tests/test_a.py", "new")
    assert missed(other.run()) == {"unit": "input /w: tests/test_a.py changed"}


def test_nobody_writes_who_says_no_scope(machines: Callable[[str], Machine], objects: Objects) -> None:
    machines("laptop").run()
    assert objects.held == {}


def test_a_pull_request_reads_trusted_entries_and_writes_its_own(
    machines: Callable[[str], Machine], objects: Objects
) -> None:
    main, fork, again, other = (machines(name) for name in ("main", "fork", "again", "other"))
    main.run("trusted")
    trusted = dict(objects.held)
    fork.edit("app/models.py", "of the fork")
    assert set(missed(fork.run("pr/7"))) == {"build"}
    assert {path for path in objects.held if path not in trusted} == {
        path for path in objects.held if path.startswith("/cache/pr/7/")
    }
    assert {path: objects.held[path] for path in trusted} == trusted
    again.edit("app/models.py", "of the fork")
    assert missed(again.run("pr/7")) == {}
    other.edit("app/models.py", "of the fork")
    assert set(missed(other.run("pr/8"))) == {"build"}
    main.edit("app/models.py", "of the fork")
    assert set(missed(main.run("trusted"))) == {"build"}


def test_on_one_machine_too_what_a_pull_request_made_stays_its_own(
    machines: Callable[[str], Machine], objects: Objects
) -> None:
    machine = machines("one")
    assert set(missed(machine.run("pr/7"))) == {"deps", "build", "unit"}
    assert set(missed(machine.run("trusted"))) == {"deps", "build", "unit"}


def test_a_pull_request_gets_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(tmp_path)
    step = "@step\ndef unit():\n    return base.secret_env('DB', secret('s.yaml#db')).run('x')\n"
    project.write(step + "@pipeline\ndef ci():\n    return unit()\n", s_yaml="db: never read")
    for name, value in (("TRIMTAB_CI_SCOPE", "pr/7"), ("GITHUB_REF", "refs/pull/7/merge")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(
                DefinitionError, match=r"ship\.py:5: pull request 7 gets no secrets, and s\.yaml#db is one; leave"
            ):
                project.run()


def test_the_scope_is_said_or_known_by_the_ref() -> None:
    assert remote.scope_of({}) == ""
    assert remote.scope_of({"TRIMTAB_CI_SCOPE": "trusted"}) == "trusted"
    assert remote.scope_of({"TRIMTAB_CI_SCOPE": "trusted", "GITHUB_REF": "refs/pull/12/merge"}) == "pr/12"
    with pytest.raises(EngineFault, match=r"TRIMTAB_CI_SCOPE is 'pr/x'; write trusted, pr/NUMBER"):
        remote.scope_of({"TRIMTAB_CI_SCOPE": "pr/x"})
    with pytest.raises(
        EngineFault, match=r"write http\(s\)://HOST/PATH, s3://BUCKET/PREFIX or oci://REGISTRY/REPOSITORY"
    ):
        remote.transport_of("ftp://host/x", {})


def test_a_record_that_is_not_of_what_it_says_is_not_taken(
    machines: Callable[[str], Machine], objects: Objects
) -> None:
    machines("one").run("trusted")
    for path in list(objects.held):
        if "/r/" in path:
            doc = json.loads(zlib.decompress(objects.held[path]))
            doc["components"].append(["env MORE", "x"])
            objects.held[path] = zlib.compress(json.dumps(doc).encode())
    assert missed(machines("other").run()) == NEVER


@pytest.mark.parametrize("damage", [b"", b"[1", b"[5, 5]\nhellohell", b"[99999999]\n", b"\x00" * 100])
def test_damaged_blobs_make_a_miss(machines: Callable[[str], Machine], objects: Objects, damage: bytes) -> None:
    machines("one").run("trusted")
    for path in objects.held:
        if "/b/" in path:
            objects.held[path] = damage
    other = machines("other")
    other.edit("app/models.py", "new")
    assert set(missed(other.run())) == {"deps", "build"}


def test_damaged_records_are_misses(machines: Callable[[str], Machine], objects: Objects) -> None:
    machines("one").run("trusted")
    for path in objects.held:
        objects.held[path] = b"damaged"
    assert missed(machines("other").run()) == NEVER


@pytest.mark.parametrize(
    ("token", "status", "said"),
    [("secret", 0, "403 Forbidden"), ("", 500, "500 Internal Server Error"), ("", 507, "507 Insufficient Storage")],
)
def test_a_server_that_refuses_is_named_once(
    machines: Callable[[str], Machine], objects: Objects, token: str, status: int, said: str
) -> None:
    objects.token, objects.status = token, status
    machine = machines("one")
    assert missed(machine.run("trusted")) == NEVER
    [line] = machine.said
    assert line.startswith("the shared cache http://127.0.0.1:")
    assert f"/cache is not used in this run: it answers {said} for trusted/" in line
    assert missed(machine.run("trusted")) == {}


def test_a_token_is_shown(
    machines: Callable[[str], Machine], objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects.token = "secret"
    monkeypatch.setenv("TRIMTAB_CI_CACHE_TOKEN", "secret")
    machines("one").run("trusted")
    assert missed(machines("other").run()) == {}


def test_a_dead_server_is_named_once_and_the_run_goes_on(
    machines: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_CI_CACHE", f"http://127.0.0.1:{free_port()}/cache")
    machine = machines("one")
    assert missed(machine.run("trusted")) == NEVER
    assert len(machine.said) == 1
    assert machine.said[0].endswith("is not used in this run: Connection refused")


def test_a_silent_server_costs_one_wait(machines: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_http, "ANSWER_S", 0.2)
    with silent_server() as address:
        monkeypatch.setenv("TRIMTAB_CI_CACHE", address)
        machine = machines("one")
        assert missed(machine.run("trusted")) == NEVER
        assert len(machine.said) == 1
        assert "it does not answer within" in machine.said[0]


def test_a_server_that_dies_while_a_step_waits_for_a_blob(machines: Callable[[str], Machine], objects: Objects) -> None:
    machines("one").run("trusted")
    other = machines("other")
    other.run()
    objects.status = 500
    other.edit("app/models.py", "new")
    assert set(missed(other.run())) == {"deps", "build"}
    assert len(other.said) == 1


def test_large_blobs_are_objects_of_their_own_and_sent_once(
    machines: Callable[[str], Machine], objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PACKED_BYTES_MAX", 3)
    one, other = machines("one"), machines("other")
    one.run("trusted")
    large = [path for path in objects.held if "/b/" in path]
    assert large
    other.edit("app/models.py", "new")
    assert set(missed(other.run("trusted"))) == {"build"}
    assert len([1 for method, path in objects.asked if method == "PUT" and path in large]) == len(large)


def test_signatures_are_those_that_amazon_publishes() -> None:
    """The example `GET Object` of "Signature Calculations: Examples" in the S3 API reference, without its Range header."""
    headers = remote_http.signed(
        "GET",
        "examplebucket.s3.amazonaws.com",
        "/test.txt",
        remote_http.EMPTY_SHA256,
        "AKIAIOSFODNN7EXAMPLE",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "us-east-1",
        "",
        time.strptime("20130524T000000Z", "%Y%m%dT%H%M%SZ"),
    )
    assert headers["Authorization"].startswith(
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        " SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature="
    )


def test_an_s3_server_keeps_it(machines: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with s3_server() as endpoint:
        urlopen(Request(f"{endpoint}/bucket", method="PUT"), timeout=60).close()
        monkeypatch.setenv("TRIMTAB_CI_CACHE", f"s3://bucket/ci?endpoint={endpoint}")
        machines("one").run("trusted")
        other = machines("other")
        other.edit("app/models.py", "new")
        assert set(missed(other.run())) == {"build"}
        assert other.said == []


def test_s3_wants_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineFault, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set"):
        remote.transport_of("s3://bucket/x", {})


def test_a_registry_keeps_it(
    machines: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with docker_registry(tmp_path / "registry") as host:
        asyncio.run(answering(host))
        monkeypatch.setenv("TRIMTAB_CI_CACHE", f"oci://{host}/team/cache")
        main, fork, other = machines("main"), machines("fork"), machines("other")
        assert missed(main.run("trusted")) == NEVER
        fork.edit("app/models.py", "new")
        assert set(missed(fork.run("pr/7"))) == {"build"}
        other.edit("app/models.py", "new")
        assert set(missed(other.run())) == {"build"}
        assert main.said == fork.said == other.said == []
