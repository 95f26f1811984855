"""Where bytes come from, what came of it and what went wrong: all that is known of a fetch without an HTTP client."""

import heapq
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

__all__ = ["Fault", "Quota", "Source", "TransferStatistics"]

_SLOWEST = 10  # files that a statistics remembers


@dataclass(frozen=True)
class Quota:
    """What the Hub's ``RateLimit`` headers tell: requests left now, seconds until there are more, and how many a window."""

    left: int
    reset: float
    limit: int
    window: float

    def wait(self, requests: int) -> float:
        """Give the seconds that so many requests will have to wait at least."""
        if requests <= self.left:
            return 0.0
        return self.reset + (requests - self.left - 1) // self.limit * self.window

    @classmethod
    def told(cls, headers: Mapping[str, str]) -> "Quota | None":
        """Read the headers; None if they tell nothing."""
        now = re.search(r";\s*r=(\d{1,9})\s*;\s*t=(\d{1,9})\b", headers.get("RateLimit", ""))
        policy = re.search(
            r";\s*q=(\d{1,9})\s*;\s*w=(\d{1,9})\b", headers.get("RateLimit-Policy", "")
        )
        if not now:
            return None
        limit, window = (
            (int(policy[1]), float(policy[2])) if policy else (int(now[1]), float(now[2]))
        )
        return cls(int(now[1]), float(now[2]), max(limit, 1), window)


@dataclass
class TransferStatistics:
    """What a fetch did; ``retries`` counts by cause, ``quota`` is what the Hub last told.

    ``slowest`` are those files that took longest: seconds of all their tries, pauses left out, the
    name, bytes, tries.
    """

    files: int = 0
    bytes: int = 0
    requests: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    quota: Quota | None = None
    slowest: list[tuple[float, str, int, int]] = field(default_factory=list)

    def took(self, *files: tuple[float, str, int, int]) -> None:
        """Take in how long files took."""
        if len(self.slowest) < _SLOWEST or any(file > self.slowest[-1] for file in files):
            self.slowest = heapq.nlargest(_SLOWEST, [*self.slowest, *files])

    def add(self, other: "TransferStatistics") -> None:
        """Add what another fetch did."""
        self.files += other.files
        self.bytes += other.bytes
        self.requests += other.requests
        self.retries += other.retries
        self.quota = other.quota or self.quota
        self.took(*other.slowest)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the bytes come from: the quoted address of the files' directory, and the headers for its origin alone.

    What was done there is added to ``account``, whatever ends it.
    """

    base: str
    headers: Mapping[str, str]
    account: TransferStatistics = field(default_factory=TransferStatistics)

    def url(self, name: str) -> str:
        """Give the quoted address of a file."""
        return self.base + quote(name)


class Fault(Exception):
    """A try that failed and may be repeated; ``pause`` is what the server asked for, in seconds."""

    def __init__(self, cause: str, pause: float | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.pause = pause
