"""The lease: which process may download into a directory, among jobs that share nothing else.

It saves work; correctness is the renames' alone. ``.step37-flickr8k/<split>.lease.<n>`` is
generation n, and the highest one counts. Generation n+1 is taken by an exclusive create, and only
after generation n has ended, or after its bytes have not changed for ``timeout`` by the taker's own
monotonic clock, or at once where its holder was a process of this machine that no longer exists.
The same rank of the same run takes it sooner, but not from a living holder. No clock of another
node is trusted, and no file lock.
"""

import contextlib
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.lease_content import (
    HEARTBEATS,
    LARGEST,
    Claim,
    LeaseContent,
    read_lease,
)
from step37_flickr8k.cluster.progress import Progress, ProgressTracker
from step37_flickr8k.errors import ErrorReport, FolderNotUsable, LeaseLost, Step37Error
from step37_flickr8k.threads import paused

__all__ = ["Claim", "Holder", "Lease", "Wait", "holder", "take"]

log = logging.getLogger("step37_flickr8k")

_FIRST_HEARTBEAT = 1.0  # s after the lease was taken
_LONGEST_POLL = 2.0  # s between two reads of somebody else's lease
_LONGEST_MESSAGE = 2000  # characters of a failure's message that fit into a lease
# What somebody calls otherwise, in other digits for one, is no lease
_GENERATION = re.compile("[1-9][0-9]{0,17}")


@dataclass(frozen=True, kw_only=True)
class Holder(Claim):
    """Who holds the lease, or held it last.

    ``silent`` is for how many seconds its bytes haven't changed, ``timeout`` the silence after
    which another process may take it. ``failure`` is why the holder failed, if it says so.
    """

    state: Literal["held", "released", "failed"]
    silent: float
    timeout: float
    progress: Progress | None
    failure: ErrorReport | None


@dataclass(frozen=True, kw_only=True)
class Wait:
    """What a process that wants the lease waits for.

    ``holder`` is None as long as the lease can't be read: it is being written, or its writer was
    killed then. It is taken over in ``left`` seconds unless its bytes change.
    """

    holder: LeaseContent | None
    left: float


def holder(directory: CacheDirectory) -> Holder | None:
    """Return who holds the lease, or held it last.

    None if nobody ever did, or if it is being written at this moment. The silence is measured by
    this node's clock, so it is for people only: `take` watches the bytes instead.
    """
    generation, content = _newest(directory)
    lease = read_lease(content)
    if lease is None:
        return None
    return Holder(
        run=lease.run,
        rank=lease.rank,
        host=lease.host,
        pid=lease.pid,
        state=lease.state,
        silent=time.time() - directory.written_at(_name(directory, generation)),
        timeout=lease.timeout,
        progress=lease.progress,
        failure=lease.failure,
    )


def take(
    directory: CacheDirectory,
    claim: Claim,
    timeout: float,
    waiting: Callable[[Wait], bool],
    tracker: ProgressTracker | None = None,
) -> "Lease | None":
    """Take the lease, however long its holder works; None if ``waiting`` ends the wait.

    ``waiting`` is called every few seconds and returns whether to go on waiting.
    ``tracker`` says how far the work is, for other processes that read the lease meanwhile. When
    the work is stopped, the heartbeats end, too: it may never come to release the lease.

    Raises the failure of another rank of the same run, if it was left there meanwhile or within the
    last quarter of ``timeout``. So one attempt is enough for all ranks of a run, but a job that is
    restarted makes its own.
    """
    seen: tuple[int, bytes] | None = None
    current: LeaseContent | None = None
    since = time.monotonic()
    while True:
        newest = generation, content = _newest(directory)
        if newest != seen:
            is_meanwhile = seen is not None and seen[0] == generation
            seen, since, current = newest, time.monotonic(), read_lease(content)
            failure = current.failure_for(claim) if current else None
            if failure and (is_meanwhile or _age(directory, generation) < timeout / 4):
                raise failure.exception()
        limit = min(timeout, current.silence_for(claim)) if current else timeout
        if generation == 0 or time.monotonic() - since >= limit:
            lease = Lease(directory, claim, generation + 1, timeout, tracker)
            if lease.taken():
                return lease
            continue
        left = max(0.0, since + limit - time.monotonic())
        if not waiting(Wait(holder=current, left=left)):
            return None
        paused(min(_LONGEST_POLL, timeout / HEARTBEATS))


class Lease:
    """A held lease; a context manager that sends heartbeats from a thread of its own.

    An exception that ends the context is left in the lease as its failure.
    """

    def __init__(
        self,
        directory: CacheDirectory,
        claim: Claim,
        generation: int,
        timeout: float,
        tracker: ProgressTracker | None = None,
    ) -> None:
        """Describe the lease; `taken` takes it."""
        self._directory = directory
        self._generation = generation
        self._name = _name(directory, generation)
        self._timeout = timeout
        self._tracker = tracker
        self._content = LeaseContent(
            run=claim.run,
            rank=claim.rank,
            host=claim.host,
            pid=claim.pid,
            process=claim.process,
            nonce=secrets.token_hex(8),
            timeout=timeout,
        )
        self._ended = threading.Event()
        # Held while the lease is rewritten: its own thread and `check` both do that
        self._lock = threading.Lock()
        self._confirmed = time.monotonic()
        self._lost = False
        self._thread = threading.Thread(target=self._keep, name="step37-lease", daemon=True)

    def taken(self) -> bool:
        """Try to take this generation; returns False if another process was faster."""
        begun = time.monotonic()
        if not self._directory.create(self._name, self._content.as_bytes()):
            return False
        numbers = _generations(self._directory)
        # Whoever was frozen before it had created its file may find the next generation taken
        outrun = any(number > self._generation for number in numbers)
        for number in numbers:
            if number < self._generation or (outrun and number == self._generation):
                old = _name(self._directory, number)
                self._directory.discard(self._directory.home / old)
        self._confirmed = begun
        return not outrun

    def __enter__(self) -> "Lease":  # noqa: PYI034 - Self is not in Python 3.10
        """Start the heartbeats."""
        self._thread.start()
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        """Stop the heartbeats and write how it ended, for whoever waits."""
        self._ended.set()
        self._thread.join(self._timeout / HEARTBEATS)
        # If the end can't be written, other processes notice the silence
        with contextlib.suppress(OSError, Step37Error):
            if error is None:
                self._heartbeat("released")
            else:
                self._heartbeat("failed", _short_report(error))

    def check(self) -> None:
        """Raise `LeaseLost` if another process holds the lease now; for use before each rename.

        Costs nothing while heartbeats succeed. After a freeze, or if they fail, it sends one.
        """
        if not self._lost and time.monotonic() - self._confirmed > self._timeout / 2:
            self._heartbeat()
        if self._lost:
            raise LeaseLost(
                f"another downloader has taken over {self._directory.files},"
                " because this one was silent for too long"
            )

    def _keep(self) -> None:
        # Frequent heartbeats at first: whoever checks the status of a run has often just started it
        pause = _FIRST_HEARTBEAT
        while not self._lost and not self._ended.wait(
            pause := min(pause, self._timeout / HEARTBEATS)
        ):
            pause *= 2
            if self._tracker is not None and self._tracker.stopped is not None:
                return
            try:
                self._heartbeat()
            except (OSError, Step37Error) as error:
                # If the directory was replaced, `check` sends the next one, and raises that
                if isinstance(error, FolderNotUsable):
                    self._confirmed = float("-inf")
                log.warning("the lease's heartbeat failed, and is retried: %s", error)

    def _heartbeat(
        self,
        end: Literal["released", "failed"] | None = None,
        failure: ErrorReport | None = None,
    ) -> None:
        """Rewrite the lease, or notice that it is lost; once it has ended it stays ended."""
        with self._lock:
            if max(_generations(self._directory), default=0) != self._generation:
                self._lost = True
                return
            self._content = replace(
                self._content,
                state=end or self._content.state,
                heartbeats=self._content.heartbeats + 1,
                progress=self._tracker.snapshot() if self._tracker is not None else None,
                failure=failure or self._content.failure,
            )
            self._directory.rewrite(self._name, self._content.as_bytes())
            self._confirmed = time.monotonic()


def _name(directory: CacheDirectory, generation: int) -> str:
    return f"{directory.split}.lease.{generation}"


def _generations(directory: CacheDirectory) -> list[int]:
    prefix = f"{directory.split}.lease."
    numbers = (name.removeprefix(prefix) for name in directory.refresh() if name.startswith(prefix))
    return [int(number) for number in numbers if _GENERATION.fullmatch(number)]


def _newest(directory: CacheDirectory) -> tuple[int, bytes]:
    """Return the newest generation and its bytes; 0 and no bytes if there is none."""
    generation = max(_generations(directory), default=0)
    content = directory.read(_name(directory, generation), LARGEST) if generation else None
    return generation, content or b""


def _age(directory: CacheDirectory, generation: int) -> float:
    # It may just have been replaced
    with contextlib.suppress(OSError, Step37Error):
        return directory.age(_name(directory, generation))
    return float("inf")


def _short_report(error: BaseException) -> ErrorReport:
    report = ErrorReport.of(error)
    return ErrorReport(report.error, report.message[:_LONGEST_MESSAGE])
