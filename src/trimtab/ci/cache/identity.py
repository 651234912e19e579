"""Which project a directory is, also in another checkout of it and on another machine: `why` compares steps of one project alone.

    https://forge.example/team/shop.git, ship.py in services/web -> forge.example/team/shop//services/web
    no repository, or one without a remote `origin`              -> the directory's path

Read as git writes it, without a process; of a worktree the repository's configuration. What stands in an address before its host (a
login) is no part of it.
"""

from __future__ import annotations

import os
import re

_SECTION = re.compile(r'\s*\[remote "origin"\]\s*$')
_URL = re.compile(r'\s*url\s*=\s*"?([^"\n]*)"?\s*$')


def identity(directory: str) -> str:
    """The project's name among all that share a cache."""
    top = directory
    while not os.path.exists(os.path.join(top, ".git")):
        above = os.path.dirname(top)
        if above == top:
            return directory
        top = above
    url = _origin(_configuration(os.path.join(top, ".git")))
    if not url:
        return directory
    below = os.path.relpath(directory, top)
    return _plain(url) + ("" if below == "." else f"//{below}")


def said(project: str) -> str:
    """The name as it is told to others: of a path only the last part."""
    return os.path.basename(project) if os.path.isabs(project) else project


def _configuration(git: str) -> str:
    """Where the configuration of a repository is. git: its directory, or a worktree's file that names it."""
    if os.path.isdir(git):
        return os.path.join(git, "config")
    try:
        with open(git) as file:
            git = os.path.join(os.path.dirname(git), file.read().removeprefix("gitdir:").strip())
        with open(os.path.join(git, "commondir")) as file:
            return os.path.join(git, file.read().strip(), "config")
    except OSError:
        return os.path.join(git, "config")  # of a submodule


def _origin(path: str) -> str:
    inside = False
    try:
        with open(path, errors="replace") as file:
            for line in file:
                if line.lstrip().startswith("["):
                    inside = _SECTION.match(line) is not None
                elif inside and (found := _URL.match(line)):
                    return found[1].strip()
    except OSError:
        pass
    return ""


def _plain(url: str) -> str:
    """`git@host:team/shop.git`, `ssh://git@host/team/shop`, `https://host/team/shop/` -> `host/team/shop`."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        if os.path.isabs(scheme):
            return scheme.rstrip("/")
        rest = scheme.replace(":", "/", 1)
    host, slash, path = rest.partition("/")
    return f"{host.rpartition('@')[2].lower()}{slash}{path}".rstrip("/").removesuffix(".git")
