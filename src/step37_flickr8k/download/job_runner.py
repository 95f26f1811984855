"""Verifies, writes and decodes files: in a worker process, or a few of them in the downloader's."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.dataset.digests import digest_of_bytes
from step37_flickr8k.dataset.names import is_table
from step37_flickr8k.download.jobs import Done, Job
from step37_flickr8k.errors import Step37Error, TransientError
from step37_flickr8k.images.decoding import examine

__all__ = ["JobRunner"]

# A file that takes longer to write is on a shared file system, which serves many writes at once.
_SLOW = 0.005  # s
_WRITERS = 8  # threads that write then


class JobRunner:
    """Does jobs in this process."""

    def __init__(
        self, directory: CacheDirectory, max_pixels: int, served: int | None = None
    ) -> None:
        """Work for a directory; in a worker ``served`` is the process id of the downloader."""
        self._directory = directory
        self._max_pixels = max_pixels
        self._served = served
        self._slow = False
        self._writers: ThreadPoolExecutor | None = None

    def do(self, jobs: Sequence[Job]) -> Iterator[Done]:
        """Yield what becomes of each job: all are written, then decoded one by one."""
        for job, done in zip(jobs, self._write_all(jobs), strict=True):
            yield done if done.error or done.wrong or is_table(job.name) else self._decode(job)

    def _decode(self, job: Job) -> Done:
        source = job.path if job.content is None else job.content
        try:
            with self._directory.errors():
                return Done(examine(source, job.name, self._max_pixels))
        except Step37Error as error:
            return Done(error=error)
        # This says something about the machine, nothing about the image.
        except MemoryError:
            self._discard(job)
            return Done(
                error=TransientError(
                    f"{job.name}: not enough memory to decode it: give the job more memory"
                )
            )

    def _write_all(self, jobs: Sequence[Job]) -> list[Done]:
        start = time.monotonic()
        if not self._slow:
            done = [self._write(job) for job in jobs]
            self._slow = time.monotonic() - start > _SLOW * len(jobs)
            return done
        self._writers = self._writers or ThreadPoolExecutor(_WRITERS)
        return [*self._writers.map(self._write, jobs)]

    def _write(self, job: Job) -> Done:
        """Verify and write a job's content, if there is any."""
        if job.content is None:
            return Done()
        if job.digest and digest_of_bytes(job.content, job.digest) != job.digest:
            return Done(wrong=True)
        # The downloader was killed: the next run may have swept the directory already.
        if self._served not in {None, os.getppid()}:
            os._exit(1)
        try:
            self._directory.put(job.path, job.content)
        except Step37Error as error:
            self._discard(job)
            return Done(error=error)
        return Done()

    def _discard(self, job: Job) -> None:
        """Delete what was written of a failed job; the next sweep deletes what can't be now."""
        if job.content is not None:
            with contextlib.suppress(Step37Error):
                self._directory.discard(job.path)
