"""Processes that hash, write and decode what has come: threads of one interpreter would only contend for it.

A worker gets files through its stdin, bytes and all, writes each under the temporary name it is told, decodes it from memory, and
answers on its stdout. It ends with the pipe. A picture that crashes it is told from one that was merely there when it died.
"""

import contextlib
import json
import logging
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
from typing import IO, Any, BinaryIO

from step37_flickr8k.errors import Step37Error, TransientError, as_value, from_value
from step37_flickr8k.folder import CacheFolder, digest_of_bytes
from step37_flickr8k.images import warm_up, why_undecodable
from step37_flickr8k.plan import METADATA

__all__ = ["Done", "Job", "Workers"]

log = logging.getLogger("step37_flickr8k")

# a package of this name that does not run our __init__, which loads the settings and all that they need
_START = """
import sys
sys.path[:] = sys.argv[5:]
import types
package = sys.modules["step37_flickr8k"] = types.ModuleType("step37_flickr8k")
package.__path__ = [sys.argv[1]]
from step37_flickr8k.workers import serve
serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
"""
_FEW = 4  # files that are sooner done here than by a process that must start first
_SLOW = 0.005  # s for writing a file: a shared file system, for which many may wait at once
_WRITERS = 8  # threads of a worker then
_PATIENCE = 1.0  # s for a worker that is to end by itself
_READY = b"step37: ready\n"  # its first words, after what others may have written there
_REMEDY = "give the job more memory"
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
        self._all = [_Worker(folder) for _ in range(min(4, len(os.sched_getaffinity(0))))]
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
                self._idle.get(timeout=5).end()

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
        if len(jobs) <= _FEW and not self._started:
            return [*_Hands(self.folder).do(jobs)]
        self._started = True
        with self._one() as worker:
            try:
                return worker.ask(jobs)
            except _Died as error:
                if self._stopped:
                    raise
                if isinstance(error, _Unable):  # that proves nothing of the jobs
                    return [*_Hands(self.folder).do(jobs)]
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
        # no flaw: whether it is the picture or this machine nobody knows, and a flaw would be believed by every later run
        told = f"{job.name}: the process that decodes it died twice ({died})"
        return Done(error=TransientError(f"{told}: {_REMEDY}, or see whether Pillow works on this machine"))


class _Died(Step37Error):
    """A worker that ended before it answered, and how."""


class _Unable(_Died):
    """A worker that can't even start."""


class _Worker:
    """A process that does jobs, started when it is needed; one thread at a time may use it, but any may kill it."""

    def __init__(self, folder: CacheFolder) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._killed = False
        self._unable = ""

    def start(self) -> "subprocess.Popen[bytes]":
        """Start it, unless it runs."""
        if self._killed or self._unable:
            raise _Unable(self._unable)
        if self._process is None:
            where = [str(Path(__file__).parent), str(self._folder.root), self._folder.split, str(os.getpid())]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            command = [sys.executable or "", "-c", _START, *where, *map(str, sys.path)]
            try:
                self._process = subprocess.Popen(command, **pipes)  # type: ignore[call-overload]  # noqa: S603
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
        self._ready = self._ready or _READY in iter(process.stdout.readline, b"")  # type: ignore[union-attr]
        if self._ready and (answers := _ask(process, jobs)) is not None:
            return answers
        how = self.end()
        for job in jobs:
            _forget(self._folder, job)
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
            log.warning("a process that decodes images can't start (%s): this one does its work, more slowly", why)
            self._unable = why
        return _Unable(why)


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
        except MemoryError:  # a fact about this machine, not about the picture
            _forget(self._folder, job)
            return Done(error=TransientError(f"{job.name}: not enough memory to decode it: {_REMEDY}"))

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
            _forget(self._folder, job)
            return Done(error=error)
        return Done()


def _forget(folder: CacheFolder, job: Job) -> None:
    """Delete what may have been written of a job that failed; what can't be deleted is left to the next sweep."""
    if job.content is not None:
        with contextlib.suppress(Step37Error):
            folder.discard(job.path)


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
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what others print is no answer
        warm_up()
        _serve(out, _Hands(CacheFolder(Path(root), split), served))
    os._exit(0)  # the interpreter's own end takes as long as a dozen pictures, and somebody waits for it


def _serve(out: BinaryIO, hands: _Hands) -> None:
    out.write(b"\n" + _READY)
    out.flush()
    for line in sys.stdin.buffer:
        jobs = [
            Job(Path(path), name, None if size is None else sys.stdin.buffer.read(size), digest)
            for path, name, size, digest in json.loads(line)
        ]
        out.write(json.dumps([_value(done) for done in hands.do(jobs)]).encode() + b"\n")
        out.flush()


def _widen(pipe: IO[bytes] | None) -> None:
    """Let a pipe take a batch at once, where the system allows it."""
    import fcntl  # noqa: PLC0415 - one call

    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)  # type: ignore[arg-type]
