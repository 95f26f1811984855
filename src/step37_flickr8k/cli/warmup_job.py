"""What ``warmup`` does once its settings are valid: run the job, log its end, write the report."""

import gc
import sys

from step37_flickr8k.cli.log import log
from step37_flickr8k.cli.output import write_report
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.stores import job_group
from step37_flickr8k.dataset.words import listed
from step37_flickr8k.job.results import Traffic
from step37_flickr8k.job.run import Run
from step37_flickr8k.job.task import Task
from step37_flickr8k.job.warmup import Warmed, Warmup
from step37_flickr8k.report.build import (
    Failure,
    RunStart,
    Success,
    Work,
    build_report,
    rank_reports,
)
from step37_flickr8k.report.display import display
from step37_flickr8k.report.model import Misnamed, SlowFile
from step37_flickr8k.report.progress import count_rows
from step37_flickr8k.report.recorder import Recorder
from step37_flickr8k.report.text import summary
from step37_flickr8k.settings import WarmupSettings, read_job_secret
from step37_flickr8k.signals import ignore_sigterm

__all__ = ["warm"]


def warm(settings: WarmupSettings, world: World, *, as_json: bool) -> None:
    """Warm the cache; raises what the job raises, after rank 0 has written the report.

    ``as_json`` prints the report as JSON on a terminal, too.
    """
    # What is loaded by now stays. Collecting it again and again costs a twentieth of the fetch.
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    start = RunStart(settings, world)
    recorder = Recorder(display(settings, world))
    job = Run(Task.from_settings(settings), world)
    # None if a signal interrupts the lines that set it
    end: Success | Failure | None = None
    try:
        group = job_group(world, read_job_secret(settings.job_secret_file))
        warmed = Warmup(job).share(group, recorder)
    except BaseException as error:
        end = Failure(work=_work(job.account.traffic()), error=error, state=recorder.state)
        raise
    else:
        end = _success(warmed)
        _log_success(end)
    finally:
        # From here on nothing interrupts the report
        ignore_sigterm()
        recorder.close()
        if world.rank == 0 and end is not None:
            report = build_report(start, end, recorder.value())
            words = sys.stdout.isatty() and settings.log_format == "text" and not as_json
            shown = summary(report, sys.stdout) if words else ""
            write_report(report.as_json(), settings, shown)


def _success(warmed: Warmed) -> Success:
    result = warmed.result
    return Success(
        work=_work(result.traffic),
        warm=result.warm,
        rows=result.rows,
        ready_rows=len(warmed.rows),
        files=result.files,
        bytes=result.bytes,
        skipped=result.skipped,
        misnamed={
            kind: Misnamed(images=found.images, first=found.first)
            for kind, found in result.misnamed.items()
        },
        ranks=rank_reports(warmed.ranks),
    )


def _work(traffic: Traffic) -> Work:
    return Work(
        commit=traffic.commit,
        requests=traffic.requests,
        retries=traffic.retries,
        slowest=[
            SlowFile(seconds=slow.seconds, file=slow.file, bytes=slow.bytes, tries=slow.tries)
            for slow in traffic.slowest
        ],
    )


def _log_success(end: Success) -> None:
    if end.skipped:
        reasons = (f"{name} ({why})" for name, why in end.skipped.items())
        named = listed(reasons, more="more (all are in the report)")
        log.warning("left out, because they can't be decoded: %s", named)
    log.info(
        "ready: %s at commit %s; %s",
        count_rows(end.ready_rows, end.rows - end.ready_rows),
        end.work.commit,
        "the cache was warm" if end.warm else f"{end.files:,} files fetched",
    )
