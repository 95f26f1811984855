"""The worker processes of a download.

Hashing, writing and decoding are spread over processes, since threads of one interpreter would
contend for it. An image that crashes a worker is found by asking again for each of its batch alone.
"""

import contextlib
import os
import queue
from collections.abc import Iterator, Sequence
from pathlib import Path

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.dataset.selection import MAX_PIXELS
from step37_flickr8k.download.jobs import Done, Job
from step37_flickr8k.download.worker_process import CannotStart, WorkerDied, WorkerProcess
from step37_flickr8k.errors import TransientError
from step37_flickr8k.images.examined import Examined

__all__ = ["Workers"]

_MOST = 4  # workers
_FEW = 4  # files that are done sooner here than by a process that must start first
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
        self._all = [WorkerProcess(directory, max_pixels) for _ in range(count)]
        self._idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
        self._started = self._stopped = False
        for worker in self._all:
            self._idle.put(worker)

    def start(self) -> None:
        """Start them now, so that they are ready when the first files arrive."""
        self._started = True
        for _ in self._all:
            # Fewer workers than wanted, or none, are enough.
            with self._one() as worker, contextlib.suppress(CannotStart):
                worker.start()

    def stop(self) -> None:
        """Kill them in the middle of their work: nobody needs it any more."""
        self._stopped = True
        for worker in self._all:
            worker.kill()

    def close(self) -> None:
        """End them."""
        for _ in self._all:
            if self._idle.empty():
                self.stop()
            with contextlib.suppress(queue.Empty):
                self._idle.get(timeout=_CLOSING).end()

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
        """Return what became of each job, in order; a failed job doesn't stop the others."""
        # Pillow's own limit is global to a process, and this one may be the user's.
        if len(jobs) <= _FEW and not self._started and self._max_pixels <= MAX_PIXELS:
            return self._do_here(jobs)
        self._started = True
        with self._one() as worker:
            try:
                return worker.ask(jobs)
            except WorkerDied as error:
                if self._stopped:
                    raise
                if isinstance(error, CannotStart):
                    return self._do_here(jobs)
            return [self._do_alone(worker, job) for job in jobs]

    def _do_here(self, jobs: Sequence[Job]) -> list[Done]:
        # Imported late: it loads Pillow, which a warm start does without.
        from step37_flickr8k.download.job_runner import JobRunner  # noqa: PLC0415

        return [*JobRunner(self.directory, self._max_pixels).do(jobs)]

    @contextlib.contextmanager
    def _one(self) -> Iterator[WorkerProcess]:
        worker = self._idle.get()
        try:
            yield worker
        finally:
            self._idle.put(worker)

    def _do_alone(self, worker: WorkerProcess, job: Job) -> Done:
        """Do one job of a batch that killed a worker, to find the one that did."""
        how = ""
        # Twice: the first time the kernel may just have needed memory.
        for _ in range(2):
            try:
                return worker.ask([job])[0]
            except WorkerDied as error:
                if self._stopped:
                    raise
                how = str(error)
        # No decode error: nobody knows whether it is the image or this machine, and a decode error
        # would be believed by every later run.
        return Done(
            error=TransientError(
                f"{job.name}: the process that decodes it died twice ({how}): give the job more"
                " memory, or check whether Pillow works on this machine"
            )
        )
