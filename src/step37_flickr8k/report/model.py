"""The report of a run as a model: what rank 0 writes as JSON, its schema, and how it is read.

To add a field, give `RunReport` the field with a description, and set it in `report.build`, where a
success and a failure are built apart; a value of the job comes there from `cli.warmup_job`. A new
field keeps the format's number. Removing a field, or changing its meaning, needs a new number.
"""

import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    model_validator,
)

from step37_flickr8k.errors import InvalidSettings

__all__ = [
    "FORMAT",
    "Misnamed",
    "Point",
    "RankReport",
    "RunReport",
    "SlowFile",
    "json_schema",
    "read_report",
]

FORMAT: Literal[1] = 1

_MAXIMUM = 2**63 - 1
_Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=_MAXIMUM)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Point(_Part):
    """How far the download was at some moment."""

    seconds: _Seconds = Field(description="since the run began")
    state: str
    files: _Count = Field(description="so far")
    bytes: _Count = Field(description="so far")


class SlowFile(_Part):
    """One of the files that took longest."""

    seconds: _Seconds = Field(description="of all its attempts together, without the waits between")
    file: str
    bytes: _Count
    tries: int = Field(ge=1, le=_MAXIMUM)


class Misnamed(_Part):
    """Images of a kind that their names don't say."""

    images: _Count
    first: str = Field(description="by name")


class RankReport(_Part):
    """How the run ended on one rank."""

    ok: bool | None = Field(description="null: the rank never reported")
    host: str | None = None
    waited: _Seconds | None = Field(None, description="seconds until it received the outcome")
    lag: _Seconds | None = Field(
        None, description="seconds from the outcome until it saw the whole cache"
    )
    error: str | None = None
    message: str | None = None


class RunReport(_Part):
    """What a run of ``warmup`` did, written by rank 0 after success and after failure."""

    model_config = ConfigDict(title="Report")

    format: Literal[1] = Field(
        description="of this report; new fields may be added without a new number"
    )
    version: str = Field(description="of step37-flickr8k")
    started: datetime
    repo_id: str
    split: str
    cache_dir: str
    host: str = Field(description="of rank 0")
    world_size: int = Field(ge=1, le=_MAXIMUM)
    run: str | None = Field(
        description="run id of the job, the same after restarts; null: the launcher sets none"
    )
    ok: bool
    exit_code: int

    error: str | None = Field(None, description="of a failure: the class of the error")
    message: str | None = Field(
        None, description="of a failure: the thing, the value and the remedy"
    )
    where: str | None = Field(None, description="of a failure: rank, host and state")
    what_to_do: str | None = Field(None, description="of a failure, by its class")

    commit: str | None = None
    warm: bool | None = Field(None, description="the cache was complete: nothing was downloaded")
    rows: _Count | None = Field(None, description="of the selection, including those left out")
    ready_rows: _Count | None = Field(
        None, description="rows without those left out because their images can't be decoded"
    )
    files: _Count = Field(description="downloaded by this run")
    bytes: _Count = Field(description="downloaded by this run")
    requests: _Count | None = None
    retries: dict[str, _Count] = Field(description="number of repeated requests, by cause")
    skipped: dict[str, str] = Field(
        {}, description="images that can't be decoded, each with the reason"
    )
    misnamed: dict[str, Misnamed] = Field(
        {},
        description="images of the cache that are of another kind than their names say, by kind",
    )
    slowest: list[SlowFile] = Field(
        [], description="files downloaded one by one that took longest, the slowest first"
    )
    ranks: dict[str, RankReport] = Field({}, description="by rank; empty for a single rank")

    seconds: dict[str, _Seconds] = Field(description="by state, with the names that the log uses")
    timeline: list[Point] = Field(description="of the download, at most about 240 points")
    total_seconds: _Seconds
    cut: list[str] = Field(
        [],
        description="fields that were shortened, because a pod's termination message holds"
        " 4,096 bytes",
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> "RunReport":
        if self.ok and self.rows is None:
            raise ValueError("a successful run has rows")
        if not all(rank.isdecimal() and len(rank) < 20 for rank in self.ranks):
            raise ValueError("ranks are numbers")
        moments = [point.seconds for point in self.timeline]
        if moments != sorted(moments):
            raise ValueError("the timeline goes back")
        return self

    @field_serializer("started")
    def _as_iso(self, started: datetime) -> str:
        return started.isoformat(timespec="seconds")

    def as_json(self) -> dict[str, Any]:
        """Return what is written: the fields that were set, in the order people read them in."""
        value = self.model_dump(exclude_unset=True)
        if "ranks" in value:
            value["ranks"] = {
                rank: _ordered(said, _RANK_KEYS) for rank, said in value["ranks"].items()
            }
        return _ordered(value, _FIRST_KEYS + (_SUCCESS_KEYS if self.ok else _FAILURE_KEYS))

    def rates(self) -> Iterator[tuple[float, float]]:
        """Yield the throughput along the timeline as pairs (seconds, bytes per second)."""
        for before, after in zip(self.timeline, self.timeline[1:], strict=False):
            if (spent := after.seconds - before.seconds) > 0:
                done = after.bytes - before.bytes
                # Fewer bytes than before: another download began
                yield after.seconds, max(0, done if done >= 0 else after.bytes) / spent


# The order of keys in the JSON. A failure begins with its cause. Keys that aren't named here follow
# in the order of the model's fields.
_FIRST_KEYS = (
    "format",
    "version",
    "started",
    "repo_id",
    "split",
    "cache_dir",
    "host",
    "world_size",
    "run",
    "ok",
    "exit_code",
)
_SUCCESS_KEYS = (
    "warm",
    "rows",
    "files",
    "bytes",
    "commit",
    "requests",
    "retries",
    "slowest",
    "skipped",
    "misnamed",
    "ranks",
    "ready_rows",
)
_FAILURE_KEYS = (
    "error",
    "message",
    "where",
    "what_to_do",
    "ranks",
    "commit",
    "requests",
    "retries",
    "slowest",
    "files",
    "bytes",
)
_RANK_KEYS = ("ok", "error", "message", "waited", "lag", "host")


def _ordered(value: Mapping[str, Any], first: tuple[str, ...]) -> dict[str, Any]:
    return {name: value[name] for name in dict.fromkeys((*first, *value)) if name in value}


def read_report(file: Path) -> RunReport:
    """Return the report in a file, ``-`` for stdin; raises `InvalidSettings` if it isn't one."""
    remedy = "name a file that warmup --report wrote"
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InvalidSettings(f"report {file} can't be read: {reason}; {remedy}") from error
    try:
        return RunReport.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        reason = f"{field}: {first['msg']}" if field else first["msg"]
        raise InvalidSettings(
            f"{file} is not a report of format {FORMAT} ({reason}); {remedy}, with this version"
        ) from None


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of the report."""
    schema = RunReport.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
