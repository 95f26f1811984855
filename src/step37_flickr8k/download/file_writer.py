"""Verifies and writes files: in a worker process, or a table in the downloader's own."""

import contextlib
import os
import time
from collections.abc import Sequence

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.dataset.digests import digest_of_bytes
from step37_flickr8k.download.jobs import Done, Job
from step37_flickr8k.errors import Step37Error
from step37_flickr8k.threads import DaemonPool

__all__ = ["FileWriter"]

# A file that takes longer to write is on a shared file system, which serves many writes at once.
_SLOW = 0.005  # s
_WRITERS = 8  # threads that write then


class FileWriter:
    """Verifies and writes what jobs hold."""

    def __init__(self, directory: CacheDirectory, served: int | None = None) -> None:
        """Work for a directory; in a worker ``served`` is the process id of the downloader."""
        self._directory = directory
        self._served = served
        self._slow = False
        self._writers: DaemonPool | None = None

    def write_all(self, jobs: Sequence[Job]) -> list[Done]:
        """Return what became of each job, so far."""
        start = time.monotonic()
        if not self._slow:
            done = [self._write(job) for job in jobs]
            self._slow = time.monotonic() - start > _SLOW * len(jobs)
            return done
        self._writers = self._writers or DaemonPool(_WRITERS, "step37-files")
        return [*self._writers.map(self._write, jobs)]

    def discard(self, job: Job) -> None:
        """Delete what was written of a failed job; the next sweep deletes what can't be now."""
        if job.content is not None:
            with contextlib.suppress(Step37Error):
                self._directory.discard(job.path)

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
            self.discard(job)
            return Done(error=error)
        return Done()
