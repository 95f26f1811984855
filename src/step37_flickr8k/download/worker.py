"""A worker process: it hashes, writes and decodes files that arrive through its stdin.

The parent writes a line of JSON that describes the jobs, then their contents; the worker answers
with a line of JSON for all of them. It ends when its stdin ends. The same jobs can be done in the
parent's own process, by `JobRunner`.
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.dataset.digests import digest_of_bytes
from step37_flickr8k.dataset.metadata import METADATA
from step37_flickr8k.errors import ErrorReport, Step37Error, TransientError
from step37_flickr8k.images import warm_up, why_undecodable

__all__ = ["READY", "REMEDY", "Done", "Job", "JobRunner", "as_job_line", "done_of", "forget"]

_SLOW = 0.005  # s for writing a file: a shared file system, for which many may wait at once
_WRITERS = 8  # threads of a worker then
READY = b"step37: ready\n"  # its first words, after what others may have written there
REMEDY = "give the job more memory"


@dataclass(frozen=True, slots=True)
class Job:
    """A file at ``path`` that is to be called ``name``, to be decoded; if there is ``content``, to be verified and written first.

    Without a digest it is not verified.
    """

    path: Path
    name: str
    content: bytes | bytearray | memoryview | None = None
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a job: why the image can't be decoded, or why it was not written; ``wrong`` are bytes of another digest."""

    decode_error: str | None = None
    error: Exception | None = None
    wrong: bool = False


class JobRunner:
    """What does the jobs, in a worker or here."""

    def __init__(self, directory: CacheDirectory, served: int | None = None) -> None:
        self._directory = directory
        self._served = served
        self._slow = False
        self._writers: ThreadPoolExecutor | None = None

    def do(self, jobs: Sequence[Job]) -> Iterator[Done]:
        """Write all that is to be written, side by side where each takes long, then decode."""
        for job, done in zip(jobs, self._write_all(jobs), strict=True):
            yield done if done.error or done.wrong or job.name == METADATA else self._decode(job)

    def _decode(self, job: Job) -> Done:
        try:
            with self._directory.errors():
                return Done(
                    why_undecodable(
                        job.path if job.content is None else BytesIO(job.content), job.name
                    )
                )
        except Step37Error as error:
            return Done(error=error)
        except MemoryError:  # a fact about this machine, not about the picture
            forget(self._directory, job)
            return Done(
                error=TransientError(f"{job.name}: not enough memory to decode it: {REMEDY}")
            )

    def _write_all(self, jobs: Sequence[Job]) -> list[Done]:
        start = time.monotonic()
        if not self._slow:
            done = [self.write(job) for job in jobs]
            self._slow = time.monotonic() - start > _SLOW * len(jobs)
            return done
        self._writers = self._writers or ThreadPoolExecutor(_WRITERS)
        return [*self._writers.map(self.write, jobs)]

    def write(self, job: Job) -> Done:
        """Verify a job's content and write it, if there is any."""
        if job.content is None:
            return Done()
        if job.digest and digest_of_bytes(job.content, job.digest) != job.digest:
            return Done(wrong=True)
        if self._served not in {None, os.getppid()}:
            # Who is served was killed: the next run may have swept the directory already
            os._exit(1)
        try:
            self._directory.put(job.path, job.content)
        except Step37Error as error:
            forget(self._directory, job)
            return Done(error=error)
        return Done()


def forget(directory: CacheDirectory, job: Job) -> None:
    """Delete what may have been written of a job that failed; what can't be deleted is left to the next sweep."""
    if job.content is not None:
        with contextlib.suppress(Step37Error):
            directory.discard(job.path)


def as_job_line(jobs: Sequence[Job]) -> bytes:
    """Return the line of JSON that announces jobs; their contents follow it."""
    told = [
        (str(job.path), job.name, None if job.content is None else len(job.content), job.digest)
        for job in jobs
    ]
    return json.dumps(told).encode() + b"\n"


def done_of(value: Mapping[str, Any] | None) -> Done:
    """Return what became of a job, from a worker's answer."""
    if value is None:
        return Done()
    error = ErrorReport.from_json(value["error"]).exception() if value["error"] else None
    return Done(value["decode_error"], error, value["wrong"])


def _value(done: Done) -> dict[str, Any] | None:
    if done == Done():
        return None
    return {
        "decode_error": done.decode_error,
        "error": ErrorReport.of(done.error).as_json() if done.error else None,
        "wrong": done.wrong,
    }


def serve(root: str, split: str, served: int) -> None:
    """Be a worker of the process ``served``, until the pipe ends."""
    # Sent to the whole job; the end of the pipe is what ends this
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what others print is no answer
        warm_up()
        _serve(out, JobRunner(CacheDirectory(Path(root), split), served))
    # The interpreter's own end takes as long as a dozen pictures, and somebody waits for it
    os._exit(0)


def _serve(out: BinaryIO, hands: JobRunner) -> None:
    out.write(b"\n" + READY)
    out.flush()
    for line in sys.stdin.buffer:
        jobs = [
            Job(Path(path), name, None if size is None else sys.stdin.buffer.read(size), digest)
            for path, name, size, digest in json.loads(line)
        ]
        out.write(json.dumps([_value(done) for done in hands.do(jobs)]).encode() + b"\n")
        out.flush()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
