"""The worker processes of a download.

Hashing, writing and decoding are spread over processes, since threads of one interpreter would
contend for it. No image is ever decoded in this process: strangers published them, and workers have
limits (`limited`). An image that crashes a worker is found by asking again for each of its batch
alone.
"""

import contextlib
import importlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.dataset.names import is_table
from step37_flickr8k.dataset.selection import MAX_PIXELS
from step37_flickr8k.download.chunks import ImageChunk, ParquetTail, ReaderDied
from step37_flickr8k.download.file_writer import FileWriter
from step37_flickr8k.download.jobs import Done, Job
from step37_flickr8k.download.parquet_jobs import ParquetRequest
from step37_flickr8k.download.worker_process import CannotStart, Take, WorkerDied, WorkerProcess
from step37_flickr8k.errors import TransientError
from step37_flickr8k.images.examined import Examined
from step37_flickr8k.limited.budget import Budget, image_memory, image_seconds

__all__ = ["Workers"]

log = logging.getLogger("step37_flickr8k")

_T = TypeVar("_T")

_MOST = 4  # workers
_CLOSING = 5.0  # s for a worker that another thread still uses


class Workers:
    """Workers for one cache directory, for use by many threads.

    They start when they are needed and must be closed.
    """

    def __init__(self, directory: CacheDirectory, max_pixels: int = MAX_PIXELS) -> None:
        """Allow one for each processor of this process, four at most; none starts yet."""
        self.directory = directory
        self._max_pixels = max_pixels
        count = min(_MOST, len(os.sched_getaffinity(0)))
        self._shared = os.memfd_create("step37-workers")
        budget = Budget.of(image_memory(max_pixels), count)
        self._usable = [
            WorkerProcess(directory, max_pixels, budget, self._shared) for _ in range(count)
        ]
        self._lock = threading.Lock()
        self._idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
        self._stopped = False
        for worker in self._usable:
            self._idle.put(worker)

    def start(self) -> None:
        """Start them now, so that they are ready when the first files arrive."""
        for _ in self._usable:
            # Fewer workers than wanted, or none, are enough.
            with self._one() as worker, contextlib.suppress(CannotStart):
                worker.start()

    def stop(self) -> None:
        """Kill them in the middle of their work: nobody needs it any more."""
        self._stopped = True
        for worker in self._usable:
            worker.kill()

    def close(self) -> None:
        """End them."""
        for _ in self._usable:
            if self._idle.empty():
                self.stop()
            with contextlib.suppress(queue.Empty):
                self._idle.get(timeout=_CLOSING).end()
        os.close(self._shared)

    def check(self, images: Sequence[tuple[Path, str]]) -> list[Examined]:
        """Return for each image, a path and its final name, what decoding it has shown.

        Raises the file system's error for one that can't be read.
        """
        done = self.do([Job(*image) for image in images])
        for each in done:
            if each.error:
                raise each.error
        return [each.examined for each in done]

    def do(self, jobs: Sequence[Job]) -> list[Done]:
        """Return what became of each job, in order; a failed job doesn't stop the others.

        A table is only written, which needs no worker. Raises `TransientError` where no worker can
        start.
        """
        if all(is_table(job.name) for job in jobs):
            return FileWriter(self.directory).write_all(jobs)
        return self._by_one(lambda worker: self._done_by(worker, jobs))

    def open_parquet(self, tail: ParquetTail) -> list[ImageChunk]:
        """Return where the images of a Parquet file are; raises `NotReadable`."""
        return self._by_one(lambda worker: worker.open_parquet(tail))

    def read_parquet(self, request: ParquetRequest, take: Take) -> list[tuple[Job, Done]]:
        """Have those images of a row group that ``take`` wants written and decoded.

        Returns the jobs that this made; raises `NotReadable`.
        """
        return self._by_one(lambda worker: worker.read_parquet(request, take))

    def _by_one(self, work: Callable[[WorkerProcess], _T]) -> _T:
        """Return what one of the workers makes of some work."""
        while True:
            with self._one() as worker:
                try:
                    return work(worker)
                except CannotStart as error:
                    self._do_without(worker, error)
                except WorkerDied as error:
                    if self._stopped:
                        raise
                    raise ReaderDied(f"it ended the process that reads it ({error})") from error

    def _done_by(self, worker: WorkerProcess, jobs: Sequence[Job]) -> list[Done]:
        try:
            return worker.ask(jobs)
        except WorkerDied as error:
            if self._stopped or isinstance(error, CannotStart):
                raise
        return [self._do_alone(worker, job) for job in jobs]

    def _do_without(self, worker: WorkerProcess, error: CannotStart) -> None:
        """Go on without a worker that can't start; raises what it means that none is left.

        That is an ImportError if Pillow can't be loaded, else a `TransientError`.
        """
        if self._stopped:
            raise error
        with self._lock:
            if len(self._usable) > 1:
                log.warning("a process that decodes images can't start (%s): others go on", error)
                self._usable.remove(worker)
                return
        # If it is Pillow that can't be loaded, its own error says why, which no worker can.
        importlib.import_module("step37_flickr8k.images.decoding")
        raise TransientError(
            f"no process that decodes images can start ({error}): raise ulimit -n, -u and -v, or"
            " the container's limits of pids and memory, or repair the installation of Pillow"
        ) from error

    @contextlib.contextmanager
    def _one(self) -> Iterator[WorkerProcess]:
        worker = self._idle.get()
        try:
            yield worker
        finally:
            if worker in self._usable:
                self._idle.put(worker)

    def _do_alone(self, worker: WorkerProcess, job: Job) -> Done:
        """Do one job of a batch that killed a worker, to find the one that did."""
        how = ""
        # Twice: the first time the kernel may just have needed memory.
        for _ in range(2):
            try:
                return worker.ask([job])[0]
            except WorkerDied as error:
                if self._stopped or isinstance(error, CannotStart):
                    raise
                if error.timed_out:
                    return self._too_slow(job)
                how = str(error)
        # No decode error: nobody knows whether it is the image or this machine, and a decode error
        # would be believed by every later run.
        return Done(
            error=TransientError(
                f"{job.name}: the process that decodes it died twice ({how}): give the job more"
                " memory, or check whether Pillow works on this machine"
            )
        )

    def _too_slow(self, job: Job) -> Done:
        """Write a file whose image takes too long to decode: it is left out, as a broken one is."""
        seconds = image_seconds(self._max_pixels)
        shown = Examined(
            f"decoding it takes more than {seconds} s of processor time: see max_pixels",
            too_large=self._max_pixels + 1,
        )
        (done,) = FileWriter(self.directory).write_all([job])
        return done if done.error or done.wrong else Done(shown)
