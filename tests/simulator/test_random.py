"""Thousands of seeded schedules of up to 64 ranks.

`python -m tests.simulator.schedule SEED` replays one, and prints it.
"""

from collections import Counter

import pytest

from tests.simulator.schedule import Schedule

pytestmark = pytest.mark.usefixtures("seldom_turns")

CHUNK = 1_000


@pytest.mark.parametrize("first", range(0, 10_000, CHUNK))
def test_invariants_hold_in_random_schedules(first: int) -> None:
    """With late, dying, frozen and cut off ranks and slow stores, the invariants hold."""
    kinds: Counter[str] = Counter()
    for seed in range(first, first + CHUNK):
        kinds.update(end.kind for end in Schedule(seed).play().ends.values())
    # The schedules are worth something only if they come to all kinds of ends.
    assert min(kinds["success"], kinds["failure"], kinds["lost"]) > CHUNK // 10


def test_a_schedule_is_replayed_by_its_seed() -> None:
    """The same seed gives the same trace, so that a failure can be read."""
    assert Schedule(7).play().trace() == Schedule(7).play().trace()
