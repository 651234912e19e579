"""The debuginfod protocol from both sides, with elfutils' own server and client; and servers that mean harm."""

import contextlib
import http.server
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from profiling_debuginfod import AT_ONCE, free_port, needs_debuginfod, served_by_debuginfod
from trimtab.components.profiling import batch
from trimtab.components.profiling.batch import Batch, Frame, Sample, SampleType
from trimtab.components.profiling.storage.store import Profiles, Query
from trimtab.components.profiling.symbols import debuginfod, elf
from trimtab.components.profiling.symbols.shelf import Shelf
from trimtab.components.profiling.symbols.symbolizer import REASONS, Line, Symbolizer

DEADLINE_S = 120.0
SOURCE = """
#define KEPT __attribute__((noinline, used))
static int KEPT work(volatile int *n) { *n += 3; return *n; }
int main(int argc, char **argv) { volatile int n = argc; return work(&n); }
"""


def run(directory: Path, *command: str, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=directory, check=True, capture_output=True, text=True, timeout=DEADLINE_S,
        env={**os.environ, **environment},
    )  # fmt: skip
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("programs")
    (directory / "a.c").write_text(SOURCE)
    run(directory, "clang", "-g", "-O1", "-Wl,--build-id=sha1", "-o", "whole", "a.c")
    run(directory, "clang", "-g", "-O1", "-Wl,--build-id=none", "-o", "without-id", "a.c")
    run(directory, "clang", "-g", "-Dwork=other", "-Wl,--build-id=sha1", "-o", "another", "a.c")
    run(directory, "objcopy", "--only-keep-debug", "whole", "whole.debug")
    run(directory, "objcopy", "--strip-debug", "whole", "symtab")
    run(directory, "objcopy", "--strip-all", "whole", "stripped")
    return directory


def place_in(built: Path, name: str = "work") -> Frame:
    with open(built / "whole", "rb") as file:
        build_id = elf.read(file.fileno()).build_id
    rows = (line.split() for line in run(built, "nm", "whole").splitlines())
    address = next(int(row[0], 16) for row in rows if row[-1] == name)
    return Frame("native", file=str(built / "stripped"), build_id=build_id, address=address)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "profiles").mkdir()
    return tmp_path / "profiles"


def symbolizer(root: Path, *urls: str) -> Symbolizer:
    return Symbolizer(root, urls, debug_directories=(), patience=AT_ONCE)


@contextlib.contextmanager
def served(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                answer(self)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@needs_debuginfod
def test_a_stored_profile_of_a_stripped_program_gets_its_names_from_debuginfod(
    built: Path, root: Path, tmp_path: Path
) -> None:
    frame, now = place_in(built), int(time.time()) // 10 * 10
    batch.write(
        root,
        Batch(
            start=now, source="agent", types=[SampleType("cpu", "nanoseconds")], labels=[{"process": "stripped"}],
            frames=[frame], stacks=[[0]], samples=[Sample(0, 0, 0, 10**9)],
        ),
    )  # fmt: skip
    port = free_port()
    with symbolizer(root, f"http://127.0.0.1:{port}") as before:
        (unnamed,) = before.names(Profiles(root).select(Query(type="cpu", start=now - 10, end=now + 20)).frames)
    assert unnamed.lines == [Line(f"stripped+{frame.address:#x}")]
    assert unnamed.reason == REASONS["unreachable"].format(
        first=REASONS["stripped"], server=f"http://127.0.0.1:{port}", detail="Connection refused"
    )
    (tmp_path / "late").mkdir()
    shutil.copy(built / "whole.debug", tmp_path / "late")
    with served_by_debuginfod(tmp_path / "late", frame.build_id) as url, symbolizer(root, url) as after:
        (named,) = after.names(Profiles(root).select(Query(type="cpu", start=now - 10, end=now + 20)).frames)
        assert (named.lines[0].name, named.lines[0].line, named.reason) == ("work", 3, "")
        (unknown,) = after.names([Frame("native", file="/gone", build_id="ab" * 20, address=1)])
        assert unknown.reason == (
            "the program was gone before its symbols were read, and no debuginfod server has its debug information (404)"
        )
    with symbolizer(root) as later:
        assert later.names([frame])[0] == named, "the server is no longer needed"


def test_a_server_that_means_harm_gives_no_names(built: Path, root: Path, tmp_path: Path) -> None:
    frame = place_in(built)
    another = (built / "another").read_bytes()
    whole = (built / "whole").read_bytes()
    secret = tmp_path / "secret"
    shutil.copy(built / "whole", secret)

    def body(content: bytes, length: int | None = None) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
        def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(content) if length is None else length))
            handler.end_headers()
            handler.wfile.write(content)

        return answer

    def status(code: int, location: str = "") -> Callable[[http.server.BaseHTTPRequestHandler], None]:
        def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
            handler.send_response(code)
            handler.send_header("Location", location)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        return answer

    bad = "and what SERVER has cannot be used: "
    gone = "and SERVER cannot be asked: "
    for answer, said in (
        (body(another), f"{bad}is build [0-9a-f]+, not {frame.build_id}"),
        (body(b"<html>moved</html>"), f"{bad}not an ELF file"),
        (body(whole[:3000]), f"{bad}.*"),
        (body(whole, len(whole) + 9), f"{gone}(ended after {len(whole)} of {len(whole) + 9} bytes|IncompleteRead.*)"),
        (status(500), f"{gone}it answered 500"),
        (status(302, f"file://{secret}"), f"{gone}it answered 302"),
        (status(302, "/again"), f"{gone}it answered 302"),
    ):
        with served(answer) as url, symbolizer(root, url) as asking:
            (named,) = asking.names([frame])
        assert re.fullmatch(f"{REASONS['stripped']}, {said.replace('SERVER', url)}", named.reason), named.reason
        assert named.lines == [Line(f"stripped+{frame.address:#x}")]
    assert Shelf(root).best(frame.build_id) == ("nothing", Shelf(root).path(frame.build_id, "nothing"))


def test_a_server_is_not_asked_again_at_once(built: Path, root: Path) -> None:
    frame, asked = place_in(built), []

    def not_found(handler: http.server.BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        handler.send_error(404)

    with served(not_found) as url:
        for _ in range(3):
            with Symbolizer(root, [url], debug_directories=()) as asking:
                assert asking.names([frame, frame])[0].reason.endswith("(404)")
        assert asked == [f"/buildid/{frame.build_id}/debuginfo"]
        with symbolizer(root, f"{url}/other/") as asking:
            asking.names([frame])
        assert asked[1:] == [f"/other/buildid/{frame.build_id}/debuginfo"], "another server has not been asked yet"


def upload(root: Path, file: Path, asked: str) -> str:
    with debuginfod.Upload(root, asked) as taking:
        content = file.read_bytes()
        for at in range(0, len(content), 1000):
            taking.write(content[at : at + 1000])
        return taking.take()


def protocol(root: Path) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        path = debuginfod.find(root, handler.path.removeprefix("/buildid/"))
        if path is None:
            handler.send_error(404)
            return
        content = path.read_bytes()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/octet-stream")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(content)

    return answer


@needs_debuginfod
def test_what_was_uploaded_is_given_to_debuggers(built: Path, root: Path, tmp_path: Path) -> None:
    frame = place_in(built)
    build_id = frame.build_id
    assert upload(root, built / "whole.debug", f"{build_id}/debuginfo") == build_id
    assert upload(root, built / "stripped", f"{build_id}/executable") == build_id
    with symbolizer(root) as names:
        assert names.names([frame])[0].lines[0].name == "work"
    with served(protocol(root)) as url:
        here = {"DEBUGINFOD_URLS": url, "DEBUGINFOD_CACHE_PATH": str(tmp_path / "cache")}
        for what, file in (("debuginfo", "whole.debug"), ("executable", "stripped")):
            got = run(built, "debuginfod-find", what, build_id, **here).strip()
            assert Path(got).read_bytes() == (built / file).read_bytes()
        with urllib.request.urlopen(f"{url}/buildid/{build_id}/section/.debug_str") as answer:
            section = answer.read()
        run(
            built,
            "objcopy",
            "--dump-section",
            f".debug_str={tmp_path / 'dumped'}",
            "whole.debug",
            str(tmp_path / "copy"),
        )
        assert section == (tmp_path / "dumped").read_bytes()
        for none in ("ab" * 20 + "/debuginfo", f"{build_id}/source/a.c", f"{build_id}/section/.nothing",
                     f"{build_id}/section/../x", "../../etc/passwd", f"{build_id}"):  # fmt: skip
            assert debuginfod.find(root, none) is None, none
        if shutil.which("eu-addr2line"):
            told = run(built, "eu-addr2line", "-f", "-e", "stripped", hex(frame.address), **here)
            assert told.split()[0] == "work"
        if shutil.which("gdb"):
            command = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled on", "-ex", "info line work", "stripped"]
            assert 'Line 3 of "a.c"' in run(built, *command, HOME=str(tmp_path), **here)


def test_uploads_that_help_nobody_are_refused_in_one_line(built: Path, root: Path) -> None:
    build_id = place_in(built).build_id
    whole, debug = f"{build_id}/executable", f"{build_id}/debuginfo"
    (built / "text").write_text("no program")

    def refused(file: str, asked: str) -> str:
        with pytest.raises(ValueError) as raised:
            upload(root, built / file, asked)
        return str(raised.value)

    assert refused("text", debug) == "not an ELF file"
    assert refused("without-id", debug) == "the file has no build id: link with -Wl,--build-id"
    assert re.fullmatch(f"the file is build [0-9a-f]+, not {build_id}", refused("another", debug))
    assert refused("stripped", debug) == "the file has no names, which is no debug information"
    assert refused("whole.debug", whole) == "the file has no code, so it is no executable: upload it as debuginfo"
    assert refused("whole", "x/y") == "'x/y' is no place for a file: write BUILD_ID/debuginfo or BUILD_ID/executable"
    assert upload(root, built / "symtab", debug) == build_id
    assert (
        refused("symtab", debug) == "the file has a symbol table, and what is there has a symbol table: nothing better"
    )
    assert upload(root, built / "whole.debug", debug) == build_id
    path = debuginfod.find(root, debug)
    assert path is not None
    assert path.read_bytes() == (built / "whole.debug").read_bytes(), "the better one is served from now on"
    assert (
        refused("symtab", debug)
        == "the file has a symbol table, and what is there has full debug information: nothing better"
    )
    assert refused("stripped", whole) == f"the executable of {build_id} is there already"
    with (
        debuginfod.Upload(root, debug, bytes_max=10) as taking,
        pytest.raises(ValueError, match=r"^the file has more than the 10 "),
    ):
        taking.write(bytes(11))
    assert not [p for p in (root / "symbols").iterdir() if p.name.endswith(".part")], (
        "nothing is left of what was refused"
    )


@needs_debuginfod
def test_a_stripped_upload_does_not_keep_debuginfod_from_being_asked(built: Path, root: Path, tmp_path: Path) -> None:
    frame = place_in(built)
    upload(root, built / "symtab", f"{frame.build_id}/debuginfo")
    with symbolizer(root) as asking:
        assert asking.names([frame])[0].lines == [Line("work")]
    (tmp_path / "served").mkdir()
    shutil.copy(built / "whole.debug", tmp_path / "served")
    with served_by_debuginfod(tmp_path / "served", frame.build_id) as url, symbolizer(root, url) as asking:
        assert asking.names([frame])[0].lines[0].line == 3
