"""How progress is shown while a command runs: as log lines, as a progress bar, or not at all."""

import logging
import sys
import time
from typing import TYPE_CHECKING, Protocol

from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.progress import Progress, State
from step37_flickr8k.report.progress import Rate, how_far
from step37_flickr8k.settings import WarmupSettings

if TYPE_CHECKING:
    from step37_flickr8k.report.bar import Bar

__all__ = ["CLEAR", "Display", "display", "shows_bar"]

log = logging.getLogger("step37_flickr8k")

# Seconds between two lines of progress
_LINE_INTERVAL = 5.0
# Written before each log line on a terminal. It clears the bar that rank 0, which may be another
# process, has drawn there; the bar is drawn again on the next line. Both are one write, which
# terminals don't mix with another process's.
CLEAR = "\r\x1b[2K"


class Display(Protocol):
    """What shows progress to people while the work runs."""

    def __call__(self, progress: Progress) -> None:
        """Show how far the work is."""

    def close(self) -> None:
        """End the display; a bar is gone then."""


def display(settings: WarmupSettings, world: World) -> Display:
    """Return a bar for rank 0 on a terminal, otherwise log lines, or nothing if switched off."""
    if settings.progress == "off":
        return _Nothing()
    bar = _bar(settings) if world.rank == 0 else None
    if bar is None:
        return _Lines()
    bar.start()
    return bar


def shows_bar(settings: WarmupSettings) -> bool:
    """Return whether rank 0 of this job shows a bar on the terminal of stderr."""
    return _bar(settings) is not None


def _bar(settings: WarmupSettings) -> "Bar | None":
    """Return a bar that isn't started yet, or None without a terminal that can show one."""
    wanted = settings.progress == "on" or (settings.progress == "auto" and sys.stderr.isatty())
    if not wanted or settings.log_format != "text":
        return None
    # Rich is slow to import, and used on terminals only
    from step37_flickr8k.report.bar import bar_on  # noqa: PLC0415

    return bar_on(sys.stderr, force=settings.progress == "on")


class _Nothing:
    def __call__(self, progress: Progress) -> None:
        pass

    def close(self) -> None:
        pass


class _Lines:
    """Log lines: one when the state changes, otherwise one every few seconds."""

    def __init__(self) -> None:
        self._rate = Rate()
        self._due = 0.0
        self._state: State | None = None

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        rate = self._rate(progress)
        if now < self._due and progress.state is self._state:
            return
        self._state, self._due = progress.state, now + _LINE_INTERVAL
        log.info("%s", ", ".join([how_far(progress), *rate]))

    def close(self) -> None:
        pass
