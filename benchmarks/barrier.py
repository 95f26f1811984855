"""How long until all ranks know rank 0's outcome, failure or death, and a bare barrier.

``make bench-barrier``. Real processes over the real store; times on a shared machine vary, so
compare within a run. All ranks read one monotonic clock, since they are on one machine.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

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


def free_port() -> int:
    """Return a free port below the ephemeral ones: there an early client may connect to itself."""
    for port in random.sample(range(15000, 30000), 100):
        with suppress(OSError), socket.create_server(("", port)):
            return port
    raise OSError("no port is free")


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


def wake(clients: int) -> float:
    """Return the seconds until all clients that block in one real store have read a message."""
    import torch.distributed as dist  # noqa: PLC0415 - the other parts have it in their own processes

    server = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    returned: list[float] = []
    ready = threading.Semaphore(0)

    def client() -> None:
        store = dist.TCPStore("localhost", server.port, is_master=False, wait_for_workers=False)
        ready.release()
        store.wait(["message"], timedelta(seconds=120))
        store.get("message")
        returned.append(time.monotonic())

    threading.stack_size(256 << 10)
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for _ in threads:
        ready.acquire()
    time.sleep(1)
    start = time.monotonic()
    server.set("message", "x" * 200)
    for thread in threads:
        thread.join()
    return max(returned) - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--clients", type=int, nargs="+", default=[1000, 4000])
    arguments = parser.parse_args()
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
    for ranks in (10, 1000, 10000):
        per_second = 2 * (ranks - 1) / Timeouts().heartbeat_interval
        print(f"{ranks:>6} ranks waiting: {per_second:,.0f} requests a second (computed)")
    print()
    spent: dict[int, float] = {}
    for clients in arguments.clients:
        spent[clients] = wake(clients)
        print(
            f"{clients:>6} clients of one store wake and read a message in {spent[clients]:.3f} s",
            flush=True,
        )
    most = max(spent)
    print(
        f" 10000 clients: {spent[most] * 10000 / most:.3f} s (computed from {most}, in proportion)"
    )


if __name__ == "__main__":
    main()
