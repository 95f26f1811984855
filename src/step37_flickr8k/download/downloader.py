"""The work of the lease's holder: download, publish, and the ready record last; or a repair.

If it is killed at any point, the next run resumes from the files that pass verification.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from step37_flickr8k.cache.flushing import flushing
from step37_flickr8k.cache.folding import check_names
from step37_flickr8k.cache.lease import Lease
from step37_flickr8k.cache.manifest import read_manifest, write_manifest
from step37_flickr8k.cache.preflight import check_space, try_out
from step37_flickr8k.cache.record import Coverage, Record, read_record, remove_record
from step37_flickr8k.cache.unfinished import sweep_probes
from step37_flickr8k.cluster.progress import Progress, ProgressTracker, State
from step37_flickr8k.dataset.listing import Listing, RemoteFile
from step37_flickr8k.dataset.names import in_repository, is_above
from step37_flickr8k.dataset.words import amount
from step37_flickr8k.download.batches import PER_CONNECTION
from step37_flickr8k.download.conversion import MANY
from step37_flickr8k.download.fetching import fetch_files
from step37_flickr8k.download.open_files import within_limit
from step37_flickr8k.download.planner import DownloadPlan, DownloadTask, Planner
from step37_flickr8k.download.publisher import Publisher
from step37_flickr8k.download.workers import Workers
from step37_flickr8k.errors import CommitChanged, Step37Error
from step37_flickr8k.hub.api import Hub
from step37_flickr8k.report.progress import counted

__all__ = ["Downloaded", "Downloader"]

log = logging.getLogger("step37_flickr8k")


@dataclass(frozen=True)
class Downloaded:
    """The ready record that a download wrote, and how many rows of the selection there are."""

    record: Record
    rows: int


class Downloader:
    """Fills the cache directory while its lease is held."""

    def __init__(
        self, task: DownloadTask, hub: Hub, lease: Lease, progress: ProgressTracker
    ) -> None:
        """Take up a task; `run` or `repair` does it."""
        self._task = task = replace(task, options=within_limit(task.options))
        self._directory = task.directory
        self._hub = hub
        self._lease = lease
        self._progress = progress
        self._workers = Workers(task.directory, task.selection.max_pixels)

    def run(self, commit: str, listing: Listing) -> Downloaded:
        """Plan, download and publish; the ready record is written last."""
        with self._writable() as flush:
            many = len(listing) > MANY and (self._task.selection.sample_count or MANY) >= MANY
            # Of a commit that the cache holds few files may be missing
            if many and listing.is_whole:
                self._workers.start()
            planner = Planner(self._task, self._hub, self._workers, self._progress)
            plan = planner.plan(commit, listing, self._directory)
            before = self._record_before(plan)
            self._check_names(plan)
            self._check_space(plan)
            publisher = Publisher(self._directory, self._lease, plan.verified)
            self._fetch(plan, publisher)
            self._progress.report(Progress(State.PUBLISHING))
            publisher.publish_metadata(listing[plan.table], plan.metadata)
            flush()
            record = self._grown(before, plan)
            publisher.commit(record)
        return Downloaded(record, plan.decision.rows)

    def repair(self, record: Record, listing: Listing, names: Sequence[str]) -> None:
        """Download these files of the record's commit again, and renew their manifest entries."""
        with self._writable() as flush:
            now = read_record(self._directory)
            if now is None or now.commit != record.commit:
                raise CommitChanged(
                    f"{self._directory.home} no longer holds commit {record.commit}:"
                    " run verify again"
                )
            files = [listing[name] for name in names if name in listing]
            check_space(self._directory, sum(file.size for file in files), len(files))
            self._directory.make_parents(file.name for file in files)
            publisher = Publisher(self._directory, self._lease, {})
            self._fetch_files(files, record.commit, publisher)
            flush()
            self._lease.check()
            write_manifest(self._directory, read_manifest(self._directory) | publisher.verified)

    @contextlib.contextmanager
    def _writable(self) -> Iterator[Callable[[], None]]:
        """Yield what flushes published files to disk; leave nothing unfinished behind.

        Raises before the first request if the directory can't be written to.
        """
        self._directory.sweep()
        sweep_probes(self._directory.tree, self._directory.root, self._directory.split)
        with contextlib.ExitStack() as at_end:
            # This runs last, and also after a signal that arrives while the workers end.
            at_end.callback(self._clear_up)
            at_end.callback(self._workers.close)
            try_out(self._directory)
            yield at_end.enter_context(flushing(self._directory))

    def _clear_up(self) -> None:
        try:
            self._directory.clear_up()
        # What ended the work matters more than this error.
        except Step37Error as error:
            log.warning("unfinished files stay until the next run: %s", error)

    def _check_names(self, plan: DownloadPlan) -> None:
        if plan.decision.fetch:
            names = {file.name for file in plan.fetch} | plan.verified.keys()
            check_names(self._directory, names, plan.scan)

    def _check_space(self, plan: DownloadPlan) -> None:
        files, size = plan.fetch, plan.bytes
        replaced = [plan.scan[file.name].size for file in files if file.name in plan.scan]
        # A file and the one that it replaces both take space until it is complete.
        in_progress = PER_CONNECTION * self._task.options.concurrency
        double = size * min(1.0, in_progress / max(1, len(files)))
        check_space(
            self._directory,
            max(0, size - sum(replaced) + int(min(double, sum(replaced)))),
            len(files) - len(replaced),
        )
        count = f"{len(files):,} of {plan.decision.files:,} files, {amount(size)}"
        log.info("fetching %s, at commit %s", count, plan.commit)
        if plan.left_out.rows:
            log.warning(
                "%s of %s left out; the first is %s",
                counted(plan.left_out.rows, "row"),
                in_repository(self._directory.split, plan.table),
                plan.left_out.first,
            )
        if plan.unnamed:
            log.info("%s of the commit: no row names them", counted(plan.unnamed, "image"))
        if plan.wait:
            log.info(
                "the Hub's rate limit will make this wait %.0f s for %s requests",
                plan.wait,
                f"{plan.requests:,}",
            )

    def _record_before(self, plan: DownloadPlan) -> Record | None:
        """Return the ready record to grow.

        One of another commit is removed first: there is never a record over mixed files.
        """
        before = read_record(self._directory)
        repo_id = self._task.selection.repo_id
        # Without a manifest nobody knows which files the record covers.
        if before is not None and not read_manifest(self._directory):
            return None
        if before is None or (before.commit, before.repo_id) == (plan.commit, repo_id):
            return before
        log.warning(
            "%s holds %s at commit %s and is being replaced by %s at %s: running readers may see"
            " new bytes; pin a revision, or use a directory per commit",
            *(self._directory.files, before.repo_id, before.commit, repo_id, plan.commit),
        )
        self._lease.check()
        remove_record(self._directory)
        if before.table != plan.table and not is_above(before.table):
            # Other loaders would go on reading it
            self._directory.discard(self._directory.path(before.table))
        return None

    def _fetch(self, plan: DownloadPlan, publisher: Publisher) -> None:
        files = plan.fetch
        self._directory.make_parents(file.name for file in files)
        if plan.shards:
            self._fetch_bulk(plan.shards, files, publisher)
            files = [file for file in files if file.name not in publisher.verified]
        self._fetch_files(files, plan.commit, publisher)

    def _fetch_bulk(
        self, shards: Sequence[RemoteFile], files: Sequence[RemoteFile], publisher: Publisher
    ) -> None:
        # Imported late: it loads the HTTP client.
        from step37_flickr8k.download.bulk import fetch_bulk  # noqa: PLC0415

        source = replace(self._hub.parquet_files(), statistics=self._task.statistics)
        fetch_bulk(
            shards,
            files,
            source,
            self._workers,
            publisher.publish,
            options=self._task.options,
            progress=self._progress.report,
        )
        log.info(
            "%s of %s files were fetched in bulk, with %s requests",
            f"{source.statistics.files:,}",
            f"{len(files):,}",
            f"{source.statistics.requests:,}",
        )

    def _fetch_files(self, files: Sequence[RemoteFile], commit: str, publisher: Publisher) -> None:
        if not files:
            return
        source = self._hub.files(commit, self._task.selection.split)
        fetch_files(
            files,
            replace(source, statistics=self._task.statistics),
            self._workers,
            publisher.publish,
            options=self._task.options,
            progress=self._progress.report,
        )

    def _grown(self, before: Record | None, plan: DownloadPlan) -> Record:
        """Return the record that covers this selection, too."""
        selection, rows = self._task.selection, plan.decision.rows
        record = before or Record(
            repo_id=selection.repo_id,
            commit=plan.commit,
            table=plan.table,
            metadata=plan.listing[plan.table].digest,
            captions={},
        )
        coverage = Coverage(rows, everything=plan.everything)
        grown = record.grown(selection.caption_key, coverage, plan.verified)
        return grown.confirmed_by(self._task.run_id)
