"""A worker process as the downloader holds it: started when needed, asked, ended or killed."""

import contextlib
import fcntl
import json
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.download.chunks import ImageChunk, NotReadable, ParquetTail
from step37_flickr8k.download.jobs import READY, Content, Done, Job, read_done, request_line
from step37_flickr8k.download.parquet_jobs import Found, ParquetRequest, chunks_of
from step37_flickr8k.errors import Step37Error
from step37_flickr8k.limited.budget import Budget
from step37_flickr8k.limited.process import start

__all__ = ["CannotStart", "Take", "WorkerDied", "WorkerProcess"]

# Returns jobs for those of the images of a row group that are wanted, each with its number there
Take = Callable[[Sequence[Found]], Sequence[tuple[int, Job]]]

_MODULE = "step37_flickr8k.download.worker"
_PAGE = resource.getpagesize()
_LARGEST_IDLE = 256 << 20  # bytes: four times what one has that has loaded pyarrow
_CLOSING = 1.0  # s in which a worker may end by itself
_PIPE = 1 << 20  # bytes, the most that any user may have: a batch of small files fits


class WorkerDied(Step37Error):
    """Raised when a worker ended before it answered; the message says how.

    ``timed_out`` is whether it was the limit of processor time that ended it.
    """

    def __init__(self, how: str, *, timed_out: bool = False) -> None:
        """Say how it ended."""
        super().__init__(how)
        self.timed_out = timed_out


class CannotStart(WorkerDied):
    """Raised when a worker can't even start, which says nothing about its jobs."""


class WorkerProcess:
    """A process that does jobs; one thread at a time may use it, but any may kill it."""

    def __init__(
        self, directory: CacheDirectory, max_pixels: int, budget: Budget, shared: int
    ) -> None:
        """Serve a directory, within a budget; nothing is started yet.

        ``shared`` is a file that all workers share, for the lock of whoever takes much memory.
        """
        self._directory = directory
        self._numbers = (max_pixels, budget.small, budget.large, shared)
        self._shared = shared
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._killed = False

    def start(self) -> "subprocess.Popen[bytes]":
        """Return the running process, started if it isn't; raises `CannotStart`."""
        if self._killed:
            raise CannotStart("it was ended")
        if self._process is None:
            # By descriptors, because another user may have swapped what their paths lead to.
            directory, given = self._directory, self._directory.descriptors()
            named = json.dumps({path: opened.number for path, opened in given.items()})
            arguments = (directory.root, directory.split, named, *self._numbers, os.getpid())
            shared = [self._shared, *(opened.number for opened in given.values())]
            try:
                self._process = start(_MODULE, [*map(str, arguments)], shared=shared)
            except OSError as error:
                raise CannotStart(str(error)) from error
            self._ready = False
            _widen(self._process.stdin)
        # Another thread may have killed it meanwhile.
        if self._killed:
            self._process.kill()
        return self._process

    def ask(self, jobs: Sequence[Job]) -> list[Done]:
        """Return what became of each job.

        Raises `WorkerDied`; then nothing is left of what it may have begun to write.
        """
        contents = [job.content for job in jobs if job.content is not None]
        try:
            done = read_done(self._answer(request_line(jobs), contents))
        except WorkerDied:
            for job in jobs:
                if job.content is not None:
                    with contextlib.suppress(Step37Error):
                        self._directory.discard(job.path)
            raise
        self._end_if_grown()
        return done

    def open_parquet(self, tail: ParquetTail) -> list[ImageChunk]:
        """Return where the images of a Parquet file are; raises `WorkerDied` and `NotReadable`."""
        return chunks_of(self._answer(ParquetRequest(tail).line(), [tail.content]))

    def read_parquet(self, request: ParquetRequest, take: Take) -> list[tuple[Job, Done]]:
        """Have those images of a row group that ``take`` wants written and decoded.

        Returns the jobs that this made. Raises `WorkerDied` and `NotReadable`; the next sweep
        deletes what may have been written.
        """
        finished: list[tuple[Job, Done]] = []
        answer = self._answer(request.line(), [request.tail.content, request.content])
        while found := (said := json.loads(answer)).get("found"):
            wanted = take([Found(*each) for each in found])
            rows = [(str(job.path), job.name, index) for index, job in wanted]
            done = read_done(self._answer(json.dumps(rows).encode() + b"\n"))
            finished += zip((job for _, job in wanted), done, strict=True)
            answer = self._answer()
        self._end_if_grown()
        if error := said.get("error"):
            raise NotReadable(error)
        return finished

    def kill(self) -> None:
        """End it in the middle of its work, for good."""
        self._killed = True
        if process := self._process:
            process.kill()

    def _answer(self, line: bytes = b"", contents: Sequence[Content] = ()) -> bytes:
        """Send a line and what follows it, if anything; return the next line of the worker."""
        process = self.start()
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101
        self._ready = self._ready or READY in iter(process.stdout.readline, b"")
        answer = b""
        if self._ready:
            with contextlib.suppress(OSError):
                for each in (line, *contents):
                    process.stdin.write(each)
                process.stdin.flush()
                answer = process.stdout.readline()
        if answer.endswith(b"\n"):
            return answer
        died = self.end()
        raise died if self._ready else CannotStart(str(died))

    def _end_if_grown(self) -> None:
        """End an idle worker that keeps much memory; the next jobs start another.

        Its limit is on what one input takes, so what decoders leak would add up.
        """
        assert self._process is not None  # noqa: S101 - it has just answered
        status = Path(f"/proc/{self._process.pid}/statm")
        with contextlib.suppress(OSError):
            pages = int(status.read_text(encoding="ascii").split()[1])
            if pages * _PAGE > _LARGEST_IDLE:
                self.end()

    def end(self) -> WorkerDied:
        """End it by closing its pipe; return how it ended."""
        process, self._process = self._process, None
        if process is None:
            return WorkerDied("")
        try:
            process.communicate(timeout=_CLOSING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        code = process.returncode
        how = f"{signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
        return WorkerDied(how, timed_out=code == -signal.SIGXCPU)


def _widen(pipe: IO[bytes] | None) -> None:
    """Let a pipe take a batch at once, where the system allows it."""
    if pipe is not None:
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
