"""Every reachable state of a cluster, each visited once."""

from dataclasses import dataclass, field

from tests.simulator.cluster import Cluster, State
from tests.simulator.invariants import Violation, check, check_last


@dataclass
class Explored:
    """How much was explored."""

    states: int = 0
    steps: int = 0
    ends: int = 0
    kinds: set[str] = field(default_factory=set)


def explore(cluster: Cluster) -> Explored:
    """Take every step from every state that can be reached; raises `Violation` with a trace."""
    found, first = Explored(), cluster.first()
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    waiting = [first]
    while waiting:
        state = waiting.pop()
        found.states += 1
        last = True
        for name, after in cluster.steps(state):
            last = last and name.startswith("!")
            found.steps += 1
            if after in came_from:
                continue
            came_from[after] = state, name
            try:
                check(cluster, state, after)
            except Violation as problem:
                raise Violation(f"{problem}\n{trace(came_from, after)}") from None
            waiting.append(after)
        if last:
            found.ends += 1
            found.kinds |= {end.kind for end in state.ends}
            try:
                check_last(state)
            except Violation as problem:
                raise Violation(f"{problem}\n{trace(came_from, state)}") from None
    return found


def trace(came_from: dict[State, tuple[State, str] | None], state: State) -> str:
    """Return the steps that led to a state, one a line."""
    lines: list[str] = []
    while (step := came_from[state]) is not None:
        state, name = step
        lines.append(f"{state.now:5g}  {name}")
    return "\n".join(reversed(lines))
