"""What a state machine asks for: requests to the store, and questions to its own rank.

What is sent back for an action stands in its docstring. Times are those of the machine's own clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from step37_flickr8k.cluster.progress import Progress
from step37_flickr8k.cluster.protocol.messages import (
    Answer,
    Arrival,
    Finished,
    Lost,
    Moved,
    Outcome,
    RankReport,
    SentMessage,
)

__all__ = [
    "Action",
    "Add",
    "Await",
    "Confirm",
    "Connect",
    "Count",
    "Decide",
    "FindResult",
    "Load",
    "Pause",
    "Save",
    "SaveOnce",
    "Searching",
    "Show",
    "StopWork",
    "Swap",
    "Turn",
    "WorkState",
]


# --- requests to the store ---


@dataclass(frozen=True)
class Connect:
    """Connect to the store, until a time at the latest; sent None. Throws ConnectionError."""

    until: float


@dataclass(frozen=True)
class Await:
    """Block until a key exists, or until a time; sent whether it does."""

    key: str
    until: float


@dataclass(frozen=True)
class Load:
    """Sent the value of a key; None if the key doesn't exist, or holds no value of this class."""

    key: str
    kind: Any


@dataclass(frozen=True)
class Save:
    """Write a value; sent None."""

    key: str
    value: Arrival | Answer | Finished | str


@dataclass(frozen=True)
class SaveOnce:
    """Write a value unless the key has one of its kind; sent None, or the value that stands."""

    key: str
    value: SentMessage | Lost | Moved | RankReport


@dataclass(frozen=True)
class Swap:
    """Replace one name by another ("" for none); sent the name that stands then."""

    key: str
    expected: str
    desired: str


@dataclass(frozen=True)
class Count:
    """Sent the value of a counter; 0 if it doesn't exist, or is none."""

    key: str


@dataclass(frozen=True)
class Add:
    """Add to a counter; sent its new value, 0 if it is none."""

    key: str
    amount: int


# --- questions to the rank itself ---


@dataclass(frozen=True)
class Pause:
    """Do nothing until a time; sent None."""

    until: float


@dataclass(frozen=True)
class Searching:
    """Rank 0 isn't found yet, and why, as far as that is known; sent None."""

    why: str


@dataclass(frozen=True)
class FindResult:
    """Sent the result of an earlier success of this very run, or None."""


@dataclass(frozen=True)
class Show:
    """Rank 0 has come this far; sent None."""

    progress: Progress


@dataclass(frozen=True)
class Confirm:
    """Try whether this rank can use the outcome; sent its report."""

    outcome: Outcome


@dataclass(frozen=True)
class Turn:
    """Go on with the work until a time, or until it ends; sent its `WorkState`."""

    until: float


@dataclass(frozen=True)
class WorkState:
    """How far the leader's work is, and for how many seconds it hasn't moved.

    ``outcome`` is there once it has ended, ``report`` once rank 0 itself has confirmed it.
    """

    progress: Progress
    idle: float = 0.0
    outcome: Outcome | None = None
    report: RankReport | None = None


@dataclass(frozen=True)
class StopWork:
    """Nobody waits for the work any more, and why; sent the outcome that this is.

    ``stalled``: the work stood still.
    """

    why: str
    stalled: bool = False


@dataclass(frozen=True)
class Decide:
    """Sent the `Verdict` on an outcome, of ranks that were to report and of what they reported."""

    outcome: Outcome
    ranks: frozenset[int]
    reports: Mapping[int, RankReport]


Action: TypeAlias = (
    Connect
    | Await
    | Load
    | Save
    | SaveOnce
    | Swap
    | Count
    | Add
    | Pause
    | Searching
    | FindResult
    | Show
    | Confirm
    | Turn
    | StopWork
    | Decide
)
