"""Exclusive creation without hard links: one gets it, and nobody is blocked for ever."""

import errno
import itertools
import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from step37_flickr8k import prepare_flickr8k_samples
from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.lease import Claim, Wait, holder, take
from step37_flickr8k.errors import FolderFull
from step37_flickr8k.localhub import LocalHub
from tests.conftest import MakeTmpfs

NAMES = ["EPERM", "EACCES", "ENOSYS", "EOPNOTSUPP", "EMLINK", "EXDEV", "EINVAL"]
fork = multiprocessing.get_context("fork")


@pytest.fixture
def directory(cache: Path) -> CacheDirectory:
    made = CacheDirectory(cache, "train")
    made.make()
    return made


def without_links(monkeypatch: pytest.MonkeyPatch, name: str = "EPERM") -> None:
    """Refuse hard links in this process and in those that it forks."""
    number = getattr(errno, name)

    def refuse(source: str, _: str, **__: object) -> None:
        raise OSError(number, os.strerror(number), source)

    monkeypatch.setattr(os, "link", refuse)


def claim(rank: int = 0) -> Claim:
    return Claim.of_this_process(run=None, rank=rank, host="n1")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_system_without_hard_links_is_enough(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whatever error it refuses links with, the download is made, and its lease is whole."""
    assert hub.commit
    without_links(monkeypatch, name)
    assert len(prepare_flickr8k_samples(cache_dir=str(cache))) == 8
    lease = cache / ".step37-flickr8k" / "train.lease.1"
    assert lease.stat().st_size == 4096
    assert not list(lease.parent.glob("*.tmp"))


def test_another_error_of_a_link_is_raised(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EIO doesn't say that there are no links: the link may have been made."""
    without_links(monkeypatch, "EIO")
    with pytest.raises(Exception, match="Input/output error"):
        directory.create("x", b"content")
    assert os.listdir(directory.home) == []


def contend(root: Path, rank: int, start: Barrier, results: Path) -> None:
    """Take the lease once, hold it for a moment, say when."""
    directory = CacheDirectory(root, "train")
    start.wait(120)
    lease = take(directory, claim(rank), 60, lambda _: True)
    assert lease is not None
    with lease:
        begun = time.monotonic_ns()
        lease.check()
        time.sleep(0.01)
        (results / str(rank)).write_text(f"{begun} {time.monotonic_ns()}")


def test_many_processes_hold_it_one_after_the_other(
    directory: CacheDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve processes that begin at once all get it, and no two at the same time."""
    without_links(monkeypatch)
    monkeypatch.setattr("step37_flickr8k.cache.lease._LONGEST_POLL", 0.01)
    results = tmp_path / "results"
    results.mkdir()
    start = fork.Barrier(12)
    processes = [
        fork.Process(target=contend, args=(directory.root, rank, start, results))
        for rank in range(12)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
        assert process.exitcode == 0
    times = sorted(
        (int(begun), int(ended))
        for begun, ended in (path.read_text().split() for path in results.iterdir())
    )
    assert len(times) == 12
    for (_, ended), (begun, _) in itertools.pairwise(times):
        assert ended <= begun


@pytest.mark.parametrize("written", [b"", b'{"nonce": "5e", "sta'], ids=["empty", "half"])
def test_a_writer_killed_in_the_middle_blocks_nobody_for_ever(
    directory: CacheDirectory, written: bytes
) -> None:
    """An empty or half-written lease is held for the timeout, not longer, and names no holder."""
    (directory.home / "train.lease.1").write_bytes(written)
    assert holder(directory) is None
    waits: list[Wait] = []

    def go_on(wait: Wait) -> bool:
        waits.append(wait)
        return True

    start = time.monotonic()
    assert take(directory, claim(), 1.0, go_on) is not None
    assert time.monotonic() - start > 0.9
    assert {wait.holder for wait in waits} == {None}
    assert waits[0].left > waits[-1].left
    assert os.listdir(directory.home) == ["train.lease.2"]


def test_a_process_killed_between_create_and_write(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real SIGKILL after O_EXCL leaves an empty lease that the next process replaces."""
    without_links(monkeypatch)

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def take_and_die() -> None:
        monkeypatch.setattr("step37_flickr8k.cache.exclusive.fill", die)
        take(directory, claim(), 1.0, lambda _: True)

    process = fork.Process(target=take_and_die)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert (directory.home / "train.lease.1").read_bytes() == b""
    lease = take(directory, claim(), 1.0, lambda _: True)
    assert lease is not None
    with lease:
        directory.sweep()
    assert os.listdir(directory.home) == ["train.lease.2"]


def test_whoever_was_outrun_while_it_created_its_lease_does_not_hold_it(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that freezes before it creates generation 1 gives way to generation 2."""
    create = CacheDirectory.create

    def late(self: CacheDirectory, name: str, content: bytes) -> bool:
        monkeypatch.setattr(CacheDirectory, "create", create)
        (directory.home / "train.lease.2").write_bytes(b"held by a quicker one")
        return self.create(name, content)

    monkeypatch.setattr(CacheDirectory, "create", late)
    assert take(directory, claim(), 30, lambda _: False) is None
    assert os.listdir(directory.home) == ["train.lease.2"]


def test_a_lease_that_does_not_fit_is_not_left_behind(
    tmpfs: MakeTmpfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the creator deletes its empty file, so that nobody waits for it."""
    without_links(monkeypatch)
    directory = CacheDirectory(tmpfs("size=64k").path, "train")
    directory.make()
    with (directory.root / "ballast").open("wb", buffering=0) as ballast:
        while os.statvfs(directory.root).f_bavail > 1:
            ballast.write(bytes(4096))
    with pytest.raises(FolderFull):
        take(directory, claim(), 30, lambda _: False)
    assert os.listdir(directory.home) == []
