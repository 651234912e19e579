"""What is asked of running functions, in words that cost nothing to load: what runs them comes with the first question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from trimtab.api import JSON

if TYPE_CHECKING:
    from trimtab.components.infrastructure.composition.sandbox import Functions


class Function(Struct, frozen=True):
    """What runs. name: for messages. package: its directory, or empty. fields: of its definition, where the function names no class."""

    name: str
    source: str = ""
    package: str = ""
    edition: str = ""
    """Another one is another function: a package that was installed anew."""
    entry: str = "source:compose"
    fields: str = ""
    """JSON."""
    timeout_s: float = 5.0
    memory_bytes: int = 256 << 20


class Failed(Exception):
    """A function that did not do what it should. reason: for a condition; its text is one line. said: what it printed."""

    def __init__(self, reason: str, message: str, said: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.said = said


class Compositions(Protocol):
    """What the reconcilers ask of running functions."""

    async def describe(self, function: Function) -> JSON:
        """What a function says of its API. Raises `Failed`."""

    async def load(self, function: Function) -> None:
        """Whether it can be called at all. Raises `Failed`."""

    async def compose(self, function: Function, xr: JSON, observed: Mapping[str, JSON]) -> Any:
        """What the function returned, unchecked. Raises `Failed`."""

    async def close(self) -> None:
        """Ends what runs."""


class LazyFunctions:
    """Functions that run from the first question on. Implements `Compositions`."""

    def __init__(self) -> None:
        self._made: Functions | None = None

    @property
    def functions(self) -> Functions:
        from trimtab.components.infrastructure.composition.sandbox import Functions

        if self._made is None:
            self._made = Functions()
        return self._made

    async def describe(self, function: Function) -> JSON:
        return await self.functions.describe(function)

    async def load(self, function: Function) -> None:
        await self.functions.load(function)

    async def compose(self, function: Function, xr: JSON, observed: Mapping[str, JSON]) -> Any:
        return await self.functions.compose(function, xr, observed)

    async def close(self) -> None:
        if self._made is not None:
            await self._made.close()
