"""A follower, any rank but 0: reads the leader's messages, reports, and notices its silence.

A thread of its own blocks in the store, so that the main thread stays free for signals and keeps
the clock.
"""

import contextlib
import json
import logging
import queue
import threading
import time
from concurrent.futures import Future
from typing import TypeAlias

from step37_flickr8k.cluster.messages import (
    Answer,
    Arrival,
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
from step37_flickr8k.cluster.protocol import Call, Store, difference
from step37_flickr8k.errors import CallMismatch, ErrorReport, RankZeroLost

__all__ = ["follow"]

log = logging.getLogger("step37_flickr8k")

# Seconds to wait at the end for the thread: one that the end of the process meets inside of torch
# aborts the process
_FAREWELL = 5.0

# What the main thread gets from the store
_Event: TypeAlias = Heartbeat | Outcome | Verdict | RankZeroLost


def follow(call: Call) -> JsonObject:
    """Return the leader's result; raises the failure of the call, or `RankZeroLost`."""
    start = time.monotonic()
    follower = _Follower(call)
    follower.start()
    outcome = _wait_for_outcome(call, follower)
    if not isinstance(outcome, Outcome):
        return outcome
    follower.report(_report(call, outcome, waited=time.monotonic() - start))
    verdict = _wait_for_verdict(follower)
    follower.join(_FAREWELL)
    if verdict.failure is not None:
        log.debug("the failure, where it happened:\n%s", verdict.failure.traceback)
        raise verdict.failure.exception()
    return outcome.result


def _wait_for_outcome(call: Call, follower: "_Follower") -> Outcome | JsonObject:
    """Return the outcome; before the leader is met also the result of an earlier success."""
    find_due = time.monotonic() + call.timeouts.heartbeat
    while True:
        message = follower.next_message()
        if isinstance(message, Outcome):
            return message
        if message is None and not follower.has_met_leader and time.monotonic() > find_due:
            find_due = time.monotonic() + call.timeouts.heartbeat
            if (result := call.find_result(True)) is not None:
                log.warning(
                    "rank 0 is not reachable, but the ready record names this run, "
                    "so this rank continues"
                )
                return result


def _wait_for_verdict(follower: "_Follower") -> Verdict:
    while True:
        message = follower.next_message()
        if isinstance(message, Verdict):
            return message


def _report(call: Call, outcome: Outcome, *, waited: float) -> RankReport:
    """Return what this rank reports on the outcome."""
    if different := difference(call.arguments, outcome.arguments):
        mismatch = CallMismatch(f"the ranks of one call passed different arguments: {different}")
        return RankReport(ok=False, host=call.host, failure=ErrorReport.of(mismatch))
    if outcome.failure is not None:
        return RankReport(ok=True, host=call.host)
    return call.report_on(outcome.result, waited=waited)


class _Follower(threading.Thread):
    """The follower's thread, and what the main thread asks of it."""

    def __init__(self, call: Call) -> None:
        super().__init__(name="step37-follower", daemon=True)
        self._call = call
        self._keys = call.keys
        self._timeouts = call.timeouts
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._own_report: Future[RankReport] = Future()
        self._heard: float | None = None
        self._deadline = time.monotonic() + call.timeouts.arrival
        self._overdue = 0

    # --- in the main thread ---

    @property
    def has_met_leader(self) -> bool:
        """Whether a living leader has answered."""
        return self._heard is not None

    def next_message(self) -> Heartbeat | Outcome | Verdict | None:
        """Return the leader's next message, None after a second without one.

        Raises `RankZeroLost` when the leader has been silent for too long.
        """
        event: _Event | None = None
        with contextlib.suppress(queue.Empty):
            event = self._events.get(timeout=1.0)
        if isinstance(event, RankZeroLost):
            raise event
        if event is None:
            # Only after several turns: if this rank itself was frozen, its thread catches up first
            self._overdue = self._overdue + 1 if time.monotonic() > self._deadline else 0
            if self._overdue > 2:
                raise self._silence()
        elif isinstance(event, Heartbeat):
            self._call.watch(event.progress)
        return event

    def report(self, report: RankReport) -> None:
        """Let the thread write this rank's report on the outcome."""
        self._restart_clock()
        self._own_report.set_result(report)

    # --- in the follower's thread ---

    def run(self) -> None:
        """Follow the leader to its verdict; connect again while there is time."""
        while True:
            try:
                if self._follow_one_leader():
                    return
            except RankZeroLost as lost:
                self._events.put(lost)
                return
            except ConnectionError as error:
                if not self._call.reconnects or time.monotonic() > self._deadline:
                    self._events.put(self._silence(error))
                    return
                log.debug("lost the store, connecting again: %s", error)
                time.sleep(min(1.0, self._timeouts.heartbeat / 10))

    def _follow_one_leader(self) -> bool:
        """Follow one leader to its verdict; return False when another one has taken over."""
        store = self._call.connect(self._seconds_left())
        answer = self._arrive(store)
        number = answer.number
        while True:
            message = self._read(store, self._keys.message(answer.nonce, number))
            if isinstance(message, Moved):
                return False
            if isinstance(message, Lost):
                raise RankZeroLost(message.message)
            self._events.put(message)
            if isinstance(message, Outcome):
                self._send_report(store, answer.nonce)
            elif isinstance(message, Verdict):
                store.add(self._keys.leaves(answer.nonce), 1)
                return True
            number += 1

    def _arrive(self, store: Store) -> Answer:
        number = store.add(self._keys.arrivals, 1)
        arrival = Arrival(self._call.rank, self._call.host)
        store.set(self._keys.arrival(number), json.dumps(arrival.as_json()))
        if not store.wait(self._keys.answer(number), self._seconds_left()):
            raise self._silence()
        answer = Answer.from_json(store.get(self._keys.answer(number)))
        self._restart_clock()
        log.debug("rank 0 answers: it is at message %d", answer.number)
        return answer

    def _read(self, store: Store, key: str) -> Message:
        """Return the message at this key; after the timeout write `Lost` there, for all ranks."""
        if store.wait(key, self._seconds_left()):
            text = store.get(key)
        else:
            lost = Lost(f"{self._silence()} (rank {self._call.rank} gave it up)")
            text = store.compare_set(key, "", json.dumps(lost.as_json()))
        self._restart_clock()
        return read_message(text)

    def _send_report(self, store: Store, nonce: str) -> None:
        text = json.dumps(self._own_report.result().as_json())
        self._restart_clock()
        if store.compare_set(self._keys.report(nonce, self._call.rank), "", text) == text:
            store.add(self._keys.reports(nonce), 1)

    def _restart_clock(self) -> None:
        self._heard = time.monotonic()
        self._deadline = self._heard + self._timeouts.heartbeat

    def _seconds_left(self) -> float:
        return max(self._deadline - time.monotonic(), 0.001)

    def _silence(self, cause: Exception | None = None) -> RankZeroLost:
        why = f" ({cause})" if cause else ""
        if self._heard is None:
            return RankZeroLost(
                f"never met rank 0 within {self._timeouts.arrival:g} s{why}: "
                "did it start, and is it reachable?"
            )
        return RankZeroLost(
            f"rank 0 was killed, frozen or cut off: no message within "
            f"{self._timeouts.heartbeat:g} s{why}"
        )
