"""Waits for another download say for whom, how far it is, and when they end."""

import logging
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from step37_flickr8k import prepare_flickr8k_samples
from step37_flickr8k.cache.directory import CacheDirectory
from step37_flickr8k.cache.lease import Wait, holder
from step37_flickr8k.cluster.progress import State
from step37_flickr8k.job.waiting import waiting_for
from step37_flickr8k.localhub import Fault, LocalHub
from tests.helpers.ranks import PATIENCE, Ranks

HELD = "train/0003.jpg"  # the image that doesn't come


@pytest.fixture
def downloading(hub: LocalHub, cache: Path, tmp_path: Path) -> Iterator[Ranks]:
    """Run a warmup that has all images but one."""
    hub.faults.add(Fault.stall(600, path=HELD))
    first = Ranks(1, tmp_path / "first").start_all("warmup", "--cache-dir", str(cache))
    directory = CacheDirectory(cache, "train")
    deadline = time.monotonic() + PATIENCE
    while (
        (now := holder(directory)) is None
        or now.progress is None
        or now.progress.state is not State.FETCHING
        or now.progress.files != 11
    ):
        assert time.monotonic() < deadline, first.log(0)
        time.sleep(0.05)
    yield first
    first.end()


def test_a_killed_warmup_is_replaced_at_once(
    downloading: Ranks, hub: LocalHub, cache: Path, tmp_path: Path
) -> None:
    """After kill -9 the next warmup on the same machine doesn't wait for the lease at all."""
    downloading.signal(0, signal.SIGKILL)
    assert downloading.wait() == {0: -signal.SIGKILL}
    hub.faults.clear()
    second = Ranks(1, tmp_path / "second").start_all("warmup", "--cache-dir", str(cache))
    assert second.wait() == {0: 0}, second.log(0)
    assert "waiting for the lease" not in second.log(0)
    assert "ready: 12 rows" in second.log(0)


def test_a_second_warmup_says_what_it_waits_for(
    downloading: Ranks, hub: LocalHub, cache: Path, tmp_path: Path
) -> None:
    """It names the other process, how far that is and when it would take over, again and again."""
    second = Ranks(1, tmp_path / "second").start_all("warmup", "--cache-dir", str(cache))
    pid = downloading.processes[0].pid
    said = re.compile(
        rf"waiting for the lease, another process on \S+ \(pid {pid}\) is fetching: "
        r"11 of 12 files, [\d.]+ of [\d.]+ kB; if it falls silent, this one takes over in \d+ s"
    )
    deadline = time.monotonic() + PATIENCE
    while len(said.findall(second.log(0))) < 2:
        assert time.monotonic() < deadline, second.log(0)
        time.sleep(0.05)
    assert downloading.processes[0].is_alive()
    hub.faults.clear()
    downloading.signal(0, signal.SIGKILL)
    assert second.wait() == {0: 0}, second.log(0)


def test_a_library_call_that_waits_says_so(
    downloading: Ranks, hub: LocalHub, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without any logging set up, too: it is a warning, not repeated with every look."""
    with caplog.at_level(logging.WARNING):
        waiting = threading.Thread(target=prepare_flickr8k_samples, kwargs={"cache_dir": cache})
        waiting.start()
        deadline = time.monotonic() + PATIENCE
        while "is fetching: 11 of 12 files" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        hub.faults.clear()
        downloading.signal(0, signal.SIGKILL)
        waiting.join(PATIENCE)
    assert caplog.text.count("waiting for the lease") == 1


def test_a_lease_that_cannot_be_read_is_said_to_be_so() -> None:
    """Whoever created it may have been killed before it was written."""
    assert waiting_for(Wait(holder=None, left=118.4)) == (
        "which is empty or half written; if that stays so, this one takes over in 118 s"
    )
