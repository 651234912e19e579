"""`trimtab remote NAME`: the git remote `trimtab` of the repository around, so that `git push trimtab main` reaches a Pipeline.

The Pipeline is made when there is none of that name. What git needs to be let in (the CA, a token) stands in the repository's own
configuration, for this API's address alone; the file is closed to others.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Protocol

import click

from trimtab.api import ObjectMeta
from trimtab.client import ApiError, Client, HttpTransport
from trimtab.client.kubeconfig import ClusterAccess, KubeconfigError, default_kubeconfig, read_kubeconfig
from trimtab.components.pipelines.kinds import Pipeline, PipelineApp, PipelineSpec
from trimtab.runtime.commands import Refused
from trimtab.runtime.settings import Settings

MANAGER = "trimtab-remote"
REMOTE = "trimtab"


class Target(Protocol):
    """What the command line's global options named."""

    @property
    def is_embedded(self) -> bool: ...

    @property
    def kubeconfig(self) -> Path | None: ...

    @property
    def context(self) -> str | None: ...

    def settings(self) -> Settings: ...

    def transport(self) -> HttpTransport: ...


@click.command()
@click.argument("name")
@click.option("-n", "--namespace", default="default", show_default=True, help="The namespace of the Pipeline.")
@click.option("--app", help="The App that gets the image of each green run, when the Pipeline is made.")
@click.option("--directory", default="", help="Where ship.py is in the repository, when the Pipeline is made.")
@click.option("--branch", default="main", show_default=True, help="The branch that runs, when the Pipeline is made.")
@click.option(
    "-p", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter of it, when the Pipeline is made."
)
@click.option("-C", "repository", type=click.Path(path_type=Path, file_okay=False), default=".", help="The repository.")
@click.pass_obj
def remote(
    target: Target,
    name: str,
    namespace: str,
    app: str | None,
    directory: str,
    branch: str,
    parameters: tuple[str, ...],
    repository: Path,
) -> None:
    """Let `git push trimtab BRANCH` push to the Pipeline NAME, which is made when there is none."""
    if wrong := [one for one in parameters if "=" not in one]:
        raise Refused(f"-p {wrong[0]}: write NAME=VALUE")
    spec = PipelineSpec(
        branch=branch,
        directory=directory,
        parameters=dict(one.split("=", 1) for one in parameters),
        app=PipelineApp(name=app) if app else None,
    )
    try:
        settings = target.settings() if target.is_embedded else None
        file = (
            settings.data_path("admin.kubeconfig")
            if settings is not None
            else target.kubeconfig or default_kubeconfig()
        )
        access = read_kubeconfig(file, target.context)
        path = asyncio.run(_pipeline(target, namespace, name, spec))
        url = configure(repository, access, path)
    except (ApiError, KubeconfigError, ConnectionError) as err:
        raise Refused(str(err)) from None
    if "GIT_SSL_CAINFO" in os.environ:
        click.echo(
            "warning: GIT_SSL_CAINFO in the environment takes the place of the engine's CA: unset it to push", err=True
        )
    click.echo(f"{REMOTE} is {url}: git push {REMOTE} {branch}")


async def _pipeline(target: Target, namespace: str, name: str, spec: PipelineSpec) -> str:
    """The path of the Pipeline's repository."""
    async with target.transport() as transport:
        client = Client(transport, agent=MANAGER)
        if await client.get(Pipeline, name, namespace) is None:
            made = Pipeline(metadata=ObjectMeta(name=name, namespace=namespace), spec=spec)
            await client.apply(made, manager=MANAGER)
    return Pipeline.resource_type.path(namespace, name, "git")


def configure(repository: Path, access: ClusterAccess, path: str) -> str:
    """Writes the remote into the repository's configuration, and returns its URL.

    Raises:
        Refused: no repository, or no token.
    """
    token = access.current_token()
    if not token and not access.client_certificate:
        raise Refused("the kubeconfig has no token: `trimtab token create` makes one")
    directory = Path(_git(repository, "rev-parse", "--absolute-git-dir"))
    server, url = access.server.rstrip("/"), f"{access.server.rstrip('/')}{path}"
    config = directory / "config"
    config.chmod(config.stat().st_mode & 0o700)
    if _git(repository, "remote").split().count(REMOTE):
        _git(repository, "remote", "set-url", REMOTE, url)
    else:
        _git(repository, "remote", "add", REMOTE, url)
    if access.ca:
        _set(repository, f"http.{server}/.sslCAInfo", str(_closed(directory / "trimtab-ca.crt", access.ca)))
    if access.client_certificate:
        _set(
            repository,
            f"http.{server}/.sslCert",
            str(_closed(directory / "trimtab-client.crt", access.client_certificate)),
        )
        _set(repository, f"http.{server}/.sslKey", str(_closed(directory / "trimtab-client.key", access.client_key)))
    else:
        _set(repository, f"http.{server}/.extraHeader", f"Authorization: Bearer {token}")
    return url


def _set(repository: Path, name: str, value: str) -> None:
    # Into the file, not by an argument of git: others see arguments.
    directory = Path(_git(repository, "rev-parse", "--absolute-git-dir"))
    section, _, key = name.rpartition(".")
    kind, _, server = section.partition(".")
    _git(repository, "config", "--unset-all", name, missing=True)
    with (directory / "config").open("a") as file:
        file.write(f'[{kind} "{server}"]\n\t{key} = "{value}"\n')


def _closed(path: Path, data: bytes) -> Path:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    return path


def _git(repository: Path, *arguments: str, missing: bool = False) -> str:
    """Raises `Refused`: git's last line. missing: what is to be taken away may not be there."""
    try:
        done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Refused("git is missing: apt-get install git") from None
    if done.returncode != 0 and not missing:
        raise Refused((done.stderr.strip().splitlines() or [f"git {arguments[0]} failed"])[-1])
    return done.stdout.strip()
