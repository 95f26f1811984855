"""The stores: that of the caller's process group, or a bare TCPStore; the only user of torch."""

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

from step37_flickr8k.cluster.call import Store
from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.share import CallNumbers, Group
from step37_flickr8k.errors import InvalidWorld

__all__ = ["barrier", "current_group", "is_rank_zero", "job_group"]

# File descriptors of the serving process other than one connection per rank
_OTHER_FILES = 1024
# torch's limit for one request; `_TorchStore.wait` passes its own
_REQUEST_TIMEOUT = timedelta(seconds=60)
# Seconds for one attempt to connect, and between attempts. The first ones are short, since rank 0
# often starts last.
_CONNECT_TIMEOUT = 5.0
_PAUSES = (0.05, 0.1, 0.2, 0.5)
_LAST_PAUSE = 1.0
# What no rank writes, and how bytes that are no text are read and written back
_NO_VALUE, _ANY_BYTES = "\0", "surrogateescape"

# Calls so far by store, so that each call has keys of its own. Weak: a store that is kept alive
# here would keep its port, which may be wanted again.
_calls: WeakKeyDictionary[Any, CallNumbers] = WeakKeyDictionary()


def current_group() -> Group | None:
    """Return the group of the caller's initialized process group, any backend; None without one."""
    # Whoever has initialized a process group has imported this module
    dist = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_available() or not dist.is_initialized():
        return None
    # torch has no public name for the store of the default process group
    store = dist.distributed_c10d._get_default_store()  # noqa: SLF001
    return Group(
        rank=dist.get_rank(),
        size=dist.get_world_size(),
        connect=lambda _: _TorchStore(store),
        name="process-group",
        expects_all=False,
        calls=_calls.setdefault(store, CallNumbers()),
    )


def is_rank_zero() -> bool:
    """Return whether this is global rank 0; True without a process group."""
    group = current_group()
    return group is None or group.rank == 0


def barrier() -> None:
    """Wait for all ranks of the process group, if there is one; raises what the barrier raises."""
    if current_group() is not None:
        sys.modules["torch.distributed"].barrier()


def job_group(world: World, secret: bytes = b"") -> Group:
    """Return the group of a job's ranks, over a bare TCPStore that rank 0 serves.

    Under torchrun its agent serves the store. This is no process group: gloo fails at
    initialization when one rank is missing, and a restarted rank could not join again. ``secret``
    signs what the ranks write.
    """
    if world.size == 1:
        return Group.alone()
    host, port = world.rendezvous()
    _torch_distributed()
    serves = world.rank == 0 and not world.agent_store

    def connect(seconds: float) -> Store:
        if serves:
            return _TorchStore(_serve_store(port, world.size))
        return _TorchStore(_connect_to_store(host, port, seconds))

    return Group(
        rank=world.rank,
        size=world.size,
        connect=connect,
        host=world.host,
        run=f"run {world.run_id or 'without an id'} of {world.size} ranks",
        reconnects=not serves,
        secret=secret,
    )


def _serve_store(port: int, size: int) -> Any:
    """Return a store that serves ``size`` ranks from this process; raises ConnectionError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = size + _OTHER_FILES
    if soft < wanted:
        raised = min(wanted, hard) if hard >= 0 else wanted
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    dist = _torch_distributed()
    try:
        # A process group that this process initializes later, at the same address, shares it
        return dist.TCPStore(
            "localhost",
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=_REQUEST_TIMEOUT,
            multi_tenant=True,
        )
    except dist.DistNetworkError as error:
        raise ConnectionError(
            f"rank 0 can't serve the store on port {port} ({_first_line(error)}). "
            "Set MASTER_PORT to a free port, the same on all ranks."
        ) from error


def _connect_to_store(host: str, port: int, seconds: float) -> Any:
    """Return a client of rank 0's store within this time; raises ConnectionError after it.

    A name that doesn't resolve yet and a refused connection are retried.
    """
    dist = _torch_distributed()
    deadline = time.monotonic() + seconds
    for pause in itertools.chain(_PAUSES, itertools.repeat(_LAST_PAUSE)):
        try:
            # torch's own client would retry, too, but print a stack trace for each try
            with socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT) as probe:
                # On an ephemeral port without a server a client can connect to itself
                if probe.getsockname() == probe.getpeername():
                    raise ConnectionError("connected to itself")
            return dist.TCPStore(
                host, port, is_master=False, wait_for_workers=False, timeout=_REQUEST_TIMEOUT
            )
        # A name that doesn't resolve is an OSError, too
        except (OSError, dist.DistNetworkError) as error:
            if time.monotonic() + pause > deadline:
                raise ConnectionError(f"no store at {host}:{port}: {error}") from error
            time.sleep(pause)
    raise AssertionError("unreachable")


def _torch_distributed() -> Any:
    """Return torch.distributed; raises `InvalidWorld` where it can't be imported."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
            # It costs seconds and hundreds of files, so it is imported only where it is needed
            import torch.distributed as dist  # noqa: PLC0415
    except ImportError as error:
        raise InvalidWorld(
            f"several ranks need torch, which can't be imported ({error}). "
            "Install it, or run one rank."
        ) from error
    return dist


class _TorchStore:
    """torch's store as a `Store`; a lost connection is a ConnectionError."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def set(self, key: str, value: str) -> None:
        with _network_errors():
            self._store.set(key, value.encode(errors=_ANY_BYTES))

    def get(self, key: str) -> str | None:
        # torch's own `get` waits for a key that somebody deletes, and holds up this rank.
        text = self.compare_set(key, _NO_VALUE, _NO_VALUE)
        return None if text == _NO_VALUE else text

    def wait(self, key: str, seconds: float) -> bool:
        try:
            with _network_errors():
                self._store.wait([key], timedelta(seconds=seconds))
        # torch raises this class for "not within that time"
        except sys.modules["torch.distributed"].DistStoreError:
            return False
        return True

    def add(self, key: str, amount: int) -> int:
        with _network_errors():
            return int(self._store.add(key, amount))

    def compare_set(self, key: str, expected: str, desired: str) -> str:
        with _network_errors():
            # Others may have written what is no UTF-8
            texts = (text.encode(errors=_ANY_BYTES) for text in (expected, desired))
            text: str = self._store.compare_set(key, *texts).decode(errors=_ANY_BYTES)
            return text


@contextlib.contextmanager
def _network_errors() -> Iterator[None]:
    """Turn torch's errors for a lost connection, and for no store, into ConnectionError.

    Who isn't a store of torch may announce a value that is longer than all memory.
    """
    try:
        yield
    except sys.modules["torch.distributed"].DistNetworkError as error:
        raise ConnectionError(_first_line(error)) from error
    except (MemoryError, ValueError) as error:
        raise ConnectionError(f"what answers is no store ({type(error).__name__})") from error


def _first_line(error: Exception) -> str:
    """Return what torch says, without its stack trace."""
    return str(error).splitlines()[0]
