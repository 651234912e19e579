"""Which API a command talks to: the engine at `--data`, or the cluster of a kubeconfig."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
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


@dataclass
class Target:
    """What the global options named."""

    data: Path
    kubeconfig: Path | None = None
    context: str | None = None

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

    def transport(self) -> HttpTransport | SocketTransport:
        """A connection to the API that is meant; the embedded engine's over its socket where that may be opened.

        Raises:
            NotRunning, EngineError, KubeconfigError: one line for the user.
        """
        from trimtab.client import HttpTransport, SocketTransport
        from trimtab.client.kubeconfig import default_kubeconfig

        if not self.is_embedded:
            return HttpTransport.for_kubeconfig(self.kubeconfig or default_kubeconfig(), self.context)
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
        settings = self.settings()
        content = settings.data_path("content")
        if os.geteuid() != 0:
            if not os.access(content, os.W_OK):
                raise EngineError(f"up puts images into {content}, which you may not write: run it with sudo")
            return work(on_message)
        from trimtab.engine import datadir, planning
        from trimtab.engine.isolation import isolated

        return isolated(
            settings.user,
            work,
            on_message,
            readable=[*planning.program_directories(), str(directory.resolve())],
            writable=[str(content)],
            concealed=[settings.data, *datadir.data_of_others(), str(datadir.RUN_ROOT)],
            own_users=own_users,
        )

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
