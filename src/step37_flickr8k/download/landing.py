"""The landing of files that have come: workers take them in batches, and what they find right is then named, batch by batch."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from step37_flickr8k.dataset.listing import RemoteFile
from step37_flickr8k.dataset.metadata import METADATA
from step37_flickr8k.download.workers import Job, Workers
from step37_flickr8k.errors import Step37Error
from step37_flickr8k.hub.retry import Fault

__all__ = ["IN_HAND", "Arrived", "Land", "Landing"]

_T = TypeVar("_T")
IN_HAND = 3  # files for each connection, at most: one comes, the others gather and are written
_WRITERS = 16  # threads that hand batches to the workers, and then rename
# Of them at work while the file system is quick: more would only contend for the interpreter
_FEW = 4
_GATHER = 0.024  # s in which files that have come gather, to go to a worker together
_SLOW = 0.005  # s for naming a file: a shared file system, for which many may wait at once
_BATCH = 100  # files, at most: every batch costs a millisecond, in which its worker is idle
_ENOUGH = 16  # files for another batch while one is under way; and for any where each takes long


@dataclass(frozen=True)
class Arrived:
    """A file whose bytes match its hash, under a temporary name; ``decode_error`` is why it can't be decoded, if it can't."""

    file: RemoteFile
    temporary: Path
    decode_error: str = ""


Land = Callable[[Sequence[Arrived]], None]


class Landing:
    """Where files land, for use in one event loop, as a context: an error ends what the workers are at."""

    def __init__(self, workers: Workers, land: Land) -> None:
        """Land what the workers find right: ``land`` names it."""
        self._directory = workers.directory
        self._workers = workers
        self._land = land
        self._come: deque[_Whole] = deque()  # files that wait for a thread
        self._busy, self._limit = 0, _FEW  # threads at work on them
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="step37-writer")

    def __enter__(self) -> "Landing":  # noqa: PYI034 - Python 3.10 has no Self
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # nobody waits for any of it
            self._come.clear()
            self._workers.stop()
        self._writers.shutdown(cancel_futures=True)  # it waits for what they are at

    def in_thread(self, function: Callable[..., _T], *arguments: Any) -> "asyncio.Future[_T]":
        """Have one of the threads do something."""
        return asyncio.get_running_loop().run_in_executor(self._writers, function, *arguments)

    def hand_over(
        self, file: RemoteFile, content: bytearray | memoryview, *, verified: bool = False
    ) -> "asyncio.Future[None]":
        """Have a worker verify and write a file, then land it; those that come together go together, at half the cost."""
        landed = asyncio.get_running_loop().create_future()
        self._come.append(_Whole(file, content, landed, verified))
        if len(self._come) == 1:
            asyncio.get_running_loop().call_later(_GATHER, self._submit_some)
        return landed

    @property
    def gathered(self) -> int:
        """How many files wait for others to go with."""
        return len(self._come)

    def submit(self) -> None:
        """Let what was handed over wait no longer for others to go with."""
        while self._come and self._busy < self._limit:
            self._send()

    def _submit_some(self) -> None:
        """Send on what has gathered; a few files alone only where no thread is at work, or each takes long: many cost less."""
        while (
            self._come
            and self._busy < self._limit
            and (not self._busy or self._limit > _FEW or len(self._come) >= _ENOUGH)
        ):
            self._send()

    def _send(self) -> None:
        most = _ENOUGH if self._limit > _FEW else _BATCH
        batch = [self._come.popleft() for _ in range(min(most, len(self._come)))]
        self._busy += 1
        self._writers.submit(self._finish_batch, batch, asyncio.get_running_loop())

    def land_written(self, file: RemoteFile, temporary: Path) -> None:
        """Land a file that was written and verified elsewhere, in the thread that calls."""
        decode_error = (
            None if file.name == METADATA else self._workers.check([(temporary, file.name)])[0]
        )
        self._land([Arrived(file, temporary, decode_error or "")])

    def _finish_batch(self, batch: "list[_Whole]", loop: asyncio.AbstractEventLoop) -> None:
        """Have a worker verify, write and decode the files, then land those that are right together."""
        errors: list[BaseException | None] = [None] * len(batch)
        arrived: list[Arrived] = []
        try:
            jobs = [
                Job(
                    self._directory.temporary(),
                    whole.file.name,
                    whole.content,
                    "" if whole.verified else whole.file.digest,
                )
                for whole in batch
            ]
            for number, (job, done) in enumerate(zip(jobs, self._workers.do(jobs), strict=True)):
                if done.wrong:
                    errors[number] = Fault("wrong bytes")
                elif done.error:
                    errors[number] = done.error
                else:
                    arrived.append(Arrived(batch[number].file, job.path, done.decode_error or ""))
            self._land_together(arrived)
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits for these files
            errors = [error] * len(batch)
            # Else nobody would hear of the error; the next sweep deletes them
            with contextlib.suppress(Step37Error):
                for each in arrived:
                    self._directory.discard(each.temporary)
        loop.call_soon_threadsafe(self._settle, batch, errors)

    def _land_together(self, arrived: list[Arrived]) -> None:
        start = time.monotonic()
        self._land(arrived)
        if time.monotonic() - start > _SLOW * len(arrived):
            self._limit = min(self._limit + 1, _WRITERS)

    def _settle(self, batch: "list[_Whole]", errors: list[BaseException | None]) -> None:
        self._busy -= 1
        self._submit_some()
        for whole, error in zip(batch, errors, strict=True):
            if whole.landed.done():  # nobody waits any more
                continue
            if error is None:
                whole.landed.set_result(None)
            else:
                whole.landed.set_exception(error)


@dataclass(frozen=True, slots=True)
class _Whole:
    """A file that is here, in memory, and who waits for it to land."""

    file: RemoteFile
    content: bytearray | memoryview
    landed: "asyncio.Future[None]"
    verified: bool  # found by its hash
