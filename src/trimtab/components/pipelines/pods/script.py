"""What runs in the pod of a step: three small programs for a static busybox, which the step's image does not know of.

    AGENT    pid 1 of the step's container: takes orders on its input, tells of them on its standard error, dies with its input
    step     the commands, one after the other, with nothing of the pod in their environment; a service has one command
    take     what they left, as an archive or as it is

The agent's input is the runner's connection: when that ends, however it does, the container ends, and the pod and its Job with it. What
commands print, both streams, goes to the standard output; its end is marked, since the two streams of a container have no order.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.ci.runs.ports import Job
from trimtab.ci.sandbox.rootfs import PATH
from trimtab.content.oci import Runtime

JSON = dict[str, Any]

HOME = "/.trimtab"
TOOL = f"{HOME}/busybox"
STEP, TAKE, GO = f"{HOME}/step", f"{HOME}/take", f"{HOME}/go"
FIRST_ORDER_S = 120
"""How long a container waits for whoever made it."""
OPEN_TRIES = 20
"""How often, half a second apart, the network is found open until that is believed: policies come a moment after the pod."""
PEER_PORT = 7007
REPORT_BYTES_MAX = 64 << 20
MISSING, NO_FILE = 44, 45
"""How `take` ends when there is nothing, or neither a file nor a directory."""

AGENT = f"""\
T={TOOL}
check() {{
  n=0
  while $T nc -w 1 "$1" {PEER_PORT} -e $T true </dev/null >/dev/null 2>&1; do
    n=$((n+1)); [ $n -lt {OPEN_TRIES} ] || {{ echo open >&2; return; }}
    $T usleep 500000
  done
  echo closed >&2
}}
order() {{
  case $1 in check) check "$2" </dev/null & ;; go) $T sh {STEP} 3>&2 2>&1 </dev/null & ;; esac
}}
trap 'kill -9 -1; exit 1' TERM
read -t {FIRST_ORDER_S} -r word rest || exit 1
order "$word" "$rest"
while read -r word rest; do order "$word" "$rest"; done
kill -9 -1
exit 1
"""

PEER = f"exec {TOOL} nc -ll -p {PEER_PORT} -e {TOOL} true"
"""What the pod runs that a step must not reach."""
SERVICE = f"{TOOL} mkfifo {GO} && read -r word <{GO} && exec {TOOL} sh {STEP} 3>/dev/null"

_COMMON = f"""\
T={TOOL}
refuse() {{ printf 'refused %s\\n' "$1" >&3; exit 125; }}
numbers() {{ case $1 in ''|*[!0-9]*) return 1;; esac; }}
account() {{
  user=${{1%%:*}} group= U= G=0 H=/
  case $1 in *:*) group=${{1#*:}};; esac
  [ "$user" = 0 ] && H=/root
  if [ -r /etc/passwd ]; then
    while IFS=: read -r n _ u g _ h _; do
      if [ "$n" = "$user" ] || [ "$u" = "$user" ]; then U=$u G=$g H=${{h:-/}}; break; fi
    done </etc/passwd
  fi
  if [ -z "$U" ]; then
    numbers "$user" || refuse "the image has no user '$user' in /etc/passwd; name one that it has, or a number"
    U=$user
    [ "$U" = 0 ] || printf 'u%s:x:%s:%s::%s:/bin/sh\\n' "$U" "$U" "$G" "$H" >>/etc/passwd
  fi
  if numbers "$group"; then G=$group
  elif [ -n "$group" ]; then
    found=
    [ -r /etc/group ] && while IFS=: read -r n _ g _; do
      if [ "$n" = "$group" ]; then found=$g; break; fi
    done </etc/group
    [ -n "$found" ] || refuse "the image has no group '$group' in /etc/group; name one that it has, or a number"
    G=$found
  fi
}}
own() {{ [ "$U:$G" = 0:0 ] || $T chown "$U:$G" "$@"; }}
place() {{ $T mkdir -p "$1"; [ "$1" = / ] || own "$1"; }}
program() {{
  P=
  case $1 in */*) P=$1; return;; esac
  IFS=:
  for d in $2; do
    if [ -f "$d/$1" ] && [ -x "$d/$1" ]; then P=$d/$1; break; fi
  done
  unset IFS
  [ -n "$P" ] || {{ echo "$1: not found in $2"; exit 127; }}
}}
as() {{
  [ "$U:$G" = 0:0 ] && exec $T env -i "$@"
  exec $T start-stop-daemon -S -q -p {HOME}/none -c "$U:$G" -x $T -- env -i "$@"
}}
"""

_STEP = f"""\
others() {{
  LEFT=
  for p in /proc/[0-9]*; do
    p=${{p#/proc/}}
    [ "$p" = 1 ] || [ "$p" = "$$" ] && continue
    line= name=
    read -r line </proc/$p/cmdline
    [ -n "$line" ] || continue
    read -r name </proc/$p/comm
    LEFT="$LEFT $name"
  done 2>/dev/null
  [ -n "$LEFT" ]
}}
after() {{
  if others && $T usleep 200000 && others; then kill -9 -1; fi
  printf 'ended %s %s%s\\n' "$1" "$2" "$LEFT" >&3
  [ "$2" = 0 ] || finish
}}
number() {{ n=0; [ -r "$1" ] && read -r n <"$1"; printf %s "${{n:-0}}"; }}
finish() {{
  times >{HOME}/times
  {{ read -r _; read -r user system; }} <{HOME}/times
  rss=$(number /sys/fs/cgroup/memory.peak)
  [ "$rss" = 0 ] && rss=$(number /sys/fs/cgroup/memory/memory.max_usage_in_bytes)
  ooms=0
  for f in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
    [ -r $f ] && while read -r name value; do [ "$name" = oom_kill ] && ooms=$value; done <$f
  done
  printf 'usage %s %s %s %s\\n' "$user" "$system" "$rss" "$ooms" >&3
  echo done >&3
  printf '\\000%s\\000' "$MARK"
  exit 0
}}
"""

TAKE_PROGRAM = f"""\
T={TOOL}
real=$($T readlink -f "$2") && [ -e "$real" ] || exit {MISSING}
if [ "$1" = report ]; then
  [ -f "$real" ] || exit {MISSING}
  exec $T head -c {REPORT_BYTES_MAX + 1} "$real"
fi
if [ -d "$real" ]; then cd "$real" && exec $T tar -c -f - .; fi
[ -f "$real" ] || exit {NO_FILE}
cd "${{real%/*}}/" && exec $T tar -c -f - "./${{real##*/}}"
"""


def step(job: Job, image: Runtime, secrets: Mapping[str, str], mark: str, own: Sequence[str]) -> str:
    """The program of a step. secrets: by variable the one of the container in which its value is. own: paths that are to be the user's."""
    cwd, user = _cwd(job, image), job.action.get("user") or image.user or "0"
    lines = [_COMMON + _STEP, f"MARK={shlex.quote(mark)}", f"account {shlex.quote(user)}"]
    if own:
        lines += [f"own -R {' '.join(map(shlex.quote, own))}"]
    for number, run in enumerate(job.action["runs"]):
        where = run.get("cwd", "") or cwd
        lines += [
            f"account {shlex.quote(run.get('user') or user)}",
            f"place {shlex.quote(where)}",
            f"printf 'started {number}\\n' >&3",
            f"( exec 3>&-; {_command(run['argv'], where, _env(job, image, run.get('env')), secrets)} )",
            f"after {number} $?",
        ]
    return "\n".join([*lines, "finish", ""])


def service(job: Job, image: Runtime, argv: Sequence[str], secrets: Mapping[str, str], own: Sequence[str]) -> str:
    """The program of a service, which becomes its command."""
    cwd, user = _cwd(job, image), job.action.get("user") or image.user or "0"
    return "\n".join(
        [
            f"{_COMMON}account {shlex.quote(user)}",
            *([f"own -R {' '.join(map(shlex.quote, own))}"] if own else []),
            f"place {shlex.quote(cwd)}",
            f"exec 3>&-; {_command(argv, cwd, _env(job, image, None), secrets)}",
            "",
        ]
    )


def _cwd(job: Job, image: Runtime) -> str:
    said = str(job.action.get("cwd", "/"))
    return said if said != "/" else image.working_dir or "/"


def _env(job: Job, image: Runtime, more: Mapping[str, str] | None) -> dict[str, str]:
    said = dict(variable.partition("=")[::2] for variable in image.env)
    return {"PATH": PATH, **said, **job.action.get("env", {}), **(more or {})}


def _command(argv: Sequence[str], cwd: str, env: Mapping[str, str], secrets: Mapping[str, str]) -> str:
    words = [shlex.quote(f"{name}={value}") for name, value in env.items() if name not in secrets]
    words += [f'{shlex.quote(f"{name}=")}"${of}"' for name, of in secrets.items()]
    return " ".join(
        [
            f"cd {shlex.quote(cwd)} || exit 126;",
            f"program {shlex.quote(argv[0])} {shlex.quote(env['PATH'])};",
            'as "HOME=$H"',
            *words,
            '"$P"',
            *map(shlex.quote, argv[1:]),
        ]
    )
