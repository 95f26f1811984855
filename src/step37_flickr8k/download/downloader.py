"""The work of who holds the lease: fetch, publish, and the ready record last; or the repair of what a record speaks of."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from step37_flickr8k.cache.lease import Lease
from step37_flickr8k.cache.manifest import ManifestEntry, read_manifest, write_manifest
from step37_flickr8k.cache.preflight import check_space, try_out
from step37_flickr8k.cache.record import Coverage, Record, read_record, remove_record, write_record
from step37_flickr8k.cluster.progress import Progress, ProgressTracker, State
from step37_flickr8k.dataset.listing import Listing, RemoteFile
from step37_flickr8k.dataset.metadata import METADATA
from step37_flickr8k.download.landing import IN_HAND, Arrived
from step37_flickr8k.download.planner import MANY, Planner, Survey, Task
from step37_flickr8k.download.workers import Workers
from step37_flickr8k.errors import CommitChanged, Step37Error
from step37_flickr8k.hub.api import Hub

__all__ = ["Downloader"]

log = logging.getLogger("step37_flickr8k")

Value = dict[str, Any]
Flush = Callable[[], None]


class Downloader:
    """Fills the directory while its lease is held; to be closed, so that nothing unfinished stays, whatever ends it."""

    def __init__(self, task: Task, hub: Hub, lease: Lease, progress: ProgressTracker) -> None:
        """Take up the work."""
        self._task = task
        self._directory = task.directory
        self._hub = hub
        self._lease = lease
        self._progress = progress
        self._workers = Workers(task.directory)

    def run(self, commit: str, listing: Listing) -> tuple[Record, int]:
        """Plan, fetch, publish; return the ready record and the number of the selection's rows."""
        with self._ready_to_write() as flush:
            if len(listing) > MANY and (self._task.selection.sample_count or MANY) >= MANY:
                self._workers.start()
            survey = Planner(self._task, self._hub, self._workers, self._progress).survey(
                commit, listing, self._directory
            )
            before = self._record_before(survey)
            lost = self._lost(before, survey)
            self._check_space(survey, lost)
            self._fetch(lost, survey)
            self._progress.report(Progress(State.PUBLISHING))
            record = self._publish(survey, before, flush)
        return record, survey.plan.rows

    def repair(self, record: Record, listing: Listing, names: Sequence[str]) -> None:
        """Fetch these files of the record's commit again, and prove them in the manifest."""
        with self._ready_to_write() as flush:
            now = read_record(self._directory)
            if now is None or now.commit != record.commit:
                raise CommitChanged(
                    f"{self._directory.home} no longer holds commit {record.commit}: run verify again"
                )
            files = [listing[name] for name in names if name in listing]
            check_space(self._directory, sum(file.size for file in files), len(files))
            proven: dict[str, ManifestEntry] = {}
            self._fetch_files(files, record.commit, proven)
            flush()
            self._lease.check()
            write_manifest(self._directory, read_manifest(self._directory) | proven)

    @contextlib.contextmanager
    def _ready_to_write(self) -> Iterator[Flush]:
        """Look whether the directory takes files, before the first byte is asked for."""
        self._directory.sweep()
        with contextlib.ExitStack() as at_end:
            at_end.callback(self._clear_up)  # also after a signal that comes while the workers end
            at_end.callback(self._workers.close)
            try_out(self._directory)
            yield at_end.enter_context(self._directory.flushing())

    def _clear_up(self) -> None:
        try:
            self._directory.clear_up()
        except Step37Error as error:  # what ended the work matters more
            log.warning("what was unfinished stays until the next run: %s", error)

    def _check_space(self, survey: Survey, lost: Sequence[RemoteFile]) -> None:
        files = [*survey.plan.fetch, *lost]
        size = sum(file.size for file in files)
        replaced = [survey.scan[file.name].size for file in files if file.name in survey.scan]
        # those that come lie beside those that they replace until they have their bytes
        beside = size * min(1.0, IN_HAND * self._task.options.concurrency / max(1, len(files)))
        check_space(
            self._directory,
            max(0, size - sum(replaced) + int(min(beside, sum(replaced)))),
            len(files) - len(replaced),
        )
        count = f"{len(files):,} of {survey.plan.files:,} files, {size / 1e6:,.1f} MB"
        log.info("fetching %s, at commit %s", count, survey.commit)
        if survey.wait:
            log.info(
                "the Hub's rate limit will make this wait %.0f s for %s requests",
                survey.wait,
                f"{survey.requests:,}",
            )

    def _record_before(self, survey: Survey) -> Record | None:
        """Give the record to grow; one of another commit is taken away first: never a record over mixed files."""
        before = read_record(self._directory)
        repo_id = self._task.selection.repo_id
        if before is not None and not read_manifest(self._directory):
            return None  # what it speaks of can't be looked for: it begins anew
        if before is None or (before.commit, before.repo_id) == (survey.commit, repo_id):
            return before
        log.warning(
            "%s holds %s at commit %s and is being replaced by %s at %s: running readers may see new bytes; pin a revision, "
            "or use a directory per commit",
            *(self._directory.files, before.repo_id, before.commit, repo_id, survey.commit),
        )
        self._lease.check()
        remove_record(self._directory)
        return None

    def _lost(self, before: Record | None, survey: Survey) -> list[RemoteFile]:
        """Give what the record speaks of beyond this selection and is no longer there: it must not stay a promise."""
        if before is None:
            return []
        wanted = {file.name for file in survey.plan.fetch} | survey.proven.keys() | {METADATA}
        return [
            survey.listing[n]
            for n in read_manifest(self._directory)
            if n not in wanted and n in survey.listing
        ]

    def _fetch(self, lost: Sequence[RemoteFile], survey: Survey) -> None:
        files = [*survey.plan.fetch, *lost] if lost else survey.plan.fetch
        if survey.shards:
            self._fetch_bulk(survey, files)
            files = [file for file in files if file.name not in survey.proven]
        self._fetch_files(files, survey.commit, survey.proven)

    def _fetch_bulk(self, survey: Survey, files: Sequence[RemoteFile]) -> None:
        from step37_flickr8k.download.bulk import fetch_bulk  # noqa: PLC0415 - as below

        source = replace(self._hub.parquet_files(), statistics=self._task.account)
        fetch_bulk(
            survey.shards, files, source, self._workers, self._landing(survey.proven), **self._ways
        )
        came, requests = source.statistics.files, source.statistics.requests
        log.info(
            "%s of %s files came in bulk, with %s requests",
            f"{came:,}",
            f"{len(files):,}",
            f"{requests:,}",
        )

    def _fetch_files(
        self, files: Sequence[RemoteFile], commit: str, proven: dict[str, ManifestEntry]
    ) -> None:
        from step37_flickr8k.download.files import fetch  # noqa: PLC0415 - its HTTP client is a quarter of a second

        if files:
            files_there = self._hub.files(commit, self._task.selection.split)
            source = replace(files_there, statistics=self._task.account)
            fetch(files, source, self._workers, self._landing(proven), **self._ways)

    @property
    def _ways(self) -> dict[str, Any]:
        return {"options": self._task.options, "progress": self._progress.report}

    def _landing(self, proven: dict[str, ManifestEntry]) -> Callable[[Sequence[Arrived]], None]:
        """Give what publishes verified files and notes them as proven."""

        def land(batch: Sequence[Arrived]) -> None:
            for arrived in batch:
                self._lease.check()
                file = arrived.file
                entry = self._directory.publish(arrived.temporary, file.name)
                proven[file.name] = ManifestEntry(
                    entry.size, file.digest, entry.mtime_ns, arrived.decode_error
                )

        return land

    def _publish(self, survey: Survey, before: Record | None, flush: Flush) -> Record:
        """Name metadata.csv, flush, then the manifest, and the ready record last."""
        directory, selection, digest = (
            self._directory,
            self._task.selection,
            survey.listing[METADATA].digest,
        )
        self._lease.check()
        if survey.metadata != directory.files / METADATA:
            entry = directory.publish(survey.metadata, METADATA)
            survey.proven[METADATA] = ManifestEntry(entry.size, digest, entry.mtime_ns)
        flush()
        rows, count = survey.plan.rows, selection.sample_count
        coverage = Coverage(rows, everything=count is None or rows < count)
        record = before or Record(
            repo_id=selection.repo_id, commit=survey.commit, metadata=digest, captions={}
        )
        record = record.grown(selection.caption_key, coverage, survey.proven).confirmed_by(
            self._task.run
        )
        self._lease.check()
        write_manifest(directory, survey.proven)
        write_record(directory, record)
        return record
