"""The leader, rank 0: runs the work, writes the messages of the call, and collects the reports.

A thread of its own writes heartbeats and answers arrivals, so that neither depends on the work. It
is the only user of the leader's connection to the store; the main thread hands it tasks.
"""

import contextlib
import itertools
import json
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from step37_flickr8k.cluster.messages import (
    Answer,
    Heartbeat,
    JsonObject,
    Lost,
    Message,
    Moved,
    Outcome,
    RankReport,
    Verdict,
    read_message,
)
from step37_flickr8k.cluster.progress import Progress, ProgressTracker, State
from step37_flickr8k.cluster.protocol import Call, CallResult
from step37_flickr8k.cluster.verdict import decide_verdict
from step37_flickr8k.errors import (
    ErrorReport,
    RankZeroLost,
    Stalled,
    Step37Error,
    TransientError,
)

__all__ = ["lead"]

log = logging.getLogger("step37_flickr8k")

_T = TypeVar("_T")

# Seconds between two reads of the leader's own store. Nobody else polls, and this is local.
_POLL = 0.05
# Seconds that the leader keeps its store open for followers that still fetch the verdict
_FAREWELL = 5.0
# Seconds for the followers to report on a failure; a signalled leader has twice that in all
_LAST_REPORTS = 1.0


def lead(call: Call, work: Callable[[ProgressTracker], JsonObject]) -> CallResult:
    """Run the work and return its result with each rank's report; raises what ended the call."""
    progress = ProgressTracker(call.watch)
    leader = _Leader(call, progress)
    leader.start()
    result: JsonObject = {}
    error: BaseException | None = None
    own = RankReport(ok=True, host=call.host)
    try:
        result = work(progress)
        outcome = Outcome(arguments=call.arguments, result=result)
    # Broad on purpose: whatever ends the work, the other ranks must learn of it
    except BaseException as problem:  # noqa: BLE001
        error = problem
        outcome = Outcome(arguments=call.arguments, failure=ErrorReport.of(problem))
    try:
        standing = leader.publish_outcome(outcome)
        if error is None and standing.failure is not None:
            # What the other ranks have read meanwhile stands
            error = standing.failure.exception()
        if error is None:
            progress.report(Progress(State.CONFIRMING))
            own = call.report_on(result, waited=0.0)
        verdict, reports = leader.conclude(error, own)
    finally:
        leader.stop()
    _raise_failure(error, verdict, reports)
    return CallResult(result, reports)


def _raise_failure(
    error: BaseException | None, verdict: Verdict, reports: Mapping[int, RankReport]
) -> None:
    """Raise the leader's own error, or the verdict's if that names another one."""
    failure = verdict.failure
    if error is not None and (
        not isinstance(error, Step37Error)
        or failure is None
        or failure.error == type(error).__name__
    ):
        raise error
    if failure is not None:
        exception = failure.exception()
        if isinstance(exception, Step37Error):
            exception.ranks = reports
        raise exception


class _Leader(threading.Thread):
    """The leader's thread, and the tasks that the main thread gives it."""

    def __init__(self, call: Call, progress: ProgressTracker) -> None:
        super().__init__(name="step37-leader", daemon=True)
        self._call = call
        self._keys = call.keys
        self._timeouts = call.timeouts
        self._progress = progress
        self._nonce = secrets.token_hex(8)
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # Numbers of the last message, of the last arrival that was answered, and of the outcome
        self._written = 0
        self._answered = 0
        self._outcome_number = 0
        self._outcome: Outcome | None = None
        self._heartbeat_due = 0.0
        self._turned = time.monotonic()
        self._was_frozen = False
        self._store_error: ConnectionError | None = None
        try:
            self._store = call.connect(call.timeouts.arrival)
        except ConnectionError as error:
            raise TransientError(str(error)) from error

    # --- in the main thread ---

    def publish_outcome(self, outcome: Outcome) -> Outcome:
        """Write the outcome and return the one that stands: a call has one, whoever wrote it."""
        return self._run_task(lambda: self._write_outcome(outcome), default=outcome)

    def conclude(
        self, error: BaseException | None, own: RankReport
    ) -> tuple[Verdict, Mapping[int, RankReport]]:
        """Collect the reports, write the verdict, and stay until the followers have read it."""
        followers = self._call.size - 1
        seconds = self._timeouts.confirmation if error is None else _LAST_REPORTS
        if self._was_frozen:
            seconds = _FAREWELL
        self._wait_for_count(self._keys.reports(self._nonce), followers, seconds)
        none: dict[int, RankReport] = {}
        reports = {0: own} | self._run_task(self._reports, default=none)
        decided = decide_verdict(error, reports, self._call.size)
        verdict = self._run_task(lambda: self._write_verdict(decided), default=decided)
        leaves = self._keys.leaves(self._nonce)
        if error is None:
            self._wait_for_count(leaves, len(reports) - 1, _FAREWELL)
        else:
            signalled = not isinstance(error, Exception)
            seconds = _LAST_REPORTS if signalled else self._timeouts.heartbeat
            self._wait_for_count(leaves, followers, seconds)
        return verdict, {rank: reports.get(rank, RankReport()) for rank in range(self._call.size)}

    def stop(self) -> None:
        """End the thread, and with it the heartbeats."""
        self._tasks.put(None)
        self.join(_FAREWELL)

    def _wait_for_count(self, counter: str, count: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._run_task(lambda: self._store.add(counter, 0), default=count) < count:
            if time.monotonic() > deadline:
                return
            time.sleep(_POLL / 2)

    def _run_task(self, task: Callable[[], _T], *, default: _T) -> _T:
        """Return the task's result from the leader's thread; ``default`` if the store is lost."""
        future: Future[_T] = Future()
        self._tasks.put(lambda: future.set_result(task()))
        while not future.done():
            if not self.is_alive() and not future.done():
                log.warning(
                    "the store is lost (%s): the other ranks read the ready record themselves",
                    self._store_error,
                )
                return default
            with contextlib.suppress(FutureTimeoutError):
                return future.result(timeout=1.0)
        return future.result()

    # --- in the leader's thread ---

    def run(self) -> None:
        """Write messages until stopped or until the store is lost."""
        try:
            self._take_over()
            while self._run_next_task():
                self._answer_arrivals()
                self._stop_stalled_work()
                if time.monotonic() >= self._heartbeat_due:
                    self._write(Heartbeat(self._progress.snapshot()))
        except ConnectionError as error:
            self._store_error = error

    def _run_next_task(self) -> bool:
        now = time.monotonic()
        # If this process was frozen, and with it the store that it serves, followers have given it
        # up without being able to write that: few of them will still report
        self._was_frozen |= now - self._turned > self._timeouts.heartbeat
        self._turned = now
        try:
            task = self._tasks.get(timeout=_POLL)
        except queue.Empty:
            return True
        if task is None:
            return False
        task()
        return True

    def _take_over(self) -> None:
        """Take the call over from an earlier leader, dead or frozen: write `Moved` after it."""
        before = ""
        while (
            stands := self._store.compare_set(self._keys.nonce, before, self._nonce)
        ) != self._nonce:
            before = stands
        if before:
            moved = json.dumps(Moved(self._nonce).as_json())
            keys = (self._keys.message(before, number) for number in itertools.count(1))
            next(key for key in keys if self._store.compare_set(key, "", moved) == moved)
        self._write(Heartbeat(self._progress.snapshot()))

    def _answer_arrivals(self) -> None:
        while self._store.check(arrival := self._keys.arrival(self._answered + 1)):
            self._answered += 1
            number = self._outcome_number if self._outcome else self._written
            answer = Answer(self._nonce, number)
            self._store.set(self._keys.answer(self._answered), json.dumps(answer.as_json()))
            log.debug("arrived: %s", self._store.get(arrival))

    def _stop_stalled_work(self) -> None:
        stall = self._timeouts.stall
        if self._outcome is None and stall and self._progress.idle() > stall:
            stalled = Stalled(
                f"rank 0 has made no progress for {stall:g} s while "
                f"{self._progress.snapshot().text}. Check its node and the Hub."
            )
            self._progress.stop(stalled)
            self._write_outcome(
                Outcome(arguments=self._call.arguments, failure=ErrorReport.of(stalled))
            )

    def _write_outcome(self, outcome: Outcome) -> Outcome:
        """Write the outcome unless the call has one already; return the one that stands."""
        if self._outcome is None:
            self._outcome = self._write(outcome) or outcome
            self._outcome_number = self._written
        return self._outcome

    def _write_verdict(self, verdict: Verdict) -> Verdict:
        replaced = self._write(verdict)
        return verdict if replaced is None else Verdict(failure=replaced.failure)

    def _write(self, message: Heartbeat | Outcome | Verdict) -> Outcome | None:
        """Write the next message; return None if that worked.

        While this leader was frozen or cut off, another rank may have written in its place. What
        was written first stands; the outcome that this call has then is returned.
        """
        text = json.dumps(message.as_json())
        key = self._keys.message(self._nonce, self._written + 1)
        standing = self._store.compare_set(key, "", text)
        self._written += 1
        self._heartbeat_due = time.monotonic() + self._timeouts.heartbeat_interval
        if standing == text:
            return None
        lost = RankZeroLost(_why_replaced(read_message(standing)))
        self._progress.stop(lost)
        self._outcome = Outcome(arguments=self._call.arguments, failure=ErrorReport.of(lost))
        self._outcome_number = self._written
        return self._outcome

    def _reports(self) -> dict[int, RankReport]:
        keys = {rank: self._keys.report(self._nonce, rank) for rank in range(1, self._call.size)}
        return {
            rank: RankReport.from_json(self._store.get(key))
            for rank, key in keys.items()
            if self._store.check(key)
        }


def _why_replaced(message: Message) -> str:
    if isinstance(message, Lost):
        return message.message
    return "another process has taken over as rank 0 of this call"
