"""The memory that this process and its children may use."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

__all__ = ["memory_limit"]


def memory_limit() -> tuple[int, str]:
    """Return the most memory that this process and its children may use, and what sets that limit.

    The limit is in bytes; its source is the beginning of a sentence: "ulimit -v allows".
    """
    limits = [(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "this node has")]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append((soft, "ulimit -v allows"))
    limits += [(limit, "its control group allows") for limit in _control_group_limits()]
    return min(limits)


def _control_group_limits() -> Iterator[int]:
    """Yield the limits of this process's control group and its parents, in versions 1 and 2."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers not in {"", "memory"}:
                continue
            mount = Path("/sys/fs/cgroup") / controllers
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            own = mount / group.lstrip("/")
            parents = (parent for parent in own.parents if parent.is_relative_to(mount))
            # In a container the group may have its name outside of it, and the mount be the group
            # itself: then ``own`` doesn't exist. A limit may be "max".
            for directory in (own, *parents):
                with contextlib.suppress(OSError, ValueError):
                    yield int((directory / name).read_text(encoding="ascii"))
