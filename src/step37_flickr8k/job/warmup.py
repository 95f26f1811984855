"""The orchestration: plan, fetch, publish, share, read."""

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.filesystem import local_file_system
from step37_flickr8k.cache.lease import Claim, Lease, take
from step37_flickr8k.cache.manifest import read_manifest
from step37_flickr8k.cache.record import Record, read_record, write_record
from step37_flickr8k.cache.rows import rows_of, skipped_rows
from step37_flickr8k.cache.verify import is_complete, verify_files
from step37_flickr8k.cache.visible import rows_when_visible
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.progress import Progress, ProgressTracker, State
from step37_flickr8k.cluster.protocol import Timeouts
from step37_flickr8k.cluster.share import Group, share
from step37_flickr8k.dataset.selection import Row, Selection
from step37_flickr8k.dataset.words import listed
from step37_flickr8k.download.downloader import Done, Downloader, result_of
from step37_flickr8k.download.parquet import is_available, preload
from step37_flickr8k.download.planner import MANY, Planner, Task
from step37_flickr8k.download.workers import Workers
from step37_flickr8k.errors import (
    BadImages,
    CacheDamaged,
    EmptySelection,
    FolderNotUsable,
    InvalidSettings,
    Step37Error,
    TransientError,
)
from step37_flickr8k.hub.api import Hub, is_commit
from step37_flickr8k.hub.proxies import proxy_before
from step37_flickr8k.hub.rate_limit import RateLimit
from step37_flickr8k.settings import WarmupSettings

__all__ = ["Warmup"]

log = logging.getLogger("step37_flickr8k")

Value = dict[str, Any]
_MORE = "more (--json names all)"
# Heartbeat timeouts without a change of the lease's bytes: NFS may show old ones for a minute
_LEASE_BEATS = 4


@dataclass(frozen=True)
class Warmup:
    """One job: its settings and this process's place in it.

    ``closely``: a warm start of rank 0 compares size and mtime of every file with the manifest, not
    only the names. ``done`` tells what it has done so far, whatever ends it.
    """

    settings: WarmupSettings
    world: World
    closely: bool = True
    done: Done = field(default_factory=Done)

    @cached_property
    def selection(self) -> Selection:
        """What is asked for; offline a branch or tag is whatever the cache holds."""
        names = ("repo_id", "split", "caption_key", "sample_count", "revision")
        asked = Selection(**{name: getattr(self.settings, name) for name in names})
        return (
            replace(asked, revision=None)
            if self.settings.offline and not is_commit(asked.revision)
            else asked
        )

    @cached_property
    def directory(self) -> CacheDirectory:
        """Where it goes."""
        return CacheDirectory(self.settings.cache_dir.absolute(), self.settings.split)

    @property
    def task(self) -> Task:
        """What the work on the directory needs to know."""
        return Task(
            self.settings.fetch_options(),
            self.selection,
            self.directory,
            self.world.run_id,
            self.done.fetched,
        )

    @cached_property
    def timeouts(self) -> Timeouts:
        """How long silence may last."""
        names = ("arrival", "heartbeat", "stall", "visibility")
        return Timeouts(**{name: getattr(self.settings, f"{name}_timeout") for name in names})

    def run(
        self, group: Group, watch: Callable[[Progress], None] = lambda _: None
    ) -> tuple[Value, list[Row]]:
        """Warm the cache and read the selection on every rank; gives rank 0's report and this rank's rows."""
        if self.settings.cache_scope == "shared":
            return self._share(group, watch)
        commit = self.selection.revision
        # A pinned one needs nobody: a rank that is started again may be the last one left
        if not is_commit(commit):
            ways: dict[str, Any] = {"find_result": self._look, "watch": watch}
            commit = share(
                group, self._agree, arguments=self.arguments(), timeouts=self.timeouts, **ways
            ).result["commit"]
        pinned = Warmup(
            self.settings.model_copy(update={"revision": commit}),
            self.world,
            self.closely,
            self.done,
        )
        problem: Exception | None = None
        # Each node's own lease elects its downloader; rank 0 is that of its node, or waits for it
        if group.rank != 0:
            try:
                pinned.warm(ProgressTracker(watch))
            except (Step37Error, OSError) as error:
                problem = error
        return pinned._share(group, watch, problem)

    def _share(
        self, group: Group, watch: Callable[[Progress], None], problem: Exception | None = None
    ) -> tuple[Value, list[Row]]:
        rows: list[Row] = []

        def confirm(result: Value) -> None:
            if problem is not None:
                raise problem
            rows[:] = rows_when_visible(
                self.directory,
                self.selection,
                result["commit"],
                self.timeouts.visibility,
                check="names" if group.rank == 0 else "all",
            )
            if not rows:
                raise EmptySelection(
                    f"no image of the selection in {self.directory.files} can be decoded: choose another split"
                )

        ways: dict[str, Any] = {"confirm": confirm, "find_result": self._look, "watch": watch}
        shared = share(group, self.warm, arguments=self.arguments(), timeouts=self.timeouts, **ways)
        result = dict(shared.result)
        if shared.ranks:
            result["ranks"] = {
                str(rank): report.as_json(traceback=False) for rank, report in shared.ranks.items()
            }
        if not rows:  # after a last look nobody has asked this rank to confirm
            confirm(result)
        return result, rows

    def arguments(self) -> Value:
        """Give what must be equal on all ranks."""
        others = {"cache_dir": str(self.settings.cache_dir), "bad_images": self.settings.bad_images}
        return {**vars(self.selection), **others}

    def _agree(self, _: ProgressTracker) -> Value:
        """Give the commit that all nodes fetch: what is asked for, else what rank 0's node holds, else ``main``."""
        record = read_record(self.directory)
        if record is not None and record.fits(self.selection, self.world.run_id):
            return {"commit": record.commit}
        return {"commit": self._hub().resolve(self.selection.revision or "main")}

    def warm(self, progress: ProgressTracker) -> Value:
        """Do rank 0's work: nothing if a ready record fits, else fill the directory as the holder of its lease."""
        return self._accepted(self._warm(progress))

    def _accepted(self, result: Value) -> Value:
        """Refuse a selection with images that can't be decoded, where that was asked for; the record stands all the same."""
        if result["skipped"] and self.settings.bad_images == "error":
            named = listed(f"{name} ({why})" for name, why in result["skipped"].items())
            told = f"{len(result['skipped']):,} of the {result['rows']:,} rows name images that can't be decoded: {named}"
            raise BadImages(
                f"{told}: set bad_images=skip to do without them, or choose another revision or sample_count"
            )
        return result

    def _warm(self, progress: ProgressTracker) -> Value:
        if found := self._ready(self.selection):
            return self._warm_result(found)
        progress.report(Progress(State.LISTING))
        hub = self._hub()
        commit = self.done.commit = hub.resolve(self.selection.revision or "main")
        wanted = replace(self.selection, revision=commit)
        if found := self._ready(wanted):
            return self._warm_result(found)
        self._look_ahead(hub)
        listing = hub.list_files(commit, self.selection.split)
        self._warn_of_local_directory()
        self.directory.make()

        def go_on(holder: str) -> bool:
            progress.report(Progress(State.WAITING_FOR_LEASE, f"which is held on {holder}"))
            return self._ready(wanted) is None

        lease = self._lease(go_on, progress.snapshot)
        if lease is None:
            return self._warm(progress)
        with lease:
            return Downloader(self.task, hub, lease, progress).run(commit, listing)

    def _look_ahead(self, hub: Hub) -> None:
        """Do in the background what will be needed: the Hub is waited for, a page of its listing at a time."""
        count, mode = self.selection.sample_count, self.settings.fetch_mode
        bulk = mode != "files" and (count is None or count >= MANY) and is_available()
        if bulk and read_record(self.directory) is None:
            hub.start_listing_parquet(self.selection.split)

        def load() -> None:
            import step37_flickr8k.download.files  # noqa: F401, PLC0415

            if bulk:
                preload()

        threading.Thread(target=load, name="step37-preload", daemon=True).start()

    def _warn_of_local_directory(self) -> None:
        """Say early what would end as NotVisible late; only a warning, since this node may be the one that exports the directory."""
        several = self.settings.cache_scope == "shared" and (self.world.node_count or 1) > 1
        if several and (kind := local_file_system(self.directory.root)):
            told = "%s is on %s, which other nodes can't see, and there are %d: choose one that they share, or cache_scope=node"
            log.warning(told, self.directory.root, kind, self.world.node_count)

    def _hub(self) -> Hub:
        if self.settings.offline:
            raise InvalidSettings(
                f"offline is set, but {self._lack()}: run warmup once with the network"
            )
        if self.done.hub is not None:
            return self.done.hub
        hub = self.done.hub = Hub(
            self.settings.repo_id, self.settings.hub_options(), self.settings.fetch_options()
        )
        if proxy := proxy_before(hub.endpoint):
            log.warning(
                "%s is reached through the proxy %s alone: all who use that share one quota",
                hub.name,
                proxy,
            )
        return hub

    def _lack(self) -> str:
        """Tell why the directory as it is can't be used."""
        record, asked = read_record(self.directory), self.selection
        if record is not None and record.fits(asked, self.world.run_id):
            return f"files that the ready record in {self.directory.home} speaks of are missing or were changed"
        rows = "all rows" if asked.sample_count is None else f"{asked.sample_count:,} rows"
        of = f"{asked.repo_id}, split {asked.split}, revision {asked.revision or 'any'}: {rows} with {asked.caption_key}"
        return f"{self.directory.root} holds no ready record that fits ({of})"

    def plan(self) -> Value:
        """Tell what `run` would do now: downloads nothing but metadata.csv, writes nothing to the cache directory."""
        if record := self._ready(self.selection):
            return self._nothing_to_do(record, 0)
        hub = self._hub()
        commit = hub.resolve(self.selection.revision or "main")
        if record := self._ready(replace(self.selection, revision=commit)):
            return self._nothing_to_do(record, hub.requests)
        listing = hub.list_files(commit, self.selection.split)
        with tempfile.TemporaryDirectory() as scratch:
            directory = CacheDirectory(Path(scratch), self.selection.split)
            directory.make()
            with contextlib.closing(Workers(directory)) as workers:
                survey = Planner(self.task, hub, workers, ProgressTracker()).survey(
                    commit, listing, directory
                )
        return {
            "repo_id": self.selection.repo_id,
            "commit": commit,
            "cache_dir": str(self.directory.root),
            "rows": survey.plan.rows,
            "files": survey.plan.files,
            "fetch": len(survey.plan.fetch),
            "bytes": survey.plan.bytes,
            "mode": "in bulk, from its Parquet conversion"
            if survey.shards
            else "one for each file",
            "requests": hub.requests + survey.requests,
            "wait": survey.wait,
            "quota": _quota_json(survey.rate_limit),
            "warm": False,
        }

    def _nothing_to_do(self, record: Record, requests: int) -> Value:
        rows = [*rows_of(self.directory, self.selection)]
        count = {"rows": len(rows), "files": len({row.file_name for row in rows})}
        where = {
            "repo_id": record.repo_id,
            "commit": record.commit,
            "cache_dir": str(self.directory.root),
        }
        nothing = {
            "fetch": 0,
            "bytes": 0,
            "mode": "nothing to fetch",
            "wait": 0,
            "quota": None,
            "warm": True,
        }
        return {**where, **count, **nothing, "requests": requests}

    def verify(self, tell: Callable[[Value], None], *, repair: bool = False) -> Value:
        """Hash every file of the directory again; tell what is missing, wrong, and foreign, which is no file of the commit.

        Raises `CacheDamaged` if anything is missing or wrong; with ``repair`` just that is fetched
        again. ``tell`` gets what was found, whatever is raised.
        """
        manifest = read_manifest(self.directory)
        if not manifest or read_record(self.directory) is None:
            what = "ready record" if manifest else "manifest"
            raise FolderNotUsable(
                f"{self.directory.home} has no {what} of {self.directory.split} that can be read: run warmup first"
            )
        scan = self.directory.scan()
        like = {name: proof.digest for name, proof in manifest.items() if name in scan}
        right = verify_files(self.directory, scan, like)
        missing = sorted(manifest.keys() - scan.keys())
        wrong = sorted(like.keys() - right.keys())
        foreign = sorted(scan.keys() - manifest.keys())
        found = {
            "files": len(manifest),
            "missing": missing,
            "wrong": wrong,
            "foreign": foreign,
            "repaired": 0,
        }
        try:
            if missing or wrong:
                told = self._damage(found)
                if not repair:
                    raise CacheDamaged(f"{told}: verify --repair fetches just these")
                log.warning("%s", told)
                self._repair([*missing, *wrong])
                found["repaired"] = self.done.fetched.files
        finally:
            tell(found)
        return found

    def _damage(self, found: Value) -> str:
        missing, wrong = found["missing"], found["wrong"]
        kinds = (
            listed((f"{name} is missing" for name in missing), more=_MORE),
            listed((f"{name} has wrong bytes" for name in wrong), more=_MORE),
        )
        named = ", ".join(filter(None, kinds))
        count = f"{len(missing):,} of {found['files']:,} files are missing and {len(wrong):,} wrong"
        return f"{count} in {self.directory.files}: {named}"

    def _repair(self, names: list[str]) -> None:
        record = read_record(self.directory)
        if record is None or record.repo_id != self.settings.repo_id:
            held = f"a record of {record.repo_id}" if record else "no ready record"
            raise FolderNotUsable(
                f"{self.directory.home} has {held}, so {self.settings.repo_id} can't be repaired: run warmup"
            )
        hub = self._hub()
        listing = hub.list_files(record.commit, self.directory.split)
        self.directory.make()

        def go_on(holder: str) -> bool:
            log.info("waiting for the lease, which is held on %s", holder)
            return True

        lease = self._lease(go_on)
        assert lease is not None  # noqa: S101 - it waits as long as it takes
        with lease:
            Downloader(self.task, hub, lease, ProgressTracker()).repair(record, listing, names)

    # --- the steps ---

    def _look(self, this_run_only: bool) -> Value | None:
        record = None
        with contextlib.suppress(TransientError):  # a look that fails sees nothing
            record = read_record(self.directory)
        if record is None or not record.fits(self.selection, self.world.run_id):
            return None
        if this_run_only and not record.names(self.world.run_id):
            return None
        # Then this node doesn't show what the record speaks of
        with contextlib.suppress(TransientError):
            return self._accepted(self._warm_result(record))
        return None

    def _ready(self, selection: Selection) -> Record | None:
        """Give a record that fits while all it speaks of lies there; adds this run to it, where that can be done at once."""
        record = read_record(self.directory)
        if record is None or not record.fits(selection, self.world.run_id):
            return None
        if not is_complete(self.directory, record, check="all" if self.closely else "names"):
            return None
        if self.world.run_id is not None and not record.names(self.world.run_id):
            # A reader of a directory that others fill
            with contextlib.suppress(FolderNotUsable, TransientError):
                self._confirm_run()
        return record

    def _confirm_run(self) -> None:
        self.directory.refuse_links()
        lease = self._lease(lambda _: False)
        if lease is not None:
            with lease:
                self.directory.sweep()
                record = read_record(self.directory)
                if record is not None:
                    write_record(self.directory, record.confirmed_by(self.world.run_id))

    def _lease(
        self, waiting: Callable[[str], bool], progress: Callable[[], Progress | None] = lambda: None
    ) -> Lease | None:
        claim = Claim(
            run=self.world.run_id, rank=self.world.rank, host=self.world.host, pid=os.getpid()
        )
        return take(
            self.directory, claim, _LEASE_BEATS * self.timeouts.heartbeat, waiting, progress
        )

    def _warm_result(self, record: Record) -> Value:
        coverage, count = record.captions[self.selection.caption_key], self.selection.sample_count
        rows = coverage.rows if count is None else min(count, coverage.rows)
        skipped = skipped_rows(self.directory, record, self.selection)
        return result_of(
            Done(hub=self.done.hub, commit=record.commit), rows, warm=True, skipped=skipped
        )


def _quota_json(limit: RateLimit | None) -> Value | None:
    """Return the rate limit as `plan --json` names its parts."""
    if limit is None:
        return None
    return {
        "left": limit.remaining,
        "reset": limit.reset,
        "limit": limit.limit,
        "window": limit.window,
    }
