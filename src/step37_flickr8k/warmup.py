"""The orchestration: plan, fetch, publish, share, read."""

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from step37_flickr8k.errors import (
    CacheDamaged,
    EmptySelection,
    FolderNotUsable,
    InvalidSettings,
    Step37Error,
    TransientError,
)
from step37_flickr8k.fetch import Arrived, Quota, Source, Tally, fetch, fetch_bulk
from step37_flickr8k.folder import CacheFolder, Entry, digest_of
from step37_flickr8k.group import Group, Patience, Progress, share
from step37_flickr8k.hub import Hub, is_commit
from step37_flickr8k.images import Decoders, why_undecodable
from step37_flickr8k.lease import Claim, Lease, take
from step37_flickr8k.node import local_file_system, proxy_before
from step37_flickr8k.parquet import is_available, preload
from step37_flickr8k.plan import METADATA, Listing, Plan, RemoteFile, Row, Selection, decide, read_rows
from step37_flickr8k.record import (
    Coverage,
    Proven,
    Record,
    read_manifest,
    read_record,
    read_selected,
    remove_record,
    unchanged,
    wait_until_visible,
    write_manifest,
    write_record,
)
from step37_flickr8k.settings import WarmupSettings
from step37_flickr8k.world import World

__all__ = ["Survey", "Warmup"]

log = logging.getLogger("step37_flickr8k")

Value = dict[str, Any]
_LEASE_BEATS = 4  # heartbeat timeouts without a change of the lease's bytes: NFS may show old ones for a minute
_HASHERS = 8  # threads
_MANY = 100  # images: for fewer the Parquet conversion isn't looked for


@dataclass(frozen=True)
class Survey:
    """What the Hub has, what the folder holds, and so what there is to do."""

    commit: str
    listing: Listing
    proven: dict[str, Proven]
    metadata: Path
    plan: Plan
    shards: Sequence[RemoteFile] = ()  # of the Parquet conversion, if it is to be read
    quota: Quota | None = None  # as the Hub told it last

    @property
    def requests(self) -> int:
        """Requests for files: all of them, but a few when they come in bulk."""
        return 3 * len(self.shards) + 3 if self.shards else len(self.plan.fetch)

    @property
    def wait(self) -> float:
        """Seconds that the quota will make it wait."""
        return self.quota.wait(self.requests) if self.quota else 0.0


@dataclass(frozen=True)
class Warmup:
    """One job: its settings and this process's place in it."""

    settings: WarmupSettings
    world: World

    @cached_property
    def selection(self) -> Selection:
        """What is asked for; offline a branch or tag is whatever the cache holds."""
        names = ("repo_id", "split", "caption_key", "sample_count", "revision")
        asked = Selection(**{name: getattr(self.settings, name) for name in names})
        return replace(asked, revision=None) if self.settings.offline and not is_commit(asked.revision) else asked

    @cached_property
    def folder(self) -> CacheFolder:
        """Where it goes."""
        return CacheFolder(self.settings.cache_dir.absolute(), self.settings.split)

    @cached_property
    def patience(self) -> Patience:
        """How long silence may last."""
        names = ("arrival", "heartbeat", "stall", "visibility")
        return Patience(**{name: getattr(self.settings, f"{name}_timeout") for name in names})

    def run(self, group: Group, watch: Callable[[Value], None] = lambda _: None) -> tuple[Value, list[Row]]:
        """Warm the cache and read the selection on every rank; gives rank 0's report and this rank's rows."""
        if self.settings.cache_scope == "shared":
            return self._share(group, watch)
        agreed = share(group, self._agree, watch=watch, arguments=self._arguments(), patience=self.patience)
        pinned = Warmup(self.settings.model_copy(update={"revision": agreed["commit"]}), self.world)
        problem: Exception | None = None
        if group.rank != 0:  # each node's own lease elects its downloader; rank 0 is that of its node, or waits for it
            try:
                pinned.warm(Progress(watch))
            except (Step37Error, OSError) as error:
                problem = error
        return pinned._share(group, watch, problem)

    def _share(self, group: Group, watch: Callable[[Value], None], problem: Exception | None = None) -> tuple[Value, list[Row]]:
        rows: list[Row] = []

        def confirm(result: Value) -> None:
            if problem is not None:
                raise problem
            record = wait_until_visible(self.folder, self.selection, result["commit"], self.patience.visibility)
            rows[:] = read_selected(self.folder, record, self.selection)
            if not rows:
                raise EmptySelection(f"no image of the selection in {self.folder.files} can be decoded: choose another split")

        ways: dict[str, Any] = {"confirm": confirm, "look": self._look, "watch": watch}
        result = share(group, self.warm, arguments=self._arguments(), patience=self.patience, **ways)
        if not rows:  # after a last look nobody has asked this rank to confirm
            confirm(result)
        return result, rows

    def _arguments(self) -> Value:
        return {**vars(self.selection), "cache_dir": str(self.settings.cache_dir)}

    def _agree(self, _: Progress) -> Value:
        """Give the commit that all nodes fetch: what is asked for, else what rank 0's node holds, else ``main``."""
        record = read_record(self.folder)
        if record is not None and record.fits(self.selection, self.world.run):
            return {"commit": record.commit}
        return {"commit": self._hub().resolve(self.selection.revision or "main")}

    def warm(self, progress: Progress) -> Value:
        """Do rank 0's work: nothing if a ready record fits, else fill the folder as the holder of its lease."""
        if found := self._ready(self.selection):
            return self._warm_result(found)
        progress("listing")
        hub = self._hub()
        count, mode = self.selection.sample_count, self.settings.fetch_mode
        if mode != "files" and (count is None or count >= _MANY) and is_available():
            preload()
        commit = hub.resolve(self.selection.revision or "main")
        wanted = replace(self.selection, revision=commit)
        if found := self._ready(wanted):
            return self._warm_result(found, hub.requests)
        listing = hub.list_files(commit, self.selection.split)
        self._warn_of_local_folder()
        self.folder.make()

        def go_on(holder: str) -> bool:
            progress(f"waiting for the lease, which is held on {holder}")
            return self._ready(wanted) is None

        lease = self._lease(go_on)
        if lease is None:
            return self.warm(progress)
        with lease:
            return _Filling(self, hub, lease, progress).run(commit, listing)

    def _warn_of_local_folder(self) -> None:
        """Say early what would end as NotVisible late; only a warning, since this node may be the one that exports the folder."""
        several = self.settings.cache_scope == "shared" and (self.world.nodes or 1) > 1
        if several and (kind := local_file_system(self.folder.root)):
            told = "%s is on %s, which other nodes can't see, and there are %d: choose one that they share, or cache_scope=node"
            log.warning(told, self.folder.root, kind, self.world.nodes)

    def survey(self, hub: Hub, commit: str, listing: Listing, scratch: CacheFolder, progress: Progress) -> Survey:
        """Decide what to fetch; a metadata.csv that isn't in the folder yet is fetched into ``scratch``."""
        scan = self.folder.scan()
        same_size = {n: listing[n].digest for n, entry in scan.items() if n in listing and listing[n].size == entry.size}
        proven = unchanged(read_manifest(self.folder), scan)

        def prove(names: Iterable[str]) -> None:
            hashed = self._hash(scan, {name: same_size[name] for name in names if name in same_size and name not in proven})
            proven.update({name: proof for name, proof in hashed.items() if proof.digest == same_size[name]})

        progress("reading the metadata")
        prove([METADATA])
        in_place = METADATA in proven and proven[METADATA].digest == listing[METADATA].digest
        quota = Quota(hub.quota, 0, hub.quota, 300) if hub.quota else None
        metadata = self.folder.files / METADATA
        if not in_place:
            metadata, told = self._fetch_metadata(hub, commit, listing, scratch, progress)
            quota = told or quota
        plan = self._decide(metadata, listing, proven)
        progress("verifying", files=len(plan.fetch))
        prove(file.name for file in plan.fetch)
        plan = self._decide(metadata, listing, proven)
        return Survey(commit, listing, proven, metadata, plan, self._shards(hub, plan), quota)

    def _shards(self, hub: Hub, plan: Plan) -> Sequence[RemoteFile]:
        """Decide whether the images come in bulk: give the Parquet files to read, if they do."""
        mode = self.settings.fetch_mode
        if mode == "parquet" and not is_available():
            raise InvalidSettings("fetch_mode=parquet needs pyarrow: pip install 'step37-flickr8k[parquet]', or choose auto")
        if mode == "files" or not is_available() or len(plan.fetch) < (_MANY if mode == "auto" else 1):
            return ()
        shards = hub.list_parquet(self.selection.split)
        if mode == "parquet" and not shards:
            told = f"{hub.name} has no Parquet conversion of {self.selection.split}"
            raise InvalidSettings(f"fetch_mode=parquet, but {told}: choose auto or files")
        return shards if mode == "parquet" or 2 * plan.bytes >= sum(shard.size for shard in shards) else ()

    def _hub(self) -> Hub:
        if self.settings.offline:
            told = f"{self.folder.root} holds no ready record that fits {self.selection}"
            raise InvalidSettings(f"offline is set (HF_HUB_OFFLINE?), but {told}: run warmup once with the network")
        hub = Hub(self.settings)
        if proxy := proxy_before(hub.endpoint):
            log.warning("%s is reached through the proxy %s alone: all who use that share one quota", hub.name, proxy)
        return hub

    def plan(self) -> Value:
        """Tell what `run` would do now: downloads nothing but metadata.csv, writes nothing to the cache folder."""
        if self.settings.offline and (record := self._ready(self.selection)):
            rows = self._warm_result(record)["rows"]
            nothing = {"files": rows, "fetch": 0, "bytes": 0, "requests": 0, "wait": 0, "quota": None, "warm": True}
            where = {"repo_id": record.repo_id, "commit": record.commit, "cache_dir": str(self.folder.root)}
            return {**where, "rows": rows, "mode": "offline", **nothing}
        hub = self._hub()
        commit = hub.resolve(self.selection.revision or "main")
        listing = hub.list_files(commit, self.selection.split)
        with tempfile.TemporaryDirectory() as scratch:
            folder = CacheFolder(Path(scratch), self.selection.split)
            folder.make()
            survey = self.survey(hub, commit, listing, folder, Progress())
        requests = hub.requests + survey.requests
        ready = self._ready(replace(self.selection, revision=commit)) is not None
        return {
            "repo_id": self.selection.repo_id,
            "commit": commit,
            "cache_dir": str(self.folder.root),
            "rows": survey.plan.rows,
            "files": survey.plan.files,
            "fetch": len(survey.plan.fetch),
            "bytes": survey.plan.bytes,
            "mode": "in bulk, from its Parquet conversion" if survey.shards else "one for each file",
            "requests": 1 if ready else requests,
            "wait": survey.wait,
            "quota": survey.quota and vars(survey.quota),
            "warm": ready,
        }

    def verify(self) -> Value:
        """Hash every file of the folder again; raises `CacheDamaged` if one is missing or wrong."""
        manifest = read_manifest(self.folder)
        if not manifest:
            raise FolderNotUsable(f"{self.folder.home} has no manifest of {self.folder.split}: run warmup first")
        scan = self.folder.scan()
        hashed = self._hash(scan, {name: proof.digest for name, proof in manifest.items() if name in scan})
        missing = sorted(manifest.keys() - scan.keys())
        wrong = sorted(name for name, proof in hashed.items() if proof.digest != manifest[name].digest)
        foreign = sorted(scan.keys() - manifest.keys())
        result = {"files": len(manifest), "missing": missing, "wrong": wrong, "foreign": foreign}
        if missing or wrong:
            named = ", ".join([*(f"{name} is missing" for name in missing), *(f"{name} has wrong bytes" for name in wrong)][:8])
            told = f"{len(missing)} of {len(manifest)} files are missing and {len(wrong)} wrong in {self.folder.files}"
            raise CacheDamaged(f"{told}: {named}: delete the wrong ones and run warmup again")
        return result

    # --- the steps ---

    def _look(self, this_run_only: bool) -> Value | None:
        record = read_record(self.folder)
        if record is None or not record.fits(self.selection, self.world.run):
            return None
        if this_run_only and not record.names(self.world.run):
            return None
        return self._warm_result(record)

    def _ready(self, selection: Selection) -> Record | None:
        """Give a record that fits while all it speaks of lies there; adds this run to it, where that can be done at once."""
        record = read_record(self.folder)
        if record is None or not record.fits(selection, self.world.run):
            return None
        manifest = read_manifest(self.folder)
        if not manifest or unchanged(manifest, self.folder.scan()) != manifest:
            return None
        if self.world.run is not None and not record.names(self.world.run):
            with contextlib.suppress(FolderNotUsable, TransientError):  # a reader of a folder that others fill
                self._confirm_run()
        return record

    def _confirm_run(self) -> None:
        lease = self._lease(lambda _: False)
        if lease is not None:
            with lease:
                record = read_record(self.folder)
                if record is not None:
                    write_record(self.folder, record.confirmed_by(self.world.run))

    def _lease(self, waiting: Callable[[str], bool]) -> Lease | None:
        claim = Claim(run=self.world.run, rank=self.world.rank, host=self.world.host, pid=os.getpid())
        return take(self.folder, claim, _LEASE_BEATS * self.patience.heartbeat, waiting)

    def _warm_result(self, record: Record, requests: int = 0) -> Value:
        coverage, count = record.captions[self.selection.caption_key], self.selection.sample_count
        rows = coverage.rows if count is None else min(count, coverage.rows)
        return _result(record.commit, rows, Tally(requests=requests), {}, warm=True, skipped=record.skipped)

    def _fetch_metadata(
        self, hub: Hub, commit: str, listing: Listing, scratch: CacheFolder, progress: Progress
    ) -> tuple[Path, Quota | None]:
        kept: list[Path] = []
        source = Source(base=hub.base(commit, self.selection.split), headers=hub.headers())
        tally = fetch(
            *([listing[METADATA]], source, scratch, lambda batch: kept.extend(arrived.temporary for arrived in batch)),
            settings=self.settings,
            progress=lambda *_, **__: progress("reading the metadata"),
        )
        hub.requests += tally.requests
        return kept[0], tally.quota

    def _decide(self, metadata: Path, listing: Listing, proven: Mapping[str, Proven]) -> Plan:
        with metadata.open(encoding="utf-8-sig", newline="") as lines:
            return decide(read_rows(lines, self.selection), listing, {n: p.digest for n, p in proven.items()})

    def _hash(self, scan: Mapping[str, Entry], like: Mapping[str, str]) -> dict[str, Proven]:
        """Hash files of the folder side by side, each in the manner of the digest given."""

        def prove(name: str) -> Proven:
            path = self.folder.files / name
            flaw = why_undecodable(path) if name != METADATA else None
            return Proven(scan[name].size, digest_of(path, like[name]), scan[name].mtime_ns, flaw or "")

        with ThreadPoolExecutor(_HASHERS) as pool:
            return dict(zip(like, pool.map(prove, like), strict=True))


class _Filling:
    """Fills the folder while its lease is held."""

    def __init__(self, job: Warmup, hub: Hub, lease: Lease, progress: Progress) -> None:
        self._job = job
        self._folder = job.folder
        self._hub = hub
        self._lease = lease
        self._progress = progress
        self._phases = _Phases()
        self._decoders = Decoders()

    def run(self, commit: str, listing: Listing) -> Value:
        """Plan, fetch, publish; gives the report. Whatever ends it, nothing unfinished stays."""
        self._folder.sweep()
        try:
            if len(listing) > _MANY and (self._job.selection.sample_count or _MANY) >= _MANY:
                self._decoders.start()
            return self._fill(commit, listing)
        finally:
            self._decoders.close()
            self._folder.clear_up()

    def _fill(self, commit: str, listing: Listing) -> Value:
        folder, phases = self._folder, self._phases
        with phases.of("planning"):
            survey = self._job.survey(self._hub, commit, listing, folder, self._progress)
        before = self._record_before(survey)
        lost = self._lost(before, survey)
        count, size = len(survey.plan.fetch) + len(lost), survey.plan.bytes + sum(file.size for file in lost)
        folder.check_space(size, count)
        log.info("fetching %d of %d files, %.1f MB, at commit %s", count, survey.plan.files, size / 1e6, commit)
        if survey.wait:
            log.info("the Hub's quota will make this wait %.0f s for %d requests", survey.wait, survey.requests)
        with phases.of("fetching"):
            tally = self._fetch(lost, survey)
        with phases.of("publishing"):
            self._progress("publishing")
            record = self._publish(survey, before)
        tally.requests += self._hub.requests
        skipped = {name: why for name, why in record.skipped.items() if name in survey.listing}
        return _result(commit, survey.plan.rows, tally, phases.seconds, warm=False, skipped=skipped)

    def _record_before(self, survey: Survey) -> Record | None:
        """Give the record to grow; one of another commit is taken away first: never a record over mixed files."""
        before = read_record(self._folder)
        repo_id = self._job.selection.repo_id
        if before is None or (before.commit, before.repo_id) == (survey.commit, repo_id):
            return before
        log.warning(
            "%s holds %s at commit %s and is being replaced by %s at %s: running readers may see new bytes; pin a revision, "
            "or use a folder per commit",
            *(self._folder.files, before.repo_id, before.commit, repo_id, survey.commit),
        )
        self._lease.check()
        remove_record(self._folder)
        return None

    def _lost(self, before: Record | None, survey: Survey) -> list[RemoteFile]:
        """Give what the record speaks of beyond this selection and is no longer there: it must not stay a promise."""
        if before is None:
            return []
        wanted = {file.name for file in survey.plan.fetch} | survey.proven.keys() | {METADATA}
        return [survey.listing[n] for n in read_manifest(self._folder) if n not in wanted and n in survey.listing]

    def _fetch(self, lost: list[RemoteFile], survey: Survey) -> Tally:
        def land(batch: Sequence[Arrived]) -> None:
            flaws = self._decoders.check([arrived.temporary for arrived in batch])
            for arrived, flaw in zip(batch, flaws, strict=True):
                self._lease.check()
                file = arrived.file
                entry = self._folder.publish(arrived.temporary, file.name)
                survey.proven[file.name] = Proven(entry.size, file.digest, entry.mtime_ns, flaw or "")

        hub, headers = self._hub, self._hub.headers()
        ways: dict[str, Any] = {"settings": self._job.settings, "progress": self._progress}
        tally, files = Tally(), survey.plan.fetch
        if survey.shards:
            bulk = Source(base=hub.parquet_base(), headers=headers)
            tally = fetch_bulk(survey.shards, files, bulk, self._folder, land, **ways)
            log.info("%d of %d files came in bulk, with %d requests", tally.files, len(files), tally.requests)
            files = [file for file in files if file.name not in survey.proven]
        source = Source(base=hub.base(survey.commit, self._job.selection.split), headers=headers)
        tally.add(fetch([*files, *lost] if lost else files, source, self._folder, land, **ways))
        return tally

    def _publish(self, survey: Survey, before: Record | None) -> Record:
        """Name metadata.csv, flush, then the manifest, and the ready record last."""
        folder, selection, digest = self._folder, self._job.selection, survey.listing[METADATA].digest
        self._lease.check()
        if survey.metadata != folder.files / METADATA:
            entry = folder.publish(survey.metadata, METADATA)
            survey.proven[METADATA] = Proven(entry.size, digest, entry.mtime_ns)
        folder.flush()
        rows, count = survey.plan.rows, selection.sample_count
        coverage = Coverage(rows, everything=count is None or rows < count)
        record = before or Record(repo_id=selection.repo_id, commit=survey.commit, metadata=digest, captions={})
        record = record.grown(selection.caption_key, coverage, survey.proven).confirmed_by(self._job.world.run)
        self._lease.check()
        write_manifest(folder, survey.proven)
        write_record(folder, record)
        return record


@dataclass
class _Phases:
    """Seconds per phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - start, 3)


def _result(
    commit: str, rows: int, tally: Tally, seconds: Mapping[str, float], *, warm: bool, skipped: Mapping[str, str]
) -> Value:
    return {
        "commit": commit,
        "warm": warm,
        "rows": rows,
        "files": tally.files,
        "bytes": tally.bytes,
        "requests": tally.requests,
        "retries": dict(tally.retries),
        "seconds": dict(seconds),
        "skipped": dict(skipped),
    }
