"""One call of a group, as one rank makes it: its store, its arguments, what this rank can do."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from step37_flickr8k.cluster.progress import Progress
from step37_flickr8k.cluster.protocol.call import Facts
from step37_flickr8k.cluster.protocol.messages import JsonObject, Outcome, RankReport
from step37_flickr8k.cluster.signing import Seal
from step37_flickr8k.errors import CallMismatch, ErrorReport, Step37Error

__all__ = ["Call", "CallResult", "Store", "difference"]


class Store(Protocol):
    """A key-value store; every method raises ConnectionError when the store is lost."""

    def set(self, key: str, value: str) -> None:
        """Write ``value``."""

    def get(self, key: str) -> str | None:
        """Return at once the value of a key, None if it doesn't exist."""

    def wait(self, key: str, seconds: float) -> bool:
        """Block until ``key`` exists, at most ``seconds``; return whether it does."""

    def add(self, key: str, amount: int) -> int:
        """Add to a counter and return its new value."""

    def compare_set(self, key: str, expected: str, desired: str) -> str:
        """Write ``desired`` if the key holds ``expected`` ("" for none); return what it holds."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call: what the protocol must know of it, its arguments, and what this rank can do."""

    facts: Facts
    arguments: JsonObject
    connect: Callable[[float], Store]
    confirm: Callable[[JsonObject], JsonObject | None]
    find_result: Callable[[bool], JsonObject | None]
    watch: Callable[[Progress], None]
    seal: Seal = field(default_factory=Seal)

    def report_on(self, outcome: Outcome, *, waited: float) -> RankReport:
        """Return whether this rank can use the outcome, and how long it took to find that out."""
        host = self.facts.host
        if different := difference(self.arguments, outcome.arguments):
            mismatch = f"the ranks of one call passed different arguments: {different}"
            return RankReport(ok=False, host=host, failure=ErrorReport.of(CallMismatch(mismatch)))
        if outcome.failure is not None:
            return RankReport(ok=True, host=host)
        start = time.monotonic()
        found: JsonObject = {}
        failure: ErrorReport | None = None
        try:
            found = self.confirm(outcome.result) or {}
        except (Step37Error, OSError) as error:
            failure = ErrorReport.of(error)
        return RankReport(
            ok=failure is None,
            host=host,
            failure=failure,
            found=found,
            waited=round(waited, 3),
            lag=round(time.monotonic() - start, 3),
        )


@dataclass(frozen=True)
class CallResult:
    """What a call returns on each rank: the work's result; on rank 0 also each rank's report."""

    result: JsonObject
    ranks: Mapping[int, RankReport] = field(default_factory=dict)


def difference(own: Mapping[str, Any], leaders: Mapping[str, Any]) -> str:
    """Return in which arguments this rank differs from rank 0; empty if in none."""
    names = sorted(
        name for name in leaders.keys() | own.keys() if leaders.get(name) != own.get(name)
    )
    return ", ".join(
        f"{name} is {own.get(name)!r} here and {leaders.get(name)!r} on rank 0" for name in names
    )
