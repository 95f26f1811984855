"""What a process that waits for the lease says: for whom, how far that is, and when it ends."""

from step37_flickr8k.cache.lease import Wait
from step37_flickr8k.report.progress import how_far

__all__ = ["waiting_for"]


def waiting_for(wait: Wait) -> str:
    """Return what a wait for the lease waits for.

    For example ``another process on n1 (pid 7) is fetching: 310 of 1,200 files; if it falls silent,
    this one takes over in 118 s``.
    """
    left = f"this one takes over in {wait.left:.0f} s"
    holder = wait.holder
    if holder is None:
        return f"which is empty or half written; if that stays so, {left}"
    run = f", run {holder.run}" if holder.run else ""
    progress = how_far(holder.progress) if holder.progress else "starting"
    who = f"another process on {holder.host} (pid {holder.pid}{run})"
    return f"{who} is {progress}; if it falls silent, {left}"
