"""A state machine as a value that can be copied: what it has been sent so far, as a number.

The protocol's machines are generators, which can't be copied. Their state is what they were sent;
two of them that have come to the same line with the same variables are in the same state.
"""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from step37_flickr8k.cluster.protocol import actions as act
from step37_flickr8k.cluster.protocol.call import Ended
from step37_flickr8k.cluster.protocol.follower import Follower
from step37_flickr8k.cluster.protocol.leader import Leader
from step37_flickr8k.errors import RankZeroLost

Machine = Leader | Follower


@dataclass(frozen=True)
class Lost:
    """The machine raised `RankZeroLost`."""

    why: str


# What a machine came to: the next action, or its end.
Reached = act.Action | Ended | Lost


class Local:
    """One kind of machine, made by ``make``; its states are small numbers, 0 the first one."""

    def __init__(self, make: Callable[[float], Machine]) -> None:
        self._make = make
        self._numbers: dict[Any, int] = {}
        self._histories: list[tuple[tuple[float, Any], ...]] = []
        self._steps: dict[tuple[int, float, str], int] = {}
        self.reached: list[Reached] = []
        self.keys: list[str] = []
        self.phases: list[str] = []
        # When a follower gives up to wait for a message or an answer; infinity for others
        self.deadlines: list[float] = []
        # The functions that it is in
        self.inside: list[tuple[str, ...]] = []
        # The machine that came last to a state, for the next step from there.
        self._live: dict[int, tuple[Machine, Any]] = {}

    def begin(self, now: float) -> int:
        """Return the state of a machine that begins at a time."""
        machine = self._make(now)
        return self._enter(machine, machine.steps(), ((now, None),))

    def step(self, state: int, now: float, event: Any) -> int:
        """Return the state after an event: a value, or a ConnectionError."""
        key = state, now, repr(event)
        if key not in self._steps:
            history = self._histories[state]
            if state in self._live:
                machine, steps = self._live.pop(state)
            else:
                machine, steps = self._replayed(history)
            self._steps[key] = self._enter(machine, steps, (*history, (now, event)))
        return self._steps[key]

    def _enter(self, machine: Machine, steps: Any, history: tuple[tuple[float, Any], ...]) -> int:
        """Send the last event, and return the number of the state that this leads to."""
        reached = _send(machine, steps, *history[-1])
        # ``now`` is set anew before each step.
        kept = {name: value for name, value in vars(machine).items() if name != "now"}
        frames = _frames(steps)
        name = repr((frames, kept, reached))
        if name not in self._numbers:
            self._numbers[name] = len(self.reached)
            self._histories.append(history)
            self.reached.append(reached)
            self.keys.append(getattr(reached, "key", ""))
            self.phases.append(machine.state.value)
            self.deadlines.append(_deadline(machine, frames))
            self.inside.append(tuple(function for function, _, _ in frames))
        self._live[self._numbers[name]] = machine, steps
        return self._numbers[name]

    def _replayed(self, history: tuple[tuple[float, Any], ...]) -> tuple[Machine, Any]:
        machine = self._make(history[0][0])
        steps = machine.steps()
        for now, event in history:
            _send(machine, steps, now, event)
        return machine, steps


class Begun:
    """A machine of its own for a rank that is not copied: the same steps, without numbers."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._steps = machine.steps()
        self.reached: Reached = _send(machine, self._steps, machine.now, None)

    def step(self, now: float, event: Any) -> None:
        self.reached = _send(self.machine, self._steps, now, event)


def _send(
    machine: Machine, steps: Generator[act.Action, Any, Ended], now: float, event: Any
) -> Reached:
    machine.now = now
    try:
        return steps.throw(event) if isinstance(event, Exception) else steps.send(event)
    except StopIteration as end:
        ended: Ended = end.value
        return ended
    except (RankZeroLost, ConnectionError) as error:
        return Lost(f"{type(error).__name__}: {error}")


def _deadline(machine: Machine, frames: list[Any]) -> float:
    meeting = next((dict(values) for name, _, values in frames if name == "_meet_leader"), {})
    until: float = meeting.get("until", math.inf)
    return (
        machine.deadline if isinstance(machine, Follower) and machine.heard is not None else until
    )


def _frames(steps: Any) -> list[Any]:
    """Return line and variables of a suspended generator, and of those that it waits for."""
    found = []
    while steps is not None and getattr(steps, "gi_frame", None) is not None:
        frame = steps.gi_frame
        values = {name: value for name, value in frame.f_locals.items() if name != "self"}
        found.append((frame.f_code.co_name, frame.f_lasti, sorted(values.items())))
        steps = steps.gi_yieldfrom
    return found
