"""How far a piece of work is: one immutable value, and the tracker that the work reports it to.

The same JSON form of `Progress` stands in a heartbeat, in the lease and in ``status --json``.
"""

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from enum import Enum

__all__ = ["Progress", "ProgressTracker", "State", "no_progress"]

_HIGHEST = 1 << 63


class State(str, Enum):
    """What the work is doing; the values are the words that reports, leases and logs hold."""

    STARTING = "starting"
    LISTING = "listing"
    READING_METADATA = "reading the metadata"
    VERIFYING = "verifying"
    FETCHING = "fetching"
    WAITING_FOR_RATE_LIMIT = "waiting for quota"
    WAITING_FOR_LEASE = "waiting for the lease"
    PUBLISHING = "publishing"
    CONFIRMING = "confirming"
    DECODING = "decoding"
    WORKING = "working"

    @property
    def is_waiting(self) -> bool:
        """Whether the work waits for something that has no limit, so that it can't stall."""
        return self in {State.WAITING_FOR_RATE_LIMIT, State.WAITING_FOR_LEASE}


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is.

    ``detail`` follows the state in what people read ("43 s" of a wait). ``retries`` counts
    requests that were repeated, by cause. A total comes with its count: ``of_files`` needs
    ``files``, ``of_bytes`` needs ``bytes``; otherwise ValueError.
    """

    state: State = State.STARTING
    detail: str = ""
    _: KW_ONLY
    files: int | None = None
    of_files: int | None = None
    bytes: int | None = None
    of_bytes: int | None = None
    retries: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a total without its count, and counts that can't be."""
        pairs = ((self.files, self.of_files), (self.bytes, self.of_bytes))
        if any(count is None and total is not None for count, total in pairs):
            raise ValueError("a total needs its count")
        counts = (*itertools.chain(*pairs), *self.retries.values())
        if not all(count is None or 0 <= count <= _HIGHEST for count in counts):
            raise ValueError(f"a count is a number from 0 to {_HIGHEST}")

    @property
    def text(self) -> str:
        """The state with its detail, such as "waiting for quota, 43 s"."""
        return f"{self.state.value}, {self.detail}" if self.detail else self.state.value

    def as_json(self) -> dict[str, object]:
        """Return the JSON form; what isn't known isn't in it."""
        counts = {
            "files": self.files,
            "of_files": self.of_files,
            "bytes": self.bytes,
            "of_bytes": self.of_bytes,
        }
        known = {name: count for name, count in counts.items() if count is not None}
        retries = {"retries": dict(self.retries)} if self.retries else {}
        return {"state": self.text, **known, **retries}


def no_progress(seconds: float, progress: Progress) -> str:
    """Return the message about work that has stood still for so long."""
    return (
        f"rank 0 has made no progress for {seconds:g} s while {progress.text}."
        " Check its node and the Hub."
    )


class ProgressTracker:
    """The latest progress of a piece of work; the work may report it from any of its threads."""

    def __init__(self, watch: Callable[[Progress], None] = lambda _: None) -> None:
        """Begin with the state "starting"; ``watch`` is called with every change."""
        self._watch = watch
        self._latest = Progress()
        self._moved = time.monotonic()
        self._stopped: BaseException | None = None

    @property
    def stopped(self) -> BaseException | None:
        """Why nobody waits for this work any more; None as long as somebody does."""
        return self._stopped

    def report(self, progress: Progress) -> None:
        """Take in how far the work is; raises what `stop` was given, which ends the work."""
        if self._stopped is not None:
            raise self._stopped
        # A retry is worth showing, but is no progress. Whoever waits for a rate limit or the lease
        # reports it again and again: that is no stall.
        moved = replace(progress, retries={}) != replace(self._latest, retries={})
        if moved or progress.state.is_waiting:
            self._moved = time.monotonic()
        elif progress == self._latest:
            return
        self._latest = progress
        self._watch(progress)

    def stop(self, reason: BaseException) -> None:
        """Make the next `report` raise ``reason``: nobody waits for this work any more."""
        self._stopped = self._stopped or reason

    def snapshot(self) -> Progress:
        """Return what was reported last."""
        return self._latest

    def idle(self) -> float:
        """Return the seconds since the work moved on."""
        return time.monotonic() - self._moved
