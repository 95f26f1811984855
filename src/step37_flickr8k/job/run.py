"""One process's part in a run: what it reads of the cache, and how it reaches Hub and lease."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.lease import Claim, Lease, Wait, take
from step37_flickr8k.cache.record import Record, read_record
from step37_flickr8k.cache.verify import is_complete
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.progress import ProgressTracker
from step37_flickr8k.dataset.selection import Selection
from step37_flickr8k.download.planner import DownloadTask
from step37_flickr8k.errors import InvalidSettings
from step37_flickr8k.hub.api import Hub, is_commit
from step37_flickr8k.hub.plain_http import warn_of_readable
from step37_flickr8k.hub.proxies import proxy_before
from step37_flickr8k.hub.source import TransferStatistics
from step37_flickr8k.job.results import SlowFile, Traffic
from step37_flickr8k.job.task import Task

__all__ = ["Account", "Run"]

log = logging.getLogger("step37_flickr8k")

# Heartbeat timeouts without a change of the lease's bytes: NFS may show old ones for a minute.
_LEASE_HEARTBEATS = 4


@dataclass
class Account:
    """What a run has done so far, whatever ends it."""

    fetched: TransferStatistics = field(default_factory=TransferStatistics)
    hub: Hub | None = None
    commit: str | None = None

    def traffic(self) -> Traffic:
        """Return what was asked of the Hub, by the API and for files."""
        requests, retries = self.fetched.requests, self.fetched.retries
        if self.hub is not None:
            requests, retries = requests + self.hub.requests, retries + self.hub.retries
        return Traffic(
            commit=self.commit,
            requests=requests,
            retries=dict(retries),
            slowest=tuple(SlowFile(*slow) for slow in self.fetched.slowest),
        )


@dataclass(frozen=True)
class Run:
    """One process's part in a run: its task, its rank, what it has done so far."""

    task: Task
    world: World
    account: Account = field(default_factory=Account)

    @cached_property
    def selection(self) -> Selection:
        """What is asked for; offline a branch or tag is whatever the cache holds."""
        asked = self.task.selection
        if self.task.hub.offline and not is_commit(asked.revision):
            return replace(asked, revision=None)
        return asked

    @cached_property
    def directory(self) -> CacheDirectory:
        """The cache directory of the split."""
        return CacheDirectory(self.task.cache_dir.absolute(), self.task.selection.split)

    @property
    def download_task(self) -> DownloadTask:
        """What a download into the directory needs to know."""
        return DownloadTask(
            options=self.task.fetch,
            selection=self.selection,
            directory=self.directory,
            run_id=self.world.run_id,
            statistics=self.account.fetched,
        )

    def arguments(self) -> dict[str, str | int | None]:
        """Return what must be equal on all ranks."""
        return {
            "repo_id": self.selection.repo_id,
            "split": self.selection.split,
            "caption_key": self.selection.caption_key,
            "sample_count": self.selection.sample_count,
            "revision": self.selection.revision,
            "cache_dir": str(self.task.cache_dir),
            "bad_images": self.task.bad_images,
            "max_pixels": self.selection.max_pixels,
        }

    def pinned(self, commit: str) -> "Run":
        """Return the same run for this very commit; what it does counts for both."""
        selection = replace(self.task.selection, revision=commit)
        return Run(replace(self.task, selection=selection), self.world, self.account)

    def ready(self, selection: Selection) -> Record | None:
        """Return the ready record if it fits and all that it speaks of is there; writes nothing."""
        record = read_record(self.directory)
        if record is None or not record.fits(selection, self.world.run_id):
            return None
        complete = is_complete(self.directory, record, check=self.task.check)
        return record if complete else None

    def hub(self) -> Hub:
        """Return the Hub, the same one each time; raises `InvalidSettings` when offline."""
        if self.task.hub.offline:
            raise InvalidSettings(
                f"offline is set, but {self._unusable()}: run warmup once with the network"
            )
        if self.account.hub is not None:
            return self.account.hub
        hub = self.account.hub = Hub(self.selection.repo_id, self.task.hub, self.task.fetch)
        if proxy := proxy_before(hub.endpoint):
            log.warning(
                "%s is reached through the proxy %s alone: all who use it share one rate limit",
                hub.name,
                proxy,
            )
        warn_of_readable(hub.endpoint, self.task.hub)
        return hub

    def take_lease(
        self,
        waiting: Callable[[Wait], bool],
        tracker: ProgressTracker | None = None,
    ) -> Lease | None:
        """Take the directory's lease, however long its holder works.

        ``waiting`` is called every few seconds; when it returns False, the result is None.
        """
        world = self.world
        claim = Claim.of_this_process(run=world.run_id, rank=world.rank, host=world.host)
        timeout = _LEASE_HEARTBEATS * self.task.timeouts.heartbeat
        return take(self.directory, claim, timeout, waiting, tracker)

    def _unusable(self) -> str:
        """Return why the directory as it is can't be used."""
        record, asked = read_record(self.directory), self.selection
        if record is not None and record.fits(asked, self.world.run_id):
            home = self.directory.home
            return f"files that the ready record in {home} speaks of are missing or were changed"
        lower = replace(asked, max_pixels=0)
        if record is not None and record.fits(lower, self.world.run_id):
            return f"{self.directory.root} left images out for a lower max_pixels than now"
        rows = "all rows" if asked.sample_count is None else f"{asked.sample_count:,} rows"
        revision = asked.revision or "any"
        what = f"{asked.repo_id}, split {asked.split}, revision {revision}: {rows}"
        return (
            f"{self.directory.root} holds no ready record that fits "
            f"({what} with {asked.caption_key})"
        )
