"""How long until all ranks know rank 0's outcome, failure or death, and a bare barrier.

``make bench-barrier``. Real processes over the real store; times on a shared machine vary, so
compare within a run. All ranks read one monotonic clock, since they are on one machine.
"""

import argparse
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import crowd
from crowd import enter_own_network, free_port

from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.progress import Progress, ProgressTracker, State
from step37_flickr8k.cluster.protocol.keys import Timeouts
from step37_flickr8k.cluster.share import Group, share
from step37_flickr8k.cluster.stores import job_group
from step37_flickr8k.errors import RankZeroLost

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch.distributed", "step37_flickr8k.cluster.stores"])

HEARTBEAT = 2.0
WORK = 2.0  # s


class Counting:
    """A store that counts its requests."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.count = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        self.count += 1
        method: Callable[..., Any] = getattr(self._store, name)
        return method


def rank_of_a_share(rank: int, size: int, port: int, out: str, ending: str, seconds: float) -> None:
    group = job_group(World(rank=rank, size=size, master_addr="127.0.0.1", master_port=port))
    stores: list[Counting] = []

    def connect(within: float) -> Any:
        stores.append(Counting(group.connect(within)))
        Path(out).with_name(f"ready.{rank}").touch()
        return stores[-1]

    def work(progress: ProgressTracker) -> dict[str, Any]:
        # Starting and connecting is not what is measured
        while len(list(Path(out).parent.glob("ready.*"))) < size:
            progress.report(Progress(State.WAITING_FOR_LEASE, "the other ranks start"))
            time.sleep(0.1)
        for number in range(int(seconds * 10)):
            progress.report(Progress(State.FETCHING, files=number))
            time.sleep(0.1)
        Path(f"{out}.end").write_text(str(time.monotonic()))
        if ending == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        if ending == "failure":
            raise RuntimeError("as asked")
        return {}

    counted = Group(rank=rank, size=size, connect=connect, reconnects=group.reconnects)
    start = time.monotonic()
    with suppress(RuntimeError, RankZeroLost):
        share(
            counted,
            work,
            timeouts=Timeouts(arrival=120, heartbeat=HEARTBEAT if ending == "death" else 30.0),
        )
    now = time.monotonic()
    Path(f"{out}.{rank}").write_text(json.dumps([now, sum(s.count for s in stores), now - start]))


def rank_of_a_barrier(rank: int, size: int, port: int, out: str) -> None:
    import torch.distributed as dist  # noqa: PLC0415 - forked with it imported

    method = f"tcp://127.0.0.1:{port}"
    dist.init_process_group(
        "gloo", init_method=method, rank=rank, world_size=size, timeout=timedelta(seconds=120)
    )
    dist.barrier()
    if rank == 0:
        time.sleep(WORK)
        Path(f"{out}.end").write_text(str(time.monotonic()))
    dist.barrier()
    Path(f"{out}.{rank}").write_text(json.dumps([time.monotonic(), 0, 0]))
    dist.destroy_process_group()


def last_return(target: Callable[..., None], size: int, *more: Any) -> float | None:
    """Return the seconds from rank 0's end to the last rank's return; None if they didn't start."""
    with tempfile.TemporaryDirectory() as directory:
        out, port = f"{directory}/rank", free_port()
        processes = [
            _context.Process(target=target, args=(rank, size, port, out, *more))
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(180)
            process.kill()
        times: list[float] = [
            json.loads(path.read_text())[0] for path in Path(directory).glob("rank.[0-9]*")
        ]
        expected = size - 1 if "death" in more else size
        if len(times) < expected:
            return None
        return max(times) - float(Path(f"{out}.end").read_text())


def requests_per_second(seconds: float) -> float:
    """Return a follower's requests per second in one long call with the default heartbeat."""
    with tempfile.TemporaryDirectory() as directory:
        arguments = (2, free_port(), f"{directory}/rank", "success", seconds)
        processes = [
            _context.Process(target=rank_of_a_share, args=(rank, *arguments)) for rank in range(2)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        _, count, took = json.loads(Path(f"{directory}/rank.1").read_text())
        return float(count) / float(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[4, 16, 64])
    parser.add_argument("--followers", type=int, nargs="*", default=[64, 1000, 10000])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long they wait")
    arguments = parser.parse_args()
    enter_own_network()
    print("seconds from rank 0's outcome, or death, to the last rank's return")
    print(f"{'ranks':>6} {'outcome':>9} {'failure':>9} {'death':>9} {'bare barrier':>13}")
    for size in arguments.sizes:
        row = [
            last_return(rank_of_a_share, size, ending, WORK)
            for ending in ("success", "failure", "death")
        ]
        row.append(last_return(rank_of_a_barrier, size))
        shown = [f"{value:.3f}" if value is not None else "failed" for value in row]
        print(f"{size:>6} {shown[0]:>9} {shown[1]:>9} {shown[2]:>9} {shown[3]:>13}", flush=True)
    print(
        "death: SIGKILL, found after the heartbeat timeout, "
        f"{HEARTBEAT:g} s here, since the last heartbeat\n"
    )
    rate = requests_per_second(60)
    print(
        "store requests of a follower in a call of 60 s, arriving and leaving included: "
        f"{rate:.2f} a second; waiting: 2 a heartbeat"
    )
    print()
    print("followers in two processes, over one real store, at the default timeouts")
    print(
        f"{'':>10} {'all met':>8} {'last knows':>10} {'rank 0':>8} {'requests of a follower':>30} "
        f"{'store':>8}"
    )
    print(
        f"{'followers':>10} {'rank 0':>8} {'outcome':>10} {'ends':>8} {'a second, waiting':>18} "
        f"{'in all':>11} {'barrier':>8}"
    )
    for followers in arguments.followers:
        found = crowd.crowd(followers, arguments.seconds)
        print(
            f"{found.succeeded:>10,} {found.met:>7.2f}s {found.knew:>9.2f}s {found.left:>7.2f}s "
            f"{found.a_second:>18.3f} {found.in_all:>11.1f} {crowd.barrier(followers):>7.2f}s",
            flush=True,
        )


if __name__ == "__main__":
    main()
