"""How a run's progress went over time, for its report."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from step37_flickr8k.cluster.progress import Progress
from step37_flickr8k.report.display import Display
from step37_flickr8k.report.model import Point

__all__ = ["Recorder", "Recording"]

# Points that a timeline may have: enough for a plot that is 800 pixels wide
_MAXIMUM_POINTS = 240


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What a recorder has kept: files and bytes downloaded so far, and seconds by state."""

    files: int
    bytes: int
    seconds: Mapping[str, float]
    timeline: Sequence[Point]
    total_seconds: float


class Recorder:
    """Records the progress of a run and passes it on to a display.

    It keeps the seconds that each state took, and a timeline of files and bytes.
    """

    def __init__(self, display: Display, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin now, in the state "starting"."""
        self._display = display
        self._clock = clock
        self._begun = self._since = clock()
        # Seconds between two points of the timeline
        self._interval = 0.0
        self._latest = Progress()
        self._seconds: dict[str, float] = {}
        self._points: list[Point] = []

    def __call__(self, progress: Progress) -> None:
        """Record how far the work is."""
        now = self._add_seconds()
        self._latest = progress
        if progress.of_bytes is not None:
            self._add_point(
                Point(
                    seconds=round(now - self._begun, 3),
                    state=self.state,
                    files=progress.files or 0,
                    bytes=progress.bytes or 0,
                )
            )
        self._display(progress)

    def close(self) -> None:
        """End the last state and close the display."""
        self._add_seconds()
        self._display.close()

    @property
    def state(self) -> str:
        """The state now, without its detail: "waiting for quota", not for how long."""
        return self._latest.state.value

    def value(self) -> Recording:
        """Return what was recorded so far."""
        last = self._points[-1] if self._points else None
        return Recording(
            files=last.files if last else 0,
            bytes=last.bytes if last else 0,
            seconds={state: round(spent, 3) for state, spent in self._seconds.items()},
            timeline=tuple(self._points),
            total_seconds=round(self._clock() - self._begun, 3),
        )

    def _add_seconds(self) -> float:
        """Add the time since the last change to its state; return the time now."""
        now = self._clock()
        self._seconds[self.state] = self._seconds.get(self.state, 0.0) + now - self._since
        self._since = now
        return now

    def _add_point(self, point: Point) -> None:
        """Keep a point if it is due.

        With too many points every other one is dropped, and the interval between points doubles.
        """
        last = self._points[-1] if self._points else None
        if last and point.seconds < last.seconds + self._interval and point.state == last.state:
            return
        self._points.append(point)
        if len(self._points) > _MAXIMUM_POINTS:
            spent = point.seconds - self._points[0].seconds
            self._interval = 2 * spent / len(self._points)
            self._points = [*self._points[:-1:2], point]
