"""The event loop of a fetch: it runs in a thread of its own, its tasks side by side, with a word of progress beside them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from step37_flickr8k.cluster.progress import Progress, State
from step37_flickr8k.hub.client import HttpClient

__all__ = ["Report", "beside", "tell"]

_TICK = 0.5  # s between two reports of progress
# Takes in how far a fetch is
Report = Callable[[Progress], None]


async def beside(ticker: Coroutine[Any, Any, None], tasks: list[Coroutine[Any, Any, None]]) -> None:
    """Run the tasks with a ticker beside them; what one of them raises ends all."""
    tick = asyncio.ensure_future(ticker)
    started = [asyncio.ensure_future(task) for task in tasks]
    work = asyncio.gather(*started)
    both: set[asyncio.Future[Any]] = {tick, work}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (tick, *started):
            task.cancel()
        ended = await asyncio.gather(work, tick, return_exceptions=True)
        await asyncio.gather(*started, return_exceptions=True)
    for error in ended:
        if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):
            raise error


async def tell(report: Report, client: HttpClient, *, files: int, size: int) -> None:
    """Tell, for as long as it is let, what has come of so many files and bytes, or that the quota is waited for."""
    statistics = client.statistics

    def say(state: State, detail: str = "") -> None:
        report(
            Progress(
                state,
                detail,
                retries=dict(statistics.retries),
                files=statistics.files,
                of_files=files,
                bytes=statistics.bytes,
                of_bytes=size,
            )
        )

    try:
        while True:
            if (seconds := client.closed_for) > 0:
                say(State.WAITING_FOR_RATE_LIMIT, f"{seconds:.0f} s")
            else:
                say(State.FETCHING)
            await asyncio.sleep(_TICK)
    finally:
        say(State.FETCHING)  # what came to the last
