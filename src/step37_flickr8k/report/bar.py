"""The progress bar: one line at the end of a terminal, gone when the run is over."""

from typing import TextIO

from rich import progress as rich_progress
from rich.console import Console
from rich.table import Column

from step37_flickr8k.cluster.progress import Progress
from step37_flickr8k.report.progress import Rate, how_far_within
from step37_flickr8k.visible import visible

__all__ = ["Bar", "bar_on"]

_REFRESH_PER_SECOND = 4
# Columns of the shortest bar and the space before it
_SHORTEST_BAR = 5
# Columns that stay free for the "^C" that a terminal echoes. On a full line the echo would wrap to
# the next one, and the bar would not be cleared.
_ECHO = 3


def bar_on(stream: TextIO, *, force: bool) -> "Bar | None":
    """Return a bar, not yet started; None if the terminal can't move the cursor.

    ``force`` takes the stream for a terminal even if it isn't one.
    """
    console = Console(file=stream, force_terminal=True if force else None)
    return None if console.is_dumb_terminal else Bar(console)


class Bar:
    """A display: text, rate and bar in one line."""

    def __init__(self, console: Console) -> None:
        """Prepare the bar; `start` draws it."""
        self._rate = Rate()
        # Never more than one line: log lines of other ranks would tear apart all but the last
        text = rich_progress.TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis"),
        )
        self._bar = rich_progress.BarColumn(bar_width=1)
        self._progress = rich_progress.Progress(
            text,
            self._bar,
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            refresh_per_second=_REFRESH_PER_SECOND,
        )
        self._task = self._progress.add_task("starting", total=None)

    def start(self) -> None:
        """Draw the bar and keep it drawn until `close`."""
        self._progress.start()

    def __call__(self, progress: Progress) -> None:
        """Show how far the work is."""
        total, completed = progress.of_bytes, progress.bytes
        if completed is None:
            total, completed = progress.of_files, progress.files or 0
        width = self._progress.console.width - _ECHO
        text = how_far_within(progress, self._rate(progress), width - _SHORTEST_BAR)
        self._bar.bar_width = width - len(text) - 1
        self._progress.update(
            self._task, description=visible(text), total=total, completed=completed
        )

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()
