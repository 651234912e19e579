"""A definition that reaches out is refused at its own line; the libraries that it imports are not."""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path

import pytest

from trimtab.ci import DefinitionError
from trimtab.ci.definition.evaluate import evaluate, load
from trimtab.ci.definition.graph import Graph

SHIP = """from trimtab.ci import image, pipeline, step
{imported}

@step
def unit():
    {done}
    return image("a").run("test")

@pipeline
def ci():
    return unit()
"""
LINE = 6


def of(directory: Path, done: str, imported: str = "") -> Graph:
    path = directory / "ship.py"
    path.write_text(SHIP.format(done=done, imported=imported))
    definition = load(path)
    return evaluate(definition, definition.pipelines["ci"], {})


@pytest.mark.parametrize(
    ("imported", "done", "text"),
    [
        ("", "open('/etc/hostname')", "reads or writes /etc/hostname"),
        ("from pathlib import Path", "Path('/etc/hostname').read_text()", "reads or writes /etc/hostname"),
        ("from pathlib import Path", "Path('/etc').exists()", "looks at a file"),
        ("import os", "os.listdir('/etc')", "looks into /etc"),
        ("import subprocess", "subprocess.run(['true'])", "starts true"),
        ("import os", "os.system('true')", "starts a command"),
        ("import socket", "socket.create_connection(('127.0.0.1', 9))", "looks up 127.0.0.1"),
        ("import socket", "socket.gethostname()", "asks what machine or process this is"),
        ("import os", "os.getpid()", "asks what machine or process this is"),
        ("import time", "time.time()", "asks the clock"),
        ("from time import monotonic", "monotonic()", "asks the clock"),
        ("import time", "time.sleep(60)", "waits"),
        ("from datetime import datetime", "datetime.now()", "asks the clock"),
        ("from datetime import date", "date.today()", "asks the clock"),
        ("import random", "random.random()", "asks for randomness"),
        ("import random", "random.choice('ab')", "asks for randomness"),
        ("import uuid", "uuid.uuid4()", "asks for randomness"),
        ("import secrets", "secrets.token_hex()", "asks for randomness"),
        ("import os", "os.environ['HOME']", "reads the environment variable HOME"),
        ("import os", "os.getenv('NOTHING')", "reads the environment variable NOTHING"),
        ("import threading", "threading.Thread(target=print).start()", "starts a thread"),
    ],
)
def test_reaching_out_is_refused_at_its_line(tmp_path: Path, imported: str, done: str, text: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        of(tmp_path, done, imported)
    assert str(caught.value).startswith(f"{tmp_path}/ship.py:{LINE}: {text} while the pipeline is defined; ")


def test_the_text_says_what_to_do_instead(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"; make it a parameter: def ci\(home: str = \.\.\.\)$"):
        of(tmp_path, "os.environ['HOME']", "import os")
    with pytest.raises(DefinitionError, match=r"; declare files by src\(\.\.\.\) and read them in a step$"):
        of(tmp_path, "open('x')")


def test_a_refusal_that_is_caught_is_no_less_one(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=f"ship.py:{LINE}: reads or writes x while"):
        of(tmp_path, "try: open('x')\n    except Exception: pass")


def test_a_module_beside_it_is_held_to_the_same(tmp_path: Path) -> None:
    (tmp_path / "purity_beside.py").write_text("def read():\n    return open('x')\n")
    with pytest.raises(DefinitionError, match=r"purity_beside\.py:2: reads or writes x while"):
        of(tmp_path, "purity_beside.read()", "import purity_beside")
    del sys.modules["purity_beside"]


def test_what_is_pure_is_not_refused(tmp_path: Path) -> None:
    graph = of(
        tmp_path,
        "assert random.Random(1).random() < 1 and datetime(2020, 1, 1).isoformat() and json.dumps([1])",
        "import json, random\nfrom datetime import datetime",
    )
    assert list(graph.steps) == ["unit"]


def test_an_imported_library_may_read_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "lib" / "site-packages"
    library.mkdir(parents=True)
    (library / "purity_library.py").write_text("import os, time\ntext = os.listdir('/')[0]\nnow = time.time()\n")
    monkeypatch.syspath_prepend(library)
    project = tmp_path / "project"
    project.mkdir()
    assert list(of(project, "purity_library.text.upper()", "import purity_library").steps) == ["unit"]
    del sys.modules["purity_library"]


def test_after_it_all_is_as_before(tmp_path: Path) -> None:
    of(tmp_path, "pass")
    assert sys.getprofile() is None
    assert (tmp_path / "ship.py").stat().st_size


def test_what_the_interpreter_calls_by_itself_is_not_the_users_doing(tmp_path: Path) -> None:
    """Whoever measures garbage collection asks the clock, at whatever line the interpreter collects."""
    seen: list[float] = []

    def measure(phase: str, info: dict[str, int]) -> None:
        seen.append(time.perf_counter())

    gc.callbacks.append(measure)
    try:
        graph = of(tmp_path, "[[i] for i in range(100_000)]")
        gc.collect()
    finally:
        gc.callbacks.remove(measure)

    assert list(graph.steps) == ["unit"]
    assert seen
    assert gc.isenabled()
