"""What leader and followers write to each other, as values, and their JSON; `codec` reads it.

The leader writes numbered messages: a `Heartbeat` with its progress, the `Outcome` of the work, the
`Verdict` of all ranks. In its place a follower that gives it up writes `Lost`, and a newer leader
writes `Moved`. A follower writes its `Arrival`, which the leader answers with an `Answer`, and
after the outcome its `RankReport`. `Finished` is for followers that come when the leader has gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from step37_flickr8k.cluster.progress import Progress
from step37_flickr8k.errors import ErrorReport

__all__ = [
    "Answer",
    "Arrival",
    "Finished",
    "Heartbeat",
    "JsonObject",
    "Lost",
    "Message",
    "Moved",
    "Outcome",
    "RankReport",
    "SentMessage",
    "Verdict",
]

# What a call's work returns and what its arguments are: whatever JSON can carry
JsonObject: TypeAlias = Mapping[str, Any]


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

    def as_json(self) -> JsonObject:
        """Return the JSON form."""
        return {"kind": self.kind, "to": self.to}


# What the leader itself writes, and what may stand there instead.
SentMessage: TypeAlias = Heartbeat | Outcome | Verdict
Message: TypeAlias = SentMessage | Lost | Moved


@dataclass(frozen=True)
class Arrival:
    """A follower has connected and asks for a living leader."""

    rank: int
    host: str

    def as_json(self) -> JsonObject:
        """Return the JSON form."""
        return {"rank": self.rank, "host": self.host}


@dataclass(frozen=True)
class Answer:
    """A living leader answers an arrival: its nonce and the message to begin with."""

    nonce: str
    number: int

    def as_json(self) -> JsonObject:
        """Return the JSON form."""
        return {"nonce": self.nonce, "word": self.number}


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
