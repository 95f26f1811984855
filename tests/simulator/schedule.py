"""One run of a simulated cluster by a seed: latencies, late ranks, deaths, freezes, restarts.

``python -m tests.simulator.schedule SEED`` prints what happens.
"""

import heapq
import random
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from step37_flickr8k.cluster.progress import Progress
from step37_flickr8k.cluster.protocol import actions as act
from step37_flickr8k.cluster.protocol.call import Facts
from step37_flickr8k.cluster.protocol.follower import Follower
from step37_flickr8k.cluster.protocol.keys import Timeouts
from step37_flickr8k.cluster.protocol.leader import Leader
from step37_flickr8k.cluster.protocol.messages import Outcome, RankReport
from tests.simulator.answers import FULL, End, answered, end_of, local_answer
from tests.simulator.cluster import KEYS
from tests.simulator.invariants import Violation
from tests.simulator.machines import Begun

TIMEOUTS = Timeouts(arrival=60, heartbeat=4, stall=0, visibility=-20)
# After this the longest wait of a rank is over, in any schedule.
LONGEST = 400.0


@dataclass
class Member:
    """One rank, in its current life."""

    rank: int
    life: int = 0
    began: float = 0.0
    machine: Begun | None = None
    work_ends: float = 0.0
    thaws: float = 0.0
    is_cut_off: bool = False
    # Events of earlier actions, and of earlier lives, count no more.
    turn: int = 0


@dataclass
class Schedule:
    """A cluster of ``size`` ranks; ``faults`` happen at random times of the first seconds."""

    seed: int
    leader: type[Leader] = Leader
    follower: type[Follower] = Follower
    longest_latency: float = 0.05
    steps: list[tuple[Any, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Draw the scenario."""
        chance = self.chance = random.Random(self.seed)
        self.size = round(2 ** chance.uniform(1, 6))
        self.serves = chance.random() < 0.6
        self.expects_all = chance.random() < 0.6
        self.fails = chance.random() < 0.2
        self.blind = chance.randrange(1, self.size) if chance.random() < 0.15 else None
        self.faults = chance.choice([0, 1, 1, 2, 3, 5])
        self.work = chance.choice([0.0, 0.5, chance.uniform(0, 15)])
        self.now, self.record, self.has_store = 0.0, False, not self.serves
        self.store: dict[str, Any] = {}
        self.members: list[Member] = []
        self.requests: list[tuple[float, int]] = []  # when, and by which rank
        self.waiting: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.ends: dict[int, End] = {}
        self.gone: dict[int, float] = {}  # when each life of rank 0 ended
        self._events: list[tuple[float, int, str, int, int]] = []
        self._count = 0

    def play(self) -> "Schedule":
        """Run it to its end; raises `Violation`, with the trace, where an invariant is broken."""
        self.members = [Member(rank) for rank in range(self.size)]
        chance, late = self.chance, self.chance.choice([0.0, 1.0, 10.0])
        for member in self.members:
            self._at(chance.uniform(0, late), "start", member.rank)
        for _ in range(self.faults):
            fault = chance.choice(["kill", "restart", "freeze", "cut"])
            # Rank 0 matters most.
            rank = 0 if chance.random() < 0.4 else chance.randrange(self.size)
            self._at(chance.uniform(0, 12), fault, rank)
        try:
            self._play_on()
            if not self.serves and self.expects_all and chance.random() < 0.5:
                self._start_again()
        except Violation as problem:
            raise Violation(f"seed {self.seed}: {problem}\n{self.trace()}") from None
        return self

    def _play_on(self) -> None:
        while self._events and self.now <= LONGEST:
            self.now, _, kind, rank, turn = heapq.heappop(self._events)
            self._happen(kind, self.members[rank], turn)
        self._check()

    def _start_again(self) -> None:
        """Start all ranks once more on the same store, for an empty directory."""
        self.record, self.faults = False, 0
        self.ends.clear()
        for member in self.members:
            self._at(self.now + self.chance.uniform(1, 3), "start", member.rank)
        self._play_on()

    # --- events ---

    def _at(self, time: float, kind: str, rank: int, turn: int = -1) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, kind, rank, turn))

    def _happen(self, kind: str, member: Member, turn: int) -> None:
        if kind == "start":
            self._start(member)
        elif kind in {"kill", "restart"}:
            self._kill(member, again=kind == "restart")
        elif kind == "freeze" and member.machine:
            member.thaws = self.now + self.chance.choice([1.0, 3.0, 7.0, 20.0])
            self._say(member, f"freezes until {member.thaws:.2f}")
        elif kind == "cut" and member.rank and member.machine:
            member.is_cut_off = True
            self._say(member, "loses its connection")
        elif turn == member.turn and member.machine:
            if member.thaws > self.now:
                self._at(member.thaws, kind, member.rank, turn)
            else:
                self._go_on(member, timed_out=kind == "timeout")

    def _start(self, member: Member) -> None:
        member.life += 1
        member.began, member.is_cut_off = self.now, False
        member.work_ends = self.now + (0.0 if self.record else self.work)
        if member.rank == 0 and self.serves:
            self.store, self.has_store = {}, True
        facts = Facts(
            rank=member.rank,
            size=self.size,
            host=f"n{member.rank}",
            keys=KEYS,
            timeouts=TIMEOUTS,
            expects_all=self.expects_all,
            reconnects=self.serves and member.rank > 0,
        )
        self._say(member, f"starts, life {member.life}")
        member.machine = Begun(
            self.follower(facts, self.now)
            if member.rank
            else self.leader(facts, f"L{member.life}", self.now)
        )
        self._ask(member)

    def _kill(self, member: Member, *, again: bool) -> None:
        if member.machine is None:
            return
        self._say(member, "is killed")
        if member.rank == 0:
            self.gone[member.life] = self.now
        member.machine, member.turn, member.thaws = None, member.turn + 1, 0.0
        if member.rank == 0 and self.serves:
            self._lose_store()
        if again:
            self._at(self.now + self.chance.uniform(0.1, 5), "start", member.rank)

    def _lose_store(self) -> None:
        self.has_store = False
        for other in self.members[1:]:
            if other.machine:
                other.is_cut_off = True
                self._at(self.now, "retry", other.rank, other.turn)

    # --- actions ---

    def _ask(self, member: Member) -> None:
        """Plan when a rank's next action comes to something."""
        assert member.machine is not None
        member.turn += 1
        action, machine = member.machine.reached, member.machine
        while (answer := self._answer(member, machine.reached)) is not NotImplemented:
            machine.step(self.now, answer)
        action = machine.reached
        if not isinstance(action, act.Action):
            self._end(member)
            return
        if isinstance(action, act.Turn | act.Pause):
            until = action.until
            if isinstance(action, act.Turn) and self.now < member.work_ends:
                until = min(until, member.work_ends)
            self._at(max(until, self.now), "retry", member.rank, member.turn)
        else:
            self.requests.append((self.now, member.rank))
            latency = self.chance.uniform(0, self.longest_latency)
            self._at(self.now + latency, "retry", member.rank, member.turn)

    def _answer(self, member: Member, action: Any) -> Any:
        if isinstance(action, act.StopWork):
            member.work_ends = -1.0
        return local_answer(action, member.rank, blind=self.blind, record=self.record)

    def _go_on(self, member: Member, *, timed_out: bool) -> None:
        """Do what a rank asked for, if it can be done now."""
        machine = member.machine
        assert machine is not None
        action: Any = machine.reached
        if isinstance(action, act.Pause):
            event: Any = None
        elif isinstance(action, act.Turn):
            event = self._work_state(member)
        else:
            event = self._requested(member, action, timed_out=timed_out)
            if event is NotImplemented:
                return
        if not isinstance(action, act.Turn | act.Pause):
            self.steps.append((self.now, member.rank, action, event))
        machine.step(self.now, event)
        self._ask(member)

    def _requested(self, member: Member, action: Any, *, timed_out: bool) -> Any:
        """Return what the store answers; `NotImplemented` while it doesn't."""
        if member.is_cut_off:
            member.is_cut_off = False
            return ConnectionError("connection reset")
        leader = self.members[0]
        if not self.has_store:
            if isinstance(action, act.Connect) and self.now < action.until:
                self._at(min(action.until, self.now + 1), "retry", member.rank, member.turn)
                return NotImplemented
            return ConnectionError("connection refused")
        if self.serves and leader.thaws > self.now and member.rank:
            if self.now > getattr(action, "until", leader.thaws) + 3:
                return ConnectionError("the store doesn't answer")
            again = min(leader.thaws, self.now + 1)
            self._at(again, "timeout" if timed_out else "retry", member.rank, member.turn)
            return NotImplemented
        if isinstance(action, act.Connect):
            return None
        if isinstance(action, act.Await):
            return self._awaited(member, action, timed_out=timed_out)
        return self._stored(member, action)

    def _awaited(self, member: Member, action: act.Await, *, timed_out: bool) -> Any:
        if action.key in self.store:
            return True
        if timed_out or self.now >= action.until:
            return False
        self.waiting[action.key].append((member.rank, member.turn))
        self._at(action.until, "timeout", member.rank, member.turn)
        return NotImplemented

    def _stored(self, member: Member, action: Any) -> Any:
        stands = self.store.get(action.key)
        came, value = answered(action, stands)
        if value is stands:
            return came
        self.store[action.key] = value
        if "/word/" in action.key and stands is not None and value is not stands:
            raise Violation(f"{action.key} is written twice")
        if stands is None:
            self._check_writer(member, action)
            for rank, turn in self.waiting.pop(action.key, []):
                latency = self.chance.uniform(0, self.longest_latency)
                self._at(self.now + latency, "retry", rank, turn)
        return came

    def _work_state(self, member: Member) -> act.WorkState:
        outcome: Outcome | None = None
        if self.now >= member.work_ends >= 0:
            failure = FULL if self.fails else None
            outcome = Outcome(arguments={}, result={"life": member.life}, failure=failure)
            self.record |= not self.fails
        assert member.machine is not None
        working = member.machine.machine.state.value == "working"
        report = None if working else RankReport(ok=True, host="n0")
        return act.WorkState(Progress(), 0.0, outcome, report)

    def _end(self, member: Member) -> None:
        assert member.machine is not None
        reached: Any = member.machine.reached
        end = end_of(member.rank, reached, record=self.record, now=self.now)
        self.ends[member.rank] = end
        if member.rank == 0:
            self.gone[member.life] = self.now
        self._say(member, f"ends: {end.kind} {end.why}")
        member.machine, member.turn = None, member.turn + 1
        # The command ends with its call; a process that calls the library lives on.
        if member.rank == 0 and self.serves and self.expects_all:
            self._lose_store()

    def _say(self, member: Member, what: str) -> None:
        self.steps.append((self.now, member.rank, what))

    def trace(self) -> str:
        """Return what happened, one step a line."""
        return "\n".join(_line(*step) for step in self.steps)

    # --- invariants ---

    def _check_writer(self, member: Member, action: Any) -> None:
        writer = f"L{member.life}"
        if member.rank == 0 and f"/{writer}/word/" in action.key:
            nonce = self.store[KEYS.nonce]
            if nonce != writer and KEYS.message(nonce, 1) in self.store:
                raise Violation(f"{writer} writes after {nonce} has taken over")

    def _check(self) -> None:
        waiting = [member.rank for member in self.members if member.machine]
        if waiting or self.now > LONGEST:
            raise Violation(f"rank {waiting} still waits at {self.now:g}")
        for end in self.ends.values():
            if (why := self._problem(end)) is not None:
                raise Violation(f"rank {end.rank} {why}")
        verdicts = {(end.life, end.agreed) for end in self.ends.values() if end.life}
        if len(verdicts) > len({life for life, _ in verdicts}):
            raise Violation(f"ranks disagree: {verdicts}")
        for key, count in self.store.items():
            if key.endswith("/reports"):
                reports = sum(known.startswith(key[:-1] + "/") for known in self.store)
                if count > reports:
                    raise Violation(f"{count} reports counted of {reports}")

    def _problem(self, end: End) -> str | None:
        """Return what is wrong with how a rank ended."""
        began, succeeds = self.members[end.rank].began, end.kind == "success"
        if succeeds and not self.record and "Connection" not in end.why:
            return "succeeds without any work done"
        if succeeds and end.rank == self.blind and end.agreed is not None:
            return "succeeds with what it can't use"
        heard = self.expects_all and end.agreed is not None and end.rank > 0
        if heard and began > self.gone.get(end.life, LONGEST):
            return "believes a rank 0 that had gone when it came"
        # Who comes when a failed rank 0 is leaving finds nobody, unless its store lives on.
        gone = self.ends[0].when if 0 in self.ends else 0.0
        came_late = self.expects_all and self.fails and began > gone - 2.5
        if not self.faults and end.kind == "lost" and not came_late:
            return "is lost, and nothing failed"
        return None


def _line(now: float, rank: int, what: Any, *came: Any) -> str:
    key = getattr(what, "key", "")
    text = what if isinstance(what, str) else f"{type(what).__name__} {key} -> {came[0]!r}"
    return f"{now:8.3f}  rank {rank} {text[:110]}"


if __name__ == "__main__":
    print(Schedule(int(sys.argv[1])).play().trace())
