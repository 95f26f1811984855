"""Two nodes that see one folder late, without locks, full, failing or slow: warmup ends clearly, and what it leaves is right."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k.localhub import Fault, LocalHub
from tests.ranks import free_port
from tests.sharedfs.conftest import COUNT, MakeJob, MakeNodes, assert_nothing_torn, assert_whole, fetched, images
from tests.sharedfs.nodes import LatentMount, NodeRanks

HOME = ".step37-flickr8k"
BRISK = {"STEP37_HEARTBEAT_TIMEOUT": "2"}  # a lease that nobody has ended is free after 8 s
RECORD = f"{HOME}/train.json"


def warm(job: NodeRanks, *arguments: str, **environment: str) -> dict[int, int]:
    """Run warmup on all ranks, into the folder `cache` that all see at one path; give the exit codes."""
    job.start_all("warmup", "--cache-dir", str(job.shared / "cache"), *arguments, **environment)
    return job.wait()


def miss(mount: LatentMount, names: Iterable[str]) -> None:
    """Look names up on a node where they aren't yet."""
    for name in names:
        assert not (mount.mount / "cache" / name).exists()


EVERYTHING = ["", HOME, "train", RECORD, f"{HOME}/train.manifest", "train/metadata.csv", "train/0000.jpg", "train/0039.jpg"]


# --- seen late -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["", "cache", f"cache/{HOME}"])
def test_a_node_that_looked_too_early_sees_the_cache_at_once(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path, there: str
) -> None:
    # Failed at f8d428b after 20 s: the waiter lists .step37-flickr8k alone, and never the folders that hold the names it missed.
    """A waiter's node that holds every name for missing, for 20 s, is ready in half of that, whichever folders existed."""
    (backing / there).mkdir(parents=True, exist_ok=True)
    mounts = nodes("--nfs", "--negative", "20")
    miss(mounts[1], [name for name in EVERYTHING if not (backing / "cache" / name).exists()])
    start = time.monotonic()
    ranks = job(mounts)
    assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    assert time.monotonic() - start < 10, ranks.logs
    assert_whole(hub, backing / "cache")
    assert len(fetched(hub)) == COUNT


def test_a_waiter_that_came_long_before_rank_zero_sees_the_cache_at_once(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path
) -> None:
    # Failed at f8d428b after 20 s, and that without anybody else having looked.
    """A waiter that waits for rank 0 to appear looks for a record meanwhile; what it misses then doesn't delay it later."""
    mounts = nodes("--nfs", "--negative", "20")
    ranks = job(mounts, STEP37_HEARTBEAT_TIMEOUT="2", STEP37_RUN_ID="run")
    ranks.start_command(1, "warmup", "--cache-dir", str(ranks.shared / "cache"))
    ranks.until_logged(1, "global rank 1")
    time.sleep(4)
    start = time.monotonic()
    ranks.start_command(0, "warmup", "--cache-dir", str(ranks.shared / "cache"))
    assert ranks.wait() == {0: 0, 1: 0}, ranks.logs
    assert time.monotonic() - start < 10, ranks.logs
    assert_whole(hub, backing / "cache")


def test_where_listing_does_not_help_the_time_of_the_mount_does(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path
) -> None:
    """On a file system that lists a file and yet misses it, as sshfs does, the waiter is ready when the mount's time is over."""
    mounts = nodes("--negative", "6")
    (backing / "cache" / HOME).mkdir(parents=True)
    start = time.monotonic()
    miss(mounts[1], [RECORD])
    ranks = job(mounts)
    assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    assert 5 < time.monotonic() - start < 15, ranks.logs
    assert_whole(hub, backing / "cache", mounts[1].mount / "cache")


@pytest.mark.parametrize("seconds", ["30", "60"])
@pytest.mark.parametrize("like", [["--nfs"], ["--entry", "60", "--negative", "0"]], ids=["nfs", "plain"])
def test_a_node_with_old_attributes_sees_the_grown_cache(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path, like: list[str], seconds: str
) -> None:
    """A node that has read a cache of 10 rows, and believes what it knows for a minute, sees that of 40 within seconds."""
    mounts = nodes(*like, "--attr", seconds)
    ranks = job(mounts)
    assert warm(ranks, "--sample-count", "10") == {0: 0, 1: 0}, ranks.logs
    assert_whole(hub, mounts[1].mount / "cache", count=10)
    start = time.monotonic()
    ranks = job(mounts)
    assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    assert time.monotonic() - start < 10, ranks.logs
    assert_whole(hub, backing / "cache", mounts[0].mount / "cache", mounts[1].mount / "cache")
    assert len(fetched(hub)) == COUNT


def test_the_command_itself_on_two_nodes(hub: LocalHub, nodes: MakeNodes, tmp_path: Path, backing: Path) -> None:
    """`python -m step37_flickr8k warmup` in two mount namespaces, one path: as a launcher starts it."""
    mounts = nodes("--nfs", "--negative", "20")
    shared = tmp_path / "shared"
    shared.mkdir()
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "TORCH_CPP_LOG_LEVEL": "FATAL"}
    there = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    command = [sys.executable, "-m", "step37_flickr8k", "warmup", "--cache-dir", str(shared / "cache")]
    processes = [
        subprocess.Popen(
            ["unshare", "--mount", "sh", "-ec", there, "sh", str(mount.mount), str(shared), *command],
            env=os.environ | place | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank, mount in enumerate(mounts)
    ]
    try:
        said = [process.communicate(timeout=60)[0].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], said
    assert_whole(hub, backing / "cache", mounts[1].mount / "cache")
    assert len(fetched(hub)) == COUNT
    assert not (shared / "cache").exists()  # the ranks saw their mounts there, nobody else did


# --- without locks, links across folders, or speed -----------------------------------------------------------------------------


@pytest.mark.parametrize("flock", ["noop", "ENOSYS", "ENOLCK", "ENOTSUP"])
def test_no_file_lock_is_needed(hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path, flock: str) -> None:
    """Where flock is granted to everybody, or refused, warmup is the same."""
    mounts = nodes("--nfs")
    for mount in mounts:
        mount.faults(flock=flock)
    ranks = job(mounts)
    assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    assert_whole(hub, backing / "cache", mounts[1].mount / "cache")


def test_nothing_is_renamed_or_linked_across_folders(hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path) -> None:
    """Where each folder is a project quota of its own, so that renames across folders give EXDEV, warmup is the same."""
    mounts = nodes("--nfs")
    mounts[0].faults(exdev=True)
    ranks = job(mounts)
    assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    assert_whole(hub, backing / "cache", mounts[1].mount / "cache")


def test_slow_metadata(hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path) -> None:
    """5 ms for each operation, as on a busy metadata server, makes it slower and nothing else."""
    mounts = nodes("--nfs")
    for mount in mounts:
        mount.faults(delay=[{"op": ".*", "s": 0.005}])
    ranks = job(mounts)
    assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    assert_whole(hub, backing / "cache", mounts[1].mount / "cache")


# --- full ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT"])
def test_a_folder_that_fills_up(hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path, error: str) -> None:
    # Failed at f8d428b with exit code 1, in most runs: a block of over 8 KB is written at once, and its OSError came bare out of
    # fetch; what is left below 8 KB is written when the file is closed, and that was foreseen.
    """All ranks end with 75 and the remedy; nothing is torn, what was verified stays, the next run brings the rest."""
    hub.faults.add(Fault.delay(0.02))
    mounts = nodes("--nfs")
    mounts[0].faults(full={"after": 200_000, "errno": error})
    ranks = job(mounts, **BRISK)
    assert warm(ranks, "--concurrency", "2") == {0: 75, 1: 75}, ranks.logs
    assert_full(ranks)
    kept = images(backing / "cache" / "train")
    assert 0 < len(kept) < COUNT
    assert_nothing_torn(hub, backing / "cache")
    assert not (backing / "cache" / RECORD).exists()
    mounts[0].faults()
    hub.clear_requests()
    ranks = job(mounts, **BRISK)
    assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    assert fetched(hub) == [f"train/{number:04}.jpg" for number in range(COUNT) if f"{number:04}.jpg" not in kept]
    assert_whole(hub, backing / "cache", mounts[1].mount / "cache")


def test_a_full_folder_is_free_for_the_next_job(hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path) -> None:
    # Failed at f8d428b, and the next job waited for two minutes: the lease's end, with its traceback, was written in part (pwrite
    # gave fewer bytes than asked for) and then filled up with NULs, which is nothing that anybody can read.
    """Whoever fails on a full disk still leaves a lease that has ended, so that nobody waits for it."""
    hub.faults.add(Fault.delay(0.02))
    mounts = nodes("--nfs")
    mounts[0].faults(full={"after": 200_000})
    ranks = job(mounts, **BRISK)
    assert 0 not in warm(ranks, "--concurrency", "2").values()
    (lease,) = (backing / "cache" / HOME).glob("train.lease.*")
    assert json.loads(lease.read_bytes())["state"] != "held"


def assert_full(ranks: NodeRanks) -> None:
    """Check that every rank's last line names the folder, what is wrong with it and what to do."""
    for line in ranks.last_words():
        assert "FolderFull" in line, ranks.logs
        assert str(ranks.shared / "cache") in line, line
        assert "free space" in line, line


def test_a_full_folder_that_says_so_costs_no_download(hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path) -> None:
    """Where statfs tells how little is left, no image is fetched, and the message says how much is needed."""
    mounts = nodes("--nfs")
    mounts[0].faults(full={"after": 200_000, "told": True})
    ranks = job(mounts)
    assert warm(ranks) == {0: 75, 1: 75}, ranks.logs
    assert_full(ranks)
    assert all("GB free" in line for line in ranks.last_words())
    assert not fetched(hub)
    assert_nothing_torn(hub, backing / "cache")


@pytest.mark.parametrize(
    ("rule", "least", "most"),
    [
        ({"op": "mkdir"}, 0, 0),
        ({"op": "create", "path": HOME}, 0, 0),
        ({"op": "flush", "path": r"/train/\.step37-", "after": 30}, 5, 30),
        ({"op": "write", "path": rf"/{HOME}/\.step37-", "after": 1}, COUNT, COUNT),
        ({"op": "fsync", "path": rf"/{HOME}/\.step37-", "after": 1}, COUNT, COUNT),
    ],
    ids=["first folder", "lease", "closing", "manifest", "flushing the manifest"],
)
@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT"])
def test_wherever_a_folder_is_full(  # noqa: PLR0917 - a case has many properties
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path, rule: dict[str, Any], least: int, most: int, error: str
) -> None:
    """Full at the first folder, the lease, the end of a file, or when the record is due: 75 for all, and never a record."""
    mounts = nodes("--nfs")
    mounts[0].faults(fail=[rule | {"errno": error}])
    ranks = job(mounts)
    assert warm(ranks, "--concurrency", "1") == {0: 75, 1: 75}, ranks.logs
    assert_full(ranks)
    train = backing / "cache" / "train"
    kept = len(images(train)) if train.exists() else 0
    assert least <= kept <= most
    assert not (backing / "cache" / RECORD).exists()
    mounts[0].faults()
    hub.clear_requests()
    ranks = job(mounts)
    assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    assert len(fetched(hub)) == COUNT - kept
    assert_whole(hub, backing / "cache", mounts[1].mount / "cache")


# --- failing -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["EIO", "ESTALE"])
@pytest.mark.parametrize(
    "rule",
    [
        {"op": "write", "path": r"/train/\.step37-", "after": 5},
        {"op": "flush", "path": r"/train/\.step37-", "after": 5},
        {"op": "rename", "path": r"\.jpg$", "after": 5},
        {"op": "write", "path": rf"/{HOME}/\.step37-", "after": 1},
        {"op": "rename", "path": r"train\.json$"},
        {"op": "link"},
    ],
    ids=["write", "close", "rename", "manifest", "record", "lease"],
)
def test_one_error_while_writing(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path, rule: dict[str, Any], error: str
) -> None:
    # Failed at f8d428b for "write", with exit code 1: see test_a_folder_that_fills_up.
    """One EIO or ESTALE under the downloader: all ranks end with 75 and its words, or all with 0; the next run is right."""
    mounts = nodes("--nfs")
    mounts[0].faults(fail=[rule | {"errno": error, "count": 1}])
    ranks = job(mounts)
    codes = warm(ranks, "--concurrency", "2")
    assert codes in ({0: 75, 1: 75}, {0: 0, 1: 0}), ranks.logs
    if codes[0]:
        words = {"EIO": "Input/output error", "ESTALE": "Stale file handle"}[error]
        assert all(words in line and str(ranks.shared) in line for line in ranks.last_words()), ranks.logs
        assert not (backing / "cache" / RECORD).exists()
    kept = len(images(backing / "cache" / "train"))
    assert_nothing_torn(hub, backing / "cache")
    hub.clear_requests()
    ranks = job(mounts)
    assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    assert len(fetched(hub)) == COUNT - kept
    assert_whole(hub, backing / "cache", mounts[1].mount / "cache")


@pytest.mark.parametrize("op", ["open", "read"])
@pytest.mark.parametrize("name", [r"train\.json", r"metadata\.csv", r"\d\.jpg", HOME])
@pytest.mark.parametrize("error", ["EIO", "ESTALE"])
@pytest.mark.parametrize("after", [0, 1])
def test_one_error_while_a_waiter_reads(  # noqa: PLR0917 - a case has many properties
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path, op: str, name: str, error: str, after: int
) -> None:
    # Failed at f8d428b for .step37-flickr8k: what listing it raises wasn't tried again; for metadata.csv the second time: reading
    # the rows raised a bare OSError, that is exit code 1.
    """One EIO or ESTALE under a waiter that looks whether it sees the cache: it looks again, and all ranks end well."""
    mounts = nodes("--nfs", "--attr", "0")
    if name == HOME:
        op = {"open": "opendir", "read": "readdir"}[op]
    # twice, since the kernel itself tries again: an open that was stale, a read that was ahead
    mounts[1].faults(fail=[{"op": op, "path": f"{name}$", "errno": error, "after": after, "count": 2}])
    ranks = job(mounts)
    assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    mounts[1].faults()
    assert_whole(hub, backing / "cache", mounts[1].mount / "cache")


@pytest.mark.parametrize("op", ["open", "read"])
@pytest.mark.parametrize("after", [0, 1])
def test_one_stale_handle_of_another_jobs_lease(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path, op: str, after: int
) -> None:
    # Failed at f8d428b with exit code 1: reading the lease raised a bare OSError, only its absence was foreseen.
    """A lease that goes stale while another job reads it, as when its holder ends, is read again."""
    hub.faults.add(Fault.delay(0.3))
    mounts = nodes("--nfs")
    mounts[1].faults(fail=[{"op": op, "path": r"\.lease\.\d+$", "errno": "ESTALE", "after": after, "count": 2}])
    first = job(mounts[:1], STEP37_RUN_ID="one", **BRISK)
    first.start_all("warmup", "--cache-dir", str(first.shared / "cache"), "--concurrency", "8")
    first.until_logged(0, "fetching 40 of 40 files")
    second = job(mounts[1:], STEP37_RUN_ID="two", **BRISK)
    assert warm(second) == {0: 0}, second.logs
    assert first.wait() == {0: 0}, first.logs
    assert len(fetched(hub)) == COUNT
    assert_whole(hub, backing / "cache", mounts[1].mount / "cache")


def test_handles_go_stale_when_another_node_replaces_the_file(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path
) -> None:
    """Where an open file that was replaced answers ESTALE, jobs that replace the record under each other's readers end well."""
    mounts = nodes("--nfs", count=4)
    for mount in mounts:
        mount.faults(stale_on_replace=True)
    jobs = [job(mounts[:2], STEP37_RUN_ID="one"), job(mounts[2:], STEP37_RUN_ID="two")]
    for count in ("10", "20", "all"):
        for one in jobs:
            one.start_all("warmup", "--cache-dir", str(one.shared / "cache"), "--sample-count", count)
        for one in jobs:
            assert one.wait() == {0: 0, 1: 0}, one.logs
    assert len(fetched(hub)) == COUNT
    assert_whole(hub, backing / "cache", *(mount.mount / "cache" for mount in mounts))
