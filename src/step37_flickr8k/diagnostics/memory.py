"""The memory that this process and its children may use."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

__all__ = ["memory_limit"]


def memory_limit() -> tuple[int, str]:
    """Give the bytes of memory that this process and its children may use at most, and what says so."""
    limits = [(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "this node has")]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append((soft, "ulimit -v allows"))
    limits += [(limit, "its control group allows") for limit in _control_group_limits()]
    return min(limits)


def _control_group_limits() -> Iterator[int]:
    """Give the memory limits of this process's control group and of those above it, of both versions."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers not in {"", "memory"}:
                continue
            mount = Path("/sys/fs/cgroup") / controllers
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            own = mount / group.lstrip("/")
            # in a container the name may be that outside of it, and the mount the group itself
            for place in (own, *(above for above in own.parents if above.is_relative_to(mount))):
                with contextlib.suppress(OSError, ValueError):  # not there, or "max"
                    yield int((place / name).read_text(encoding="ascii"))
