"""Built images do what they are for, in real containers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from oci_container import Bundle, bundle, wait_until
from registries import answering, docker_registry
from trimtab.content import (
    ContentStore,
    Credentials,
    ImageSpec,
    RegistryClient,
    build,
    oci,
    pause_image,
    postgres_image,
)
from trimtab.content.executable import pause_executable

pytestmark = pytest.mark.engine

PYTHON_CHECKS = """
import asyncio, ctypes, json, lzma, bz2, pwd, readline, socket, sqlite3, ssl, uuid, zlib, zoneinfo, getpass
import psycopg
assert psycopg.pq.__impl__ == "binary"
assert len(ssl.create_default_context().get_ca_certs()) > 50
assert socket.getservbyname("https") == 443
assert pwd.getpwuid(1000).pw_name == "app" == getpass.getuser()
assert sqlite3.connect(":memory:").execute("select 1").fetchone() == (1,)
assert zoneinfo.ZoneInfo("Europe/Berlin")
assert json.__cached__ and __import__("os").path.exists(json.__cached__), "no bytecode"
ctypes.CDLL("libstdc++.so.6")
print("all there")
"""


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_python_image_runs_its_app_without_a_shell(
    image_store: ContentStore, project: Path, tmp_path: Path
) -> None:
    spec = ImageSpec(
        name="shop",
        python="requirements.txt",
        files={"/app": "."},
        workdir="/app",
        cmd=["python3", "-m", "shop"],
        writable=["/data"],
    )
    built = await build(spec, image_store, context=project)
    with bundle(image_store, built.digest, tmp_path / "run") as image:
        assert image.run() == (0, "hello from shop\n")
        assert image.run("/usr/bin/python3", "-c", PYTHON_CHECKS) == (0, "all there\n")
        assert image.run("/usr/local/bin/gunicorn", "--version") == (0, "gunicorn (version 23.0.0)\n")
        code, output = image.run("/usr/bin/python3", "-c", "open('/data/x','w'); open('/app/x','w')")
        assert code == 1
        assert "Permission denied: '/app/x'" in output
        assert not (image.root / "bin/sh").exists()
        assert not (image.root / "app/.git").exists()
        assert not (image.root / "usr/share/man").exists()
        assert (image.root / "usr/share/doc/libc6/copyright").exists()
        assert "Package: libc6\nStatus: install ok installed\n" in (image.root / "var/lib/dpkg/status").read_text()


async def test_packages_go_on_top_of_python(image_store: ContentStore, tmp_path: Path) -> None:
    spec = ImageSpec(name="tools", python=[], debian=["jq"], cmd=["jq", "-n", "1+1"])
    built = await build(spec, image_store)
    assert [layer.name for layer in built.layers] == ["python base", "debian packages", "files"]
    with bundle(image_store, built.digest, tmp_path / "run") as image:
        assert image.run() == (0, "2\n")
        assert image.run("/usr/bin/python3", "-c", "print(1)") == (0, "1\n")


async def test_an_image_builds_on_another(image_store: ContentStore, project: Path, tmp_path: Path) -> None:
    await build(ImageSpec(name="ground", python=[], env={"A": "1", "B": "1"}, user="app"), image_store)
    spec = ImageSpec(
        name="above",
        from_="trimtab.local/ground",
        debian=["jq"],
        python=["six==1.17.0"],
        files={"/app": "shop"},
        env={"B": "2"},
    )
    built = await build(spec, image_store, context=project)
    with bundle(image_store, built.digest, tmp_path / "run") as image:
        probe = "import os, six; print(os.environ['A'], os.environ['B'], os.getuid(), six.__version__)"
        assert image.run("/usr/bin/python3", "-c", probe) == (0, "1 2 1000 1.17.0\n")
        assert image.run("/usr/bin/jq", "-n", "3") == (0, "3\n")
        status = (image.root / "var/lib/dpkg/status").read_text()
        assert "Package: jq\n" in status
        assert "Package: libc6\n" in status


async def test_an_image_builds_on_one_from_a_registry(image_store: ContentStore, project: Path, tmp_path: Path) -> None:
    ground = await build(ImageSpec(name="ground", python=[], user="app"), image_store)
    store = ContentStore(tmp_path / "other")
    with docker_registry(tmp_path / "registry") as host:
        await answering(host)
        async with RegistryClient(image_store, credentials=Credentials()) as client:
            await client.push(ground.digest, f"{host}/team/ground:1")
        spec = ImageSpec(
            name="above",
            from_=f"{host}/team/ground:1",
            python=["six==1.17.0"],
            files={"/bin/hello": "shop/__main__.py"},
        )
        built = await build(spec, store, context=project, credentials=Credentials())
    assert built.digest == (await build(spec, store, context=project)).digest  # the registry is gone
    with bundle(store, built.digest, tmp_path / "run") as image:
        assert image.run("/usr/bin/python3", "-c", "import six; print(six.__version__)") == (0, "1.17.0\n")
        assert (image.root / "bin").is_symlink()
        assert (image.root / "usr/bin/hello").exists()


@pytest.fixture
async def postgres(image_store: ContentStore, tmp_path: Path):  # type: ignore[no-untyped-def]
    built = await build(postgres_image(), image_store)
    with bundle(image_store, built.digest, tmp_path / "run") as image:
        yield image


class Server:
    """PostgreSQL in a container, on a port and volume of the test's."""

    def __init__(self, image: Bundle, port: int, volume: Path, user: str | None = None) -> None:
        self.image, self.port = image, port
        self._options = {"mounts": {"/var/lib/postgresql/data": volume}, "user": user}
        self.process: subprocess.Popen[str] | None = None

    def start(self, **env: str) -> None:
        settings = {"POSTGRES_PASSWORD": "se'cr\"et", "POSTGRES_USER": "app", "POSTGRES_DB": 'my"app'} | env
        self.process = self.image.start(["-p", str(self.port)], env=settings, **self._options)
        wait_until(self.ready, 30, "PostgreSQL's readiness")

    def ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.process.communicate()[0]
        return self.tool("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port))[0] == 0

    def tool(self, *argv: str, password: str = "se'cr\"et") -> tuple[int, str]:
        """A client program of the image, from outside of the container."""
        done = subprocess.run(
            ["chroot", "--userspec=999:999", str(self.image.root), f"/usr/lib/postgresql/15/bin/{argv[0]}", *argv[1:]],
            capture_output=True,
            text=True,
            env={"PGPASSWORD": password, "PATH": "/usr/sbin:/usr/bin"},
        )
        return done.returncode, done.stdout + done.stderr

    def query(self, sql: str, password: str = "se'cr\"et") -> tuple[int, str]:
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "app", "-d", 'my"app']
        return self.tool("psql", "-X", *where, "-Atc", sql, password=password)


@pytest.mark.parametrize("user", [None, "0:0"], ids=["as postgres", "as root"])
async def test_postgres_survives_kill_and_restart(
    postgres: Bundle, free_port: int, tmp_path: Path, user: str | None
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o755)
    if user is None:
        volume.chmod(0o2775)
        os.chown(volume, 0, 999)  # what fsGroup does
    server = Server(postgres, free_port, volume, user)
    server.start()
    assert server.query("create table t (x int); insert into t values (42)") == (0, "CREATE TABLE\nINSERT 0 1\n")
    assert server.query("select pg_catalog.current_setting('password_encryption'), version()")[1].startswith(
        "scram-sha-256|PostgreSQL 15"
    )
    assert "password authentication failed" in server.query("select 1", password="wrong")[1]

    assert server.process is not None
    postgres.kill(server.process, signal.SIGKILL)
    (volume / "pgdata").chmod(0o2770)  # what fsGroup does at the next mount
    server.start(POSTGRES_PASSWORD="another")
    assert server.query("select x from t") == (0, "42\n")

    written = postgres.kill(server.process, signal.SIGINT)
    assert "database system is shut down" in written
    assert (volume / "pgdata").stat().st_mode & 0o777 == 0o700
    assert (volume / "pgdata").stat().st_uid == 999


async def test_postgres_killed_while_it_makes_its_cluster_makes_it_anew(
    postgres: Bundle, free_port: int, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    server = Server(postgres, free_port, volume, "0:0")
    process = postgres.start(env={"POSTGRES_PASSWORD": "x"}, mounts={"/var/lib/postgresql/data": volume}, user="0:0")
    wait_until(lambda: (volume / "pgdata.making" / "PG_VERSION").exists(), 30, "initdb's first file")
    postgres.kill(process)
    assert not (volume / "pgdata").exists()
    server.start()
    assert server.query("select 1") == (0, "1\n")
    assert not (volume / "pgdata.making").exists()


async def test_postgres_says_what_it_lacks(postgres: Bundle, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    mounts = {"/var/lib/postgresql/data": volume}
    assert postgres.run(user="0:0", mounts=mounts) == (
        1,
        "postgres: no password: set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE\n",
    )
    (volume / "pgdata").mkdir(exist_ok=True)
    (volume / "pgdata" / "lost").touch()
    code, output = postgres.run(user="0:0", mounts=mounts, env={"POSTGRES_PASSWORD": "x"})
    assert (code, output) == (
        1,
        "postgres: /var/lib/postgresql/data/pgdata is there but holds no PostgreSQL cluster; "
        "empty it or choose another volume\n",
    )
    volume.chmod(0o755)
    os.chown(volume, 0, 0)
    (volume / "pgdata" / "lost").unlink()
    (volume / "pgdata").rmdir()
    code, output = postgres.run(mounts=mounts, env={"POSTGRES_PASSWORD": "x"})
    assert code == 1
    assert "the volume must belong to group 999 (securityContext.fsGroup: 999)" in output


async def test_the_pause_program_waits_and_dies_when_killed(image_store: ContentStore, tmp_path: Path) -> None:
    reference = pause_image(image_store)
    assert reference == pause_image(image_store)
    assert len(pause_executable("amd64")) < 250
    assert len(pause_executable("arm64")) < 250
    digest = oci.parse_digest(reference.partition("@")[2])
    with bundle(image_store, digest, tmp_path / "run") as image:
        process = image.start()
        wait_until(lambda: _sleeping(image.root / "pause"), 10, "the pause program asleep")
        assert process.poll() is None
        image.kill(process, signal.SIGKILL)
        assert process.returncode != 0


def _sleeping(program: Path) -> bool:
    """Whether a process of this executable waits in the kernel."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "exe").samefile(program) and "(pause) S" in (entry / "stat").read_text():
                return True
        except OSError:
            continue
    return False
