"""A file's bytes on their way out, with the faults that act on them."""

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Iterable

from aiohttp import web

from .answers import FileSpan
from .faults import Effect, Fault

CHUNK = 1 << 20
"""The most bytes that are read and sent at once."""

PIECES_PER_SECOND = 20
"""How finely a bandwidth is kept."""


async def send_file(
    request: web.BaseRequest,
    response: web.StreamResponse,
    span: FileSpan,
    *,
    faults: tuple[Fault, ...],
    note: Callable[[int], None],
) -> None:
    """Send the span's bytes, at least one, as far as the faults let them.

    A file that has changed since its answer began ends the connection. ``note`` is called before
    each piece with the number of bytes that have left with it.
    """
    rate = min((fault.limit for fault in faults if fault.effect == "bandwidth"), default=None)
    if (descriptor := span.file.open()) is None:
        reset(request)
        return
    try:
        for piece in pieces(span.size, faults, rate):
            here = {
                fault.effect: fault for fault in faults if mark(fault, span.size) == piece.start
            }
            if not await _strike(here, request, response):
                return
            if rate is not None:
                await asyncio.sleep(len(piece) / rate)
            # Read in the event loop: from the page cache that is faster than a hop to another
            # thread.
            content = os.pread(descriptor, len(piece), span.start + piece.start)
            note(piece.stop)
            await response.write(_flip_first(content) if "corrupt" in here else content)
    finally:
        os.close(descriptor)


def mark(fault: Fault, size: int) -> int | None:
    """Return the byte of a body at which the fault acts, halfway by default.

    None for a fault that acts on the whole body.
    """
    if fault.effect == "bandwidth":
        return None
    return min(int(size * (0.5 if fault.at is None else fault.at)), size - 1)


def pieces(size: int, faults: Iterable[Fault], rate: int | None) -> list[range]:
    """Cut a body into pieces, so that each fault's mark begins one.

    ``rate`` is in bytes a second; no piece is too large for it.
    """
    step = CHUNK if rate is None else max(1, min(CHUNK, rate // PIECES_PER_SECOND))
    marks = {at for fault in faults if (at := mark(fault, size)) is not None}
    starts = sorted({*range(0, size, step), *marks})
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], size], strict=True)]


def reset(request: web.BaseRequest) -> None:
    """Reset the connection: the client sees RST, not an orderly end."""
    transport = request.transport
    if transport is None:
        return  # the client was faster
    # Without lingering, closing a socket sends RST instead of FIN.
    transport.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    transport.abort()


async def _strike(
    here: dict[Effect, Fault], request: web.BaseRequest, response: web.StreamResponse
) -> bool:
    """Let the faults at one byte act; return whether the body goes on."""
    if not here.keys() & {"stall", "truncate", "reset"}:
        return True
    # The status and the headers are out, even where no byte of the body is
    await response.write(b"")
    if "stall" in here:
        await asyncio.sleep(here["stall"].seconds)
    if "reset" in here:
        # RST makes the client's kernel drop what it has not handed over yet, so the client gets
        # time to read that first.
        await asyncio.sleep(0.02)
        reset(request)
    elif "truncate" in here and request.transport is not None:
        request.transport.close()
    return not here.keys() & {"truncate", "reset"}


def _flip_first(content: bytes) -> bytes:
    return bytes([content[0] ^ 0xFF]) + content[1:]
