"""Where the ranks of a group meet: the store of the caller's process group, or one of our own; the only torch user."""

import contextlib
import itertools
import resource
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.protocol import Store
from step37_flickr8k.cluster.share import Group
from step37_flickr8k.errors import InvalidWorld

__all__ = ["barrier", "current_group", "is_rank_zero", "job_group"]

# By store; weak: it may hold a port that is wanted again
_calls: WeakKeyDictionary[Any, Iterator[int]] = WeakKeyDictionary()


def current_group() -> Group | None:
    """Give the group of the caller's initialised process group, any backend; None without one."""
    dist = sys.modules.get("torch.distributed")  # whoever initialised a group has imported it
    if dist is None or not dist.is_available() or not dist.is_initialized():
        return None
    store = dist.distributed_c10d._get_default_store()  # noqa: SLF001 - torch has no public name for it
    return Group(
        rank=dist.get_rank(),
        size=dist.get_world_size(),
        connect=lambda _: _TorchStore(store),
        name="process-group",
        calls=_calls.setdefault(store, itertools.count()),
    )


def is_rank_zero() -> bool:
    """Tell whether this is global rank 0; True without a process group."""
    group = current_group()
    return group is None or group.rank == 0


def barrier() -> None:
    """Wait for all ranks of the process group, if there is one; an error of the barrier is the caller's."""
    if current_group() is not None:
        sys.modules["torch.distributed"].barrier()


def job_group(world: World) -> Group:
    """Give the group of a job's ranks over a bare TCPStore that rank 0 serves (under torchrun: its agent).

    Not a process group: gloo fails at initialisation when one rank is missing, and a restarted rank
    could not join again.
    """
    if world.size == 1:
        return Group.alone()
    host, port = world.rendezvous()
    _torch_distributed()
    serves = world.rank == 0 and not world.agent_store

    def connect(seconds: float) -> Store:
        return (
            _TorchStore(_serve_store(port, world.size))
            if serves
            else _TorchStore(_reach_store(host, port, seconds))
        )

    return Group(
        rank=world.rank, size=world.size, connect=connect, host=world.host, reconnects=not serves
    )


def _serve_store(port: int, size: int) -> Any:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = size + 1024  # a connection per rank, and what this process has open anyway
    if soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (min(wanted, hard) if hard >= 0 else wanted, hard)
        )
    dist = _torch_distributed()
    try:
        return dist.TCPStore(
            "localhost", port, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60)
        )
    except dist.DistNetworkError as error:
        reason = str(error).splitlines()[0]
        raise ConnectionError(
            f"can't serve the store on port {port}: {reason}: set MASTER_PORT to a free one"
        ) from error


def _reach_store(host: str, port: int, seconds: float) -> Any:
    """Connect to rank 0's store; a name that doesn't resolve yet and a refused connection are tried again."""
    dist = _torch_distributed()
    deadline = time.monotonic() + seconds
    for pause in itertools.chain((0.05, 0.1, 0.2, 0.5), itertools.repeat(1.0)):
        try:
            # torch's own client would try again, too, but print a stack trace for each try
            with socket.create_connection((host, port), timeout=5.0) as probe:
                # Of an ephemeral port that nobody listens on yet
                if probe.getsockname() == probe.getpeername():
                    raise ConnectionError("connected to itself")
            return dist.TCPStore(
                host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=60)
            )
        except (OSError, dist.DistNetworkError) as error:  # socket.gaierror is an OSError
            if time.monotonic() + pause > deadline:
                raise ConnectionError(f"no store at {host}:{port}: {error}") from error
            time.sleep(pause)
    raise AssertionError("unreachable")


def _torch_distributed() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
            import torch.distributed as dist  # noqa: PLC0415 - seconds and hundreds of files: only where it is needed
    except ImportError as error:
        raise InvalidWorld(
            f"several ranks need torch, which can't be imported ({error}): install it, or run one rank"
        ) from error
    return dist


class _TorchStore:
    """torch's store behind our `Store`: a wait that runs out is False, a lost connection a ConnectionError."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def set(self, key: str, value: str) -> None:
        with _network_errors():
            self._store.set(key, value)

    def get(self, key: str) -> str:
        with _network_errors():
            text: str = self._store.get(key).decode()
            return text

    def check(self, key: str) -> bool:
        with _network_errors():
            return bool(self._store.check([key]))

    def wait(self, key: str, seconds: float) -> bool:
        try:
            with _network_errors():
                self._store.wait([key], timedelta(seconds=seconds))
        # Torch's word for "not within that time"
        except sys.modules["torch.distributed"].DistStoreError:
            return False
        return True

    def add(self, key: str, amount: int) -> int:
        with _network_errors():
            return int(self._store.add(key, amount))

    def compare_set(self, key: str, expected: str, desired: str) -> str:
        with _network_errors():
            text: str = self._store.compare_set(key, expected, desired).decode()
            return text


@contextlib.contextmanager
def _network_errors() -> Iterator[None]:
    try:
        yield
    except sys.modules["torch.distributed"].DistNetworkError as error:
        raise ConnectionError(str(error).splitlines()[0]) from error
