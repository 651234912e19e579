"""`trimtab start --enable`: the engine as a systemd service.

systemd is then the guardian (`Restart=always`), and `KillMode=process` lets the other processes go on when the supervisor
is killed, so that its successor adopts them. `systemctl stop`, `trimtab stop` and a shutdown stop everything in order.

systemd runs `ExecStop` also when the main process ended by itself (systemd.service(5)), without a MAINPID then. So the command is
told the pid, and does nothing without: the pods of a supervisor that was killed, or replaced by an upgrade, must go on.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from trimtab.engine.datadir import DEFAULT_DATA
from trimtab.engine.errors import EngineError
from trimtab.engine.lifecycle import Options

UNITS = Path("/etc/systemd/system")
_FLAGS = {
    "api_port": "--port",
    "http_port": "--http-port",
    "https_port": "--https-port",
    "web_port": "--web-port",
    "listen": "--listen",
    "cluster_domain": "--cluster-domain",
}


def unit_name(data: Path) -> str:
    """`trimtab.service` for the default data directory, else one with a hash of the path."""
    if data == DEFAULT_DATA:
        return "trimtab.service"
    return f"trimtab-{hashlib.sha256(str(data).encode()).hexdigest()[:8]}.service"


def unit_text(data: Path, options: Options) -> str:
    """The unit file. Settings that the user named are written into engine.json by the first start already."""
    flags = [f"{_FLAGS[name]} {value}" for name, value in options.chosen.items() if name in _FLAGS]
    if "proxy_protocol" in options.chosen:
        flags.append("--proxy-protocol" if options.chosen["proxy_protocol"] else "--no-proxy-protocol")
    if not options.node:
        flags.append("--no-node")
    command = f"{sys.executable} -m trimtab.cli --data {_quoted(data)}"
    return f"""\
[Unit]
Description=Trimtab engine at {str(data).replace("%", "%%")}
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart={" ".join([command, "start --foreground", *flags])}
ExecStop={command} stop --main-pid "${{MAINPID}}"
Restart=always
RestartSec=100ms
KillMode=process
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576
TimeoutStopSec=220

[Install]
WantedBy=multi-user.target
"""


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def enable(data: Path, options: Options) -> list[str]:
    """Installs the unit, enables it and starts it; returns what was done, one line each.

    Raises:
        EngineError: there is no systemd here, or it refused.
    """
    if not Path("/run/systemd/system").is_dir():
        raise EngineError("there is no systemd on this machine: start the engine at boot by your init's own means")
    name = unit_name(data)
    (UNITS / name).write_text(unit_text(data, options))
    for arguments in (["daemon-reload"], ["enable", "--quiet", name], ["start", name]):
        _systemctl(*arguments)
    return [f"enabled {name}: the engine starts at boot"]


def runs(data: Path) -> bool:
    """Whether systemd keeps the engine at `data` running: what ends by itself is started again."""
    name = unit_name(data)
    if not (UNITS / name).exists() or not Path("/run/systemd/system").is_dir():
        return False
    return subprocess.run(["systemctl", "is-active", "--quiet", name], check=False).returncode == 0


def stop(data: Path) -> None:
    """Has systemd stop the engine, and waits for it; it starts again at the next boot.

    Raises:
        EngineError: systemd refused.
    """
    _systemctl("stop", unit_name(data))


def disable(data: Path) -> bool:
    """Removes the unit, if there is one; returns whether there was."""
    path = UNITS / unit_name(data)
    if not path.exists():
        return False
    if Path("/run/systemd/system").is_dir():
        _systemctl("disable", "--now", "--quiet", path.name)
    path.unlink()
    if Path("/run/systemd/system").is_dir():
        _systemctl("daemon-reload")
    return True


def _systemctl(*arguments: str) -> None:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise EngineError(f"systemctl {' '.join(arguments)} failed: {said}")
