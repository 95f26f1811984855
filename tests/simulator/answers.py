"""What an action is sent in a simulated cluster, and how a rank ended."""

from typing import Any, NamedTuple

from step37_flickr8k.cluster.protocol import actions as act
from step37_flickr8k.cluster.protocol.call import Ended
from step37_flickr8k.cluster.protocol.messages import Outcome, RankReport
from step37_flickr8k.cluster.verdict import decide_verdict
from step37_flickr8k.errors import ErrorReport, RankZeroLost
from tests.simulator.machines import Lost

FULL = ErrorReport("FolderFull", "the disk is full", "")
BLIND = ErrorReport("NotVisible", "no ready record here", "")


class End(NamedTuple):
    """How a rank's call ended.

    ``kind`` is "success", "failure" or "lost". ``life`` is that of the rank 0 whose verdict it
    read, and ``agreed`` whether that was a success; 0 and None where it read none.
    """

    rank: int
    kind: str
    life: int
    agreed: bool | None
    why: str
    when: float


def end_of(rank: int, end: Ended | Lost, *, record: bool, now: float) -> End:
    """Return how a rank ended, as the runner would make an error or a result of it."""
    if isinstance(end, Lost):
        # Rank 0 goes on without its store; whoever loses rank 0 reads the ready record.
        well = record or end.why.startswith("ConnectionError")
        return End(rank, "success" if well else "lost", 0, None, end.why, now)
    if end.found is not None:
        return End(rank, "success", 0, None, "found", now)
    assert end.outcome is not None
    assert end.verdict is not None
    life, failure = int(end.outcome.result.get("life", 0)), end.verdict.failure
    own = failure or (end.report.failure if end.report else None)
    kind, why = ("failure", own.message) if own else ("success", "")
    if own is not None and own.error == RankZeroLost.__name__:
        kind = "success" if record else "lost"
    return End(rank, kind, life, failure is None, why, now)


def answered(action: Any, stands: Any) -> tuple[Any, Any]:
    """Return what a request comes to that finds ``stands`` at its key, and what stands after it."""
    match action:
        case act.Count():
            return stands or 0, stands
        case act.Load():
            return stands, stands
        case act.Add(_, amount):
            return (stands or 0) + amount, (stands or 0) + amount
        case act.Swap(_, expected, desired):
            after = desired if (stands or "") == expected else stands
            return after, after
        case act.SaveOnce(_, value):
            return stands, value if stands is None else stands
    return None, action.value


def local_answer(action: act.Action, rank: int, *, blind: int | None, record: bool) -> Any:
    """Return what an action is sent that asks the rank itself; `NotImplemented` for others."""
    match action:
        case act.Confirm(outcome):
            fails = rank == blind and outcome.failure is None
            return RankReport(ok=not fails, host=f"n{rank}", failure=BLIND if fails else None)
        case act.Decide(outcome, ranks, reports):
            return decide_verdict(outcome.failure, reports, ranks)
        case act.StopWork(why):
            return Outcome(arguments={}, failure=ErrorReport("RankZeroLost", why, ""))
        case act.FindResult():
            return {"found": True} if record else None
        case act.Show() | act.Searching():
            return None
    return NotImplemented
