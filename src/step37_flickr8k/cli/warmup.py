"""The command ``warmup``: the job itself, run on every rank."""

import argparse
import gc
import os

from step37_flickr8k import __version__
from step37_flickr8k.cli.log import log, set_up_logging
from step37_flickr8k.cli.output import write_report
from step37_flickr8k.cli.parser import read_settings
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.stores import job_group
from step37_flickr8k.dataset.words import listed
from step37_flickr8k.report.model import beginning, failure
from step37_flickr8k.report.progress import count_rows, display
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
    from step37_flickr8k.job.run import Run  # noqa: PLC0415
    from step37_flickr8k.job.task import Task  # noqa: PLC0415
    from step37_flickr8k.job.warmup import Warmup  # noqa: PLC0415

    # What is loaded by now stays. Collecting it again and again costs a twentieth of the fetch.
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    recorder = Recorder(display(settings, world))
    report = beginning(settings, world)
    job = Run(Task.from_settings(settings), world)
    try:
        warmed = Warmup(job).share(job_group(world), recorder)
    except BaseException as error:
        report |= failure(error, world, recorder.state) | job.account.traffic().as_json()
        raise
    else:
        result, rows = warmed.result, warmed.rows
        report |= {"ok": True, "exit_code": 0, **result.as_json()}
        if warmed.ranks:
            report["ranks"] = {
                str(rank): each.as_json(traceback=False) for rank, each in warmed.ranks.items()
            }
        report["ready_rows"] = len(rows)
        how = "the cache was warm" if result.warm else f"{result.files:,} files fetched"
        if result.skipped:
            names = listed(result.skipped, more="more (all are in the report)")
            log.warning("left out, since they can't be decoded: %s", names)
        log.info(
            "ready: %s at commit %s; %s",
            count_rows(len(rows), result.rows - len(rows)),
            result.commit,
            how,
        )
    finally:
        ignore_sigterm()
        recorder.close()
        if world.rank == 0:
            write_report(report | recorder.value() | report, settings)
