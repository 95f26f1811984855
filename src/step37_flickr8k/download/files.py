"""Many files at once: one GET for each, streamed and verified, every fault retried.

Memory is needed for the files in flight only.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.dataset.digests import hasher
from step37_flickr8k.dataset.listing import RemoteFile
from step37_flickr8k.dataset.words import listed
from step37_flickr8k.download.batches import PER_CONNECTION, Batches, Publish
from step37_flickr8k.download.loop import Report, Reporter, run_tasks
from step37_flickr8k.download.workers import Workers
from step37_flickr8k.errors import FetchFailed, Step37Error
from step37_flickr8k.hub.client import HttpClient, connected
from step37_flickr8k.hub.failures import FAULTS, read_exactly
from step37_flickr8k.hub.loop import run_in_loop
from step37_flickr8k.hub.retry import Fault, GivenUp
from step37_flickr8k.hub.source import SlowFile, Source
from step37_flickr8k.settings.options import FetchOptions

__all__ = ["fetch", "memory_in_flight"]

# Larger files are written and hashed in pieces of this size as they arrive.
_BLOCK = 1 << 20  # bytes
# Small files in memory: they are written in batches, and a batch waits for its files.
_BUFFERED = 32 << 20  # bytes


def fetch(
    files: Collection[RemoteFile],
    source: Source,
    workers: Workers,
    publish: Publish,
    *,
    options: FetchOptions,
    progress: Report,
) -> None:
    """Download files to temporary ones of the workers' directory; pass on what is verified.

    ``publish`` names those files. A file that fails doesn't stop the others. What ``publish`` or
    ``progress`` raises ends the download at once. No unfinished file stays.

    Raises:
        FetchFailed: at the end, with the names of the files that are missing.
        AccessDenied: a file may not be read.
    """

    async def main() -> None:
        # The outer context ends last, once no thread writes any more.
        with contextlib.ExitStack() as at_rest, Batches(workers, publish) as batches:
            async with connected(source, options) as client:
                download = _Download(client, batches, workers.directory, at_rest)
                await download.run(files, progress)

    run_in_loop(main)


def memory_in_flight(concurrency: int, size: int) -> int:
    """Return the bytes of memory that files of this size take while they are in flight.

    Each is in memory twice: in this process, and in a worker's pipe.
    """
    return 2 * _files_in_flight(concurrency, size) * min(size, _BLOCK)


def _files_in_flight(concurrency: int, size: int) -> int:
    """Return how many files of this size are in progress: more than there are connections.

    The others gather for a batch or are being written.
    """
    return min(concurrency * PER_CONNECTION, max(concurrency * 9 // 8, _BUFFERED // max(1, size)))


@dataclass
class _Transfer:
    """A file in progress, with the seconds and the number of its attempts so far."""

    file: RemoteFile
    seconds: float = 0.0
    tries: int = 0

    def took(self) -> SlowFile:
        return SlowFile(round(self.seconds, 3), self.file.name, self.file.size, self.tries)


class _Download:
    """A download of files; the callbacks of ``at_rest`` run once no thread writes any more."""

    def __init__(
        self,
        client: HttpClient,
        batches: Batches,
        directory: CacheDirectory,
        at_rest: contextlib.ExitStack,
    ) -> None:
        self._client = client
        self._statistics = client.statistics
        self._batches = batches
        self._directory = directory
        self._at_rest = at_rest
        self._failed: dict[str, str] = {}
        self._connections = asyncio.Semaphore(client.connections)
        self._arriving = 0  # files that aren't in memory yet, but will be
        self._spare = 0  # files that may gather before connections are idle

    async def run(self, files: Collection[RemoteFile], progress: Report) -> None:
        remaining = iter(files)
        size = sum(file.size for file in files)
        average = size // max(1, len(files))
        count = min(_files_in_flight(self._client.connections, average), len(files))
        self._spare = count - self._client.connections
        reporter = Reporter(progress, self._client, files=len(files), size=size)
        await run_tasks(reporter, [self._work(remaining) for _ in range(count)])
        if self._failed:
            raise FetchFailed(_summary(self._failed, len(files)))

    async def _work(self, remaining: Iterator[RemoteFile]) -> None:
        for file in remaining:
            transfer = _Transfer(file)
            try:
                await self._client.retry(file.name, partial(self._transfer, transfer))
            except GivenUp as error:
                self._failed[file.name] = str(error)
            else:
                self._statistics.files += 1
                self._statistics.took(transfer.took())

    async def _transfer(self, transfer: _Transfer) -> None:
        """Download a file and have it published, in one attempt."""
        content = await self._receive(transfer)
        if content is None:
            return
        published = self._batches.add(transfer.file, content)
        # Otherwise the batch would wait for a file that isn't coming, or all connections for it.
        if not self._arriving or self._batches.waiting >= self._spare > 0:
            self._batches.submit()
        await published
        self._statistics.bytes += transfer.file.size

    async def _receive(self, transfer: _Transfer) -> bytearray | None:
        """Return a file's bytes; None for a large one, which is written as it arrives."""
        file = transfer.file
        self._arriving += 1
        try:
            async with self._connections:
                # The rate limit may have been used up while this one waited for its connection.
                await self._client.until_open()
                start = time.monotonic()
                try:
                    async with await self._client.get(file.name) as response:
                        if file.size <= _BLOCK:
                            source = self._client.source_of(response)
                            return await read_exactly(
                                self._client.pieces(response), file.size, source
                            )
                        await self._receive_in_blocks(self._client.pieces(response), file)
                        return None
                finally:
                    transfer.seconds += time.monotonic() - start
                    transfer.tries += 1
        finally:
            self._arriving -= 1

    async def _receive_in_blocks(self, pieces: AsyncIterator[bytes], file: RemoteFile) -> None:
        large = _LargeFile(self._directory, file)
        pending = bytearray()
        received = 0
        try:
            async for piece in pieces:
                received += len(piece)
                self._statistics.bytes += len(piece)
                pending += piece
                if received > file.size:
                    raise Fault(f"more than {file.size} bytes")
                if len(pending) >= _BLOCK:
                    await self._batches.in_thread(large.write, bytes(pending))
                    pending.clear()
            await self._batches.in_thread(self._finish, large, bytes(pending))
        except asyncio.CancelledError:
            # A thread may still be writing it.
            self._at_rest.callback(large.drop)
            raise
        except (*FAULTS, OSError, Step37Error):
            self._statistics.bytes -= received
            large.drop()
            raise

    def _finish(self, large: "_LargeFile", rest: bytes) -> None:
        large.write(rest)
        large.verify()
        self._batches.publish_written(large.file, large.temporary)


class _LargeFile:
    """A large file in progress: written and hashed as it arrives."""

    def __init__(self, directory: CacheDirectory, file: RemoteFile) -> None:
        self.file = file
        self.temporary = directory.temporary_for(file.name)
        self._received = 0
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
        self._received += len(block)

    def verify(self) -> None:
        """Close it; raises `Fault` unless it has the right size and digest."""
        self._open.close()
        if self._received != self.file.size:
            raise Fault(f"{self._received} bytes instead of {self.file.size}")
        if self._hash.hexdigest() != self.file.digest.partition(":")[2]:
            raise Fault("wrong bytes")

    def drop(self) -> None:
        """Close and delete it."""
        with contextlib.suppress(OSError, Step37Error):
            self._open.close()
        with contextlib.suppress(Step37Error):
            self._directory.discard(self.temporary)


def _summary(failed: dict[str, str], total: int) -> str:
    named = listed((f"{name} ({reason})" for name, reason in failed.items()), limit=5)
    return (
        f"{len(failed):,} of {total:,} files could not be fetched: {named}:"
        " the others are kept, run it again"
    )
