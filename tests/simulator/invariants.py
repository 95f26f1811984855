"""What must hold in every state of a cluster, and where nothing more can happen."""

from collections.abc import Iterator

from step37_flickr8k.cluster.protocol import actions as act
from step37_flickr8k.cluster.protocol.messages import Moved
from tests.simulator.answers import End
from tests.simulator.cluster import KEYS, Cluster, State, is_final

# No schedule with two faults takes longer.
LONGEST = 40.0
# Once rank 0 has ended its work, a rank that is there ends within this time, if nothing fails.
SOON = 4.0


class Violation(AssertionError):
    """An invariant doesn't hold; the message says which, and the trace how it came to that."""


def check(cluster: Cluster, before: State, after: State) -> None:
    """Check one step; raises `Violation`."""
    if before.store == after.store and before.ends is after.ends and after.now <= LONGEST:
        return
    for why in _problems(cluster, before, after):
        raise Violation(why)


def check_last(state: State) -> None:
    """Check a state in which nothing more can happen."""
    waiting = [rank for rank, me in enumerate(state.ranks) if not me.has_ended]
    if waiting:
        raise Violation(f"deadlock: rank {waiting} waits for what never comes")


def _problems(cluster: Cluster, before: State, after: State) -> Iterator[str]:
    if after.now > LONGEST:
        yield f"a rank still waits at {after.now:g}"
    yield from _of_the_store(cluster, before, after)
    if after.ends is not before.ends:
        (end,) = set(after.ends) - set(before.ends)
        yield from _of_the_ends(cluster, after, end)


def _of_the_store(cluster: Cluster, before: State, after: State) -> Iterator[str]:
    if before.store == after.store or (before.store, after.store) in cluster.checked:
        return
    cluster.checked.add((before.store, after.store))
    written, store = (cluster.stores.contents[state.store] for state in (before, after))
    values = cluster.stores.values
    nonce = values[store[KEYS.nonce]] if KEYS.nonce in store else ""
    for key, number in store.items():
        if written.get(key) == number:
            continue
        value = values[number]
        if key in written and is_final(act.Load(key, None), value):
            yield f"{key} is written twice"
        writer, _, name = key.removeprefix("step37/job/0.0/").partition("/")
        if name.startswith("word/") and nonce != writer:
            has_begun = f"step37/job/0.0/{nonce}/word/1" in store
            if has_begun and not isinstance(value, Moved):
                yield f"{writer} wrote {name} after {nonce} had taken over"
        if name == "reports":
            reports = sum(f"/{writer}/report/" in known for known in store)
            if value > reports:
                yield f"{value} reports counted of {reports}"


def _of_the_ends(cluster: Cluster, state: State, last: End) -> Iterator[str]:
    agreed: dict[int, set[bool]] = {}
    for end in state.ends:
        if end.life and end.agreed is not None:
            agreed.setdefault(end.life, set()).add(end.agreed)
        alone = end.why.startswith("ConnectionError")
        if end.kind == "success" and not (state.record or alone):
            yield f"rank {end.rank} succeeds without any work done"
        if end.kind == "success" and end.rank == cluster.blind and end.agreed is not None:
            yield f"rank {end.rank} succeeds with what it can't use"
    for life, verdicts in agreed.items():
        if len(verdicts) > 1:
            yield f"ranks disagree on how the work of life {life} ended"
    yield from _of_the_last_end(cluster, state, last)


def _of_the_last_end(cluster: Cluster, state: State, end: End) -> Iterator[str]:
    leader = state.ranks[0]
    is_leading = leader.state >= 0 and not leader.has_ended and leader.wakes <= state.now
    there_since = max(leader.work_ends - cluster.work, leader.wakes)
    if is_leading and " s: did it start" in end.why and state.now - there_since > 2:
        yield f"rank {end.rank} never met rank 0, which is there"
    if cluster.kinds == ("late",) and leader.life:
        yield from _of_late_ranks(cluster, state, end)
    if not cluster.serves and leader.life == 1:
        # Its store outlives a leader that froze: whoever gives it up writes that there.
        given_up = any(e.kind == "lost" and "gave it up" in e.why for e in state.ends)
        if given_up and any(e.rank == 0 and e.agreed for e in state.ends):
            yield "rank 0 succeeds, and a rank has given it up"


def _of_late_ranks(cluster: Cluster, state: State, end: End) -> Iterator[str]:
    """Check the last end of a schedule in which ranks are late, and nothing else happens."""
    leader = state.ranks[0]
    if end.kind == "lost":
        yield f"rank {end.rank} is lost, and nothing failed"
    began = max(leader.work_ends, state.ranks[end.rank].wakes)
    if not cluster.expects_all and state.now > began + SOON:
        yield f"rank {end.rank} waits until {state.now:g} for nothing"
