"""The work of a rank, in a thread that the rank doesn't depend on.

What blocks in the kernel, in a file system that doesn't answer for example, can't be ended from
outside. So the calling thread only waits: it stays free for signals, and when the work stands still
it raises `Stalled` and leaves the thread behind.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from step37_flickr8k.cluster.progress import ProgressTracker, no_progress
from step37_flickr8k.errors import NotVisible, Stalled
from step37_flickr8k.threads import Detached

__all__ = ["found_within", "perform", "within"]

_T = TypeVar("_T")
# Seconds between two checks whether the work has moved or was stopped
_CHECK = 0.5
# Seconds for stopped work to end by itself, so that it leaves nothing unfinished
_LAST_WORDS = 5.0


def perform(
    work: Callable[[ProgressTracker], _T], progress: ProgressTracker, *, stall: float = 0.0
) -> _T:
    """Return what the work returns; it runs in a thread of its own.

    Work that is stopped, or interrupted by a signal, has a few seconds to end by itself. If it
    doesn't, its thread is left behind: the next report of its progress ends it.

    Raises:
        Stalled: the work made no progress for ``stall`` seconds; 0 stands for no limit.
        BaseException: what the work raised, or what `ProgressTracker.stop` was given.
    """
    running = Detached(partial(work, progress), "step37-work")
    try:
        while not running.done_within(_CHECK):
            _check(progress, stall)
    except BaseException as reason:
        progress.stop(reason)
        running.interrupt(reason)
        running.done_within(_LAST_WORDS)
        raise
    return running.result()


def _check(progress: ProgressTracker, stall: float) -> None:
    """Raise why nobody waits for the work any more."""
    if 0 < stall < progress.idle():
        progress.stop(Stalled(no_progress(stall, progress.snapshot())))
    if progress.stopped is not None:
        raise progress.stopped


def within(seconds: float, call: Callable[[], _T]) -> _T:
    """Return what a call returns; raises `NotVisible` if it takes longer, and leaves it behind."""
    running = Detached(call, "step37-confirm")
    try:
        ended = running.done_within(seconds)
    except BaseException as reason:
        running.interrupt(reason)
        raise
    if ended:
        return running.result()
    late = NotVisible(
        f"this rank could not read what rank 0 has made within {seconds:g} s:"
        " its file system doesn't answer; check the mount on this node"
    )
    running.interrupt(late)
    raise late


def found_within(seconds: float, find: Callable[[], _T | None]) -> _T | None:
    """Return what is found; None, too, if that takes longer."""
    with contextlib.suppress(NotVisible):
        return within(seconds, find)
    return None
