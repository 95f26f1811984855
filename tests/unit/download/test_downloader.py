"""The order of a download: files, manifest, ready record; and the repair of named files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.manifest import read_manifest, unchanged
from step37_flickr8k.cache.record import Coverage, Record, read_record
from step37_flickr8k.cache.scan import Entry
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.progress import ProgressTracker
from step37_flickr8k.download.downloader import Downloaded, Downloader
from step37_flickr8k.errors import CommitChanged, FolderFull, FolderNotUsable
from step37_flickr8k.job.run import Run
from step37_flickr8k.job.task import Task
from step37_flickr8k.localhub import LocalHub
from step37_flickr8k.settings import WarmupSettings
from tests.conftest import picture


def run_of(hub: LocalHub, cache: Path, sample_count: int | None = None) -> Run:
    settings = WarmupSettings(endpoint=hub.endpoint, cache_dir=cache, sample_count=sample_count)
    return Run(Task.from_settings(settings), World())


def download(run: Run) -> Downloaded:
    """Download the commit that main points to now."""
    hub = run.hub()
    commit = hub.resolve("main")
    listing = hub.list_files(commit, "train")
    run.directory.make()
    lease = run.take_lease(lambda _: False)
    assert lease is not None
    with lease:
        return Downloader(run.download_task, hub, lease, ProgressTracker()).run(commit, listing)


def repair(run: Run, record: Record, *names: str) -> None:
    hub = run.hub()
    listing = hub.list_files(record.commit, "train")
    lease = run.take_lease(lambda _: False)
    assert lease is not None
    with lease:
        Downloader(run.download_task, hub, lease, ProgressTracker()).repair(record, listing, names)


def fetched(hub: LocalHub) -> list[str]:
    """Return the names of the files that were fetched, then forget the requests."""
    names = sorted(request.repo_path.removeprefix("train/") for request in hub.file_requests())
    hub.clear_requests()
    return names


@pytest.fixture
def before_publish(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], None]], None]:
    """Return what has a function called with each name that is about to be published."""

    def install(hook: Callable[[str], None]) -> None:
        publish = CacheDirectory.publish

        def hooked(self: CacheDirectory, temporary: Path, name: str) -> Entry:
            hook(name)
            return publish(self, temporary, name)

        monkeypatch.setattr(CacheDirectory, "publish", hooked)

    return install


BeforePublish = Callable[[Callable[[str], None]], None]


class Failing:
    """Raises `FolderFull` when a file after the first few is to be published."""

    def __init__(self, good: int) -> None:
        self.names: list[str] = []
        self._good = good

    def __call__(self, name: str) -> None:
        if len(self.names) == self._good:
            raise FolderFull("no space left")
        self.names.append(name)


def test_a_download_covers_what_was_selected(hub: LocalHub, cache: Path) -> None:
    """The record that is returned is the one on disk; the manifest names every verified file."""
    run = run_of(hub, cache, sample_count=5)
    downloaded = download(run)
    record = read_record(run.directory)
    assert (downloaded.record, downloaded.rows) == (record, 5)
    assert downloaded.record.commit == hub.commit
    assert downloaded.record.captions == {"caption_0": Coverage(5, everything=False)}
    names = {f"{number:04}.jpg" for number in range(5)} | {"metadata.csv"}
    manifest = read_manifest(run.directory)
    assert manifest.keys() == names
    assert unchanged(manifest, run.directory.scan()) == manifest


def test_the_record_is_written_last(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files have their final names before the manifest is written, and it before the record."""
    written: list[tuple[str, int]] = []
    write = CacheDirectory.write

    def noted(self: CacheDirectory, name: str, content: bytes) -> None:
        written.append((name, len(self.scan())))
        write(self, name, content)

    monkeypatch.setattr(CacheDirectory, "write", noted)
    download(run_of(hub, cache))
    order = [note for note in written if note[0] in {"train.manifest", "train.json"}]
    assert order == [("train.manifest", 13), ("train.json", 13)]


def test_a_download_that_fails_leaves_no_record_and_is_resumed(
    hub: LocalHub, cache: Path, before_publish: BeforePublish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When publishing fails nothing unfinished stays, and the next run fetches only the rest."""
    failing = Failing(4)
    before_publish(failing)
    with pytest.raises(FolderFull):
        download(run_of(hub, cache))
    directory = run_of(hub, cache).directory
    assert read_record(directory) is None
    assert directory.scan().keys() == {*failing.names}
    assert not list(directory.files.glob(".*"))
    monkeypatch.undo()
    fetched(hub)
    assert download(run_of(hub, cache)).rows == 12
    assert {*fetched(hub)} == {path.name for path in directory.files.iterdir()} - {*failing.names}


def test_a_new_commit_removes_the_record_before_files_are_replaced(
    hub: LocalHub, cache: Path, before_publish: BeforePublish
) -> None:
    """No file of the new commit is published while the old commit's record is there."""
    old = download(run_of(hub, cache)).record
    (hub.directory / "train" / "0003.jpg").write_bytes(picture(50))
    new = hub.refresh()
    directory = run_of(hub, cache).directory
    records: dict[str, Record | None] = {}
    before_publish(lambda name: records.update({name: read_record(directory)}))
    assert read_record(directory) == old
    assert download(run_of(hub, cache)).record.commit == new
    assert records == {"0003.jpg": None}


def test_a_new_commit_that_fails_leaves_no_record_over_mixed_files(
    hub: LocalHub, cache: Path, before_publish: BeforePublish
) -> None:
    """With one of two files replaced neither commit is recorded as ready."""
    download(run_of(hub, cache))
    for number in (3, 7):
        (hub.directory / "train" / f"{number:04}.jpg").write_bytes(picture(50 + number))
    hub.refresh()
    before_publish(Failing(1))
    with pytest.raises(FolderFull):
        download(run_of(hub, cache))
    assert read_record(run_of(hub, cache).directory) is None


def test_a_record_stays_while_its_own_commit_grows(
    hub: LocalHub, cache: Path, before_publish: BeforePublish
) -> None:
    """Further rows of the same commit replace nothing, so readers keep the narrower record."""
    narrow = download(run_of(hub, cache, sample_count=5)).record
    before_publish(Failing(2))
    with pytest.raises(FolderFull):
        download(run_of(hub, cache))
    assert read_record(run_of(hub, cache).directory) == narrow


def test_repair_fetches_the_named_files_alone(hub: LocalHub, cache: Path) -> None:
    """Damaged files that are named are fetched and their entries renewed; others stay as they are.

    A name that the commit doesn't hold is passed over.
    """
    run = run_of(hub, cache)
    record = download(run).record
    before, files = read_manifest(run.directory), run.directory.files
    (files / "0001.jpg").write_bytes(b"wrong")
    (files / "0002.jpg").unlink()
    (files / "0005.jpg").unlink()
    fetched(hub)
    repair(run_of(hub, cache), record, "0001.jpg", "0002.jpg", "gone.jpg")
    assert fetched(hub) == ["0001.jpg", "0002.jpg"]
    assert [(files / f"{number:04}.jpg").read_bytes() for number in (1, 2)] == [
        picture(1),
        picture(2),
    ]
    assert not (files / "0005.jpg").exists()
    after = read_manifest(run.directory)
    assert {name for name in after if after[name] != before[name]} == {"0001.jpg", "0002.jpg"}
    assert before.keys() - unchanged(after, run.directory.scan()).keys() == {"0005.jpg"}
    assert read_record(run.directory) == record


def test_repair_refuses_a_cache_that_changed_its_commit(hub: LocalHub, cache: Path) -> None:
    """When another commit was published meanwhile, no file of the old one is fetched."""
    old = download(run_of(hub, cache)).record
    (hub.directory / "train" / "0003.jpg").write_bytes(picture(50))
    hub.refresh(keep_old=True)
    new = download(run_of(hub, cache)).record
    fetched(hub)
    with pytest.raises(CommitChanged, match=f"no longer holds commit {old.commit}"):
        repair(run_of(hub, cache), old, "0001.jpg")
    assert fetched(hub) == []
    assert read_record(run_of(hub, cache).directory) == new


def test_a_directory_that_cannot_be_written_to_costs_no_request(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing is tried out before the first file is requested."""

    def refuse(*_: object) -> None:
        raise FolderNotUsable("read-only")

    monkeypatch.setattr("step37_flickr8k.download.downloader.try_out", refuse)
    with pytest.raises(FolderNotUsable):
        download(run_of(hub, cache))
    assert fetched(hub) == []
