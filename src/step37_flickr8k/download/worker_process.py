"""A worker process as the downloader holds it: started when needed, asked, ended or killed."""

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.download.jobs import READY, Done, Job, read_done, request_line
from step37_flickr8k.errors import Step37Error

__all__ = ["CannotStart", "WorkerDied", "WorkerProcess"]

log = logging.getLogger("step37_flickr8k")

_MODULE = "step37_flickr8k.download.worker"
_SOURCE = Path(__file__).parents[2]  # the directory that holds this package
_CLOSING = 1.0  # s in which a worker may end by itself
_PIPE = 1 << 20  # bytes, the most that any user may have: a batch of small files fits


class WorkerDied(Step37Error):
    """Raised when a worker ended before it answered; the message says how."""


class CannotStart(WorkerDied):
    """Raised when a worker can't even start, which says nothing about its jobs."""


class WorkerProcess:
    """A process that does jobs; one thread at a time may use it, but any may kill it."""

    def __init__(self, directory: CacheDirectory, max_pixels: int) -> None:
        """Serve a directory; nothing is started yet."""
        self._directory = directory
        self._max_pixels = max_pixels
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._killed = False
        self._cannot_start = ""

    def start(self) -> "subprocess.Popen[bytes]":
        """Return the running process, started if it isn't; raises `CannotStart`."""
        if self._killed or self._cannot_start:
            raise CannotStart(self._cannot_start)
        if self._process is None:
            directory = self._directory
            arguments = (directory.root.absolute(), directory.split, self._max_pixels, os.getpid())
            try:
                self._process = subprocess.Popen(  # noqa: S603 - this interpreter, our module
                    # What a decoder warns of says nothing about an image, whatever PYTHONWARNINGS.
                    [sys.executable or "", "-Wignore", "-m", _MODULE, *map(str, arguments)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    # -m searches the current directory first, where any file may be json.py.
                    cwd=_SOURCE,
                    env={**os.environ, "PYTHONPATH": _search_path()},
                )
            # A limit allows no further process, or the path of Python isn't known.
            except OSError as error:
                raise self._failed_to_start(str(error)) from error
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
        process = self.start()
        assert process.stdout is not None  # noqa: S101 - a pipe
        self._ready = self._ready or READY in iter(process.stdout.readline, b"")
        if self._ready and (answers := _ask(process, jobs)) is not None:
            return answers
        how = self.end()
        for job in jobs:
            if job.content is not None:
                with contextlib.suppress(Step37Error):
                    self._directory.discard(job.path)
        raise WorkerDied(how) if self._ready else self._failed_to_start(how)

    def kill(self) -> None:
        """End it in the middle of its work, for good."""
        self._killed = True
        if process := self._process:
            process.kill()

    def end(self) -> str:
        """End it by closing its pipe; return how it ended."""
        process, self._process = self._process, None
        if process is None:
            return ""
        try:
            process.communicate(timeout=_CLOSING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        code = process.returncode
        return f"{signal.strsignal(-code)}" if code < 0 else f"exit code {code}"

    def _failed_to_start(self, why: str) -> CannotStart:
        if not self._killed:
            log.warning(
                "a process that decodes images can't start (%s): this one does its work,"
                " more slowly",
                why,
            )
            self._cannot_start = why
        return CannotStart(why)


def _ask(process: "subprocess.Popen[bytes]", jobs: Sequence[Job]) -> list[Done] | None:
    """Return a worker's answer; None if it died."""
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    try:
        process.stdin.write(request_line(jobs))
        for job in jobs:
            if job.content is not None:
                process.stdin.write(job.content)
        process.stdin.flush()
    except OSError:
        return None
    answer = process.stdout.readline()
    return read_done(answer) if answer.endswith(b"\n") else None


def _search_path() -> str:
    """Return where this process finds modules, for a process with another working directory."""
    return os.pathsep.join(str(Path(each).absolute()) for each in sys.path)


def _widen(pipe: IO[bytes] | None) -> None:
    """Let a pipe take a batch at once, where the system allows it."""
    if pipe is not None:
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
