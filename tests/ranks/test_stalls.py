"""Rank 0 blocked in the kernel, where nothing can be reported: every process ends, its own too.

A FIFO that nobody writes to stands for a file system that doesn't answer: whoever opens it waits in
the kernel, for ever.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from step37_flickr8k import errors, prepare_flickr8k_samples
from step37_flickr8k.localhub import LocalHub
from tests.helpers.ranks import Ranks, command

pytestmark = pytest.mark.slow

BRISK = {
    "STEP37_STALL_TIMEOUT": "2",
    "STEP37_HEARTBEAT_TIMEOUT": "5",
    "STEP37_VISIBILITY_TIMEOUT": "1",
}
# Where rank 0 blocks: the call that opens the FIFO in place of doing its work
PLACES = {
    "the main work": "step37_flickr8k.job.warmup.Hub.list_files",
    "a thread that writes": "step37_flickr8k.download.batches.Batches._publish_timed",
    "the event loop": "step37_flickr8k.hub.client.HttpClient.get",
}


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Ranks]:
    made = Ranks(2, tmp_path / "job", BRISK)
    yield made
    made.end()


def block(place: str, fifo: str) -> None:
    """Replace a function of this process by one that blocks."""
    patch = pytest.MonkeyPatch()

    def blocked(*_: Any, **__: Any) -> Any:
        with Path(fifo).open("rb"):
            raise AssertionError("the FIFO has a writer")

    patch.setattr(place, blocked)


def blocked_command(place: str, fifo: str, arguments: list[str]) -> None:
    """Be the command, blocked at that place."""
    block(place, fifo)
    command(arguments)


def blocked_call(rank: int, arguments: tuple[str, str, dict[str, Any]]) -> int:
    """Call the loader in a rank of a group; rank 0 is blocked."""
    place, fifo, call = arguments
    if rank == 0:
        block(place, fifo)
    return len(prepare_flickr8k_samples(**call))


@pytest.mark.parametrize("place", PLACES)
def test_the_command_ends_on_every_rank(
    hub: LocalHub, cache: Path, ranks: Ranks, fifo: Path, place: str
) -> None:
    """Rank 0's own process ends with Stalled's exit code, its report is written, and so do all."""
    report = cache.parent / "report.json"
    arguments = ["warmup", "--cache-dir", str(cache), "--report", str(report)]
    arguments += ["--endpoint", hub.endpoint]
    environment = ranks.environment | {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(ranks.port),
    }
    target = (PLACES[place], str(fifo), arguments)
    ranks._start(0, blocked_command, environment, target)
    ranks.start_command(1, *arguments)
    assert ranks.wait(120) == {0: errors.Stalled.exit_code, 1: errors.Stalled.exit_code}
    assert " ERROR rank 0 has made no progress for 2 s" in ranks.log(0)
    assert " ERROR rank 0 has made no progress for 2 s" in ranks.log(1)
    assert json.loads(report.read_text())["error"] == "Stalled"


@pytest.mark.parametrize("place", PLACES)
def test_a_library_call_raises_on_every_rank(
    hub: LocalHub, cache: Path, ranks: Ranks, fifo: Path, place: str
) -> None:
    """Each rank raises Stalled, and its process can end: no thread is waited for."""
    call = {"cache_dir": str(cache)}
    arguments = (PLACES[place], str(fifo), call)
    ranks.start_group(blocked_call, arguments, HF_ENDPOINT=hub.endpoint)
    outcomes = ranks.outcomes(120)
    assert [type(outcome) for outcome in outcomes] == [errors.Stalled] * 2
