"""What all ranks of a call agree on: the store, its keys, the timeouts, and the call itself.

Keys, below ``step37/<group>/<call number>/``::

    nonce              the newest leader of this call
    arrivals           a counter; a follower takes the next number i from it
    arrival/<i>        that follower's rank and host
    answer/<i>         the leader's nonce and the number of its latest message
    <nonce>/word/<k>   message k of that leader, written once
    <nonce>/report/<rank>, <nonce>/reports, <nonce>/leaves

The messages and their JSON are in `messages`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from step37_flickr8k.cluster.messages import JsonObject, RankReport
from step37_flickr8k.cluster.progress import Progress
from step37_flickr8k.errors import ErrorReport, Step37Error

__all__ = ["Call", "Keys", "Store", "Timeouts", "difference"]


class Store(Protocol):
    """A key-value store; every method raises ConnectionError when the store is lost."""

    def set(self, key: str, value: str) -> None:
        """Write ``value``."""

    def get(self, key: str) -> str:
        """Return the value of a key that exists."""

    def check(self, key: str) -> bool:
        """Return at once whether ``key`` exists."""

    def wait(self, key: str, seconds: float) -> bool:
        """Block until ``key`` exists, at most ``seconds``; return whether it does."""

    def add(self, key: str, amount: int) -> int:
        """Add to a counter and return its new value."""

    def compare_set(self, key: str, expected: str, desired: str) -> str:
        """Write ``desired`` if the key holds ``expected`` ("" for none); return what it holds now."""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long silence may last, in seconds; working and waiting as such have no limit."""

    arrival: float = 900.0
    heartbeat: float = 30.0
    stall: float = 600.0
    visibility: float = 120.0

    @property
    def heartbeat_interval(self) -> float:
        """Seconds between two heartbeats: half the timeout, so that a late one is not yet silence."""
        return self.heartbeat / 2

    @property
    def confirmation(self) -> float:
        """Seconds in which every rank must have reported whether it can use the outcome."""
        return self.visibility + 30


@dataclass(frozen=True)
class Keys:
    """The keys of one call."""

    prefix: str

    @property
    def nonce(self) -> str:
        """The newest leader of this call."""
        return f"{self.prefix}/nonce"

    @property
    def arrivals(self) -> str:
        """The counter of arrivals."""
        return f"{self.prefix}/arrivals"

    def arrival(self, number: int) -> str:
        """Return the key of a follower's arrival."""
        return f"{self.prefix}/arrival/{number}"

    def answer(self, number: int) -> str:
        """Return the key of the leader's answer to an arrival."""
        return f"{self.prefix}/answer/{number}"

    def message(self, nonce: str, number: int) -> str:
        """Return the key of a leader's message; the first one is number 1."""
        return f"{self.prefix}/{nonce}/word/{number}"

    def report(self, nonce: str, rank: int) -> str:
        """Return the key of a follower's report to a leader."""
        return f"{self.prefix}/{nonce}/report/{rank}"

    def reports(self, nonce: str) -> str:
        """Return the counter of the reports to a leader."""
        return f"{self.prefix}/{nonce}/reports"

    def leaves(self, nonce: str) -> str:
        """Return the counter of the followers that have read a leader's verdict."""
        return f"{self.prefix}/{nonce}/leaves"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a group, as one rank makes it; the functions are those that `share` was given."""

    rank: int
    size: int
    host: str
    keys: Keys
    arguments: JsonObject
    timeouts: Timeouts
    connect: Callable[[float], Store]
    reconnects: bool
    confirm: Callable[[JsonObject], JsonObject | None]
    find_result: Callable[[bool], JsonObject | None]
    watch: Callable[[Progress], None]

    def report_on(self, result: JsonObject, *, waited: float) -> RankReport:
        """Return whether this rank can use the result, and how long it took to find that out."""
        start = time.monotonic()
        found: JsonObject = {}
        failure: ErrorReport | None = None
        try:
            found = self.confirm(result) or {}
        except (Step37Error, OSError) as error:
            failure = ErrorReport.of(error)
        return RankReport(
            ok=failure is None,
            host=self.host,
            failure=failure,
            found=found,
            waited=round(waited, 3),
            lag=round(time.monotonic() - start, 3),
        )


def difference(own: Mapping[str, Any], leaders: Mapping[str, Any]) -> str:
    """Return in which arguments this rank differs from rank 0; empty if in none."""
    names = sorted(
        name for name in leaders.keys() | own.keys() if leaders.get(name) != own.get(name)
    )
    return ", ".join(
        f"{name} is {own.get(name)!r} here and {leaders.get(name)!r} on rank 0" for name in names
    )
