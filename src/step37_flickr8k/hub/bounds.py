"""Bounds of what is read from the network: bytes, time, speed.

Whoever answers may be broken or hostile: an answer may never end, arrive a byte at a time, or be a
few bytes that decompress to gigabytes.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator
from types import TracebackType

import aiohttp

from step37_flickr8k.hub.retry import Fault, GivenUp, Unreachable

__all__ = ["TimeLimit", "pieces_of", "whole"]

# Bytes of an answer of the API. A page of a listing has 1,000 entries of some 200 bytes; JSON takes
# up to 25 times its size in memory.
_LARGEST_ANSWER = 16 << 20
# Bytes per second of a file, below which an attempt is given up: a modem's
_LEAST_SPEED = 1000
_ENCODINGS = {"gzip", "x-gzip", "deflate"}
# zlib's number for a header of either kind
_ANY_HEADER = 47


class TimeLimit:
    """A context in which everything must be done in time, however often something arrives.

    asyncio's own is not in Python 3.10. Raises `Unreachable` when the time is over.
    """

    def __init__(self, seconds: float, what: str) -> None:
        """Allow so many seconds for ``what``."""
        self._seconds, self._what = seconds, what
        self._is_over = False

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._end)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._is_over and kind is asyncio.CancelledError:
            if self._task is not None and hasattr(self._task, "uncancel"):
                self._task.uncancel()
            detail = f"{self._what} isn't complete after {self._seconds:.0f} s"
            raise Unreachable("timeout", detail=detail) from None

    def _end(self) -> None:
        self._is_over = True
        if self._task is not None:
            self._task.cancel()


async def whole(response: aiohttp.ClientResponse) -> bytes:
    """Return the body of an answer of the API, decompressed.

    Raises `GivenUp` for one that is too large and `Fault` for one that isn't what its headers say.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity" and encoding not in _ENCODINGS:
        raise Fault("connection", detail=f"its answer isn't sound HTTP: encoding {encoding!r}")
    inflate = zlib.decompressobj(_ANY_HEADER) if encoding in _ENCODINGS else None
    content = bytearray()
    async for piece in response.content.iter_any():
        try:
            content += inflate.decompress(piece, _LARGEST_ANSWER + 1) if inflate else piece
        except zlib.error as error:
            detail = f"its answer isn't sound HTTP: {encoding}: {error}"
            raise Fault("truncated", detail=detail) from error
        if len(content) > _LARGEST_ANSWER or (inflate and inflate.unconsumed_tail):
            raise GivenUp(
                f"an answer has more than {_LARGEST_ANSWER / 1e6:.0f} MB, which no Hub sends:"
                " pin a commit SHA as revision where an answer names all files"
            )
    if inflate and not inflate.eof and response.method != "HEAD":
        raise Fault("truncated", detail=f"its answer isn't sound HTTP: {encoding} without an end")
    return bytes(content)


async def pieces_of(
    response: aiohttp.ClientResponse, allowance: float, host: str
) -> AsyncIterator[bytes]:
    """Yield a file's bytes as they arrive; raises `Fault` if that takes too long.

    A file may be large and the network slow: each byte adds its time to ``allowance`` seconds.
    Time between two pieces, which goes into writing them, doesn't count.
    """
    clock, pieces = asyncio.get_running_loop().time, response.content.iter_any()
    received, waited = 0, 0.0
    while True:
        begun = clock()
        try:
            piece = await anext(pieces)
        except StopAsyncIteration:
            return
        waited += clock() - begun
        received += len(piece)
        if waited > allowance + received / _LEAST_SPEED:
            detail = f"only {received:,} bytes in {waited:.0f} s from {host}"
            raise Fault("too slow", detail=detail)
        yield piece
