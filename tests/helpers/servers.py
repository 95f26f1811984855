"""Small servers for tests, in threads of their own."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@contextlib.contextmanager
def listening(serve: Serve, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve connections in a thread; give the port. In the end every connection is closed."""
    started: Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    writers: list[asyncio.StreamWriter] = []
    tasks: set[asyncio.Task[None]] = set()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closed(writer):
            await serve(reader, writer)

    # Not a coroutine function: a task that is cancelled before its first step would leave its
    # connection open, and the client waiting for an answer.
    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        tasks.add(asyncio.get_running_loop().create_task(served(reader, writer)))

    async def main() -> None:
        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
        stopping = asyncio.Event()
        started.set_result(
            (server.sockets[0].getsockname()[1], asyncio.get_running_loop(), stopping)
        )
        await stopping.wait()
        server.close()
        for writer in writers:
            # Python 3.11.2 raises it for a TLS connection that is closed already
            with contextlib.suppress(AttributeError):
                writer.transport.abort()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    port, loop, stopping = started.result(10)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()


@contextlib.contextmanager
def closed(writer: asyncio.StreamWriter) -> Iterator[None]:
    """End a connection when its block ends: after what was written, at once when cancelled."""
    try:
        yield
    except asyncio.CancelledError:
        writer.transport.abort()
        raise
    finally:
        writer.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError), closed(writer):
        while block := await reader.read(1 << 16):
            writer.write(block)
            await writer.drain()
