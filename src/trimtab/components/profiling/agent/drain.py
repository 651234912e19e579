"""Counted stacks -> a batch. Frames become numbers of files and addresses in them; kernel frames get their names; a stack that is not
complete says why, as its outermost frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from trimtab.components.profiling.agent import layout
from trimtab.components.profiling.agent.files import Files, Module
from trimtab.components.profiling.agent.kernel import KernelNames
from trimtab.components.profiling.agent.processes import Processes
from trimtab.components.profiling.batch import Batch, Frame, Sample, SampleType

CPU = SampleType("cpu", "nanoseconds")
_KIND_MASK = (1 << layout.FRAME_KIND_SHIFT) - 1
_OFFSET_MASK = (1 << layout.FRAME_FILE_SHIFT) - 1
_MARKS = {"unknown-file": "unknown-mapping"}
"""What a status is called in a batch, where it is called otherwise."""
_WHOLE = ("complete", "kernel-only")

AddressName = Callable[[int, int], Frame | None]
"""From a pid and an address in memory that no file backs to the frame of the code that was made there at run time."""


def no_name(pid: int, address: int) -> Frame | None:
    """Nothing is known of code made at run time."""
    return None


class Tables:
    """A batch in the making: each frame, stack and set of labels once."""

    def __init__(self) -> None:
        self.frames: dict[Frame, int] = {}
        self.stacks: dict[tuple[int, ...], int] = {}
        self.labels: dict[tuple[tuple[str, str], ...], int] = {}
        self.samples: dict[tuple[int, int], int] = {}

    def frame(self, frame: Frame) -> int:
        return self.frames.setdefault(frame, len(self.frames))

    def add(self, labels: dict[str, str], frames: list[int], count: int) -> None:
        label = self.labels.setdefault(tuple(labels.items()), len(self.labels))
        stack = self.stacks.setdefault(tuple(frames), len(self.stacks))
        self.samples[label, stack] = self.samples.get((label, stack), 0) + count


class Drain:
    """Makes batches of what the kernel counted."""

    def __init__(
        self, files: Files, processes: Processes, kernel: KernelNames, address_name: AddressName = no_name
    ) -> None:
        self._files, self._processes, self._kernel = files, processes, kernel
        self._address_name = address_name

    def batch(self, stacks: NDArray[Any], start: int, period_ns: int, lost: dict[str, int]) -> Batch:
        """`start`: seconds; `period_ns`: what each count stands for."""
        tables = Tables()
        words: dict[int, int] = {}
        modules: set[Module] = set()
        for stack in stacks:
            frames = [self._kernel_frame(tables, words, word) for word in stack["kernel"][: stack["kernels"]].tolist()]
            pid = int(stack["tgid"])
            for word in stack["user"][: stack["users"]].tolist():
                frames.append(self._user_frame(tables, words, modules, pid, word))
            status = layout.STATUSES[stack["status"]]
            if status not in _WHOLE:
                frames.append(tables.frame(Frame("mark", _MARKS.get(status, status))))
            thread = stack["comm"].decode("utf-8", "replace")
            tables.add(self._processes.labels(int(stack["process"]), pid, thread), frames, int(stack["count"]))
        self._files.touch(modules)
        return Batch(
            start=start,
            source="agent",
            types=[CPU],
            labels=[dict(labels) for labels in tables.labels],
            frames=list(tables.frames),
            stacks=[list(stack) for stack in tables.stacks],
            samples=[Sample(0, label, stack, n * period_ns, n) for (label, stack), n in tables.samples.items()],
            lost=lost,
        )

    def _kernel_frame(self, tables: Tables, words: dict[int, int], word: int) -> int:
        index = words.get(word)
        if index is None:
            index = words[word] = tables.frame(Frame("kernel", self._kernel.name(word)))
        return index

    def _user_frame(self, tables: Tables, words: dict[int, int], modules: set[Module], pid: int, word: int) -> int:
        kind = word >> layout.FRAME_KIND_SHIFT
        if kind == layout.FRAME_ADDRESS:
            return tables.frame(self._address_name(pid, word) or Frame("jit", "[anonymous code]"))
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
