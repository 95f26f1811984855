"""The event loop of a fetch: it runs in a thread of its own, its tasks side by side, with a word of progress beside them."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from step37_flickr8k.cluster.progress import Progress, State
from step37_flickr8k.hub.http import HttpClient
from step37_flickr8k.signals import awaited

__all__ = ["Report", "beside", "in_own_loop", "tell"]

_T = TypeVar("_T")
_TICK = 0.5  # s between two reports of progress
# Takes in how far a fetch is
Report = Callable[[Progress], None]


def in_own_loop(main: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine in a thread of its own: callers may have a loop, and the main thread stays free for signals."""
    result: Future[_T] = Future()
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    async def supervised() -> _T:
        task = asyncio.ensure_future(main())
        started.set_result((asyncio.get_running_loop(), task))
        return await task

    def run() -> None:
        try:
            result.set_result(asyncio.run(supervised()))
        except BaseException as error:  # noqa: BLE001 - handed to the calling thread as it is
            result.set_exception(error)

    thread = threading.Thread(target=run, name="step37-fetch", daemon=True)
    thread.start()
    try:
        return awaited(result)
    except BaseException:
        if not result.done():  # this thread was interrupted, not the fetch
            loop, task = started.result()
            loop.call_soon_threadsafe(task.cancel)
            thread.join(2.0)
        raise


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
