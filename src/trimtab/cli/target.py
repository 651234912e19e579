"""Which API a command talks to: the engine at `--data`, or the cluster of a kubeconfig."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.engine.errors import EngineError, NotRunning

if TYPE_CHECKING:
    from trimtab.client import HttpTransport, SocketTransport, WireClient
    from trimtab.client.kubeconfig import ClusterAccess
    from trimtab.runtime.settings import Settings

MANAGER = "trimtab-cli"
"""The field manager of what a user applies by this command."""
BUILDER = "nobody"
"""Who builds images for another cluster when root asks: root's own files are none of a build's business."""


@dataclass
class Target:
    """What the global options named."""

    data: Path
    kubeconfig: Path | None = None
    context: str | None = None
    state: Path | None = None
    """Of another cluster: the directory of its `trimtab run`, when a command named it."""

    @property
    def is_embedded(self) -> bool:
        return self.kubeconfig is None and self.context is None

    def settings(self) -> Settings:
        """The settings of the engine at `--data`.

        Raises:
            NotRunning, EngineError: there is none, or it is damaged.
        """
        from trimtab.engine import datadir

        return datadir.load(self.data)

    def runner(self) -> Settings:
        """The settings of what runs the components for the API that is meant: the engine's, or those of `trimtab run` on this machine.

        Raises:
            NotRunning, EngineError, KubeconfigError: one line for the user.
        """
        if self.is_embedded:
            return self.settings()
        from trimtab.engine import beside

        server = self.server()
        return beside.settings_for(server, beside.Options((self.state or beside.default_state(server)).absolute()))

    def transport(self) -> HttpTransport | SocketTransport:
        """A connection to the API that is meant; the embedded engine's over its socket where that may be opened.

        Raises:
            NotRunning, EngineError, KubeconfigError: one line for the user.
        """
        from trimtab.client import HttpTransport, SocketTransport

        if not self.is_embedded:
            return self.cluster_transport()
        settings = self.settings()
        if os.geteuid() == 0 or os.access(settings.api_socket, os.W_OK):
            if not settings.api_socket.exists():
                raise NotRunning(
                    f"the engine at {self.data} does not run: start it with `trimtab --data {self.data} start`"
                )
            return SocketTransport(settings.api_socket)
        config = settings.data_path("admin.kubeconfig")
        if os.access(config, os.R_OK):
            return HttpTransport.for_kubeconfig(config)
        raise EngineError(f"{config} cannot be read: run this with sudo, or give a --kubeconfig that you may read")

    def cluster_transport(self) -> HttpTransport:
        """A connection to the cluster that the kubeconfig and its context name.

        Raises:
            KubeconfigError: one line for the user.
        """
        from trimtab.client import HttpTransport
        from trimtab.client.kubeconfig import default_kubeconfig

        return HttpTransport.for_kubeconfig(self.kubeconfig or default_kubeconfig(), self.context)

    def server(self) -> str:
        """The URL of that cluster's API.

        Raises:
            KubeconfigError: one line for the user.
        """
        from trimtab.client.kubeconfig import default_kubeconfig, read_kubeconfig

        return read_kubeconfig(self.kubeconfig or default_kubeconfig(), self.context).server

    def cluster_access(self) -> tuple[str, ClusterAccess]:
        """A name for the API that is meant, and how to reach it from outside, without anybody's credentials.

        Raises:
            NotRunning, EngineError, KubeconfigError: one line for the user.
        """
        from trimtab.client.kubeconfig import ClusterAccess, default_kubeconfig, read_kubeconfig
        from trimtab.engine import access

        if self.is_embedded:
            settings = self.settings()
            return access.cluster_name(settings), access.cluster_access(settings)
        found = read_kubeconfig(self.kubeconfig or default_kubeconfig(), self.context)
        host = found.server.partition("://")[2].replace(":", "-")
        return host, ClusterAccess(found.server, ca=found.ca, tls_server_name=found.tls_server_name)

    def content_directory(self) -> Path:
        """Where images are built: the engine's content store, or for another cluster a cache of the user's.

        Raises:
            NotRunning, EngineError: there is no engine at `--data`, or the cache cannot be written.
        """
        if self.is_embedded:
            return self.settings().data_path("content")
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trimtab" / "content"
        try:
            cache.mkdir(parents=True, exist_ok=True)
            if os.geteuid() == 0:
                import pwd

                entry = pwd.getpwnam(BUILDER)
                os.chown(cache, entry.pw_uid, entry.pw_gid)
        except OSError as err:
            raise EngineError(f"{cache} cannot be written ({err.strerror}): set XDG_CACHE_HOME") from None
        return cache

    def build(
        self,
        directory: Path,
        work: Callable[[Callable[[Any], None]], Any],
        on_message: Callable[[Any], None],
        *,
        own_users: bool,
    ) -> Any:
        """Runs `work`, which builds from `directory` into the content store, as the user that the store belongs to and
        where nothing else of any engine is in reach; see `trimtab.engine.isolation`.

        Raises:
            EngineError: what `work` raised, in one line.
        """
        content = self.content_directory()
        if os.geteuid() != 0:
            if not os.access(content, os.W_OK):
                raise EngineError(f"up puts images into {content}, which you may not write: run it with sudo")
            return work(on_message)
        from trimtab.engine import datadir, planning
        from trimtab.engine.isolation import isolated

        own = [self.settings().data] if self.is_embedded else []
        return isolated(
            self.settings().user if self.is_embedded else BUILDER,
            work,
            on_message,
            readable=[*planning.program_directories(), str(directory.resolve())],
            writable=[str(content)],
            concealed=[*own, *datadir.data_of_others(), str(datadir.RUN_ROOT)],
            own_users=own_users,
        )

    def sign(self, references: Sequence[str]) -> None:
        """Signs images that were built for the embedded engine, each named by its digest, by the engine's key. Who is not root has
        no such key, and leaves them unsigned. The key is out of a build's reach: another process signs.

        Raises:
            EngineError: in one line.
        """
        if not self.is_embedded or os.geteuid() != 0:
            return
        from trimtab.content import ContentStore, parse_reference, signing
        from trimtab.engine import accounts, pki, planning

        settings = self.settings()
        key, content = pki.image_key(settings), settings.data_path("content")

        def work() -> None:
            for one in references:
                signing.sign_kept(ContentStore(content), parse_reference(one), signing.SigningKey(key))

        accounts.as_user(settings.user, planning.program_directories(), [settings.data], work)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[WireClient]:
        """The untyped client of that API; warnings of the server go to stderr."""
        import click

        from trimtab.client import WireClient

        async with self.transport() as transport:
            yield WireClient(transport, agent=MANAGER, on_warning=lambda text: click.echo(f"warning: {text}", err=True))

    def default_namespace(self) -> str:
        """The namespace of the kubeconfig's context; `default` for the embedded engine."""
        return "default" if self.is_embedded else self.transport().default_namespace
