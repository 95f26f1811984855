"""A split in bulk, from its Parquet conversion: a few requests instead of one for each file.

An image of the conversion counts only if its hash is that of a file wanted. Workers read, hash and
write them: nothing of a Parquet file is parsed in this process.
"""

import logging
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.dataset.listing import RemoteFile
from step37_flickr8k.download.batches import Batches, Publish, VerifiedFile
from step37_flickr8k.download.chunks import (
    LARGEST,
    ImageChunk,
    NotReadable,
    ParquetTail,
    ReaderDied,
    footer_size,
)
from step37_flickr8k.download.jobs import Job
from step37_flickr8k.download.loop import Report, Reporter, run_tasks
from step37_flickr8k.download.parquet_jobs import Found, ParquetRequest
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
_FIRST_READ = 64 << 10  # bytes at the end of a file that pyarrow reads first
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
        with Batches(workers, publish) as batches:
            async with connected(source, options) as client:
                await _BulkDownload(client, batches, workers, wanted).run(shards, progress)

    run_in_loop(main)


class _BulkDownload:
    """A download in bulk."""

    def __init__(
        self,
        client: HttpClient,
        batches: Batches,
        workers: Workers,
        wanted: Collection[RemoteFile],
    ) -> None:
        self._client = client
        self._statistics = client.statistics
        self._batches = batches
        self._workers = workers
        self._missing = _Missing(wanted, workers.directory)
        self._count, self._size = len(wanted), sum(file.size for file in wanted)
        self._opened: list[_Shard] = []
        # Bytes of row groups that may turn out not to be wanted, before the first match.
        self._unmatched_allowed = 0

    async def run(self, shards: Sequence[RemoteFile], progress: Report) -> None:
        reporter = Reporter(progress, self._client, files=self._count, size=self._size)
        await run_tasks(reporter, [self._open(file) for file in shards])
        chunks = [chunk for shard in self._opened for chunk in shard.chunks]
        lengths = [chunk.end - chunk.start for chunk in chunks]
        self._unmatched_allowed = sum(chunk.size for chunk in chunks) - self._size
        fitting = _BUFFERED // max(lengths, default=1)
        streams = max(1, min(_STREAMS, fitting, self._client.connections))
        parts = [
            _Part(shard, run)
            for shard in self._opened
            for run in _cut(shard.chunks, sum(lengths) / streams)
        ]
        remaining = iter(parts)
        await run_tasks(reporter, [self._work(remaining) for _ in range(streams)])

    async def _open(self, file: RemoteFile) -> None:
        """Read the footer of a Parquet file."""
        try:
            tail = await self._client.retry(file.name, partial(self._read_tail, file, _TAIL))
            footer = footer_size(tail[-8:])
            if footer > len(tail):
                tail = await self._client.retry(file.name, partial(self._read_tail, file, footer))
            known = ParquetTail(file.size, tail[-max(footer, _FIRST_READ) :])
            chunks = await self._batches.in_thread(self._workers.open_parquet, known)
        except (GivenUp, NotReadable) as error:
            log.warning(
                "%s can't be used, its images are fetched file by file: %s", file.name, error
            )
        else:
            readable = [chunk for chunk in chunks if chunk.is_readable]
            if left := len(chunks) - len(readable):
                log.warning(
                    "%s: %d row groups have more than %d MB of images, which are fetched file by"
                    " file",
                    *(file.name, left, LARGEST >> 20),
                )
            self._opened.append(_Shard(file, known, readable))

    async def _read_tail(self, file: RemoteFile, length: int) -> bytearray:
        span = (max(0, file.size - length), file.size)
        async with await self._client.get(file.name, span) as response:
            return await read_exactly(self._client.pieces(response), span[1] - span[0])

    async def _work(self, remaining: Iterator["_Part"]) -> None:
        for part in remaining:
            name = part.shard.file.name
            try:
                while part.chunks and self._missing and not part.shard.unreadable:
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
                async for piece in self._client.pieces(response):
                    content += piece
                    while part.chunks and at + len(content) >= part.chunks[0].end:
                        chunk = part.chunks[0]
                        del content[: chunk.start - at]  # other columns
                        size = chunk.end - chunk.start
                        await self._publish_images(part.shard, chunk, content[:size])
                        del content[:size]
                        at = chunk.end
                        part.chunks.pop(0)
                        part.done += 1
                        if not self._missing or part.shard.unreadable:
                            return
        except FAULTS as error:
            if part.done == done_before:
                raise
            # Row groups were read before the fault: the rest has all attempts again.
            self._statistics.retries[as_fault(error).cause] += 1
        else:
            if part.chunks:
                raise Fault("truncated")

    async def _publish_images(self, shard: "_Shard", chunk: ImageChunk, content: bytearray) -> None:
        request = ParquetRequest(shard.tail, chunk, content, self._missing.kinds)
        wanted: dict[Path, RemoteFile] = {}
        take = partial(self._missing.take_all, wanted)
        try:
            finished = await self._batches.in_thread(self._workers.read_parquet, request, take)
        except NotReadable as error:
            # The next row group may do the same
            shard.unreadable = isinstance(error, ReaderDied)
            self._statistics.retries["unreadable row group"] += 1
            log.warning(
                "row group %d of %s can't be read, its images are fetched file by file: %s",
                *(chunk.row_group, shard.file.name, error),
            )
            return
        verified = [
            VerifiedFile(wanted[job.path], job.path, done.examined)
            for job, done in finished
            if done.error is None
        ]
        await self._batches.publish(verified)
        for _, done in finished:
            if done.error is not None:
                raise done.error
        self._statistics.files += len(verified)
        self._statistics.bytes += sum(each.file.size for each in verified)
        self._unmatched_allowed -= chunk.size
        if self._unmatched_allowed < 0 and not self._statistics.files:
            raise GivenUp("none of its images is one that is wanted: is it of another commit?")


class _Missing:
    """The files still wanted, by digest; used by many threads."""

    def __init__(self, wanted: Collection[RemoteFile], directory: CacheDirectory) -> None:
        self._lock = threading.Lock()
        self._directory = directory
        self._files: dict[str, list[RemoteFile]] = {}
        for file in wanted:
            self._files.setdefault(file.digest, []).append(file)
        self.kinds = sorted({f"{digest.partition(':')[0]}:" for digest in self._files})

    def __bool__(self) -> bool:
        return bool(self._files)

    def take_all(
        self, taken: dict[Path, RemoteFile], images: Sequence[Found]
    ) -> list[tuple[int, Job]]:
        """Return jobs for the files whose content is among these images, with their numbers.

        They are no longer missing then; they are added to ``taken``, by the paths of the jobs.
        """
        jobs = []
        for number, image in enumerate(images):
            for file in self._take(image):
                job = Job(self._directory.temporary_for(file.name), file.name)
                taken[job.path] = file
                jobs.append((number, job))
        return jobs

    def _take(self, image: Found) -> list[RemoteFile]:
        with self._lock:
            found = [file for each in image.digests for file in self._files.pop(each, [])]
        return [file for file in found if file.size == image.size]


@dataclass
class _Shard:
    """A Parquet file whose footer was read; no more is read of one that is ``unreadable``."""

    file: RemoteFile
    tail: ParquetTail
    chunks: Sequence[ImageChunk]
    unreadable: bool = False


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
