"""Rank zero first: one function runs a piece of work on rank 0 and gives its outcome to every rank.

It needs a key-value store and nothing else: no collective, no process group of its own. Rank 0
speaks *words*, numbered and each written once: a heartbeat with its progress, the outcome, the
verdict. The others block in the store on the next word, so that a word reaches all of them at once
and its absence is silence. What is told to whom, when, and why it can't deadlock:
``docs/explanation/protocol.md``.

Keys, below ``step37/<group>/<call number>/``::

    nonce              the newest rank 0 of this call
    arrivals           a counter; a waiter takes the next number i from it
    arrival/<i>        that waiter's rank and host
    answer/<i>         rank 0's nonce and the number of its latest word: only a living rank 0 can
    have written it
    <nonce>/word/<k>   beat | outcome | verdict, said by that rank 0; lost | moved, said in its
    place by a waiter that gave it up,
                       by a newer rank 0: nothing that it says later counts
    <nonce>/report/<rank>, <nonce>/reports, <nonce>/leaves
"""

import contextlib
import itertools
import json
import logging
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Any, Protocol

from step37_flickr8k.cluster.progress import Progress, ProgressTracker, State
from step37_flickr8k.dataset.words import listed
from step37_flickr8k.errors import (
    CallMismatch,
    RankZeroLost,
    Stalled,
    Step37Error,
    TransientError,
    as_value,
    from_value,
)

__all__ = ["Group", "Store", "Timeouts", "difference", "share"]

log = logging.getLogger("step37_flickr8k")

Value = dict[str, Any]
# S between two looks of rank 0 at its own store: the only polling there is, by one rank, on its own
# host
_POLL = 0.05
_FAREWELL = 5.0  # s that rank 0 keeps its store open for those who still fetch the verdict
_NAMED = 8  # ranks or reasons that a message names
# S for the others to report on a failure; a signalled rank 0 has twice that in all
_LAST_WORDS = 1.0


class Store(Protocol):
    """A key-value store; every method raises ConnectionError when the store is lost."""

    def set(self, key: str, value: str) -> None:
        """Write ``value``."""

    def get(self, key: str) -> str:
        """Read a key that exists."""

    def check(self, key: str) -> bool:
        """Tell at once whether ``key`` exists."""

    def wait(self, key: str, seconds: float) -> bool:
        """Block until ``key`` exists, at most ``seconds``; tell whether it does."""

    def add(self, key: str, amount: int) -> int:
        """Add to a counter and give its new value."""

    def compare_set(self, key: str, expected: str, desired: str) -> str:
        """Write ``desired`` if the key holds ``expected`` ("" for none), and give what stands there now."""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long silence may last, in seconds; working and waiting as such have no limit."""

    arrival: float = 900.0
    heartbeat: float = 30.0
    stall: float = 600.0
    visibility: float = 120.0

    @property
    def beat(self) -> float:
        """Seconds between two beats: half the heartbeat timeout, so that one late beat is not yet silence."""
        return self.heartbeat / 2

    @property
    def confirming(self) -> float:
        """Seconds in which every rank must have said whether it can use the outcome."""
        return self.visibility + 30


@dataclass(frozen=True, kw_only=True)
class Group:
    """The ranks of one job and how each reaches the store; one object per process, since it counts the calls.

    ``connect(seconds)`` gives a Store within that time or raises ConnectionError; ``reconnects``
    says that it may be called again after a loss.
    """

    rank: int
    size: int
    connect: Callable[[float], Store]
    host: str = field(default_factory=socket.gethostname)
    name: str = "job"
    reconnects: bool = False
    calls: Iterator[int] = field(default_factory=itertools.count)

    @staticmethod
    def alone() -> "Group":
        """Give the group of a single process; it needs no store."""
        return Group(rank=0, size=1, connect=_no_store)


@dataclass(frozen=True, kw_only=True)
class _Call:
    group: Group
    timeouts: Timeouts
    arguments: Value
    prefix: str


def share(
    group: Group,
    work: Callable[[ProgressTracker], Value],
    *,
    confirm: Callable[[Value], Value | None] = lambda _: None,
    look: Callable[[bool], Value | None] = lambda _: None,
    watch: Callable[[Progress], None] = lambda _: None,
    arguments: Mapping[str, Any] | None = None,
    timeouts: Timeouts = Timeouts(),
) -> Value:
    """Run ``work`` on rank 0 and give its result to every rank, or raise its error on every rank.

    work:      runs on rank 0 alone, is handed a `ProgressTracker`, and returns what JSON can carry.
    confirm:   runs on every rank with the result and raises if this rank can't use it; that fails
    all ranks, by name. What it
               returns, if anything, is told to rank 0.
    look:      gives the result of an earlier success, if one is visible here; asked when rank 0 is
    lost. Its argument says
               that only a success of this very run counts (rank 0 may merely be late).
    watch:     is given rank 0's progress: on rank 0 at every change, on the others at every beat.
    arguments: must be equal on all ranks.

    On rank 0 the result carries ``ranks``, too: what each rank reported, ``ok`` None for those that
    never did; ``waited`` are the seconds until it heard the outcome, ``lag`` those that its
    ``confirm`` took then. An error of a rank's carries them, too. Raises what ``work`` or any
    rank's ``confirm`` raised; `CallMismatch`; `Stalled`; `RankZeroLost`.
    """
    plain: Value = json.loads(json.dumps(dict(arguments or {})))
    call = _Call(
        group=group,
        timeouts=timeouts,
        arguments=plain,
        prefix=f"step37/{group.name}/{next(group.calls)}",
    )
    if group.size == 1:
        result = work(ProgressTracker(watch))
        confirm(result)
        return result
    try:
        return (
            _lead(call, work, confirm, watch)
            if group.rank == 0
            else _follow(call, confirm, look, watch)
        )
    except RankZeroLost as lost:
        found = look(False)
        if found is None:
            raise
        log.warning("%s; the ready record is there and fits, so this rank goes on", lost)
        return found


# --- rank 0 ---------------------------------------------------------------------------------------


def _lead(
    call: _Call,
    work: Callable[[ProgressTracker], Value],
    confirm: Callable[[Value], Value | None],
    watch: Callable[[Progress], None],
) -> Value:
    progress = ProgressTracker(watch)
    herald = _Herald(call, progress)
    herald.start()
    error: BaseException | None = None
    result: Value = {}
    try:
        result = work(progress)
        spoken: Value = {"ok": True, "result": result}
    except BaseException as problem:  # noqa: BLE001 - the one broad except: whatever ends the work, the others hear of it
        error, spoken = problem, {"ok": False, **as_value(problem)}
    try:
        outcome = herald.tell("outcome", spoken | {"arguments": call.arguments})
        if error is None and not outcome["ok"]:
            error = from_value(outcome)  # what the others were told meanwhile stands
        if error is None:
            progress.report(Progress(State.CONFIRMING))
        verdict = herald.conclude(
            error, _heard(confirm, result, 0.0) if error is None else {"ok": True}
        )
    finally:
        herald.stop()
    if error is not None and (
        not isinstance(error, Step37Error) or verdict["error"] == type(error).__name__
    ):
        raise error
    if not verdict["ok"]:
        failure = from_value(verdict)
        if isinstance(failure, Step37Error):
            failure.ranks = verdict["ranks"]
        raise failure
    return result | {"ranks": verdict["ranks"]}


def _heard(confirm: Callable[[Value], Value | None], result: Value, waited: float) -> Value:
    """Give this rank's report on a result: ok or the failure, what it has to tell, and how long both took."""
    start = time.monotonic()
    try:
        said = {"ok": True, **(confirm(result) or {})}
    except (Step37Error, OSError) as problem:
        said = {"ok": False, **as_value(problem)}
    return said | {"waited": round(waited, 3), "lag": round(time.monotonic() - start, 3)}


class _Herald(threading.Thread):
    """Rank 0's voice: beats, answers arrivals, speaks words; the only user of rank 0's store connection."""

    def __init__(self, call: _Call, progress: ProgressTracker) -> None:
        super().__init__(name="step37-herald", daemon=True)
        self._call = call
        self._timeouts = call.timeouts
        self._progress = progress
        self._nonce = secrets.token_hex(8)
        self._tasks: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._words = 0
        self._answered = 0
        self._outcome: tuple[int, Value] | None = None
        self._beat_due = 0.0
        self._turned = time.monotonic()
        self._was_frozen = False
        self._lost: ConnectionError | None = None
        try:
            self._store = call.group.connect(call.timeouts.arrival)
        except ConnectionError as error:
            raise TransientError(str(error)) from error

    # in rank 0's main thread

    def tell(self, kind: str, value: Value) -> Value:
        """Speak a word and give the one that stands: a call has one outcome, whoever said it first."""
        stands: Value = self._ask(lambda: self._speak(kind, value), default=value)
        return stands

    def conclude(self, error: BaseException | None, own_report: Value) -> Value:
        """Collect what the ranks report, speak the verdict, and stay until it has been heard."""
        others = self._call.group.size - 1
        patient = self._timeouts.confirming if error is None else _LAST_WORDS
        self._until("reports", others, _FAREWELL if self._was_frozen else patient)
        reports = self._ask(self._reports, default={})
        reports[0] = own_report | {"host": self._call.group.host}
        verdict = self.tell("verdict", self._verdict(error, reports))
        if error is None:
            self._until("leaves", len(reports) - 1, _FAREWELL)
        else:
            signalled = not isinstance(error, Exception)
            self._until("leaves", others, _LAST_WORDS if signalled else self._timeouts.heartbeat)
        return verdict | {"ranks": _roll(self._call.group.size, reports)}

    def stop(self) -> None:
        """Fall silent."""
        self._tasks.put(None)
        self.join(_FAREWELL)

    def _verdict(self, error: BaseException | None, reports: dict[int, Value]) -> Value:
        failed = {rank: report for rank, report in reports.items() if not report["ok"]}
        mismatched = {rank: r for rank, r in failed.items() if r["error"] == CallMismatch.__name__}
        if mismatched or (failed and error is None):
            return {"ok": False, **_joined(mismatched or failed)}
        if error is not None:
            return {"ok": False, **as_value(error)}
        silent = sorted(set(range(self._call.group.size)) - set(reports))
        if silent:
            log.warning(
                "rank %s never said whether it can use the outcome",
                _first([str(rank) for rank in silent]),
            )
        return {"ok": True}

    def _until(self, counter: str, count: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._ask(lambda: self._store.add(self._key(counter), 0), default=count) < count:
            if time.monotonic() > deadline:
                return
            time.sleep(_POLL / 2)

    def _ask(self, task: Callable[[], Any], *, default: Any) -> Any:
        """Run ``task`` in the herald's thread; without a store there is nobody to hear, so ``default`` must do."""
        future: Future[Any] = Future()
        self._tasks.put((task, future))
        while not future.done():
            if not self.is_alive() and not future.done():
                log.warning(
                    "the store is lost (%s): the other ranks will look at the ready record themselves",
                    self._lost,
                )
                return default
            with contextlib.suppress(FutureTimeoutError):
                return future.result(timeout=1.0)
        return future.result()

    # in the herald's own thread

    def run(self) -> None:
        """Speak until stopped or until the store is lost."""
        try:
            self._begin()
            while self._next_task():
                self._answer()
                self._keep_alive()
        except ConnectionError as lost:
            self._lost = lost

    def _next_task(self) -> bool:
        now = time.monotonic()
        # a rank 0 that was frozen, and its store with it, has been given up where it can't read of
        # it: few will still report
        self._was_frozen |= now - self._turned > self._timeouts.heartbeat
        self._turned = now
        try:
            item = self._tasks.get(timeout=_POLL)
        except queue.Empty:
            return True
        if item is None:
            return False
        task, future = item
        future.set_result(task())
        return True

    def _begin(self) -> None:
        """Take the call over from an earlier rank 0, dead or frozen: its last word says that it has been replaced."""
        pointer = f"{self._call.prefix}/nonce"
        before = ""
        while (stands := self._store.compare_set(pointer, before, self._nonce)) != self._nonce:
            before = stands
        moved = json.dumps({"kind": "moved", "to": self._nonce})
        if before:
            keys = (f"{self._call.prefix}/{before}/word/{k}" for k in itertools.count(1))
            next(key for key in keys if self._store.compare_set(key, "", moved) == moved)
        self._speak("beat", self._progress.snapshot().as_json())

    def _answer(self) -> None:
        prefix = self._call.prefix
        while self._store.check(f"{prefix}/arrival/{self._answered + 1}"):
            self._answered += 1
            word = self._outcome[0] if self._outcome else self._words
            answer = json.dumps({"nonce": self._nonce, "word": word})
            self._store.set(f"{prefix}/answer/{self._answered}", answer)
            log.debug("arrived: %s", self._store.get(f"{prefix}/arrival/{self._answered}"))

    def _keep_alive(self) -> None:
        stall = self._timeouts.stall
        if self._outcome is None and stall and self._progress.idle() > stall:
            state = self._progress.snapshot().text
            reason = Stalled(
                f"rank 0 has made no progress for {stall:g} s while {state}: look at its node and the Hub"
            )
            self._progress.stop(reason)
            self._speak(
                "outcome", {"ok": False, **as_value(reason), "arguments": self._call.arguments}
            )
        if time.monotonic() >= self._beat_due:
            self._speak("beat", self._progress.snapshot().as_json())

    def _speak(self, kind: str, value: Value) -> Value:
        if kind == "outcome" and self._outcome is not None:
            return self._outcome[1]
        word = {"kind": kind} | value
        text = json.dumps(word)
        stands = self._store.compare_set(self._key(f"word/{self._words + 1}"), "", text)
        self._words += 1
        self._beat_due = time.monotonic() + self._timeouts.beat
        if stands != text:  # said in this rank's place while it was frozen or cut off: it stands
            word = _outcome_of(json.loads(stands)) | {"arguments": self._call.arguments}
            self._progress.stop(RankZeroLost(word["message"]))
        if word["kind"] == "outcome":
            self._outcome = (self._words, word)
        return word

    def _reports(self) -> dict[int, Value]:
        ranks = range(1, self._call.group.size)
        return {
            r: json.loads(self._store.get(key))
            for r in ranks
            if self._store.check(key := self._key(f"report/{r}"))
        }

    def _key(self, name: str) -> str:
        return f"{self._call.prefix}/{self._nonce}/{name}"


def _joined(failed: dict[int, Value]) -> Value:
    """Give one error of several ranks: the lowest rank's class, and who says what (the first eight of each)."""
    said: dict[str, list[str]] = {}
    for rank, report in sorted(failed.items()):
        said.setdefault(report["message"], []).append(f"rank {rank} on {report['host']}")
    told = [f"{_first(who)}: {message}" for message, who in said.items()]
    return failed[min(failed)] | {"message": "; ".join(told[:_NAMED])}


def _first(names: list[str]) -> str:
    return listed(names, _NAMED)


def _roll(size: int, reports: dict[int, Value]) -> dict[str, Value]:
    """Give every rank's outcome for rank 0's report."""
    silent = {"ok": None, "host": None}
    return {
        str(rank): {k: v for k, v in reports.get(rank, silent).items() if k != "traceback"}
        for rank in range(size)
    }


def _outcome_of(substitute: Value) -> Value:
    """Give what a word said in rank 0's place means for rank 0 itself."""
    message = (
        "another rank 0 has begun this call anew"
        if substitute["kind"] == "moved"
        else substitute["message"]
    )
    return {"kind": "outcome", "ok": False, **as_value(RankZeroLost(message))}


# --- every other rank -----------------------------------------------------------------------------


def _follow(
    call: _Call,
    confirm: Callable[[Value], Value | None],
    look: Callable[[bool], Value | None],
    watch: Callable[[Progress], None],
) -> Value:
    start = time.monotonic()
    listener = _Listener(call)
    listener.start()
    outcome = listener.next("outcome", watch, look)
    if outcome["kind"] == "found":
        return outcome
    waited = time.monotonic() - start
    if mismatch := _difference(call, outcome):
        listener.report({"ok": False, **as_value(mismatch)})
    else:
        listener.report(
            _heard(confirm, outcome["result"], waited) if outcome["ok"] else {"ok": True}
        )
    verdict = listener.next("verdict", watch)
    listener.join(_FAREWELL)  # a thread that the end of the process meets inside of torch aborts it
    if not verdict["ok"]:
        log.debug("the failure, where it happened:\n%s", verdict["traceback"])
        raise from_value(verdict)
    result: Value = outcome["result"]
    return result


def _difference(call: _Call, outcome: Value) -> Exception | None:
    told = difference(call.arguments, outcome["arguments"])
    return (
        CallMismatch(f"the ranks of one call passed different arguments: {told}") if told else None
    )


def difference(ours: Value, theirs: Value) -> str:
    """Tell in which arguments this rank differs from rank 0; nothing where it doesn't."""
    names = sorted(
        name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name)
    )
    return ", ".join(
        f"{name} is {ours.get(name)!r} here and {theirs.get(name)!r} on rank 0" for name in names
    )


class _Listener(threading.Thread):
    """A waiter's ear: blocks in the store, so that its rank's main thread stays free for signals and clocks."""

    def __init__(self, call: _Call) -> None:
        super().__init__(name="step37-listener", daemon=True)
        self._call = call
        self._timeouts = call.timeouts
        self._inbox: queue.SimpleQueue[Value | RankZeroLost] = queue.SimpleQueue()
        self._own_report: Future[str] = Future()
        self._heard: float | None = None
        self._deadline = time.monotonic() + call.timeouts.arrival

    # in the waiter's main thread

    def next(
        self,
        kind: str,
        watch: Callable[[Progress], None],
        look: Callable[[bool], Value | None] = lambda _: None,
    ) -> Value:
        """Give rank 0's next word of this kind; raises RankZeroLost after the silence that is too long."""
        look_due = time.monotonic() + self._timeouts.heartbeat
        overdue = 0
        while True:
            with contextlib.suppress(queue.Empty):
                word = self._inbox.get(timeout=1.0)
                if isinstance(word, RankZeroLost):
                    raise word
                if word["kind"] == "beat":
                    watch(Progress.from_json(word))
                if word["kind"] == kind:
                    return word
                continue
            overdue = overdue + 1 if time.monotonic() > self._deadline else 0
            # Turns: had this rank itself been frozen, its listener would have caught up by now
            if overdue > 2:
                raise self._silence()
            if self._heard is None and time.monotonic() > look_due:
                look_due = time.monotonic() + self._timeouts.heartbeat
                if (found := look(True)) is not None:
                    log.warning(
                        "rank 0 is not there, but the ready record names this run, so this rank goes on"
                    )
                    return found | {"kind": "found"}

    def report(self, report: Value) -> None:
        """Tell rank 0 whether this rank can use the outcome."""
        self._listen_until_silence()
        self._own_report.set_result(json.dumps(report | {"host": self._call.group.host}))

    # in the listener's own thread

    def run(self) -> None:
        """Hear rank 0 out; a lost connection is mended while there is time."""
        while True:
            try:
                if self._hear_out():
                    return
            except RankZeroLost as lost:
                self._inbox.put(lost)
                return
            except ConnectionError as lost:
                if not self._call.group.reconnects or time.monotonic() > self._deadline:
                    self._inbox.put(self._silence(lost))
                    return
                log.debug("lost the store, trying again: %s", lost)
                time.sleep(min(1.0, self._timeouts.heartbeat / 10))

    def _hear_out(self) -> bool:
        """Follow one rank 0 to its verdict; False when another one has begun meanwhile."""
        store = self._call.group.connect(self._left())
        nonce, number = self._arrive(store)
        while True:
            word = self._word(store, f"{self._call.prefix}/{nonce}/word/{number}")
            if word["kind"] == "moved":
                return False
            self._inbox.put(RankZeroLost(word["message"]) if word["kind"] == "lost" else word)
            if word["kind"] == "outcome":
                self._send_report(store, nonce)
            elif word["kind"] == "verdict":
                store.add(f"{self._call.prefix}/{nonce}/leaves", 1)
            if word["kind"] in {"verdict", "lost"}:
                return True
            number += 1

    def _arrive(self, store: Store) -> tuple[str, int]:
        prefix, group = self._call.prefix, self._call.group
        number = store.add(f"{prefix}/arrivals", 1)
        store.set(
            f"{prefix}/arrival/{number}", json.dumps({"rank": group.rank, "host": group.host})
        )
        if not store.wait(f"{prefix}/answer/{number}", self._left()):
            raise self._silence()
        answer = json.loads(store.get(f"{prefix}/answer/{number}"))
        self._listen_until_silence()
        log.debug("rank 0 answers: it is at word %d", answer["word"])
        return answer["nonce"], answer["word"]

    def _word(self, store: Store, key: str) -> Value:
        if store.wait(key, self._left()):
            text = store.get(key)
        else:  # given up: said where rank 0 would speak next, so that it and all others learn of it
            lost = {
                "kind": "lost",
                "message": f"{self._silence()} (rank {self._call.group.rank} gave it up)",
            }
            text = store.compare_set(key, "", json.dumps(lost))
        self._listen_until_silence()
        word: Value = json.loads(text)
        return word

    def _send_report(self, store: Store, nonce: str) -> None:
        report = self._own_report.result()
        self._listen_until_silence()
        key = f"{self._call.prefix}/{nonce}/report/{self._call.group.rank}"
        if store.compare_set(key, "", report) == report:
            store.add(f"{self._call.prefix}/{nonce}/reports", 1)

    def _listen_until_silence(self) -> None:
        self._heard = time.monotonic()
        self._deadline = self._heard + self._timeouts.heartbeat

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), 0.001)

    def _silence(self, cause: Exception | None = None) -> RankZeroLost:
        why = f" ({cause})" if cause else ""
        if self._heard is None:
            return RankZeroLost(
                f"never met rank 0 within {self._timeouts.arrival:g} s{why}: did it start, and is it reachable?"
            )
        return RankZeroLost(
            f"rank 0 was killed, frozen or cut off: no word within {self._timeouts.heartbeat:g} s{why}"
        )


def _no_store(_: float) -> Store:
    raise ConnectionError("a single rank has no store")
