"""Every state of a cluster that can be reached, each visited once."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tests.simulator.cluster import Cluster, State
from tests.simulator.invariants import Violation, check, check_last
from tests.simulator.reduction import enough_steps

# Yields what can happen in a state, and what it leads to.
Steps: TypeAlias = Callable[[Cluster, State], Iterator[tuple[str, State]]]
# The step that led to a state, and those before it
Path: TypeAlias = tuple["Path", float, str] | None

# No more steps than this follow each other at one time: all of them wait for something.
MOST_STEPS = 200


@dataclass
class Explored:
    """How much was explored, and all the ways in which it ended."""

    states: int = 0
    steps: int = 0
    ends: int = 0
    kinds: set[str] = field(default_factory=set)
    ways: set[Any] = field(default_factory=set)

    def __str__(self) -> str:
        """Return the counts."""
        return f"{self.states:,} states, {self.steps:,} steps, {self.ends:,} ends"


def explore(cluster: Cluster, steps: Steps = enough_steps) -> Explored:
    """Take ``steps`` from every state that they reach; raises `Violation` with a trace.

    Time never goes back, so the states of earlier times can be forgotten.
    """
    with _no_collector():
        return _explored(cluster, steps)


def _explored(cluster: Cluster, steps: Steps) -> Explored:
    found, first = Explored(), cluster.first()
    reached: dict[float, dict[State, Path]] = {first.now: {first: None}}
    while reached:
        known = reached.pop(min(reached))
        waiting = [(state, path, 0) for state, path in known.items()]
        while waiting:
            state, path, steps_now = waiting.pop()
            found.states += 1
            if steps_now > MOST_STEPS:
                raise Violation(f"this goes on and on at {state.now:g}\n{trace(path)}")
            is_over = True
            for name, after in steps(cluster, state):
                is_over = is_over and name.startswith("!")
                found.steps += 1
                came = path, after.now, name
                try:
                    check(cluster, state, after)
                except Violation as problem:
                    raise Violation(f"{problem}\n{trace(came)}") from None
                if after.now > state.now:
                    reached.setdefault(after.now, {}).setdefault(after, came)
                elif after not in known:
                    known[after] = None
                    waiting.append((after, came, steps_now + 1))
            if is_over and cluster.is_over(state):
                found.ends += 1
                found.kinds |= {end.kind for end in state.ends}
                found.ways.add(way(state))
                try:
                    check_last(state)
                except Violation as problem:
                    raise Violation(f"{problem}\n{trace(path)}") from None
    return found


@contextmanager
def _no_collector() -> Iterator[None]:
    """Keep the collector of cycles from millions of states that have none: half of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def way(state: State) -> Any:
    """Return how and when it ended for each rank, the same whichever follower is which."""
    leader = tuple(end for end in state.ends if end.rank == 0)
    followers = sorted(str(end[1:]) for end in state.ends if end.rank)
    return state.now, state.record, leader, tuple(followers)


def trace(path: Path) -> str:
    """Return the steps of a path, one a line."""
    lines: list[str] = []
    while path is not None:
        path, now, name = path
        lines.append(f"{now:5g}  {name}")
    return "\n".join(reversed(lines))
