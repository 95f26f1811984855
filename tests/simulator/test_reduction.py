"""The exploration that leaves orders out finds what the one that takes all of them does."""

import pytest

from tests.simulator.cluster import Cluster
from tests.simulator.explore import explore
from tests.simulator.reduction import all_steps, enough_steps, unforeseen
from tests.simulator.test_exhaustive import SCENARIOS, report

pytestmark = pytest.mark.usefixtures("coarse_time")

QUICK = [
    {"size": 2, "faults": 1},
    {"size": 2, "faults": 1, "fails": True},
    {"size": 3, "faults": 0},
    {"size": 3, "faults": 2, "kinds": ("late",)},
]
SLOW = [{"size": 2, "faults": 2}, {"size": 3, "faults": 1}]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize(
    "rules", [*QUICK, *(pytest.param(rules, marks=pytest.mark.slow) for rules in SLOW)], ids=str
)
def test_both_explorations_find_the_same_ends(scenario: str, rules: dict[str, object]) -> None:
    """How and when it ends for each rank, over all orders, is the same with fewer of them."""
    rules = {**SCENARIOS[scenario], **rules}
    cluster = Cluster(**rules)  # type: ignore[arg-type]
    everything = Cluster(**rules, reads_at_once=False)  # type: ignore[arg-type]
    all_found, found = explore(everything, all_steps), explore(cluster, enough_steps)
    report(f"{rules}, all orders", all_found)
    report(f"{rules}", found)
    assert found.ways == all_found.ways
    assert found.states < all_found.states
    # The machines do no more than the reduction takes into account, in any order.
    assert not list(unforeseen(everything))
    assert not list(unforeseen(cluster))


def test_two_ranks_are_hit_at_one_time() -> None:
    """Faults of two ranks at one moment are explored: here, neither rank ever starts."""
    nobody_ends = (0.0, False, (), ())
    assert nobody_ends in explore(Cluster(2, serves=False, kinds=("late",))).ways
