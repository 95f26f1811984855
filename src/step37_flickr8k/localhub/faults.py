"""Faults on demand: what goes wrong, for which requests, how often."""

import math
import threading
import time
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

if TYPE_CHECKING:
    from typing_extensions import Unpack

Effect = Literal[
    "delay", "status", "redirect", "quota", "reset", "bandwidth", "truncate", "corrupt", "stall"
]
_ON_BYTES = frozenset({"bandwidth", "truncate", "corrupt", "stall"})


class Match(TypedDict, total=False):
    """Which requests a fault hits, and how often.

    ``path`` is an fnmatch pattern over the path in the repository ("train/*.jpg"; "" where there is
    none), ``kind`` one over the request's kind ("api", "tree", "paths-info", "resolve", "cdn";
    several with ``|`` between). ``times`` bounds how many requests are hit (None: no bound),
    ``every=n`` hits only each n-th request that matches.
    """

    path: str
    kind: str
    times: int | None
    every: int


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong for the requests it matches; made by one of the methods below.

    ``path``, ``kind``, ``times`` and ``every`` are those of `Match`.

    Delays, statuses, redirects, rate limits and resets without ``at`` act on every matching
    request, before its answer. The other faults act on bodies with a file's bytes, on whichever
    origin serves them; ``at`` is where, as a fraction of the body. Raises ValueError for an unknown
    effect, an ``every`` below 1 or an ``at`` outside 0 to 1.
    """

    effect: Effect
    path: str = "*"
    kind: str = "*"
    times: int | None = None
    every: int = 1
    seconds: float = 0.0
    code: int = 0
    retry_after: int | None = None
    limit: int = 0
    at: float | None = None
    location: str = ""

    def __post_init__(self) -> None:
        """Refuse what could never act."""
        if self.effect not in get_args(Effect):
            message = f"unknown effect {self.effect!r}: it is one of {', '.join(get_args(Effect))}"
            raise ValueError(message)
        if self.every < 1 or not 0 <= (self.at or 0) <= 1:
            message = f"every={self.every} must be at least 1, at={self.at} between 0 and 1"
            raise ValueError(message)

    @classmethod
    def delay(cls, seconds: float, **match: "Unpack[Match]") -> "Fault":
        """Wait ``seconds`` before each answer."""
        return cls("delay", seconds=seconds, **match)

    @classmethod
    def status(
        cls, code: int, *, retry_after: int | None = None, **match: "Unpack[Match]"
    ) -> "Fault":
        """Answer with this HTTP status, and with ``Retry-After`` if seconds are given."""
        return cls("status", code=code, retry_after=retry_after, **match)

    @classmethod
    def redirect(cls, location: str, **match: "Unpack[Match]") -> "Fault":
        """Answer with a redirect; an empty ``location`` is the request's own address."""
        return cls("redirect", code=302, location=location, **match)

    @classmethod
    def quota(
        cls, limit: int, *, window: float = 300.0, path: str = "*", kind: str = "resolve"
    ) -> "Fault":
        """Answer 429 after ``limit`` requests in a fixed window of so many seconds.

        Every answer has RateLimit headers. The Hub counts resolves and the rest separately: the
        default, and ``kind="api|tree|paths-info"``.
        """
        return cls("quota", path, kind, limit=limit, seconds=window)

    @classmethod
    def reset(cls, *, at: float | None = None, **match: "Unpack[Match]") -> "Fault":
        """Reset the connection (RST) before the answer, or in the body at this fraction of it."""
        return cls("reset", at=at, **match)

    @classmethod
    def bandwidth(cls, bytes_per_second: int, **match: "Unpack[Match]") -> "Fault":
        """Send each body no faster than so many bytes a second."""
        return cls("bandwidth", limit=bytes_per_second, **match)

    @classmethod
    def truncate(cls, *, at: float = 0.5, **match: "Unpack[Match]") -> "Fault":
        """Announce the full Content-Length, then close the connection at this fraction of it."""
        return cls("truncate", at=at, **match)

    @classmethod
    def corrupt(cls, *, at: float = 0.5, **match: "Unpack[Match]") -> "Fault":
        """Flip the bits of one byte at this fraction of the body; the size stays right."""
        return cls("corrupt", at=at, **match)

    @classmethod
    def stall(
        cls, seconds: float = 3600.0, *, at: float = 0.5, **match: "Unpack[Match]"
    ) -> "Fault":
        """Send nothing for ``seconds`` at this fraction of the body, then go on.

        A client that goes away ends the stall.
        """
        return cls("stall", seconds=seconds, at=at, **match)

    @property
    def on_bytes(self) -> bool:
        """Whether this fault acts on a file's bytes, not on the request."""
        return self.effect in _ON_BYTES or (self.effect == "reset" and self.at is not None)

    def matches(self, kind: str, repo_path: str) -> bool:
        """Return whether a request of this kind, for this path in the repository, is meant."""
        return fnmatchcase(repo_path, self.path) and any(
            fnmatchcase(kind, one) for one in self.kind.split("|")
        )


@dataclass
class Verdict:
    """What happens to a request before its answer.

    ``delay`` is the wait in seconds, ``headers`` are added to the answer, ``end`` is the fault that
    ends the request.
    """

    delay: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    end: Fault | None = None


@dataclass
class _Armed:
    fault: Fault
    seen: int = 0
    hits: int = 0
    window_start: float = -math.inf

    def strikes(self, kind: str, repo_path: str) -> bool:
        """Count a request; return whether it is hit."""
        fault = self.fault
        if (fault.times is not None and self.hits >= fault.times) or not fault.matches(
            kind, repo_path
        ):
            return False
        self.seen += 1
        hit = self.seen % fault.every == 0
        self.hits += hit
        return hit

    def spend(self, kind: str) -> tuple[bool, dict[str, str]]:
        """Take one request from the limit; return whether it was allowed, and the headers to add.

        The headers state what remains of the limit.
        """
        now = time.monotonic()
        if now - self.window_start >= self.fault.seconds:
            self.window_start, self.hits = now, 1
        limit, remaining = self.fault.limit, self.fault.limit - self.hits
        window = math.ceil(self.fault.seconds)
        bucket = "resolvers" if kind == "resolve" else "api"
        # (now + 300) - now may be a trifle more than 300
        reset = math.ceil(self.fault.seconds - (now - self.window_start))
        headers = {
            "RateLimit": f'"{bucket}";r={max(0, remaining)};t={reset}',
            "RateLimit-Policy": f'"fixed window";"{bucket}";q={limit};w={window}',
        }
        if remaining < 0:
            headers["Retry-After"] = str(reset)
        return remaining >= 0, headers


class Faults:
    """The faults that are set now; any thread may change them while the server runs."""

    def __init__(self) -> None:
        """Start without any."""
        self._lock = threading.Lock()
        self._armed: list[_Armed] = []

    def add(self, *faults: Fault) -> None:
        """Set further faults.

        They act in this order; the first that ends a request is the last to count it.
        """
        with self._lock:
            self._armed.extend(map(_Armed, faults))

    def clear(self) -> None:
        """Remove all faults; what already acts on a request goes on."""
        with self._lock:
            self._armed.clear()

    def before(self, kind: str, repo_path: str) -> Verdict:
        """Decide what happens to a request before its answer, and count it."""
        verdict = Verdict()
        with self._lock:
            for armed in self._armed:
                fault = armed.fault
                if fault.on_bytes or not armed.strikes(kind, repo_path):
                    continue
                allowed = False
                if fault.effect == "delay":
                    verdict.delay += fault.seconds
                    continue
                if fault.effect == "quota":
                    allowed, headers = armed.spend(kind)
                    verdict.headers.update(headers)
                if not allowed:
                    verdict.end = fault
                    break
        return verdict

    def on_bytes(self, kind: str, repo_path: str) -> tuple[Fault, ...]:
        """Decide what happens to the file's bytes in an answer, and count it."""
        with self._lock:
            return tuple(
                a.fault for a in self._armed if a.fault.on_bytes and a.strikes(kind, repo_path)
            )
