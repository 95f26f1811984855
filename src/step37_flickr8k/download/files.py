"""Many files at once, streamed and verified: one GET a file, every fault tried again, memory for the files in flight only."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection, Iterator
from functools import partial
from typing import BinaryIO

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.dataset.digests import hasher
from step37_flickr8k.dataset.listing import RemoteFile
from step37_flickr8k.dataset.words import listed
from step37_flickr8k.download.landing import IN_HAND, Land, Landing
from step37_flickr8k.download.loop import Report, beside, tell
from step37_flickr8k.download.workers import Workers
from step37_flickr8k.errors import FetchFailed, Step37Error
from step37_flickr8k.hub.client import FAULTS, HttpClient, connected, read_exactly
from step37_flickr8k.hub.loop import run_in_loop
from step37_flickr8k.hub.retry import Fault, GivenUp
from step37_flickr8k.hub.source import SlowFile, Source
from step37_flickr8k.settings.options import FetchOptions

__all__ = ["fetch", "memory_in_flight"]

_BLOCK = 1 << 20  # bytes: larger files are written and hashed in pieces of this size, as they come
# Bytes of small files in hand: they land in batches, and a batch waits for its files
_LANDING = 32 << 20


def fetch(
    files: Collection[RemoteFile],
    source: Source,
    workers: Workers,
    land: Land,
    *,
    options: FetchOptions,
    progress: Report,
) -> None:
    """Fetch all files into temporary ones of the workers' directory and hand them, verified, to ``land``, which names them.

    ``land`` takes several at a time, in several threads. A file that fails doesn't stop the others:
    at the end `FetchFailed` names those that are missing. What ``land`` or ``progress`` raises ends
    the fetch at once; no unfinished file stays.
    """

    async def main() -> None:
        with contextlib.ExitStack() as at_rest, Landing(workers, land) as landing:
            async with connected(source, options) as client:
                await _Fetch(client, landing, workers.directory, at_rest).run(files, progress)

    run_in_loop(main)


def memory_in_flight(concurrency: int, size: int) -> int:
    """Give the bytes of memory that files of this size take while they are on their way: once here, once in a worker's pipe."""
    return 2 * _places(concurrency, size) * min(size, _BLOCK)


def _places(concurrency: int, size: int) -> int:
    """Give how many files of this size are in hand: more than there are connections, the others gather and are written."""
    return min(concurrency * IN_HAND, max(concurrency * 3 // 2, _LANDING // max(1, size)))


class _Fetch:
    """A fetch; ``at_rest`` is done once no thread writes any more."""

    def __init__(
        self,
        client: HttpClient,
        landing: Landing,
        directory: CacheDirectory,
        at_rest: contextlib.ExitStack,
    ) -> None:
        self._client = client
        self._statistics = client.statistics
        self._landing = landing
        self._directory = directory
        self._at_rest = at_rest
        self._failed: dict[str, str] = {}
        self._connections = asyncio.Semaphore(client.connections)
        self._coming = 0  # files that aren't here yet, but will be
        self._spare = 0  # files that may gather before connections stand idle

    async def run(self, files: Collection[RemoteFile], progress: Report) -> None:
        waiting = iter(files)
        size = sum(file.size for file in files)
        count = min(_places(self._client.connections, size // max(1, len(files))), len(files))
        self._spare = count - self._client.connections
        telling = tell(progress, self._client, files=len(files), size=size)
        await beside(telling, [self._work(waiting) for _ in range(count)])
        if self._failed:
            raise FetchFailed(_summary(self._failed, len(files)))

    async def _work(self, waiting: Iterator[RemoteFile]) -> None:
        for file in waiting:
            took: list[float] = []
            try:
                await self._client.retry(file.name, partial(self._bring, file, took))
            except GivenUp as error:
                self._failed[file.name] = str(error)
            else:
                self._statistics.files += 1
                self._statistics.took(
                    SlowFile(round(sum(took), 3), file.name, file.size, len(took))
                )

    async def _bring(self, file: RemoteFile, took: list[float]) -> None:
        content = await self._receive(file, took)
        if content is None:
            return
        landed = self._landing.hand_over(file, content)
        if not self._coming or self._landing.gathered >= self._spare > 0:
            self._landing.submit()  # it would wait for nobody, or everybody for it
        await landed
        self._statistics.bytes += file.size

    async def _receive(self, file: RemoteFile, took: list[float]) -> bytearray | None:
        """Give a file's bytes; None for a large one, which is written as it comes."""
        self._coming += 1
        try:
            async with self._connections:
                await self._client.until_open()  # it may have closed while this one waited
                start = time.monotonic()
                try:
                    async with await self._client.get(file.name) as response:
                        if file.size <= _BLOCK:
                            return await read_exactly(response.content.iter_any(), file.size)
                        await self._receive_in_blocks(response.content.iter_any(), file)
                        return None
                finally:
                    took.append(time.monotonic() - start)
        finally:
            self._coming -= 1

    async def _receive_in_blocks(self, pieces: AsyncIterator[bytes], file: RemoteFile) -> None:
        arriving = _Arriving(self._directory, file)
        pending = bytearray()
        came = 0
        try:
            async for piece in pieces:
                came += len(piece)
                self._statistics.bytes += len(piece)
                pending += piece
                if came > file.size:
                    raise Fault(f"more than {file.size} bytes")  # dropped like any other fault
                if len(pending) >= _BLOCK:
                    await self._landing.in_thread(arriving.write, bytes(pending))
                    pending.clear()
            await self._landing.in_thread(self._finish, arriving, bytes(pending))
        except asyncio.CancelledError:
            self._at_rest.callback(arriving.drop)  # a thread may still be writing it
            raise
        except (*FAULTS, OSError, Step37Error):
            self._statistics.bytes -= came
            arriving.drop()
            raise

    def _finish(self, arriving: "_Arriving", rest: bytes) -> None:
        arriving.write(rest)
        arriving.verify()
        self._landing.land_written(arriving.file, arriving.temporary)


class _Arriving:
    """A large file on its way: written and hashed as it comes."""

    def __init__(self, directory: CacheDirectory, file: RemoteFile) -> None:
        self.file = file
        self.temporary = directory.temporary()
        self.received = 0
        self._directory = directory
        self._hash = hasher(file.digest, file.size)
        self._open = contextlib.ExitStack()
        self._out: BinaryIO | None = None

    def write(self, block: bytes) -> None:
        if self._out is None:
            self._out = self._open.enter_context(self._directory.writing(self.temporary))
        self._hash.update(block)
        with self._directory.errors():
            self._out.write(block)
        self.received += len(block)

    def verify(self) -> None:
        self._open.close()
        if self.received != self.file.size:
            raise Fault(f"{self.received} bytes instead of {self.file.size}")
        if self._hash.hexdigest() != self.file.digest.partition(":")[2]:
            raise Fault("wrong bytes")

    def drop(self) -> None:
        with contextlib.suppress(OSError, Step37Error):
            self._open.close()
        with contextlib.suppress(Step37Error):
            self._directory.discard(self.temporary)


def _summary(failed: dict[str, str], total: int) -> str:
    named = listed((f"{name} ({reason})" for name, reason in failed.items()), 5)
    return (
        f"{len(failed):,} of {total:,} files could not be fetched: {named}:"
        " what was fetched is kept, run it again"
    )
