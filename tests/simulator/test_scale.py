"""What 10,000 ranks ask of the store, counted in virtual time with the timeouts that users have."""

import logging
from collections.abc import Iterator

import pytest

from step37_flickr8k.cluster.protocol.keys import Timeouts
from tests.simulator import schedule
from tests.simulator.schedule import Schedule

RANKS = 10_000
WORK = 120.0
ARRIVED, ENDS = 20.0, WORK - 20.0  # all wait between these


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Iterator[Schedule]:
    """Play a call of 10,000 ranks that come within ten seconds, over a quick store."""
    monkeypatch.setattr(schedule, "TIMEOUTS", Timeouts(stall=0))
    call = Schedule(0, longest_latency=0.0001)
    call.size, call.work, call.faults = RANKS, WORK, 0
    call.serves, call.expects_all, call.fails, call.blind = True, True, False, None
    logging.disable(logging.CRITICAL)
    yield call.play()
    logging.disable(logging.NOTSET)


def test_ten_thousand_ranks(call: Schedule) -> None:
    """A waiting rank asks at most 0.2 times a second; all know the outcome within 5 s."""
    assert {end.kind for end in call.ends.values()} == {"success"}
    waiting = sum(ARRIVED < when < ENDS for when, rank in call.requests if rank)
    a_second = waiting / (RANKS - 1) / (ENDS - ARRIVED)
    everything = sum(1 for _, rank in call.requests if rank) / (RANKS - 1)
    last = max(end.when for end in call.ends.values()) - call.members[0].work_ends
    counts = (
        f"{a_second:.3f} a rank and second, {everything:.1f} a rank in all, the last {last:.1f} s"
    )
    print(counts)
    assert a_second <= 0.2, counts
    assert everything <= 40, counts
    assert last <= 5, counts
