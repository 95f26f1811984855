"""Rank zero first, with many ranks as threads over a fake store."""

import itertools
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest

from step37_flickr8k.cluster import stores
from step37_flickr8k.cluster.progress import Progress, ProgressTracker, State
from step37_flickr8k.cluster.protocol.keys import Timeouts
from step37_flickr8k.cluster.protocol.messages import RankReport
from step37_flickr8k.cluster.share import Group, share
from step37_flickr8k.errors import (
    CallMismatch,
    EmptySelection,
    FolderFull,
    NotVisible,
    RankZeroLost,
    Stalled,
    Step37Error,
    Terminated,
    TransientError,
)
from tests.helpers.fake_store import FakeServer, FakeStore

BRISK = Timeouts(arrival=60, heartbeat=20, stall=60, visibility=1)
SILENT = Timeouts(arrival=60, heartbeat=1, visibility=1)  # where a rank 0 falls silent


class Ranks:
    """Runs ``share`` on every rank, each a thread, and keeps what came out of each."""

    def __init__(self, size: int, server: FakeServer | None = None) -> None:
        self.server = server or FakeServer()
        self.size = size
        self.outcomes: dict[int, Any] = {}
        self.reports: dict[int, Mapping[int, RankReport]] = {}

    def group(self, rank: int, **changes: Any) -> Group:
        values: dict[str, Any] = {
            "rank": rank,
            "size": self.size,
            "connect": self.server.connect,
            "host": f"n{rank}",
        } | changes
        return Group(**values)

    def start(
        self,
        rank: int,
        work: Callable[[ProgressTracker], Any],
        group: Group | None = None,
        **call: Any,
    ) -> threading.Thread:
        def run() -> None:
            try:
                shared = share(group or self.group(rank), work, **{"timeouts": BRISK} | call)
                self.outcomes[rank], self.reports[rank] = shared.result, shared.ranks
            except BaseException as error:  # noqa: BLE001 - an outcome like any other
                self.outcomes[rank] = error

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def run(self, work: Callable[[ProgressTracker], Any], **call: Any) -> dict[int, Any]:
        threads = [self.start(rank, work, **call) for rank in range(self.size)]
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "a rank hangs"
        return self.outcomes


def call_number(number: int, _: ProgressTracker) -> dict[str, Any]:
    return {"call": number}


def never(_: ProgressTracker) -> dict[str, Any]:
    raise AssertionError("only rank 0 works")


def until_stopped(progress: ProgressTracker) -> dict[str, Any]:
    for number in range(6000):
        progress.report(Progress(State.FETCHING, files=number))
        time.sleep(0.02)
    raise AssertionError("nobody stopped the work")


def test_every_rank_gets_rank_zeros_result() -> None:
    """All of 64 ranks get the same result; rank 0 also gets each rank's report."""
    ranks = Ranks(64)
    ranks.run(lambda _: {"commit": "c"}, confirm=lambda result: {"saw": result["commit"]})
    reports = ranks.reports.pop(0)
    assert all((r.waited or 0) >= 0 and (r.lag or 0) >= 0 for r in reports.values())
    assert {rank: (r.ok, r.host, r.found) for rank, r in reports.items()} == {
        rank: (True, f"n{rank}", {"saw": "c"}) for rank in range(64)
    }
    assert set(map(len, ranks.reports.values())) == {0}
    assert list(ranks.outcomes.values()) == [{"commit": "c"}] * 64


@pytest.mark.parametrize(
    "error",
    [FolderFull("disk full"), EmptySelection("no rows"), RuntimeError("a bug"), OSError(28, "x")],
)
def test_every_rank_gets_rank_zeros_error(error: Exception) -> None:
    """Whatever rank 0 raises, all raise: same class, same message, at once."""

    def work(_: ProgressTracker) -> dict[str, Any]:
        raise error

    start = time.monotonic()
    outcomes = Ranks(16).run(work)
    assert time.monotonic() - start < 10
    assert outcomes[0] is error
    assert {(type(outcome), str(outcome)) for outcome in outcomes.values()} == {
        (type(error), str(error))
    }


@pytest.mark.parametrize("signal", [Terminated, KeyboardInterrupt])
def test_a_signalled_rank_zero_is_lost_to_the_other_ranks(signal: type[BaseException]) -> None:
    """SIGTERM and Ctrl-C on rank 0 are its own end, and RankZeroLost for the other ranks."""

    def work(_: ProgressTracker) -> dict[str, Any]:
        raise signal

    outcomes = Ranks(3).run(work)
    assert isinstance(outcomes.pop(0), signal)
    assert {(type(o), o.exit_code) for o in outcomes.values()} == {(RankZeroLost, 76)}


def test_a_rank_that_cannot_use_the_outcome_fails_all_by_name() -> None:
    """The verdict names the failing rank, its host and its reason on every rank."""
    ranks = Ranks(4)

    def confirm(_: dict[str, Any]) -> None:
        raise NotVisible("no ready record here")

    threads = [ranks.start(3, lambda _: {}, confirm=confirm)]
    threads += [ranks.start(rank, lambda _: {}) for rank in (0, 1, 2)]
    for thread in threads:
        thread.join(120)
    assert {str(o) for o in ranks.outcomes.values()} == {"rank 3 on n3: no ready record here"}
    assert {type(o) for o in ranks.outcomes.values()} == {NotVisible}


def test_rank_zeros_own_failure_to_confirm_reaches_all() -> None:
    """Rank 0 is a rank like any other when it can't use its own outcome."""

    def confirm(_: dict[str, Any]) -> None:
        raise OSError(5, "Input/output error")

    ranks = Ranks(2)
    threads = [ranks.start(0, lambda _: {}, confirm=confirm), ranks.start(1, never)]
    for thread in threads:
        thread.join(120)
    assert {str(o) for o in ranks.outcomes.values()} == {
        "rank 0 on n0: [Errno 5] Input/output error"
    }


@pytest.mark.parametrize("fails", [False, True])
def test_different_arguments_are_a_mismatch_on_all(fails: bool) -> None:
    """If arguments differ all ranks raise CallMismatch, whether rank 0 succeeds or not."""

    def work(_: ProgressTracker) -> dict[str, Any]:
        if fails:
            raise EmptySelection("no rows")
        return {}

    ranks = Ranks(4)
    threads = [
        ranks.start(r, work, arguments={"sample_count": None if r > 1 else 8, "split": "train"})
        for r in range(4)
    ]
    for thread in threads:
        thread.join(120)
    assert {type(o) for o in ranks.outcomes.values()} == {CallMismatch}
    (message,) = {str(o) for o in ranks.outcomes.values()}
    assert "rank 2 on n2, rank 3 on n3" in message
    assert "sample_count is None here and 8 on rank 0" in message


def test_rank_zero_works_without_waiting_for_anybody(caplog: pytest.LogCaptureFixture) -> None:
    """A rank that never comes doesn't fail a finished job; a warning names it."""
    ranks = Ranks(3)
    timeouts = Timeouts(arrival=60, heartbeat=20, visibility=0.2)
    # The time for confirming is derived: 30 s more than this
    object.__setattr__(timeouts, "visibility", -27.0)
    with caplog.at_level(logging.WARNING):
        threads = [ranks.start(rank, lambda _: {}, timeouts=timeouts) for rank in (0, 1)]
        for thread in threads:
            thread.join(120)
    assert ranks.reports[0][2] == RankReport()
    assert ranks.outcomes[1] == {}
    assert "rank 2 never reported" in caplog.text


def test_a_late_follower_gets_the_outcome() -> None:
    """A rank that arrives long after rank 0 has finished its work still gets the outcome."""
    ranks, done = Ranks(2), threading.Event()

    def work(_: ProgressTracker) -> dict[str, Any]:
        done.set()
        return {"rows": 3}

    first = ranks.start(0, work)
    done.wait(120)
    time.sleep(1.5)
    second = ranks.start(1, never)
    first.join(120)
    second.join(120)
    assert ranks.outcomes[1] == {"rows": 3}


def test_a_late_rank_zero_is_waited_for() -> None:
    """Followers wait for a rank 0 that starts after them."""
    ranks = Ranks(2)
    follower = ranks.start(1, never)
    time.sleep(1.5)
    ranks.start(0, lambda _: {"rows": 3}).join(120)
    follower.join(120)
    assert ranks.outcomes[1] == {"rows": 3}


def test_work_has_no_time_limit() -> None:
    """Work that takes several heartbeat timeouts is waited for as long as it makes progress."""

    def work(progress: ProgressTracker) -> dict[str, Any]:
        for number in range(50):
            progress.report(Progress(State.FETCHING, files=number))
            time.sleep(0.1)
        return {}

    seen: list[Progress] = []
    outcomes = Ranks(3).run(work, watch=seen.append, timeouts=Timeouts(arrival=60, heartbeat=2))
    assert outcomes[1] == {}
    assert any(progress.files is not None and progress.files > 5 for progress in seen)


def test_a_rank_zero_without_progress_has_stalled_for_all() -> None:
    """A living rank 0 whose work stands still is Stalled on every rank, and its work is stopped."""

    def work(progress: ProgressTracker) -> dict[str, Any]:
        while True:
            progress.report(Progress(State.FETCHING, files=1))
            time.sleep(0.05)

    outcomes = Ranks(3).run(work, timeouts=Timeouts(arrival=5, heartbeat=1, stall=0.5))
    assert {type(o) for o in outcomes.values()} == {Stalled}


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Return a call that blocks until the test is over, as a file system that doesn't answer."""
    monkeypatch.setattr("step37_flickr8k.cluster.work._LAST_WORDS", 0.1)
    over = threading.Event()
    yield lambda *_: over.wait()
    over.set()


@pytest.mark.parametrize("size", [1, 3])
def test_work_that_blocks_ends_no_rank_later_than_the_stall_timeout(
    blocked: Callable[..., Any], size: int
) -> None:
    """Work that neither reports nor returns is left behind: Stalled on every rank, rank 0 too."""
    ranks = Ranks(size)
    outcomes = ranks.run(blocked, timeouts=Timeouts(arrival=5, heartbeat=1, stall=0.5))
    assert {type(o) for o in outcomes.values()} == {Stalled}
    assert len(outcomes) == size
    assert "no progress for 0.5 s while starting" in str(outcomes[0])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_blocks_while_it_confirms_is_left_behind(
    blocked: Callable[..., Any], rank: int
) -> None:
    """A file system that doesn't answer on one rank fails all, by that rank's name."""
    ranks = Ranks(2)
    timeouts = Timeouts(arrival=60, heartbeat=20, visibility=-29.5)  # half a second to confirm
    threads = [
        ranks.start(each, lambda _: {}, timeouts=timeouts)
        if each != rank
        else ranks.start(each, lambda _: {}, timeouts=timeouts, confirm=blocked)
        for each in range(2)
    ]
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a rank hangs"
    assert isinstance(ranks.outcomes[rank], NotVisible)
    assert "its file system doesn't answer" in str(ranks.outcomes[rank])


def test_an_earlier_result_is_not_waited_for_without_end(blocked: Callable[..., Any]) -> None:
    """A rank that has lost rank 0 ends as such, though its file system doesn't answer."""
    ranks = Ranks(2)
    timeouts = Timeouts(arrival=0.3, heartbeat=1, visibility=-29.5)
    ranks.start(1, never, find_result=blocked, timeouts=timeouts).join(120)
    assert isinstance(ranks.outcomes[1], RankZeroLost)


def test_a_signal_ends_work_that_blocks(blocked: Callable[..., Any]) -> None:
    """The rank's own thread stays free: what a signal raises there ends the call at once."""

    def interrupt(_: Progress) -> None:
        raise AssertionError("nothing is reported")

    def work(_: ProgressTracker) -> dict[str, Any]:
        signal.raise_signal(signal.SIGINT)
        blocked()
        return {}

    with pytest.raises(KeyboardInterrupt):
        share(Group.alone(), work, watch=interrupt)


def test_waiting_for_quota_is_no_stall() -> None:
    """Rank 0 may wait for quota or the lease for longer than the stall timeout."""

    def work(progress: ProgressTracker) -> dict[str, Any]:
        for _ in range(20):
            progress.report(Progress(State.WAITING_FOR_RATE_LIMIT, "43 s"))
            time.sleep(0.05)
        return {}

    assert Ranks(2).run(work, timeouts=Timeouts(arrival=5, heartbeat=1, stall=0.5))[1] == {}


def test_a_rank_zero_that_never_starts_is_never_met() -> None:
    """Without a rank 0 a follower ends as RankZeroLost after the arrival timeout."""
    ranks = Ranks(2)
    ranks.start(1, never, timeouts=Timeouts(arrival=0.3, heartbeat=1)).join(120)
    assert isinstance(ranks.outcomes[1], RankZeroLost)
    assert "never met rank 0 within 0.3 s" in str(ranks.outcomes[1])


def silent_rank_zero(ranks: Ranks, messages: int) -> str:
    """Write as a rank 0 that falls silent after some heartbeats; return the key that comes next."""
    store, nonce = FakeStore(ranks.server), "dead"
    store.set("step37/job/0.0/nonce", nonce)
    for number in range(1, messages + 1):
        store.set(
            f"step37/job/0.0/{nonce}/word/{number}",
            json.dumps({"kind": "beat", "state": "fetching"}),
        )
    store.wait("step37/job/0.0/arrival/1", 120)
    store.set("step37/job/0.0/answer/1", json.dumps({"nonce": nonce, "word": messages}))
    return f"step37/job/0.0/{nonce}/word/{messages + 1}"


def test_silence_is_a_lost_rank_zero() -> None:
    """A silent rank 0 is lost after the heartbeat timeout; its next key holds `Lost`."""
    ranks = Ranks(2)
    follower = ranks.start(1, never, timeouts=SILENT)
    next_word = silent_rank_zero(ranks, 3)
    start = time.monotonic()
    follower.join(120)
    assert time.monotonic() - start > 0.5
    assert isinstance(ranks.outcomes[1], RankZeroLost)
    assert json.loads(ranks.server.values[next_word])["kind"] == "lost"


def test_a_thawed_rank_zero_adopts_what_stands() -> None:
    """A rank 0 that was given up while it was frozen ends as lost, too, and its work is stopped."""
    ranks = Ranks(2)
    thread = ranks.start(0, until_stopped, timeouts=Timeouts(arrival=60, heartbeat=2))
    store = FakeStore(ranks.server)
    assert store.wait("step37/job/0.0/nonce", 120)
    nonce = store.get("step37/job/0.0/nonce")
    lost = json.dumps({"kind": "lost", "message": "given up by rank 1"})
    keys = (f"step37/job/0.0/{nonce}/word/{number}" for number in itertools.count(1))
    # The first that it hasn't written yet
    next(key for key in keys if store.compare_set(key, "", lost) == lost)
    thread.join(120)
    assert isinstance(ranks.outcomes[0], RankZeroLost)
    assert "given up by rank 1" in str(ranks.outcomes[0])


def test_a_dead_attempts_outcome_is_not_believed() -> None:
    """What an earlier rank 0 of the same call left in the store is replaced, not read."""
    ranks = Ranks(2)
    ranks.run(lambda _: {"attempt": 1})
    ranks.outcomes.clear()
    assert ranks.run(lambda _: {"attempt": 2})[1] == {"attempt": 2}


def test_followers_come_over_to_a_new_rank_zero() -> None:
    """A new rank 0 takes the call over: the followers of the dead one follow it at once."""
    ranks = Ranks(3)
    threads = [
        ranks.start(rank, never, timeouts=Timeouts(arrival=30, heartbeat=30)) for rank in (1, 2)
    ]
    store = FakeStore(ranks.server)
    store.set("step37/job/0.0/nonce", "dead")
    store.set("step37/job/0.0/dead/word/1", json.dumps({"kind": "beat", "state": "fetching"}))
    for number in (1, 2):
        assert store.wait(f"step37/job/0.0/arrival/{number}", 120)
        store.set(f"step37/job/0.0/answer/{number}", json.dumps({"nonce": "dead", "word": 1}))
    time.sleep(0.2)
    threads.append(ranks.start(0, lambda _: {"attempt": 2}))
    for thread in threads:
        thread.join(120)
    assert ranks.outcomes[1] == ranks.outcomes[2] == {"attempt": 2}


def test_an_earlier_rank_zero_that_lives_on_learns_that_it_was_replaced() -> None:
    """Of two rank 0s of one call the newer counts; the older one's work ends."""
    ranks = Ranks(2)
    old = ranks.start(0, until_stopped, timeouts=Timeouts(arrival=60, heartbeat=2))
    # Else the newer one might begin first
    assert FakeStore(ranks.server).wait("step37/job/0.0/nonce", 120)
    newer = Ranks(2, ranks.server)
    threads = [newer.start(rank, lambda _: {"attempt": 2}) for rank in range(2)]
    for thread in (old, *threads):
        thread.join(120)
    assert isinstance(ranks.outcomes[0], RankZeroLost)
    assert newer.outcomes[1] == {"attempt": 2}


def test_a_lost_store_loses_rank_zero_at_once_where_it_cannot_be_reached_again() -> None:
    """In a process group the store's end is rank 0's end."""
    ranks = Ranks(2)
    follower = ranks.start(1, never, timeouts=Timeouts(arrival=60, heartbeat=30))
    silent_rank_zero(ranks, 1)
    ranks.server.die()
    follower.join(120)
    assert isinstance(ranks.outcomes[1], RankZeroLost)


def test_a_lost_connection_is_made_again() -> None:
    """Over a bare store a follower connects again, and finds the rank 0 that has come back."""
    ranks = Ranks(2)
    servers = [ranks.server]
    follower_group = ranks.group(
        1,
        reconnects=True,
        connect=lambda seconds: servers[-1].connect(seconds),  # noqa: PLW0108 - the last one then
    )
    follower = ranks.start(1, never, follower_group, timeouts=Timeouts(arrival=30, heartbeat=10))
    silent_rank_zero(ranks, 1)
    servers.append(FakeServer())
    ranks.server.die()
    reborn = Ranks(2, servers[-1])
    reborn.start(0, lambda _: {"attempt": 2}).join(120)
    follower.join(120)
    assert ranks.outcomes[1] == {"attempt": 2}


def test_rank_zero_without_its_store_finishes_its_work(caplog: pytest.LogCaptureFixture) -> None:
    """When the store dies under rank 0 the work is finished all the same, with a warning."""
    ranks = Ranks(2)

    def work(_: ProgressTracker) -> dict[str, Any]:
        ranks.server.die()
        time.sleep(0.3)
        return {"rows": 1}

    with caplog.at_level(logging.WARNING):
        ranks.start(0, work).join(120)
    assert ranks.outcomes[0]["rows"] == 1
    assert "the store is lost" in caplog.text


def test_a_store_that_cannot_be_reached_by_rank_zero_is_transient() -> None:
    """Rank 0 doesn't work when it can't even open the store: the other ranks would wait in vain."""

    def refuse(_: float) -> FakeStore:
        raise ConnectionError("port 29500 is taken")

    with pytest.raises(TransientError, match="29500"):
        share(Group(rank=0, size=2, connect=refuse), never)


def test_an_earlier_success_turns_a_lost_rank_zero_into_success() -> None:
    """A rank that loses rank 0 continues if the result of an earlier success is there."""
    ranks = Ranks(2)
    follower = ranks.start(
        1,
        never,
        find_result=lambda this_run_only: None if this_run_only else {"warm": True},
        timeouts=SILENT,
    )
    silent_rank_zero(ranks, 1)
    follower.join(120)
    assert ranks.outcomes[1] == {"warm": True}


def test_a_record_that_names_this_run_needs_no_rank_zero() -> None:
    """A replaced rank of a finished job doesn't wait for a rank 0 that is gone."""
    ranks = Ranks(2)
    start = time.monotonic()
    follower = ranks.start(
        1, never, find_result=lambda _: {"warm": True}, timeouts=Timeouts(arrival=60, heartbeat=1)
    )
    follower.join(120)
    assert ranks.outcomes[1]["warm"] is True
    assert time.monotonic() - start < 10


def test_several_calls_in_one_process_do_not_mix() -> None:
    """Each call of a group has keys of its own, and ranks that count alike meet."""
    ranks = Ranks(3)
    groups = [ranks.group(rank) for rank in range(3)]
    for number in range(3):
        threads = [
            ranks.start(rank, partial(call_number, number), groups[rank]) for rank in range(3)
        ]
        for thread in threads:
            thread.join(120)
        assert ranks.outcomes[2] == {"call": number}


def test_a_single_rank_needs_no_store() -> None:
    """Alone, work and confirming just run."""
    confirmed: list[Mapping[str, Any]] = []
    shared = share(Group.alone(), lambda _: {"rows": 1}, confirm=confirmed.append)
    assert (shared.result, shared.ranks) == ({"rows": 1}, {})
    assert confirmed == [{"rows": 1}]
    with pytest.raises(ConnectionError):
        Group.alone().connect(1)


def test_waiting_costs_a_fifth_of_a_request_per_second() -> None:
    """A follower blocks in the store: it makes at most 0.2 requests a second."""
    ranks = Ranks(2)
    heartbeat = 1.0
    follower = ranks.start(1, never, timeouts=Timeouts(arrival=30, heartbeat=heartbeat))

    def requests_of_heartbeats() -> int:
        silent_rank_zero(ranks, 1)
        time.sleep(0.2)
        before = ranks.server.requests
        store = FakeStore(ranks.server)
        for number in range(2, 8):
            store.set(
                f"step37/job/0.0/dead/word/{number}",
                json.dumps({"kind": "beat", "state": "fetching"}),
            )
            time.sleep(heartbeat / 2)
        return ranks.server.requests - before - 6

    per_heartbeat = requests_of_heartbeats() / 6
    follower.join(120)
    assert per_heartbeat / Timeouts().heartbeat_interval <= 0.2


def test_unknown_errors_of_rank_zero_are_named() -> None:
    """A class that only rank 0 knows arrives as a Step37Error that names it."""

    class Odd(Exception):
        pass

    def work(_: ProgressTracker) -> dict[str, Any]:
        raise Odd("strange")

    outcomes = Ranks(2).run(work)
    assert isinstance(outcomes[0], Odd)
    assert (type(outcomes[1]), str(outcomes[1])) == (Step37Error, "Odd on n0: strange")


def test_no_process_group_means_rank_zero_and_no_barrier() -> None:
    """Without a process group there is no group, this is rank 0, and the barrier is a no-op."""
    assert stores.current_group() is None
    assert stores.is_rank_zero()
    stores.barrier()
