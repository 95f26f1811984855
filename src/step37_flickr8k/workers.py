"""Processes that hash, write and decode what has come: threads of one interpreter would only contend for it.

A worker gets files through its stdin, bytes and all, writes each under the temporary name it is told, decodes it from memory, and
answers on its stdout. It ends with the pipe. A picture that crashes it is told from one that was merely there when it died.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from step37_flickr8k.errors import Step37Error, as_value, from_value
from step37_flickr8k.folder import CacheFolder, digest_of_bytes
from step37_flickr8k.images import warm_up, why_undecodable
from step37_flickr8k.plan import METADATA

__all__ = ["Done", "Job", "Workers"]

# a package of this name that does not run our __init__, which loads the settings and all that they need
_START = """
import sys, types
del sys.path[0]
package = sys.modules["step37_flickr8k"] = types.ModuleType("step37_flickr8k")
package.__path__ = [sys.argv[1]]
from step37_flickr8k.workers import serve
serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
"""
_FEW = 4  # files that are sooner done here than by a process that must start first
_SLOW = 0.005  # s for writing a file: a shared file system, for which many may wait at once
_WRITERS = 8  # threads of a worker then
_PIPE = 1 << 20  # bytes, as many as anybody may have: a batch of small files fits


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

    flaw: str | None = None
    error: Exception | None = None
    wrong: bool = False


class Workers:
    """Workers for one cache folder, for use by many threads; they start when they are needed and must be closed."""

    def __init__(self, folder: CacheFolder) -> None:
        """Allow one for each processor of ours, four at most; none starts yet."""
        self.folder = folder
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes] | None] = queue.SimpleQueue()
        self._count = min(4, len(os.sched_getaffinity(0)))
        self._started = False
        for _ in range(self._count):
            self._idle.put(None)

    def start(self) -> None:
        """Start them now, while something else is waited for."""
        for _ in range(self._count):
            process = self._idle.get()
            with contextlib.suppress(OSError):  # then there are fewer
                process = process or self._launch()
            self._idle.put(process)

    def close(self) -> None:
        """End them."""
        for _ in range(self._count):
            with contextlib.suppress(queue.Empty):
                process = self._idle.get(timeout=5)
                if process is not None:
                    process.communicate()

    def check(self, images: Sequence[tuple[Path, str]]) -> list[str | None]:
        """Give for each image, a path and the name that it is to have, why it can't be decoded, or None.

        Raises what the file system says of one that can't be read.
        """
        done = self.do([Job(*image) for image in images])
        for each in done:
            if each.error:
                raise each.error
        return [each.flaw for each in done]

    def do(self, jobs: Sequence[Job]) -> list[Done]:
        """Do the jobs, in order; what one of them fails of is in its answer."""
        if not sys.executable or (len(jobs) <= _FEW and not self._started):
            return [*_Hands(self.folder).do(jobs)]
        done: list[Done] = []
        together, deaths = len(jobs), 0
        process = self._idle.get()
        try:
            while len(done) < len(jobs):
                asked = jobs[len(done) : len(done) + together]
                try:
                    process = process or self._launch()
                except OSError:  # no room for another process
                    return [*done, *_Hands(self.folder).do(jobs[len(done) :])]
                if (answers := _ask(process, asked)) is not None:
                    done += answers
                    deaths = 0
                    continue
                process.kill()
                process.communicate()
                process = None
                self._forget(asked)
                deaths += len(asked) == 1
                together = 1  # to see which of them it is
                if deaths == 2:  # not just once, as when the kernel needs memory
                    done.append(self._without_decoding(asked[0]))
                    deaths = 0
        finally:
            self._idle.put(process)
        return done

    def _launch(self) -> "subprocess.Popen[bytes]":
        where = [str(Path(__file__).parent), str(self.folder.root), self.folder.split, str(os.getpid())]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([sys.executable, "-c", _START, *where], **pipes)  # type: ignore[call-overload]  # noqa: S603
        _widen(process.stdin)
        self._started = True
        return process  # type: ignore[no-any-return]

    def _forget(self, jobs: Sequence[Job]) -> None:
        """Delete what a worker that has died may have begun to write."""
        for job in jobs:
            if job.content is not None:
                self.folder.discard(job.path)

    def _without_decoding(self, job: Job) -> Done:
        done = _Hands(self.folder).write(job)
        return done if done.error or done.wrong else Done("its decoder died, twice")


class _Hands:
    """What does the jobs, in a worker or here."""

    def __init__(self, folder: CacheFolder, served: int | None = None) -> None:
        self._folder = folder
        self._served = served
        self._slow = False
        self._writers: ThreadPoolExecutor | None = None

    def do(self, jobs: Sequence[Job]) -> Iterator[Done]:
        """Write all that is to be written, side by side where each takes long, then decode."""
        for job, done in zip(jobs, self._write_all(jobs), strict=True):
            yield done if done.error or done.wrong or job.name == METADATA else self._decode(job)

    def _decode(self, job: Job) -> Done:
        try:
            with self._folder.errors():
                return Done(why_undecodable(job.path if job.content is None else BytesIO(job.content), job.name))
        except Step37Error as error:
            return Done(error=error)

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
            os._exit(1)  # who is served was killed: the next run may have swept the folder already
        try:
            self._folder.put(job.path, job.content)
        except Step37Error as error:
            with contextlib.suppress(Step37Error):
                self._folder.discard(job.path)
            return Done(error=error)
        return Done()


# --- the pipe: a line of JSON that describes the jobs, then their contents; a line of JSON that answers for all -----------------


def _ask(process: "subprocess.Popen[bytes]", jobs: Sequence[Job]) -> list[Done] | None:
    """Let a worker do jobs; None if it died."""
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    told = [(str(job.path), job.name, None if job.content is None else len(job.content), job.digest) for job in jobs]
    try:
        process.stdin.write(json.dumps(told).encode() + b"\n")
        for job in jobs:
            if job.content is not None:
                process.stdin.write(job.content)
        process.stdin.flush()
    except OSError:
        return None
    answer = process.stdout.readline()
    return [_done(value) for value in json.loads(answer)] if answer.endswith(b"\n") else None


def _done(value: Mapping[str, Any] | None) -> Done:
    if value is None:
        return Done()
    return Done(value["flaw"], value["error"] and from_value(value["error"]), value["wrong"])


def _value(done: Done) -> dict[str, Any] | None:
    if done == Done():
        return None
    return {"flaw": done.flaw, "error": done.error and as_value(done.error), "wrong": done.wrong}


def serve(root: str, split: str, served: int) -> None:
    """Be a worker of the process ``served``, until the pipe ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole job; the end of the pipe is what ends this
        signal.signal(number, signal.SIG_IGN)
    warm_up()
    hands = _Hands(CacheFolder(Path(root), split), served)
    for line in sys.stdin.buffer:
        jobs = [
            Job(Path(path), name, None if size is None else sys.stdin.buffer.read(size), digest)
            for path, name, size, digest in json.loads(line)
        ]
        sys.stdout.write(json.dumps([_value(done) for done in hands.do(jobs)]) + "\n")
        sys.stdout.flush()


def _widen(pipe: BinaryIO | None) -> None:
    """Let a pipe take a batch at once, where the system allows it."""
    import fcntl  # noqa: PLC0415 - one call

    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)  # type: ignore[arg-type]
