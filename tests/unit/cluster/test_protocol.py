"""The state machines stand alone; what they do is in ``tests/simulator``."""

import subprocess
import sys

import pytest

from step37_flickr8k.cluster.protocol.keys import Timeouts
from step37_flickr8k.cluster.share import CallNumbers, Group, share
from step37_flickr8k.errors import CallMismatch, NotVisible, RankZeroLost, Terminated
from tests.helpers.fake_store import FakeServer, FakeStore
from tests.unit.cluster.test_share import BRISK, Ranks, never

LOADED = """
import sys
before = {*sys.modules}
import step37_flickr8k.cluster.protocol.follower, step37_flickr8k.cluster.protocol.leader
names = {name.partition(".")[0] for name in {*sys.modules} - before}
print(*sorted(names - sys.stdlib_module_names))
"""


def test_the_protocol_imports_nothing_but_the_standard_library() -> None:
    """Neither torch nor pydantic nor anything else is loaded by the state machines."""
    command = [sys.executable, "-I", "-c", LOADED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["step37_flickr8k"]


def test_calls_are_numbered_by_their_arguments_and_by_repetition() -> None:
    """A rank that repeats a call stays in step with one that doesn't."""
    often, once = CallNumbers(), CallNumbers()
    train, validation = {"split": "train"}, {"split": "validation"}
    assert [often.next(call) for call in (train, train, validation)] == ["0.0", "0.1", "1.0"]
    assert [once.next(call) for call in (train, validation, train)] == ["0.0", "1.0", "0.1"]


def library(ranks: Ranks, rank: int) -> Group:
    """Return the group of a rank that calls the library."""
    return ranks.group(rank, expects_all=False)


def test_rank_zero_waits_for_nobody_in_a_library_call() -> None:
    """Rank 0 returns when its work is done, and a rank that comes later finds the result."""
    ranks = Ranks(3)
    ranks.start(0, lambda _: {"rows": 4}, library(ranks, 0)).join(120)
    assert ranks.outcomes[0] == {"rows": 4}
    for rank in (1, 2):
        ranks.start(rank, never, library(ranks, rank)).join(120)
        assert ranks.outcomes[rank] == {"rows": 4}


def test_a_late_rank_raises_what_rank_zero_raised() -> None:
    """In a library call a failure is left for ranks that come later, too."""

    def fail(_: object) -> dict[str, object]:
        raise NotVisible("no such file")

    ranks = Ranks(2)
    ranks.start(0, fail, library(ranks, 0)).join(120)
    ranks.start(1, never, library(ranks, 1)).join(120)
    assert isinstance(ranks.outcomes[1], NotVisible)


def test_a_late_rank_confirms_for_itself() -> None:
    """A late rank that can't use the result raises its own reason; rank 0 has gone already."""

    def refuse(_: object) -> None:
        raise NotVisible("not on this node")

    ranks = Ranks(2)
    ranks.start(0, lambda _: {"rows": 4}, library(ranks, 0)).join(120)
    ranks.start(1, never, library(ranks, 1), confirm=refuse).join(120)
    assert ranks.outcomes[0] == {"rows": 4}
    assert str(ranks.outcomes[1]) == "not on this node"


def test_a_late_rank_with_other_arguments_is_a_mismatch() -> None:
    """What differs is named, though rank 0 has gone."""
    ranks = Ranks(2)
    ranks.start(0, lambda _: {}, library(ranks, 0), arguments={"split": "train"}).join(120)
    ranks.start(1, never, library(ranks, 1), arguments={"split": "test"}).join(120)
    assert isinstance(ranks.outcomes[1], CallMismatch)
    assert "split is 'test' here and 'train' on rank 0" in str(ranks.outcomes[1])


@pytest.mark.parametrize("repeats", [0, 1])
def test_rank_zero_may_go_first(repeats: int) -> None:
    """Rank 0 calls once more than the others, before them, as main_process_first has it."""
    server = FakeServer()
    groups = [
        Group(rank=rank, size=2, connect=server.connect, expects_all=False) for rank in (0, 1)
    ]

    def call(rank: int, split: str) -> object:
        return share(
            groups[rank], lambda _: {"split": split}, arguments={"split": split}, timeouts=BRISK
        ).result["split"]

    for _ in range(repeats + 1):
        assert call(0, "train") == "train"
    assert call(0, "validation") == "validation"
    assert [call(1, "train"), call(1, "validation")] == ["train", "validation"]


def test_ranks_of_another_run_hear_whose_store_it_is() -> None:
    """The stranger hears which run the store serves; the run itself ends as if nobody had come."""
    ranks, strangers = Ranks(2), Ranks(2)
    strangers.server = ranks.server
    mine, others = {"run": "run a of 2 ranks"}, {"run": "run b of 2 ranks"}

    def work(_: object) -> dict[str, int]:
        stranger.join(120)
        return {"rows": 4}

    stranger = strangers.start(1, never, strangers.group(1, **others))
    threads = [ranks.start(rank, work, ranks.group(rank, **mine)) for rank in (0, 1)]
    for thread in threads:
        thread.join(120)
    assert ranks.outcomes == {0: {"rows": 4}, 1: {"rows": 4}}
    assert isinstance(strangers.outcomes[1], RankZeroLost)
    assert "serves run a of 2 ranks, this rank belongs to run b" in str(strangers.outcomes[1])
    assert "set MASTER_PORT to a free port" in str(strangers.outcomes[1])


def test_a_rank_zero_that_is_not_found_is_searched_for_aloud(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Until rank 0 is there, a line now and then says why it is not found."""

    def refuse(_: float) -> FakeStore:
        raise ConnectionError("no store at n0:29500: Name or service not known")

    ranks = Ranks(2)
    group = ranks.group(1, connect=refuse, reconnects=True)
    with caplog.at_level("WARNING"):
        ranks.start(1, never, group, timeouts=Timeouts(arrival=3, heartbeat=1)).join(120)
    assert "rank 0 isn't found yet: no store at n0:29500: Name or service not known" in caplog.text
    assert "never met rank 0 within 3 s" in str(ranks.outcomes[1])


def test_a_signal_after_the_work_has_failed_leaves_its_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A launcher ends rank 0 because other ranks have ended: what failed is still the work."""

    def end(*_: object) -> None:
        raise Terminated

    def fail(_: object) -> dict[str, object]:
        monkeypatch.setattr("step37_flickr8k.cluster.runner._LeaderThread.conclude", end)
        raise NotVisible("no such file")

    ranks = Ranks(2)
    ranks.start(0, fail).join(120)
    assert isinstance(ranks.outcomes[0], NotVisible)
