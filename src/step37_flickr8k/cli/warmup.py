"""The command ``warmup``: the job itself, run on every rank."""

import argparse
import gc
import os
from collections.abc import Mapping
from typing import Any

from step37_flickr8k import __version__
from step37_flickr8k.cli.log import log, set_up_logging
from step37_flickr8k.cli.output import write_report
from step37_flickr8k.cli.parser import read_settings
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
    from step37_flickr8k.job.warmup import Warmup  # noqa: PLC0415

    # What is loaded by now stays. Collecting it again and again costs a twentieth of the fetch.
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    start = RunStart(settings, world)
    recorder = Recorder(display(settings, world))
    job = Warmup(settings, world)
    end: Success | Failure
    try:
        result, rows = job.run(job_group(world), recorder)
    except BaseException as error:
        end = _failure(error, recorder.state, job.done.value())
        raise
    else:
        end = _success(result, len(rows))
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


def _success(result: Mapping[str, Any], ready_rows: int) -> Success:
    return Success(
        work=_work(result),
        warm=result["warm"],
        rows=result["rows"],
        ready_rows=ready_rows,
        files=result["files"],
        bytes=result["bytes"],
        skipped=result["skipped"],
        ranks=_ranks(result.get("ranks", {})),
    )


def _failure(error: BaseException, state: str, done: Mapping[str, Any]) -> Failure:
    reports = error.ranks if isinstance(error, Step37Error) else {}
    ranks = {str(rank): report.as_json(traceback=False) for rank, report in reports.items()}
    return Failure(work=_work(done), error=error, state=state, ranks=_ranks(ranks))


def _work(done: Mapping[str, Any]) -> Work:
    return Work(
        commit=done["commit"],
        requests=done["requests"],
        retries=done["retries"],
        slowest=[SlowFile.model_validate(slow) for slow in done["slowest"]],
    )


def _ranks(ranks: Mapping[str, Any]) -> dict[str, RankReport]:
    return {rank: RankReport.model_validate(said) for rank, said in ranks.items()}
