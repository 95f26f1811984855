"""What leader and followers write to each other, as values, and their JSON; `codec` reads it.

The leader writes numbered messages: a `Heartbeat` with its progress, the `Outcome` of the work, the
`Verdict` of all ranks. In its place a follower that gives it up writes `Lost`, and a newer leader
writes `Moved`. A follower writes its `Arrival`, which the leader answers with an `Answer`, and
after the outcome its `RankReport`. `Finished` is for followers that come when the leader has gone.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NewType, TypeAlias

from step37_flickr8k.cluster.progress import Progress
from step37_flickr8k.errors import ErrorReport

__all__ = [
    "SIGNED",
    "Answer",
    "Arrival",
    "Finished",
    "Heartbeat",
    "JsonObject",
    "Lost",
    "Message",
    "Moved",
    "Nonce",
    "Outcome",
    "RankReport",
    "SentMessage",
    "Verdict",
    "is_name",
]

# What a call's work returns and what its arguments are: whatever JSON can carry
JsonObject: TypeAlias = Mapping[str, Any]
# The name of a leader: part of its keys
Nonce = NewType("Nonce", str)

# How a signed text begins (`step37_flickr8k.cluster.signing`)
SIGNED = "hmac-sha256="
_HIGHEST_NUMBER = 1 << 53
_LONGEST_HOST = 1000


def is_name(text: str) -> bool:
    """Return whether a text can be a name that this project has made up."""
    return re.fullmatch(r"[A-Za-z0-9.]{1,64}", text) is not None


def _refuse_unless(ok: bool, what: str) -> None:
    """Raise ValueError with what is wrong: a stranger may have written it."""
    if not ok:
        raise ValueError(what)


def _challenge(challenge: str) -> dict[str, str]:
    return {"challenge": challenge} if challenge else {}


def _are_seconds(*values: float | None) -> bool:
    return all(value is None or 0 <= value < math.inf for value in values)


@dataclass(frozen=True)
class Heartbeat:
    """The leader is alive, and how far its work is."""

    progress: Progress
    kind: Literal["beat"] = "beat"

    def as_json(self) -> JsonObject:
        """Return the JSON form."""
        return {"kind": self.kind, **self.progress.as_json()}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the work ended: its result or its failure; and the arguments of the leader's call."""

    arguments: JsonObject
    result: JsonObject = field(default_factory=dict)
    failure: ErrorReport | None = None
    kind: Literal["outcome"] = "outcome"

    def as_json(self) -> JsonObject:
        """Return the JSON form."""
        end = self.failure.as_json() if self.failure else {"result": self.result}
        ok = self.failure is None
        return {"kind": self.kind, "ok": ok, **end, "arguments": self.arguments}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How the call ended for all ranks.

    If ranks could not use the outcome, ``failure`` names them all; ``host``, ``waited`` and ``lag``
    are those of the lowest one.
    """

    failure: ErrorReport | None = None
    host: str | None = None
    waited: float | None = None
    lag: float | None = None
    kind: Literal["verdict"] = "verdict"

    def __post_init__(self) -> None:
        """Refuse times that can't be."""
        _refuse_unless(_are_seconds(self.waited, self.lag), "times are seconds")

    def as_json(self) -> JsonObject:
        """Return the JSON form."""
        failure = self.failure.as_json() if self.failure else {}
        rank = {"waited": self.waited, "lag": self.lag, "host": self.host}
        known = {name: value for name, value in rank.items() if value is not None}
        return {"kind": self.kind, "ok": self.failure is None, **failure, **known}


@dataclass(frozen=True)
class Lost:
    """A follower gives the leader up; written where the leader would write next."""

    message: str
    kind: Literal["lost"] = "lost"

    def as_json(self) -> JsonObject:
        """Return the JSON form."""
        return {"kind": self.kind, "message": self.message}


@dataclass(frozen=True)
class Moved:
    """A newer leader has taken the call over; written after the last message of the one before."""

    to: str
    kind: Literal["moved"] = "moved"

    def __post_init__(self) -> None:
        """Refuse what is no name."""
        _refuse_unless(is_name(self.to), "no leader's name")

    def as_json(self) -> JsonObject:
        """Return the JSON form."""
        return {"kind": self.kind, "to": self.to}


# What the leader itself writes, and what may stand there instead.
SentMessage: TypeAlias = Heartbeat | Outcome | Verdict
Message: TypeAlias = SentMessage | Lost | Moved


@dataclass(frozen=True)
class Arrival:
    """A follower has connected and asks for a living leader.

    Where messages are signed, the leader's answer repeats the ``challenge``, which nobody has used
    before: so it is no answer of an earlier leader.
    """

    rank: int
    host: str
    challenge: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no rank, and no host's name."""
        is_rank = 0 < self.rank <= _HIGHEST_NUMBER
        _refuse_unless(is_rank and len(self.host) <= _LONGEST_HOST, "no follower on a host")
        _refuse_unless(not self.challenge or is_name(self.challenge), "no challenge")

    def as_json(self) -> JsonObject:
        """Return the JSON form."""
        return {"rank": self.rank, "host": self.host} | _challenge(self.challenge)


@dataclass(frozen=True)
class Answer:
    """A living leader answers an arrival: its nonce and the message to begin with."""

    nonce: str
    number: int
    challenge: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no name, and no number of a message."""
        is_number = 0 <= self.number <= _HIGHEST_NUMBER
        _refuse_unless(is_name(self.nonce) and is_number, "no leader with a message")

    def as_json(self) -> JsonObject:
        """Return the JSON form."""
        return {"nonce": self.nonce, "word": self.number} | _challenge(self.challenge)


@dataclass(frozen=True, kw_only=True)
class RankReport:
    """Whether one rank can use the outcome; ``ok`` None for a rank that never reported.

    ``found`` is what its ``confirm`` returned, ``waited`` the seconds until it read the outcome,
    ``lag`` those that its ``confirm`` took then.
    """

    ok: bool | None = None
    host: str | None = None
    failure: ErrorReport | None = None
    found: JsonObject = field(default_factory=dict)
    waited: float | None = None
    lag: float | None = None

    def __post_init__(self) -> None:
        """Refuse times that can't be."""
        _refuse_unless(_are_seconds(self.waited, self.lag), "times are seconds")

    def as_json(self, *, traceback: bool = True) -> JsonObject:
        """Return the JSON form, the traceback of a failure with it or not."""
        failure = dict(self.failure.as_json()) if self.failure else {}
        if not traceback:
            failure.pop("traceback", None)
        times = {"waited": self.waited, "lag": self.lag} if self.waited is not None else {}
        return {"ok": self.ok, **self.found, **failure, **times, "host": self.host}


@dataclass(frozen=True)
class Finished:
    """How a call ended that its leader has left."""

    outcome: Outcome
    verdict: Verdict

    def as_json(self) -> JsonObject:
        """Return the JSON form."""
        return {"outcome": self.outcome.as_json(), "verdict": self.verdict.as_json()}
