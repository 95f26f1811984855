"""Batches of files that have arrived: workers verify, write and decode them; then a publisher.

A file that goes to a worker alone costs a round trip; in a batch it costs half of that.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from step37_flickr8k.dataset.listing import RemoteFile
from step37_flickr8k.dataset.names import is_table
from step37_flickr8k.download.jobs import Job
from step37_flickr8k.download.workers import Workers
from step37_flickr8k.errors import Step37Error
from step37_flickr8k.hub.retry import Fault
from step37_flickr8k.images.examined import FINE, Examined
from step37_flickr8k.threads import DaemonPool

__all__ = ["PER_CONNECTION", "Batches", "Publish", "VerifiedFile"]

_T = TypeVar("_T")
_P = ParamSpec("_P")

# Files in progress for each connection, at most: one arrives, the others gather and are written.
PER_CONNECTION = 3
# Threads that pass batches to the workers and publish them. A few while the file system is quick:
# more would contend for the interpreter. Up to all where publishing takes long, on a shared file
# system that serves many at once.
_THREADS, _FEW_THREADS = 16, 4
_GATHER = 0.024  # s in which files gather, to go to a worker together
_SLOW = 0.005  # s to publish a file
# Files of a batch at most: each batch costs a millisecond, in which its worker is idle.
_LARGEST = 100
_HEAVIEST = 16 << 20  # bytes of a batch, but for its first and its last file
# Files that are enough for another batch while one is under way. Where publishing takes long it is
# also the most files of a batch.
_ENOUGH = 16


@dataclass(frozen=True)
class VerifiedFile:
    """A file under a temporary name whose bytes match its digest.

    ``examined`` is what decoding its image has shown.
    """

    file: RemoteFile
    temporary: Path
    examined: Examined = FINE


# Publishes verified files under their final names; called in several threads.
Publish = Callable[[Sequence[VerifiedFile]], None]


class Batches:
    """Takes in files that have arrived, for use in one event loop, as a context.

    An error that ends the context ends the workers' work, too.
    """

    def __init__(self, workers: Workers, publish: Publish) -> None:
        """Publish with ``publish`` what the workers verified."""
        self._directory = workers.directory
        self._workers = workers
        self._publish = publish
        self._waiting: deque[_Item] = deque()
        self._busy, self._limit = 0, _FEW_THREADS
        self._threads = DaemonPool(_THREADS, "step37-writer")

    def __enter__(self) -> "Batches":  # noqa: PYI034 - Python 3.10 has no Self
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            # Nobody needs the result any more.
            self._waiting.clear()
            self._workers.stop()
        # This waits for the batches under way.
        self._threads.shutdown(cancel_futures=True)

    def in_thread(
        self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> "asyncio.Future[_T]":
        """Return the future result of a function that one of the threads calls."""
        call = partial(function, *args, **kwargs)
        return asyncio.get_running_loop().run_in_executor(self._threads, call)

    def add(self, file: RemoteFile, content: bytearray) -> "asyncio.Future[None]":
        """Have a file verified, written, decoded and published.

        Returns a future that is done when it is published, or has failed: with `Fault` for wrong
        bytes. The file waits a moment for further ones to form a batch.
        """
        published = asyncio.get_running_loop().create_future()
        self._waiting.append(_Item(file, content, published))
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(_GATHER, self._submit_some)
        return published

    @property
    def waiting(self) -> int:
        """How many files wait for further ones to form a batch."""
        return len(self._waiting)

    def submit(self) -> None:
        """Submit the files that wait, without waiting for further ones."""
        while self._waiting and self._busy < self._limit:
            self._submit_batch()

    async def publish(self, verified: Sequence[VerifiedFile]) -> None:
        """Publish files that are written, verified and decoded already.

        Many side by side where that takes long.
        """
        most = _ENOUGH if self._limit > _FEW_THREADS else max(1, len(verified))
        parts = [verified[at : at + most] for at in range(0, len(verified), most)]
        await asyncio.gather(*(self.in_thread(self._publish_timed, part) for part in parts))

    def publish_written(self, file: RemoteFile, temporary: Path) -> None:
        """Decode and publish a file that is written and verified already, in the calling thread."""
        examined = FINE
        if not is_table(file.name):
            examined = self._workers.check([(temporary, file.name)])[0]
        self._publish([VerifiedFile(file, temporary, examined)])

    def _submit_some(self) -> None:
        """Submit what has gathered.

        Many files together cost less. So a few are submitted alone only if no batch is under way,
        or if publishing takes long.
        """
        while (
            self._waiting
            and self._busy < self._limit
            and (not self._busy or self._limit > _FEW_THREADS or len(self._waiting) >= _ENOUGH)
        ):
            self._submit_batch()

    def _submit_batch(self) -> None:
        most = _ENOUGH if self._limit > _FEW_THREADS else _LARGEST
        batch, size = [self._waiting.popleft()], 0
        while self._waiting and len(batch) < most and size < _HEAVIEST:
            batch.append(self._waiting.popleft())
            size += len(batch[-1].content)
        self._busy += 1
        self._threads.submit(self._finish, batch, asyncio.get_running_loop())

    def _finish(self, batch: "list[_Item]", loop: asyncio.AbstractEventLoop) -> None:
        """Have a worker verify, write and decode the files, then publish those that are right."""
        errors: list[BaseException | None]
        try:
            errors = self._finished(batch)
        except BaseException as error:  # noqa: BLE001 - for whoever awaits these files
            errors = [error] * len(batch)
        loop.call_soon_threadsafe(self._settle, batch, errors)

    def _finished(self, batch: "list[_Item]") -> list[BaseException | None]:
        """Return what each file failed of; raises what publishing failed of."""
        jobs = [
            Job(
                self._directory.temporary_for(item.file.name),
                item.file.name,
                item.content,
                item.file.digest,
            )
            for item in batch
        ]
        errors: list[BaseException | None] = []
        verified: list[VerifiedFile] = []
        for item, job, done in zip(batch, jobs, self._workers.do(jobs), strict=True):
            error = Fault("wrong bytes") if done.wrong else done.error
            errors.append(error)
            if error is None:
                verified.append(VerifiedFile(item.file, job.path, done.examined))
        try:
            self._publish_timed(verified)
        except BaseException:
            # An error of deleting would hide this one; the next sweep deletes what is left.
            with contextlib.suppress(Step37Error):
                for each in verified:
                    self._directory.discard(each.temporary)
            raise
        return errors

    def _publish_timed(self, verified: Sequence[VerifiedFile]) -> None:
        start = time.monotonic()
        self._publish(verified)
        if time.monotonic() - start > _SLOW * len(verified):
            self._limit = min(self._limit + 1, _THREADS)

    def _settle(self, batch: "list[_Item]", errors: list[BaseException | None]) -> None:
        self._busy -= 1
        self._submit_some()
        for item, error in zip(batch, errors, strict=True):
            if item.published.done():  # cancelled
                continue
            if error is None:
                item.published.set_result(None)
            else:
                item.published.set_exception(error)


@dataclass(frozen=True, slots=True)
class _Item:
    """A file in memory, and the future of whoever awaits that it is published."""

    file: RemoteFile
    content: bytearray
    published: "asyncio.Future[None]"
