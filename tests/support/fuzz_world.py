"""A server for searches with Hypothesis: each request is answered with a success or a good refusal, and what was accepted can be
read in every form. The same short search in each run, a hundred times longer and at random in `make test-long`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import quote

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api_in_process import JSON_TYPE, MERGE, Answer, Api, running_api
from hostile import refused_well

EXAMPLES = 40
EXAMPLES_LONG = 6_000
YAML = "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
PARTIAL = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
Result = TypeVar("Result")


class World:
    """A server of a test's own, called from outside of its event loop."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._running = running_api()
        self.wrote_nothing = True
        self.api: Api = runner.run(self._running.__aenter__())

    def run(self, waited: Coroutine[Any, Any, Result]) -> Result:
        """What a coroutine returns, run in the server's event loop."""
        return self._runner.run(waited)

    def call(self, method: str, path: str, body: Any = None, content_type: str = JSON_TYPE, **headers: str) -> Answer:
        """The answer, which must be a success or a good refusal."""
        before = self.api.server.store.revision
        answer = self._runner.run(self.api.call(method, path, body, content_type, **headers))
        if method != "HEAD":  # which has no body
            refused_well(answer)
        self.wrote_nothing = self.api.server.store.revision == before
        return answer

    def created(self, collection: str, answer: Answer) -> None:
        """What was accepted can be read in all forms and goes away again."""
        if answer.status not in (200, 201) or self.wrote_nothing:
            return
        path = f"{collection}/{quote(answer.body['metadata']['name'])}"
        for accept in (JSON_TYPE, TABLE, PARTIAL):
            assert self.call("GET", path, accept=accept).status in (
                200,
                404,
            )  # the garbage collector may have been there
            self.call("GET", collection, accept=accept).ok()
        self._runner.run(self._shown(collection))
        self.remove(path)

    async def _shown(self, collection: str) -> None:
        query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        watching = await self.api.watch(f"{collection}?{query}")
        while (await watching.next())["type"] != "BOOKMARK":
            pass
        await watching.close()

    def watched(self, path: str, **headers: str) -> list[Any]:
        """What a watch says until the server ends it, which is at once; nothing when it is refused, which must be well."""
        return self._runner.run(self._ended(path, headers))

    async def _ended(self, path: str, headers: dict[str, str]) -> list[Any]:
        watches = self.api.server.watches
        asked = asyncio.ensure_future(self.api.lines(path, **headers))
        while not asked.done() and not len(watches):  # noqa: ASYNC110 (a condition of the server's own tasks)
            await asyncio.sleep(0)
        watches.close()
        status, lines = await asked
        if status == 200:
            return lines
        refused_well(Answer(status, lines[0], {}))
        return []

    def remove(self, path: str) -> None:
        self.call("PATCH", path, {"metadata": {"finalizers": None}}, MERGE)
        self.call("DELETE", f"{path}?gracePeriodSeconds=0&propagationPolicy=Background")

    def close(self) -> None:
        self._runner.run(self._running.__aexit__(None, None, None))


Property = Callable[[World, Any], None]


def search(world: World, strategy: st.SearchStrategy[Any], holds: Property, examples: int) -> None:
    """Tries so many cases; the same ones each time when they are as few as in every run."""

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=examples <= EXAMPLES,
    )
    @given(strategy)
    def tried(case: Any) -> None:
        holds(world, case)

    tried()
