"""What is said when a command could not be started in a container: the lines of runc that a user would otherwise read."""

from __future__ import annotations

import pytest

from trimtab.components.node.execute import why_not_started

RUNC = "OCI runtime exec failed: exec failed: unable to start container process: {}: unknown"


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ('exec: "bash": executable file not found in $PATH',
         'container "web" of pod "shop-1" has no "bash" in its $PATH; `trimtab debug shop-1` opens a shell with tools beside it'),
        ('exec: "/nope/x": stat /nope/x: no such file or directory',
         'container "web" of pod "shop-1" has no /nope/x; `trimtab debug shop-1` opens a shell with tools beside it'),
        ('exec: "/etc/passwd": permission denied',
         'container "web" of pod "shop-1": /etc/passwd is no file that its user may execute'),
        ('exec: "/srv": is a directory', 'container "web" of pod "shop-1": /srv is no file that its user may execute'),
        ("exec /srv/run: exec format error",
         'container "web" of pod "shop-1": /srv/run is no program for this machine\'s processor, or a script that does not begin with #!'),
        ("exec /srv/run: no such file or directory",
         'container "web" of pod "shop-1": /srv/run is there, but the interpreter or loader that it asks for is not'),
        ("something else", 'container "web" of pod "shop-1": the command could not be started: something else'),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_in_one_line(said: str, line: str) -> None:
    assert why_not_started(RUNC.format(said), "web", "shop-1") == line
