"""What the Hub has, what the directory holds, and so what there is to do."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.manifest import ManifestEntry, read_manifest, unchanged
from step37_flickr8k.cache.rows import lines_of
from step37_flickr8k.cache.scan import Entry
from step37_flickr8k.cache.verify import verify_files
from step37_flickr8k.cluster.progress import Progress, ProgressTracker, State
from step37_flickr8k.dataset.decide import Decision, decide
from step37_flickr8k.dataset.listing import Listing, RemoteFile
from step37_flickr8k.dataset.metadata import METADATA, read_rows
from step37_flickr8k.dataset.selection import Selection
from step37_flickr8k.download.parquet import is_available
from step37_flickr8k.download.workers import Workers
from step37_flickr8k.errors import InvalidMetadata, InvalidSettings, Step37Error
from step37_flickr8k.hub.api import Hub
from step37_flickr8k.hub.rate_limit import RateLimit
from step37_flickr8k.hub.source import TransferStatistics
from step37_flickr8k.settings.options import FetchOptions

__all__ = ["MANY", "Planner", "Survey", "Task"]

log = logging.getLogger("step37_flickr8k")

MANY = 100  # images: for fewer the Parquet conversion isn't looked for
_LARGEST_METADATA = 1 << 30  # bytes: a million rows with five captions have a third of that


@dataclass(frozen=True)
class Task:
    """What is asked for, where it goes, and how."""

    options: FetchOptions
    selection: Selection
    directory: CacheDirectory
    run: str | None = None
    # Of what was fetched, whatever ends it
    account: TransferStatistics = field(default_factory=TransferStatistics)


@dataclass(frozen=True)
class Survey:
    """What the Hub has, what the directory holds, and so what there is to do."""

    commit: str
    listing: Listing
    scan: Mapping[str, Entry]
    proven: dict[str, ManifestEntry]
    metadata: Path
    plan: Decision
    shards: Sequence[RemoteFile] = ()  # of the Parquet conversion, if it is to be read
    rate_limit: RateLimit | None = None  # as the Hub stated it last

    @property
    def requests(self) -> int:
        """Requests for files: all of them, but a few when they come in bulk."""
        return 3 * len(self.shards) + 3 if self.shards else len(self.plan.fetch)

    @property
    def wait(self) -> float:
        """Seconds that the quota will make it wait."""
        return self.rate_limit.wait(self.requests) if self.rate_limit else 0.0


@dataclass(frozen=True)
class Planner:
    """Surveys a task."""

    task: Task
    hub: Hub
    workers: Workers
    progress: ProgressTracker

    def survey(self, commit: str, listing: Listing, scratch: CacheDirectory) -> Survey:
        """Decide what to fetch; a metadata.csv that isn't in the directory yet is fetched into ``scratch``."""
        directory = self.task.directory
        scan = directory.scan()
        # the manifest may be of another commit: what this one holds under the same names is what
        # counts
        in_manifest = unchanged(read_manifest(directory), scan).items()
        proven = {
            n: proof
            for n, proof in in_manifest
            if n in listing and listing[n].digest == proof.digest
        }

        def prove_also(names: Iterable[str]) -> None:
            like = {
                n: listing[n].digest
                for n in names
                if n in scan and n not in proven and listing[n].size == scan[n].size
            }
            proven.update(
                verify_files(directory, scan, like, self.workers.check, self.progress.report)
            )

        self.progress.report(Progress(State.READING_METADATA))
        prove_also([METADATA])
        metadata, limit = directory.files / METADATA, None
        if METADATA not in proven:
            metadata, limit = self._fetch_metadata(commit, listing[METADATA], scratch)
        plan = self._decide(metadata, listing, proven)
        known = len(proven)
        prove_also(file.name for file in plan.fetch)
        if len(proven) > known:
            plan = self._decide(metadata, listing, proven)
        usual = self.hub.public_rate_limit()
        return Survey(
            commit, listing, scan, proven, metadata, plan, self._shards(plan), limit or usual
        )

    def _fetch_metadata(
        self, commit: str, file: RemoteFile, scratch: CacheDirectory
    ) -> tuple[Path, RateLimit | None]:
        from step37_flickr8k.download.files import fetch  # noqa: PLC0415 - its HTTP client is a quarter of a second

        split = self.task.selection.split
        if file.size > _LARGEST_METADATA:
            told = f"{split}/{METADATA} of {self.hub.name} has {file.size / 1e9:,.1f} GB by the listing"
            raise InvalidMetadata(
                f"{told}, at most {_LARGEST_METADATA / 1e9:.1f} GB are read: is it a table of captions?"
            )
        kept: list[Path] = []
        source = self.hub.files(commit, split)
        try:
            fetch(
                *(
                    [file],
                    source,
                    Workers(scratch),
                    lambda batch: kept.extend(arrived.temporary for arrived in batch),
                ),
                options=self.task.options,
                progress=lambda _: self.progress.report(Progress(State.READING_METADATA)),
            )
        finally:  # it is no image
            self.hub.count(source.statistics)
        return kept[0], source.statistics.rate_limit

    def _decide(
        self, metadata: Path, listing: Listing, proven: Mapping[str, ManifestEntry]
    ) -> Decision:
        rows = read_rows(lines_of(metadata), self.task.selection)
        return decide(rows, listing, {name: proof.digest for name, proof in proven.items()})

    def _shards(self, plan: Decision) -> Sequence[RemoteFile]:
        """Decide whether the images come in bulk: give the Parquet files to read, if they do."""
        mode, split = self.task.options.mode, self.task.selection.split
        if mode == "parquet" and not is_available():
            raise InvalidSettings(
                "fetch_mode=parquet needs pyarrow: pip install 'step37-flickr8k[parquet]', or choose auto"
            )
        if (
            mode == "files"
            or not is_available()
            or len(plan.fetch) < (MANY if mode == "auto" else 1)
        ):
            return ()
        if mode == "auto":
            shards = self._shards_if_listed(split)
            return shards if 2 * plan.bytes >= sum(shard.size for shard in shards) else ()
        if not (shards := self.hub.list_parquet(split)):
            told = f"{self.hub.name} has no Parquet conversion of {split}"
            raise InvalidSettings(f"fetch_mode=parquet, but {told}: choose auto or files")
        return shards

    def _shards_if_listed(self, split: str) -> Sequence[RemoteFile]:
        """Give the Parquet files; none when they can't be listed, since nobody asked for them."""
        try:
            return self.hub.list_parquet(split)
        except Step37Error as error:
            log.warning(
                "the Parquet conversion can't be listed, so the images come file by file: %s", error
            )
            return ()
