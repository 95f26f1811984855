"""Progress while a warmup runs, in the words that logs, the bar, the status and the report share."""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from step37_flickr8k.settings import WarmupSettings
from step37_flickr8k.world import World

__all__ = ["display", "how_far"]

log = logging.getLogger("step37_flickr8k")

_LINE_EVERY = 5.0  # s between two lines of progress


def how_far(told: Mapping[str, Any]) -> str:
    """Give state, files and bytes in words: ``fetching: 310 of 6,000 files, 8.4 of 164.2 MB``."""
    parts = []
    if "of_files" in told:
        parts.append(f"{told['files']:,} of {told['of_files']:,} files")
    if "of_bytes" in told:
        parts.append(f"{told['bytes'] / 1e6:,.1f} of {told['of_bytes'] / 1e6:,.1f} MB")
    return f"{told['state']}: {', '.join(parts)}" if parts else str(told["state"])


def display(settings: WarmupSettings, world: World) -> Callable[[dict[str, Any]], None]:
    """Show progress: a bar for rank 0 on a terminal, else a line every few seconds."""
    terminal = settings.progress == "on" or (settings.progress == "auto" and sys.stderr.isatty())
    if settings.progress == "off":
        return lambda _: None
    return _Bar(sys.stderr) if terminal and world.rank == 0 and settings.log_format == "text" else _Lines()


class _Lines:
    """Progress as log lines, few enough for a log that is kept."""

    def __init__(self) -> None:
        self._start: tuple[float, float] | None = None
        self._due = 0.0
        self._state = ""

    def __call__(self, told: dict[str, Any]) -> None:
        now = time.monotonic()
        changed = told["state"].partition(",")[0] != self._state
        if told["state"] == "done" or (now < self._due and not changed):
            return
        self._state, self._due = told["state"].partition(",")[0], now + _LINE_EVERY
        log.info("%s", self._line(told, now))

    def _line(self, told: dict[str, Any], now: float) -> str:
        if "of_bytes" not in told:
            return how_far(told)
        if self._start is None:
            self._start = now, told["bytes"]
        since, before = self._start
        rate = (told["bytes"] - before) / max(now - since, 0.001)
        left = f", {(told['of_bytes'] - told['bytes']) / rate:.0f} s left" if rate > 0 else ""
        return f"{how_far(told)}, {rate / 1e6:.1f} MB/s{left}"


class _Bar:
    """Progress as a bar on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        from rich import console, progress  # noqa: PLC0415 - only on a terminal

        columns = (
            *(progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TextColumn("{task.fields[files]}")),
            *(progress.DownloadColumn(), progress.TransferSpeedColumn(), progress.TimeRemainingColumn()),
        )
        self._progress = progress.Progress(*columns, console=console.Console(file=stream), transient=True)
        self._task = self._progress.add_task("starting", total=None, files="")
        self._progress.start()

    def __call__(self, told: dict[str, Any]) -> None:
        if told["state"] == "done":
            self._progress.stop()
            return
        files = f"{told['files']:,}/{told['of_files']:,} files" if "of_files" in told else ""
        total, completed = told.get("of_bytes"), told.get("bytes", 0)
        self._progress.update(self._task, description=told["state"], total=total, completed=completed, files=files)
