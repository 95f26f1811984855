"""The command ``warmup``: the job itself, run on every rank."""

import argparse
import gc
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from step37_flickr8k import __version__
from step37_flickr8k.cli.log import log, set_up_logging
from step37_flickr8k.cli.output import write_report
from step37_flickr8k.cli.parser import read_settings
from step37_flickr8k.cluster import messages
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.stores import job_group
from step37_flickr8k.dataset.words import listed
from step37_flickr8k.errors import Step37Error
from step37_flickr8k.report.build import Failure, RunStart, Success, Work, build_report
from step37_flickr8k.report.display import display
from step37_flickr8k.report.model import RankReport, SlowFile
from step37_flickr8k.report.progress import count_rows
from step37_flickr8k.report.recorder import Recorder
from step37_flickr8k.settings import WarmupSettings
from step37_flickr8k.signals import ignore_sigterm

if TYPE_CHECKING:
    from step37_flickr8k.job.results import Traffic
    from step37_flickr8k.job.warmup import Warmed

__all__ = ["run"]


def run(parsed: argparse.Namespace) -> int:
    """Warm the cache on every rank; rank 0 also prints and writes the report."""
    settings, world = read_settings(parsed).settings, World.from_environment(os.environ)
    set_up_logging(settings, world)
    log.info(
        "%s, step37-flickr8k %s, %s split %s",
        world.describe(),
        __version__,
        settings.repo_id,
        settings.split,
    )
    _warm(settings, world)
    return 0


def _warm(settings: WarmupSettings, world: World) -> None:
    # Imported last: a wrong setting and the first log line don't wait for the HTTP client
    from step37_flickr8k.job.run import Run  # noqa: PLC0415
    from step37_flickr8k.job.task import Task  # noqa: PLC0415
    from step37_flickr8k.job.warmup import Warmup  # noqa: PLC0415

    # What is loaded by now stays. Collecting it again and again costs a twentieth of the fetch.
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    start = RunStart(settings, world)
    recorder = Recorder(display(settings, world))
    job = Run(Task.from_settings(settings), world)
    end: Success | Failure
    try:
        warmed = Warmup(job).share(job_group(world), recorder)
    except BaseException as error:
        end = _failure(error, recorder.state, job.account.traffic())
        raise
    else:
        end = _success(warmed)
        _log_success(end)
    finally:
        # From here on nothing interrupts the report
        ignore_sigterm()
        recorder.close()
        if world.rank == 0:
            write_report(build_report(start, end, recorder.value()).as_json(), settings)


def _log_success(end: Success) -> None:
    if end.skipped:
        names = listed(end.skipped, more="more (all are in the report)")
        log.warning("left out, because they can't be decoded: %s", names)
    log.info(
        "ready: %s at commit %s; %s",
        count_rows(end.ready_rows, end.rows - end.ready_rows),
        end.work.commit,
        "the cache was warm" if end.warm else f"{end.files:,} files fetched",
    )


def _success(warmed: "Warmed") -> Success:
    result = warmed.result
    return Success(
        work=_work(result.traffic),
        warm=result.warm,
        rows=result.rows,
        ready_rows=len(warmed.rows),
        files=result.files,
        bytes=result.bytes,
        skipped=result.skipped,
        ranks=_ranks(warmed.ranks),
    )


def _failure(error: BaseException, state: str, traffic: "Traffic") -> Failure:
    ranks = error.ranks if isinstance(error, Step37Error) else {}
    return Failure(work=_work(traffic), error=error, state=state, ranks=_ranks(ranks))


def _work(traffic: "Traffic") -> Work:
    return Work(
        commit=traffic.commit,
        requests=traffic.requests,
        retries=traffic.retries,
        slowest=[
            SlowFile(seconds=each.seconds, file=each.file, bytes=each.bytes, tries=each.tries)
            for each in traffic.slowest
        ],
    )


def _ranks(ranks: Mapping[int, messages.RankReport]) -> dict[str, RankReport]:
    return {
        str(rank): RankReport.model_validate(report.as_json(traceback=False))
        for rank, report in ranks.items()
    }
