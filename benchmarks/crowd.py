"""Thousands of followers of one rank 0, over a real store, and as many in a bare barrier.

Each follower has a connection of its own and drives the `Follower` that ships. What the real runner
does in two threads a rank, one loop does here for all of them.

``python benchmarks/crowd.py FOLLOWERS SECONDS`` prints what one call was, as JSON.
"""

import ctypes
import fcntl
import json
import multiprocessing
import os
import random
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from store_wire import Ask, Life, Loop, add, compare_set, greet, set_value, wait

from step37_flickr8k.cluster.codec import read, text_of
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.progress import Progress, ProgressTracker, State
from step37_flickr8k.cluster.protocol import actions as act
from step37_flickr8k.cluster.protocol.call import Facts
from step37_flickr8k.cluster.protocol.follower import Follower, FollowerState
from step37_flickr8k.cluster.protocol.keys import Keys, Timeouts
from step37_flickr8k.cluster.protocol.messages import Message, RankReport
from step37_flickr8k.cluster.share import share
from step37_flickr8k.cluster.stores import job_group

__all__ = ["Crowd", "barrier", "crowd", "enter_own_network", "free_port"]

# What no rank writes
_NO_VALUE = b"\0"

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # of unshare(2)
_SET_FLAGS, _UP = 0x8914, 1  # of netdevice(7)

_context = multiprocessing.get_context("forkserver")


@dataclass
class Counts:
    """What some ranks came to, by the machine's own monotonic clock."""

    knew: float = 0.0  # when the last one knew the outcome
    ended: int = 0
    requests: Mapping[int, int] = field(default_factory=dict)  # by second


# --- what one rank does ---


def following(
    rank: int, size: int, run: str, counts: Counts, on_following: Callable[[], None]
) -> Life:
    """Follow rank 0 as the machine that ships wants it; ``on_following`` is called once."""
    facts = Facts(
        rank=rank,
        size=size,
        host=f"node{rank // 8}",
        keys=Keys("job", "0.0"),
        timeouts=Timeouts(),
        run=run,
    )
    yield from greet(rank)
    machine = Follower(facts, time.monotonic())
    steps = machine.steps()
    action = next(steps)
    follows = False
    try:
        while True:
            answer = yield from _answer(action, facts)
            machine.now = time.monotonic()
            action = steps.send(answer)
            if machine.state is FollowerState.FOLLOWING and not follows:
                follows = True
                on_following()
            elif machine.state is FollowerState.CONFIRMING:
                counts.knew = machine.now
    except StopIteration as end:
        counts.ended += end.value.verdict.failure is None


def store_barrier(rank: int, size: int, counts: Counts, on_following: Callable[[], None]) -> Life:
    """Wait for all ranks as ``torch.distributed``'s store-based barrier does: count, then wait."""
    yield from greet(rank)
    if int.from_bytes((yield add("barrier", 1)) or b"", "little") == size:
        yield set_value("barrier/last", "1")
    on_following()
    yield from wait("barrier/last", time.monotonic() + Timeouts().arrival)
    counts.knew = time.monotonic()
    counts.ended += 1


def _answer(action: act.Action, facts: Facts) -> Generator[Ask | float, Any, Any]:
    """Return what a follower's action comes to, as `step37_flickr8k.cluster.requests` does it."""
    answer: Any = None
    match action:
        case act.Pause(until):
            yield until
        case act.Await(key, until):
            answer = yield from wait(key, until)
        case act.Load(key, kind):
            stands = yield compare_set(key, _NO_VALUE, _NO_VALUE)
            answer = None if stands == _NO_VALUE else read(stands.decode(), kind)
        case act.Save(key, value):
            yield set_value(key, value if isinstance(value, str) else text_of(value))
        case act.SaveOnce(key, value):
            kind = RankReport if isinstance(value, RankReport) else Message
            text = text_of(value).encode()
            stands = yield compare_set(key, b"", text)
            answer = None if stands == text else read(stands.decode(), kind)
        case act.Add(key, amount):
            yield compare_set(key, _NO_VALUE, _NO_VALUE)
            answer = int.from_bytes((yield add(key, amount)), "little")
        case act.Confirm():
            answer = RankReport(ok=True, host=facts.host)
        case act.Connect() | act.Show() | act.Searching() | act.FindResult():
            pass
        case _:
            raise TypeError(f"no action of a follower: {action}")
    return answer


# --- processes ---


@dataclass(frozen=True)
class Crowd:
    """What a call with many followers came to: seconds, and requests of a follower."""

    succeeded: int
    met: float  # from rank 0's start until all follow it
    knew: float  # from the end of the work until the last follower knows of it
    left: float  # from the end of the work until rank 0 has all reports and leaves
    a_second: float  # while they wait
    in_all: float


def crowd(followers: int, seconds: float) -> Crowd:
    """Have rank 0 work for some seconds with this many followers, over one real store."""
    size, port, there = followers + 1, free_port(), _context.Value("i", 0)
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "leader")
        leader = _context.Process(target=_lead, args=(size, port, there, seconds, out))
        leader.start()
        _wait_for(port)
        counts = _finished(_in_two_processes(_follow, size, port, there, Path(directory)))
        leader.join()
        times = json.loads(out.read_text())
    requests = Counter[int]()
    for count in counts:
        requests.update(count.requests)
    # Whole seconds in which all followers waited
    waited = range(int(times["met"]) + 2, int(times["worked"]))
    return Crowd(
        succeeded=sum(count.ended for count in counts),
        met=times["met"] - times["began"],
        knew=max(count.knew for count in counts) - times["worked"],
        left=times["left"] - times["worked"],
        a_second=sum(requests[second] for second in waited) / max(len(waited), 1) / followers,
        in_all=requests.total() / followers,
    )


def barrier(followers: int) -> float:
    """Return the seconds from the last rank's arrival in torch's store barrier to its last end."""
    import torch.distributed as dist  # noqa: PLC0415 - the processes above import it on their own

    server = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    there = _context.Value("i", 0)
    with tempfile.TemporaryDirectory() as directory:
        parts = _in_two_processes(_meet, followers + 1, server.port, there, Path(directory))
        while there.value < followers:
            time.sleep(0.01)
        time.sleep(1)
        start = time.monotonic()
        server.add("barrier", 1)
        server.set("barrier/last", "1")
        counts = _finished(parts)
    return max(count.knew for count in counts) - start


def enter_own_network() -> None:
    """Go on in a network namespace with nothing but a loopback device, where that is allowed.

    torch's store asks the resolver for the name of each client that connects, in its only thread: a
    name server that isn't reached takes 5 s a client. Here there is none to ask. To be called
    before any thread is started.
    """
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    if unshare(_NEW_NETWORK) and unshare(_NEW_USER | _NEW_NETWORK):
        sys.stderr.write(f"no network of its own: {os.strerror(ctypes.get_errno())}\n")
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        fcntl.ioctl(device, _SET_FLAGS, struct.pack("16sH14x", b"lo", _UP))


def free_port() -> int:
    """Return a free port below the ephemeral ones: there an early client may connect to itself."""
    for port in random.sample(range(15000, 30000), 100):
        with suppress(OSError), socket.create_server(("", port)):
            return port
    raise OSError("no port is free")


def _lead(size: int, port: int, there: Any, seconds: float, out: Path) -> None:
    """Lead a call until all followers have been there for some seconds; write when it ended."""
    group = job_group(World(rank=0, size=size, master_addr="127.0.0.1", master_port=port))
    times = {"began": time.monotonic()}

    def work(progress: ProgressTracker) -> dict[str, Any]:
        while there.value < size - 1:
            progress.report(Progress(State.WAITING_FOR_LEASE, "the other ranks arrive"))
            time.sleep(0.05)
        times["met"] = time.monotonic()
        time.sleep(seconds)
        times["worked"] = time.monotonic()
        return {}

    share(group, work)
    times["left"] = time.monotonic()
    out.write_text(json.dumps(times))


def _follow(ranks: range, size: int, port: int, there: Any, out: Path) -> None:
    """Be some of the followers; write what they came to."""
    counts, run = Counts(), f"run without an id of {size} ranks"
    lives = [following(rank, size, run, counts, partial(_count, there)) for rank in ranks]
    _play(lives, port, counts, out)


def _meet(ranks: range, size: int, port: int, there: Any, out: Path) -> None:
    """Be some of the ranks in torch's own barrier over a store; write what they came to."""
    counts = Counts()
    lives = [store_barrier(rank, size, counts, partial(_count, there)) for rank in ranks]
    _play(lives, port, counts, out)


def _play(lives: Sequence[Life], port: int, counts: Counts, out: Path) -> None:
    loop = Loop(port)
    loop.run(lives)
    counts.requests = loop.requests
    out.write_text(json.dumps(vars(counts)))


def _count(there: Any) -> None:
    with there.get_lock():
        there.value += 1


def _in_two_processes(
    target: Callable[..., None], size: int, port: int, there: Any, directory: Path
) -> dict[Path, Any]:
    """Start two processes, each with half of the ranks but 0; return them by what they write."""
    middle = (size + 1) // 2
    parts = {}
    for ranks in (range(1, middle), range(middle, size)):
        out = directory / f"from-{ranks.start}"
        parts[out] = _context.Process(target=target, args=(ranks, size, port, there, out))
        parts[out].start()
    return parts


def _finished(parts: dict[Path, Any]) -> list[Counts]:
    for process in parts.values():
        process.join()
    found = [json.loads(out.read_text()) for out in parts]
    for counts in found:
        counts["requests"] = {int(second): n for second, n in counts["requests"].items()}
    return [Counts(**counts) for counts in found]


def _wait_for(port: int) -> None:
    """Return once something listens on a port."""
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)


if __name__ == "__main__":
    enter_own_network()
    print(json.dumps(asdict(crowd(int(sys.argv[1]), float(sys.argv[2])))))
