"""Every order of events, of the machines that ship, with a bound on time, ranks and faults.

Time is bounded, because every wait is: after `invariants.LONGEST` the exploration fails. A state is
what each machine would do next, with all its variables, and what the store holds; two orders that
lead to the same state are explored once. Faults that no other rank can notice are injected when no
other rank can move: earlier ones lead to the same states.
"""

import pytest

from tests.simulator.cluster import LONG, SHORT, Cluster
from tests.simulator.explore import Explored, explore

pytestmark = pytest.mark.usefixtures("coarse_time")

SERVED = {"serves": True, "expects_all": True}  # the command: rank 0 serves the store
OUTLIVES = {"serves": False, "expects_all": True}  # under torchrun: its agent does
LIBRARY = {"serves": False, "expects_all": False}  # in a process group
SCENARIOS = {"served": SERVED, "torchrun": OUTLIVES, "library": LIBRARY}


def report(what: str, found: Explored) -> None:
    """Print how much was explored; `pytest -rP tests/simulator` shows it."""
    counts = f"{found.states:,} states, {found.steps:,} steps, {found.ends:,} ends"
    print(f"{what}: {counts}")


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize(
    "rules",
    [
        {"size": 2, "faults": 1, "freezes": (SHORT, LONG)},
        {"size": 2, "faults": 1, "fails": True},
        {"size": 2, "faults": 1, "blind": 1},
        {"size": 3, "faults": 0, "fails": True},
        {"size": 3, "faults": 0, "blind": 2},
        {"size": 3, "faults": 1, "kinds": ("kill", "late")},
        {"size": 3, "faults": 2, "kinds": ("late",)},
        {"size": 2, "faults": 2},
    ],
    ids=lambda rules: "-".join(f"{name}={value}" for name, value in rules.items()),
)
def test_invariants_hold_in_every_order(scenario: str, rules: dict[str, object]) -> None:
    """Whatever order events come in, all invariants hold, and every rank comes to its end."""
    found = explore(Cluster(**SCENARIOS[scenario], **rules))  # type: ignore[arg-type]
    report(f"{scenario}, {rules}", found)
    assert found.ends
    assert "failure" in found.kinds or "success" in found.kinds


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "rules"),
    [
        ("served", {"size": 2, "faults": 2, "freezes": (SHORT, LONG)}),
        ("library", {"size": 2, "faults": 2, "fails": True}),
        ("torchrun", {"size": 2, "faults": 2, "blind": 1}),
        ("served", {"size": 3, "faults": 1, "freezes": (SHORT, LONG)}),
    ],
    ids=["short freezes", "work that fails", "a blind rank", "three ranks"],
)
def test_invariants_hold_with_every_fault(scenario: str, rules: dict[str, object]) -> None:
    """The same with short freezes, and with work that fails or can't be used, under two faults."""
    found = explore(Cluster(**SCENARIOS[scenario], **rules))  # type: ignore[arg-type]
    report(f"{scenario}, {rules}", found)
    assert found.ends
