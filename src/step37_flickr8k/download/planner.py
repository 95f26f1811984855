"""What the Hub has, what the directory holds, and so what there is to download."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.manifest import ManifestEntry, read_manifest, unchanged
from step37_flickr8k.cache.record import read_record
from step37_flickr8k.cache.rows import LARGEST_TABLE
from step37_flickr8k.cache.scan import Entry
from step37_flickr8k.cache.verify import verify_files
from step37_flickr8k.cluster.progress import Progress, ProgressTracker, State
from step37_flickr8k.dataset.decide import Decision, decide
from step37_flickr8k.dataset.listing import Listing, RemoteFile
from step37_flickr8k.dataset.metadata import read_rows
from step37_flickr8k.dataset.names import find_table, in_repository, is_table
from step37_flickr8k.dataset.selection import Selection
from step37_flickr8k.download.batches import VerifiedFile
from step37_flickr8k.download.conversion import choose_shards
from step37_flickr8k.download.fetching import fetch_files
from step37_flickr8k.download.workers import Workers
from step37_flickr8k.errors import InvalidMetadata
from step37_flickr8k.hub.api import Hub
from step37_flickr8k.hub.rate_limit import RateLimit
from step37_flickr8k.hub.source import TransferStatistics
from step37_flickr8k.settings.options import FetchOptions

__all__ = ["DownloadPlan", "DownloadTask", "LeftOut", "Planner"]


@dataclass(frozen=True)
class DownloadTask:
    """What is asked for, where it goes, and how; what is downloaded counts in ``statistics``."""

    options: FetchOptions
    selection: Selection
    directory: CacheDirectory
    run_id: str | None = None
    statistics: TransferStatistics = field(default_factory=TransferStatistics)


@dataclass
class LeftOut:
    """How many rows before the last one of the selection don't count, and why the first doesn't."""

    rows: int = 0
    first: str = ""

    def __call__(self, line: int, reason: str) -> None:
        """Count a row."""
        self.rows += 1
        self.first = self.first or f"line {line}: {reason}"


@dataclass(frozen=True)
class DownloadPlan:
    """What to download, and what it was decided from.

    ``table`` is the metadata table's name, ``metadata`` its path, here or in a scratch directory;
    ``left_out`` are rows that don't count. ``scan`` is what the directory holds, ``verified`` what
    of it matches the listing. ``decision`` is on the selection's files. ``lost`` are missing files
    that the ready record covers beyond the selection: what it promises must be there. ``shards``
    are the files of the Parquet conversion if they are read, ``rate_limit`` is the last one the
    Hub stated.
    """

    selection: Selection
    commit: str
    listing: Listing
    table: str
    scan: Mapping[str, Entry]
    verified: dict[str, ManifestEntry]
    metadata: Path
    decision: Decision
    lost: Sequence[RemoteFile]
    left_out: LeftOut
    shards: Sequence[RemoteFile]
    rate_limit: RateLimit | None

    @property
    def everything(self) -> bool:
        """Whether the selection is all the rows of the split that count."""
        count = self.selection.sample_count
        return count is None or self.decision.rows < count

    @property
    def unnamed(self) -> int | None:
        """How many images of the commit no row names; None where not all of either were read."""
        return self.decision.unnamed if self.everything and self.listing.is_whole else None

    @property
    def fetch(self) -> Sequence[RemoteFile]:
        """The files to fetch: those of the selection, then the lost ones."""
        chosen = self.decision.fetch
        return [*chosen, *self.lost] if self.lost else chosen

    @property
    def bytes(self) -> int:
        """The size of the files to fetch."""
        return self.decision.bytes + sum(file.size for file in self.lost)

    @property
    def requests(self) -> int:
        """Requests for files: one for each, or a few if they are fetched in bulk."""
        return 3 * len(self.shards) + 3 if self.shards else len(self.fetch)

    @property
    def wait(self) -> float:
        """Seconds that the rate limit will make it wait."""
        return self.rate_limit.wait(self.requests) if self.rate_limit else 0.0


@dataclass(frozen=True)
class Planner:
    """Compares the Hub, the cache directory and the selection."""

    task: DownloadTask
    hub: Hub
    workers: Workers
    progress: ProgressTracker

    def plan(self, commit: str, listing: Listing, scratch: CacheDirectory) -> DownloadPlan:
        """Return what to download.

        A metadata table that isn't there yet is downloaded to a temporary file of ``scratch``.
        """
        directory = self.task.directory
        table = find_table(listing, self.hub.name, directory.split)
        assert table is not None  # noqa: S101 - else nothing was listed
        scan = directory.scan(table)
        # The manifest may be of another commit: what counts is this one's file of the same name.
        verified = {
            name: entry
            for name, entry in unchanged(read_manifest(directory), scan).items()
            if name in listing and listing[name].digest == entry.digest
        }
        # Left out under a lower limit: these are decoded again, wherever their rows are.
        larger = [name for name, entry in verified.items() if self._lets_in(entry)]
        for name in larger:
            del verified[name]
        self.progress.report(Progress(State.READING_METADATA))
        verified |= self._verify([table], listing, scan, verified)
        metadata, holder, limit = directory.path(table), directory, None
        if table not in verified:
            metadata, limit = self._fetch_metadata(commit, listing[table], scratch)
            holder = scratch
        read = partial(holder.open, metadata, LARGEST_TABLE)
        decision, left_out = self._decide(read, table, listing, verified)
        names = chain(larger, (file.name for file in decision.fetch))
        if found := self._verify(names, listing, scan, verified):
            verified |= found
            decision, left_out = self._decide(read, table, listing, verified)
        return DownloadPlan(
            selection=self.task.selection,
            commit=commit,
            listing=listing,
            table=table,
            scan=scan,
            verified=verified,
            metadata=metadata,
            decision=decision,
            lost=self._lost(commit, listing, decision, verified),
            left_out=left_out,
            shards=choose_shards(self.hub, self.task.selection.split, decision, self.task.options),
            rate_limit=limit or self.hub.public_rate_limit(),
        )

    def _lost(
        self,
        commit: str,
        listing: Listing,
        decision: Decision,
        verified: Mapping[str, ManifestEntry],
    ) -> Sequence[RemoteFile]:
        record = read_record(self.task.directory)
        current = (commit, self.task.selection.repo_id)
        if record is None or (record.commit, record.repo_id) != current:
            return ()
        wanted = {file.name for file in decision.fetch} | verified.keys()
        return [
            listing[name]
            for name in read_manifest(self.task.directory)
            if name not in wanted and name in listing and not is_table(name)
        ]

    def _lets_in(self, entry: ManifestEntry) -> bool:
        return 0 < entry.examined.too_large <= self.task.selection.max_pixels

    def _verify(
        self,
        names: Iterable[str],
        listing: Listing,
        scan: Mapping[str, Entry],
        verified: Mapping[str, ManifestEntry],
    ) -> dict[str, ManifestEntry]:
        """Return which of these files the directory holds with the right bytes, now hashed."""
        digests = {
            name: listing[name].digest
            for name in names
            if name in scan and name not in verified and listing[name].size == scan[name].size
        }
        directory, check = self.task.directory, self.workers.check
        return verify_files(directory, scan, digests, check, self.progress.report)

    def _fetch_metadata(
        self, commit: str, file: RemoteFile, scratch: CacheDirectory
    ) -> tuple[Path, RateLimit | None]:
        """Download the metadata table; return its path, and the rate limit that the Hub stated."""
        split = self.task.selection.split
        if file.size > LARGEST_TABLE:
            raise InvalidMetadata(
                f"{in_repository(split, file.name)} of {self.hub.name} has"
                f" {file.size / 1e9:,.1f} GB by the"
                f" listing, at most {LARGEST_TABLE / 1e9:.1f} GB are read:"
                " is it a table of captions?"
            )
        source = self.hub.files(commit, split)
        received: list[VerifiedFile] = []
        try:
            with contextlib.closing(Workers(scratch)) as workers:
                fetch_files(
                    [file],
                    source,
                    workers,
                    received.extend,
                    options=self.task.options,
                    progress=self._report_reading,
                )
        finally:
            # Counted with the API's requests, because a table is no image.
            self.hub.count(source.statistics)
        return received[0].temporary, source.statistics.rate_limit

    def _report_reading(self, progress: Progress) -> None:
        waiting = progress.state.is_waiting
        self.progress.report(progress if waiting else Progress(State.READING_METADATA))

    def _decide(
        self,
        read: Callable[[], AbstractContextManager[BinaryIO]],
        table: str,
        listing: Listing,
        verified: Mapping[str, ManifestEntry],
    ) -> tuple[Decision, LeftOut]:
        left_out = LeftOut()
        unstripped = {name for name in listing if name != name.strip()}
        with read() as stream:
            rows = read_rows(
                stream, self.task.selection, table, unstripped=unstripped, left_out=left_out
            )
            digests = {name: entry.digest for name, entry in verified.items()}
            return decide(rows, listing, digests), left_out
