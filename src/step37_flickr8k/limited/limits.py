"""The limits that a process sets itself: once at its start, and again for each input."""

import contextlib
import ctypes
import fcntl
import resource
from collections.abc import Iterator
from pathlib import Path

from step37_flickr8k.limited.budget import Budget

__all__ = ["Allowance", "allow", "confine"]

_PR_SET_NO_NEW_PRIVS = 38
_PAGE = resource.getpagesize()
_STATUS = Path("/proc/self/statm")


def confine() -> None:
    """Let this process and its children never gain privileges, nor leave their memory on a disk."""
    # A kernel, or a sandbox, may not know it
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def allow(memory: int | None, seconds: int) -> bool:
    """Let this process take so many further bytes, or any number, and seconds of processor time.

    Beyond the bytes an allocation fails, beyond the seconds the process is killed by SIGXCPU.
    Returns whether it may have all of these bytes, whatever limit it was started with.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    _set(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)
    if memory is None:
        return _set(resource.RLIMIT_AS, resource.RLIM_INFINITY)
    pages = int(_STATUS.read_text(encoding="ascii").partition(" ")[0])
    return _set(resource.RLIMIT_AS, pages * _PAGE + memory)


def _set(limit: int, soft: int) -> bool:
    """Set a soft limit, to the hard one at most, which can't be raised; return whether it is it."""
    _, hard = resource.getrlimit(limit)
    whole = hard == resource.RLIM_INFINITY or 0 <= soft <= hard
    resource.setrlimit(limit, (soft if whole else hard, hard))
    return whole


class Allowance:
    """What one of several workers may take for one input after the other.

    A lock on a file that they share lets one of them at a time take much; the kernel releases it
    when its holder dies.
    """

    def __init__(self, budget: Budget, seconds: int, shared: int) -> None:
        """Keep within a budget; ``shared`` is the descriptor of the file for the lock."""
        self.budget = budget
        self.seconds = seconds
        self._shared = shared

    @contextlib.contextmanager
    def small(self) -> Iterator[None]:
        """Have what any worker may take at any time."""
        allow(self.budget.small, self.seconds)
        yield

    @contextlib.contextmanager
    def large(self) -> Iterator[bool]:
        """Have much, once no other worker has; yields whether it is as much as the budget says."""
        fcntl.lockf(self._shared, fcntl.LOCK_EX)
        try:
            yield allow(self.budget.large, self.seconds)
        finally:
            allow(self.budget.small, self.seconds)
            fcntl.lockf(self._shared, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def for_bytes(self, weight: int) -> Iterator[None]:
        """Have what is enough for something of this weight, if any is."""
        with self.small() if weight <= self.budget.small else self.large():
            yield

    def free(self) -> None:
        """Have no limit of memory, for what the job itself sends."""
        allow(None, self.seconds)
