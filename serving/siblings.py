"""What the workers of one server tell each other: each answers questions on a Unix socket in the server's own folder.

So any worker can answer for all of them: the metrics page, a reload. A worker that does not answer (it is being started
again) is left out. This module knows nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

Answer = Callable[[str], Awaitable[bytes]]
"""Takes what stands behind the question's first word."""
_logger = logging.getLogger(__name__)


class Siblings:
    """Worker `number` of `workers`, which meet in `folder`; without one it is alone and asks only itself."""

    def __init__(self, number: int = 0, workers: int = 1, folder: Path | None = None) -> None:
        self.number = number
        self._sockets = [folder / f"{each}.sock" for each in range(workers)] if folder else []
        self._answers: dict[str, Answer] = {}

    @property
    def alone(self) -> bool:
        """Whether this is the whole server."""
        return not self._sockets

    def answer(self, question: str, by: Answer) -> None:
        """Let `by` answer the questions that begin with this word."""
        self._answers[question] = by

    async def ask(self, question: str, *, seconds: float) -> dict[int, bytes]:
        """What each worker, this one among them, answers within these seconds; by their numbers."""
        others = [number for number in range(len(self._sockets)) if number != self.number]
        told = await asyncio.gather(self._own(question), *(self._ask(number, question, seconds) for number in others))
        return {number: answer for number, answer in sorted(zip([self.number, *others], told, strict=True)) if answer}

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Answer the others while the body runs."""
        if self.alone:
            yield
            return
        path = self._sockets[self.number]
        path.unlink(missing_ok=True)  # of the process that had this number before
        async with await asyncio.start_unix_server(self._serve, path):
            yield

    async def _own(self, question: str) -> bytes:
        word, _, rest = question.partition(" ")
        return await self._answers[word](rest)

    async def _ask(self, number: int, question: str, seconds: float) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_unix_connection(self._sockets[number])
                try:
                    writer.write(f"{question}\n".encode())
                    return await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return b""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(await self._own((await reader.readline()).decode().rstrip("\n")))
            await writer.drain()
        except Exception:  # the one that asks takes an empty answer for none
            _logger.exception("a question of another worker was not answered")
        finally:
            writer.close()
