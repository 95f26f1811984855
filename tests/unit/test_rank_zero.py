"""Any work, once for all ranks: ranks as threads over a fake store, and one process alone."""

import functools
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import pytest

from step37_flickr8k import Timeouts, prepare_flickr8k_samples, rank_zero, run_on_rank_zero
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.node import NodeRank
from step37_flickr8k.cluster.share import Group
from step37_flickr8k.errors import (
    CallMismatch,
    EmptySelection,
    FolderFull,
    InvalidSettings,
    InvalidWorld,
    RankZeroLost,
    Stalled,
    Step37Error,
)
from tests.helpers.fake_store import FakeServer

BRISK = Timeouts(arrival=60, heartbeat=20)
# The work has the context of its rank, but not its thread
_rank: ContextVar[int] = ContextVar("rank")


class Ranks:
    """Threads that are the ranks of one process group; ``run`` returns what each call came to."""

    def __init__(self, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        server = FakeServer()
        self.groups = [
            Group(rank=rank, size=size, connect=server.connect, expects_all=False)
            for rank in range(size)
        ]
        monkeypatch.setattr(rank_zero, "current_group", lambda: self.groups[_rank.get()])

    def run(self, call: Callable[[int], Any], *ranks: int) -> list[Any]:
        outcomes: dict[int, Any] = {}

        def be(rank: int) -> None:
            _rank.set(rank)
            try:
                outcomes[rank] = call(rank)
            except BaseException as error:  # noqa: BLE001 - an outcome like any other
                outcomes[rank] = error

        numbers = ranks or tuple(range(len(self.groups)))
        threads = [threading.Thread(target=be, args=(rank,), daemon=True) for rank in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "a rank hangs"
        return [outcomes[rank] for rank in numbers]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Ranks]:
    return lambda size: Ranks(size, monkeypatch)


def whose_work() -> int:
    return _rank.get()


def other_work() -> str:
    return "other"


def fail(error: BaseException) -> None:
    raise error


run = functools.partial(run_on_rank_zero, timeouts=BRISK)


def test_work_runs_once_and_every_rank_has_its_result(make: Callable[[int], Ranks]) -> None:
    """Rank 0 works; all ranks receive what JSON makes of its result, each a copy of its own."""
    done = []

    def work() -> dict[str, object]:
        done.append(_rank.get())
        return {"path": "/x", "sizes": (1, 2)}

    results = make(8).run(lambda _: run(work))
    assert done == [0]
    assert results == [{"path": "/x", "sizes": [1, 2]}] * 8
    assert len({id(each) for each in results}) == 8


DEEP: list[Any] = functools.reduce(lambda inner, _: [inner], range(88), [])


@pytest.mark.parametrize(
    "result",
    [None, "", 0, [], {}, {"result": 1}, DEEP, "é" * 174_000],
    ids=lambda result: f"{result!r:.12}",
)
def test_any_json_may_be_a_result(make: Callable[[int], Ranks], result: object) -> None:
    """Also what is false, and what has the names of the protocol's own parts."""
    assert make(2).run(lambda _: run(lambda: result)) == [result] * 2


@pytest.mark.parametrize(
    "error",
    [FolderFull("full"), EmptySelection("no rows"), FileNotFoundError("no x"), ValueError("é\n")],
    ids=repr,
)
def test_an_error_has_its_class_on_every_rank(
    make: Callable[[int], Ranks], error: Exception
) -> None:
    """Rank 0 raises the original; the other ranks the same class and message, with its host."""
    first, *others = make(3).run(lambda _: run(lambda: fail(error)))
    assert first is error
    for other in others:
        assert (type(other), str(other)) == (type(error), str(error))
        if sys.version_info >= (3, 11):
            assert other.__notes__ == [f"raised by rank 0, on {os.uname().nodename}"]


class Odd(Exception):
    """An error that fails to say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Long(Exception):
    """An error with a message that no store takes."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Odd(), "Odd on {}: its message can't be read"),
        (Long("x" * 9_000_000), "Long on {}: " + "x" * 10_000),
    ],
    ids=["Odd", "Long"],
)
def test_an_unknown_error_is_named_with_its_host(
    make: Callable[[int], Ranks], error: Exception, message: str
) -> None:
    """A class that the other ranks may not have, whatever its message is."""
    first, second = make(2).run(lambda _: run(lambda: fail(error)))
    assert first is error
    assert type(second) is Step37Error
    assert str(second) == message.format(os.uname().nodename)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (SystemExit(3), r"rank 0 was ended by SystemExit\(3\)"),
        (KeyboardInterrupt(), r"rank 0 was ended by SIGINT"),
    ],
    ids=repr,
)
def test_what_ends_rank_zero_loses_it_to_the_other_ranks(
    make: Callable[[int], Ranks], end: BaseException, words: str
) -> None:
    """sys.exit and Ctrl-C in the work are rank 0's own end, and the other ranks hear which."""
    first, second = make(2).run(lambda _: run(lambda: fail(end)))
    assert first is end
    assert isinstance(second, RankZeroLost)
    with pytest.raises(RankZeroLost, match=words):
        raise second


def test_a_result_that_json_cannot_carry_is_an_error_of_all(make: Callable[[int], Ranks]) -> None:
    """Every rank, and not rank 0 alone, raises the TypeError that names the part."""
    outcomes = make(2).run(lambda _: run(lambda: {"model": object()}))
    assert {type(each) for each in outcomes} == {TypeError}
    assert all("the result['model'] is a object" in str(each) for each in outcomes)


def test_calls_follow_one_another(make: Callable[[int], Ranks]) -> None:
    """Several calls, the same work twice among them, each have their own result."""
    counter = iter(range(10))

    def count() -> int:
        return next(counter)

    def calls(_: int) -> list[object]:
        return [run(count), run(other_work), run(count), run(whose_work)]

    assert make(3).run(calls) == [[0, "other", 1, 0]] * 3


def test_different_work_in_another_order_is_a_mismatch(make: Callable[[int], Ranks]) -> None:
    """Ranks that call for different work hear both names instead of waiting for each other."""

    def calls(rank: int) -> object:
        return run(whose_work if rank == 0 else other_work)

    outcomes = make(2).run(calls)
    assert isinstance(outcomes[1], CallMismatch)
    assert "other_work' here and " in str(outcomes[1])
    assert "whose_work' on rank 0" in str(outcomes[1])


@pytest.mark.parametrize("name", ["work", "repo"])
def test_different_arguments_are_a_mismatch(make: Callable[[int], Ranks], name: str) -> None:
    """Whatever name an argument has, the message says it and both values."""
    outcomes = make(2).run(lambda rank: run(whose_work, arguments={name: rank}))
    assert isinstance(outcomes[1], CallMismatch)
    assert f"arguments['{name}'] is 1 here and 0 on rank 0" in str(outcomes[1])


def test_a_late_rank_finds_the_finished_call(make: Callable[[int], Ranks]) -> None:
    """Rank 0 waits for nobody; a rank that calls later has the result, or the error."""
    ranks = make(3)
    calls = [lambda _: run(other_work), lambda _: run(lambda: fail(OSError("broken")))]
    assert ranks.run(calls[0], 0) == ["other"]
    assert ranks.run(calls[0], 2) == ["other"]
    ranks = make(2)
    (error,) = ranks.run(lambda _: run(lambda: fail(OSError("broken")), timeouts=SHORT), 0)
    assert str(error) == "broken"
    (error,) = ranks.run(lambda _: run(lambda: fail(OSError("broken")), timeouts=SHORT), 1)
    assert (type(error), str(error)) == (OSError, "broken")


# After a failure rank 0 stays for a heartbeat timeout
SHORT = Timeouts(arrival=60, heartbeat=0.5)


def test_each_node_has_its_own_call(
    make: Callable[[int], Ranks], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With scope="node" local rank 0 works on each node, and its node's ranks have its result."""
    monkeypatch.setattr(
        NodeRank,
        "in_process_group",
        lambda world, _: NodeRank(rank=world.rank % 2, size=None, node=str(world.rank // 2)),
    )
    ranks = make(4)

    def calls(rank: int) -> list[object]:
        # A call of one rank of each node: the node's own calls meet all the same
        first = [run(other_work)] if rank % 2 == 0 else []
        return [*first, run(whose_work, scope="node"), run(whose_work, scope="node")]

    assert ranks.run(calls) == [["other", 0, 0], [0, 0], ["other", 2, 2], [2, 2]]


def test_a_report_reaches_every_rank(make: Callable[[int], Ranks]) -> None:
    """Work that takes an argument reports by it; rank 0 sees each text, the others the latest."""
    seen: dict[int, list[str]] = {0: [], 1: []}
    shown = threading.Event()

    def work(report: Callable[[str], None]) -> str:
        report("shard 1, of 2")
        report("shard 1, of 2")
        report("x" * 5000)
        assert shown.wait(60)
        return "done"

    def note(text: str) -> None:
        seen[_rank.get()].append(text)
        if _rank.get():
            shown.set()

    def call(_: int) -> object:
        return run_on_rank_zero(work, timeouts=Timeouts(heartbeat=2), on_progress=note)

    assert make(2).run(call) == ["done"] * 2
    assert seen[0] == ["shard 1, of 2", "x" * 1000]
    assert set(seen[1]) <= {*seen[0]}


def test_work_that_reports_nothing_new_has_stalled(make: Callable[[int], Ranks]) -> None:
    """Only where a stall timeout is set; the next report ends the work on rank 0, too."""

    def work(report: Callable[[str], None]) -> None:
        report("compiling")
        while True:
            report("compiling")
            assert not threading.Event().wait(0.02)

    stalling = Timeouts(arrival=60, heartbeat=1, stall=0.3)
    outcomes = make(2).run(lambda _: run_on_rank_zero(work, timeouts=stalling))
    assert {type(each) for each in outcomes} == {Stalled}
    assert "while working, compiling" in str(outcomes[1])


def nested(call: Callable[[], object]) -> object:
    return call()


@pytest.mark.parametrize(
    "inner", [lambda: run(other_work), lambda: prepare_flickr8k_samples(cache_dir="/nowhere")]
)
@pytest.mark.parametrize("size", [1, 2])
def test_a_call_inside_of_work_is_refused(
    make: Callable[[int], Ranks], inner: Callable[[], object], size: int
) -> None:
    """The other ranks don't run the work, so they would miss that call; one rank says it, too."""
    outcomes = make(size).run(lambda _: run(functools.partial(nested, inner)))
    assert {type(each) for each in outcomes} == {CallMismatch}
    assert all("make one after the other" in str(each) for each in outcomes)


def two(a: int, b: int) -> None: ...
def keyword(*, path: str) -> None: ...


@pytest.mark.parametrize(
    ("work", "words"),
    [(two, "work requires a, b"), (keyword, "work requires path"), ("x", "'x' is not a callable")],
)
def test_work_that_needs_more_is_refused(work: Any, words: str) -> None:
    """Before any rank waits for another one, and with the remedy."""
    with pytest.raises(TypeError, match=words):
        run(work)


def optional(report: object = None, *more: object, **others: object) -> object:
    return [report, more, others]


@pytest.mark.parametrize(
    ("work", "expected"),
    [(optional, [None, [], {}]), (dict, {}), (functools.partial(max, 1, 2), 2)],
)
def test_work_is_called_without_arguments(work: Any, expected: object) -> None:
    """An argument that has a default isn't a report; functions of C are called plainly, too."""
    assert run(work) == expected


@pytest.mark.parametrize("scope", ["gpu", None, ["job"]])
def test_other_parts_of_the_ranks_are_refused(scope: Any) -> None:
    """A subgroup isn't supported, and the message says which values are."""
    with pytest.raises(InvalidSettings, match='neither "job" nor "node"'):
        run(other_work, scope=scope)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "2"}, "LOCAL_RANK isn't set"),
        ({"JOB_COMPLETION_INDEX": "0", "WORLD_SIZE": "2"}, "LOCAL_RANK isn't set"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "LOCAL_WORLD_SIZE isn't set"),
        ({"FLUX_TASK_RANK": "0", "FLUX_JOB_SIZE": "2", "FLUX_TASK_LOCAL_ID": "0"}, "LOCAL_WORLD"),
    ],
)
def test_a_launcher_that_does_not_know_its_nodes_is_refused(
    monkeypatch: pytest.MonkeyPatch, environ: Mapping[str, str], named: str
) -> None:
    """With scope="node" the variable that is missing is named, at once."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidWorld, match=named):
        run(other_work, scope="node")


@pytest.mark.parametrize("scope", ["job", "node"])
def test_a_single_process_just_works(scope: Any) -> None:
    """Without a launcher and without a process group there is nothing to wait for."""
    error = OSError("broken")
    assert run(other_work, scope=scope) == "other"
    with pytest.raises(OSError, match="broken") as caught:
        run(lambda: fail(error), scope=scope)
    assert caught.value is error


def test_the_timeouts_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any in the call; but work may be silent for as long as it likes."""
    seen: list[Timeouts] = []
    monkeypatch.setattr(rank_zero, "share", lambda *_, timeouts, **__: seen.append(timeouts))
    monkeypatch.setenv("STEP37_HEARTBEAT_TIMEOUT", "45")
    monkeypatch.setenv("STEP37_STALL_TIMEOUT", "7")
    for timeouts in (None, BRISK):
        with pytest.raises(AttributeError):
            run_on_rank_zero(other_work, timeouts=timeouts)
    assert seen == [Timeouts(heartbeat=45), BRISK]


@pytest.mark.parametrize(
    "times", [{"heartbeat": 0}, {"arrival": -1}, {"stall": -1}, {"stall": float("nan")}]
)
def test_a_timeout_is_a_number_of_seconds(times: dict[str, float]) -> None:
    """A value that can't be meant is refused where it is made."""
    with pytest.raises(InvalidSettings, match=f"{next(iter(times))}=.* is no number of seconds"):
        Timeouts(**times)


def test_a_nodes_ranks_have_keys_of_their_own() -> None:
    """Rank 0's node meets at the store of the job: neither call may find what the other one wrote."""
    world = World(
        rank=0,
        size=3,
        local_rank=0,
        local_world_size=2,
        master_addr="127.0.0.1",
        master_port=20000,
    )
    of_job, of_node = rank_zero._launched(world, b""), rank_zero._launched_on_node(world, b"")
    assert (of_job.size, of_node.size) == (3, 2)
    keys = [group.next_call({}, BRISK).keys for group in (of_job, of_node)]
    assert keys[0].run != keys[1].run
    assert keys[0].nonce != keys[1].nonce
