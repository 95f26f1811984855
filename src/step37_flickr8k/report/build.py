"""How a run becomes its report: values of the job, of the error and of the recorder, put together.

`RunStart` is known before the job begins, `Success` or `Failure` when it has ended.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

from step37_flickr8k import __version__
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.protocol import messages
from step37_flickr8k.dataset.words import listed
from step37_flickr8k.errors import Step37Error, exit_code_of, message_of, what_to_do
from step37_flickr8k.report.model import FORMAT, Misnamed, RankReport, RunReport, SlowFile
from step37_flickr8k.report.recorder import Recording
from step37_flickr8k.settings import WarmupSettings

__all__ = ["Failure", "RunStart", "Success", "Work", "build_report", "rank_reports"]


def _now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class RunStart:
    """What is known of a run before it begins."""

    settings: WarmupSettings
    world: World
    started: datetime = field(default_factory=_now)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run asked the Hub for, however it ended; ``commit`` is None before it is known."""

    commit: str | None
    requests: int
    retries: Mapping[str, int]
    slowest: Sequence[SlowFile]


@dataclass(frozen=True, kw_only=True)
class Success:
    """The end of a run that warmed the cache.

    ``rows`` counts the rows of the selection, ``ready_rows`` those whose images can be decoded,
    ``files`` and ``bytes`` what was downloaded. ``ranks`` is empty for a single rank.
    """

    work: Work
    warm: bool
    rows: int
    ready_rows: int
    files: int
    bytes: int
    skipped: Mapping[str, str]
    misnamed: Mapping[str, Misnamed]
    ranks: Mapping[str, RankReport]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The end of a run that failed: the error, and the state that the run was in."""

    work: Work
    error: BaseException
    state: str


def build_report(start: RunStart, end: Success | Failure, recording: Recording) -> RunReport:
    """Return the report of a run that has ended."""
    if isinstance(end, Success):
        return _success(start, end, recording)
    return _failure(start, end, recording)


def _success(start: RunStart, end: Success, recording: Recording) -> RunReport:
    report = RunReport(
        format=FORMAT,
        version=__version__,
        started=start.started,
        repo_id=start.settings.repo_id,
        split=start.settings.split,
        cache_dir=str(start.settings.cache_dir.absolute()),
        host=start.world.host,
        world_size=start.world.size,
        run=start.world.run_id,
        ok=True,
        exit_code=0,
        commit=end.work.commit,
        warm=end.warm,
        rows=end.rows,
        ready_rows=end.ready_rows,
        files=end.files,
        bytes=end.bytes,
        requests=end.work.requests,
        retries=dict(end.work.retries),
        skipped=dict(end.skipped),
        misnamed=dict(end.misnamed),
        slowest=list(end.work.slowest),
        seconds=dict(recording.seconds),
        timeline=list(recording.timeline),
        total_seconds=recording.total_seconds,
    )
    return report.model_copy(update={"ranks": dict(end.ranks)}) if end.ranks else report


def _failure(start: RunStart, end: Failure, recording: Recording) -> RunReport:
    # The reports in an error say which ranks could not use what rank 0 had done
    ranks = rank_reports(end.error.ranks if isinstance(end.error, Step37Error) else {})
    return RunReport(
        format=FORMAT,
        version=__version__,
        started=start.started,
        repo_id=start.settings.repo_id,
        split=start.settings.split,
        cache_dir=str(start.settings.cache_dir.absolute()),
        host=start.world.host,
        world_size=start.world.size,
        run=start.world.run_id,
        ok=False,
        exit_code=exit_code_of(end.error),
        error=type(end.error).__name__,
        message=message_of(end.error),
        where=f"{_failed_ranks(start.world, ranks)}, {end.state}",
        what_to_do=what_to_do(end.error),
        commit=end.work.commit,
        files=recording.files,
        bytes=recording.bytes,
        requests=end.work.requests,
        retries=dict(end.work.retries),
        slowest=list(end.work.slowest),
        ranks=ranks,
        seconds=dict(recording.seconds),
        timeline=list(recording.timeline),
        total_seconds=recording.total_seconds,
    )


def rank_reports(reports: Mapping[int, messages.RankReport]) -> dict[str, RankReport]:
    """Return what each rank reported to rank 0 as it stands in the report."""
    return {
        str(rank): RankReport.model_validate(report.as_json(traceback=False))
        for rank, report in reports.items()
    }


def _failed_ranks(world: World, ranks: Mapping[str, RankReport]) -> str:
    """Return the ranks that failed, with their hosts; rank 0 if no other one did."""
    failed = [
        f"rank {rank} on {report.host}" for rank, report in ranks.items() if report.ok is False
    ]
    return listed(failed) or f"rank {world.rank} on {world.host}"
