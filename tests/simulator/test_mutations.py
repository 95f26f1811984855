"""Changes that break the protocol, each found by the exploration or by the random schedules."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from step37_flickr8k.cluster.protocol import follower, leader
from step37_flickr8k.cluster.protocol.follower import Follower
from step37_flickr8k.cluster.protocol.leader import Leader
from step37_flickr8k.cluster.protocol.messages import Verdict
from tests.simulator.cluster import Cluster
from tests.simulator.explore import explore
from tests.simulator.invariants import Violation
from tests.simulator.schedule import Schedule

pytestmark = pytest.mark.usefixtures("coarse_time")

# What is replaced in the source, by what.
MUTATIONS: dict[str, tuple[ModuleType, str, str]] = {
    "messages are written over what stands": (
        leader,
        """yield act.SaveOnce(
            self._keys.message(self._nonce, self._written + 1), message
        )""",
        "yield act.Save(self._keys.message(self._nonce, self._written + 1), message)",
    ),
    "a stale nonce is believed": (
        follower,
        """            answer: Answer | None = yield from self._read(
                keys.answer(number), Answer, min(until, self.now + seconds)
            )""",
        """            if (yield act.Await(keys.nonce, min(until, self.now + seconds))):
                self._hear()
                return Answer((yield act.Load(keys.nonce, str)), 1)
            answer = None""",
    ),
    "a new leader leaves the old one's followers": (
        leader,
        "yield from self._move_followers(before)",
        "pass",
    ),
    "a new leader is known before the old one's followers hear of it": (
        leader,
        """            if before:
                yield from self._move_followers(before)
""",
        """        if before:
            yield from self._move_followers(before)
""",
    ),
    "a follower gives up without a word": (
        follower,
        "message = (yield act.SaveOnce(key, lost)) or lost",
        "message = lost",
    ),
    "a report counts twice": (
        follower,
        "if (yield act.SaveOnce(key, self._report)) is None:",
        "if (yield act.SaveOnce(key, self._report)) or True:",
    ),
    "a number whose rank died blocks the later ones": (
        leader,
        "                yield from self._write_heartbeat()\n\n    def _stop",
        """                yield from self._write_heartbeat()
            else:
                break

    def _stop""",
    ),
    "the leader waits for reports without an end": (
        leader,
        "            is_over = self.now >= until\n",
        "            is_over = False\n",
    ),
    "a follower doesn't wait for the verdict": (
        follower,
        "yield from self._report_on(message, nonce)",
        """yield from self._report_on(message, nonce)
                return Ended(outcome=message, verdict=Verdict(), report=self._report)""",
    ),
    "rank 0 waits in a library for ranks that may never come": (
        leader,
        "range(1, facts.size) if facts.expects_all else ()",
        "range(1, facts.size)",
    ),
    "no word is left for ranks that come later": (
        leader,
        "yield act.Save(self._keys.finished, Finished(self.outcome, verdict))",
        "pass",
    ),
    "a follower has no patience after it confirmed": (
        follower,
        "self._report = yield act.Confirm(outcome)\n        self._hear()",
        "self._report = yield act.Confirm(outcome)\n        self.deadline = self.now",
    ),
}


def mutated(name: str) -> dict[str, Any]:
    """Return the machines with one change."""
    module, old, new = MUTATIONS[name]
    source = Path(str(module.__file__)).read_text()
    assert source.count(old) == 1, f"{name}: the source has changed, so must this mutation"
    values = {**vars(module), "Verdict": Verdict}
    exec(compile(source.replace(old, new), f"<{name}>", "exec"), values)
    for constant in re.findall(r"^(_[A-Z_]+)", source, re.MULTILINE):
        if constant in vars(module):
            values[constant] = vars(module)[constant]
    return {"leader": values["Leader"]} if module is leader else {"follower": values["Follower"]}


def attempts(machines: dict[str, Any]) -> Iterator[Callable[[], object]]:
    """Yield what is tried with the machines, the quick ones first."""
    outlives = {"size": 2, "faults": 1, "serves": False}
    library = {**outlives, "expects_all": False}
    for rules in (
        {**library, "kinds": ("late",)},
        {**library, "kinds": ("late",), "fails": True},
        {**outlives, "kinds": ("freeze",)},
        {**outlives, "size": 3, "kinds": ("kill",), "fails": True, "work": 8.0},
        {"size": 2, "faults": 1},
        {"size": 2, "faults": 1, "blind": 1},
        {"size": 3, "faults": 0, "blind": 2},
        library,
        {**outlives, "faults": 2, "kinds": ("kill",)},
    ):
        yield lambda rules=rules: explore(Cluster(**rules, **machines))  # type: ignore[misc]
    for seed in range(150):
        yield lambda seed=seed: Schedule(seed, **machines).play()  # type: ignore[misc]


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_is_found(name: str) -> None:
    """A protocol with this change breaks an invariant, and the trace shows how."""
    machines = mutated(name)
    with pytest.raises(Violation):
        make_all(attempts(machines))


def test_the_protocol_itself_passes_all_that_mutations_fail() -> None:
    """The attempts find nothing in the machines that ship."""
    make_all(attempts({"leader": Leader, "follower": Follower}))


def make_all(attempts: Iterator[Callable[[], object]]) -> None:
    """Make one attempt after the other."""
    for attempt in attempts:
        attempt()
