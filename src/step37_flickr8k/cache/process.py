"""Which process of this machine a lease speaks of, and whether it still exists."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict

__all__ = ["Process", "exists", "this_process"]

_PROC = Path("/proc")
# What the state of a process that has ended says: it is a zombie, or just being removed
_ENDED = {"Z", "X", "x"}


@dataclass(frozen=True)
class Process:
    """With a process id it is one process of all that there are on all machines.

    ``machine`` names the boot of the kernel, the pid namespace and the time namespace: a process id
    means something only there, and so does ``started``, in clock ticks since the boot. No clock
    that can be set counts.
    """

    __pydantic_config__: ClassVar = ConfigDict(strict=True)

    machine: str
    started: int


def this_process() -> Process | None:
    """Return this very process; None where the system doesn't say enough."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # A /proc of another pid namespace would speak of other processes
        if int(str((_PROC / "self").readlink())) == os.getpid():
            boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            _, started = _state_and_start(os.getpid())
            machine = f"{boot} {(_PROC / 'self/ns/pid').readlink()} {_time_namespace()}"
            return Process(machine.strip(), started)
    return None


def exists(pid: int, process: Process | None) -> bool | None:
    """Return whether a process exists, or None if this machine can't say.

    It can't for a process of another boot or namespace, nor for one of another user that ``/proc``
    hides.
    """
    own = this_process()
    if process is None or own is None or process.machine != own.machine or pid <= 0:
        return None
    with contextlib.suppress(PermissionError, OverflowError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    with contextlib.suppress(OSError, ValueError, IndexError):
        state, started = _state_and_start(pid)
        return state not in _ENDED and started == process.started
    return None


def _time_namespace() -> str:
    # Linux has them since 5.6
    with contextlib.suppress(FileNotFoundError):
        return str((_PROC / "self/ns/time").readlink())
    return ""


def _state_and_start(pid: int) -> tuple[str, int]:
    """Return fields 3 and 22 of ``stat``, counted from the name, which may hold anything."""
    fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    return fields[0].decode("ascii"), int(fields[19])
