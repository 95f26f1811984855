"""The report of a run: what rank 0 writes as JSON, its schema, and what is read from it.

A new field is no new format; one that is taken away, or means something else, is.
"""

import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from step37_flickr8k import __version__
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.dataset.words import listed
from step37_flickr8k.errors import InvalidSettings, exit_code_of, message_of, what_to_do
from step37_flickr8k.settings import WarmupSettings

__all__ = ["Report", "beginning", "failure", "json_schema", "read_report"]

FORMAT: Literal[1] = 1

_MOST = 2**63 - 1
_Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=_MOST)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Point(_Part):
    """Where the fetch was at some moment."""

    seconds: _Seconds = Field(description="since the run began")
    state: str
    files: _Count = Field(description="so far")
    bytes: _Count = Field(description="so far")


class SlowFile(_Part):
    """One of the files that took longest."""

    seconds: _Seconds = Field(
        description="of all its tries together, without the pauses between them"
    )
    file: str
    bytes: _Count
    tries: int = Field(ge=1, le=_MOST)


class RankReport(_Part):
    """What one rank said of the outcome."""

    ok: bool | None = Field(description="null: it never said anything")
    host: str | None = None
    waited: _Seconds | None = Field(None, description="seconds until it heard the outcome")
    lag: _Seconds | None = Field(None, description="seconds from then until it saw the whole cache")
    error: str | None = None
    message: str | None = None


class Report(_Part):
    """What a run of ``warmup`` did, written by rank 0 whether it went well or not."""

    format: Literal[1] = Field(
        description="of this report; new fields may come without a new number"
    )
    version: str = Field(description="of step37-flickr8k")
    started: datetime
    repo_id: str
    split: str
    cache_dir: str
    host: str = Field(description="of rank 0")
    world_size: int = Field(ge=1, le=_MOST)
    run: str | None = Field(
        description="names the run of a job, the same after restarts; null: the launcher has no name for it"
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
    warm: bool | None = Field(None, description="the cache had it all: nothing was fetched")
    rows: _Count | None = Field(
        None, description="of the selection, those that are left out among them"
    )
    ready_rows: _Count | None = Field(
        None, description="without those that are left out, since their images can't be decoded"
    )
    files: _Count = Field(description="fetched by this run")
    bytes: _Count = Field(description="fetched by this run")
    requests: _Count | None = None
    retries: dict[str, _Count] = Field(description="how often something was tried again, by cause")
    skipped: dict[str, str] = Field(
        {}, description="images that can't be decoded, each with the reason"
    )
    slowest: list[SlowFile] = Field(
        [], description="files fetched one by one that took longest, the slowest first"
    )
    ranks: dict[str, RankReport] = Field({}, description="by rank; none where there is but one")

    seconds: dict[str, _Seconds] = Field(description="by state, as the log calls them")
    timeline: list[Point] = Field(description="of the fetch, some 240 points at the most")
    total_seconds: _Seconds
    cut: list[str] = Field(
        [],
        description="fields that were shortened, since a pod's termination message holds 4,096 bytes",
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> "Report":
        if self.ok and self.rows is None:
            raise ValueError("a run that went well has rows")
        if not all(rank.isdecimal() and len(rank) < 20 for rank in self.ranks):
            raise ValueError("ranks are numbers")
        moments = [point.seconds for point in self.timeline]
        if moments != sorted(moments):
            raise ValueError("the timeline goes back")
        return self

    def rates(self) -> Iterator[tuple[float, float]]:
        """Give (seconds, bytes a second) along the timeline."""
        for before, after in zip(self.timeline, self.timeline[1:], strict=False):
            if (spent := after.seconds - before.seconds) > 0:
                came = after.bytes - before.bytes
                # Less than before: another fetch began
                yield after.seconds, max(0, came if came >= 0 else after.bytes) / spent


def beginning(settings: WarmupSettings, world: World) -> dict[str, Any]:
    """Give what a report says of a run before it begins."""
    return {
        "format": FORMAT,
        "version": __version__,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "repo_id": settings.repo_id,
        "split": settings.split,
        "cache_dir": str(settings.cache_dir.absolute()),
        "host": world.host,
        "world_size": world.size,
        "run": world.run_id,
    }


def failure(error: BaseException, world: World, state: str) -> dict[str, Any]:
    """Give what a report says of a failure: what, where, and what to do."""
    code = exit_code_of(error)
    told = {
        "ok": False,
        "exit_code": code,
        "error": type(error).__name__,
        "message": message_of(error),
    }
    ranks = {
        str(rank): report.as_json(traceback=False)
        for rank, report in getattr(error, "ranks", {}).items()
    }
    where = [
        f"rank {rank} on {said['host']}" for rank, said in ranks.items() if said["ok"] is False
    ]
    where = where or [f"rank {world.rank} on {world.host}"]
    return told | {
        "where": f"{listed(where)}, {state}",
        "what_to_do": what_to_do(error),
        "ranks": ranks,
    }


def read_report(file: Path) -> Report:
    """Read a report, ``-`` from stdin; raises `InvalidSettings` for what isn't one."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise InvalidSettings(
            f"report {file} can't be read: {why}: name a file that warmup --report wrote"
        ) from error
    try:
        return Report.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        why = f"{where}: {first['msg']}" if where else first["msg"]
        told = f"{file} is no report of format {FORMAT} ({why})"
        raise InvalidSettings(
            f"{told}: name a file that warmup --report wrote, with this version"
        ) from None


def json_schema() -> dict[str, Any]:
    """Give the JSON schema of the report."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Report.model_json_schema()}
