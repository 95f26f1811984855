"""What must hold in every state of a cluster, and where nothing more can happen."""

from collections.abc import Iterator

from step37_flickr8k.cluster.protocol.messages import Moved
from tests.simulator.cluster import TIMEOUTS, WORK, Cluster, State

# No schedule with two faults takes longer.
LONGEST = 40.0
# Once rank 0 has ended its work, a rank that is there has ended within this time, if nothing fails.
SOON = 5.0


class Violation(AssertionError):
    """An invariant doesn't hold; the message says which, and the trace how it came to that."""


def check(cluster: Cluster, before: State, after: State) -> None:
    """Check one step; raises `Violation`."""
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
    if after.ends != before.ends:
        yield from _of_the_ends(cluster, after)


def _of_the_store(cluster: Cluster, before: State, after: State) -> Iterator[str]:
    if before.store == after.store:
        return
    store = {key: cluster.values[number] for key, number in after.store}
    nonce = store.get("step37/job/0.0/nonce", "")
    for key, number in after.store - before.store:
        writer, _, name = key.removeprefix("step37/job/0.0/").partition("/")
        if name.startswith("word/") and nonce != writer:
            has_begun = f"step37/job/0.0/{nonce}/word/1" in store
            if has_begun and not isinstance(cluster.values[number], Moved):
                yield f"{writer} wrote {name} after {nonce} had taken over"
        if name == "reports":
            reports = sum(f"/{writer}/report/" in known for known in store)
            if store[key] > reports:
                yield f"{store[key]} reports counted of {reports}"


def _of_the_ends(cluster: Cluster, state: State) -> Iterator[str]:
    agreed: dict[int, set[bool]] = {}
    for end in state.ends:
        if end.life and end.agreed is not None:
            agreed.setdefault(end.life, set()).add(end.agreed)
        if end.kind == "success" and (cluster.fails or not state.record) and end.why != "found":
            if not end.why.startswith("ConnectionError"):
                yield f"rank {end.rank} succeeds without any work done"
        if end.kind == "success" and end.rank == cluster.blind and end.agreed is not None:
            yield f"rank {end.rank} succeeds with what it can't use"
    for life, verdicts in agreed.items():
        if len(verdicts) > 1:
            yield f"ranks disagree on how the work of life {life} ended"
    yield from _of_the_last_end(cluster, state)


def _of_the_last_end(cluster: Cluster, state: State) -> Iterator[str]:
    end, leader = state.ends[-1], state.ranks[0]
    is_leading = leader.state >= 0 and not leader.has_ended and leader.wakes <= state.now
    there_since = max(leader.work_ends - WORK, leader.wakes)
    if is_leading and "never met" in end.why and end.when - there_since > 2:
        yield f"rank {end.rank} never met rank 0, which is there"
    unharmed = cluster.kinds == ("late",)
    if unharmed and not cluster.expects_all and cluster.faults:
        begun = max(leader.work_ends, 0.0)
        if end.rank == 0 and end.when > begun + SOON:
            yield f"rank 0 waits until {end.when:g} for ranks that haven't arrived"
    if unharmed and end.kind == "lost" and leader.life:
        yield f"rank {end.rank} is lost, and nothing failed"


__all__ = ["TIMEOUTS", "Violation", "check", "check_last"]
