"""Rank zero first: run a piece of work on rank 0 and return its result on every rank.

It needs a key-value store and nothing else: no collective, no process group of its own. What the
ranks write, and why they can't deadlock: ``docs/explanation/protocol.md``.
"""

import json
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from step37_flickr8k.cluster.call import Call, CallResult, Store
from step37_flickr8k.cluster.progress import Progress, ProgressTracker
from step37_flickr8k.cluster.protocol.call import Facts
from step37_flickr8k.cluster.protocol.keys import Keys, Timeouts
from step37_flickr8k.cluster.protocol.messages import JsonObject
from step37_flickr8k.cluster.runner import follow, lead
from step37_flickr8k.errors import RankZeroLost

__all__ = ["CallNumbers", "CallResult", "Group", "share"]

log = logging.getLogger("step37_flickr8k")

_TIMEOUTS = Timeouts()


class CallNumbers:
    """Numbers the calls of a process, so that the same calls of all ranks meet.

    A number counts the different calls so far, by their arguments, and then how often this one was
    repeated. So a rank that makes a call once more than the others, because rank 0 goes first in
    many programs, meets them in the next one all the same.
    """

    def __init__(self) -> None:
        """Begin with no calls."""
        self._seen: dict[str, tuple[int, int]] = {}

    def next(self, arguments: JsonObject) -> str:
        """Return the number of the next call with these arguments."""
        name = json.dumps(arguments, sort_keys=True)
        number, repeats = self._seen.get(name, (len(self._seen), -1))
        self._seen[name] = number, repeats + 1
        return f"{number}.{repeats + 1}"


@dataclass(frozen=True, kw_only=True)
class Group:
    """The ranks of one job, and how this one reaches the store; one object per process.

    ``connect(seconds)`` returns a Store within that time or raises ConnectionError; ``reconnects``
    says that it may be called again after a loss. ``run`` names the run where the store may be
    another one's. ``expects_all``: rank 0 waits for all ranks, not only for those that have come.
    """

    rank: int
    size: int
    connect: Callable[[float], Store]
    host: str = field(default_factory=socket.gethostname)
    name: str = "job"
    run: str = ""
    expects_all: bool = True
    reconnects: bool = False
    calls: CallNumbers = field(default_factory=CallNumbers)

    def next_call(self, arguments: JsonObject, timeouts: Timeouts) -> Facts:
        """Return what this rank knows of its next call."""
        return Facts(
            rank=self.rank,
            size=self.size,
            host=self.host,
            keys=Keys(self.name, self.calls.next(arguments)),
            timeouts=timeouts,
            run=self.run,
            expects_all=self.expects_all,
            reconnects=self.reconnects,
        )

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
        CallMismatch: the ranks passed different arguments.
        Stalled: rank 0 is alive and makes no progress.
        RankZeroLost: rank 0 was signalled, killed, silent or never met.
        Exception: what ``work``, or any rank's ``confirm``, raised. On rank 0 a `Step37Error` has
            the ranks' reports as ``ranks``.
    """
    arguments = json.loads(json.dumps(dict(arguments or {})))
    call = Call(
        facts=group.next_call(arguments, timeouts),
        arguments=arguments,
        connect=group.connect,
        confirm=confirm,
        find_result=find_result,
        watch=watch,
    )
    return _make(call, work)


def _make(call: Call, work: Callable[[ProgressTracker], JsonObject]) -> CallResult:
    """Make the call as this rank: alone, as the leader, or as a follower."""
    if call.facts.size == 1:
        result = work(ProgressTracker(call.watch))
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
