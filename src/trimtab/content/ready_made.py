"""Images that Trimtab itself needs: PostgreSQL for apps, the pause program for pods, tools to look into them."""

from __future__ import annotations

from importlib import resources

from trimtab.content import oci
from trimtab.content.digest import parse_digest
from trimtab.content.errors import BadSpec
from trimtab.content.executable import pause_executable
from trimtab.content.spec import LOCAL_REGISTRY, ImageSpec
from trimtab.content.store import ContentStore
from trimtab.content.tarwriter import LayerWriter

POSTGRES_UID = 999
POSTGRES_VOLUME = "/var/lib/postgresql/data"
"""Where the volume belongs. The cluster is in the directory `pgdata` of it."""
_POSTGRES_VERSIONS = ("15",)
PAUSE = f"{LOCAL_REGISTRY}/pause:1"


def postgres_image(version: str = "15", *, name: str | None = None) -> ImageSpec:
    """PostgreSQL from Debian, with an entrypoint that makes the cluster once.

    The container takes `POSTGRES_PASSWORD` or `POSTGRES_PASSWORD_FILE`, `POSTGRES_USER` (postgres), `POSTGRES_DB` (the
    user's name), as the well-known image does; arguments go to the server. Ready when
    `pg_isready -q -h 127.0.0.1` says so. It runs as 999:999; started as root it takes the volume over and drops to 999.
    Stop it with SIGINT (fast shutdown), which the image declares. Left out: just-in-time compilation (LLVM), Perl.
    """
    if version not in _POSTGRES_VERSIONS:
        raise BadSpec(f"PostgreSQL {version} is not in Debian 12; it has {', '.join(_POSTGRES_VERSIONS)}")
    binaries = f"/usr/lib/postgresql/{version}"
    return ImageSpec(
        name=name or f"postgres-{version}",
        debian=[f"postgresql-{version}", f"postgresql-client-{version}", "coreutils", "dash", "libc-bin", "tzdata"],
        omit=[
            "debianutils",
            "libjson-perl",
            "libllvm14",
            "libz3-4",
            "locales",
            "netbase",
            "openssl",
            "perl",
            "perl-base",
            "postgresql-client-common",
            "postgresql-common",
            "readline-common",
            "ssl-cert",
        ],
        exclude=[f"{binaries}/lib/bitcode/*", f"{binaries}/lib/llvmjit*"],
        inline={"/usr/local/bin/postgres-entrypoint": resources.files(__package__).joinpath("postgres.sh").read_text()},
        writable=["/var/lib/postgresql", POSTGRES_VOLUME, "/run/postgresql"],
        env={
            "PATH": f"/usr/local/bin:{binaries}/bin:/usr/sbin:/usr/bin",
            "PGDATA": f"{POSTGRES_VOLUME}/pgdata",
            "LANG": "C.UTF-8",
        },
        user="postgres",
        uid=POSTGRES_UID,
        workdir="/var/lib/postgresql",
        entrypoint=["/usr/local/bin/postgres-entrypoint"],
        cmd=[],
        ports=[5432],
        stop_signal="SIGINT",
    )


def tools_image() -> ImageSpec:
    """A shell and what one looks into containers with: processes, files, sockets, names, packets, system calls."""
    return ImageSpec(
        name="tools",
        debian=[
            "bash",
            "bind9-dnsutils",
            "coreutils",
            "curl",
            "dash",
            "findutils",
            "grep",
            "iproute2",
            "iputils-ping",
            "less",
            "libc-bin",
            "lsof",
            "mawk",
            "ncurses-bin",
            "netcat-openbsd",
            "procps",
            "sed",
            "strace",
            "tar",
            "tcpdump",
            "util-linux",
            "vim-tiny",
        ],
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        cmd=["/bin/bash"],
    )


def pause_image(store: ContentStore) -> str:
    """Makes the pause image for every platform, tags it `trimtab.local/pause:1`, and returns its reference by digest.

    Takes milliseconds; the digest never changes. The node's sandbox image.
    """
    manifests: list[oci.Descriptor] = []
    for architecture in ("amd64", "arm64"):
        with store.ingest() as ingest:
            writer = LayerWriter(ingest)
            writer.file("pause", pause_executable(architecture), mode=0o755)
            layer = writer.finish()
        config = oci.Config(
            architecture=architecture,
            os="linux",
            config=oci.Runtime(user="65534:65534", entrypoint=["/pause"]),
            rootfs=oci.RootFs(type="layers", diff_ids=[layer.diff_id]),
        )
        manifest = oci.Manifest(
            schema_version=2,
            media_type=oci.MANIFEST,
            config=oci.put_document(store, config),
            layers=[oci.Descriptor(media_type=oci.LAYER, digest=layer.digest, size=layer.size)],
        )
        one = oci.put_document(store, manifest)
        platform = oci.Platform(architecture=architecture)
        manifests.append(oci.Descriptor(media_type=one.media_type, digest=one.digest, size=one.size, platform=platform))
    index = oci.put_document(store, oci.Index(schema_version=2, media_type=oci.INDEX, manifests=manifests))
    store.tag(PAUSE, parse_digest(index.digest))
    return f"{LOCAL_REGISTRY}/pause@{index.digest}"
