"""Two nodes that see one directory late, without locks, full, failing or slow: warmup ends clearly, and what it leaves is right."""

import errno
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k import cli
from step37_flickr8k.localhub import Fault, LocalHub
from tests.conftest import picture, write_rows
from tests.helpers.ranks import PATIENCE, free_port
from tests.sharedfs.conftest import (
    COUNT,
    MakeJob,
    MakeNodes,
    assert_nothing_torn,
    assert_whole,
    fetched,
    images,
)
from tests.sharedfs.nodes import LatentMount, NodeRanks

HOME = ".step37-flickr8k"
LONG = "1000"  # s: longer than anybody here waits
BRISK = {"STEP37_HEARTBEAT_TIMEOUT": "10"}  # a lease that nobody has ended is free after 40 s
RECORD = f"{HOME}/train.json"


def warm(job: NodeRanks, *arguments: str, **environment: str) -> dict[int, int]:
    """Run warmup on all ranks, into the directory `cache` that all see at one path; give the exit codes."""
    job.start_all("warmup", "--cache-dir", str(job.shared / "cache"), *arguments, **environment)
    return job.wait()


def miss(mount: LatentMount, names: Iterable[str]) -> None:
    """Look names up on a node where they aren't yet."""
    for name in names:
        assert not (mount.mount / "cache" / name).exists()


EVERYTHING = [
    "",
    HOME,
    "train",
    RECORD,
    f"{HOME}/train.manifest",
    "train/metadata.csv",
    "train/0000.jpg",
    "train/0039.jpg",
]


# --- what the mounts do ---------------------------------------------------------------------------


def test_a_mount_lies_as_it_is_told(nodes: MakeNodes, backing: Path) -> None:
    """Each kind of fault is there when it is asked for, and gone afterwards: the tests below rest on it."""
    here, there = nodes("--nfs", "--negative", "60", "--attr", "60")
    file, late = here.mount / "file", there.mount / "file"
    assert not late.exists()
    file.write_bytes(b"content")
    assert not late.exists()
    assert "file" in os.listdir(there.mount)
    assert late.read_bytes() == b"content"

    with file.open("rb") as one, file.open("rb") as two:
        here.faults(flock="noop")
        fcntl.flock(one, fcntl.LOCK_EX)
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for name in ("ENOSYS", "ENOLCK", "ENOTSUP"):
        here.faults(flock=name)
        with (
            file.open("rb") as one,
            pytest.raises(OSError, match=os.strerror(getattr(errno, name))),
        ):
            fcntl.flock(one, fcntl.LOCK_EX)

    (backing / "folder").mkdir()
    here.faults(exdev=True)
    for act in (os.rename, os.link):
        with pytest.raises(OSError, match="Invalid cross-device link"):
            act(file, here.mount / "folder" / "file")
    here.faults(stale_on_replace=True)
    with file.open("rb", buffering=0) as held:
        (backing / "other").write_bytes(b"replaced")
        (backing / "other").replace(backing / "file")
        with pytest.raises(OSError, match="Stale file handle"):
            held.read()
    for name in ("ENOSPC", "EDQUOT"):
        here.faults(full={"after": 5, "errno": name})
        with (here.mount / name).open("wb", buffering=0) as full:
            assert full.write(b"12345678") == 5
            with pytest.raises(OSError, match=os.strerror(getattr(errno, name))):
                full.write(b"678")
    here.faults(
        fail=[{"op": "mkdir", "errno": "EIO", "count": 1}], delay=[{"op": "mkdir", "s": 0.2}]
    )
    with pytest.raises(OSError, match="Input/output error"):
        (here.mount / "new").mkdir()
    assert here.happened("EIO", "new") == 1
    start = time.monotonic()
    (here.mount / "new").mkdir()
    assert time.monotonic() - start > 0.2
    assert here.happened("EIO") == 1


# --- seen late ------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["", "cache", f"cache/{HOME}"])
def test_a_node_that_looked_too_early_sees_the_cache_at_once(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path, there: str
) -> None:
    """A waiter's node that goes on missing every name, for longer than anybody waits, is ready."""
    (backing / there).mkdir(parents=True, exist_ok=True)
    mounts = nodes("--nfs", "--negative", LONG)
    miss(mounts[1], [name for name in EVERYTHING if not (backing / "cache" / name).exists()])
    ranks = job(mounts)
    assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    assert_whole(hub, backing / "cache")
    assert len(fetched(hub)) == COUNT


def test_a_node_sees_subdirectories_and_a_table_at_the_root_at_once(
    nodes: MakeNodes,
    job: MakeJob,
    backing: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their directories are listed, too, where a node goes on missing what it asked for too early."""
    root = tmp_path / "layout"
    names = ["a.jpg", "images/b.jpg", "images/deep/c.jpg"]
    for number, name in enumerate(names):
        (root / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "train" / name).write_bytes(picture(number))
    write_rows(root, [{"file_name": f"train/{name}", "caption_0": name} for name in names])
    (backing / "cache" / "train" / "images" / "deep").mkdir(parents=True)
    mounts = nodes("--nfs", "--negative", LONG)
    miss(mounts[1], ["metadata.csv", HOME, *(f"train/{name}" for name in names)])
    with LocalHub(root) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        ranks = job(mounts)
        assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    for number, name in enumerate(names):
        assert (backing / "cache" / "train" / name).read_bytes() == picture(number)


def test_a_waiter_that_came_long_before_rank_zero_sees_the_cache_at_once(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path
) -> None:
    """A waiter that waits for rank 0 to appear looks for a record meanwhile; what it misses then doesn't delay it later."""
    mounts = nodes("--nfs", "--negative", LONG)
    # no fault: the second look at what isn't there is told
    mounts[1].faults(
        fail=[{"op": "getattr", "path": "/cache", "errno": "ENOENT", "after": 1, "count": 1}]
    )
    ranks = job(mounts, STEP37_HEARTBEAT_TIMEOUT="10", STEP37_RUN_ID="run")
    ranks.start_command(1, "warmup", "--cache-dir", str(ranks.shared / "cache"))
    deadline = time.monotonic() + PATIENCE
    while not mounts[1].happened("ENOENT", "/cache"):
        assert time.monotonic() < deadline, ranks.logs
        time.sleep(0.1)
    ranks.start_command(0, "warmup", "--cache-dir", str(ranks.shared / "cache"))
    assert ranks.wait() == {0: 0, 1: 0}, ranks.logs
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
    assert time.monotonic() - start > 5, ranks.logs
    assert_whole(hub, backing / "cache", mounts[1].mount / "cache")


@pytest.mark.parametrize("seconds", ["30", LONG])
@pytest.mark.parametrize(
    "like", [["--nfs"], ["--entry", LONG, "--negative", "0"]], ids=["nfs", "plain"]
)
def test_a_node_with_old_attributes_sees_the_grown_cache(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path, like: list[str], seconds: str
) -> None:
    """A node that has read a cache of 10 rows, and believes what it knows for long, sees that of 40 rows all the same."""
    mounts = nodes(*like, "--attr", seconds)
    ranks = job(mounts)
    assert warm(ranks, "--sample-count", "10") == {0: 0, 1: 0}, ranks.logs
    assert_whole(hub, mounts[1].mount / "cache", count=10)
    ranks = job(mounts)
    assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    assert_whole(hub, backing / "cache", mounts[0].mount / "cache", mounts[1].mount / "cache")
    assert len(fetched(hub)) == COUNT


def test_the_command_itself_on_two_nodes(
    hub: LocalHub, nodes: MakeNodes, tmp_path: Path, backing: Path
) -> None:
    """`python -m step37_flickr8k warmup` in two mount namespaces, one path: as a launcher starts it."""
    mounts = nodes("--nfs", "--negative", "60")
    shared = tmp_path / "shared"
    shared.mkdir()
    place = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "TORCH_CPP_LOG_LEVEL": "FATAL",
    }
    there = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    command = [
        sys.executable,
        "-m",
        "step37_flickr8k",
        "warmup",
        "--cache-dir",
        str(shared / "cache"),
    ]
    processes = [
        subprocess.Popen(
            [
                "unshare",
                "--mount",
                "sh",
                "-ec",
                there,
                "sh",
                str(mount.mount),
                str(shared),
                *command,
            ],
            env=os.environ | place | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank, mount in enumerate(mounts)
    ]
    try:
        said = [process.communicate(timeout=PATIENCE)[0].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], said
    assert_whole(hub, backing / "cache", mounts[1].mount / "cache")
    assert len(fetched(hub)) == COUNT
    assert not (shared / "cache").exists()  # the ranks saw their mounts there, nobody else did


# --- without locks, links across directories, or speed --------------------------------------------


@pytest.mark.parametrize("flock", ["noop", "ENOSYS", "ENOLCK", "ENOTSUP"])
def test_no_file_lock_is_needed(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path, flock: str
) -> None:
    """Where flock is granted to everybody, or refused, warmup is the same."""
    mounts = nodes("--nfs")
    for mount in mounts:
        mount.faults(flock=flock)
    ranks = job(mounts)
    assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    assert_whole(hub, backing / "cache", mounts[1].mount / "cache")


@pytest.mark.parametrize("name", ["EPERM", "ENOSYS", "EOPNOTSUPP"])
def test_no_hard_link_is_needed(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path, name: str
) -> None:
    """Where links are refused, as on SMB and gcsfuse, two jobs still download once."""
    mounts = nodes("--nfs")
    for mount in mounts:
        mount.faults(fail=[{"op": "link", "errno": name}])
    jobs = [job([mount]) for mount in mounts]
    for one in jobs:
        one.start_all("warmup", "--cache-dir", str(one.shared / "cache"))
    assert [one.wait() for one in jobs] == [{0: 0}, {0: 0}], [one.logs for one in jobs]
    assert_whole(hub, backing / "cache", mounts[1].mount / "cache")
    assert len(fetched(hub)) == COUNT


def test_a_mount_as_object_stores_have_it(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path
) -> None:
    """No links, modes, times, fsync or locks, as on gcsfuse, is all that a run does without."""
    mounts = nodes("--nfs")
    for mount in mounts:
        refused = {"op": "link|chmod|utimens|fsync|statfs", "errno": "EOPNOTSUPP"}
        mount.faults(flock="ENOSYS", fail=[refused])
    ranks = job(mounts)
    assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    assert_whole(hub, backing / "cache", mounts[1].mount / "cache")


def test_a_name_that_a_mount_does_not_take(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path
) -> None:
    """EINVAL, as SMB and exFAT say of a colon or a dot at the end, ends every rank with 2."""
    mounts = nodes("--nfs")
    mounts[0].faults(fail=[{"op": "rename", "path": "/0007.jpg", "errno": "EINVAL"}])
    ranks = job(mounts)
    assert warm(ranks) == {0: 2, 1: 2}, ranks.logs
    assert "takes no such name" in ranks.last_words()[0]
    assert_nothing_torn(hub, backing / "cache")


def test_nothing_is_renamed_or_linked_across_directories(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path
) -> None:
    """Where each directory is a project quota of its own, so that renames across directories give EXDEV, warmup is the same."""
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


# --- full -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT"])
def test_a_directory_that_fills_up(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path, error: str
) -> None:
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
    assert fetched(hub) == [
        f"train/{number:04}.jpg" for number in range(COUNT) if f"{number:04}.jpg" not in kept
    ]
    assert_whole(hub, backing / "cache", mounts[1].mount / "cache")


def test_a_full_directory_is_free_for_the_next_job(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path
) -> None:
    """Whoever fails on a full disk still leaves a lease that has ended, so that nobody waits for it."""
    hub.faults.add(Fault.delay(0.02))
    mounts = nodes("--nfs")
    mounts[0].faults(full={"after": 200_000})
    ranks = job(mounts, **BRISK)
    assert 0 not in warm(ranks, "--concurrency", "2").values()
    (lease,) = (backing / "cache" / HOME).glob("train.lease.*")
    assert json.loads(lease.read_bytes())["state"] != "held"


def assert_full(ranks: NodeRanks) -> None:
    """Check that every rank's last line names the directory, what is wrong with it and what to do."""
    for line in ranks.last_words():
        assert str(ranks.shared / "cache") in line, line
        assert "free space" in line, line


def test_a_full_directory_that_says_so_costs_no_download(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path
) -> None:
    """Where statfs tells how little is left, no image is fetched, and the message says how much is needed."""
    mounts = nodes("--nfs")
    mounts[0].faults(full={"after": 200_000, "told": True})
    ranks = job(mounts)
    assert warm(ranks) == {0: 75, 1: 75}, ranks.logs
    assert_full(ranks)
    assert all(" free, the plan needs " in line for line in ranks.last_words())
    assert not fetched(hub)
    assert_nothing_torn(hub, backing / "cache")


@pytest.mark.parametrize(
    ("rule", "error", "least", "most"),
    [
        ({"op": "mkdir"}, "EDQUOT", 0, 0),
        ({"op": "create", "path": HOME}, "EDQUOT", 0, 0),
        ({"op": "flush", "path": r"/train/\.step37-", "after": 30}, "ENOSPC", 5, 30),
        # After lease and preflight
        ({"op": "write", "path": rf"/{HOME}/\.step37-", "after": 2}, "EDQUOT", COUNT, COUNT),
        ({"op": "fsync", "path": rf"/{HOME}/\.step37-", "after": 1}, "ENOSPC", COUNT, COUNT),
    ],
    ids=["first directory", "lease", "closing", "manifest", "flushing the manifest"],
)
def test_wherever_a_directory_is_full(  # noqa: PLR0917 - a case has many properties
    hub: LocalHub,
    nodes: MakeNodes,
    job: MakeJob,
    backing: Path,
    rule: dict[str, Any],
    error: str,
    least: int,
    most: int,
) -> None:
    """Full at the first directory, the lease, the end of a file, or when the record is due: 75 for all, and never a record."""
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


# --- failing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ({"op": "write", "path": r"/train/\.step37-", "after": 5}, "EIO"),
        ({"op": "write", "path": r"/train/\.step37-", "after": 5}, "ESTALE"),
        ({"op": "flush", "path": r"/train/\.step37-", "after": 5}, "EIO"),
        ({"op": "rename", "path": r"\.jpg$", "after": 5}, "EIO"),
        ({"op": "rename", "path": r"\.jpg$", "after": 5}, "ESTALE"),
        ({"op": "write", "path": rf"/{HOME}/\.step37-", "after": 2}, "EIO"),
        ({"op": "rename", "path": r"train\.json$"}, "EIO"),
        ({"op": "link"}, "EIO"),
    ],
    ids=["write", "stale write", "close", "rename", "stale rename", "manifest", "record", "lease"],
)
def test_one_error_while_writing(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path, rule: dict[str, Any], error: str
) -> None:
    """One EIO or ESTALE under the downloader: all ranks end with 75 and its words, or all with 0; the next run is right.

    No image is left out for it.
    """
    mounts = nodes("--nfs")
    mounts[0].faults(fail=[rule | {"errno": error, "count": 1}])
    ranks = job(mounts)
    codes = warm(ranks, "--concurrency", "2")
    assert codes in ({0: 75, 1: 75}, {0: 0, 1: 0}), ranks.logs
    assert mounts[0].happened(error) == 1
    if codes[0]:
        words = {"EIO": "Input/output error", "ESTALE": "Stale file handle"}[error]
        assert all(words in line and str(ranks.shared) in line for line in ranks.last_words()), (
            ranks.logs
        )
        assert not (backing / "cache" / RECORD).exists()
    kept = len(images(backing / "cache" / "train"))
    assert_nothing_torn(hub, backing / "cache")
    hub.clear_requests()
    ranks = job(mounts)
    assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    assert len(fetched(hub)) == COUNT - kept
    assert json.loads((backing / "cache" / RECORD).read_bytes())["skipped"] == {}
    assert_whole(hub, backing / "cache", mounts[1].mount / "cache")


@pytest.mark.parametrize(("op", "after"), [("open", 0), ("open", 1), ("read", 0)])
@pytest.mark.parametrize("error", ["EIO", "ESTALE"])
def test_one_error_of_each_kind_while_a_waiter_reads(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path, op: str, error: str, after: int
) -> None:
    """One EIO or ESTALE at each file and directory that a waiter looks at: it looks again, and all ranks end well."""
    mounts = nodes("--nfs", "--attr", "0")
    rules = [
        ({"open": "opendir", "read": "readdir"}[op], HOME),
        (op, "train.json"),
        (op, "metadata.csv"),
    ]
    rules += [(op, ".jpg")] if op == "open" else []  # images are opened and not read
    # The kernel itself tries again: an open that was stale, a read ahead
    times = 1 if (op, error) == ("open", "EIO") else 2
    once = {"errno": error, "after": after, "count": times}
    fail = [{"op": kind, "path": f"{re.escape(name)}$"} | once for kind, name in rules]
    if error == "ESTALE":
        # What was opened at the second try isn't opened again: these are opened once.
        fail[0]["after"] = fail[1]["after"] = 0
    mounts[1].faults(fail=fail)
    ranks = job(mounts)
    assert warm(ranks) == {0: 0, 1: 0}, ranks.logs
    for _, name in rules:
        assert mounts[1].happened(error, name), f"{error} never happened at {name}"
    mounts[1].faults()
    assert_whole(hub, backing / "cache", mounts[1].mount / "cache")


@pytest.mark.parametrize("op", ["open", "read"])
@pytest.mark.parametrize("name", ["train.json", "train.manifest", "metadata.csv", "0003.jpg"])
def test_one_error_while_the_downloader_reads(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path, op: str, name: str
) -> None:
    """One EIO under the downloader as it looks at what it holds: 75 or 0, never a bug; the record never shrinks."""
    mounts = nodes("--nfs", "--attr", "0", count=1)
    assert warm(job(mounts)) == {0: 0}
    changed = backing / "cache" / "train" / name
    if changed.exists():  # it is read only where the manifest doesn't vouch for it
        os.utime(changed)
    else:
        (backing / "cache" / "train" / "0000.jpg").unlink()
    # A read ahead
    mounts[0].faults(
        fail=[{"op": op, "path": f"{name}$", "errno": "EIO", "count": 1 if op == "open" else 2}]
    )
    ranks = job(mounts)
    code = warm(ranks, "--sample-count", "10")[0]
    assert code in {0, 75}, ranks.logs
    assert mounts[0].happened("EIO", name)
    mounts[0].faults()
    hub.clear_requests()
    ranks = job(mounts)
    assert warm(ranks) == {0: 0}, ranks.logs
    assert len(fetched(hub)) <= 1
    record = json.loads((backing / "cache" / RECORD).read_bytes())
    assert record["captions"] == {"caption_0": {"rows": COUNT, "everything": True}}
    assert record["skipped"] == {}
    assert_whole(hub, backing / "cache")


@pytest.mark.parametrize("op", ["open", "read"])
@pytest.mark.parametrize("after", [0, 1])
def test_one_stale_handle_of_another_jobs_lease(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path, op: str, after: int
) -> None:
    """A lease that goes stale while another job reads it, as when its holder ends, is read again."""
    hub.faults.add(Fault.delay(0.3))
    mounts = nodes("--nfs")
    mounts[1].faults(
        fail=[{"op": op, "path": r"\.lease\.\d+$", "errno": "ESTALE", "after": after, "count": 2}]
    )
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
            one.start_all(
                "warmup", "--cache-dir", str(one.shared / "cache"), "--sample-count", count
            )
        for one in jobs:
            assert one.wait() == {0: 0, 1: 0}, one.logs
    assert len(fetched(hub)) == COUNT
    assert_whole(hub, backing / "cache", *(mount.mount / "cache" for mount in mounts))


@pytest.mark.parametrize(
    ("one", "other"),
    [("a.jpg", "A.jpg"), ("caf\u00e9.jpg", "cafe\u0301.jpg"), ("x/1.jpg", "X/1.jpg")],
)
def test_names_that_the_file_system_takes_for_one_are_refused(
    nodes: MakeNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: str, other: str
) -> None:
    """Both are named before the first image; either alone is stored, also after the other."""
    (mount,) = nodes("--fold", "--negative", "0", "--attr", "0", count=1)
    split = tmp_path / "dataset" / "train"

    def draw(*names: str) -> None:
        shutil.rmtree(split, ignore_errors=True)
        for number, name in enumerate(names):
            (split / name).parent.mkdir(parents=True, exist_ok=True)
            (split / name).write_bytes(picture(number))
        write_rows(split, [{"file_name": name, "caption_0": f"of {name}"} for name in names])

    draw(one, other)
    command = ["warmup", "--cache-dir", str(mount.mount / "cache"), "--revision", "main"]
    with LocalHub(split.parent) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert cli.run(command) == 2
        assert [request.repo_path for request in hub.file_requests()] == ["train/metadata.csv"]
        for name in (one,) if "/" in one else (one, other):
            draw(name)
            hub.refresh()
            assert cli.run(command) == 0
            asked = len(hub.file_requests())
            assert cli.run(command) == 0
            assert len(hub.file_requests()) == asked, "it is warm"
            assert (mount.mount / "cache" / "train" / name).read_bytes() == picture(0)
