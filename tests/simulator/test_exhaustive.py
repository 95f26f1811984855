"""Every order of events of two and three ranks with up to two faults, of the machines that ship.

What bounds the states: two or three ranks, at most two faults, and time. Time is bounded because
every wait is: after `invariants.LONGEST` the exploration fails. A state is what each machine would
do next, with all its variables, and what the store holds; orders that lead to one state are
explored once. `reduction` says which orders are left out, and why they lead to no other end;
`test_reduction` checks it.

A rank that freezes does so for longer than the heartbeat timeout, in part of the tests for less.
"""

import re
from pathlib import Path

import pytest

from tests.simulator.cluster import LONG, SHORT, Cluster
from tests.simulator.explore import Explored, explore
from tests.simulator.reduction import unforeseen

pytestmark = pytest.mark.usefixtures("coarse_time")

DOCUMENT = Path(__file__).parents[2] / "docs" / "explanation" / "protocol.md"
SERVED = {"serves": True, "expects_all": True}  # the command: rank 0 serves the store
OUTLIVES = {"serves": False, "expects_all": True}  # under torchrun: its agent does
LIBRARY = {"serves": False, "expects_all": False}  # in a process group
SCENARIOS = {"served": SERVED, "torchrun": OUTLIVES, "library": LIBRARY}


def report(what: str, found: Explored) -> None:
    """Print how much was explored; `pytest -rP tests/simulator` shows it."""
    print(f"{what}: {found}")


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize(
    "rules",
    [
        {"size": 2, "faults": 1, "freezes": (SHORT, LONG)},
        {"size": 2, "faults": 1, "fails": True},
        {"size": 2, "faults": 1, "blind": 1},
        {"size": 3, "faults": 0, "blind": 2},
        {"size": 3, "faults": 1},
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
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_invariants_hold_with_three_ranks_and_two_faults(scenario: str) -> None:
    """The same for three ranks, two of them hit, or one of them twice, by every kind of fault."""
    cluster = Cluster(3, faults=2, **SCENARIOS[scenario])  # type: ignore[arg-type]
    found = explore(cluster)
    report(f"{scenario}, three ranks, two faults", found)
    assert found.kinds == {"success", "lost"}
    assert not list(unforeseen(cluster))
    # What counts as one state differs a little between versions of Python.
    documented = re.search(rf"\| {scenario}: [^|]*\| ([\d,]+) \|", DOCUMENT.read_text())
    assert documented
    assert found.states == pytest.approx(int(documented[1].replace(",", "")), rel=0.1)


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
