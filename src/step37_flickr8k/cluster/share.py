"""Rank zero first: run a piece of work on rank 0 and return its result on every rank.

It needs a key-value store and nothing else: no collective, no process group of its own. What the
ranks write, and why they can't deadlock: ``docs/explanation/protocol.md``.
"""

import json
import logging
import socket
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from step37_flickr8k.cluster.call import Call, CallResult, Store
from step37_flickr8k.cluster.progress import Progress, ProgressTracker
from step37_flickr8k.cluster.protocol.call import Facts
from step37_flickr8k.cluster.protocol.keys import Keys, Timeouts
from step37_flickr8k.cluster.protocol.messages import JsonObject
from step37_flickr8k.cluster.runner import follow, lead
from step37_flickr8k.cluster.signing import Seal
from step37_flickr8k.cluster.work import found_within, perform, within
from step37_flickr8k.errors import CallMismatch, RankZeroLost

__all__ = ["CallNumbers", "CallResult", "Group", "share"]

log = logging.getLogger("step37_flickr8k")

_T = TypeVar("_T")
_TIMEOUTS = Timeouts()
# Whether this is the work of a call
_at_work: ContextVar[bool] = ContextVar("step37_at_work", default=False)


class CallNumbers:
    """Numbers the calls of a process, so that the same calls of all ranks meet.

    A number counts the different calls so far, by their arguments, and then how often this one was
    repeated. So a rank that makes a call once more than the others, because rank 0 goes first in
    many programs, meets them in the next one all the same.
    """

    def __init__(self) -> None:
        """Begin with no calls."""
        self._seen: dict[str, tuple[int, int]] = {}
        self._of_parts: dict[str, CallNumbers] = {}

    def next(self, arguments: JsonObject) -> str:
        """Return the number of the next call with these arguments."""
        name = json.dumps(arguments, sort_keys=True)
        number, repeats = self._seen.get(name, (len(self._seen), -1))
        self._seen[name] = number, repeats + 1
        return f"{number}.{repeats + 1}"

    def of_part(self, name: str) -> "CallNumbers":
        """Return the numbers of the calls that a part of the ranks makes on its own."""
        return self._of_parts.setdefault(name, CallNumbers())


@dataclass(frozen=True, kw_only=True)
class Group:
    """The ranks of one job, and how this one reaches the store; one object per process.

    ``connect(seconds)`` returns a Store within that time or raises ConnectionError; ``reconnects``
    says that it may be called again after a loss. ``run`` names the run where the store may be
    another one's. ``expects_all``: rank 0 waits for all ranks, not only for those that have come.
    ``secret`` signs what they write, where there is one.
    """

    rank: int
    size: int
    connect: Callable[[float], Store]
    host: str = field(default_factory=socket.gethostname)
    name: str = "job"
    run: str = ""
    expects_all: bool = True
    reconnects: bool = False
    secret: bytes = field(default=b"", repr=False)
    calls: CallNumbers = field(default_factory=CallNumbers)

    def next_call(self, arguments: JsonObject, timeouts: Timeouts) -> Facts:
        """Return what this rank knows of its next call; raises `CallMismatch` inside of work."""
        if _at_work.get():
            raise CallMismatch(
                "a call of all ranks was made inside the work of another one, which rank 0 alone "
                "runs: make one after the other"
            )
        return Facts(
            rank=self.rank,
            size=self.size,
            host=self.host,
            keys=Keys(self.name, self.calls.next(arguments)),
            timeouts=timeouts,
            run=self.run,
            expects_all=self.expects_all,
            reconnects=self.reconnects,
            signs=bool(self.secret),
        )

    def part(self, name: str, *, rank: int, size: int) -> "Group":
        """Return some of these ranks as a group of their own, over the same store."""
        calls = self.calls.of_part(name)
        return replace(self, name=f"{self.name}/{name}", rank=rank, size=size, calls=calls)

    @staticmethod
    def alone() -> "Group":
        """Return the group of a single process; it needs no store."""
        return Group(rank=0, size=1, connect=_no_store)


def share(
    group: Group,
    work: Callable[[ProgressTracker], JsonObject],
    *,
    confirm: Callable[[JsonObject], JsonObject | None] = lambda _: None,
    find_result: Callable[[bool], JsonObject | None] = lambda _: None,
    watch: Callable[[Progress], None] = lambda _: None,
    arguments: JsonObject | None = None,
    timeouts: Timeouts = _TIMEOUTS,
) -> CallResult:
    """Run ``work`` on rank 0 and return its result on every rank, or raise its error on every rank.

    Args:
        group: the ranks of the job; each of them makes the call.
        work: runs on rank 0 alone; reports to a `ProgressTracker` and returns what JSON can carry.
        confirm: runs on every rank with the result and raises if this rank can't use it; that
            fails all ranks, by name. What it returns becomes part of the rank's report.
        find_result: returns the result of an earlier success, called when rank 0 is lost. True
            means that only one of this very run counts, since rank 0 may merely be late.
        watch: is called with rank 0's progress: on rank 0 at every change, on the other ranks at
            every heartbeat.
        arguments: must be equal on all ranks.
        timeouts: how long silence may last.

    Raises:
        CallMismatch: the ranks passed different arguments, or this is the work of another call.
        Stalled: rank 0 is alive and makes no progress.
        RankZeroLost: rank 0 was signalled, killed, silent or never met.
        Exception: what ``work``, or any rank's ``confirm``, raised. On rank 0 a `Step37Error` has
            the ranks' reports as ``ranks``.
    """
    arguments = json.loads(json.dumps(dict(arguments or {})))
    limit = timeouts.confirmation
    call = Call(
        facts=group.next_call(arguments, timeouts),
        arguments=arguments,
        connect=group.connect,
        confirm=lambda result: within(limit, partial(confirm, result)),
        find_result=lambda of_this_run: found_within(limit, partial(find_result, of_this_run)),
        watch=watch,
        seal=Seal(group.secret, group.run),
    )
    return _make(call, partial(_do, work))


def _do(work: Callable[[ProgressTracker], _T], progress: ProgressTracker) -> _T:
    """Do the work, known as such to the calls that it makes."""
    token = _at_work.set(True)
    try:
        return work(progress)
    finally:
        _at_work.reset(token)


def _make(call: Call, work: Callable[[ProgressTracker], JsonObject]) -> CallResult:
    """Make the call as this rank: alone, as the leader, or as a follower."""
    if call.facts.size == 1:
        result = perform(work, ProgressTracker(call.watch), stall=call.facts.timeouts.stall)
        call.confirm(result)
        return CallResult(result)
    try:
        return lead(call, work) if call.facts.rank == 0 else follow(call)
    except RankZeroLost as lost:
        found = call.find_result(False)
        if found is None:
            raise
        log.warning("%s; a ready record matches, so this rank continues", lost)
        return CallResult(found)


def _no_store(_: float) -> Store:
    raise ConnectionError("a single rank has no store")
