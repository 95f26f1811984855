"""Progress as text: the same wording in logs, the progress bar, the status and the report."""

import time
from dataclasses import replace

from step37_flickr8k.cluster.progress import Progress
from step37_flickr8k.dataset.words import amount, amount_of

__all__ = ["Rate", "count_rows", "counted", "how_far", "how_far_within"]


def how_far(progress: Progress) -> str:
    """Return state, files, bytes and retries.

    For example ``fetching: 310 of 6,000 files, 8.4 of 164.2 MB, 2 retries``.
    """
    parts = []
    if progress.of_files is not None:
        parts.append(f"{progress.files:,} of {progress.of_files:,} files")
    if progress.bytes is not None and progress.of_bytes is not None:
        parts.append(amount_of(progress.bytes, progress.of_bytes))
    if progress.retries:
        count = sum(progress.retries.values())
        parts.append(f"{count:,} {'retry' if count == 1 else 'retries'}")
    return f"{progress.text}: {', '.join(parts)}" if parts else progress.text


def how_far_within(progress: Progress, rate: list[str], width: int) -> str:
    """Return `how_far` and the rate in at most ``width`` columns if possible.

    Retries are dropped first, then bytes, the rate, and the time left. The files stay.
    """
    without_retries = replace(progress, retries={})
    without_bytes = replace(without_retries, of_bytes=None)
    shorter = (
        (progress, rate),
        (without_retries, rate),
        (without_bytes, rate),
        (without_bytes, rate[1:]),
    )
    for each, more in shorter:
        if len(text := ", ".join([how_far(each), *more])) <= width:
            return text
    return how_far(without_bytes)


def count_rows(ready: int, left_out: int) -> str:
    """Return usable rows, and those left out because their images can't be decoded.

    For example ``28 rows, 12 left out``.
    """
    return counted(ready, "row") + (f", {left_out:,} left out" if left_out else "")


def counted(number: int, thing: str) -> str:
    """Return a number of things: ``1 rank``, ``1,200 ranks``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


class Rate:
    """Measures bytes per second since the download began, and estimates the time left."""

    def __init__(self) -> None:
        """Measure from the first progress with bytes."""
        self._start: tuple[float, float] | None = None

    def __call__(self, progress: Progress) -> list[str]:
        """Return rate and time left as texts; empty before they are known."""
        if progress.bytes is None or progress.of_bytes is None:
            return []
        now = time.monotonic()
        # Fewer bytes than at the start: another download began
        if self._start is None or progress.bytes < self._start[1]:
            self._start = now, progress.bytes
            return []
        since, before = self._start
        rate = (progress.bytes - before) / max(now - since, 0.001)
        rest = progress.of_bytes - progress.bytes
        # A wait says itself how long it takes, and the rate of before isn't the one behind it.
        known = rate > 0 and not progress.state.is_waiting
        left = [f"{_clock(rest / rate)} left"] if known else []
        return [f"{amount(rate)}/s", *left]


def _clock(seconds: float) -> str:
    """Return a time as ``42 s``, ``3:05 min`` or ``2:10:00 h``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"
    return f"{minutes}:{rest:02} min" if minutes else f"{rest} s"
