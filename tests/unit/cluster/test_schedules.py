"""Rank zero first under every failing step and under random starts, deaths and freezes."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from step37_flickr8k.cluster.progress import Progress, ProgressTracker, State
from step37_flickr8k.cluster.protocol.keys import Timeouts
from step37_flickr8k.cluster.share import Group, share
from step37_flickr8k.errors import RankZeroLost
from tests.helpers.fake_store import FakeServer, FakeStore

pytestmark = pytest.mark.slow

STORE_METHODS = ("set", "get", "check", "wait", "add", "compare_set")


class FailingStore:
    """A connection whose k-th request, and all later ones of the same connection, fail."""

    def __init__(self, store: FakeStore, step: int) -> None:
        self._store = store
        self._left = step

    def __getattr__(self, name: str) -> Any:
        assert name in STORE_METHODS
        if self._left == 0:
            raise ConnectionError("injected")
        self._left -= 1
        return getattr(self._store, name)


def brisk(confirming: float = 1.0) -> Timeouts:
    """Return short timeouts; the time for confirming is derived, so its base is moved."""
    timeouts = Timeouts(arrival=6, heartbeat=1, stall=5, visibility=1)
    object.__setattr__(timeouts, "visibility", confirming - 30)
    return timeouts


def outcomes_of(size: int, faulty: int, step: int) -> dict[int, Any]:
    """Run a call whose rank ``faulty`` loses its first connection at its step-th request."""
    server = FakeServer()
    outcomes: dict[int, Any] = {}
    connected: list[int] = []

    def run(rank: int) -> None:
        def connect(seconds: float) -> Any:
            store = server.connect(seconds)
            if rank != faulty or connected:
                return store
            connected.append(rank)
            return FailingStore(store, step)

        group = Group(rank=rank, size=size, connect=connect, host=f"n{rank}", reconnects=rank != 0)
        try:
            outcomes[rank] = share(
                group, lambda _: {"rows": 1}, find_result=lambda _: {"rows": 1}, timeouts=brisk()
            ).result["rows"]
        except RankZeroLost as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), (
            f"a rank hangs: rank {faulty} lost its connection at request {step}"
        )
    return outcomes


@pytest.mark.parametrize("faulty", [0, 1, 15])
def test_every_step_failing_hangs_nobody_and_fails_nobody_who_sees_a_record(faulty: int) -> None:
    """Whichever request of whichever rank fails, every rank succeeds, since the record is there."""
    with ThreadPoolExecutor(5) as pool:
        for outcomes in pool.map(lambda step: outcomes_of(16, faulty, step), range(16)):
            assert outcomes == dict.fromkeys(range(16), 1)


def test_sixty_four_ranks_with_a_failing_step_each() -> None:
    """The same with 64 ranks, for a few steps of rank 0, of one and of the last."""
    for faulty, step in ((0, 3), (1, 4), (63, 6)):
        assert outcomes_of(64, faulty, step) == dict.fromkeys(range(64), 1)


class Killed(BaseException):
    """The end of a simulated process."""


class Schedule:
    """A job whose ranks start, die, freeze and return at random; `check` checks the invariants."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.size = self.chance.randint(2, 6)
        self.servers: list[FakeServer] = []
        self.lock = threading.Lock()
        self.working = 0
        self.most_working = 0
        self.recorded_at: float | None = None
        self.failures: list[tuple[int, float, RankZeroLost]] = []
        self.threads: list[threading.Thread] = []

    def find_result(self, searched: list[float], _: bool) -> dict[str, Any] | None:
        searched.append(time.monotonic())
        return {"rows": 1} if self.recorded_at is not None else None

    def work(self, progress: ProgressTracker, killed: threading.Event) -> dict[str, Any]:
        if self.recorded_at is not None:
            return {"rows": 1}
        with self.lock:
            self.working += 1
            self.most_working = max(self.working, self.most_working)
        try:
            for number in range(self.chance.randint(5, 40)):
                progress.report(Progress(State.FETCHING, files=number))
                if killed.wait(0.05):
                    raise Killed
            self.recorded_at = time.monotonic()
            return {"rows": 1}
        finally:
            with self.lock:
                self.working -= 1

    def rank_zero(self, killed: threading.Event, server: FakeServer) -> None:
        self.run(Group(rank=0, size=self.size, connect=server.connect), killed)

    def follower(self, rank: int, killed: threading.Event) -> None:
        def connect(seconds: float) -> FakeStore:
            if not self.servers:
                time.sleep(min(seconds, 0.1))
                raise ConnectionError("connection refused")
            return self.servers[-1].connect(seconds)

        self.run(Group(rank=rank, size=self.size, connect=connect, reconnects=True), killed)

    def run(self, group: Group, killed: threading.Event) -> None:
        searched: list[float] = []  # when this rank searched for a result

        def watch(_: Progress) -> None:
            if group.rank and killed.is_set():
                raise Killed

        try:
            share(
                group,
                lambda p: self.work(p, killed),
                find_result=partial(self.find_result, searched),
                watch=watch,
                timeouts=brisk(),
            )
        except Killed:
            pass
        except RankZeroLost as error:
            self.failures.append((group.rank, searched[-1], error))

    def start(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        self.threads.append(thread)

    def play(self) -> None:
        chance = self.chance
        deaths = {rank: threading.Event() for rank in range(self.size)}
        for rank in chance.sample(range(1, self.size), chance.randint(0, self.size - 1)):
            self.start(self.follower, rank, deaths[rank])
        for _ in range(chance.randint(1, 3)):  # lives of rank 0
            time.sleep(chance.uniform(0, 0.5))
            self.servers.append(FakeServer())
            killed = threading.Event()
            self.start(self.rank_zero, killed, self.servers[-1])
            time.sleep(chance.uniform(0, 1.5))
            event = chance.choice(["live", "kill", "freeze", "follower"])
            if event == "freeze":
                self.servers[-1].freeze(chance.uniform(0.2, 2.5))
            elif event == "follower":
                rank = chance.randrange(1, self.size)
                deaths[rank].set()
                self.start(self.follower, rank, threading.Event())
            if event != "kill":
                break
            killed.set()
            self.servers[-1].die()
            self.threads[-1].join(120)  # a scheduler starts a rank again only when it has ended
        for thread in self.threads:
            thread.join(120)
            assert not thread.is_alive(), "a rank hangs beyond the limits"

    def check(self) -> None:
        assert self.most_working <= 1, "two downloaders at once"
        for rank, when, error in self.failures:
            assert self.recorded_at is None or when <= self.recorded_at, (
                f"rank {rank} failed beside a record: {error}"
            )


def play(seed: int) -> None:
    schedule = Schedule(seed)
    schedule.play()
    schedule.check()


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_random_schedules_hold_the_invariants(first: int) -> None:
    """Never two downloaders, never a hang, never a failure when a fitting record is there."""
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(play, range(first, first + 20)))
