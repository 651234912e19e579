"""What became of a run, told to where the project's code is: a commit's status, as GitHub, Forgejo and Gitea take it.

    run begins -> pending;  record -> success, failure or error  -> POST URL/statuses/COMMIT

    TRIMTAB_CI_STATUS         https://api.github.com/repos/OWNER/NAME, https://HOST/api/v1/repos/OWNER/NAME; `github` in its workflows
    TRIMTAB_CI_STATUS_TOKEN   a token that may write statuses; or
    TRIMTAB_CI_STATUS_SECRET  FILE#KEY of a SOPS file that has it
    TRIMTAB_CI_STATUS_TARGET  a page about the run, in which {run} stands for its id
    TRIMTAB_CI_STATUS_COMMIT  of which commit, where it is not the one that is checked out

It is made of the record, where no secret is. A server that does not take it is named once and changes nothing of the run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trimtab.ci.cache.index import pull_request
from trimtab.ci.runs.record import commit_of

JSON = dict[str, Any]

URL, TOKEN, SECRET = "TRIMTAB_CI_STATUS", "TRIMTAB_CI_STATUS_TOKEN", "TRIMTAB_CI_STATUS_SECRET"
TARGET, COMMIT = "TRIMTAB_CI_STATUS_TARGET", "TRIMTAB_CI_STATUS_COMMIT"
GITHUB = "github"
TIMEOUT_S = 10.0
TRIES = 2
DESCRIPTION_MAX = 140
"""What GitHub takes."""
_STATES = {"succeeded": "success", "failed": "failure", "fault": "error", "cancelled": "error"}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class NoStatus(Exception):
    """Why a status cannot be told: one line."""


@dataclass
class Statuses:
    """Tells the statuses of one run. url: of the repository in the server's API."""

    url: str
    token: str = field(repr=False)
    commit: str
    context: str
    target: str = ""

    def pending(self) -> str:
        """The run has begun. Returns one line of what went wrong, "" when nothing did."""
        return self._post("pending", "runs")

    def done(self, record: JSON, said: str) -> str:
        """The run is over. said: what it came to, in a line."""
        return self._post(_STATES[record["state"]], said)

    def _post(self, state: str, description: str) -> str:
        if len(description) > DESCRIPTION_MAX:
            description = description[: DESCRIPTION_MAX - 3] + "..."
        body = {"state": state, "context": self.context, "description": description}
        if self.target:
            body["target_url"] = self.target
        problem = ""
        for _ in range(TRIES):
            problem, again = self._sent(json.dumps(body))
            if not again:
                break
        return self._scrubbed(f"commit status: {problem}") if problem else ""

    def _sent(self, body: str) -> tuple[str, bool]:
        """What went wrong, and whether to try it again."""
        import http.client

        place = urlsplit(self.url)
        kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
        connection = kind(place.hostname or "", place.port, timeout=TIMEOUT_S)
        headers = {
            "authorization": f"token {self.token}",
            "accept": "application/json",
            "content-type": "application/json",
            "user-agent": "trimtab",
        }
        try:
            connection.request("POST", f"{place.path.rstrip('/')}/statuses/{self.commit}", body, headers)
            answer = connection.getresponse()
            said = answer.read(500).decode(errors="replace").strip().split("\n")[0]
        except (OSError, http.client.HTTPException) as err:
            return f"{self.url} does not take it: {err or type(err).__name__}", True
        finally:
            connection.close()
        if answer.status < 300:
            return "", False
        hint = "; the token may not write statuses" if answer.status in (401, 403, 404) else ""
        return f"{self.url} answers {answer.status} {said}".rstrip() + hint, answer.status >= 500

    def _scrubbed(self, text: str) -> str:
        from trimtab.secrets.scrub import Scrubber

        return Scrubber([self.token]).text(text)


def wanted(project: Path, pipeline: str, run: str, env: Mapping[str, str] = os.environ) -> Statuses | None:
    """Where and as whom statuses are told; None where they are not wanted.

    Raises:
        NoStatus: they are wanted and cannot be told.
    """
    url = env.get(URL, "")
    if not url:
        return None
    target = env.get(TARGET, "").replace("{run}", run)
    if url == GITHUB:
        try:
            url = f"{env['GITHUB_API_URL']}/repos/{env['GITHUB_REPOSITORY']}"
            target = (
                target or f"{env['GITHUB_SERVER_URL']}/{env['GITHUB_REPOSITORY']}/actions/runs/{env['GITHUB_RUN_ID']}"
            )
        except KeyError as err:
            raise NoStatus(
                f"commit status: {URL}=github goes with a workflow of GitHub, and {err.args[0]} is not set"
            ) from None
    place = urlsplit(url)
    if place.scheme not in ("http", "https") or not place.hostname or place.username:
        raise NoStatus(f"commit status: {URL} is no address; write https://api.github.com/repos/OWNER/NAME")
    if place.scheme == "http" and place.hostname not in _LOOPBACK:
        raise NoStatus(f"commit status: {url} would be sent the token without TLS; write https://")
    commit = _commit(project, env)
    if not commit:
        raise NoStatus(f"commit status: {project} is no git checkout; say the commit by {COMMIT}")
    return Statuses(url, _token(project, env), commit, f"trimtab/{pipeline}", target)


def _commit(project: Path, env: Mapping[str, str]) -> str:
    if said := env.get(COMMIT):
        return said
    if path := env.get("GITHUB_EVENT_PATH"):  # of a pull request, a workflow checks out a merge that nobody has pushed
        try:
            return str(json.loads(Path(path).read_text())["pull_request"]["head"]["sha"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
    return env.get("GITHUB_SHA") or commit_of(project)


def _token(project: Path, env: Mapping[str, str]) -> str:
    if token := env.get(TOKEN):
        return token
    file, _, key = env.get(SECRET, "").partition("#")
    if not file or not key:
        if env.get(URL) == GITHUB and (token := env.get("GITHUB_TOKEN")):
            return token
        raise NoStatus(f"commit status: there is no token; set {TOKEN}, or {SECRET}=FILE#KEY")
    if pull := pull_request(env):
        raise NoStatus(f"commit status: pull request {pull} gets no secrets, and {file}#{key} is one")
    from trimtab.secrets import sops
    from trimtab.secrets.errors import SopsError

    try:
        return sops.load(project / file).value(key)
    except (SopsError, OSError) as err:
        raise NoStatus(f"commit status: {SECRET}={file}#{key}: {err}") from None
