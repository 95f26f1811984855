"""A cluster as a value: ranks, store, clock and faults; which steps are possible, and where to.

Time moves on when no rank can take a step: a rank that is slow is one that a fault froze.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from step37_flickr8k.cluster.progress import Progress
from step37_flickr8k.cluster.protocol import actions as act
from step37_flickr8k.cluster.protocol.call import Ended, Facts
from step37_flickr8k.cluster.protocol.follower import Follower
from step37_flickr8k.cluster.protocol.keys import Keys, Timeouts
from step37_flickr8k.cluster.protocol.leader import Leader
from step37_flickr8k.cluster.protocol.messages import Lost as LostWord
from step37_flickr8k.cluster.protocol.messages import Outcome, RankReport
from tests.simulator.answers import FULL, End, answered, end_of, local_answer
from tests.simulator.machines import Local, Lost

KEYS = Keys("job", "0.0")
# In units in which a heartbeat is due every 1; all later times follow from these.
TIMEOUTS = Timeouts(arrival=6, heartbeat=2, stall=0, visibility=-24)
WORK = 2.0
SHORT, LONG = 1.0, 3.0  # freezes, within and beyond the heartbeat timeout
LATE = 3.0  # when a late rank starts: the call of the others may be over
EVERY_FAULT = ("kill", "freeze", "cut", "late")


class _Rank(NamedTuple):
    """What is known of one rank: where its machine is, and what holds it."""

    state: int = -1  # of its machine; -1: there is none
    life: int = 0  # how often rank 0 was started; of a follower, whether it was
    wakes: float = 0.0  # frozen, or not started, until then
    work_ends: float = 0.0  # rank 0's
    has_ended: bool = False
    cut_off: bool = False  # its connection is lost, it doesn't know yet


class Rank(_Rank):
    """One rank; two that are equal are one (`same`), since millions of states are looked up."""

    __slots__ = ()
    __hash__ = object.__hash__
    __eq__ = object.__eq__


_RANKS: dict[tuple[Any, ...], Rank] = {}


def same(me: Rank) -> Rank:
    """Return the one rank that is equal to this one."""
    return _RANKS.setdefault(tuple(me), me)


class State(NamedTuple):
    """The whole cluster at one time.

    ``ends`` are in the order of ranks, and hold no more of each than what is checked later: two
    states with the same future and the same checks are one.
    """

    now: float
    store: int  # the number of its content
    ranks: tuple[Rank, ...]
    record: bool
    faults: int  # that may still happen
    has_store: bool = True
    ends: tuple[End, ...] = ()
    hit: int = 0  # the followers that a fault hit, by bit; 0 where that no longer matters


class View(NamedTuple):
    """All that a step of a rank depends on."""

    rank: int
    me: Rank
    now: float
    record: bool
    silence: float  # until when the store doesn't answer; 0 if it does, infinity if it is gone
    stands: int | None  # the number of the value at the key that it reads or writes


class Move(NamedTuple):
    """A step of a rank, and what is different after it.

    ``key`` is what it reads or writes, "" for what no other rank can change; ``saves`` the number
    of the value that it writes there.
    """

    name: str
    me: Rank
    record: bool
    key: str = ""
    saves: int | None = None
    gives_up: bool = False  # it has waited until its time was over, or writes that
    end: End | None = None


class Stores:
    """What a store may hold, each content as a number; 0 is an empty one."""

    def __init__(self) -> None:
        self.contents: list[dict[str, int]] = [{}]
        self.values: list[Any] = []
        # The lives of rank 0 that a follower has given up
        self.lost: list[frozenset[int]] = [frozenset()]
        self._names: dict[str, int] = {}
        self._numbers: dict[frozenset[tuple[str, int]], int] = {frozenset(): 0}
        self._after: dict[tuple[int, str, int], int] = {}

    def number(self, value: Any) -> int:
        """Return the number of a value."""
        number = self._names.setdefault(repr(value), len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number

    def put(self, store: int, key: str, value: int) -> int:
        """Return the store in which a key has the value of this number."""
        written = store, key, value
        if written not in self._after:
            content = {**self.contents[store], key: value}
            number = self._numbers.setdefault(frozenset(content.items()), len(self.contents))
            self._after[written] = number
            if number == len(self.contents):
                self.contents.append(content)
                is_lost = isinstance(self.values[value], LostWord)
                lives = {int(key.split("/")[-3][1:])} if is_lost else ()
                self.lost.append(self.lost[store].union(lives))
        return self._after[written]


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
    kinds: tuple[str, ...] = EVERY_FAULT
    freezes: tuple[float, ...] = (LONG,)
    work: float = WORK
    leader: type[Leader] = Leader
    follower: type[Follower] = Follower
    # Whether a message is read in the step that finds it: see `reduction`.
    reads_at_once: bool = True
    locals: dict[Any, Local] = field(default_factory=dict)
    stores: Stores = field(default_factory=Stores)
    # From which store to which a step has led that is checked already
    checked: set[tuple[int, int]] = field(default_factory=set)
    _moves: dict[tuple[Any, ...], Move | None] = field(default_factory=dict)

    def first(self) -> State:
        """Return the beginning: no rank has started."""
        return State(0.0, 0, (same(Rank()),) * self.size, record=False, faults=self.faults)

    # --- the machines ---

    def local(self, rank: int, life: int) -> Local:
        """Return the machine of a rank; each life of rank 0 has a nonce of its own."""
        key = (rank, life if rank == 0 else 1)
        if (known := self.locals.get(key)) is not None:
            return known
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

    def reached(self, rank: int, me: Rank) -> Any:
        """Return the action that a rank wants to take, or its end."""
        return self.local(rank, me.life).reached[me.state]

    # --- steps of ranks ---

    def moves(self, state: State) -> dict[int, Move]:
        """Return the step of each rank that can take one now."""
        now, store, ranks, record = state[:4]
        found, silence, content = {}, self._silence(state), self.stores.contents[store]
        for rank, me in enumerate(ranks):
            number, life, wakes, _, has_ended, _ = me
            if has_ended or wakes > now:
                continue
            stands = None
            if number >= 0:
                stands = content.get(self.local(rank, life).keys[number])
            view = (rank, me, now, record, silence, stands)
            try:
                move = self._moves[view]
            except KeyError:
                move = self._moves[view] = self._move(View(*view))
            if move is not None:
                found[rank] = move
        return found

    def explored(self) -> Iterator[tuple[View, Move]]:
        """Yield every step that was asked for, and what it depends on."""
        moves = [*self._moves.items()]
        yield from ((View(*view), move) for view, move in moves if move is not None)

    def after(self, state: State, rank: int, move: Move) -> State:
        """Return the cluster after a step of a rank."""
        now, store, ranks, _, faults, has_store, ends, hit = state
        if rank == 0 and self.serves and ranks[0].state < 0:
            store, has_store = 0, True
        if move.saves is not None:
            store = self.stores.put(store, move.key, move.saves)
        if move.end is not None:
            ends = tuple(sorted((*ends, _kept(move.end))))
        ranks = (*ranks[:rank], move.me, *ranks[rank + 1 :])
        return State(now, store, ranks, move.record, faults, has_store, ends, hit)

    def is_over(self, state: State) -> bool:
        """Return whether nothing happens any more."""
        return not self.moves(state) and self.later(state) is None

    def later(self, state: State) -> float | None:
        """Return when something happens next, if anything can; called when no rank can move."""
        times = [me.wakes for me in state.ranks]
        for rank, me in enumerate(state.ranks):
            if me.state >= 0 and not me.has_ended:
                times.append(getattr(self.reached(rank, me), "until", 0.0))
                times.append(me.work_ends)
        return min((time for time in times if time > state.now), default=None)

    def _silence(self, state: State) -> float:
        if not self.serves:
            return 0.0
        leader = state.ranks[0]
        if not state.has_store or not leader.life:
            return math.inf
        return leader.wakes if leader.wakes > state.now else 0.0

    def _move(self, view: View) -> Move | None:
        rank, me = view.rank, view.me
        if me.state < 0:
            return self._start(view)
        event, action = self._event(view), self.reached(rank, me)
        if event is _BLOCKED:
            return None
        key, saves, gives_up, record = "", None, False, view.record
        if event is _READ:
            event, saves = self._request(view, action)
            key = "" if is_final(action, view.stands) else action.key
            gives_up = event is False or (rank > 0 and "/word/" in key)
        # The ready record is written before the work ends.
        if isinstance(event, act.WorkState) and event.outcome and not event.outcome.failure:
            key, record = "" if record else "the ready record", True
        name = f"rank {rank}: {_name(action)}"
        if isinstance(event, ConnectionError):
            name, me = f"{name}: {event}", me._replace(cut_off=False)
        local = self.local(rank, me.life)
        me = me._replace(state=local.step(me.state, view.now, event))
        if event is True and self.reads_at_once and is_final(local.reached[me.state], view.stands):
            assert view.stands is not None
            assert local.keys[me.state] == action.key
            event = self.stores.values[view.stands]
            me = me._replace(state=local.step(me.state, view.now, event))
        return self._settled(view, Move(name, me, record, key, saves, gives_up))

    def _start(self, view: View) -> Move:
        rank, life = view.rank, view.me.life + 1 if view.rank == 0 else 1
        began = self.local(rank, life).begin(view.now)
        # Work that is done already takes no time.
        work = 0.0 if view.record else self.work
        me = Rank(began, life, 0.0, view.now + work if rank == 0 else 0.0)
        return self._settled(view, Move(f"rank {rank} starts", me, view.record))

    def _event(self, view: View) -> Any:
        """Return what a rank's action would be sent now; `_BLOCKED` while it must wait."""
        me, now, silence = view.me, view.now, view.silence
        action = self.reached(view.rank, me)
        until = getattr(action, "until", silence)
        if isinstance(action, act.Pause):
            return None if now >= until else _BLOCKED
        if isinstance(action, act.Turn):
            phase = self.local(0, me.life).phases[me.state]
            # What the main thread says wakes the leader at once.
            is_woken = phase == "confirming" or (phase == "working" and now >= me.work_ends >= 0)
            return self._work_state(me, now) if now >= until or is_woken else _BLOCKED
        if me.cut_off:
            return ConnectionError("cut off")
        if isinstance(action, act.Connect):
            if not silence:
                return None
            return ConnectionError("refused") if now >= until else _BLOCKED
        if silence:
            is_frozen = silence < math.inf and now < until
            return _BLOCKED if is_frozen else ConnectionError("the store is gone")
        if isinstance(action, act.Await):
            return _READ if view.stands is not None or now >= until else _BLOCKED
        return _READ

    def _request(self, view: View, action: Any) -> tuple[Any, int | None]:
        """Return what a request that doesn't wait comes to, and the number of what it writes."""
        if isinstance(action, act.Await):
            return view.stands is not None, None
        stands = None if view.stands is None else self.stores.values[view.stands]
        came, value = answered(action, stands)
        return came, None if value is stands else self.stores.number(value)

    def _settled(self, view: View, move: Move) -> Move:
        """Take the steps that nobody else can notice, up to the next one that they can."""
        rank, me = view.rank, move.me
        local = self.local(rank, me.life)
        while True:
            action: Any = local.reached[me.state]
            if isinstance(action, Ended | Lost):
                end = end_of(rank, action, record=move.record, now=view.now)
                me = Rank(-1, me.life, 0.0, me.work_ends, has_ended=True)
                return move._replace(me=same(me), end=end)
            if isinstance(action, act.StopWork):
                me = me._replace(work_ends=-1.0)
            event = local_answer(action, rank, blind=self.blind, record=move.record)
            if event is NotImplemented:
                return move._replace(me=same(me))
            me = me._replace(state=local.step(me.state, view.now, event))

    def _work_state(self, me: Rank, now: float) -> act.WorkState:
        phase = self.local(0, me.life).phases[me.state]
        outcome: Outcome | None = None
        if now >= me.work_ends >= 0:
            failure = FULL if self.fails else None
            outcome = Outcome(arguments={}, result={"life": me.life}, failure=failure)
        report = RankReport(ok=True, host="n0") if phase != "working" else None
        return act.WorkState(Progress(), 0.0, outcome, report)

    # --- faults ---

    def injected(self, state: State, rank: int) -> Iterator[tuple[str, State]]:
        """Yield every fault that can hit a rank now, and what it leads to."""
        spent, me = state._replace(faults=state.faults - 1), state.ranks[rank]
        if me.has_ended or me.wakes > state.now:
            return
        if me.state < 0:
            if "late" in self.kinds and me.life == 0:
                yield f"! rank {rank} is late", _with(spent, rank, me._replace(wakes=LATE))
                yield f"! rank {rank} is missing", _with(spent, rank, Rank(has_ended=True))
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
            # Its store is gone, and no connection to it is left.
            cut = [
                same(other._replace(cut_off=other.state >= 0 and not other.has_ended))
                for other in spent.ranks[1:]
            ]
            spent = spent._replace(has_store=False, store=0, ranks=(me, *cut))
        dead = Rank(-1, me.life, has_ended=True)
        yield f"! rank {rank} is killed", _with(spent, rank, dead)
        again = Rank(-1, me.life, spent.now + 1)
        yield f"! rank {rank} is killed and starts again", _with(spent, rank, again)


_BLOCKED, _READ = object(), object()
# What a rank's end said, as far as an end of another rank is checked against it.
_PHRASES = (" s: did it start", "gave it up", "ConnectionError")


def is_final(action: Any, stands: Any) -> bool:
    """Return whether what a rank reads is there, and stays as it is.

    A key stays once it is there. Messages, reports and arrivals are written once.
    """
    key, kinds = getattr(action, "key", ""), ("/word/", "/report/", "/arrival/")
    is_read = isinstance(action, act.Load) and any(kind in key for kind in kinds)
    return stands is not None and (is_read or isinstance(action, act.Await))


def _kept(end: End) -> End:
    why = next((phrase for phrase in _PHRASES if phrase in end.why), "")
    return end._replace(why=why, when=0.0)


def _with(state: State, rank: int, me: Rank) -> State:
    ranks = (*state.ranks[:rank], same(me), *state.ranks[rank + 1 :])
    return state._replace(ranks=ranks)


def _name(action: Any) -> str:
    return f"{type(action).__name__} {getattr(action, 'key', '')}".rstrip()
