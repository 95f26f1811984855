"""The lease: one downloader per directory, without trust in clocks or locks."""

import json
import logging
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.lease import Claim, Lease, Wait, take
from step37_flickr8k.cache.lease_content import LeaseContent, read_lease
from step37_flickr8k.cluster.progress import Progress, State
from step37_flickr8k.errors import ErrorReport, FolderFull, LeaseLost
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
    """Of sixteen concurrent claims one succeeds; the others may stop waiting at any time."""
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


def test_a_waiting_process_gets_it_after_its_end(directory: CacheDirectory) -> None:
    """A released lease passes to a waiting process, as the next generation, and its file goes."""
    waits: list[Wait] = []

    def wait() -> None:
        taken.append(take(directory, claim(1), TIMEOUT, go_on))

    def go_on(wait: Wait) -> bool:
        waits.append(wait)
        asked.set()
        return True

    taken: list[Lease | None] = []
    asked = threading.Event()
    thread = threading.Thread(target=wait)
    with take_now(directory, claim()):
        thread.start()
        assert asked.wait(120)
    thread.join(120)
    assert taken[0] is not None
    assert leases(directory) == ["train.lease.2"]
    assert waits[0].holder is not None
    assert (waits[0].holder.host, waits[0].holder.pid) == ("n1", os.getpid())
    assert 0 < waits[0].left <= TIMEOUT


def test_a_silent_holder_is_taken_over_and_stops_before_its_next_rename(
    directory: CacheDirectory,
) -> None:
    """A holder without a heartbeat for the timeout loses the lease, and its `check` raises."""
    frozen = take_now(directory, claim())  # never entered: no heartbeats
    start = time.monotonic()
    assert take(directory, claim(1), TIMEOUT, lambda _: True) is not None
    assert time.monotonic() - start > 0.9
    with pytest.raises(LeaseLost):
        frozen.check()


def test_a_holder_with_heartbeats_keeps_it_for_long(directory: CacheDirectory) -> None:
    """As long as it sends heartbeats, a holder may work for many timeouts."""
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


def test_the_same_rank_of_the_same_run_elsewhere_waits_for_a_living_holder(
    directory: CacheDirectory,
) -> None:
    """Where RANK=0 was exported for all ranks, one on another node has the lease, and keeps it."""
    run, timeout = "slurm-1.0", 1e4
    elsewhere = replace(claim(run=run), host="n2")
    seen: set[int] = set()

    def go_on(wait: Wait) -> bool:
        assert wait.holder is not None
        assert wait.left <= timeout / 4
        seen.add(wait.holder.heartbeats)
        return len(seen) < 3

    lease = take(directory, claim(run=run), timeout, lambda _: False)
    assert lease is not None
    with lease:
        assert take(directory, elsewhere, timeout, go_on) is None
        lease.check()


def test_the_same_rank_of_the_same_run_elsewhere_waits_for_two_heartbeats_at_most(
    directory: CacheDirectory,
) -> None:
    """A rank 0 that was restarted on another node doesn't wait for the whole timeout."""
    take_now(directory, claim(run="slurm-1.0"))  # never entered: no heartbeats
    elsewhere = replace(claim(run="slurm-1.0"), host="n2")
    assert take(directory, elsewhere, 1e6, lambda _: False) is None
    assert take(directory, elsewhere, 1e6, lambda wait: wait.left <= TIMEOUT) is not None


def test_a_failure_reaches_waiting_processes_of_the_same_run(directory: CacheDirectory) -> None:
    """One attempt is enough for all processes of a run; another run makes its own."""
    outcomes: dict[str, object] = {}
    asked = threading.Event()

    def go_on(_: Wait) -> bool:
        asked.set()
        return True

    def wait(name: str, who: Claim) -> None:
        try:
            outcomes[name] = take(directory, who, 30, go_on)
        except FolderFull as error:
            outcomes[name] = str(error)

    waiting = threading.Thread(target=wait, args=("same", claim(1, "a")))

    def fail() -> None:
        with take_now(directory, claim(run="a")):
            waiting.start()
            assert asked.wait(120)
            raise FolderFull("no space left")

    with pytest.raises(FolderFull):
        fail()
    waiting.join(120)
    assert outcomes["same"] == "no space left"
    assert take(directory, claim(run="b"), 30, lambda _: True) is not None


@pytest.mark.parametrize("failure", [None, "full", {}, {"error": "FolderFull"}], ids=str)
def test_a_failure_without_a_message_is_an_end_like_others(
    directory: CacheDirectory, failure: object
) -> None:
    """A failed lease that was edited raises nothing: the next process takes over."""
    take_now(directory, claim(run="a"))
    held = directory.home / "train.lease.1"
    held.write_text(
        json.dumps(json.loads(held.read_text()) | {"state": "failed", "failure": failure})
    )
    assert take(directory, claim(1, "a"), 30, lambda _: False) is not None


def test_a_lease_read_in_the_middle_of_a_heartbeat_is_held(directory: CacheDirectory) -> None:
    """A lease that is half written has not ended."""
    take_now(directory, claim())
    (directory.home / "train.lease.1").write_text('{"state": "rel')
    assert take(directory, claim(1), 30, lambda _: False) is None


def test_a_heartbeat_that_fails_is_retried(
    directory: CacheDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    """A file system that refuses a heartbeat for a moment costs a warning."""
    path, away = directory.home / "train.lease.1", directory.home / "away"
    with take_now(directory, claim()) as lease, caplog.at_level(logging.WARNING):
        with (
            lease._lock
        ):  # or a heartbeat between the two steps finds no lease, and takes it for lost
            path.rename(away)
            path.mkdir()
        deadline = time.monotonic() + 120
        while "heartbeat failed" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.02)
        with lease._lock:
            path.rmdir()
            away.rename(path)
        lease.check()
    assert "heartbeat failed" in caplog.text
    assert json.loads((directory.home / "train.lease.1").read_text())["state"] == "released"


def test_a_lease_ends_on_a_full_disk(tmpfs: MakeTmpfs) -> None:
    """On a full disk the end, with its reason, is still written.

    What doesn't fit raises FolderFull and leaves no NULs.
    """
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


def test_the_bytes_on_disk_are_the_ones_of_other_versions(directory: CacheDirectory) -> None:
    """Keys, their order and the size; progress comes with the first heartbeat, a failure last."""
    held = LeaseContent(run=None, rank=0, host="n1", pid=7, nonce="5e", timeout=120.0)
    assert held.as_bytes() == (
        b'{"nonce": "5e", "state": "held", "beat": 0, "run": null, "rank": 0, "host": "n1",'
        b' "pid": 7, "timeout": 120.0}'
    ).ljust(4096)
    failed = replace(
        held,
        state="failed",
        heartbeats=2,
        progress=Progress(State.WAITING_FOR_RATE_LIMIT, "43 s", files=1),
        failure=ErrorReport("FolderFull", "no space"),
    )
    assert failed.as_bytes() == (
        b'{"nonce": "5e", "state": "failed", "beat": 2, "run": null, "rank": 0, "host": "n1",'
        b' "pid": 7, "timeout": 120.0,'
        b' "progress": {"state": "waiting for quota, 43 s", "files": 1},'
        b' "failure": {"error": "FolderFull", "message": "no space"}}'
    ).ljust(4096)
    for lease in (held, failed):
        assert read_lease(lease.as_bytes()) == lease
    with pytest.raises(FolderFull), take_now(directory, claim()):
        raise FolderFull("no space")
    assert (directory.home / "train.lease.1").stat().st_size == 4096


@pytest.mark.parametrize(
    "damage",
    [{"timeout": "soon"}, {"progress": {"state": 5}}, {"failure": [1]}, {"new": 1}],
    ids=str,
)
def test_an_edited_lease_is_read_as_far_as_it_makes_sense(damage: dict[str, object]) -> None:
    """A part that can't be read has its default; a key of another version is ignored."""
    lease = LeaseContent(run=None, rank=0, host="n1", pid=7, nonce="5e")
    assert read_lease(json.dumps(json.loads(lease.as_bytes()) | damage).encode()) == lease


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"state": "released"}', b"\0" * 4096], ids=repr)
def test_what_is_no_lease_is_none(content: bytes) -> None:
    """Without its holder a lease says nothing, so it counts as held."""
    assert read_lease(content) is None


def test_a_late_heartbeat_does_not_undo_the_end(directory: CacheDirectory) -> None:
    """A heartbeat that was slow while its lease ended leaves the end as it is."""
    lease = take_now(directory, claim())
    with pytest.raises(FolderFull), lease:
        raise FolderFull("no space")
    lease._heartbeat()
    content = read_lease((directory.home / "train.lease.1").read_bytes())
    assert content is not None
    assert (content.state, content.failure) == ("failed", ErrorReport("FolderFull", "no space"))
