"""Progress while a warmup runs, in the words that logs, the bar, the status and the report share."""

import logging
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from step37_flickr8k.cluster.launcher import World
from step37_flickr8k.cluster.progress import Progress, State
from step37_flickr8k.settings import WarmupSettings

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["CLEAR", "Display", "count_rows", "counted", "display", "how_far", "terminal"]

log = logging.getLogger("step37_flickr8k")

_LINE_EVERY = 5.0  # s between two lines of progress
_DRAWN = 4  # times a second
_LEAST_BAR = 5  # columns that the bar takes, and the gap before it
# Columns that stay free for the terminal's own "^C": from a full line it would go to the next, and
# the bar would stay
_ECHO = 3
# Before each line of a log on a terminal: takes away the bar that rank 0, perhaps another process,
# has drawn there; it comes
# again in the line below. A line and this are one write, which terminals don't mix with another's.
CLEAR = "\r\x1b[2K"


class Display(Protocol):
    """What shows progress to people while the work runs."""

    def __call__(self, progress: Progress) -> None:
        """Show how far the work is."""

    def close(self) -> None:
        """End the display; a bar is gone then."""


def terminal(settings: WarmupSettings) -> "Console | None":
    """Give the terminal on which people look on, or are said to; None without one, or where it takes no controls."""
    wanted = settings.progress == "on" or (settings.progress == "auto" and sys.stderr.isatty())
    if not wanted or settings.log_format != "text":
        return None
    from rich.console import Console  # noqa: PLC0415 - only on a terminal

    console = Console(file=sys.stderr, force_terminal=True if settings.progress == "on" else None)
    return None if console.is_dumb_terminal else console


def how_far(progress: Progress) -> str:
    """Give state, files, bytes and what was tried again: ``fetching: 310 of 6,000 files, 8.4 of 164.2 MB, 2 tried again``."""
    parts = []
    if progress.of_files is not None:
        parts.append(f"{progress.files:,} of {progress.of_files:,} files")
    if progress.bytes is not None and progress.of_bytes is not None:
        parts.append(f"{progress.bytes / 1e6:,.1f} of {progress.of_bytes / 1e6:,.1f} MB")
    if progress.retries:
        parts.append(f"{sum(progress.retries.values()):,} tried again")
    return f"{progress.text}: {', '.join(parts)}" if parts else progress.text


def count_rows(ready: int, left_out: int) -> str:
    """Give rows that can be used, and how many can't since their images can't be decoded: ``28 rows, 12 left out``."""
    return counted(ready, "row") + (f", {left_out:,} left out" if left_out else "")


def counted(number: int, thing: str) -> str:
    """Give a number of things: ``1 rank``, ``1,200 ranks``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def display(settings: WarmupSettings, world: World) -> Display:
    """Show progress: a bar for rank 0 on a terminal, else a line every few seconds."""
    if settings.progress == "off":
        return _Nothing()
    console = terminal(settings) if world.rank == 0 else None
    return _Bar(console) if console else _Lines()


class _Nothing:
    def __call__(self, progress: Progress) -> None:
        pass

    def close(self) -> None:
        pass


class _Lines:
    """Progress as log lines, few enough for a log that is kept."""

    def __init__(self) -> None:
        self._rate = _Rate()
        self._due = 0.0
        self._state: State | None = None

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        rate = self._rate(progress)
        if now < self._due and progress.state is self._state:
            return
        self._state, self._due = progress.state, now + _LINE_EVERY
        log.info("%s", ", ".join([how_far(progress), *rate]))

    def close(self) -> None:
        pass


class _Rate:
    """Bytes a second since the fetch began, and so the time left, in words."""

    def __init__(self) -> None:
        self._start: tuple[float, float] | None = None

    def __call__(self, progress: Progress) -> list[str]:
        if progress.bytes is None or progress.of_bytes is None:
            return []
        now = time.monotonic()
        if self._start is None or progress.bytes < self._start[1]:
            self._start = now, progress.bytes
            return []  # at the first look nothing is known of it
        since, before = self._start
        rate = (progress.bytes - before) / max(now - since, 0.001)
        rest = progress.of_bytes - progress.bytes
        left = [f"{_clock(rest / rate)} left"] if rate > 0 else []
        return [f"{rate / 1e6:.1f} MB/s", *left]


def _clock(seconds: float) -> str:
    """Write a time as ``42 s``, ``3:05 min`` or ``2:10:00 h``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"
    return f"{minutes}:{rest:02} min" if minutes else f"{rest} s"


def _fitting(progress: Progress, rate: list[str], width: int) -> str:
    """Give the words that fit: where there is little room, the rate and the time left matter most."""
    without_retries = replace(progress, retries={})
    without_bytes = replace(without_retries, of_bytes=None)
    for each in (progress, without_retries, without_bytes):
        if len(said := ", ".join([how_far(each), *rate])) <= width:
            return said
    return ", ".join([how_far(replace(without_bytes, of_files=None)), *rate])


class _Bar:
    """Progress as one line at the end of a terminal, which is gone when the run is over."""

    def __init__(self, console: "Console") -> None:
        from rich import progress, table  # noqa: PLC0415

        self._rate = _Rate()
        # one line, whatever it says: of more than one, lines of other ranks would tear all but the
        # last
        words = progress.TextColumn(
            "{task.description}",
            markup=False,
            table_column=table.Column(no_wrap=True, overflow="ellipsis"),
        )
        self._bar = progress.BarColumn(bar_width=1)
        ways: dict[str, Any] = {
            "redirect_stdout": False,
            "redirect_stderr": False,
            "refresh_per_second": _DRAWN,
        }
        self._progress = progress.Progress(
            words, self._bar, console=console, transient=True, **ways
        )
        self._task = self._progress.add_task("starting", total=None)
        self._progress.start()

    def __call__(self, progress: Progress) -> None:
        total, completed = progress.of_bytes, progress.bytes
        if completed is None:
            total, completed = progress.of_files, progress.files or 0
        width = self._progress.console.width - _ECHO
        said = _fitting(progress, self._rate(progress), width - _LEAST_BAR)
        self._bar.bar_width = width - len(said) - 1
        self._progress.update(self._task, description=said, total=total, completed=completed)

    def close(self) -> None:
        self._progress.stop()
