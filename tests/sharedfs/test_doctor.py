"""The doctor on two nodes: a directory that isn't shared, locks that lie or are refused, names that are seen late."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k.localhub import LocalHub
from tests.sharedfs.conftest import MakeJob, MakeNodes
from tests.sharedfs.nodes import LatentMount, NodeRanks
from tests.unit.diagnostics.test_doctor import findings


def examined(
    job: MakeJob, mounts: list[LatentMount]
) -> tuple[dict[str, Mapping[str, Any]], NodeRanks, dict[int, int]]:
    """Run the doctor as one rank on each node; gives what it found by check."""
    ranks = job(mounts, STEP37_VISIBILITY_TIMEOUT="4")
    ranks.start_all("doctor", "--cache-dir", str(ranks.shared / "cache"), "--json")
    codes = ranks.wait()
    return {finding["check"]: finding for finding in findings(ranks)}, ranks, codes


def test_a_shared_directory_with_honest_locks_is_told_so(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path
) -> None:
    """All is well: the file is seen, the lock holds, and nothing is left behind."""
    assert hub.commit
    found, _, codes = examined(job, nodes("--nfs"))
    assert codes == {0: 0, 1: 0}, found
    assert {found[check]["state"] for check in ("folder shared", "locks", "lag")} == {"ok"}, found
    assert found["locks"]["message"] == "flock holds between nodes"
    assert not list(backing.iterdir())


def test_a_directory_that_is_not_shared_is_found(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path, tmp_path: Path
) -> None:
    """Two nodes with a directory of their own at one path: the node is named, and rank 0 ends with 2."""
    assert hub.commit
    other = tmp_path / "other"
    other.mkdir()
    lonely = LatentMount(other, tmp_path / "lonely")
    try:
        found, _, codes = examined(job, [*nodes("--nfs", count=1), lonely])
    finally:
        lonely.end()
    assert codes == {0: 2, 1: 0}, found
    assert found["folder shared"]["state"] == "problem"
    assert "rank 1 on lonely doesn't see what rank 0 writes" in found["folder shared"]["message"]
    assert "cache_scope=node" in found["folder shared"]["remedy"]
    assert {found[check]["state"] for check in ("locks", "lag")} == {"not checked"}
    assert not [*backing.iterdir(), *other.iterdir()]


@pytest.mark.parametrize(
    ("flock", "said"),
    [("noop", "flock lies: rank 1 on node-1 got the lock"), ("ENOSYS", "flock is refused")],
)
def test_locks_that_lie_or_are_refused_are_found(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, flock: str, said: str
) -> None:
    """A warning, since nothing here rests on them, with what that means for other programs."""
    assert hub.commit
    mounts = nodes("--nfs")
    for mount in mounts:
        mount.faults(flock=flock)
    found, _, codes = examined(job, mounts)
    assert codes == {0: 0, 1: 0}, found
    assert (found["locks"]["state"], found["folder shared"]["state"]) == ("warning", "ok")
    assert said in found["locks"]["message"]
    assert "doesn't depend on locks" in found["locks"]["remedy"]


@pytest.mark.parametrize("name", ["EPERM", "EOPNOTSUPP"])
def test_a_mount_without_hard_links_is_told_so(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob, backing: Path, name: str
) -> None:
    """What the mount can't do is a warning with what a run does without it; nothing is left."""
    assert hub.commit
    mounts = nodes("--nfs")
    mounts[0].faults(fail=[{"op": "link", "errno": name}])
    found, _, codes = examined(job, mounts)
    assert codes == {0: 0, 1: 0}, found
    assert found["file system"]["state"] == "warning"
    assert found["file system"]["message"].startswith("hard links: ")
    assert not list(backing.iterdir())


def test_a_name_that_was_looked_for_too_early_is_seen_by_listing(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob
) -> None:
    """On a node that holds it for missing, for a minute, the file is there as soon as its directory is listed; that is said."""
    assert hub.commit
    found, _, codes = examined(job, nodes("--nfs", "--negative", "60", "--attr", "60"))
    assert codes == {0: 0, 1: 0}, found
    assert (found["folder shared"]["state"], found["lag"]["state"]) == ("ok", "ok")
    assert "by name alone not at once by rank 1 on node-1" in found["lag"]["message"]
    assert "list a directory before you open" in found["lag"]["remedy"]


def test_a_name_that_stays_missing_though_it_is_listed_is_found(
    hub: LocalHub, nodes: MakeNodes, job: MakeJob
) -> None:
    """As on sshfs, where listing doesn't help: the directory is shared, and what is to be set is said."""
    assert hub.commit
    found, _, codes = examined(job, nodes("--negative", "60"))
    assert codes == {0: 0, 1: 0}, found
    assert (found["folder shared"]["state"], found["lag"]["state"]) == ("ok", "warning")
    assert (
        "rank 1 on node-1 lists the file, but can't open it within 4 s" in found["lag"]["message"]
    )
    assert "visibility_timeout" in found["lag"]["remedy"]
