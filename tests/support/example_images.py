"""Images under the names that the Kubernetes documentation's examples use, built by our own builder of Debian's and PyPI's
packages: where nothing can be pulled, the content store answers for every registry.

nginx, redis, perl, python, busybox and ZooKeeper are the real programs. What the documentation's images add to them (the guestbook's
page, a worker that takes items off a list, the script that starts an ensemble) is written here for the purpose.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable
from pathlib import Path

from trimtab.content import ContentStore, ImageSpec, build
from trimtab.content.layout import export_directory, import_directory
from trimtab.content.reference import parse_reference

SHELL = {"/usr/bin/sh": "dash"}

BUSYBOX_APPLETS = "cat date echo false grep head hostname httpd id ls mkdir nc nslookup printf ps rev rm sed seq sh sleep tail tee timeout touch true wc wget"

ENTRYPOINT = """#!/bin/sh
# A configuration file or options alone are for redis-server, as in the image of that name.
case "$1" in
  ""|-*|*.conf) set -- redis-server "$@" ;;
esac
[ "$1" = redis-server ] && set -- "$@" --protected-mode no
exec "$@"
"""

FOLLOW = """#!/bin/sh
exec redis-server --protected-mode no --replicaof redis-leader 6379
"""

NGINX = """daemon off;
error_log /dev/stderr;
pid /tmp/nginx.pid;
events {}
http {
  include /etc/nginx/mime.types;
  access_log /dev/stdout;
  server { listen 80; root /usr/share/nginx/html; index index.html; }
}
"""

REDIS_PROTOCOL = """import socket


class Redis:
    def __init__(self, host, port=6379):
        self.file = socket.create_connection((host, port), 5).makefile("rwb")

    def __call__(self, *words):
        parts = [b"*%d" % len(words)]
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode()
            parts += [b"$%d" % len(data), data]
        self.file.write(b"\\r\\n".join(parts) + b"\\r\\n")
        self.file.flush()
        return self._answer()

    def _answer(self):
        line = self.file.readline().rstrip()
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b"*":
            return None if rest == b"-1" else [self._answer() for _ in range(int(rest))]
        if kind == b"$":
            if rest == b"-1":
                return None
            data = self.file.read(int(rest) + 2)
            return data[:-2]
        return rest
"""

GUESTBOOK = """#!/usr/bin/python3
# The guestbook's page: entries are written to the leader and read from the followers.
import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

sys.path.insert(0, "/usr/lib/guestbook")
from redis_protocol import Redis


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = parse_qs(urlsplit(self.path).query)
        if asked.get("cmd") == ["set"]:
            said = Redis("redis-leader")("SET", asked["key"][0], asked["value"][0])
        elif asked.get("cmd") == ["get"]:
            said = Redis("redis-follower")("GET", asked["key"][0]) or b""
        else:
            said = b"Guestbook on " + os.environ["HOSTNAME"].encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(said)


ThreadingHTTPServer(("", 80), Page).serve_forever()
"""

WORKER = """#!/usr/bin/python3
# Takes items off a list until it is empty. An item is on a second list while it is worked on.
import sys

sys.path.insert(0, "/usr/lib/guestbook")
from redis_protocol import Redis

queue = Redis("redis")
while (item := queue("RPOPLPUSH", "job2", "job2:processing")) is not None:
    print("Working on", item.decode(), flush=True)
    queue("LREM", "job2:processing", 1, item)
    queue("INCR", "job2:done")
print("Queue empty, exiting", flush=True)
"""

COMPUTE = """#!/usr/bin/python3
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        x = 0.0001
        for _ in range(1000000):
            x += x ** 0.5
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"OK!")


ThreadingHTTPServer(("", 80), Page).serve_forever()
"""

START_ZOOKEEPER = """#!/bin/bash
# An ensemble of the StatefulSet that this pod is of: server N+1 is pod N, by its name behind the headless service.
set -e
for option in "$@"; do name=${option#--}; declare "${name%%=*}=${name#*=}"; done
host=$(hostname); base=${host%-*}; number=${host##*-}; domain=$(hostname -d)
mkdir -p "$data_dir" "$data_log_dir"
echo $((number + 1)) > "$data_dir/myid"
{
  echo "tickTime=$tick_time"; echo "initLimit=$init_limit"; echo "syncLimit=$sync_limit"
  echo "dataDir=$data_dir"; echo "dataLogDir=$data_log_dir"; echo "clientPort=$client_port"
  echo "maxClientCnxns=$max_client_cnxns"; echo "4lw.commands.whitelist=*"; echo "admin.enableServer=false"
  echo "quorumListenOnAllIPs=true"
  for ((i = 0; i < servers; i++)); do echo "server.$((i + 1))=$base-$i.$domain:$server_port:$election_port"; done
} > /tmp/zoo.cfg
exec java "-Xmx$heap" -cp "/usr/share/java/*:/etc/zookeeper/conf" org.apache.zookeeper.server.quorum.QuorumPeerMain /tmp/zoo.cfg
"""

ZOOKEEPER_READY = """#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/$1 && printf ruok >&3 && [ "$(cat <&3)" = imok ]
"""

ZKCLI = """#!/bin/bash
exec java -cp "/usr/share/java/*:/etc/zookeeper/conf" org.apache.zookeeper.ZooKeeperMain -server 127.0.0.1:2181 "$@"
"""

LIBRARY = {"/usr/lib/guestbook/redis_protocol.py": REDIS_PROTOCOL}


def specs() -> dict[str, tuple[ImageSpec, tuple[str, ...]]]:
    """What can be asked for: the image, and the names under which examples know it."""
    redis = {"debian": ["redis-server", "redis-tools", "dash", "coreutils"], "links": SHELL}
    return {
        "busybox": (
            ImageSpec(
                name="examples/busybox",
                debian=["busybox"],
                links={f"/usr/bin/{name}": "busybox" for name in BUSYBOX_APPLETS.split()},
                cmd=["sh"],
            ),
            ("busybox", "busybox:1.28", "registry.k8s.io/busybox:1.27.2"),
        ),
        "bash": (
            ImageSpec(name="examples/bash", debian=["bash", "coreutils"], links={"/usr/bin/sh": "bash"}, cmd=["bash"]),
            ("bash", "bash:5"),
        ),
        "nginx": (
            ImageSpec(
                name="examples/nginx",
                debian=["nginx-light", "dash", "coreutils", "hostname"],
                inline={
                    "/etc/nginx/nginx.conf": NGINX,
                    "/usr/share/nginx/html/index.html": "<h1>Welcome to nginx!</h1>\n",
                },
                links=SHELL,
                cmd=["nginx"],
            ),
            (
                "nginx",
                "nginx:1.14.2",
                "nginx:1.16.1",
                "registry.k8s.io/nginx-slim:0.7",
                "registry.k8s.io/nginx-slim:0.8",
            ),
        ),
        "redis": (
            ImageSpec(
                name="examples/redis",
                inline={"/usr/local/bin/docker-entrypoint.sh": ENTRYPOINT},
                entrypoint=["/usr/local/bin/docker-entrypoint.sh"],
                cmd=["redis-server"],
                **redis,
            ),
            ("redis", "redis:5", "redis:6.0.5", "docker.io/redis:6.0.5"),
        ),
        "follower": (
            ImageSpec(
                name="examples/follower",
                inline={"/usr/local/bin/run.sh": FOLLOW},
                cmd=["/usr/local/bin/run.sh"],
                **redis,
            ),
            ("us-docker.pkg.dev/google-samples/containers/gke/gb-redis-follower:v2",),
        ),
        "frontend": (
            ImageSpec(
                name="examples/frontend",
                python=[],
                user="root",
                inline={"/usr/bin/guestbook": GUESTBOOK, **LIBRARY},
                cmd=["/usr/bin/guestbook"],
            ),
            ("docker.io/corelab/gb-frontend:v5",),
        ),
        "worker": (
            ImageSpec(
                name="examples/worker",
                python=[],
                inline={"/usr/bin/worker": WORKER, **LIBRARY},
                cmd=["/usr/bin/worker"],
            ),
            ("gcr.io/myproject/job-wq-2",),
        ),
        "python": (ImageSpec(name="examples/python", python=[], cmd=["python3"]), ("python",)),
        "perl": (ImageSpec(name="examples/perl", debian=["perl", "perl-base"], cmd=["perl"]), ("perl", "perl:5.34.0")),
        "logs": (
            ImageSpec(
                name="examples/logs",
                debian=["busybox"],
                cmd=[
                    "/usr/bin/busybox",
                    "sh",
                    "-c",
                    "busybox ls /var/log | busybox head -n 3; exec busybox sleep 1000000",
                ],
            ),
            ("k8s.gcr.io/fluentd-elasticsearch:1.20",),
        ),
        "compute": (
            ImageSpec(
                name="examples/compute",
                python=[],
                user="root",
                inline={"/usr/bin/compute": COMPUTE},
                cmd=["/usr/bin/compute"],
            ),
            ("registry.k8s.io/hpa-example",),
        ),
        "zookeeper": (
            ImageSpec(
                name="examples/zookeeper",
                debian=["libzookeeper-java", "openjdk-17-jre-headless", "bash", "coreutils", "hostname", "dash"],
                inline={
                    "/usr/bin/start-zookeeper": START_ZOOKEEPER,
                    "/usr/bin/zookeeper-ready": ZOOKEEPER_READY,
                    "/usr/bin/zkCli.sh": ZKCLI,
                },
                links={**SHELL, "/usr/bin/java": "/usr/lib/jvm/java-17-openjdk-amd64/bin/java"},
            ),
            ("registry.k8s.io/kubernetes-zookeeper:1.0-3.4.10",),
        ),
    }


def provide(store: ContentStore, wanted: Iterable[str], workshop: Path) -> None:
    """Builds these images in a store of our own, as a user would on another machine, and brings each into `store` under every
    name it has in the examples."""
    known = specs()
    own = ContentStore(workshop)

    async def one(name: str) -> None:
        spec, names = known[name]
        built = await build(spec, own)
        with tempfile.TemporaryDirectory() as folder:
            export_directory(own, built.digest, built.ref, Path(folder) / "image")
            import_directory(store, Path(folder) / "image")
        for each in names:
            store.tag(parse_reference(each).tagged, built.digest)

    async def all_of_them() -> None:
        for name in wanted:
            await one(name)

    asyncio.run(all_of_them())
