"""The tasks of a download in its event loop, and the reports of its progress meanwhile."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from step37_flickr8k.cluster.progress import Progress, State
from step37_flickr8k.hub.client import HttpClient

__all__ = ["Report", "Reporter", "run_tasks"]

_INTERVAL = 0.5  # s between two reports
# Takes in the progress of a download; what it raises ends the download.
Report = Callable[[Progress], None]


async def run_tasks(reporter: "Reporter", tasks: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run tasks side by side and report progress meanwhile; what one of them raises ends all."""
    reports = asyncio.ensure_future(reporter.run())
    started = [asyncio.ensure_future(task) for task in tasks]
    work = asyncio.gather(*started)
    both: set[asyncio.Future[Any]] = {reports, work}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (reports, *started):
            task.cancel()
        ended = await asyncio.gather(work, reports, return_exceptions=True)
        await asyncio.gather(*started, return_exceptions=True)
    for error in ended:
        if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):
            raise error


@dataclass(frozen=True)
class Reporter:
    """Reports how many of ``files`` files and ``size`` bytes a client has received."""

    report: Report
    client: HttpClient
    files: int
    size: int

    async def run(self) -> None:
        """Report until cancelled, and once more at the end."""
        try:
            while True:
                if (seconds := self.client.closed_for) > 0:
                    self._report(State.WAITING_FOR_RATE_LIMIT, f"{seconds:.0f} s")
                else:
                    self._report(State.FETCHING)
                await asyncio.sleep(_INTERVAL)
        finally:
            self._report(State.FETCHING)

    def _report(self, state: State, detail: str = "") -> None:
        statistics = self.client.statistics
        self.report(
            Progress(
                state,
                detail,
                retries=dict(statistics.retries),
                files=statistics.files,
                of_files=self.files,
                bytes=statistics.bytes,
                of_bytes=self.size,
            )
        )
