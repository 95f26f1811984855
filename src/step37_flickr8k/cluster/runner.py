"""Real ranks: move events and actions between a state machine, a store, the work and a clock.

On rank 0 the leader's machine runs in a thread of its own, so that heartbeats don't depend on the
work, and the work in another one. On the other ranks the main thread runs the follower's, and
another one blocks in the store.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from step37_flickr8k.cluster.call import Call, CallResult
from step37_flickr8k.cluster.progress import Progress, ProgressTracker, State
from step37_flickr8k.cluster.protocol import actions as act
from step37_flickr8k.cluster.protocol.call import Ended
from step37_flickr8k.cluster.protocol.follower import Follower
from step37_flickr8k.cluster.protocol.leader import Leader
from step37_flickr8k.cluster.protocol.messages import (
    Answer,
    Arrival,
    JsonObject,
    Outcome,
    RankReport,
    Verdict,
)
from step37_flickr8k.cluster.requests import StoreThread, request
from step37_flickr8k.cluster.verdict import decide_verdict
from step37_flickr8k.cluster.work import perform
from step37_flickr8k.errors import (
    ErrorReport,
    RankZeroLost,
    Stalled,
    Step37Error,
    Terminated,
    TransientError,
)

__all__ = ["follow", "lead"]

log = logging.getLogger("step37_flickr8k")

# Seconds to wait at the end for a thread that may still be inside torch
_FAREWELL = 5.0


def lead(call: Call, work: Callable[[ProgressTracker], JsonObject]) -> CallResult:
    """Run the work and return its result with each rank's report; raises what ended the call."""
    progress = ProgressTracker(call.watch)
    leader = _LeaderThread(call, progress)
    leader.start()
    error: BaseException | None = None
    own = RankReport(ok=True, host=call.facts.host)
    try:
        outcome = Outcome(arguments=call.arguments, result=perform(work, progress))
    # Broad on purpose: whatever ends the work, the other ranks must learn of it
    except BaseException as problem:  # noqa: BLE001
        error = problem
        failure = ErrorReport.of(problem, call.facts.host)
        outcome = Outcome(arguments=call.arguments, failure=failure)
    try:
        standing = leader.publish(outcome)
        if error is None and standing.failure is not None:
            # What the other ranks have read meanwhile stands
            error = standing.failure.exception()
        if error is None:
            progress.report(Progress(State.CONFIRMING))
            own = call.report_on(outcome, waited=0.0)
        ended = leader.conclude(own)
    except (Terminated, KeyboardInterrupt):
        # Launchers end rank 0 as soon as other ranks have ended with its error.
        if error is None:
            raise
        ended = Ended()
    finally:
        leader.stop()
    _raise_failure(error, ended)
    reports = ended.reports
    return CallResult(
        outcome.result, {rank: reports.get(rank, RankReport()) for rank in range(call.facts.size)}
    )


def follow(call: Call) -> CallResult:
    """Return the leader's result; raises the failure of the call, or `RankZeroLost`."""
    rank = _FollowerRank(call)
    try:
        ended = rank.run()
    finally:
        rank.close()
    if ended.found is not None:
        log.warning(
            "rank 0 is not reachable, but the ready record names this run, so this rank continues"
        )
        return CallResult(ended.found)
    for end in (ended.verdict, ended.report):
        if end is not None and end.failure is not None:
            log.debug("the failure, where it happened:\n%s", end.failure.traceback)
            raise end.failure.exception()
    return CallResult(ended.outcome.result if ended.outcome else {})


def _raise_failure(error: BaseException | None, ended: Ended) -> None:
    """Raise the leader's own error, or the verdict's if that names another one."""
    failure = ended.verdict.failure if ended.verdict is not None else None
    if error is not None and (
        not isinstance(error, Step37Error)
        or failure is None
        or failure.error == type(error).__name__
    ):
        raise error
    if failure is not None:
        exception = failure.exception()
        if isinstance(exception, Step37Error):
            exception.ranks = ended.reports
        raise exception


class _LeaderThread(threading.Thread):
    """The leader's machine, its store, and what the main thread and it exchange."""

    def __init__(self, call: Call, progress: ProgressTracker) -> None:
        super().__init__(name="step37-leader", daemon=True)
        self._call, self._progress = call, progress
        self._changed = threading.Condition()
        # What the main thread has decided, and what the machine has come to
        self._outcome: Outcome | None = None
        self._report: RankReport | None = None
        self._stopped = False
        self._standing: Outcome | None = None
        self._ended: Ended | None = None
        self._store_error: Exception | None = None
        try:
            self._store = call.connect(call.facts.timeouts.arrival)
        except ConnectionError as error:
            raise TransientError(str(error)) from error

    # --- in the main thread ---

    def publish(self, outcome: Outcome) -> Outcome:
        """Write the outcome and return the one that stands: a call has one, whoever wrote it."""
        with self._changed:
            self._outcome = outcome
            self._changed.notify_all()
            self._wait_until(lambda: self._standing is not None)
            return self._standing or outcome

    def conclude(self, own: RankReport) -> Ended:
        """Report for rank 0 itself, and return how the call has ended."""
        with self._changed:
            self._report = own
            self._changed.notify_all()
            self._wait_until(lambda: self._ended is not None)
        if self._ended is None:
            log.warning(
                "the store is lost (%s): the other ranks read the ready record themselves",
                self._store_error,
            )
            failure = own.failure or (self._outcome.failure if self._outcome else None)
            return Ended(verdict=Verdict(failure=failure), reports={0: own})
        return self._ended

    def stop(self) -> None:
        """End the thread, and with it the heartbeats."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self.join(_FAREWELL)

    def _wait_until(self, reached: Callable[[], bool]) -> None:
        """Wait, with an eye on signals, until something is reached or the thread has ended."""
        while not reached() and self.is_alive():
            self._changed.wait(1.0)

    # --- in the leader's thread ---

    def run(self) -> None:
        """Lead the call until it has ended, or until the store is lost."""
        machine = Leader(self._call.facts, secrets.token_hex(8), time.monotonic())
        steps, came = machine.steps(), None
        try:
            while not self._stopped:
                machine.now = time.monotonic()
                came = self._do(steps.send(came))
                with self._changed:
                    self._standing = machine.outcome
                    self._changed.notify_all()
        except StopIteration as end:
            self._ended = end.value
        except ConnectionError as error:
            self._store_error = error
        with self._changed:
            self._changed.notify_all()

    def _do(self, action: act.Action) -> Any:
        match action:
            case act.Turn(until):
                return self._work_until(until)
            case act.StopWork(why, stalled):
                error = Stalled(why) if stalled else RankZeroLost(why)
                self._progress.stop(error)
                return Outcome(arguments=self._call.arguments, failure=ErrorReport.of(error))
            case act.Decide(outcome, ranks, reports):
                return decide_verdict(outcome.failure, reports, ranks)
        came = request(self._store, action, self._call.seal)
        if isinstance(came, Arrival):
            log.debug("rank %d on %s has arrived", came.rank, came.host)
        return came

    def _work_until(self, until: float) -> act.WorkState:
        with self._changed:
            before = self._outcome, self._report
            self._changed.wait_for(
                lambda: self._stopped or before != (self._outcome, self._report),
                max(until - time.monotonic(), 0),
            )
            return act.WorkState(
                self._progress.snapshot(), self._progress.idle(), self._outcome, self._report
            )


class _FollowerRank:
    """The follower's machine, driven by the main thread."""

    def __init__(self, call: Call) -> None:
        self._call, self._start = call, time.monotonic()
        challenge = secrets.token_hex(8) if call.facts.signs else ""
        self._machine = Follower(call.facts, self._start, challenge)
        self._requests = StoreThread(call.connect, call.seal)

    def run(self) -> Ended:
        """Follow the leader until the call has ended; raises `RankZeroLost`."""
        machine, steps = self._machine, self._machine.steps()
        action = next(steps)
        try:
            while True:
                try:
                    came = self._do(action)
                except ConnectionError as error:
                    log.debug("lost the store: %s", error)
                    machine.now = time.monotonic()
                    action = steps.throw(error)
                else:
                    machine.now = time.monotonic()
                    action = steps.send(came)
        except StopIteration as end:
            ended: Ended = end.value
            return ended

    def close(self) -> None:
        """End the thread that blocks in the store."""
        self._requests.close(_FAREWELL)

    def _do(self, action: act.Action) -> Any:
        call, machine = self._call, self._machine
        match action:
            case act.Pause(until):
                return time.sleep(max(until - time.monotonic(), 0))
            case act.Searching(why):
                return log.warning("rank 0 isn't found yet: %s", why)
            case act.FindResult():
                return call.find_result(True)
            case act.Show(progress):
                return call.watch(progress)
            case act.Confirm(outcome):
                return call.report_on(outcome, waited=time.monotonic() - self._start)
            case act.Connect():
                # The thread of a store that was lost may hang in it.
                self._requests.close(0)
                self._requests = StoreThread(call.connect, call.seal)
        limit: float = max(machine.deadline, getattr(action, "until", 0.0))
        came = self._requests.make(action, limit)
        if isinstance(came, Answer):
            log.debug("rank 0 answers: it is at message %d", came.number)
        return came
