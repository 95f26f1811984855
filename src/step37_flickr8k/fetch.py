"""Many files at once, streamed and verified: one GET a file, every fault tried again, memory for the files in flight only.

Or a split in bulk, out of its Parquet conversion: each image counts only if its hash is that of a file wanted.
"""

import asyncio
import contextlib
import heapq
import logging
import random
import re
import threading
import time
import urllib.request
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar
from urllib.parse import quote

import aiohttp
from yarl import URL

from step37_flickr8k.errors import AccessDenied, FetchFailed, Step37Error
from step37_flickr8k.folder import CacheFolder, hasher
from step37_flickr8k.parquet import ImageChunk, Images, NotReadable
from step37_flickr8k.plan import METADATA, RemoteFile
from step37_flickr8k.settings import WarmupSettings
from step37_flickr8k.workers import Job, Workers

__all__ = ["Arrived", "Quota", "Source", "Tally", "fetch", "fetch_bulk", "memory_in_flight"]

log = logging.getLogger("step37_flickr8k")

_T = TypeVar("_T")
_BLOCK = 1 << 20  # bytes: larger files are written and hashed in pieces of this size, as they come
_WRITERS = 16  # threads that hand batches to the workers, and then rename
_FEW = 4  # of them at work while the file system is quick: more would only contend for the interpreter
_GATHER = 0.004  # s in which files that have come gather, to go to a worker together
_SLOW = 0.005  # s for naming a file: a shared file system, for which many may wait at once
_BATCH = 16
_HOPS = 5
_SLOWEST = 10  # files that a tally remembers
_TICK = 0.5  # s between two words of progress
_LEAST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # s
_TAIL = 128 << 10  # bytes: the footer of a Parquet file of 500 MB has some 60 KB
_STREAMS = 4  # of row groups side by side
_BUFFERED = 40 << 20  # bytes of row groups that all streams together may hold


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the bytes come from: the quoted address of the files' folder, and the headers for its origin alone."""

    base: str
    headers: Mapping[str, str]

    def url(self, name: str) -> URL:
        """Give the address of a file."""
        return URL(self.base + quote(name), encoded=True)


@dataclass(frozen=True)
class Quota:
    """What the Hub's ``RateLimit`` headers tell: requests left now, seconds until there are more, and how many a window."""

    left: int
    reset: float
    limit: int
    window: float

    def wait(self, requests: int) -> float:
        """Give the seconds that so many requests will have to wait at least."""
        if requests <= self.left:
            return 0.0
        return self.reset + (requests - self.left - 1) // self.limit * self.window

    @classmethod
    def told(cls, headers: Mapping[str, str]) -> "Quota | None":
        """Read the headers; None if they tell nothing."""
        now = re.search(r";\s*r=(\d+)\s*;\s*t=(\d+)", headers.get("RateLimit", ""))
        policy = re.search(r";\s*q=(\d+)\s*;\s*w=(\d+)", headers.get("RateLimit-Policy", ""))
        if not now:
            return None
        limit, window = (int(policy[1]), float(policy[2])) if policy else (int(now[1]), float(now[2]))
        return cls(int(now[1]), float(now[2]), max(limit, 1), window)


@dataclass
class Tally:
    """What a fetch did; ``retries`` counts by cause, ``quota`` is what the Hub last told.

    ``slowest`` are those files that took longest: seconds of all their tries, pauses left out, the name, bytes, tries.
    """

    files: int = 0
    bytes: int = 0
    requests: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    quota: Quota | None = None
    slowest: list[tuple[float, str, int, int]] = field(default_factory=list)

    def took(self, *files: tuple[float, str, int, int]) -> None:
        """Take in how long files took."""
        self.slowest = heapq.nlargest(_SLOWEST, [*self.slowest, *files])

    def add(self, other: "Tally") -> None:
        """Add what another fetch did."""
        self.files += other.files
        self.bytes += other.bytes
        self.requests += other.requests
        self.retries += other.retries
        self.quota = other.quota or self.quota
        self.took(*other.slowest)


@dataclass(frozen=True)
class Arrived:
    """A file whose bytes match its hash, under a temporary name; ``flaw`` is why it can't be decoded, if it can't."""

    file: RemoteFile
    temporary: Path
    flaw: str = ""


class _Report(Protocol):
    def __call__(self, state: str, *, retries: Mapping[str, int] | None = None, **numbers: float) -> None: ...


class _Fault(Exception):
    """A try that failed and may be repeated; ``pause`` is what the server asked for, in seconds."""

    def __init__(self, cause: str, pause: float | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.pause = pause


class _Final(Exception):
    """A file that no further try would bring."""


def fetch(
    files: Collection[RemoteFile],
    source: Source,
    workers: Workers,
    land: Callable[[Sequence[Arrived]], None],
    *,
    settings: WarmupSettings,
    progress: _Report,
) -> Tally:
    """Fetch all files into temporary ones of the workers' folder and hand them, verified, to ``land``, which names them.

    ``land`` takes several at a time, in several threads. A file that fails doesn't stop the others: at the end `FetchFailed`
    names those that are missing. What ``land`` or ``progress`` raises ends the fetch at once; no unfinished file stays.
    """
    return _in_own_loop(lambda: _Fetch(source, workers, land, settings, progress).run(files))


def fetch_bulk(
    shards: Sequence[RemoteFile],
    wanted: Collection[RemoteFile],
    source: Source,
    workers: Workers,
    land: Callable[[Sequence[Arrived]], None],
    *,
    settings: WarmupSettings,
    progress: _Report,
) -> Tally:
    """Read Parquet files as a stream and land each image in them whose bytes are those of a file wanted.

    Raises nothing for what can't be read there or isn't in it: the tally tells how many files came, `fetch` brings the others.
    What ``land`` or ``progress`` raises ends it at once.
    """
    return _in_own_loop(lambda: _Fetch(source, workers, land, settings, progress).run_bulk(shards, wanted))


def memory_in_flight(concurrency: int, size: int) -> int:
    """Give the bytes of memory that files of this size take while they are on their way: once here, once in a worker's pipe."""
    return 2 * _places(concurrency) * min(size, _BLOCK)


def _places(concurrency: int) -> int:
    """Give how many files are in hand: more than there are connections, the others are being written."""
    return concurrency * 3 // 2


def _in_own_loop(main: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine in a thread of its own: callers may have a loop, and the main thread stays free for signals."""
    result: Future[_T] = Future()
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    async def supervised() -> _T:
        task = asyncio.ensure_future(main())
        started.set_result((asyncio.get_running_loop(), task))
        return await task

    def run() -> None:
        try:
            result.set_result(asyncio.run(supervised()))
        except BaseException as error:  # noqa: BLE001 - handed to the calling thread as it is
            result.set_exception(error)

    thread = threading.Thread(target=run, name="step37-fetch", daemon=True)
    thread.start()
    try:
        return result.result()
    except BaseException:
        if not result.done():  # this thread was interrupted, not the fetch
            loop, task = started.result()
            loop.call_soon_threadsafe(task.cancel)
            thread.join(2.0)
        raise


class _Fetch:
    def __init__(
        self,
        source: Source,
        workers: Workers,
        land: Callable[[Sequence[Arrived]], None],
        settings: WarmupSettings,
        progress: _Report,
    ) -> None:
        self._source = source
        self._origin = URL(source.base, encoded=True).origin()
        self._folder = workers.folder
        self._workers = workers
        self._land = land
        self._settings = settings
        self._progress = progress
        self._tally = Tally()
        self._of = 0, 0  # files and bytes that are wanted
        self._proxies = _Proxies()
        self._failed: dict[str, str] = {}
        self._come: deque[_Whole] = deque()  # files that wait for a thread
        self._busy, self._limit = 0, _FEW  # threads at work on them
        self._strange = 0  # bytes of row groups that may turn out not to be wanted
        self._dropped: list[_Arriving] = []  # while a thread may still be writing them
        self._open_at = 0.0  # by the loop's clock: before it nobody asks, since the quota is used up
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="step37-writer")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="step37-parquet")  # pyarrow keeps memory for each thread

    async def run(self, files: Collection[RemoteFile]) -> Tally:
        waiting = iter(files)
        self._of = len(files), sum(file.size for file in files)
        async with self._session() as session:
            count = min(_places(self._settings.concurrency), len(files))
            workers = [self._work(session, waiting) for _ in range(count)]
            await _beside(self._keep_telling(), workers)
        self._tell()
        if self._failed:
            raise FetchFailed(_summary(self._failed, len(files)))
        return self._tally

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._settings.connect_timeout, sock_read=self._settings.read_timeout
        )
        connector = aiohttp.TCPConnector(limit=self._settings.concurrency)
        # not trust_env, which looks for ~/.netrc at every request, and would send its passwords to redirects' origins
        session = aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False)
        try:
            async with session:
                yield session
        finally:
            self._reader.shutdown(cancel_futures=True)
            self._writers.shutdown(cancel_futures=True)
            for arriving in self._dropped:
                arriving.drop()

    async def _keep_telling(self) -> None:
        while True:
            quota = self._open_at - asyncio.get_running_loop().time()
            self._tell(f"waiting for quota, {quota:.0f} s" if quota > 0 else "fetching")
            await asyncio.sleep(_TICK)

    def _tell(self, state: str = "fetching") -> None:
        tally, (files, size) = self._tally, self._of
        self._progress(state, retries=tally.retries, files=tally.files, of_files=files, bytes=tally.bytes, of_bytes=size)

    # --- file by file ---

    async def _work(self, session: aiohttp.ClientSession, waiting: Iterator[RemoteFile]) -> None:
        for file in waiting:
            took: list[float] = []
            try:
                await self._patiently(file.name, lambda file=file, took=took: self._bring(session, file, took))  # type: ignore[misc]
            except _Final as error:
                self._failed[file.name] = str(error)
            else:
                self._tally.files += 1
                self._tally.took((round(sum(took), 3), file.name, file.size, len(took)))

    async def _bring(self, session: aiohttp.ClientSession, file: RemoteFile, took: list[float]) -> None:
        start = time.monotonic()
        try:
            async with await self._get(session, file.name) as response:
                if file.size <= _BLOCK:
                    await self._receive_whole(response, file)
                else:
                    await self._receive_in_blocks(response, file)
        finally:
            took.append(time.monotonic() - start)

    async def _receive_whole(self, response: aiohttp.ClientResponse, file: RemoteFile) -> None:
        content = bytearray()
        async for piece in response.content.iter_any():
            content += piece
            if len(content) > file.size:
                raise _Fault(f"more than {file.size} bytes")
        if len(content) != file.size:
            raise _Fault(f"{len(content)} bytes instead of {file.size}")
        await self._hand_over(file, content)
        self._tally.bytes += file.size

    def _hand_over(self, file: RemoteFile, content: bytearray | memoryview, *, verified: bool = False) -> asyncio.Future[None]:
        """Have a worker verify and write a file, then land it; those that come together go together, at half the cost."""
        landed = asyncio.get_running_loop().create_future()
        self._come.append(_Whole(file, content, landed, verified))
        if len(self._come) == 1:
            asyncio.get_running_loop().call_later(_GATHER, self._submit)
        return landed

    def _submit(self) -> None:
        while self._come and self._busy < self._limit:
            batch = [self._come.popleft() for _ in range(min(_BATCH, len(self._come)))]
            self._busy += 1
            self._writers.submit(self._finish_batch, batch, asyncio.get_running_loop())

    def _finish_batch(self, batch: "list[_Whole]", loop: asyncio.AbstractEventLoop) -> None:
        """Have a worker verify, write and decode the files, then land those that are right together."""
        errors: list[BaseException | None] = [None] * len(batch)
        arrived: list[Arrived] = []
        try:
            jobs = [
                Job(self._folder.temporary(), whole.file.name, whole.content, "" if whole.verified else whole.file.digest)
                for whole in batch
            ]
            for number, (job, done) in enumerate(zip(jobs, self._workers.do(jobs), strict=True)):
                if done.wrong:
                    errors[number] = _Fault("wrong bytes")
                elif done.error:
                    errors[number] = done.error
                else:
                    arrived.append(Arrived(batch[number].file, job.path, done.flaw or ""))
            self._land_together(arrived)
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits for these files
            errors = [error] * len(batch)
            for each in arrived:
                self._folder.discard(each.temporary)
        loop.call_soon_threadsafe(self._settle, batch, errors)

    def _land_together(self, arrived: list[Arrived]) -> None:
        start = time.monotonic()
        self._land(arrived)
        if time.monotonic() - start > _SLOW * len(arrived):
            self._limit = min(self._limit + 1, _WRITERS)

    def _settle(self, batch: "list[_Whole]", errors: list[BaseException | None]) -> None:
        self._busy -= 1
        self._submit()
        for whole, error in zip(batch, errors, strict=True):
            if whole.landed.done():  # nobody waits any more
                continue
            if error is None:
                whole.landed.set_result(None)
            else:
                whole.landed.set_exception(error)

    async def _receive_in_blocks(self, response: aiohttp.ClientResponse, file: RemoteFile) -> None:
        arriving = _Arriving(self._folder, file)
        pending = bytearray()
        came = 0
        try:
            async for piece in response.content.iter_any():
                came += len(piece)
                self._tally.bytes += len(piece)
                pending += piece
                if came > file.size:
                    raise _Fault(f"more than {file.size} bytes")  # noqa: TRY301 - dropped like any other fault
                if len(pending) >= _BLOCK:
                    await self._in_thread(arriving.write, bytes(pending))
                    pending.clear()
            await self._in_thread(self._finish, arriving, bytes(pending))
        except asyncio.CancelledError:
            self._dropped.append(arriving)
            raise
        except (_Fault, aiohttp.ClientError, OSError, Step37Error):
            self._tally.bytes -= came
            arriving.drop()
            raise

    def _finish(self, arriving: "_Arriving", rest: bytes) -> None:
        arriving.write(rest)
        arriving.verify()
        flaw = None if arriving.file.name == METADATA else self._workers.check([(arriving.temporary, arriving.file.name)])[0]
        self._land([Arrived(arriving.file, arriving.temporary, flaw or "")])

    def _in_thread(self, function: Callable[..., _T], *arguments: Any) -> "asyncio.Future[_T]":
        return asyncio.get_running_loop().run_in_executor(self._writers, function, *arguments)

    # --- in bulk ---

    async def run_bulk(self, shards: Sequence[RemoteFile], wanted: Collection[RemoteFile]) -> Tally:
        missing = _Missing(wanted)
        opened: list[tuple[RemoteFile, Images]] = []
        size = sum(file.size for file in wanted)
        self._of = len(wanted), size
        async with self._session() as session:
            await _beside(self._keep_telling(), [self._open(session, shard, opened) for shard in shards])
            lengths = [chunk.end - chunk.start for _, images in opened for chunk in images.chunks]
            self._strange = sum(chunk.size for _, images in opened for chunk in images.chunks) - size
            streams = max(1, min(_STREAMS, _BUFFERED // max(lengths, default=1), self._settings.concurrency))
            parts = iter([_Part(*one, part) for one in opened for part in _cut(one[1].chunks, sum(lengths) / streams)])
            await _beside(self._keep_telling(), [self._stream(session, parts, missing) for _ in range(streams)])
        self._tell()
        return self._tally

    async def _open(self, session: aiohttp.ClientSession, shard: RemoteFile, opened: list[tuple[RemoteFile, Images]]) -> None:
        async def read_tail(length: int) -> bytes:
            async with await self._get(session, shard.name, (max(0, shard.size - length), shard.size)) as response:
                return await _whole(response, min(length, shard.size))

        try:
            tail = await self._patiently(shard.name, lambda: read_tail(_TAIL))
            footer = Images.footer_size(tail[-8:])
            if footer > len(tail):
                tail = await self._patiently(shard.name, lambda: read_tail(footer))
            opened.append((shard, await self._in_thread(Images, shard.size, tail)))
        except (_Final, NotReadable) as error:
            log.warning("%s can't be used, its images come file by file: %s", shard.name, error)

    async def _stream(self, session: aiohttp.ClientSession, waiting: Iterator["_Part"], missing: "_Missing") -> None:
        for part in waiting:
            try:
                while part.chunks and missing:
                    await self._patiently(part.shard.name, lambda: self._stream_part(session, part, missing))  # noqa: B023
            except _Final as error:
                log.warning("%s can't be read on, what is missing comes file by file: %s", part.shard.name, error)

    async def _stream_part(self, session: aiohttp.ClientSession, part: "_Part", missing: "_Missing") -> None:
        """Read one row group after the other from one answer; what has come is gone from the part when a fault cuts it."""
        at, end = part.chunks[0].start, part.chunks[-1].end
        came_before = part.done
        content = bytearray()
        try:
            async with await self._get(session, part.shard.name, (at, end)) as response:
                async for piece in response.content.iter_any():
                    content += piece
                    while part.chunks and at + len(content) >= part.chunks[0].end:
                        chunk = part.chunks[0]
                        del content[: chunk.start - at]  # other columns
                        size = chunk.end - chunk.start
                        await self._land_images(part.images, chunk, content[:size], missing)
                        del content[:size]
                        at = chunk.end
                        part.chunks.pop(0)
                        part.done += 1
                        if not missing:
                            return
        except (_Fault, aiohttp.ClientError, TimeoutError, asyncio.TimeoutError) as error:
            if part.done == came_before:
                raise
            self._tally.retries[_cause_of(error)] += 1  # it went on for a while: from there, with all tries anew
        else:
            if part.chunks:
                raise _Fault("truncated")

    async def _land_images(self, images: Images, chunk: ImageChunk, content: bytearray, missing: "_Missing") -> None:
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._reader, lambda: [*images.read(chunk, content)])
        except NotReadable:
            self._tally.retries["unreadable row group"] += 1
            return
        matched = await self._in_thread(lambda: [(file, image) for image in found for file in missing.take(image)])
        landed = [self._hand_over(file, image, verified=True) for file, image in matched]
        self._submit()
        await asyncio.gather(*landed)
        self._tally.files += len(matched)
        self._tally.bytes += sum(file.size for file, _ in matched)
        self._strange -= chunk.size
        if self._strange < 0 and not self._tally.files:
            raise _Final("none of its images is one that is wanted: is it of another commit?")

    # --- requests ---

    async def _patiently(self, name: str, once: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Do something with a request in it, again after what may pass; raises `_Final` when all tries are used up."""
        attempt = 0
        while True:
            await self._quota()
            try:
                return await once()
            except (_Fault, aiohttp.ClientError, TimeoutError, asyncio.TimeoutError) as error:
                cause = _cause_of(error)
                attempt += cause != "429"  # waiting for quota is no failure of this file
                if attempt >= self._settings.attempts:
                    raise _Final(f"{cause} ({attempt} tries)") from error
                self._tally.retries[cause] += 1
                log.debug("%s: %s, try %d", name, cause, attempt)
                asked = error.pause if isinstance(error, _Fault) else None
                await self._pause(asked, attempt, everybody=cause == "429")

    async def _quota(self) -> None:
        while (left := self._open_at - asyncio.get_running_loop().time()) > 0:  # noqa: ASYNC110 - it may have moved on meanwhile
            await asyncio.sleep(left + random.uniform(0, 0.1))  # noqa: S311 - jitter

    async def _pause(self, asked: float | None, attempt: int, *, everybody: bool) -> None:
        pause = asked if asked is not None else min(_LONGEST_PAUSE, 0.2 * 2**attempt) * random.uniform(0.5, 1)  # noqa: S311
        if everybody:
            self._close_for(pause)
        else:
            await asyncio.sleep(pause)

    def _close_for(self, pause: float) -> None:
        self._open_at = max(self._open_at, asyncio.get_running_loop().time() + pause)

    async def _get(
        self, session: aiohttp.ClientSession, name: str, span: tuple[int, int] | None = None
    ) -> aiohttp.ClientResponse:
        """Ask for a file, or for the bytes ``[start, end)`` of it, and follow redirects; raises what isn't an answer to that."""
        url = self._source.url(name)
        for _ in range(_HOPS):
            headers = {"Accept-Encoding": "identity"}  # the bytes themselves are hashed
            if span is not None:
                headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
            if url.origin() == self._origin:  # the token must not follow a redirect to another origin
                headers |= self._source.headers
            self._tally.requests += 1
            proxy = self._proxies.of(url)
            response = await session.get(url, headers=headers, allow_redirects=False, proxy=proxy)
            self._heed(response.headers)
            if response.status == (200 if span is None else 206):
                return response
            async with response:
                if not 300 <= response.status < 400 or "Location" not in response.headers:
                    raise self._refusal(response, name)
                if response.content_length is not None and response.content_length < 1 << 16:
                    await response.read()  # else the connection would be closed
                url = url.join(URL(response.headers["Location"], encoded=True))
                if url.scheme not in {"http", "https"} or url.host is None:
                    raise _Final(f"redirected to {url.scheme or 'nowhere'}:, which is not followed")
        raise _Final(f"more than {_HOPS} redirects")

    def _heed(self, headers: Mapping[str, str]) -> None:
        """Keep what the Hub tells of its quota; when none is left nobody asks for what would be refused."""
        if "RateLimit" in headers and (quota := Quota.told(headers)) is not None:
            self._tally.quota = quota
            if quota.left == 0:
                self._close_for(quota.reset)

    def _refusal(self, response: aiohttp.ClientResponse, name: str) -> Exception:
        status = response.status
        if status in {401, 403}:
            return AccessDenied(f"the Hub refuses {name} ({status}): check that the token is valid and may read it")
        if status in {408, 429} or status >= 500:
            return _Fault(str(status), _asked_pause(response.headers))
        return _Final(f"the Hub answered {status} {response.reason}")


@dataclass(frozen=True, slots=True)
class _Whole:
    """A file that is here, in memory, and who waits for it to land."""

    file: RemoteFile
    content: bytearray | memoryview
    landed: "asyncio.Future[None]"
    verified: bool  # found by its hash


class _Arriving:
    """A large file on its way: written and hashed as it comes."""

    def __init__(self, folder: CacheFolder, file: RemoteFile) -> None:
        self.file = file
        self.temporary = folder.temporary()
        self.received = 0
        self._folder = folder
        self._hash = hasher(file.digest, file.size)
        self._open = contextlib.ExitStack()
        self._out: BinaryIO | None = None

    def write(self, block: bytes) -> None:
        if self._out is None:
            self._out = self._open.enter_context(self._folder.writing(self.temporary))
        self._hash.update(block)
        with self._folder.errors():
            self._out.write(block)
        self.received += len(block)

    def verify(self) -> None:
        self._open.close()
        if self.received != self.file.size:
            raise _Fault(f"{self.received} bytes instead of {self.file.size}")
        if self._hash.hexdigest() != self.file.digest.partition(":")[2]:
            raise _Fault("wrong bytes")

    def drop(self) -> None:
        with contextlib.suppress(OSError, Step37Error):
            self._open.close()
        self._folder.discard(self.temporary)


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


class _Proxies:
    """The proxies that the environment names, as Python's own client reads them (``HTTPS_PROXY``, ``NO_PROXY``...)."""

    def __init__(self) -> None:
        self._by_origin: dict[URL, str | None] = {}

    def of(self, url: URL) -> str | None:
        origin = url.origin()
        if origin not in self._by_origin:
            proxies = urllib.request.getproxies()
            host = url.host_port_subcomponent or ""
            proxy = None if urllib.request.proxy_bypass(host) else proxies.get(url.scheme, proxies.get("all"))
            self._by_origin[origin] = proxy if proxy is None or "://" in proxy else f"http://{proxy}"
        return self._by_origin[origin]


async def _whole(response: aiohttp.ClientResponse, size: int) -> bytes:
    content = bytearray()
    async for piece in response.content.iter_any():
        content += piece
        if len(content) > size:
            break
    if len(content) != size:
        raise _Fault(f"{len(content)} bytes instead of {size}")
    return bytes(content)


async def _beside(ticker: Coroutine[Any, Any, None], workers: list[Coroutine[Any, Any, None]]) -> None:
    """Run the workers with a ticker beside them; what one of them raises ends all."""
    tick = asyncio.ensure_future(ticker)
    tasks = [asyncio.ensure_future(worker) for worker in workers]
    work = asyncio.gather(*tasks)
    both: set[asyncio.Future[Any]] = {tick, work}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (tick, *tasks):
            task.cancel()
        ended = await asyncio.gather(work, tick, return_exceptions=True)
        await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):
            raise error


def _cause_of(error: Exception) -> str:
    if isinstance(error, _Fault):
        return error.cause
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "truncated"
    return "connection"


def _asked_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds after which the server wants to be asked again: ``Retry-After``, or ``t`` of its ``RateLimit``."""
    asked = headers.get("Retry-After", "")
    quota = Quota.told(headers)
    if asked.isdigit():
        return max(float(asked), _LEAST_PAUSE)
    return max(quota.reset, _LEAST_PAUSE) if quota is not None and quota.left == 0 else None


def _summary(failed: dict[str, str], total: int) -> str:
    told = ", ".join(f"{name} ({reason})" for name, reason in list(failed.items())[:5])
    more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
    return f"{len(failed)} of {total} files could not be fetched: {told}{more}: what came is kept, run it again"
