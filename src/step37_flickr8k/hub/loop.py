"""Coroutines for callers that have no event loop, or one of their own that mustn't be blocked."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from step37_flickr8k.threads import awaited

__all__ = ["InLoop", "run_in_loop"]

_T = TypeVar("_T")
_CANCEL_TIMEOUT = 2.0  # s


def run_in_loop(main: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine in the event loop of a thread of its own and return its result.

    The calling thread stays free for signals; an exception there cancels the coroutine.
    """
    return InLoop(main).result()


class InLoop(Generic[_T]):
    """A coroutine that runs in the event loop of a thread of its own."""

    def __init__(self, main: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        """Start it."""
        self._main = main
        self._result: Future[_T] = Future()
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[_T]]] = Future()
        self._thread = threading.Thread(target=self._run, name="step37-loop", daemon=True)
        self._thread.start()

    def result(self) -> _T:
        """Wait for its end; return its result or raise its error."""
        try:
            return awaited(self._result)
        except BaseException:
            # The calling thread was interrupted, not the coroutine.
            if not self._result.done():
                loop, task = self._started.result()
                loop.call_soon_threadsafe(task.cancel)
                self._thread.join(_CANCEL_TIMEOUT)
            raise

    def _run(self) -> None:
        try:
            self._result.set_result(asyncio.run(self._supervised()))
        except BaseException as error:  # noqa: BLE001 - handed to the calling thread as it is
            self._result.set_exception(error)

    async def _supervised(self) -> _T:
        task = asyncio.ensure_future(self._main())
        self._started.set_result((asyncio.get_running_loop(), task))
        return await task
