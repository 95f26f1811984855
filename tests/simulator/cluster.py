"""A cluster as a value: ranks, store, clock and faults; which steps are possible, and where to.

Time moves on when no rank can take a step: a rank that is slow is one that a fault froze.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from step37_flickr8k.cluster.progress import Progress
from step37_flickr8k.cluster.protocol import actions as act
from step37_flickr8k.cluster.protocol.call import Ended, Facts
from step37_flickr8k.cluster.protocol.follower import Follower
from step37_flickr8k.cluster.protocol.keys import Keys, Timeouts
from step37_flickr8k.cluster.protocol.leader import Leader
from step37_flickr8k.cluster.protocol.messages import Outcome, RankReport
from step37_flickr8k.cluster.verdict import decide_verdict
from step37_flickr8k.errors import ErrorReport, RankZeroLost
from tests.simulator.machines import Local, Lost

KEYS = Keys("job", "0.0")
# In units in which a heartbeat is due every 1; all later times follow from these.
TIMEOUTS = Timeouts(arrival=6, heartbeat=2, stall=0, visibility=-24)
WORK = 2.0
SHORT, LONG = 1.0, 3.0  # freezes, within and beyond the heartbeat timeout
LATE = 3.0  # when a late rank starts: the call of the others may be over

FULL = ErrorReport("FolderFull", "the disk is full", "")
BLIND = ErrorReport("NotVisible", "no ready record here", "")


class Rank(NamedTuple):
    """One rank: where its machine is, and what holds it."""

    state: int = -1  # of its machine; -1: there is none
    life: int = 0  # how often it was started
    wakes: float = 0.0  # frozen, or not started, until then
    work_ends: float = 0.0
    has_ended: bool = False
    cut_off: bool = False  # its connection is lost, it doesn't know yet


class State(NamedTuple):
    """The whole cluster at one time."""

    now: float
    store: frozenset[tuple[str, int]]
    ranks: tuple[Rank, ...]
    record: bool
    faults: int
    has_store: bool = True
    ends: tuple["End", ...] = ()


class End(NamedTuple):
    """How a rank's call ended.

    ``kind`` is "success", "failure" or "lost". ``life`` is that of the rank 0 whose verdict it
    read, and ``agreed`` whether that was a success; 0 and None where it read none.
    """

    rank: int
    kind: str
    life: int
    agreed: bool | None
    why: str
    when: float


@dataclass
class Cluster:
    """The rules of one scenario.

    ``serves``: rank 0 serves the store, which dies and freezes with it; else it outlives ranks.
    ``blind`` is a follower that can't use the outcome; ``fails``: the work does.
    """

    size: int
    faults: int = 2
    serves: bool = True
    expects_all: bool = True
    fails: bool = False
    blind: int | None = None
    kinds: tuple[str, ...] = ("kill", "freeze", "cut", "late")
    freezes: tuple[float, ...] = (LONG,)
    work: float = WORK
    leader: type[Leader] = Leader
    follower: type[Follower] = Follower
    locals: dict[Any, Local] = field(default_factory=dict)
    values: list[Any] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)

    def first(self) -> State:
        """Return the beginning: no rank has started."""
        return State(0.0, frozenset(), (Rank(),) * self.size, record=False, faults=self.faults)

    # --- the machines ---

    def local(self, rank: int, life: int) -> Local:
        """Return the machine of a rank; each life of rank 0 has a nonce of its own."""
        key = (rank, life) if rank == 0 else rank
        if key not in self.locals:
            facts = Facts(
                rank=rank,
                size=self.size,
                host=f"n{rank}",
                keys=KEYS,
                timeouts=TIMEOUTS,
                expects_all=self.expects_all,
                reconnects=self.serves and rank > 0,
            )
            self.locals[key] = Local(
                (lambda now: self.leader(facts, f"L{life}", now))
                if rank == 0
                else (lambda now: self.follower(facts, now))
            )
        return self.locals[key]

    def reached(self, state: State, rank: int) -> Any:
        """Return the action that a rank wants to take, or its end."""
        me = state.ranks[rank]
        return self.local(rank, me.life).reached[me.state]

    # --- steps ---

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """Yield every step that is possible now, with its name, and what it leads to."""
        moving: set[int] = set()
        for rank, me in enumerate(state.ranks):
            if me.has_ended or me.wakes > state.now:
                continue
            if me.state < 0:
                moving.add(rank)
                yield f"rank {rank} starts", self._start(state, rank)
                continue
            event = self._event(state, rank)
            if event is not _BLOCKED:
                moving.add(rank)
                yield self._take(state, rank, event)
        if state.faults:
            for rank in range(self.size):
                # A fault that others can't notice leads to the same, before or after their steps.
                if moving <= {rank} or (rank == 0 and self.serves):
                    yield from self._faults(state, rank)
        if not moving and (later := self._later(state)) is not None:
            yield f"time is {later:g}", state._replace(now=later)

    def _start(self, state: State, rank: int) -> State:
        me = state.ranks[rank]
        life = me.life + 1
        began = self.local(rank, life).begin(state.now)
        # Work that is done already takes no time.
        ends = state.now + (0.0 if state.record else self.work)
        me = Rank(began, life, 0.0, ends)
        if rank == 0 and self.serves:
            state = state._replace(store=frozenset(), has_store=True)
        return self._settled(_with(state, rank, me), rank)

    def _event(self, state: State, rank: int) -> Any:
        """Return what a rank's action would be sent now; `_BLOCKED` while it must wait."""
        me, action, now = state.ranks[rank], self.reached(state, rank), state.now
        if isinstance(action, act.Pause):
            return None if now >= action.until else _BLOCKED
        if isinstance(action, act.Turn):
            phase = self.local(0, me.life).phases[me.state]
            # What the main thread says wakes the leader at once.
            is_woken = phase == "confirming" or (phase == "working" and now >= me.work_ends >= 0)
            if now < action.until and not is_woken:
                return _BLOCKED
            return self._work_state(state, me)
        if me.cut_off:
            return ConnectionError("cut off")
        if isinstance(action, act.Connect):
            if self._reachable(state):
                return None
            return ConnectionError("refused") if now >= action.until else _BLOCKED
        if not self._reachable(state):
            frozen = state.has_store and now < self._deadline(state, rank)
            return _BLOCKED if frozen else ConnectionError("the store is gone")
        store = dict(state.store)
        if isinstance(action, act.Await):
            if action.key in store:
                return True
            return False if now >= action.until else _BLOCKED
        return _READ

    def _take(self, state: State, rank: int, event: Any) -> tuple[str, State]:
        """Return the name of a step and what it leads to."""
        action = self.reached(state, rank)
        name = f"rank {rank}: {_name(action)}"
        if event is _READ:
            event, state = self._request(state, action)
        # The ready record is written before the work ends.
        if isinstance(event, act.WorkState) and event.outcome and not event.outcome.failure:
            state = state._replace(record=True)
        if isinstance(event, ConnectionError):
            name = f"{name}: {event}"
            me = state.ranks[rank]
            state = _with(state, rank, me._replace(cut_off=False))
        return name, self._settled(self._send(state, rank, event), rank)

    def _request(self, state: State, action: Any) -> tuple[Any, State]:
        """Return what a request that doesn't wait comes to, and the state after it."""
        store = dict(state.store)
        stands = self.values[store[action.key]] if action.key in store else None
        came, value = answered(action, stands)
        if value is stands:
            return came, state
        store[action.key] = self._number(value)
        return came, state._replace(store=frozenset(store.items()))

    def _send(self, state: State, rank: int, event: Any) -> State:
        me = state.ranks[rank]
        after = self.local(rank, me.life).step(me.state, state.now, event)
        return _with(state, rank, me._replace(state=after))

    def _settled(self, state: State, rank: int) -> State:
        """Take the steps that nobody else can notice, up to the next one that they can."""
        while True:
            action = self.reached(state, rank)
            if isinstance(action, Ended | Lost):
                return self._ended(state, rank, action)
            if isinstance(action, act.StopWork):
                state = _with(state, rank, state.ranks[rank]._replace(work_ends=-1.0))
            event = local_answer(action, rank, blind=self.blind, record=state.record)
            if event is NotImplemented:
                if not (isinstance(action, act.Load) and self._loadable(state, action.key)):
                    return state
                event, state = self._request(state, action)
            state = self._send(state, rank, event)

    def _loadable(self, state: State, key: str) -> bool:
        return self._reachable(state) and any(key == stands for stands, _ in state.store)

    def _ended(self, state: State, rank: int, end: Ended | Lost) -> State:
        me = state.ranks[rank]._replace(has_ended=True)
        return _with(state, rank, me)._replace(
            ends=(*state.ends, end_of(rank, end, record=state.record, now=state.now))
        )

    # --- work, store and time ---

    def _work_state(self, state: State, me: Rank) -> act.WorkState:
        phase = self.local(0, me.life).phases[me.state]
        outcome: Outcome | None = None
        if state.now >= me.work_ends >= 0:
            failure = FULL if self.fails else None
            outcome = Outcome(arguments={}, result={"life": me.life}, failure=failure)
        report = RankReport(ok=True, host="n0") if phase != "working" else None
        return act.WorkState(Progress(), 0.0, outcome, report)

    def _reachable(self, state: State) -> bool:
        frozen = self.serves and state.ranks[0].wakes > state.now
        return state.has_store and not frozen and (not self.serves or state.ranks[0].life > 0)

    def _deadline(self, state: State, rank: int) -> float:
        """Return when a rank stops to wait for a store that doesn't answer."""
        action = self.reached(state, rank)
        return action.until if isinstance(action, act.Await) else state.ranks[0].wakes

    def _later(self, state: State) -> float | None:
        """Return when something happens next, if anything can."""
        times = [me.wakes for me in state.ranks]
        for rank, me in enumerate(state.ranks):
            if me.state >= 0 and not me.has_ended:
                times.append(getattr(self.reached(state, rank), "until", 0.0))
                times.append(me.work_ends if rank == 0 else 0.0)
        return min((time for time in times if time > state.now), default=None)

    # --- faults ---

    def _faults(self, state: State, rank: int) -> Iterator[tuple[str, State]]:
        spent, me = state._replace(faults=state.faults - 1), state.ranks[rank]
        if me.has_ended or me.wakes > state.now:
            return
        if me.state < 0:
            if "late" in self.kinds and me.life == 0:
                yield f"! rank {rank} is late", _with(spent, rank, me._replace(wakes=LATE))
                missing = me._replace(has_ended=True)
                yield f"! rank {rank} is missing", _with(spent, rank, missing)
            return
        if "kill" in self.kinds:
            yield from self._kills(spent, rank, me)
        if "freeze" in self.kinds:
            for seconds in self.freezes:
                frozen = me._replace(wakes=state.now + seconds)
                yield f"! rank {rank} freezes for {seconds:g}", _with(spent, rank, frozen)
        if "cut" in self.kinds and rank and not me.cut_off:
            yield f"! rank {rank} is cut off", _with(spent, rank, me._replace(cut_off=True))

    def _kills(self, spent: State, rank: int, me: Rank) -> Iterator[tuple[str, State]]:
        if rank == 0 and self.serves:
            # No connection to it is left.
            cut = [other._replace(cut_off=other.state >= 0) for other in spent.ranks[1:]]
            spent = spent._replace(has_store=False, ranks=(me, *cut))
        yield f"! rank {rank} is killed", _with(spent, rank, me._replace(has_ended=True))
        again = Rank(-1, me.life, spent.now + 1)
        yield f"! rank {rank} is killed and starts again", _with(spent, rank, again)

    def _number(self, value: Any) -> int:
        name = repr(value)
        if name not in self.numbers:
            self.numbers[name] = len(self.values)
            self.values.append(value)
        return self.numbers[name]


_BLOCKED, _READ = object(), object()


def _with(state: State, rank: int, me: Rank) -> State:
    ranks = (*state.ranks[:rank], me, *state.ranks[rank + 1 :])
    return state._replace(ranks=ranks)


def _name(action: Any) -> str:
    return f"{type(action).__name__} {getattr(action, 'key', '')}".rstrip()


def end_of(rank: int, end: Ended | Lost, *, record: bool, now: float) -> End:
    """Return how a rank ended, as the runner would make an error or a result of it."""
    if isinstance(end, Lost):
        # Rank 0 goes on without its store; whoever loses rank 0 reads the ready record.
        well = record or end.why.startswith("ConnectionError")
        return End(rank, "success" if well else "lost", 0, None, end.why, now)
    if end.found is not None:
        return End(rank, "success", 0, None, "found", now)
    assert end.outcome is not None
    assert end.verdict is not None
    life, failure = int(end.outcome.result.get("life", 0)), end.verdict.failure
    own = failure or (end.report.failure if end.report else None)
    kind, why = ("failure", own.message) if own else ("success", "")
    if own is not None and own.error == RankZeroLost.__name__:
        kind = "success" if record else "lost"
    return End(rank, kind, life, failure is None, why, now)


def answered(action: Any, stands: Any) -> tuple[Any, Any]:
    """Return what a request comes to that finds ``stands`` at its key, and what stands after it."""
    match action:
        case act.Count():
            return stands or 0, stands
        case act.Load():
            return stands, stands
        case act.Add(_, amount):
            return (stands or 0) + amount, (stands or 0) + amount
        case act.Swap(_, expected, desired):
            after = desired if (stands or "") == expected else stands
            return after, after
        case act.SaveOnce(_, value):
            return stands, value if stands is None else stands
    return None, action.value


def local_answer(action: act.Action, rank: int, *, blind: int | None, record: bool) -> Any:
    """Return what an action is sent that asks the rank itself; `NotImplemented` for others."""
    match action:
        case act.Confirm(outcome):
            fails = rank == blind and outcome.failure is None
            return RankReport(ok=not fails, host=f"n{rank}", failure=BLIND if fails else None)
        case act.Decide(outcome, ranks, reports):
            return decide_verdict(outcome.failure, reports, ranks)
        case act.StopWork(why):
            return Outcome(arguments={}, failure=ErrorReport("RankZeroLost", why, ""))
        case act.FindResult():
            return {"found": True} if record else None
        case act.Show() | act.Searching():
            return None
    return NotImplemented
