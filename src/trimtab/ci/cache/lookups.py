"""What is known of a graph before any of it runs: the `Lookups` of a run, on the cache of this machine.

    define      scan the project once -> definition keys of all steps -> one question to the cache
    by_content  a step whose inputs have come: its content key -> the cache; a hit is found by definition next time
    keep        a success, under both keys

Whatever may have to run has its sources kept as they were hashed, at once: editing a file during the run changes nothing in it.
A step that has to run takes outputs of others; one of these that is lost makes its step run again.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trimtab.ci.cache.blobs import Blobs, Lost
from trimtab.ci.cache.identity import identity, said
from trimtab.ci.cache.index import CacheError, Index, state_directory
from trimtab.ci.cache.keys import (
    JSON,
    Components,
    components,
    host_platform,
    key_of,
    salt,
    secret_digest,
    takes_of_steps,
)
from trimtab.ci.cache.local import Hit, LocalCache, Record
from trimtab.ci.cache.selection import Selection
from trimtab.ci.cache.tree import Node, Scanner, TreeError
from trimtab.ci.definition.graph import Graph, Step
from trimtab.ci.runs.ports import EngineFault, Found, Result

if TYPE_CHECKING:
    from trimtab.ci.cache.remote import RemoteCache
    from trimtab.ci.cache.why import Why

SCANS = 3
"""A project that is edited while it is looked at is looked at again."""


def _warn(line: str) -> None:
    print(f"trimtab: {line}", file=sys.stderr)


class LocalLookups:
    """The cache as a run sees it. project: the directory of `ship.py`; state: of the cache."""

    def __init__(
        self,
        project: str | os.PathLike[str],
        state: str | os.PathLike[str] | None = None,
        *,
        platform: str = "",
        tell: Callable[[str], None] = _warn,
    ) -> None:
        self.project = os.path.abspath(project)
        self.platform = platform or host_platform()
        try:
            self.index = Index(os.fspath(state or state_directory()))
        except CacheError as err:
            raise EngineFault(str(err)) from None
        self.blobs = Blobs(self.index.directory)
        self.cache = LocalCache(self.index, self.blobs)
        self._shared = os.environ.get("TRIMTAB_CI_CACHE", "")
        self._remote: RemoteCache | None = None
        self._tell = tell
        if self._shared:
            self.blobs.far = self
        self.notice = self.index.notice
        self.scanner = Scanner(self.project, self.index)
        self._lock = threading.RLock()
        self._nodes: dict[Selection, Node] = {}
        self._images: Mapping[str, str] = {}
        self._secrets: dict[str, str] = {}
        self._actions: dict[str, JSON] = {}
        self._kept = False
        self._identity = ""

    @property
    def identity(self) -> str:
        """The project's name among all that share a cache; found out when something has to be kept or explained."""
        if not self._identity:
            self._identity = identity(self.project)
        return self._identity

    def define(self, graph: Graph, images: Mapping[str, str], secrets: Mapping[str, str]) -> dict[str, Found]:
        """All steps of a graph by definition alone. Raises `EngineFault`."""
        self._images = images
        self._actions = {id: step.action() for id, step in graph.steps.items()}
        self._secrets = _digests(self._actions.values(), secrets)
        order = graph.order()
        for _ in range(SCANS):
            self._scan()
            parts, keys = self._definitions(order)
            hits = self._find(list(keys.values()))
            found = {id: self._found(id, parts[id], keys[id], hits.get(keys[id])) for id in order}
            if len(hits) < len(set(keys.values())):
                self.blobs.hold()
            self._run_again(graph, order, found)
            try:
                self._keep_sources(found)
                break
            except TreeError as err:
                problem = str(err)
                self.scanner = Scanner(self.project, self.index)
            except CacheError as err:
                raise EngineFault(str(err)) from None
        else:
            raise EngineFault(problem)
        self._explain(found)
        return found

    def _find(self, keys: Sequence[str]) -> dict[str, Hit]:
        """The results that are known here, and of the others those that are known where machines share them."""
        found = self.cache.find(keys)
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        if missing and self._shared:
            for asked, (record, result) in self._connected().find(missing).items():
                self.cache.put(record, result, asked, 0)
                found[asked] = Hit(record.key, result, record.project, record.step, record.at)
        return found

    def _connected(self) -> RemoteCache:
        """The shared cache, loaded when it is needed: a run in which nothing has changed does without."""
        with self._lock:
            if self._remote is None:
                from trimtab.ci.cache.remote import RemoteCache, scope_of, transport_of

                self._remote = RemoteCache(transport_of(self._shared), scope_of(), self.index, self.blobs, self._tell)
            return self._remote

    def knows(self, digest: str) -> bool:
        """Whether others have a blob that is not here."""
        return self._connected().knows(digest)

    def fetch(self, digest: str) -> bool:
        """Brings a blob that others have."""
        return self._connected().fetch(digest)

    def _scan(self) -> None:
        selections = {_selection(ref["from"]) for action in self._actions.values() for ref in _sources(action)}
        try:
            self._nodes = self.scanner.trees(selections)
        except TreeError as err:
            raise EngineFault(str(err)) from None

    def _definitions(self, order: Sequence[str]) -> tuple[dict[str, Components], dict[str, str]]:
        keys: dict[str, str] = {}
        found: dict[str, Components] = {}
        for id in order:
            found[id] = self._components(id, keys)
            keys[id] = key_of(found[id])
        return found, keys

    def _components(self, step: str, producers: Mapping[str, str | Result]) -> Components:
        def given(ref: JSON) -> str:
            if "source" in ref:
                return self._nodes[_selection(ref)].digest
            producer = producers[ref["step"]]
            if isinstance(producer, Result):
                return producer.outputs[ref["output"]]
            return f"definition {producer} {ref['output']}"

        def image(name: str) -> str:
            if name not in self._images:
                raise EngineFault(f"{name} has no digest yet; `trimtab ci lock` resolves it")
            return self._images[name]

        return components(
            self._actions[step], image=image, given=given, secret=self._secrets.__getitem__, platform=self.platform
        )

    def _found(self, step: str, parts: Components, def_key: str, hit: Hit | None) -> Found:
        alone = not takes_of_steps(self._actions[step])
        if hit is None:
            return Found(step, def_key, def_key if alone else "", parts, None, "")
        return Found(step, def_key, hit.key, parts, hit.result, _from(hit))

    def _run_again(self, graph: Graph, order: Sequence[str], found: dict[str, Found]) -> None:
        """Looks whether all that is taken by what may run is whole; what is not has to be made again."""
        seen: dict[str, str] = {}
        for id in reversed(order):
            if found[id].result is not None:
                continue
            for producer in graph.steps[id].needs():
                hit = found[producer]
                if hit.result is None:
                    continue
                if producer not in seen:
                    seen[producer] = self._lost_of(hit.result)
                if seen[producer]:
                    self.cache.bury(hit.content_key, f"lost: {seen[producer]}")
                    key = "" if takes_of_steps(self._actions[producer]) else hit.def_key
                    found[producer] = Found(producer, hit.def_key, key, hit.components, None, "")

    def _lost_of(self, result: Result) -> str:
        """What is not whole of a result's outputs, once all that others have is brought; "" when nothing is."""
        for name, tree in result.outputs.items():
            try:
                self.blobs.whole(tree)
            except Lost as lost:
                return f"{lost}, of its output {name}"
        return ""

    def _keep_sources(self, found: Mapping[str, Found]) -> None:
        kept: set[str] = set()
        for id, one in found.items():
            if one.result is not None:
                continue
            for ref in _sources(self._actions[id]):
                node = self._nodes[_selection(ref["from"])]
                if node.digest not in kept:
                    self.blobs.keep(self.project, node)
                    kept.add(node.digest)

    def _explain(self, found: dict[str, Found]) -> None:
        """Says why of what is known to run; the others say on whom they wait."""
        for id, one in list(found.items()):
            if one.result is not None:
                continue
            if one.content_key:
                found[id] = self._missed(id, one)
            else:
                needs = dict.fromkeys(ref["from"]["step"] for ref in _refs(self._actions[id]) if "step" in ref["from"])
                waits = [need for need in needs if found[need].result is None]
                reason = f"waits for {', '.join(waits)}" if waits else "what it takes was made anew"
                found[id] = Found(id, one.def_key, "", one.components, None, reason)

    def by_content(self, found: Found, step: Step, producers: Mapping[str, Result]) -> Found:
        """The second look, when everything that a step takes is there: by what it is, whoever made it."""
        with self._lock:
            parts = self._components(step.id, producers)
        key = key_of(parts)
        hit = self._find([key]).get(key)
        if hit is not None and (lost := self._lost_of(hit.result)):
            self.cache.bury(key, f"lost: {lost}")
            hit = None
        if hit is None:
            return self._missed(step.id, Found(step.id, found.def_key, key, parts, None, ""))
        self.cache.alias({found.def_key: hit.key})
        return Found(step.id, found.def_key, key, parts, hit.result, f"what it takes is as before; {_from(hit)}")

    def _missed(self, step: str, found: Found) -> Found:
        why = self.why(step, found.content_key, found.components)
        return Found(step, found.def_key, found.content_key, found.components, None, why.words, why.nearest)

    def why(self, step: str, key: str, parts: Mapping[str, str]) -> Why:
        """Why there is no result under a content key: compared with this step of this project alone, here or where machines share."""
        from trimtab.ci.cache.why import explain

        projects = dict.fromkeys((self.identity, self.project, said(self.identity)))
        nearest = self.cache.record(key) or self.cache.nearest(step, list(projects), parts)
        if nearest is None and self._shared:
            nearest = self._nearest_elsewhere(step)
        return explain(parts, key, nearest, self.blobs, time.time())

    def _nearest_elsewhere(self, step: str) -> Record | None:
        found = self._connected().latest(said(self.identity), step)
        if found is None:
            return None
        record, result = found
        self.cache.put(record, result, record.key, 0)
        return record

    def source(self, step: Step, index: int) -> str:
        """The digest of the tree of the step's input number `index`; its files are in the store."""
        return self.tree(step.action()["inputs"][index]["from"])

    def tree(self, ref: JSON) -> str:
        """The digest of the tree of `{"source": [...]}`; its files are in the store."""
        node = self._nodes[_selection(ref)]
        try:
            return self.blobs.keep(self.project, node)
        except (TreeError, CacheError) as err:
            raise EngineFault(str(err)) from None

    def keep(self, found: Found, step: Step, result: Result) -> None:
        """Remembers a success, under both keys."""
        record = Record(found.content_key, self.identity, step.id, found.components, time.time())
        try:
            seen: set[str] = set()
            size = sum(
                max(length, 0) for tree in result.outputs.values() for _, length in self.blobs.reached(tree, seen)
            )
            self.cache.put(record, result, found.def_key, size)
            self._kept = True
            if self._shared:
                self._connected().send(record, result, found.def_key)
        except CacheError as err:
            raise EngineFault(str(err)) from None
        except Lost as lost:
            raise EngineFault(f"the output of {step.id} is gone before it was kept: {lost}") from None

    def close(self) -> None:
        """Ends what is open, and makes room where the cache has grown too large."""
        if self._remote is not None:
            self._remote.close()
        self.blobs.release()
        if self._kept:
            from trimtab.ci.cache.evict import tidy

            tidy(self.cache)
        self.index.close()


def _refs(action: JSON) -> list[JSON]:
    places = [action, *action.get("services", {}).values()]
    return [one for place in places for one in place.get("inputs", ())]


def _sources(action: JSON) -> list[JSON]:
    return [one for one in _refs(action) if "source" in one["from"]]


def _selection(ref: JSON) -> Selection:
    return Selection(tuple(ref["source"]), tuple(ref.get("exclude", ())))


def _digests(actions: Any, secrets: Mapping[str, str]) -> dict[str, str]:
    wanted = {
        reference
        for action in actions
        for place in (action, *action.get("services", {}).values())
        for reference in place.get("secrets", {}).values()
    }
    if not wanted:
        return {}
    key = salt()
    return {reference: secret_digest(secrets[reference], key) for reference in wanted}


def _from(hit: Hit) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(hit.made))
    return f"made by {hit.step} on {when}"
