"""Processes that hash, write and decode what has come: threads of one interpreter would only contend for it.

A worker gets files through its stdin, bytes and all, writes each under the temporary name it is
told, decodes it from memory, and answers on its stdout. It ends with the pipe. A picture that
crashes it is told from one that was merely there when it died.
"""

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.download.worker import (
    READY,
    REMEDY,
    Done,
    Job,
    JobRunner,
    as_job_line,
    done_of,
    forget,
)
from step37_flickr8k.errors import Step37Error, TransientError

__all__ = ["Done", "Job", "Workers"]

log = logging.getLogger("step37_flickr8k")

_MODULE = "step37_flickr8k.download.worker"
_SOURCE = Path(__file__).parents[2]  # the directory that holds this package
_FEW = 4  # files that are sooner done here than by a process that must start first
_PATIENCE = 1.0  # s for a worker that is to end by itself
_CLOSING = 5.0  # s for one at work to become idle, when all are closed
_PIPE = 1 << 20  # bytes, as many as anybody may have: a batch of small files fits


class Workers:
    """Workers for one cache directory, for use by many threads; they start when they are needed and must be closed."""

    def __init__(self, directory: CacheDirectory) -> None:
        """Allow one for each processor of ours, four at most; none starts yet."""
        self.directory = directory
        self._all = [_Worker(directory) for _ in range(min(4, len(os.sched_getaffinity(0))))]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._started = self._stopped = False
        for worker in self._all:
            self._idle.put(worker)

    def start(self) -> None:
        """Start them now, while something else is waited for."""
        self._started = True
        for _ in self._all:
            with self._one() as worker, contextlib.suppress(_Unable):  # then there are fewer
                worker.start()

    def stop(self) -> None:
        """Kill them, whatever they are at: nobody waits for it any more."""
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

    def check(self, images: Sequence[tuple[Path, str]]) -> list[str | None]:
        """Give for each image, a path and the name that it is to have, why it can't be decoded, or None.

        Raises what the file system says of one that can't be read.
        """
        done = self.do([Job(*image) for image in images])
        for each in done:
            if each.error:
                raise each.error
        return [each.decode_error for each in done]

    def do(self, jobs: Sequence[Job]) -> list[Done]:
        """Do the jobs, in order; what one of them fails of is in its answer."""
        if len(jobs) <= _FEW and not self._started:
            return [*JobRunner(self.directory).do(jobs)]
        self._started = True
        with self._one() as worker:
            try:
                return worker.ask(jobs)
            except _Died as error:
                if self._stopped:
                    raise
                if isinstance(error, _Unable):  # that proves nothing of the jobs
                    return [*JobRunner(self.directory).do(jobs)]
            return [self._alone(worker, job) for job in jobs]

    @contextlib.contextmanager
    def _one(self) -> Iterator["_Worker"]:
        worker = self._idle.get()
        try:
            yield worker
        finally:
            self._idle.put(worker)

    def _alone(self, worker: "_Worker", job: Job) -> Done:
        """Do one of the jobs that a worker has died of, to see which of them it is."""
        died = ""
        for _ in range(2):  # not just once, as when the kernel needs memory
            try:
                return worker.ask([job])[0]
            except _Died as error:
                if self._stopped:
                    raise
                died = str(error)
        # no decode_error: whether it is the picture or this machine nobody knows, and a
        # decode_error would be believed by every later run
        told = f"{job.name}: the process that decodes it died twice ({died})"
        return Done(
            error=TransientError(f"{told}: {REMEDY}, or see whether Pillow works on this machine")
        )


class _Died(Step37Error):
    """A worker that ended before it answered, and how."""


class _Unable(_Died):
    """A worker that can't even start."""


class _Worker:
    """A process that does jobs, started when it is needed; one thread at a time may use it, but any may kill it."""

    def __init__(self, directory: CacheDirectory) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._killed = False
        self._unable = ""

    def start(self) -> "subprocess.Popen[bytes]":
        """Start it, unless it runs."""
        if self._killed or self._unable:
            raise _Unable(self._unable)
        if self._process is None:
            pipes = {
                "stdin": subprocess.PIPE,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.DEVNULL,
            }
            where = [str(self._directory.root.absolute()), self._directory.split, str(os.getpid())]
            command = [sys.executable or "", "-m", _MODULE, *where]
            # -m would look into the current directory first, where any file may be called json.py
            here = {"cwd": _SOURCE, "env": {**os.environ, "PYTHONPATH": _search_path()}}
            try:
                self._process = subprocess.Popen(command, **pipes, **here)  # type: ignore[call-overload]  # noqa: S603
            except OSError as error:  # no room for another process; or nobody knows where Python is
                raise self._is_unable(str(error)) from error
            self._ready = False
            _widen(self._process.stdin)
        if self._killed:  # meanwhile
            self._process.kill()
        return self._process

    def ask(self, jobs: Sequence[Job]) -> list[Done]:
        """Let it do jobs; raises `_Died`, and then nothing is left of what it may have begun to write."""
        process = self.start()
        self._ready = self._ready or READY in iter(process.stdout.readline, b"")  # type: ignore[union-attr]
        if self._ready and (answers := _ask(process, jobs)) is not None:
            return answers
        how = self.end()
        for job in jobs:
            forget(self._directory, job)
        raise _Died(how) if self._ready else self._is_unable(how)

    def kill(self) -> None:
        """End it in the midst of its work, for good."""
        self._killed = True
        if process := self._process:
            process.kill()

    def end(self) -> str:
        """End it by the end of its pipe; gives how it ended."""
        process, self._process = self._process, None
        if process is None:
            return ""
        try:
            process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        code = process.returncode
        return f"{signal.strsignal(-code)}" if code < 0 else f"exit code {code}"

    def _is_unable(self, why: str) -> _Unable:
        if not self._killed:
            log.warning(
                "a process that decodes images can't start (%s): this one does its work, more slowly",
                why,
            )
            self._unable = why
        return _Unable(why)


def _ask(process: "subprocess.Popen[bytes]", jobs: Sequence[Job]) -> list[Done] | None:
    """Let a worker do jobs; None if it died."""
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    try:
        process.stdin.write(as_job_line(jobs))
        for job in jobs:
            if job.content is not None:
                process.stdin.write(job.content)
        process.stdin.flush()
    except OSError:
        return None
    answer = process.stdout.readline()
    return [done_of(value) for value in json.loads(answer)] if answer.endswith(b"\n") else None


def _search_path() -> str:
    """Return where this process finds modules, for a process with another working directory."""
    return os.pathsep.join(str(Path(each).absolute()) for each in sys.path)


def _widen(pipe: IO[bytes] | None) -> None:
    """Let a pipe take a batch at once, where the system allows it."""
    import fcntl  # noqa: PLC0415 - one call

    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)  # type: ignore[arg-type]
