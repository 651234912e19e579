"""The images that Kubernetes' own tests run, under the names they ask for: agnhost and pause are the real programs, built from
the same module as the tests, busybox and nginx are Debian's.

`programs` is the directory that `.ci/conformance-programs` made.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from trimtab.content import ContentStore, ImageSpec, build
from trimtab.content.layout import export_directory, import_directory
from trimtab.content.reference import parse_reference

REGISTRY = "registry.k8s.io/e2e-test-images"

APPLETS = [
    "[",
    "awk",
    "base64",
    "basename",
    "cat",
    "chgrp",
    "chmod",
    "chown",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "dirname",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "free",
    "grep",
    "head",
    "hexdump",
    "hostname",
    "httpd",
    "id",
    "ifconfig",
    "ip",
    "kill",
    "killall",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mknod",
    "mktemp",
    "mount",
    "mv",
    "nc",
    "netstat",
    "nohup",
    "nproc",
    "nslookup",
    "od",
    "ping",
    "pidof",
    "pkill",
    "printenv",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "realpath",
    "rm",
    "rmdir",
    "route",
    "sed",
    "seq",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "sync",
    "sysctl",
    "tail",
    "tar",
    "tee",
    "telnet",
    "test",
    "time",
    "timeout",
    "top",
    "touch",
    "tr",
    "traceroute",
    "true",
    "tty",
    "umount",
    "uname",
    "uniq",
    "uptime",
    "usleep",
    "vi",
    "wc",
    "wget",
    "which",
    "whoami",
    "xargs",
    "yes",
]

# The users of the image that the tests ask after by name.
PASSWD = """root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/sbin/nologin
user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh
"""
GROUP = """root:x:0:
nogroup:x:65534:
user-defined-in-image:x:1000:
group-defined-in-image:x:50000:user-defined-in-image
"""

NGINX = """daemon off;
error_log /dev/stderr;
pid /tmp/nginx.pid;
events {}
http {
  include /etc/nginx/mime.types;
  access_log /dev/stdout;
  server { listen 80; listen [::]:80; root /usr/share/nginx/html; index index.html; }
}
"""
NGINX_PAGE = "<html><head><title>Welcome to nginx!</title></head><body><h1>Welcome to nginx!</h1></body></html>\n"

SHELL = {f"/usr/bin/{name}": "busybox" for name in APPLETS}


def specs() -> list[tuple[ImageSpec, tuple[str, ...]]]:
    """Each image, and the names under which tests ask for it."""
    own = {name: program for name, program in SHELL.items() if name not in ("/usr/bin/nc", "/usr/bin/nslookup")}
    agnhost = ImageSpec(
        name="conformance/agnhost",
        debian=["busybox", "bash", "bind9-dnsutils", "curl", "iproute2", "iperf", "libc-bin", "netcat-openbsd"],
        files={"/agnhost": "agnhost", "/localhost.crt": "localhost.crt", "/localhost.key": "localhost.key"},
        inline={"/etc/passwd": PASSWD, "/etc/group": GROUP, "/uploads/.keep": ""},
        links={**own, "/usr/bin/nc": "nc.openbsd", "/agnhost-2": "agnhost"},
        entrypoint=["/agnhost"],
        cmd=["pause"],
    )
    nginx = ImageSpec(
        name="conformance/nginx",
        debian=["busybox", "nginx-light"],
        inline={"/etc/nginx/nginx.conf": NGINX, "/usr/share/nginx/html/index.html": NGINX_PAGE},
        links=SHELL,
        cmd=["nginx"],
    )
    # Debian's busybox has a shell that drops variables whose names are no identifiers, which upstream's keeps, and bash.
    busybox = ImageSpec(
        name="conformance/busybox", debian=["busybox", "bash"], links={**SHELL, "/usr/bin/sh": "bash"}, cmd=["sh"]
    )
    return [
        (agnhost, (f"{REGISTRY}/agnhost:2.63.0", f"{REGISTRY}/agnhost:2.55")),
        (nginx, (f"{REGISTRY}/nginx:1.15-4", f"{REGISTRY}/nginx:1.27-0")),
        (busybox, (f"{REGISTRY}/busybox:1.37.0-1",)),
        (
            ImageSpec(name="conformance/nonroot", debian=["busybox"], links=SHELL, user="1234", cmd=["sh"]),
            (f"{REGISTRY}/nonroot:1.5",),
        ),
        (
            ImageSpec(
                name="conformance/pause",
                files={"/pause": "agnhost"},
                entrypoint=["/pause"],
                cmd=["pause"],
                user="65535",
            ),
            ("registry.k8s.io/pause:3.10.2",),
        ),
        (
            ImageSpec(
                name="conformance/dns",
                debian=["bash", "bind9-dnsutils", "coreutils", "grep", "hostname", "libc-bin", "mawk", "sed"],
                links={"/usr/bin/sh": "bash", "/usr/bin/awk": "mawk"},
                cmd=["bash"],
            ),
            (f"{REGISTRY}/glibc-dns-testing:2.0.0",),
        ),
        *(
            (
                ImageSpec(
                    name=f"conformance/{animal}",
                    files={"/agnhost": "agnhost", f"/{animal}.jpg": f"{animal}.jpg", "/data.json": f"{animal}.json"},
                    entrypoint=["/agnhost"],
                    cmd=["test-webserver"],
                ),
                (f"{REGISTRY}/{animal}:1.8",),
            )
            for animal in ("nautilus", "kitten")
        ),
    ]


def provide(store: ContentStore, programs: Path, workshop: Path) -> None:
    """Builds the images in a store of our own at `workshop`, and brings them into `store` under every name that tests use."""
    own = ContentStore(workshop / "content")
    context = workshop / "context"
    context.mkdir(exist_ok=True)
    for name in (
        "agnhost",
        "localhost.crt",
        "localhost.key",
        "nautilus.jpg",
        "nautilus.json",
        "kitten.jpg",
        "kitten.json",
    ):
        shutil.copy(programs / name, context / name)

    async def all_of_them() -> None:
        for spec, names in specs():
            built = await build(spec, own, context=context)
            with tempfile.TemporaryDirectory() as folder:
                export_directory(own, built.digest, built.ref, Path(folder) / "image")
                import_directory(store, Path(folder) / "image")
            for each in names:
                store.tag(parse_reference(each).tagged, built.digest)

    asyncio.run(all_of_them())
