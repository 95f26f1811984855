"""A split in bulk, out of its Parquet conversion: each image counts only if its hash is that of a file wanted."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from step37_flickr8k.dataset.digests import hasher
from step37_flickr8k.dataset.listing import RemoteFile
from step37_flickr8k.download.landing import Land, Landing
from step37_flickr8k.download.loop import Report, beside, tell
from step37_flickr8k.download.parquet import ImageChunk, Images, NotReadable
from step37_flickr8k.download.workers import Workers
from step37_flickr8k.hub.client import FAULTS, HttpClient, as_fault, connected, read_exactly
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
    land: Land,
    *,
    options: FetchOptions,
    progress: Report,
) -> None:
    """Read Parquet files as a stream and land each image in them whose bytes are those of a file wanted.

    Raises nothing for what can't be read there or isn't in it: `fetch` brings the others.
    What ``land`` or ``progress`` raises ends it at once.
    """

    async def main() -> None:
        with contextlib.ExitStack() as stack:
            landing = stack.enter_context(Landing(workers, land))
            # Pyarrow keeps memory for each thread
            reader = ThreadPoolExecutor(1, thread_name_prefix="step37-parquet")
            stack.callback(reader.shutdown, cancel_futures=True)
            async with connected(source, options) as client:
                await _Bulk(client, landing, reader, wanted).run(shards, progress)

    run_in_loop(main)


class _Bulk:
    """A fetch in bulk; ``reader`` is a single thread, for pyarrow."""

    def __init__(
        self,
        client: HttpClient,
        landing: Landing,
        reader: ThreadPoolExecutor,
        wanted: Collection[RemoteFile],
    ) -> None:
        self._client = client
        self._statistics = client.statistics
        self._landing = landing
        self._reader = reader
        self._missing = _Missing(wanted)
        self._count, self._size = len(wanted), sum(file.size for file in wanted)
        self._opened: list[tuple[RemoteFile, Images]] = []
        self._strange = 0  # bytes of row groups that may turn out not to be wanted

    async def run(self, shards: Sequence[RemoteFile], progress: Report) -> None:
        telling = partial(tell, progress, self._client, files=self._count, size=self._size)
        await beside(telling(), [self._open(shard) for shard in shards])
        lengths = [chunk.end - chunk.start for _, images in self._opened for chunk in images.chunks]
        self._strange = (
            sum(chunk.size for _, images in self._opened for chunk in images.chunks) - self._size
        )
        streams = max(
            1, min(_STREAMS, _BUFFERED // max(lengths, default=1), self._client.connections)
        )
        parts = iter(
            [
                _Part(*one, part)
                for one in self._opened
                for part in _cut(one[1].chunks, sum(lengths) / streams)
            ]
        )
        await beside(telling(), [self._stream(parts) for _ in range(streams)])

    async def _open(self, shard: RemoteFile) -> None:
        async def read_tail(length: int) -> bytearray:
            async with await self._client.get(
                shard.name, (max(0, shard.size - length), shard.size)
            ) as response:
                return await read_exactly(response.content.iter_any(), min(length, shard.size))

        try:
            tail = await self._client.retry(shard.name, lambda: read_tail(_TAIL))
            footer = Images.footer_size(tail[-8:])
            if footer > len(tail):
                tail = await self._client.retry(shard.name, lambda: read_tail(footer))
            self._opened.append((shard, await self._landing.in_thread(Images, shard.size, tail)))
        except (GivenUp, NotReadable) as error:
            log.warning("%s can't be used, its images come file by file: %s", shard.name, error)

    async def _stream(self, waiting: Iterator["_Part"]) -> None:
        for part in waiting:
            try:
                while part.chunks and self._missing:
                    await self._client.retry(part.shard.name, lambda: self._stream_part(part))  # noqa: B023
            except GivenUp as error:
                log.warning(
                    "%s can't be read on, what is missing comes file by file: %s",
                    part.shard.name,
                    error,
                )

    async def _stream_part(self, part: "_Part") -> None:
        """Read one row group after the other from one answer; what has come is gone from the part when a fault cuts it."""
        at, end = part.chunks[0].start, part.chunks[-1].end
        came_before = part.done
        content = bytearray()
        try:
            async with await self._client.get(part.shard.name, (at, end)) as response:
                async for piece in response.content.iter_any():
                    content += piece
                    while part.chunks and at + len(content) >= part.chunks[0].end:
                        chunk = part.chunks[0]
                        del content[: chunk.start - at]  # other columns
                        size = chunk.end - chunk.start
                        await self._land_images(part.images, chunk, content[:size])
                        del content[:size]
                        at = chunk.end
                        part.chunks.pop(0)
                        part.done += 1
                        if not self._missing:
                            return
        except FAULTS as error:
            if part.done == came_before:
                raise
            # It went on for a while: from there, with all tries anew
            self._statistics.retries[as_fault(error).cause] += 1
        else:
            if part.chunks:
                raise Fault("truncated")

    async def _land_images(self, images: Images, chunk: ImageChunk, content: bytearray) -> None:
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._reader, lambda: [*images.read(chunk, content)]
            )
        except NotReadable:
            self._statistics.retries["unreadable row group"] += 1
            return
        matched = await self._landing.in_thread(
            lambda: [(file, image) for image in found for file in self._missing.take(image)]
        )
        landed = [self._landing.hand_over(file, image, verified=True) for file, image in matched]
        self._landing.submit()
        await asyncio.gather(*landed)
        self._statistics.files += len(matched)
        self._statistics.bytes += sum(file.size for file, _ in matched)
        self._strange -= chunk.size
        if self._strange < 0 and not self._statistics.files:
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

    def take(self, content: memoryview) -> list[RemoteFile]:
        """Give the files that have this content, by size and hash; they are no longer missing then."""
        taken = []
        for kind in self._kinds:
            hashing = hasher(f"{kind}:", len(content))
            hashing.update(content)
            with self._lock:
                found = self._files.pop(f"{kind}:{hashing.hexdigest()}", [])
            taken += [file for file in found if file.size == len(content)]
        return taken


@dataclass
class _Part:
    """Row groups that follow each other in one Parquet file; those read are gone."""

    shard: RemoteFile
    images: Images
    chunks: list[ImageChunk]
    done: int = 0


def _cut(chunks: Sequence[ImageChunk], share: float) -> Iterator[list[ImageChunk]]:
    """Cut a file's row groups into runs of about ``share`` bytes."""
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
