"""Where files are served, and what a download did; known without an HTTP client."""

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote, urljoin

from step37_flickr8k.dataset.names import is_above
from step37_flickr8k.hub.rate_limit import RateLimit

__all__ = ["SlowFile", "Source", "TransferStatistics"]

_SLOWEST = 10  # files that statistics name


class SlowFile(NamedTuple):
    """How long a file took: the seconds of all its attempts, without the pauses between them."""

    seconds: float
    file: str
    bytes: int
    tries: int


@dataclass
class TransferStatistics:
    """What a download did so far.

    ``retries`` counts by cause, ``rate_limit`` is the last one the Hub stated, ``slowest`` names
    the files that took longest, slowest first.
    """

    files: int = 0
    bytes: int = 0
    requests: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    rate_limit: RateLimit | None = None
    slowest: list[SlowFile] = field(default_factory=list)

    def took(self, *files: SlowFile) -> None:
        """Note how long files took."""
        if len(self.slowest) < _SLOWEST or any(file > self.slowest[-1] for file in files):
            self.slowest = heapq.nlargest(_SLOWEST, [*self.slowest, *files])

    def add(self, other: "TransferStatistics") -> None:
        """Add what another download did."""
        self.files += other.files
        self.bytes += other.bytes
        self.requests += other.requests
        self.retries += other.retries
        self.rate_limit = other.rate_limit or self.rate_limit
        self.took(*other.slowest)


@dataclass(frozen=True, kw_only=True)
class Source:
    """An address under which requests are made, quoted, and the headers for its origin alone.

    What is done there is added to ``statistics``, also when it fails. ``reached`` holds the origins
    that have answered: one that never did may be mistyped, and isn't waited for as long.
    """

    base: str
    headers: Mapping[str, str]
    statistics: TransferStatistics = field(default_factory=TransferStatistics)
    reached: set[str] = field(default_factory=set)

    def url(self, name: str) -> str:
        """Return the quoted address of a file; ``../`` leads to one above."""
        return urljoin(self.base, quote(name)) if is_above(name) else self.base + quote(name)
