"""A split in bulk, from its Parquet conversion: a few requests instead of one for each file.

An image of the conversion counts only if its hash is that of a file wanted.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from step37_flickr8k.dataset.digests import digest_of_bytes
from step37_flickr8k.dataset.listing import RemoteFile
from step37_flickr8k.download.batches import Batches, Publish
from step37_flickr8k.download.loop import Report, Reporter, run_tasks
from step37_flickr8k.download.parquet import ImageChunk, Images, NotReadable
from step37_flickr8k.download.workers import Workers
from step37_flickr8k.hub.client import HttpClient, connected
from step37_flickr8k.hub.failures import FAULTS, as_fault, read_exactly
from step37_flickr8k.hub.loop import run_in_loop
from step37_flickr8k.hub.retry import Fault, GivenUp
from step37_flickr8k.hub.source import Source
from step37_flickr8k.settings.options import FetchOptions

__all__ = ["fetch_bulk"]

log = logging.getLogger("step37_flickr8k")

_TAIL = 128 << 10  # bytes: the footer of a Parquet file of 500 MB has some 60 KB
_STREAMS = 4  # of row groups side by side
_BUFFERED = 40 << 20  # bytes of row groups that all streams together may hold


def fetch_bulk(
    shards: Sequence[RemoteFile],
    wanted: Collection[RemoteFile],
    source: Source,
    workers: Workers,
    publish: Publish,
    *,
    options: FetchOptions,
    progress: Report,
) -> None:
    """Read Parquet files as streams; ``publish`` each image in them that is a file wanted.

    What can't be read there, or isn't in it, is no error: `files.fetch` downloads it. What
    ``publish`` or ``progress`` raises ends the download at once.
    """

    async def main() -> None:
        with contextlib.ExitStack() as stack:
            batches = stack.enter_context(Batches(workers, publish))
            # Only one thread, because pyarrow keeps memory for each.
            reader = ThreadPoolExecutor(1, thread_name_prefix="step37-parquet")
            stack.callback(reader.shutdown, cancel_futures=True)
            async with connected(source, options) as client:
                await _BulkDownload(client, batches, reader, wanted).run(shards, progress)

    run_in_loop(main)


class _BulkDownload:
    """A download in bulk; ``reader`` is a single thread, for pyarrow."""

    def __init__(
        self,
        client: HttpClient,
        batches: Batches,
        reader: ThreadPoolExecutor,
        wanted: Collection[RemoteFile],
    ) -> None:
        self._client = client
        self._statistics = client.statistics
        self._batches = batches
        self._reader = reader
        self._missing = _Missing(wanted)
        self._count, self._size = len(wanted), sum(file.size for file in wanted)
        self._opened: list[_Shard] = []
        # Bytes of row groups that may turn out not to be wanted, before the first match.
        self._unmatched_allowed = 0

    async def run(self, shards: Sequence[RemoteFile], progress: Report) -> None:
        reporter = Reporter(progress, self._client, files=self._count, size=self._size)
        await run_tasks(reporter, [self._open(file) for file in shards])
        chunks = [chunk for shard in self._opened for chunk in shard.images.chunks]
        lengths = [chunk.end - chunk.start for chunk in chunks]
        self._unmatched_allowed = sum(chunk.size for chunk in chunks) - self._size
        fitting = _BUFFERED // max(lengths, default=1)
        streams = max(1, min(_STREAMS, fitting, self._client.connections))
        parts = [
            _Part(shard, run)
            for shard in self._opened
            for run in _cut(shard.images.chunks, sum(lengths) / streams)
        ]
        remaining = iter(parts)
        await run_tasks(reporter, [self._work(remaining) for _ in range(streams)])

    async def _open(self, file: RemoteFile) -> None:
        """Read the footer of a Parquet file."""
        try:
            tail = await self._client.retry(file.name, partial(self._read_tail, file, _TAIL))
            footer = Images.footer_size(tail[-8:])
            if footer > len(tail):
                tail = await self._client.retry(file.name, partial(self._read_tail, file, footer))
            images = await self._batches.in_thread(Images, file.size, tail)
        except (GivenUp, NotReadable) as error:
            log.warning(
                "%s can't be used, its images are fetched file by file: %s", file.name, error
            )
        else:
            self._opened.append(_Shard(file, images))

    async def _read_tail(self, file: RemoteFile, length: int) -> bytearray:
        span = (max(0, file.size - length), file.size)
        async with await self._client.get(file.name, span) as response:
            return await read_exactly(response.content.iter_any(), span[1] - span[0])

    async def _work(self, remaining: Iterator["_Part"]) -> None:
        for part in remaining:
            name = part.shard.file.name
            try:
                while part.chunks and self._missing:
                    await self._client.retry(name, partial(self._stream, part))
            except GivenUp as error:
                log.warning(
                    "the rest of %s can't be read, what is missing is fetched file by file: %s",
                    name,
                    error,
                )

    async def _stream(self, part: "_Part") -> None:
        """Read one row group after the other from one answer.

        When a fault cuts the answer, what was read is removed from the part.
        """
        at, end = part.chunks[0].start, part.chunks[-1].end
        done_before = part.done
        content = bytearray()
        try:
            async with await self._client.get(part.shard.file.name, (at, end)) as response:
                async for piece in response.content.iter_any():
                    content += piece
                    while part.chunks and at + len(content) >= part.chunks[0].end:
                        chunk = part.chunks[0]
                        del content[: chunk.start - at]  # other columns
                        size = chunk.end - chunk.start
                        await self._publish_images(part.shard.images, chunk, content[:size])
                        del content[:size]
                        at = chunk.end
                        part.chunks.pop(0)
                        part.done += 1
                        if not self._missing:
                            return
        except FAULTS as error:
            if part.done == done_before:
                raise
            # Row groups were read before the fault: the rest has all attempts again.
            self._statistics.retries[as_fault(error).cause] += 1
        else:
            if part.chunks:
                raise Fault("truncated")

    async def _publish_images(self, images: Images, chunk: ImageChunk, content: bytearray) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._reader, images.read, chunk, content)
        except NotReadable:
            self._statistics.retries["unreadable row group"] += 1
            return
        matched = await self._batches.in_thread(self._missing.take_all, found)
        published = [self._batches.add(file, image, verified=True) for file, image in matched]
        self._batches.submit()
        await asyncio.gather(*published)
        self._statistics.files += len(matched)
        self._statistics.bytes += sum(file.size for file, _ in matched)
        self._unmatched_allowed -= chunk.size
        if self._unmatched_allowed < 0 and not self._statistics.files:
            raise GivenUp("none of its images is one that is wanted: is it of another commit?")


class _Missing:
    """The files still wanted, by digest; used by many threads."""

    def __init__(self, wanted: Collection[RemoteFile]) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, list[RemoteFile]] = {}
        for file in wanted:
            self._files.setdefault(file.digest, []).append(file)
        self._kinds = {digest.partition(":")[0] for digest in self._files}

    def __bool__(self) -> bool:
        return bool(self._files)

    def take_all(self, images: Iterable[memoryview]) -> list[tuple[RemoteFile, memoryview]]:
        """Return the files whose content is among these images; they are no longer missing then."""
        return [(file, image) for image in images for file in self._take(image)]

    def _take(self, content: memoryview) -> list[RemoteFile]:
        taken = []
        for kind in self._kinds:
            digest = digest_of_bytes(content, f"{kind}:")
            with self._lock:
                found = self._files.pop(digest, [])
            taken += [file for file in found if file.size == len(content)]
        return taken


@dataclass(frozen=True)
class _Shard:
    """A Parquet file whose footer was read."""

    file: RemoteFile
    images: Images


@dataclass
class _Part:
    """Row groups that follow each other in one Parquet file; those read are removed."""

    shard: _Shard
    chunks: list[ImageChunk]
    done: int = 0


def _cut(chunks: Sequence[ImageChunk], share: float) -> Iterator[list[ImageChunk]]:
    """Yield a file's row groups in runs of about ``share`` bytes."""
    part: list[ImageChunk] = []
    size = 0
    for chunk in chunks:
        part.append(chunk)
        size += chunk.end - chunk.start
        if size >= share:
            yield part
            part, size = [], 0
    if part:
        yield part
