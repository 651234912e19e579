"""The way in to questions: a socket at which the API asks on behalf of its callers, and what is answered.

    API --> RUN/user/infrastructure.sock   POST /UID/plan      objects of a ProviderConfig's namespace --asking.py--> what would be done
                                           POST /UID/import    an id --importing.py--> a manifest; none: ids of what is there
                                           POST /UID/compose   a claim --composition/foreseeing.py--> what it would be composed of
                                           POST /admit         AdmissionReview --admission.py--> whether the provider takes it

It costs a listening socket until somebody asks: what answers is loaded with the first question. A connection is for one request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import TYPE_CHECKING, Any, TypeVar

import httptools
import msgspec

from trimtab.api import Resource
from trimtab.api.core import Secret
from trimtab.components.infrastructure.composition.kinds import CompositeDefinition
from trimtab.components.infrastructure.kinds import Managed, Provider, ProviderConfig
from trimtab.components.infrastructure.programs.suspects import Suspects
from trimtab.components.infrastructure.programs.terms import NotReady, Providers, asked_for
from trimtab.runtime import deeds

if TYPE_CHECKING:
    from trimtab.components.infrastructure.loop.gathering import Reads
    from trimtab.components.infrastructure.questions.asking import Asker

SOCKET = "user/infrastructure.sock"
"""In the directory of the engine's user, as which this runs."""
READS = (Provider, ProviderConfig, Secret, CompositeDefinition)
"""What answers are made from, beside the objects of enabled kinds."""
BODY_BYTES_MAX = 32 << 20
"""Of a question: hundreds of objects."""
READ_S = 30.0
CHUNK_BYTES = 64 * 1024
CONNECTIONS_MAX = 64
_PATH = re.compile(r"/[0-9a-f-]{36}/([a-z]+)")
K = TypeVar("K", bound=Resource)

log = logging.getLogger(__name__)


async def gateway(process: Any) -> None:
    """Listens until cancelled."""
    listening = deeds.door(process.settings, SOCKET)
    room = asyncio.Semaphore(CONNECTIONS_MAX)
    answers = Answers(process)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with room:
                status, body = await answers.answer(reader)
                reason = "OK" if status == 200 else "Refused"
                writer.write(
                    f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
                    "connection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (ConnectionError, TimeoutError):
            pass  # who asked is gone
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_unix_server(serve, sock=listening)
    try:
        await asyncio.Event().wait()
    finally:
        server.close()
        process.settings.run_path(SOCKET).unlink(missing_ok=True)


class Refused(Exception):
    """status and one line for who asked."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Answers:
    """What is answered in one process."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self._asker: Asker | None = None

    @property
    def asker(self) -> Asker:
        if self._asker is None:
            from trimtab.components.infrastructure.questions.asking import Asker

            self._asker = Asker(self._reads, self._process.adapter(Providers), self._process.adapter(Suspects))
        return self._asker

    def _reads(self, namespace: str) -> Reads:
        async def read(kind: type[K], name: str) -> K | None:
            if issubclass(kind, Managed):
                # Of an enabled kind there is a live copy here; another has no objects.
                informer = self._process.informers.get(kind)
                found: K | None = informer.get(name, namespace) if informer is not None else None
                return found
            place = namespace if kind.resource_type.namespaced else None
            read_now: K | None = await self._process.client.get(kind, name, place)
            return read_now

        return read

    async def answer(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        """(status, JSON) of one request. Raises `ConnectionError`, `TimeoutError`: it did not come whole."""
        try:
            async with asyncio.timeout(READ_S):
                request = await _read(reader)
            return 200, await self._answered(request)
        except Refused as err:
            return err.status, msgspec.json.encode({"message": str(err)})
        except msgspec.MsgspecError as err:
            return 400, msgspec.json.encode({"message": f"the question is not understood: {err}"})
        except (ConnectionError, TimeoutError):
            raise
        except Exception as err:
            log.exception("a question was not answered")
            return 500, msgspec.json.encode({"message": f"it could not be answered: {err or type(err).__name__}"})

    async def _answered(self, request: _Request) -> bytes:
        if request.method != "POST":
            raise Refused(405, "POST")
        if request.target == "/admit":
            from trimtab.components.infrastructure.questions.admission import admit

            return msgspec.json.encode(await admit(self.asker, msgspec.json.decode(request.body)))
        match = _PATH.fullmatch(request.target.partition("?")[0])
        namespace, _, name = request.headers.get("x-trimtab-object", "").rpartition("/")
        if match is None or not name:
            raise Refused(404, "there is no such endpoint")
        kind = CompositeDefinition if match[1] == "compose" else ProviderConfig
        return await self.told(kind.resource_type.kind, match[1], bytes(request.body), namespace, name)

    async def told(self, kind: str, ask: str, body: bytes, namespace: str, name: str) -> bytes:
        """The answer, JSON, to one question to a ProviderConfig or a CompositeDefinition. Raises `Refused`, `MsgspecError`."""
        with asked_for():
            return await self._told(kind, ask, body, namespace, name)

    async def _told(self, kind: str, ask: str, body: bytes, namespace: str, name: str) -> bytes:
        match kind, ask:
            case "ProviderConfig", "plan":
                from trimtab.components.infrastructure.questions.asking import Question

                question = msgspec.json.decode(body, type=Question)
                return msgspec.json.encode(await self.asker.answers(question, namespace, name))
            case "ProviderConfig", "import":
                return await self._imported(body, namespace, name)
            case "CompositeDefinition", "compose":
                return await self._composed(body, name)
        raise Refused(404, "there is no such endpoint")

    async def _composed(self, body: bytes, name: str) -> bytes:
        from trimtab.components.infrastructure.composition.foreseeing import Claimed, Unforeseen, foretold

        made = await self._process.client.get(CompositeDefinition, name, None)
        if made is None:
            raise Refused(404, f"there is no CompositeDefinition {name}")
        try:
            return msgspec.json.encode(await foretold(self._process, made, msgspec.json.decode(body, type=Claimed)))
        except Unforeseen as err:
            raise Refused(422, str(err)) from None

    async def _imported(self, body: bytes, namespace: str, config: str) -> bytes:
        from trimtab.components.infrastructure.loop.gathering import Blocked
        from trimtab.components.infrastructure.protocol.provider import ProviderError
        from trimtab.components.infrastructure.questions.importing import Wanted, imported

        wanted = msgspec.json.decode(body, type=Wanted)
        try:
            talk = await self.asker.talk(namespace, config)
            return msgspec.json.encode(await imported(talk, wanted, namespace, config))
        except (Blocked, NotReady, ProviderError) as err:
            raise Refused(422, str(err)) from None


class _Request:
    """One HTTP request, as it comes in."""

    def __init__(self) -> None:
        self.target = ""
        self.method = ""
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.whole = False

    def on_url(self, url: bytes) -> None:
        self.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.whole = True


async def _read(reader: asyncio.StreamReader) -> _Request:
    request = _Request()
    parser = httptools.HttpRequestParser(request)
    try:
        while not request.whole:
            data = await reader.read(CHUNK_BYTES)
            if not data:
                raise ConnectionError("it closed before all was said")
            parser.feed_data(data)
            if len(request.body) > BODY_BYTES_MAX:
                raise Refused(
                    413, f"a question has at most {BODY_BYTES_MAX >> 20} MiB: ask about fewer objects at once"
                )
    except httptools.HttpParserError as err:
        raise Refused(400, f"that is no HTTP: {err}") from None
    request.method = parser.get_method().decode("latin-1")
    return request


__all__ = ["READS", "SOCKET", "Answers", "Refused", "gateway"]
