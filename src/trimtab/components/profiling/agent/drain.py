"""Counted stacks -> a batch. Frames become numbers of files and addresses in them; kernel frames get their names; a stack that is not
complete says why, as its outermost frame."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from trimtab.components.profiling.agent import layout, types
from trimtab.components.profiling.agent.files import Files, Module
from trimtab.components.profiling.agent.kernel import KernelNames
from trimtab.components.profiling.agent.perf_maps import PerfMaps
from trimtab.components.profiling.agent.processes import Processes
from trimtab.components.profiling.agent.python import Interpreters
from trimtab.components.profiling.batch import Batch, Frame, Sample

_KIND_MASK = (1 << layout.FRAME_KIND_SHIFT) - 1
_OFFSET_MASK = (1 << layout.FRAME_FILE_SHIFT) - 1
_MARKS = {"unknown-file": "unknown-mapping"}
"""What a status is called in a batch, where it is called otherwise."""
_WHOLE = ("complete", "kernel-only")


class Tables:
    """A batch in the making: each frame, stack and set of labels once."""

    def __init__(self) -> None:
        self.frames: dict[Frame, int] = {}
        self.listed: list[Frame] = []
        self.stacks: dict[tuple[int, ...], int] = {}
        self.labels: dict[tuple[tuple[str, str], ...], int] = {}
        self.samples: dict[tuple[int, int, int], list[int]] = {}
        """Type, labels and stack: count and value."""

    def frame(self, frame: Frame) -> int:
        index = self.frames.setdefault(frame, len(self.frames))
        if index == len(self.listed):
            self.listed.append(frame)
        return index

    def add(self, kind: int, labels: dict[str, str], frames: list[int], count: int, value: int) -> None:
        label = self.labels.setdefault(tuple(labels.items()), len(self.labels))
        stack = self.stacks.setdefault(tuple(frames), len(self.stacks))
        sums = self.samples.setdefault((kind, label, stack), [0, 0])
        sums[0] += count
        sums[1] += value


class Drain:
    """Makes batches of what the kernel counted."""

    def __init__(
        self, files: Files, processes: Processes, kernel: KernelNames, interpreters: Interpreters, maps: PerfMaps
    ) -> None:
        self._files, self._processes, self._kernel = files, processes, kernel
        self._interpreters, self._maps = interpreters, maps

    def batch(self, stacks: NDArray[Any], start: int, period_ns: int, lost: dict[str, int]) -> Batch:
        """`start`: seconds; `period_ns`: what each count stands for."""
        tables = Tables()
        self._maps.begin()
        words: dict[int, int] = {}
        known: dict[int, bool] = {}
        modules: set[Module] = set()
        for stack in stacks:
            frames = [self._kernel_frame(tables, words, word) for word in stack["kernel"][: stack["kernels"]].tolist()]
            pid, process = int(stack["tgid"]), int(stack["process"])
            user = [
                self._user_frame(tables, words, modules, (pid, process), word)
                for word in stack["user"][: stack["users"]].tolist()
            ]
            status = layout.STATUSES[stack["status"]]
            if python := int(stack["python"]):
                evaluating = [place for place, index in enumerate(user) if self._evaluates(tables, known, index)]
                merged = self._interpreters.merge(python, user, evaluating, whole=status in _WHOLE)
                user = [one if isinstance(one, int) else tables.frame(one) for one in merged]
            frames += user
            if status not in _WHOLE:
                frames.append(tables.frame(Frame("mark", _MARKS.get(status, status))))
            thread = stack["comm"].decode("utf-8", "replace")
            labels = self._processes.labels(process, pid, thread)
            kind = int(stack["type"])
            told = types.KINDS[kind]
            value = types.value(kind, int(stack["count"]), int(stack["value"]), period_ns)
            tables.add(
                types.TYPES.index(told.type), {**labels, **dict(told.labels)}, frames, int(stack["count"]), value
            )
        self._files.touch(modules)
        return Batch(
            start=start,
            source="agent",
            types=list(types.TYPES),
            labels=[dict(labels) for labels in tables.labels],
            frames=tables.listed,
            stacks=[list(stack) for stack in tables.stacks],
            samples=[
                Sample(kind, label, stack, value, count)
                for (kind, label, stack), (count, value) in tables.samples.items()
            ],
            lost=lost,
        )

    def _evaluates(self, tables: Tables, known: dict[int, bool], index: int) -> bool:
        found = known.get(index)
        if found is None:
            found = known[index] = self._interpreters.evaluates(tables.listed[index])
        return found

    def _kernel_frame(self, tables: Tables, words: dict[int, int], word: int) -> int:
        index = words.get(word)
        if index is None:
            index = words[word] = tables.frame(Frame("kernel", self._kernel.name(word)))
        return index

    def _user_frame(
        self, tables: Tables, words: dict[int, int], modules: set[Module], process: tuple[int, int], word: int
    ) -> int:
        kind = word >> layout.FRAME_KIND_SHIFT
        if kind == layout.FRAME_ADDRESS:
            return tables.frame(self._maps.name(*process, word) or Frame("jit", "[anonymous code]"))
        index = words.get(word)
        if index is not None:
            return index
        module = self._files.module((word & _KIND_MASK) >> layout.FRAME_FILE_SHIFT)
        if module is None:
            frame = Frame("native", file="[unknown file]")
        else:
            modules.add(module)
            address = module.address(word & _OFFSET_MASK)
            frame = Frame("native", file=module.path, build_id=module.build_id, address=address)
        index = words[word] = tables.frame(frame)
        return index
