"""What a warmup would do: nothing but the metadata table is fetched, nothing is written."""

import contextlib
from dataclasses import replace

from step37_flickr8k.cache.memory import InMemory
from step37_flickr8k.cache.record import Record, read_record
from step37_flickr8k.cache.rows import rows_of
from step37_flickr8k.cluster.progress import ProgressTracker
from step37_flickr8k.dataset.listing import Listing
from step37_flickr8k.download.planner import DownloadPlan, LeftOut, Planner
from step37_flickr8k.download.workers import Workers
from step37_flickr8k.job.listing import with_listing
from step37_flickr8k.job.results import Mode, Plan
from step37_flickr8k.job.run import Run

__all__ = ["make_plan"]


def make_plan(run: Run) -> Plan:
    """Return what a warmup would do now; raises what it would raise before its first byte."""
    if record := run.ready(run.selection):
        return _nothing_to_do(run, record, requests=0)
    hub = run.hub()
    commit = hub.resolve(run.selection.revision or "main")
    wanted = replace(run.selection, revision=commit)
    if record := run.ready(wanted):
        return _nothing_to_do(run, record, requests=hub.requests)
    record = read_record(run.directory)
    held = record if record is not None and record.fits(wanted, None) else None
    plan = with_listing(run, commit, held, lambda listing: _planned(run, commit, listing))
    return Plan(
        repo_id=run.selection.repo_id,
        commit=commit,
        cache_dir=str(run.directory.root),
        rows=plan.decision.rows,
        left_out=plan.left_out.rows,
        why_left_out=plan.left_out.first,
        unnamed=plan.unnamed,
        files=plan.decision.files,
        fetch=len(plan.fetch),
        bytes=plan.bytes,
        mode=Mode.PARQUET if plan.shards else Mode.FILES,
        requests=hub.requests + plan.requests,
        wait=plan.wait,
        rate_limit=plan.rate_limit,
        warm=False,
    )


def _planned(run: Run, commit: str, listing: Listing) -> DownloadPlan:
    with (
        InMemory(run.directory.root, run.directory.split) as scratch,
        contextlib.closing(Workers(scratch, run.selection.max_pixels)) as workers,
    ):
        planner = Planner(run.download_task, run.hub(), workers, ProgressTracker())
        return planner.plan(commit, listing, scratch)


def _nothing_to_do(run: Run, record: Record, *, requests: int) -> Plan:
    left_out = LeftOut()
    rows = [*rows_of(run.directory, record, run.selection, left_out)]
    return Plan(
        repo_id=record.repo_id,
        commit=record.commit,
        cache_dir=str(run.directory.root),
        rows=len(rows),
        left_out=left_out.rows,
        why_left_out=left_out.first,
        unnamed=None,
        files=len({row.file_name for row in rows}),
        fetch=0,
        bytes=0,
        mode=Mode.NOTHING,
        requests=requests,
        wait=0,
        rate_limit=None,
        warm=True,
    )
