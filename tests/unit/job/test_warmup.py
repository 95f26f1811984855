"""A warmup in one process: what it requests and leaves on disk, cold and warm."""

import logging
import tempfile
from pathlib import Path
from typing import Any, Literal

import pytest

from step37_flickr8k.cache.record import read_record
from step37_flickr8k.cluster.call import Store
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.progress import ProgressTracker
from step37_flickr8k.cluster.share import Group
from step37_flickr8k.dataset.selection import Row
from step37_flickr8k.errors import BadImages, InvalidSettings, RankZeroLost
from step37_flickr8k.job.run import Run
from step37_flickr8k.job.task import Task
from step37_flickr8k.job.warmup import Warmed, Warmup
from step37_flickr8k.localhub import LocalHub
from step37_flickr8k.settings import WarmupSettings
from tests.conftest import captioned


def run_of(hub: LocalHub, cache: Path, run_id: str | None = None, **settings: Any) -> Run:
    given = WarmupSettings(endpoint=hub.endpoint, cache_dir=cache, **settings)
    return Run(Task.from_settings(given), World(run_id=run_id))


def warm(hub: LocalHub, cache: Path, run_id: str | None = None, **settings: Any) -> Warmed:
    return Warmup(run_of(hub, cache, run_id, **settings)).share(Group.alone())


def requests(hub: LocalHub) -> list[str]:
    """Return the kinds of the requests so far, then forget them."""
    kinds = [request.kind for request in hub.requests]
    hub.clear_requests()
    return kinds


def no_store(_: float) -> Store:
    raise ConnectionError("rank 0 is gone")


def second_rank() -> Group:
    """Return the group of a rank whose rank 0 has gone."""
    return Group(rank=1, size=2, connect=no_store)


def test_a_cold_cache_is_filled(hub: LocalHub, cache: Path) -> None:
    """Rows come in the order of metadata.csv, and the result counts what was fetched."""
    warmed = warm(hub, cache)
    result, images = warmed.result, sorted((hub.directory / "train").glob("*.jpg"))
    assert warmed.rows == [
        Row(captioned(number)["file_name"], captioned(number)["caption_0"]) for number in range(12)
    ]
    assert (result.warm, result.rows, result.files, result.commit) == (False, 12, 12, hub.commit)
    assert result.bytes == sum(image.stat().st_size for image in images)
    assert result.requests == len(hub.requests)
    assert (result.retries, result.skipped) == ({}, {})
    for image in images:
        assert (cache / "train" / image.name).read_bytes() == image.read_bytes()


def test_a_warm_cache_requests_the_commit_alone(hub: LocalHub, cache: Path) -> None:
    """A branch is resolved with one request; no listing and no file is requested."""
    cold = warm(hub, cache, revision="main")
    requests(hub)
    again = warm(hub, cache, revision="main")
    assert requests(hub) == ["api"]
    assert (again.result.warm, again.result.files, again.result.bytes) == (True, 0, 0)
    assert (again.result.requests, again.result.commit) == (1, hub.commit)
    assert again.rows == cold.rows


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "any revision"])
def test_a_record_that_fits_is_used_without_a_request(
    hub: LocalHub, cache: Path, pinned: bool
) -> None:
    """With a pinned commit, or none asked for, the ready record answers for the Hub."""
    revision = hub.commit if pinned else None
    warm(hub, cache, revision=revision)
    requests(hub)
    result = warm(hub, cache, revision=revision, sample_count=5).result
    assert requests(hub) == []
    assert (result.warm, result.rows, result.requests) == (True, 5, 0)


def test_a_pinned_commit_that_the_record_does_not_name_is_downloaded(
    hub: LocalHub, cache: Path
) -> None:
    """A record of another commit doesn't fit, though it covers the rows."""
    old = hub.commit
    warm(hub, cache, revision=old)
    (hub.directory / "train" / "0003.jpg").write_bytes(b"")
    new = hub.refresh()
    requests(hub)
    result = warm(hub, cache, revision=new).result
    assert (result.warm, result.commit, result.files) == (False, new, 1)


def test_a_run_that_confirmed_the_record_stays_at_its_commit(hub: LocalHub, cache: Path) -> None:
    """A run's further processes request nothing, wherever the branch is now.

    The record names each run that found the cache warm.
    """
    commit = warm(hub, cache, "first", revision="main").result.commit
    warm(hub, cache, "second", revision="main")
    (hub.directory / "train" / "0003.jpg").write_bytes(b"")
    hub.refresh()
    requests(hub)
    assert warm(hub, cache, "second", revision="main").result.commit == commit
    assert requests(hub) == []
    record = read_record(run_of(hub, cache).directory)
    assert record is not None
    assert record.runs == ("first", "second")


def test_a_file_that_is_gone_makes_the_cache_cold(hub: LocalHub, cache: Path) -> None:
    """A record whose files aren't all there isn't ready: what is missing is fetched."""
    warm(hub, cache, revision=hub.commit)
    (cache / "train" / "0004.jpg").unlink()
    result = warm(hub, cache, revision=hub.commit).result
    assert (result.warm, result.files) == (False, 1)
    assert (cache / "train" / "0004.jpg").exists()


def test_bad_images_are_left_out_or_refused(hub: LocalHub, cache: Path) -> None:
    """``skip`` gives the other rows; ``error`` names the images, cold and warm.

    The cache is the same for both: neither downloads again what the other has.
    """
    (hub.directory / "train" / "0003.jpg").write_bytes(b"no image")
    hub.refresh()
    for _ in ("cold", "warm"):
        with pytest.raises(BadImages, match=r"1 of the 12 rows .*0003\.jpg \(.*bad_images=skip"):
            warm(hub, cache, bad_images="error")
    requests(hub)
    warmed = warm(hub, cache, bad_images="skip")
    assert hub.file_requests() == ()
    assert (warmed.result.warm, [*warmed.result.skipped]) == (True, ["0003.jpg"])
    assert (warmed.result.rows, len(warmed.rows)) == (12, 11)
    assert "0003.jpg" not in {row.file_name for row in warmed.rows}
    assert len(warm(hub, cache, bad_images="error", sample_count=3).rows) == 3


def test_offline_without_a_cache_names_what_is_missing(hub: LocalHub, cache: Path) -> None:
    """Offline nothing is requested or made; the error names the directory and the selection."""
    what = r"intro/flickr8k, split train, revision any: 5 rows with caption_0"
    with pytest.raises(InvalidSettings, match=rf"{cache} holds no ready record .*{what}"):
        warm(hub, cache, offline=True, sample_count=5)
    assert requests(hub) == []
    assert not cache.exists()


def test_offline_takes_whatever_commit_the_cache_holds(hub: LocalHub, cache: Path) -> None:
    """Offline a branch is the record's commit; a commit that the record doesn't name is missing."""
    commit = warm(hub, cache).result.commit
    requests(hub)
    assert warm(hub, cache, offline=True, revision="main").result.commit == commit
    with pytest.raises(InvalidSettings, match=f"revision {'0' * 40}"):
        warm(hub, cache, offline=True, revision="0" * 40)
    assert requests(hub) == []


def test_a_node_with_a_pinned_commit_needs_no_other_rank(hub: LocalHub, cache: Path) -> None:
    """With cache_scope=node and a pinned commit a rank fills its own directory without rank 0."""
    run = run_of(
        hub, cache, cache_scope="node", revision=hub.commit, sample_count=5, arrival_timeout=0.2
    )
    warmed = Warmup(run).share(second_rank())
    assert [row.file_name for row in warmed.rows] == [f"{number:04}.jpg" for number in range(5)]
    assert len(hub.file_requests()) == 6
    assert run.account.fetched.files == 5


@pytest.mark.parametrize(
    ("scope", "pinned"), [("node", False), ("shared", True)], ids=["a branch", "a shared directory"]
)
def test_without_rank_zero_nothing_else_is_downloaded(
    hub: LocalHub, cache: Path, scope: str, pinned: bool
) -> None:
    """A branch is rank 0's to resolve, and a shared directory rank 0's to fill."""
    revision = hub.commit if pinned else "main"
    run = run_of(hub, cache, cache_scope=scope, revision=revision, arrival_timeout=0.2)
    with pytest.raises(RankZeroLost):
        Warmup(run).share(second_rank())
    assert requests(hub) == []
    assert not cache.exists()


@pytest.mark.parametrize(
    ("nodes", "scope", "warned"),
    [(2, "shared", True), (2, "node", False), (1, "shared", False), (None, "shared", False)],
)
def test_a_local_directory_is_warned_of_where_there_are_several_nodes(
    hub: LocalHub,
    caplog: pytest.LogCaptureFixture,
    nodes: int | None,
    scope: Literal["shared", "node"],
    warned: bool,
) -> None:
    """A directory that other nodes can't see is warned of, unless there is one for each node."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, caplog.at_level(logging.WARNING):
        settings = WarmupSettings(
            cache_dir=Path(directory) / "cache", endpoint=hub.endpoint, cache_scope=scope
        )
        run = Run(Task.from_settings(settings), World(node_count=nodes))
        Warmup(run).warm(ProgressTracker())
    assert ("tmpfs" in caplog.text and "cache_scope=node" in caplog.text) == warned
