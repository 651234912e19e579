"""The parts of a build that need no network: specs, ignore rules, layers, wheels, accounts, error lines."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from trimtab.content import BadSpec, BuildFailed, ContentStore, ImageSpec, NoSuchImage, build, oci, parse_digest
from trimtab.content.accounts import Accounts, with_user
from trimtab.content.ignore import Ignore
from trimtab.content.requirements import Wheel, read_requirements
from trimtab.content.tarwriter import LayerWriter, checked
from trimtab.content.wheels import DEBIAN_PYTHON, wheels_layer


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content")


def members(store: ContentStore, digest: str) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(store.path(parse_digest(digest))) as tar:
        return {one.name: one for one in tar}


def content(store: ContentStore, digest: str, name: str) -> bytes:
    with tarfile.open(store.path(parse_digest(digest))) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


# Specs


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        (ImageSpec(name="Shop"), "image Shop: name 'Shop' must be lower-case letters, digits, '-', '.', '/'"),
        (ImageSpec(name="shop:1"), "image shop:1: name 'shop:1' must not have a tag or digest"),
        (ImageSpec(name="s", from_="A B"), "image s: from: 'A B' is not an image reference; expected"),
        (ImageSpec(name="s", debian=["lib pq"]), "image s: debian: 'lib pq' is not a Debian package name"),
        (ImageSpec(name="s", debian=["--force"]), "image s: debian: '--force' is not a Debian package name"),
        (ImageSpec(name="s", files={"app": "."}), "image s: files: 'app' must be an absolute path in the image"),
        (ImageSpec(name="s", files={"/a": "../x"}), "files: '../x' (for /a) must be inside the project directory"),
        (ImageSpec(name="s", files={"/a": "/etc"}), "files: '/etc' (for /a) must be inside the project directory"),
        (ImageSpec(name="s", inline={"/a/../b": ""}), "inline: '/a/../b' must be an absolute path in the image"),
        (ImageSpec(name="s", workdir="app"), "workdir: 'app' must be absolute"),
        (ImageSpec(name="s", user="a b"), "user: 'a b' must be a name or a number"),
        (ImageSpec(name="s", env={"A=B": ""}), "env: 'A=B' is not a variable name"),
        (ImageSpec(name="s", ports=[70000]), "ports: 70000 is not between 1 and 65535"),
        (ImageSpec(name="s", platform="plan9/mips"), "platform: 'plan9/mips' is not one of linux/amd64, linux/arm64"),
        (ImageSpec(name="s", dockerfile="Dockerfile", debian=["jq"]), "debian cannot be set together with dockerfile"),
        (ImageSpec(name="s", build_args={"A": "1"}), "build_args are for a dockerfile, and there is none"),
    ],
)
def test_a_bad_spec_names_its_field(spec: ImageSpec, line: str) -> None:
    with pytest.raises(BadSpec) as refused:
        spec.check()
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_missing_sources_are_noticed_before_anything_is_fetched(store: ContentStore, tmp_path: Path) -> None:
    with pytest.raises(BadSpec, match=r"image s: files: there is no 'src' in "):
        await build(ImageSpec(name="s", python=["flask"], files={"/app": "src"}), store, context=tmp_path)
    with pytest.raises(BadSpec, match=r"python: there is no requirements.txt in .*; list the requirements or name"):
        await build(ImageSpec(name="s", python="requirements.txt"), store, context=tmp_path)
    with pytest.raises(NoSuchImage, match=r"from: trimtab.local/nowhere:latest is not in .*; build it first"):
        await build(ImageSpec(name="s", from_="trimtab.local/nowhere"), store, context=tmp_path)


async def test_a_dockerfile_needs_buildah(store: ContentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        BuildFailed, match=r"image s: building from a Dockerfile needs buildah; install it with `apt-get"
    ):
        await build(ImageSpec(name="s", dockerfile="Dockerfile"), store, context=tmp_path)
    with pytest.raises(BadSpec, match=r"image s: dockerfile: there is no 'Other' in "):
        await build(ImageSpec(name="s", dockerfile="Other"), store, context=tmp_path)


# Files


@pytest.mark.parametrize(
    ("patterns", "path", "ignored"),
    [
        (["node_modules"], "node_modules/a/b.js", True),
        (["node_modules"], "sub/node_modules/a", False),
        (["**/node_modules"], "sub/node_modules/a", True),
        (["**/node_modules"], "node_modules/a", True),
        (["*.log"], "x.log", True),
        (["*.log"], "sub/x.log", False),
        (["**/*.log"], "a/b/x.log", True),
        (["docs/**"], "docs/a/b", True),
        (["/docs/"], "docs/a", True),
        (["*.md", "!README.md"], "README.md", False),
        (["*.md", "!README.md", "README*"], "README.md", True),
        (["te?t"], "test/x", True),
        (["[a-c].txt"], "b.txt", True),
        (["[a-c].txt"], "d.txt", False),
    ],
)
def test_ignore_rules_are_those_of_dockerignore(patterns: list[str], path: str, ignored: bool) -> None:
    assert Ignore(patterns).matches(path) is ignored


async def test_files_land_where_declared_as_roots(store: ContentStore, tmp_path: Path) -> None:
    project = tmp_path / "p"
    (project / "src" / ".git").mkdir(parents=True)
    (project / "src" / ".git" / "config").write_text("")
    (project / "src" / "run.sh").write_text("#!/bin/sh\n")
    (project / "src" / "run.sh").chmod(0o700)
    (project / "src" / "data.txt").write_text("data")
    (project / "src" / "link").symlink_to("data.txt")
    (project / ".env").write_text("SECRET=1")
    (project / ".dockerignore").write_text("# comment\n*.tmp\n**/secret*\n")
    (project / "src" / "secret.key").write_text("")
    spec = ImageSpec(
        name="s",
        files={"/app": "src", "/etc/app.conf": "src/data.txt", "/opt/": "src/run.sh"},
        inline={"/usr/bin/hi": "#!/bin/sh\necho hi\n"},
        links={"/usr/bin/hello": "hi"},
        writable=["/data/cache"],
        user="app",
        workdir="/app",
        ports=[80],
        cmd=["hi"],
    )
    built = await build(spec, store, context=project)
    found = members(store, built.layers[0].digest)
    assert sorted(name for name in found if not found[name].isdir()) == [
        "app/data.txt", "app/link", "app/run.sh", "etc/app.conf", "etc/group", "etc/passwd", "opt/run.sh",
        "usr/bin/hello", "usr/bin/hi",
    ]  # fmt: skip
    assert found["app/run.sh"].mode == 0o755
    assert found["app/data.txt"].mode == 0o644
    assert found["app/link"].linkname == "data.txt"
    assert {(one.uid, one.gid) for name, one in found.items() if name != "data/cache"} == {(0, 0)}
    assert (found["data/cache"].uid, found["data/cache"].gid) == (1000, 1000)
    assert b"\napp:x:1000:1000:app:/app:/usr/sbin/nologin\n" in content(store, built.layers[0].digest, "etc/passwd")
    _, manifest = oci.image_manifest(store, built.digest)
    runtime = oci.read_config(store, manifest).config
    assert (runtime.user, runtime.working_dir, runtime.cmd) == ("1000:1000", "/app", ["hi"])
    assert runtime.exposed_ports == {"80/tcp": {}}
    assert built.ref == f"trimtab.local/s@{built.digest}"
    assert store.resolve("trimtab.local/s:latest") == built.digest


async def test_times_owners_and_places_leave_no_trace(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "other"):
        project = tmp_path / name / "deep" / name
        project.mkdir(parents=True)
        for file in ["b", "a"] if name == "one" else ["a", "b"]:
            (project / file).write_text("same")
        os.utime(project / "a", (hash(name) % 10**9, hash(name) % 10**9))
        (project / "a").chmod(0o600 if name == "one" else 0o664)
        spec = ImageSpec(name="s", files={"/app": "."}, env={"A": "1"}, labels={"b": "2", "a": "1"})
        built = await build(spec, ContentStore(tmp_path / name / "content"), context=project)
        digests.add((built.digest, built.sbom))
    assert len(digests) == 1


async def test_files_that_differ_have_times_that_differ(store: ContentStore, tmp_path: Path) -> None:
    times = []
    for text in ("body{}", "html{}"):
        (tmp_path / "style.css").write_text(text)
        built = await build(ImageSpec(name="s", files={"/style.css": "style.css"}), store, context=tmp_path)
        times.append(members(store, built.layers[0].digest)["style.css"].mtime)
    assert times[0] != times[1]


async def test_an_unchanged_layer_is_not_made_again_and_a_damaged_one_is(store: ContentStore, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    spec = ImageSpec(name="s", files={"/a": "a"})
    first = await build(spec, store, context=tmp_path)
    second = await build(spec, store, context=tmp_path)
    assert [layer.cached for layer in second.layers] == [True]
    store.path(parse_digest(first.layers[0].digest)).write_bytes(b"torn")
    third = await build(spec, store, context=tmp_path)
    assert [layer.cached for layer in third.layers] == [False]
    assert first.digest == second.digest == third.digest
    store.verify(parse_digest(third.layers[0].digest))


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside"])
async def test_a_link_out_of_the_project_is_refused(store: ContentStore, tmp_path: Path, target: str) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "link").symlink_to(target)
    with pytest.raises(BadSpec, match="leads out of the project directory; copy the file, or ignore the link"):
        await build(ImageSpec(name="s", files={"/app": "."}), store, context=tmp_path / "p")


async def test_a_pipe_is_refused(store: ContentStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadSpec, match="pipe is neither a file nor a directory; add it to the ignore list"):
        await build(ImageSpec(name="s", files={"/app": "."}, ignore=["content"]), store, context=tmp_path)


async def test_builds_of_one_name_wait_for_each_other(store: ContentStore, tmp_path: Path) -> None:
    import asyncio

    (tmp_path / "a").write_text("1")
    spec = ImageSpec(name="s", files={"/a": "a"})
    built = await asyncio.gather(*(build(spec, store, context=tmp_path) for _ in range(4)))
    assert len({one.digest for one in built}) == 1
    assert sorted(one.layers[0].cached for one in built) == [False, True, True, True]


# Layers


@pytest.mark.parametrize("path", ["../x", "a/../../x", "a\0b"])
def test_no_path_leads_out_of_a_layer(path: str) -> None:
    with pytest.raises(BuildFailed, match="leads out of the image"):
        checked(path)


def test_a_layer_lists_its_uncompressed_digest(store: ContentStore) -> None:
    import gzip

    with store.ingest() as ingest:
        writer = LayerWriter(ingest)
        writer.file("ä" * 60 + "/" + "x" * 120, b"long name")
        layer = writer.finish()
    data = store.path(parse_digest(layer.digest)).read_bytes()
    assert layer.size == len(data)
    assert layer.diff_id == "sha256:" + hashlib.sha256(gzip.decompress(data)).hexdigest()


# Users


def test_users_are_taken_made_or_numbers() -> None:
    there = Accounts("root:*:0:0:root:/root:/bin/sh\nwww-data:*:33:33:www:/var/www:/bin/sh\n", "root:*:0:\n")
    assert str(with_user(there, "www-data", 1000, "/")[1]) == "33:33"
    assert with_user(there, "www-data", 1000, "/")[0] == there
    assert str(with_user(there, "4242", 1000, "/")[1]) == "4242:4242"
    assert str(with_user(there, None, 1000, "/")[1]) == "0:0"
    made, identity = with_user(there, "web", 1001, "/app")
    assert str(identity) == "1001:1001"
    assert made.passwd.endswith("\nweb:x:1001:1001:web:/app:/usr/sbin/nologin\n")
    with pytest.raises(BadSpec, match="uid: 33 is already www-data's in this image; choose another for web"):
        with_user(there, "web", 33, "/")


# Python


def wheel(store: ContentStore, name: str, files: dict[str, str], executable: str = "") -> Wheel:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in files.items():
            info = zipfile.ZipInfo(path, (2024, 1, 2, 3, 4, 5))
            info.external_attr = (0o755 if path == executable else 0o644) << 16
            archive.writestr(info, text)
    data = buffer.getvalue()
    file = f"{name}-1.0-py3-none-any.whl"
    return Wheel(name=name, version="1.0", file=file, digest=store.put(data), size=len(data))


async def test_a_wheel_is_installed_as_its_format_says(store: ContentStore) -> None:
    one = wheel(
        store,
        "demo",
        {
            "demo/__init__.py": "X = 1\n",
            "demo/broken.py": "def (:\n",
            "demo/old.pyc": "stale",
            "demo-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: demo\nLicense-Expression: MIT\n\nText",
            "demo-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\n",
            "demo-1.0.dist-info/RECORD": "demo/__init__.py,,\n",
            "demo-1.0.dist-info/entry_points.txt": "[console_scripts]\ndemo = demo.cli:main.run [extra]\n",
            "demo-1.0.data/scripts/tool": "#!python -E\nprint(1)\n",
            "demo-1.0.data/purelib/extra.py": "",
            "demo-1.0.data/data/share/demo.conf": "x",
            "demo-1.0.data/headers/demo.h": "y",
        },
    )
    made, cached = await wheels_layer(store, [one], DEBIAN_PYTHON)
    assert not cached
    assert made.licenses == {"demo": "MIT"}
    found = members(store, made.layer.digest)
    site = "usr/local/lib/python3.11/dist-packages"
    files = {name for name, entry in found.items() if entry.isfile()}
    assert files == {
        f"{site}/demo/__init__.py", f"{site}/demo/broken.py", f"{site}/extra.py",
        f"{site}/demo/__pycache__/__init__.cpython-311.pyc", f"{site}/__pycache__/extra.cpython-311.pyc",
        *(f"{site}/demo-1.0.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "INSTALLER", "entry_points.txt")),
        "usr/local/bin/tool", "usr/local/bin/demo", "usr/local/share/demo.conf", "usr/local/include/python3.11/demo/demo.h",
    }  # fmt: skip
    assert content(store, made.layer.digest, "usr/local/bin/tool") == b"#!/usr/bin/python3 -E\nprint(1)\n"
    script = content(store, made.layer.digest, "usr/local/bin/demo").decode()
    assert script.startswith("#!/usr/bin/python3\nimport sys\nfrom demo.cli import main\n")
    assert "sys.exit(main.run())" in script
    assert found["usr/local/bin/demo"].mode == 0o755
    record = content(store, made.layer.digest, f"{site}/demo-1.0.dist-info/RECORD").decode().splitlines()
    assert "../../../../../usr/local/bin/demo" in {line.split(",")[0] for line in record}
    assert len(record) == 12


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"a.py": ""}, "the wheel bad-1.0-py3-none-any.whl has 0 .dist-info directories; one is expected"),
        ({"../evil.py": "", "bad-1.0.dist-info/METADATA": ""}, "leads out of the image"),
        ({"bad-1.0.data/odd/x": "", "bad-1.0.dist-info/METADATA": ""}, "has an unknown part bad-1.0.data/odd"),
        (
            {
                "bad-1.0.dist-info/METADATA": "",
                "bad-1.0.dist-info/entry_points.txt": "[console_scripts]\n../sh = a:b\n",
            },
            "has a malformed entry point '../sh'",
        ),
    ],
)
async def test_a_malformed_wheel_is_refused(store: ContentStore, files: dict[str, str], line: str) -> None:
    with pytest.raises(BuildFailed, match=line.replace("(", r"\(")):
        await wheels_layer(store, [wheel(store, "bad", files)], DEBIAN_PYTHON)


def test_requirement_files_are_read_with_what_they_include(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(
        "# all\nflask==3.1  # web\n-r more/db.txt\n--extra-index-url https://x/\n"
    )
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "db.txt").write_text("psycopg[binary]==3.2 \\\n  --hash=sha256:00\n")
    assert read_requirements("requirements.txt", tmp_path) == [
        "flask==3.1",
        "psycopg[binary]==3.2    --hash=sha256:00",
        "--extra-index-url https://x/",
    ]
    wheel = "a @ https://x/a-1.0-py3-none-any.whl"
    assert read_requirements([wheel, "--index-url https://x/simple"], tmp_path)[0] == wheel
    assert read_requirements(["git+https://x/y"], tmp_path, wheels_only=False) == ["git+https://x/y"]
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["flask>=3", "six"]\n')
    assert read_requirements("pyproject.toml", tmp_path) == ["flask>=3", "six"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("six\n-e .\n", "r.txt:2: '-e .' would build a package from source; copy the directory with `files` instead"),
        ("./local\n", "r.txt:1: './local' would build a package from source"),
        (
            "a @ git+https://x/y\n",
            "r.txt:1: 'a @ git+https://x/y' would build a package from source; allow it with wheels_",
        ),
        ("https://x/y.tar.gz\n", "r.txt:1: 'https://x/y.tar.gz' would build a package from source; allow it"),
        ("a @ file:///tmp/a\n", "r.txt:1: 'a @ file:///tmp/a' would build a package from source; copy the directory"),
        ("-r missing.txt\n", "python: r.txt:1: there is no missing.txt in the project directory"),
        ("-r ../../etc/passwd\n", "python: r.txt:1: there is no ../../etc/passwd in the project directory"),
        ("-r r.txt\n", "requirement files include each other without end"),
        ("-c limits.txt\n", "python: r.txt:1: constraint files are not read; put the versions into r.txt"),
    ],
)
def test_requirements_that_cannot_be_met_name_file_and_line(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "r.txt").write_text(text)
    with pytest.raises(BadSpec) as refused:
        read_requirements("r.txt", tmp_path)
    assert line in str(refused.value)
