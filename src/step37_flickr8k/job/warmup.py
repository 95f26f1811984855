"""Warm the cache: rank 0 downloads what is missing, every rank reads its rows."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from step37_flickr8k.cache.filesystem import local_file_system
from step37_flickr8k.cache.lease import Wait
from step37_flickr8k.cache.record import Record, read_record, write_record
from step37_flickr8k.cache.rows import skipped_rows
from step37_flickr8k.cache.verify import Check
from step37_flickr8k.cache.visible import rows_when_visible
from step37_flickr8k.cluster.progress import Progress, ProgressTracker, State
from step37_flickr8k.cluster.protocol.messages import JsonObject, RankReport
from step37_flickr8k.cluster.share import Group, share
from step37_flickr8k.cluster.work import perform
from step37_flickr8k.dataset.listing import Listing
from step37_flickr8k.dataset.selection import Row, Selection
from step37_flickr8k.dataset.words import listed
from step37_flickr8k.download.conversion import MANY, is_available
from step37_flickr8k.download.downloader import Downloader
from step37_flickr8k.errors import (
    BadImages,
    EmptySelection,
    FolderNotUsable,
    Step37Error,
    TransientError,
)
from step37_flickr8k.hub.api import Hub, is_commit
from step37_flickr8k.job.listing import with_listing
from step37_flickr8k.job.results import WarmupResult
from step37_flickr8k.job.run import Run
from step37_flickr8k.job.waiting import waiting_for
from step37_flickr8k.limited.named import limits_named
from step37_flickr8k.report.progress import counted

__all__ = ["Warmed", "Warmup"]

log = logging.getLogger("step37_flickr8k")

Watch = Callable[[Progress], None]


@dataclass(frozen=True)
class Warmed:
    """What a warmup returns on this rank: rank 0's result and this rank's rows.

    On rank 0 ``ranks`` holds what each rank reported, by rank.
    """

    result: WarmupResult
    rows: list[Row]
    ranks: Mapping[int, RankReport] = field(default_factory=dict)


@dataclass(frozen=True)
class Warmup:
    """The job, on every rank of a group."""

    run: Run

    def share(self, group: Group, watch: Watch = lambda _: None) -> Warmed:
        """Warm the cache and read the selection, on every rank of the group."""
        with limits_named():
            if self.run.task.cache_scope == "shared":
                return self._share(group, watch)
            return self._share_by_node(group, watch)

    def _share_by_node(self, group: Group, watch: Watch) -> Warmed:
        """Do the job in a directory of each node, all at one commit."""
        commit = self.run.selection.revision
        # For a pinned commit no other rank is asked: a restarted rank may be the last one left.
        if commit is None or not is_commit(commit):
            commit = self._agreed_commit(group, watch)
        pinned = Warmup(self.run.pinned(commit))
        problem: Exception | None = None
        # Each node's own lease elects its downloader. Rank 0 downloads for its node, or waits for
        # another rank there, in the call below.
        if group.rank != 0:
            try:
                perform(pinned.warm, ProgressTracker(watch), stall=self.run.task.timeouts.stall)
            except (Step37Error, OSError) as error:
                problem = error
        return pinned._share(group, watch, problem)

    def warm(self, tracker: ProgressTracker) -> WarmupResult:
        """Do rank 0's work: nothing if a ready record fits, else download as the lease's holder."""
        with limits_named():
            result = self._accepted(self._warm(tracker))
        for kind, found in result.misnamed.items():
            log.warning(
                "%s of kind %s, though the name says another; the first is %s: Pillow goes by the"
                " content and reads them, but what goes by names can't",
                *(counted(found.images, "image"), kind, found.first),
            )
        return result

    # --- on every rank ---

    def _share(self, group: Group, watch: Watch, problem: Exception | None = None) -> Warmed:
        run, rows = self.run, list[Row]()

        def confirm(value: JsonObject) -> None:
            if problem is not None:
                raise problem
            rows[:] = self._visible_rows(
                str(value["commit"]), check="names" if group.rank == 0 else "all"
            )

        shared = share(
            group,
            lambda tracker: self.warm(tracker).as_json(),
            confirm=confirm,
            find_result=self._finished_earlier,
            watch=watch,
            arguments=run.arguments(),
            timeouts=run.task.timeouts,
        )
        # A rank that found an earlier success was never asked to confirm.
        if not rows:
            confirm(shared.result)
        return Warmed(WarmupResult.from_json(shared.result), rows, shared.ranks)

    def _visible_rows(self, commit: str, *, check: Check) -> list[Row]:
        run = self.run
        timeout = run.task.timeouts.visibility
        rows = rows_when_visible(run.directory, run.selection, commit, timeout, check=check)
        if not rows:
            raise self._nothing_to_read()
        return rows

    def _nothing_to_read(self) -> EmptySelection:
        record = read_record(self.run.directory)
        skipped = record.skipped if record else {}
        reason = next((f"{name}: {why}" for name, why in skipped.items()), "the record is gone")
        limited = "raise max_pixels, or " if record and record.too_large else ""
        return EmptySelection(
            f"no image of the selection in {self.run.directory.files} can be decoded ({reason}):"
            f" {limited}choose another split"
        )

    def _agreed_commit(self, group: Group, watch: Watch) -> str:
        """Return the commit that all nodes download: rank 0's choice."""
        shared = share(
            group,
            lambda tracker: {"commit": self._chosen_commit(tracker)},
            find_result=self._finished_earlier,
            watch=watch,
            arguments=self.run.arguments(),
            timeouts=self.run.task.timeouts,
        )
        return str(shared.result["commit"])

    def _chosen_commit(self, tracker: ProgressTracker) -> str:
        record = read_record(self.run.directory)
        if record is not None and record.fits(self.run.selection, self.run.world.run_id):
            return record.commit
        hub = self.run.hub()
        hub.report_to(tracker)
        return hub.resolve(self.run.selection.revision or "main")

    def _finished_earlier(self, this_run_only: bool) -> JsonObject | None:
        """Return the result of an earlier success that is visible here; None without one."""
        run_id, record = self.run.world.run_id, None
        # A record that can't be read counts as none.
        with contextlib.suppress(TransientError, FolderNotUsable):
            record = read_record(self.run.directory)
        if record is None or not record.fits(self.run.selection, run_id):
            return None
        if this_run_only and not record.names(run_id):
            return None
        with contextlib.suppress(TransientError):
            return self._accepted(self._result_of(record)).as_json()
        return None

    # --- on rank 0 ---

    def _warm(self, tracker: ProgressTracker) -> WarmupResult:
        run = self.run
        if found := self._ready(run.selection):
            return self._result_of(found)
        tracker.report(Progress(State.LISTING))
        hub = run.hub()
        hub.report_to(tracker)
        commit = run.account.commit = hub.resolve(run.selection.revision or "main")
        wanted = replace(run.selection, revision=commit)
        if found := self._ready(wanted):
            return self._result_of(found)
        self._load_ahead(hub)
        record = read_record(run.directory)
        held = record if record is not None and record.fits(wanted, None) else None
        return with_listing(
            run, commit, held, lambda listing: self._download(commit, listing, tracker)
        )

    def _download(self, commit: str, listing: Listing, tracker: ProgressTracker) -> WarmupResult:
        """Download what is missing as the lease's holder, unless another one does meanwhile."""
        run, hub = self.run, self.run.hub()
        wanted = replace(run.selection, revision=commit)
        self._warn_of_local_directory()
        run.directory.make()

        def keep_waiting(wait: Wait) -> bool:
            tracker.report(Progress(State.WAITING_FOR_LEASE, waiting_for(wait)))
            return self._ready(wanted) is None

        lease = run.take_lease(keep_waiting, tracker)
        if lease is None:
            return self._warm(tracker)
        with lease:
            downloader = Downloader(run.download_task, hub, lease, tracker)
            downloaded = downloader.run(commit, listing)
        return self._result(downloaded.record, downloaded.rows, warm=False)

    def _ready(self, selection: Selection) -> Record | None:
        """Return the record that fits; this run is added to it, where that can be done at once."""
        record = self.run.ready(selection)
        run_id = self.run.world.run_id
        if record is not None and run_id is not None and not record.names(run_id):
            # This user may only read a directory that others fill.
            with contextlib.suppress(FolderNotUsable, TransientError):
                self._confirm_run(run_id)
        return record

    def _confirm_run(self, run_id: str) -> None:
        directory = self.run.directory
        directory.hold()
        lease = self.run.take_lease(lambda _: False)
        if lease is not None:
            with lease:
                directory.sweep()
                record = read_record(directory)
                if record is not None:
                    write_record(directory, record.confirmed_by(run_id))

    def _accepted(self, result: WarmupResult) -> WarmupResult:
        """Refuse images that can't be decoded, where that was asked for; the record stays."""
        if result.skipped and self.run.task.bad_images == "error":
            named = listed(f"{name} ({why})" for name, why in result.skipped.items())
            count = f"{len(result.skipped):,} of the {result.rows:,} rows"
            raise BadImages(
                f"{count} name images that can't be decoded: {named}: set bad_images=skip to leave "
                "them out, or choose another revision or sample_count"
            )
        return result

    def _load_ahead(self, hub: Hub) -> None:
        """Have the conversion listed in the background, while the Hub lists its files."""
        run = self.run
        count, mode = run.selection.sample_count, run.task.fetch.mode
        bulk = mode != "files" and (count is None or count >= MANY) and is_available()
        if bulk and read_record(run.directory) is None:
            hub.start_listing_parquet(run.selection.split)

    def _warn_of_local_directory(self) -> None:
        """Warn early of what would end as NotVisible late.

        No more than a warning: this node may be the one that exports the directory.
        """
        nodes, root = self.run.world.node_count, self.run.directory.root
        several = self.run.task.cache_scope == "shared" and (nodes or 1) > 1
        if several and (kind := local_file_system(root)):
            log.warning(
                "%s is on %s, which other nodes can't see, and there are %d: "
                "choose one that they share, or cache_scope=node",
                root,
                kind,
                nodes,
            )

    def _result_of(self, record: Record) -> WarmupResult:
        """Return the result for a cache that was warm."""
        coverage = record.captions[self.run.selection.caption_key]
        count = self.run.selection.sample_count
        rows = coverage.rows if count is None else min(count, coverage.rows)
        return self._result(record, rows, warm=True)

    def _result(self, record: Record, rows: int, *, warm: bool) -> WarmupResult:
        fetched, traffic = self.run.account.fetched, self.run.account.traffic()
        return WarmupResult(
            warm=warm,
            rows=rows,
            files=0 if warm else fetched.files,
            bytes=0 if warm else fetched.bytes,
            commit=record.commit,
            requests=traffic.requests,
            retries=traffic.retries,
            slowest=traffic.slowest,
            skipped=skipped_rows(self.run.directory, record, self.run.selection),
            misnamed=record.misnamed,
        )
