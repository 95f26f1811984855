"""What the use cases return, and the JSON of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from pydantic import TypeAdapter

from step37_flickr8k.cache.record import Misnamed
from step37_flickr8k.dataset.words import listed
from step37_flickr8k.hub.rate_limit import RateLimit

__all__ = ["Mode", "Plan", "SlowFile", "Traffic", "VerifyResult", "WarmupResult"]

_MORE = "more (--json names all)"


@dataclass(frozen=True)
class SlowFile:
    """A file that took long: seconds of all its attempts without the pauses, and its bytes."""

    seconds: float
    file: str
    bytes: int
    tries: int


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What a run has asked the Hub for so far, and for which commit; retries count by cause."""

    commit: str | None = None
    requests: int = 0
    retries: Mapping[str, int] = field(default_factory=dict)
    slowest: tuple[SlowFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WarmupResult:
    """What rank 0 did, as every rank learns it.

    ``rows`` are those of the selection; ``skipped`` names the images among them that can't be
    decoded, each with the reason. ``misnamed`` counts, by kind, the images of the cache whose names
    say another kind. ``files`` and ``bytes`` were fetched by this run.
    """

    warm: bool
    rows: int
    files: int
    bytes: int
    commit: str
    requests: int
    retries: Mapping[str, int]
    slowest: tuple[SlowFile, ...]
    skipped: Mapping[str, str]
    misnamed: Mapping[str, Misnamed] = field(default_factory=dict)

    @property
    def traffic(self) -> Traffic:
        """What it asked the Hub for."""
        return Traffic(
            commit=self.commit,
            requests=self.requests,
            retries=self.retries,
            slowest=self.slowest,
        )

    def as_json(self) -> dict[str, Any]:
        """Return what crosses the store."""
        return {**asdict(self), "slowest": [asdict(file) for file in self.slowest]}

    @staticmethod
    def from_json(value: object) -> "WarmupResult":
        """Read what `as_json` wrote; raises ValueError for anything else."""
        return _RESULT.validate_python(value)


_RESULT = TypeAdapter(WarmupResult)


class Mode(str, Enum):
    """How the images of a plan will be fetched."""

    NOTHING = "nothing"
    FILES = "files"
    PARQUET = "parquet"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a warmup would do now: files and bytes to fetch, requests, seconds of waiting.

    ``left_out`` counts the rows before the last one of the selection that don't count,
    ``why_left_out`` says why the first doesn't. ``unnamed`` counts the images of the commit that no
    row names; None where not all rows or no listing was read.
    """

    repo_id: str
    commit: str
    cache_dir: str
    rows: int
    left_out: int
    why_left_out: str
    unnamed: int | None
    files: int
    fetch: int
    bytes: int
    mode: Mode
    requests: int
    wait: float
    rate_limit: RateLimit | None
    warm: bool

    def as_json(self) -> dict[str, Any]:
        """Return what ``plan --json`` prints."""
        limit = self.rate_limit
        return {
            "repo_id": self.repo_id,
            "commit": self.commit,
            "cache_dir": self.cache_dir,
            "rows": self.rows,
            "left_out": self.left_out,
            "unnamed": self.unnamed,
            "files": self.files,
            "fetch": self.fetch,
            "bytes": self.bytes,
            "mode": self.mode.value,
            "requests": self.requests,
            "wait": self.wait,
            "quota": limit
            and {
                "left": limit.remaining,
                "reset": limit.reset,
                "limit": limit.limit,
                "window": limit.window,
            },
            "warm": self.warm,
        }


@dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """What hashing the cache again has found.

    ``files`` are those of the manifest. ``foreign`` files are none of the commit's. ``directory``
    is where they lie.
    """

    directory: str
    files: int
    missing: tuple[str, ...]
    wrong: tuple[str, ...]
    foreign: tuple[str, ...]
    repaired: int = 0

    @property
    def damaged(self) -> tuple[str, ...]:
        """The files that are missing or wrong."""
        return (*self.missing, *self.wrong)

    @property
    def summary(self) -> str:
        """What is damaged, in a sentence that names the first files."""
        kinds = (
            listed((f"{name} is missing" for name in self.missing), more=_MORE),
            listed((f"{name} has wrong bytes" for name in self.wrong), more=_MORE),
        )
        named = ", ".join(filter(None, kinds))
        missing, wrong = len(self.missing), len(self.wrong)
        count = f"{missing:,} of {self.files:,} files are missing and {wrong:,} wrong"
        return f"{count} in {self.directory}: {named}"

    def as_json(self) -> dict[str, Any]:
        """Return what ``verify --json`` prints."""
        return {
            "files": self.files,
            "missing": [*self.missing],
            "wrong": [*self.wrong],
            "foreign": [*self.foreign],
            "repaired": self.repaired,
        }
