"""Which steps and faults are explored in a state: all of them, or enough to find all ends.

`all_steps` yields every step of every rank and every fault of every rank. Most orders of them lead
to the same states. `enough_steps` leaves orders out, by these rules:

1. **One rank first.** Where a rank's next step touches nothing that another rank can touch before
   time moves on, it commutes with all that others do meanwhile. It can't be prevented either, since
   time waits for it. So every order is as good as one that begins with this step, or with a fault
   of this rank (the set is persistent, in the words of partial-order reduction). `_first` finds
   such a rank, by what each rank has `ahead`. If there is none, all ranks are tried. All are tried,
   too, while a serving rank 0 may be hit: that takes the store from everybody.
2. **Faults last.** A fault that only holds its own rank commutes with the steps of the others. It
   is tried when no other rank can move, or when those that can may all be hit as well.
3. **Followers are alike.** Exchange ranks 1 and 2 in any order of events, and it is another one
   that is possible. So rank 2 is hit only if rank 1 was hit before, or at the same time. The one
   difference is that rank 0 reads reports in the order of ranks, all of them at one time; what it
   finds could have been found in any order. (With a blind rank, followers aren't alike.)
4. **A message is read when it is found** (``Cluster.reads_at_once``): what hits a rank between the
   two might as well hit it before both.

No rank moves for ever while time stands still (`explore.MOST_STEPS`), so rule 1 forgets nobody.
What `ahead` says of the machines is checked for every step that was explored (`unforeseen`), and
`test_reduction` compares the ends that both explorations find.
"""

from collections.abc import Iterator
from typing import Any

from step37_flickr8k.cluster.protocol import actions as act
from step37_flickr8k.cluster.protocol.messages import Moved
from tests.simulator.cluster import Cluster, Move, Rank, State, View

# The parts of the store of a call
ALL = frozenset(
    "nonce arrivals arrival answer word reports report finished leaves".split()  # noqa: SIM905
)
_MEETING = frozenset({"arrivals", "arrival", "answer"})
_COLLECTING = ALL - _MEETING - {"nonce"}
# What the leader may touch before time moves on: by its phase, and by what it is about to touch. A
# turn begins with arrivals and heartbeats; what else there is to do in a phase comes after them.
_LEADS = {
    "working": {"": _MEETING | {"word"}, "word": frozenset({"word"})},
    "collecting": {
        "": ALL - {"nonce"},
        **dict.fromkeys(("word", "reports", "report"), _COLLECTING),
    },
    "leaving": {
        "": _MEETING | {"leaves"},
        "finished": frozenset({"finished", "leaves"}),
        "leaves": frozenset({"leaves"}),
    },
}
_FOLLOWS = frozenset({"word", "report", "reports", "leaves"})
# What followers write and other followers read
_SHARED = frozenset({"arrivals", "word"})


def all_steps(cluster: Cluster, state: State) -> Iterator[tuple[str, State]]:
    """Yield every step and every fault that is possible now, and what it leads to."""
    moves = cluster.moves(state)
    for rank, move in moves.items():
        yield move.name, cluster.after(state, rank, move)
    if state.faults:
        for rank in range(cluster.size):
            yield from cluster.injected(state, rank)
    if not moves and (later := cluster.later(state)) is not None:
        yield f"time is {later:g}", state._replace(now=later)


def enough_steps(cluster: Cluster, state: State) -> Iterator[tuple[str, State]]:
    """Yield enough of the steps and faults that are possible now, and what they lead to."""
    moves = cluster.moves(state)
    first = _first(cluster, state, moves) if len(moves) > 1 else moves
    for rank in first:
        yield moves[rank].name, cluster.after(state, rank, moves[rank])
    if state.faults:
        yield from _faults(cluster, state, moves, first)
    # Rank 2 was not hit first.
    is_like_another = state.hit & (state.hit + 1)
    if not moves and not is_like_another and (later := cluster.later(state)) is not None:
        yield f"time is {later:g}", state._replace(now=later)


def _first(cluster: Cluster, state: State, moves: dict[int, Move]) -> dict[int, Move]:
    """Return the step of one rank that may come before all others; if there is none, all."""
    leader = state.ranks[0]
    if not leader.has_ended and leader.wakes <= state.now:
        if cluster.serves and (state.faults or leader.state < 0):
            return moves
        # Whoever loses rank 0 reads the ready record, which may be written now.
        if not state.record and leader.state >= 0 and 0 <= leader.work_ends <= state.now:
            return moves
    for rank, move in moves.items():
        if not move.key:
            return {rank: move}
    if leader.life in cluster.stores.lost[state.store]:
        return moves
    for rank, move in moves.items():
        if move.gives_up or _is_overdue(cluster, rank, state.ranks[rank], state.now):
            return moves
    for rank, move in moves.items():
        if rank == 0 and _waits_for_it(cluster, state, move):
            return {rank: move}
        name = part(move.key)
        others = range(cluster.size) if not rank or name in _SHARED else (0,)
        if not any(
            name in ahead(cluster, other, state.ranks[other], state.now, leader)
            for other in others
            if other != rank
        ):
            return {rank: move}
    return moves


def _is_overdue(cluster: Cluster, rank: int, me: Rank, now: float) -> bool:
    """Return whether a follower was frozen until the next message should have come."""
    return me.state >= 0 and cluster.local(rank, me.life).deadlines[me.state] <= now


def _waits_for_it(cluster: Cluster, state: State, move: Move) -> bool:
    """Return whether what the leader writes is new, so that others wait until it is there.

    No other rank gives up to wait now, and no wait that begins now is over now.
    """
    is_new = move.key not in cluster.stores.contents[state.store]
    own = f"/L{state.ranks[0].life}/word/"
    return is_new and (own in move.key or part(move.key) == "answer")


def part(key: str) -> str:
    """Return which part of the store a key belongs to."""
    *_, before, last = key.split("/")
    return last if last in ALL else before


def ahead(cluster: Cluster, rank: int, me: Rank, now: float, leader: Rank) -> frozenset[str]:
    """Return what a rank may touch before time moves on, unless it is what nobody can change.

    That holds while no follower gives the leader up.
    """
    if me.has_ended or me.wakes > now:
        return frozenset()
    if me.state < 0:
        return ALL
    phase, action = cluster.local(rank, me.life).phases[me.state], cluster.reached(rank, me)
    key = getattr(action, "key", "")
    if rank == 0 and (phase not in _LEADS or (phase == "working" and me.work_ends <= now)):
        return ALL
    if isinstance(action, act.Turn | act.Pause) and action.until > now:
        return frozenset()
    if rank == 0:
        meets = not key or "_answer_arrivals" in cluster.local(0, me.life).inside[me.state]
        return _LEADS[phase]["" if meets else part(key)]
    if key.endswith("/leaves"):
        return frozenset({"leaves"})
    starts = leader.state < 0 and not leader.has_ended and leader.wakes <= now
    # No newer leader sends it back to the arrivals.
    is_current = f"/L{leader.life}/" in key and not starts
    return _FOLLOWS if is_current else ALL - {"nonce"}


def _faults(
    cluster: Cluster, state: State, moves: dict[int, Move], first: dict[int, Move]
) -> Iterator[tuple[str, State]]:
    for rank in range(cluster.size):
        hits_all = rank == 0 and cluster.serves
        if moves and rank not in first and not hits_all:
            continue
        is_last = len(first) - (rank in first) < state.faults
        for name, after in cluster.injected(state, rank):
            # A rank that is cut off can move.
            if hits_all or is_last or name.endswith("cut off"):
                hit = state.hit | (1 << rank >> 1)
                alike = cluster.blind is None and hit
                missing = (~hit & (1 << hit.bit_length()) - 1).bit_count() if alike else 0
                if missing <= after.faults:
                    is_kept = alike and (after.faults or missing)
                    yield name, after._replace(hit=hit if is_kept else 0)


def unforeseen(cluster: Cluster) -> Iterator[str]:
    """Yield each step that was explored and that `ahead` and `_first` don't foresee."""
    for view, move in cluster.explored():
        if view.me.state < 0:
            continue
        rank, now, action = view.rank, view.now, cluster.reached(view.rank, view.me)
        if rank and move.key and not _is_a_followers(cluster, view, action):
            yield f"{move.name}: a follower does so"
        finds_lost = rank == 0 and "/word/" in move.key and view.stands is not None
        if move.end is not None or move.gives_up or finds_lost:
            continue
        if _is_overdue(cluster, rank, view.me, now):
            continue
        after = cluster.reached(rank, move.me)
        if isinstance(after, act.Await) and after.until <= now:
            yield f"{move.name}: begins to wait for {after.key}, and the time for that is over"
        stands = cluster.stores.values[view.stands] if view.stands is not None else None
        for life in range(int(stands.to[1:]) if isinstance(stands, Moved) else 1, 4):
            leader = view.me if rank == 0 else Rank(state=0, life=life)
            before = ahead(cluster, rank, view.me, now, leader)
            touches = ahead(cluster, rank, move.me, now, leader)
            if move.saves is not None or move.key:
                touches |= {part(action.key)} if hasattr(action, "key") else set()
            if not touches <= before:
                yield f"{move.name}: {sorted(touches - before)} after {sorted(before)}"


def _is_a_followers(cluster: Cluster, view: View, action: Any) -> bool:
    """Return whether a step leaves alone what only the leader or another follower should touch."""
    name, local, number = part(action.key), cluster.local(view.rank, 1), view.me.state
    match action:
        case act.Add() if name in {"reports", "leaves"}:
            # It is all the same to it how many there are, so both orders of two of these are one.
            return local.step(number, view.now, 1) == local.step(number, view.now, 2)
        case act.Add():
            return name == "arrivals"
        case act.Save():
            return name == "arrival"
        case act.SaveOnce():
            return name == "word" or action.key.endswith(f"/report/{view.rank}")
    return name in {"answer", "finished", "word"}
