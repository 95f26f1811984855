"""Many files at once, streamed and verified: one GET a file, every fault tried again, memory for the files in flight only."""

import asyncio
import contextlib
import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

import aiohttp
from yarl import URL

from step37_flickr8k.errors import AccessDenied, FetchFailed, Step37Error
from step37_flickr8k.folder import CacheFolder, hasher
from step37_flickr8k.plan import RemoteFile
from step37_flickr8k.settings import WarmupSettings

__all__ = ["Source", "Tally", "fetch"]

log = logging.getLogger("step37_flickr8k")

_T = TypeVar("_T")
_BLOCK = 1 << 20  # bytes of a file in memory before they are written
_WRITERS = 16  # threads that hash, write and rename: a shared file system takes milliseconds for each
_HOPS = 5
_TICK = 0.5  # s between two words of progress
_LEAST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # s


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the bytes come from: the address of a file by name, and the headers for its origin alone."""

    url: Callable[[str], str]
    headers: Mapping[str, str]


@dataclass
class Tally:
    """What a fetch did; ``retries`` counts by cause."""

    files: int = 0
    bytes: int = 0
    requests: int = 0
    retries: Counter[str] = field(default_factory=Counter)


class _Report(Protocol):
    def __call__(self, state: str, **numbers: float) -> None: ...


class _Fault(Exception):
    """A try that failed and may be repeated; ``pause`` is what the server asked for, in seconds."""

    def __init__(self, cause: str, pause: float | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.pause = pause


class _Final(Exception):
    """A file that no further try would bring."""


def fetch(
    files: Iterable[RemoteFile],
    source: Source,
    folder: CacheFolder,
    land: Callable[[Path, RemoteFile], None],
    *,
    settings: WarmupSettings,
    progress: _Report,
) -> Tally:
    """Fetch all files into temporary ones of the folder and hand each, verified, to ``land``, which gives it its name.

    ``land`` runs in a thread of its own. A file that fails doesn't stop the others: at the end `FetchFailed` names those that
    are missing. What ``land`` or ``progress`` raises ends the fetch at once; no unfinished file stays.
    """
    return _in_own_loop(lambda: _Fetch(source, folder, land, settings, progress).run(list(files)))


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
        folder: CacheFolder,
        land: Callable[[Path, RemoteFile], None],
        settings: WarmupSettings,
        progress: _Report,
    ) -> None:
        self._source = source
        self._folder = folder
        self._land = land
        self._settings = settings
        self._progress = progress
        self._tally = Tally()
        self._failed: dict[str, str] = {}
        self._dropped: list[_Arriving] = []  # while a thread may still be writing them
        self._open_at = 0.0  # by the loop's clock: before it nobody asks, since the quota is used up
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="step37-writer")

    async def run(self, files: list[RemoteFile]) -> Tally:
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._settings.connect_timeout, sock_read=self._settings.read_timeout
        )
        connector = aiohttp.TCPConnector(limit=self._settings.concurrency)
        session = aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=True, auto_decompress=False)
        waiting = iter(files)
        try:
            async with session:
                workers = [self._work(session, waiting) for _ in range(min(self._settings.concurrency, len(files)))]
                await _beside(self._tell(files), workers)
        finally:
            self._writers.shutdown(cancel_futures=True)
            for arriving in self._dropped:
                arriving.drop()
        if self._failed:
            raise FetchFailed(_summary(self._failed, len(files)))
        return self._tally

    async def _tell(self, files: list[RemoteFile]) -> None:
        size = sum(file.size for file in files)
        while True:
            quota = self._open_at - asyncio.get_running_loop().time()
            state = f"waiting for quota, {quota:.0f} s" if quota > 0 else "fetching"
            tally = self._tally
            self._progress(state, files=tally.files, of_files=len(files), bytes=tally.bytes, of_bytes=size)
            await asyncio.sleep(_TICK)

    async def _work(self, session: aiohttp.ClientSession, waiting: Iterable[RemoteFile]) -> None:
        for file in waiting:
            try:
                await self._bring(session, file)
            except _Final as error:
                self._failed[file.name] = str(error)

    async def _bring(self, session: aiohttp.ClientSession, file: RemoteFile) -> None:
        attempt = 0
        while True:
            await self._quota()
            try:
                await self._try(session, file)
            except (_Fault, aiohttp.ClientError, TimeoutError, asyncio.TimeoutError) as error:
                cause = error.cause if isinstance(error, _Fault) else _cause(error)
                attempt += cause != "429"  # waiting for quota is no failure of this file
                if attempt >= self._settings.attempts:
                    raise _Final(f"{cause} ({attempt} tries)") from error
                self._tally.retries[cause] += 1
                log.debug("%s: %s, try %d", file.name, cause, attempt)
                asked = error.pause if isinstance(error, _Fault) else None
                await self._pause(asked, attempt, everybody=cause == "429")
            else:
                self._tally.files += 1
                return

    async def _quota(self) -> None:
        while (left := self._open_at - asyncio.get_running_loop().time()) > 0:  # noqa: ASYNC110 - it may have moved on meanwhile
            await asyncio.sleep(left + random.uniform(0, 0.1))  # noqa: S311 - jitter

    async def _pause(self, asked: float | None, attempt: int, *, everybody: bool) -> None:
        pause = asked if asked is not None else min(_LONGEST_PAUSE, 0.2 * 2**attempt) * random.uniform(0.5, 1)  # noqa: S311
        if everybody:
            self._open_at = max(self._open_at, asyncio.get_running_loop().time() + pause)
        else:
            await asyncio.sleep(pause)

    async def _try(self, session: aiohttp.ClientSession, file: RemoteFile) -> None:
        url = URL(self._source.url(file.name), encoded=True)
        origin = url.origin()
        for _ in range(_HOPS):
            headers = {"Accept-Encoding": "identity"}  # the bytes themselves are hashed
            if url.origin() == origin:  # the token must not follow a redirect to another origin
                headers |= self._source.headers
            self._tally.requests += 1
            async with session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status == 200:
                    await self._receive(response, file)
                    return
                if not 300 <= response.status < 400 or "Location" not in response.headers:
                    raise self._refusal(response, file)
                url = url.join(URL(response.headers["Location"], encoded=True))
        raise _Final(f"more than {_HOPS} redirects")

    def _refusal(self, response: aiohttp.ClientResponse, file: RemoteFile) -> Exception:
        status = response.status
        if status in {401, 403}:
            return AccessDenied(f"the Hub refuses {file.name} ({status}): check that the token is valid and may read it")
        if status in {408, 429} or status >= 500:
            return _Fault(str(status), _asked_pause(response.headers))
        return _Final(f"the Hub answered {status} {response.reason}")

    async def _receive(self, response: aiohttp.ClientResponse, file: RemoteFile) -> None:
        in_thread = asyncio.get_running_loop().run_in_executor
        arriving = _Arriving(self._folder, file)
        pending = bytearray()
        came = 0
        try:
            async for chunk in response.content.iter_any():
                came += len(chunk)
                self._tally.bytes += len(chunk)
                pending += chunk
                if len(pending) >= _BLOCK:
                    await in_thread(self._writers, arriving.write, bytes(pending))
                    pending.clear()
            await in_thread(self._writers, self._finish, arriving, bytes(pending))
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
        self._land(arriving.temporary, arriving.file)


class _Arriving:
    """A file on its way: written and hashed as it comes."""

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
        self._out.write(block)
        self.received += len(block)

    def verify(self) -> None:
        self._open.close()
        if self.received != self.file.size:
            raise _Fault(f"{self.received} bytes instead of {self.file.size}")
        if self._hash.hexdigest() != self.file.digest.partition(":")[2]:
            raise _Fault("wrong bytes")

    def drop(self) -> None:
        with contextlib.suppress(OSError):
            self._open.close()
        self._folder.discard(self.temporary)


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


def _cause(error: Exception) -> str:
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "truncated"
    return "connection"


def _asked_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds after which the server wants to be asked again: ``Retry-After``, or ``t`` of its ``RateLimit``."""
    asked = headers.get("Retry-After", "")
    if not asked.isdigit():
        parts = (part.strip() for part in headers.get("RateLimit", "").split(";"))
        asked = next((part[2:] for part in parts if part.startswith("t=")), "")
    return max(float(asked), _LEAST_PAUSE) if asked.isdigit() else None


def _summary(failed: dict[str, str], total: int) -> str:
    told = ", ".join(f"{name} ({reason})" for name, reason in list(failed.items())[:5])
    more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
    return f"{len(failed)} of {total} files could not be fetched: {told}{more}: what came is kept, run it again"
