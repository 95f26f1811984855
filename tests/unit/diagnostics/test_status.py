"""Status: what a cache directory holds and who downloads into it, without a request."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k import cli
from step37_flickr8k.localhub import Fault, LocalHub
from tests.conftest import Draw
from tests.helpers.ranks import PATIENCE, Ranks
from tests.helpers.terminals import Terminal

Say = Callable[..., str]


@pytest.fixture
def say(cache: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """Return what status prints."""

    def said(*arguments: str) -> str:
        capsys.readouterr()
        assert cli.run(["status", "--cache-dir", str(cache), *arguments]) == 0
        return capsys.readouterr().out

    return said


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Ranks]:
    made = Ranks(1, tmp_path / "job")
    yield made
    made.end()


def test_nothing_is_said_to_be_nothing(say: Say, cache: Path) -> None:
    """A directory that doesn't exist, or is no cache, is no error and isn't created."""
    assert say() == f"{cache} doesn't exist, and no warmup is running\n"
    assert json.loads(say("--json")) == {"cache_dir": str(cache), "splits": []}
    assert not cache.exists()
    cache.mkdir()
    assert say() == f"{cache} holds no ready record, and no warmup is running\n"


def test_each_split_is_shown_with_what_is_ready(
    hub: LocalHub, draw: Draw, cache: Path, say: Say
) -> None:
    """Status shows commit, rows by caption key, images and bytes without a request or a write."""
    draw(5, "validation")
    hub.refresh()
    for split, key in (("train", "caption_0"), ("train", "caption_1"), ("validation", "caption_0")):
        more = ["--sample-count", "7"] if key == "caption_1" else []
        assert (
            cli.run(
                ["warmup", "--cache-dir", str(cache), "--split", split, "--caption-key", key, *more]
            )
            == 0
        )
    hub.clear_requests()
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    said = say()
    train, validation = json.loads(say("--json"))["splits"]
    assert not hub.requests
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before
    assert f"{cache}/train\n  ready      intro/flickr8k at commit {hub.commit}, written " in said
    assert (
        "  rows       12 (all) with caption_0\n  rows       7 with caption_1\n  files      12 images, 7."
        in said
    )
    assert train["captions"] == {
        "caption_0": {"rows": 12, "everything": True},
        "caption_1": {"rows": 7, "everything": False},
    }
    assert train["bytes"] == sum(path.stat().st_size for path in (cache / "train").glob("*.jpg")), (
        "as the report counts"
    )
    assert (validation["split"], validation["files"], validation["downloader"]) == (
        "validation",
        5,
        None,
    )


def test_what_is_no_longer_there_and_what_is_bad_is_said(
    hub: LocalHub, cache: Path, say: Say
) -> None:
    """Status counts deleted files and images that can't be decoded."""
    (hub.directory / "train" / "0003.jpg").write_bytes(b"no picture")
    hub.refresh()
    assert cli.run(["warmup", "--cache-dir", str(cache)]) == 0
    (cache / "train" / "0001.jpg").unlink()
    said = say()
    assert "missing    1 of 13 files no longer there; run warmup" in said
    assert "  not ready  intro/flickr8k at commit" in said
    assert "left out   1 image that can't be decoded" in said
    assert "rows       11 (all) with caption_0, 1 left out" in said
    (cache / "train" / "metadata.csv").unlink()
    assert "rows       12 (all) with caption_0\n" in say()


def test_a_manifest_that_cannot_be_read_is_said(hub: LocalHub, cache: Path, say: Say) -> None:
    """With an unreadable manifest the split isn't ready and the number of files is unknown."""
    assert hub.commit
    assert cli.run(["warmup", "--cache-dir", str(cache)]) == 0
    manifest = cache / ".step37-flickr8k" / "train.manifest"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    said = say()
    assert "  not ready  intro/flickr8k at commit" in said
    assert (
        "  files      unknown, because the manifest can't be read; run warmup, which hashes them again"
        in said
    )


def test_who_is_filling_it_and_how_far_is_told(
    hub: LocalHub, cache: Path, say: Say, job: Ranks
) -> None:
    """Status shows a running download and its progress, and reports it lost once it is silent."""
    hub.faults.add(Fault.stall(60, path="train/0003.jpg"))
    job.start_all("warmup", "--cache-dir", str(cache), STEP37_RUN_ID="night")
    deadline = time.monotonic() + 60
    while not re.search(
        r"running    \S+, rank 0, run night: fetching: 11 of 12 files, \d\.\d of 7\.\d kB, \d+ s ago",
        said := say(),
    ):
        assert time.monotonic() < deadline, said
        time.sleep(0.1)
    assert "not ready  no ready record" in said
    (split,) = json.loads(say("--json"))["splits"]
    assert (split["downloader"]["state"], split["downloader"]["progress"]["of_files"]) == (
        "held",
        12,
    )
    job.signal(0, signal.SIGKILL)
    job.wait()
    (lease,) = (cache / ".step37-flickr8k").glob("train.lease.*")
    os.utime(lease, (time.time() - 7200,) * 2)
    assert re.search(
        r"lost       \S+, rank 0, run night, silent for 2 h \(fetching: 11 of 12", say()
    )


@pytest.mark.parametrize(
    "damage",
    [
        {"timeout": "soon"},
        {"progress": ["fetching"]},
        {"progress": {"state": 5}},
        {"progress": {"state": "fetching", "of_files": 3}},
        {"progress": {"state": "fetching", "retries": {"503": "x"}}},
    ],
    ids=str,
)
def test_a_lease_that_a_hand_has_been_at_is_still_shown(
    hub: LocalHub, cache: Path, say: Say, damage: dict[str, Any]
) -> None:
    """An edited lease is shown without the values that make no sense."""
    assert hub.commit
    assert cli.run(["warmup", "--cache-dir", str(cache)]) == 0
    (lease,) = (cache / ".step37-flickr8k").glob("train.lease.*")
    lease.write_text(json.dumps(json.loads(lease.read_text()) | {"state": "held"} | damage))
    assert re.search(r"  running    \S+, rank 0: \S", say())


def test_a_run_that_was_ended_is_no_lost_rank(
    hub: LocalHub, cache: Path, say: Say, job: Ranks, tmp_path: Path
) -> None:
    """A run ended by SIGTERM is called the same in the log, the report and the status."""
    hub.faults.add(Fault.stall(60, path="train/0003.jpg"))
    file = tmp_path / "report.json"
    job.start_all("warmup", "--cache-dir", str(cache), "--report", str(file))
    job.until_logged(0, "fetching 12 of 12 files")
    job.signal(0, signal.SIGTERM)
    assert job.wait() == {0: 143}
    assert re.search(
        r"failed     \S+, rank 0, \d+ s ago: rank 0 was ended by SIGTERM$", say(), re.MULTILINE
    )
    assert cli.run(["report", str(file)]) == 0
    assert "RankZeroLost" not in job.log(0)


def test_a_failure_is_told_with_its_reason(hub: LocalHub, cache: Path, say: Say) -> None:
    """Status shows the error that the last downloader failed with, until a warmup succeeds."""
    hub.faults.add(Fault.status(404, path="train/0003.jpg"))
    assert cli.run(["warmup", "--cache-dir", str(cache)]) == 75
    assert re.search(r"failed     \S+, rank 0, \d+ s ago: .*0003\.jpg", say())
    hub.faults.clear()
    assert cli.run(["warmup", "--cache-dir", str(cache)]) == 0
    assert "failed" not in say()


def test_check_ends_by_how_ready_the_rows_are(
    hub: LocalHub, cache: Path, job: Ranks, capsys: pytest.CaptureFixture[str]
) -> None:
    """3 without anything, 75 while a warmup runs, after one was killed or may be repeated, 0 ready."""
    check = ("status", "--check", "--cache-dir", str(cache))
    assert cli.run(check) == 3
    assert "doesn't exist" in capsys.readouterr().out
    hub.faults.add(Fault.stall(600, path="train/0003.jpg"))
    job.start_all("warmup", "--cache-dir", str(cache))
    job.until_logged(0, "fetching 12 of 12 files")
    assert cli.run(check) == 75
    job.signal(0, signal.SIGTERM)
    job.wait()
    assert cli.run(check) == 75
    hub.faults.clear()
    assert cli.run(["warmup", "--cache-dir", str(cache), "--sample-count", "5"]) == 0
    assert cli.run([*check, "--sample-count", "5"]) == 0
    assert cli.run(check) == 3, "not all rows"
    assert cli.run([*check, "--sample-count", "5", "--split", "test"]) == 3
    assert cli.run([*check, "--sample-count", "5", "--repo-id", "an/other"]) == 3
    (cache / "train" / "0003.jpg").unlink()
    assert cli.run([*check, "--sample-count", "5"]) == 3


def test_a_setting_that_no_retry_helps_is_not_under_way(hub: LocalHub, cache: Path) -> None:
    """After a warmup that ended with 2 there is nothing to wait for."""
    hub.faults.add(Fault.status(403, path="train/0003.jpg"))
    assert cli.run(["warmup", "--cache-dir", str(cache)]) == 2
    assert cli.run(["status", "--check", "--cache-dir", str(cache)]) == 3


def test_watch_redraws_on_a_terminal_until_the_run_has_ended(
    hub: LocalHub, cache: Path, job: Ranks
) -> None:
    """It ends by Ctrl-C with 130 and with the run by the state's code; no old state is left."""
    hub.faults.add(Fault.stall(600, path="train/0003.jpg"))
    job.start_all("warmup", "--cache-dir", str(cache))
    job.until_logged(0, "fetching 12 of 12 files")
    watch = ("status", "--watch", "--cache-dir", str(cache))
    for end, code in ((signal.SIGINT, 130), (signal.SIGTERM, 75)):
        terminal = Terminal(200)
        shown = subprocess.Popen(
            [sys.executable, "-m", "step37_flickr8k", *watch],
            env=os.environ | {"TERM": "xterm"},
            stdout=terminal.theirs,
            stderr=terminal.theirs,
        )
        terminal.until_seen(r"  running    \S+, rank 0: fetching: 11 of 12 files")
        shown.send_signal(end) if end is signal.SIGINT else job.signal(0, end)
        assert shown.wait(PATIENCE) == code
        seen = terminal.end()
        assert not [line for line in seen if "running" in line], seen
        assert ("error: interrupted" if code == 130 else "ended by SIGTERM") in seen[-1]
