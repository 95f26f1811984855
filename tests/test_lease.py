"""The lease: one downloader per directory, without trust in clocks or locks."""

import json
import logging
import os
import threading
import time
from pathlib import Path

import pytest

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.lease import Claim, Lease, take
from step37_flickr8k.errors import FolderFull, LeaseLost
from tests.conftest import MakeTmpfs

TIMEOUT = 1.0


@pytest.fixture
def directory(cache: Path) -> CacheDirectory:
    made = CacheDirectory(cache, "train")
    made.make()
    return made


def claim(rank: int = 0, run: str | None = None) -> Claim:
    return Claim(run=run, rank=rank, host="n1", pid=os.getpid())


def take_now(directory: CacheDirectory, who: Claim) -> Lease:
    lease = take(directory, who, TIMEOUT, lambda _: False)
    assert lease is not None
    return lease


def leases(directory: CacheDirectory) -> list[str]:
    return sorted(name for name in os.listdir(directory.home) if ".lease." in name)


def test_one_of_many_gets_it(directory: CacheDirectory) -> None:
    """Of sixteen that ask at once one gets it; the others may stop waiting at any time."""
    got: list[Lease | None] = []
    threads = [
        threading.Thread(
            target=lambda n=n: got.append(take(directory, claim(n), TIMEOUT, lambda _: False))
        )
        for n in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lease is not None for lease in got) == 1
    assert leases(directory) == ["train.lease.1"]


def test_who_waits_gets_it_after_its_end(directory: CacheDirectory) -> None:
    """A released lease passes to who waits, as the next generation; the old one's file is gone."""
    told: list[str] = []

    def wait() -> None:
        waiter.append(take(directory, claim(1), TIMEOUT, go_on))

    def go_on(holder: str) -> bool:
        told.append(holder)
        waiting.set()
        return True

    waiter: list[Lease | None] = []
    waiting = threading.Event()
    thread = threading.Thread(target=wait)
    with take_now(directory, claim()):
        thread.start()
        assert waiting.wait(120)
    thread.join(120)
    assert waiter[0] is not None
    assert leases(directory) == ["train.lease.2"]
    assert told[0] == "n1 (rank 0, run None)"


def test_a_silent_holder_is_taken_over_and_stops_before_its_next_rename(
    directory: CacheDirectory,
) -> None:
    """A holder that has not beaten for the timeout loses the lease; when it thaws, its check says so."""
    frozen = take_now(directory, claim())  # never entered: it doesn't beat
    start = time.monotonic()
    assert take(directory, claim(1), TIMEOUT, lambda _: True) is not None
    assert time.monotonic() - start > 0.9
    with pytest.raises(LeaseLost):
        frozen.check()


def test_a_beating_holder_keeps_it_for_long(directory: CacheDirectory) -> None:
    """As long as it beats, a holder may work for many timeouts."""
    timeout = 4.0  # of which a starved machine may take some for a beat
    until = time.monotonic() + 2.5 * timeout
    lease = take(directory, claim(), timeout, lambda _: False)
    assert lease is not None
    with lease:
        assert take(directory, claim(1), timeout, lambda _: time.monotonic() < until) is None
        lease.check()


def test_the_same_rank_of_the_same_run_takes_over_at_once(directory: CacheDirectory) -> None:
    """A restarted rank 0 doesn't wait for its own dead past."""
    take_now(directory, claim(run="slurm-1.0"))
    assert take(directory, claim(run="slurm-1.0"), 1e6, lambda _: False) is not None
    assert take(directory, claim(run="slurm-2.0"), 1e6, lambda _: False) is None


def test_a_failure_reaches_those_of_the_same_run_who_wait(directory: CacheDirectory) -> None:
    """One try is enough for all processes of a run; another run tries for itself."""
    outcomes: dict[str, object] = {}
    waiting = threading.Event()

    def go_on(_: str) -> bool:
        waiting.set()
        return True

    def wait(name: str, who: Claim) -> None:
        try:
            outcomes[name] = take(directory, who, 30, go_on)
        except FolderFull as error:
            outcomes[name] = str(error)

    waiter = threading.Thread(target=wait, args=("same", claim(1, "a")))

    def fail() -> None:
        with take_now(directory, claim(run="a")):
            waiter.start()
            assert waiting.wait(120)
            raise FolderFull("no space left")

    with pytest.raises(FolderFull):
        fail()
    waiter.join(120)
    assert outcomes["same"] == "no space left"
    assert take(directory, claim(run="b"), 30, lambda _: True) is not None


@pytest.mark.parametrize("failure", [None, "full", {}, {"error": "FolderFull"}], ids=str)
def test_a_failure_without_words_is_an_end_like_others(
    directory: CacheDirectory, failure: object
) -> None:
    """A failed lease that a hand has been at tells nobody why: the next one takes over."""
    take_now(directory, claim(run="a"))
    held = directory.home / "train.lease.1"
    held.write_text(
        json.dumps(json.loads(held.read_text()) | {"state": "failed", "failure": failure})
    )
    assert take(directory, claim(1, "a"), 30, lambda _: False) is not None


def test_a_lease_read_in_the_middle_of_a_beat_is_held(directory: CacheDirectory) -> None:
    """Half a beat is no end."""
    take_now(directory, claim())
    (directory.home / "train.lease.1").write_text('{"state": "rel')
    assert take(directory, claim(1), 30, lambda _: False) is None


def test_a_beat_that_fails_is_tried_again(
    directory: CacheDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    """A file system that refuses a beat for a moment costs a warning."""
    path, away = directory.home / "train.lease.1", directory.home / "away"
    with take_now(directory, claim()) as lease, caplog.at_level(logging.WARNING):
        with lease._lock:  # a beat between the two steps would find no lease, and believe it lost
            path.rename(away)
            path.mkdir()
        deadline = time.monotonic() + 120
        while "beat failed" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.02)
        with lease._lock:
            path.rmdir()
            away.rename(path)
        lease.check()
    assert "beat failed" in caplog.text
    assert json.loads((directory.home / "train.lease.1").read_text())["state"] == "released"


def test_a_lease_ends_on_a_full_disk(tmpfs: MakeTmpfs) -> None:
    """On a disk without a free block the end, with its reason, is still written; what doesn't fit is FolderFull, never NULs."""
    small = tmpfs("size=64k").path
    directory = CacheDirectory(small, "train")
    directory.make()
    lease = take_now(directory, claim())
    with (small / "ballast").open("wb", buffering=0) as ballast:
        while os.statvfs(small).f_bavail:
            ballast.write(bytes(4096))
    with pytest.raises(FolderFull), lease:
        raise FolderFull("no space left" * 1000)
    end = json.loads((directory.home / "train.lease.1").read_bytes())
    assert (end["state"], end["failure"]["error"]) == ("failed", "FolderFull")
    with pytest.raises(FolderFull, match="free space"):
        directory.rewrite("train.lease.1", b"x" * 10_000)
    assert b"\0" not in (directory.home / "train.lease.1").read_bytes()
