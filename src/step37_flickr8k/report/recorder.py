"""What a run's progress was over time, for its report."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from step37_flickr8k.cluster.progress import Progress
from step37_flickr8k.report.progress import Display

__all__ = ["Recorder"]

_MOST_POINTS = 240


class Recorder:
    """Takes in what is told of the progress, hands it on, and keeps seconds by state and a few points of files and bytes."""

    def __init__(self, display: Display, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin now, in the state "starting"."""
        self._display = display
        self._clock = clock
        self._begun = self._since = clock()
        self._every = 0.0
        self._latest = Progress()
        self._retries: Mapping[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._points: list[tuple[float, str, int, int]] = []

    def __call__(self, progress: Progress) -> None:
        """Take in how far the work is."""
        now = self._add_seconds()
        self._latest = progress
        self._retries = progress.retries or self._retries
        if progress.of_bytes is not None:
            files, size = progress.files or 0, progress.bytes or 0
            self._keep((round(now - self._begun, 3), self.state, files, size))
        self._display(progress)

    def close(self) -> None:
        """End the last state and the display."""
        self._add_seconds()
        self._display.close()

    def _add_seconds(self) -> float:
        """Add the time since the last change to its state; return the time now."""
        now = self._clock()
        self._seconds[self.state] = self._seconds.get(self.state, 0.0) + now - self._since
        self._since = now
        return now

    @property
    def state(self) -> str:
        """The state now, without what changes in it: "waiting for quota", not for how long."""
        return self._latest.state.value

    def value(self) -> dict[str, Any]:
        """Give what a report holds of it; what came so far is of use where the run has failed."""
        columns = ("seconds", "state", "files", "bytes")
        timeline = [dict(zip(columns, point, strict=True)) for point in self._points]
        return {
            "files": timeline[-1]["files"] if timeline else 0,
            "bytes": timeline[-1]["bytes"] if timeline else 0,
            "retries": dict(self._retries),
            "seconds": {state: round(spent, 3) for state, spent in self._seconds.items()},
            "timeline": timeline,
            "total_seconds": round(self._clock() - self._begun, 3),
        }

    def _keep(self, point: tuple[float, str, int, int]) -> None:
        """Keep a point; when there are too many, every other one goes, and from then on half as many are taken in."""
        last = self._points[-1] if self._points else None
        if last and point[0] < last[0] + self._every and point[1] == last[1]:
            return
        self._points.append(point)
        if len(self._points) > _MOST_POINTS:
            self._every = 2 * (point[0] - self._points[0][0]) / len(self._points)
            self._points = [*self._points[:-1:2], point]
