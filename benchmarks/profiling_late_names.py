"""PostgreSQL with its debug information, built of the distribution's source: what the long test of names by debuginfod runs.

    python benchmarks/profiling_late_names.py [DIRECTORY]

Debian keeps the debug information of its own build in an archive that is not everywhere in reach. So the source of postgresql-15 is
fetched by `apt-get source`, and built with `-O2 -g` and a build id (a few minutes). Then the proof: stripped, under pgbench, named late.
Needs gcc, make, objcopy, debuginfod, and a user `postgres`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "postgresql-15"
SUITE = "bookworm"
TEST = Path(__file__).parents[1] / "tests" / "integration" / "profiling" / "test_profiling_postgres_named.py"


def build(into: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="postgresql-") as directory:
        source = fetched(Path(directory))
        flags = ["CFLAGS=-O2 -g", "LDFLAGS=-Wl,--build-id=sha1"]
        leave = ["--without-readline", "--without-zlib", "--without-icu"]
        run(source, "./configure", "-q", f"--prefix={into}", *leave, *flags)
        run(source, "make", "-s", f"-j{os.cpu_count()}")
        run(source, "make", "-s", "install")


def fetched(directory: Path) -> Path:
    """The source, by lists of its own: the machine's may have none of sources."""
    (directory / "lists" / "partial").mkdir(parents=True)
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (directory / "sources").write_text(f"deb-src [signed-by={key}] http://deb.debian.org/debian {SUITE} main\n")
    places = {"Etc::sourcelist": "sources", "State::lists": "lists", "Cache": "."}
    options = [part for name, place in places.items() for part in ("-o", f"Dir::{name}={directory / place}")]
    options += ["-o", "Dir::Etc::sourceparts=-", "-o", "APT::Sandbox::User=root"]
    run(directory, "apt-get", *options, "-qq", "update")
    run(directory, "apt-get", *options, "-qq", "source", "--download-only", PACKAGE)
    (archive,) = directory.glob(f"{PACKAGE}_*.orig.tar.*")
    (directory / "source").mkdir()
    run(directory, "tar", "xf", str(archive), "-C", "source", "--strip-components=1")
    return directory / "source"


def run(directory: Path, *command: str) -> None:
    subprocess.run(["nice", "-n", "10", *command], cwd=directory, check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, nargs="?", default=Path("/var/cache/trimtab-tests/postgresql"))
    directory = parser.parse_args().directory.absolute()
    if not (directory / "bin" / "postgres").exists():
        build(directory)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-m", "long", "-p", "no:cacheprovider", str(TEST)]
    return subprocess.run(command, env=os.environ | {"TRIMTAB_POSTGRES": str(directory)}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
